"""Rollback journals, kept in memory without the page bodies.

SQLite writes the old image of each page it is about to change to a journal, and reads it back for
ROLLBACK. Recovery never needs the journal, because an uncommitted transaction is not visible in the
branch log. The body of a record equals the page in the transaction's snapshot. So a long journal
drops the bodies and keeps 16 bytes per page, and a transaction of any size fits in memory. Page 1
is the exception: its change counter in SQLite's cache may differ from the snapshot's (always with
locking_mode=EXCLUSIVE), and a record with a wrong checksum would end a rollback without an error.
So the body of page 1 is kept as written.

A journal is a sequence of appended writes. The newest writes are kept unchanged, because most
transactions are small and this is the hot path; from time to time they are packed.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Protocol

import apsw

from graft_vfs.pager.interrupts import raise_behind
from graft_vfs.pager.sqlite_errors import as_io_error

_NUMBER_BYTES = 4
_RECENT_BYTES_MAX = 400_000
_SUPER_JOURNAL_END_BYTES = 16
"""The end of a journal that names a super-journal: its length, a checksum, a magic number."""


class Database(Protocol):
    """The database file of a journal. `journal` is that of its current transaction."""

    journal: Journal | None

    def end_synced(self) -> None:
        """Commit or drop a transaction that SQLite has synced, before the next one begins."""
        ...

    def raise_later(self, error: BaseException) -> None:
        """Raise what interrupted the end of the journal: see `Journal._end_surely`."""
        ...


class Journal:
    """One journal file of one connection.

    Owner: the connection's pager. Thread rule: as the connection. `read_page` returns a page of the
    transaction's snapshot; without it, bodies are kept. Without `database`, the journal may belong
    to any of several connections.
    """

    __slots__ = (
        "_bodies",
        "_counted",
        "_database",
        "_is_whole",
        "_pack_at",
        "_packed",
        "_packed_size",
        "_page_bytes",
        "_read_page",
        "_recent",
        "is_played",
    )

    def __init__(
        self,
        read_page: Callable[[int], bytes] | None,
        database: Database | None = None,
    ) -> None:
        self._read_page = read_page
        self._database = database
        self._is_whole = read_page is None
        self._recent: list[tuple[int, bytes]] = []
        self._counted = 0  # The number of recent writes that are packed.
        self._pack_at = _RECENT_BYTES_MAX
        self._packed = bytearray()
        self._packed_size = 0
        self._bodies = array("Q")
        self._page_bytes = 0
        self.is_played = False
        """True once a rollback of the transaction has read the journal, or tried to."""

    def xWrite(self, data: bytes, offset: int) -> None:
        """Append to the journal; a write at 0 begins a new journal, and zeros there end it."""
        try:
            if not offset and data[0]:
                self._begin()
            self._recent.append((offset, data))
            if offset > self._pack_at:
                self._pack()
        except BaseException as error:
            if offset or any(data):
                raise
            self._end_surely(error)

    def _begin(self) -> None:
        """Assign the journal to a transaction that begins to write to it."""
        database = self._database
        if database is not None:
            if database.journal is not None:
                database.end_synced()
            database.journal = self
        self.is_played = False
        if self._recent:
            self._end()  # With PERSIST, SQLite restarts at the beginning.

    def xTruncate(self, size: int) -> None:
        """Truncate the journal to `size` bytes; 0 ends it."""
        if size:
            whole = self._read(size, 0)
            self._end()
            self._recent.append((0, whole))
            return
        self._recent, self._counted = [], 0
        if self._packed_size:
            try:
                self._begin_packed()
            except BaseException as error:  # noqa: BLE001 - it is raised later
                self._end_surely(error)

    def _end_surely(self, error: BaseException) -> None:
        """End the journal even if a signal handler raises; the exception is raised afterwards.

        SQLite ends the journals of a transaction over several databases once it is committed. It
        ignores errors at that point, and would not notify this database of the commit.
        """
        while True:
            try:
                self._end()
                raise_later = self._database.raise_later if self._database else raise_behind
                raise_later(error)
                return
            except BaseException as another:  # noqa: BLE001 - it is raised later
                error = another

    def _end(self) -> None:
        self._recent, self._counted = [], 0
        if self._packed_size:
            self._begin_packed()

    def _begin_packed(self) -> None:
        """Reset the packed part to empty."""
        self._replace_packed(bytearray(), is_whole=self._read_page is None)

    def _replace_packed(self, packed: bytearray, *, is_whole: bool) -> None:
        new = packed, len(packed), array("Q"), is_whole
        # No calls in between, where Ctrl-C could leave it incomplete.
        self._packed, self._packed_size, self._bodies, self._is_whole = new
        self._pack_at = _RECENT_BYTES_MAX

    def is_hot(self) -> bool:
        """Return True if the journal was not ended; an ended one is empty or begins with zeros."""
        return any(self._read(8, 0))

    def xFileSize(self) -> int:
        """Return the file's size as SQLite expects it."""
        self._pack()
        return self._packed_size

    def xRead(self, amount: int, offset: int) -> bytes:
        """Return up to `amount` bytes; a dropped body comes from the snapshot.

        Any failure to read is an I/O error; see `as_io_error`.

        A rollback first reads the last 16 bytes, which may name a super-journal. If that file no
        longer exists, as after the rollback of another database of the transaction, SQLite would
        treat the journal as left over from an old crash and not play it back. So the name is
        hidden.
        """
        try:
            if amount == _NUMBER_BYTES and offset == self.xFileSize() - _SUPER_JOURNAL_END_BYTES:
                self.is_played = True
                return bytes(amount)
            return self._read(amount, offset)
        except BaseException as error:
            self.is_played = True
            raise as_io_error(error) from error

    def _read(self, amount: int, offset: int) -> bytes:
        self._pack()
        return self._read_packed(amount, offset)

    def _read_packed(self, amount: int, offset: int) -> bytes:
        end = min(self._packed_size, offset + amount)
        parts = []
        while offset < end:
            number = bisect_right(self._bodies, offset) - 1
            body = self._bodies[number] if number >= 0 else 0
            if number >= 0 and offset < body + self._page_bytes:
                stop = min(end, body + self._page_bytes)
                parts.append(self._body(number)[offset - body : stop - body])
            else:
                stop = min([end, *self._bodies[number + 1 : number + 2]])
                first = offset - (number + 1) * self._page_bytes
                parts.append(bytes(self._packed[first : first + stop - offset]))
            offset = stop
        return b"".join(parts)

    def _body(self, number: int) -> bytes:
        """Return the dropped body with this 0-based number; the field before it names its page."""
        first = self._bodies[number] - number * self._page_bytes - _NUMBER_BYTES
        page = int.from_bytes(self._packed[first : first + _NUMBER_BYTES], "big")
        assert self._read_page is not None
        return self._read_page(page)

    def _pack(self) -> None:
        """Move the recent writes to the packed part, if possible without bodies.

        Ctrl-C may interrupt this anywhere: uncounted entries are dropped, and packed again.
        """
        while self._bodies and self._bodies[-1] >= self._packed_size:
            self._bodies.pop()
        del self._packed[self._packed_size - len(self._bodies) * self._page_bytes :]
        recent = self._recent
        for number in range(self._counted, len(recent)):
            offset, data = recent[number]
            if not offset:
                self._begin_packed()
            elif offset < self._packed_size:
                self._overwrite(data, offset)
                self._counted = number + 1
                continue
            gap = offset - self._packed_size
            if gap:  # The name of a super-journal starts at a new sector.
                self._packed += bytes(gap)
                self._packed_size = offset
            if len(data) < 512 or not self._drop(len(data), offset):
                self._packed += data
            self._packed_size, self._counted = self._packed_size + len(data), number + 1
        self._recent, self._counted = [], 0
        self._pack_at = self._packed_size + _RECENT_BYTES_MAX

    def _drop(self, length: int, offset: int) -> bool:
        """Drop a body of `length` bytes at `offset`; False if it must be kept."""
        if self._is_whole or not offset or self._page_bytes not in (0, length):
            return False
        page = int.from_bytes(self._packed[-_NUMBER_BYTES:], "big")
        if page in (0, 1, 0x4000_0000 // length + 1):
            return False  # The lock page's number marks the name of a super-journal.
        self._page_bytes = length
        self._bodies.append(offset)
        return True

    def _overwrite(self, data: bytes, offset: int) -> None:
        """Write at a position other than the end: keep all bytes until the journal is truncated."""
        whole = bytearray(self._read_packed(self._packed_size, 0))
        whole[offset : offset + len(data)] = data
        self._replace_packed(whole, is_whole=True)

    def xClose(self) -> None:
        """Do nothing: whether it was ended before it was closed must remain known."""

    def xFileControl(self, op: int, pointer: int) -> bool:  # noqa: ARG002
        """Support no file control."""
        return False

    # Constants without Python code: APSW cannot propagate exceptions from these two methods.
    xSectorSize = (512).__int__  # noqa: N815 - SQLite's name
    xDeviceCharacteristics = (0).__int__  # noqa: N815
    # No Python code that a signal could interrupt; recovery reads no journal.
    xSync: Any = callable  # noqa: N815

    def xLock(self, level: int) -> None:
        """Journals are not locked."""

    def xUnlock(self, level: int) -> None:
        """Journals are not locked."""

    def xCheckReservedLock(self) -> bool:
        """Journals are not locked."""
        return False


class SuperJournal(Journal):
    """The file that names the journals of a transaction over several databases.

    After a crash, a participating plain file would not find it on disk, and would treat its
    half-written transaction as committed. So such a transaction is refused.
    """

    __slots__ = ("_is_volume",)

    def __init__(self, is_volume: Callable[[str], bool]) -> None:
        super().__init__(None)
        self._is_volume = is_volume

    def xWrite(self, data: bytes, offset: int) -> None:
        """Record the name of one journal, which must be a volume's."""
        name = bytes(data).rstrip(b"\0").decode(errors="replace")
        if not self._is_volume(name):
            raise apsw.IOError(
                f"a transaction over a volume and the plain file {name.removesuffix('-journal')!r} "
                "would not survive a crash; set its journal_mode to WAL, or write to one of them "
                "at a time"
            )
        super().xWrite(data, offset)
