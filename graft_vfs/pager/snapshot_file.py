"""A file that shows one snapshot and refuses writes.

The other files of SQLite's pager inherit from it:

    SnapshotFile    always the same snapshot: `lsn=`, `as_of=`, SQL over snapshots
    TaggedFile      the newest snapshot of a tag's volume: read-only connections
    VolumeFile      the same, with write transactions

The class is chosen when SQLite opens a connection. SQLite's API determines the method names.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NoReturn

import apsw

from graft_vfs.advice import Audience
from graft_vfs.errors import ForkedProcessError, GraftError, ReadOnlyError, UsageError
from graft_vfs.local.mapping import View, forget_resident
from graft_vfs.pager.sqlite_errors import to_sqlite
from graft_vfs.pager.unread import empty_once
from graft_vfs.pages import PAGE_SIZES
from graft_vfs.sqlite_format.header import (
    HEADER_BYTES,
    PAGE_FORMAT,
    PROBE_BYTES,
    PROBE_OFFSET,
    PROBED,
    page_format,
)
from graft_vfs.view.remote_view import Located
from graft_vfs.volume.context import Opened
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.transaction import FULL, Transaction
from graft_vfs.volume.volume import Volume

# The last garbage collection closes a connection that is still open at interpreter exit. It may
# free APSW first, and SQLite would then call methods by freed names: a crash.
ctypes.pythonapi.Py_IncRef(ctypes.py_object(apsw))

NONE = apsw.SQLITE_LOCK_NONE
SHARED = apsw.SQLITE_LOCK_SHARED
RESERVED = apsw.SQLITE_LOCK_RESERVED
_MMAP_SIZE = apsw.SQLITE_FCNTL_MMAP_SIZE
PRAGMA = apsw.SQLITE_FCNTL_PRAGMA

_HEADER_BYTES_MAX = 65536
_READS_RESIDENT_MAX = 8192
"""Mapped pages are released after this many reads, so that a scan does not fill memory."""
_CHARACTERISTICS = (
    # Write order and journal names do not matter, because journals are never used for recovery.
    apsw.SQLITE_IOCAP_SAFE_APPEND
    | apsw.SQLITE_IOCAP_SEQUENTIAL
    # Prevents SQLite from writing adjacent pages together with a page.
    | apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE
    # Lets a connection in TRUNCATE or PERSIST mode keep its journal open between transactions.
    | apsw.SQLITE_IOCAP_UNDELETABLE_WHEN_OPEN
)

FORMATS = {size: page_format(size) for size in PAGE_SIZES}
"""The bytes of PAGE_FORMAT in page 1, by page size."""


def _refuse_in_child(*_: object) -> NoReturn:
    raise to_sqlite(
        ForkedProcessError(
            "this connection belongs to the parent process",
            next_step="open an engine and its connections after os.fork()",
        )
    )


class SnapshotFile:
    """One snapshot as SQLite's main database file.

    Owner: one SQLite pager. Thread rule: as its connection. The caller of SQLite keeps the snapshot
    pinned. Some attributes mirror the snapshot, so that reading a page costs two dictionary lookups
    and a slice.
    """

    # APSW looks up each method on the object first. So the object has a dictionary only while it
    # contains methods that replace those of the class.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_empty_page_size",
        "_end",
        "_is_plain",
        "_level",
        "_located",
        "_offset_of",
        "_on_close",
        "_on_pragma",
        "_page_size",
        "_pin",
        "_reads_left",
        "_unpin",
        "_view",
        "durability",
        "journal_mode",
        "snapshot",
        "tag",
        "volume",
    )

    read_only = True
    """Whether writes are refused."""
    holds_writer_lock = False
    """Whether other connections are currently unable to write."""
    transaction: Transaction | None = None
    """The file's transaction, under the writer lock."""

    def __init__(
        self,
        tag: str,
        volume: Volume,
        snapshot: Snapshot,
        *,
        on_pragma: Callable[[SnapshotFile, str, str | None], str | None],
        on_close: Callable[[SnapshotFile], None],
    ) -> None:
        self.tag = tag
        self.durability = FULL
        self.journal_mode = "delete"
        self._on_pragma = on_pragma
        self._on_close = on_close
        self._level = NONE
        # Page 1 is shown as in the snapshot.
        self._is_plain = True
        self._empty_page_size = _HEADER_BYTES_MAX
        # A separate method for the file's header, which SQLite reads when it opens the file.
        self._reads_left = _READS_RESIDENT_MAX + 1
        self.snapshot: Snapshot
        self._page_size: int
        self._end: int
        self._view: View
        self._offset_of: Callable[[int], int | None]
        self._located: Callable[[int], Located | None]
        self._use(volume)
        self._adopt(snapshot)

    def _use(self, volume: Volume) -> None:
        self.volume = volume
        self._pin, self._unpin = volume.pins.add, volume.pins.discard

    def _adopt(self, snapshot: Snapshot) -> None:
        """Show a snapshot."""
        self.snapshot = snapshot
        self._page_size = snapshot.page_size
        self._end = snapshot.end[0]
        self._view = snapshot.view
        self._offset_of = snapshot.branch.index.get
        self._located = snapshot.remote.located.get

    @property
    def opened(self) -> Opened:
        """The connection's volume with its tag: the operand of a verb."""
        return Opened(self.tag, self.volume)

    @property
    def in_transaction(self) -> bool:
        """Return True if SQLite currently holds a lock, and so a snapshot."""
        return self._level != NONE

    def follow_tag(self) -> None:
        """Show the tag's current volume; a fixed snapshot does not change."""

    def move_to(self, volume: Volume) -> None:
        """Show another volume in later transactions; a fixed snapshot does not change."""

    def set_exclusive(self, is_exclusive: bool) -> None:
        """Apply locking_mode; a reader does not block writers."""

    def prepare(self) -> str:
        """Show an empty file until the next unlock; only before the first read. See `unread`."""
        if self._reads_left < _READS_RESIDENT_MAX or self.in_transaction:
            raise UsageError(
                "a connection is prepared before its first read",
                next_step="omit it, or run it right after opening",
            )
        self._use(empty_once(self))
        self._adopt(self.volume.begin())
        return "The next read of the volume shows an empty database."

    def show(self, volume: Volume, snapshot: Snapshot) -> None:
        """Show the volume again after `prepare`."""
        self._use(volume)
        self._adopt(snapshot)

    # Reading ----------------------------------------------------------------------------------

    def xRead(self, amount: int, offset: int) -> bytes | memoryview:
        """Return `amount` bytes at `offset`: a page, or the part of page 1 that SQLite probes."""
        size = self._page_size
        self._reads_left -= 1
        if amount == size and offset and self._reads_left:
            page = offset // size + 1
            transaction = self.transaction
            if transaction is None or not transaction.has(page):
                at = self._offset_of(page)
                try:
                    if at is None:
                        located = self._located(page)
                        if located is not None:
                            view, at = located
                            return view[at : at + size]
                    elif 0 <= at < self._end:
                        return self._view[at : at + size]
                except GraftError as error:  # An unmapped view reads by calls.
                    raise to_sqlite(error) from error
        elif (
            offset == PROBE_OFFSET
            and amount == PROBE_BYTES
            and self._level == SHARED
            and self._is_plain
        ):
            try:
                return self.snapshot.probe()
            except GraftError as error:
                raise to_sqlite(error) from error
        return self._read(amount, offset)

    def _read(self, amount: int, offset: int) -> bytes | memoryview:
        try:
            if self._reads_left <= 0:
                self._reads_left = _READS_RESIDENT_MAX - 1
                self.snapshot.forget_resident()
                forget_resident(self.volume.branch_log.view)
            self._follow()
            if amount == HEADER_BYTES and not offset and self._level == NONE:
                return self._file_header()
            if (amount, offset) == (PROBE_BYTES, PROBE_OFFSET):
                return self._probe()
            page, start = divmod(offset, self._page_size or self._empty_page_size)
            image = self._image(page + 1)
            return image if len(image) == amount else image[start : start + amount]
        except GraftError as error:
            raise to_sqlite(error) from error

    def _follow(self) -> None:
        """Outside a lock, show the newest snapshot: SQLite reads a file when it opens it."""

    def _file_header(self) -> bytes:
        """Return the header that SQLite reads at open; SQLite uses only its page size.

        SQLite reads everything else from page 1 in its first transaction. So opening reads no page,
        and works even with damaged pages or an unreachable remote.
        """
        if not self.snapshot.page_count:
            return b""
        header = bytearray(HEADER_BYTES)
        header[PAGE_FORMAT] = FORMATS[self._page_size]
        return bytes(header)

    def _probe(self) -> bytes:
        """Return the bytes that SQLite uses to check whether its cache is valid."""
        return self._image(1)[PROBED]

    def _image(self, page: int) -> bytes:
        """Return a page as this connection sees it now; empty past the end."""
        return self.read_snapshot_page(page)

    def read_snapshot_page(self, page: int) -> bytes:
        """Return a page as it was before the transaction; empty past the end."""
        return self.snapshot.read(page) if page <= self.snapshot.page_count else b""

    def xFileSize(self) -> int:
        """Return the database's size in bytes in this view."""
        return self.snapshot.page_count * self._page_size

    # Locks ------------------------------------------------------------------------------------

    def xLock(self, level: int) -> None:
        """Begin to read; only the files have to be checked."""
        if level != SHARED:
            self._reserve()
        self.volume.look_at(self.snapshot)
        self._level = level

    def _reserve(self) -> None:
        """Refuse to begin a write."""
        raise to_sqlite(ReadOnlyError("this connection is read-only"))

    def xUnlock(self, level: int) -> None:
        """Release the snapshot at NONE."""
        if level == NONE:
            self._unpin(self)
        self._level = level

    # True means that another connection writes. SQLite asks only to detect a hot journal, and none
    # is ever hot.
    xCheckReservedLock = True.__bool__  # noqa: N815 - SQLite's name

    # Writing ----------------------------------------------------------------------------------

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: ARG002
        """Refuse."""
        self._reserve()

    def xTruncate(self, size: int) -> None:  # noqa: ARG002
        """Refuse."""
        self._reserve()

    # Does nothing, without Python code that a signal could interrupt: durability is handled at the
    # commit.
    xSync: Any = callable  # noqa: N815

    # The rest ---------------------------------------------------------------------------------

    def xFileControl(self, op: int, pointer: int) -> bool:
        """Handle pragmas and mmap_size."""
        if op == PRAGMA:
            return self._pragma(pointer)
        if op == _MMAP_SIZE:
            # SQLite does not map a volume; PRAGMA mmap_size returns 0.
            ctypes.c_int64.from_address(pointer).value = 0
            return True
        return False

    def _pragma(self, pointer: int) -> bool:
        call = apsw.VFSFcntlPragma(pointer)
        try:
            answer = self.answer(call.name, call.value)
        except GraftError as error:
            # SQLite passes this text to every binding as the error's message.
            call.result = error.words(Audience.SQL)
            raise to_sqlite(error) from error
        if answer is None:
            return False
        call.result = answer
        return True

    def answer(self, name: str, value: str | None) -> str | None:
        """Return the result of a pragma, or None for SQLite to handle it; raises GraftError."""
        return self._on_pragma(self, name, value)

    # Constants without Python code: APSW cannot propagate exceptions from these two methods. The
    # sector size hardly matters; see the device characteristics.
    xSectorSize = (4096).__int__  # noqa: N815 - SQLite's name
    xDeviceCharacteristics = _CHARACTERISTICS.__int__  # noqa: N815

    def abandon(self) -> None:
        """In a forked child: refuse all work."""
        # Replaced on the object, so that the parent pays nothing for the check.
        self.__dict__.update(
            xLock=_refuse_in_child, xRead=_refuse_in_child, xWrite=_refuse_in_child
        )

    def xClose(self) -> None:
        """Release the snapshot."""
        self._unpin(self)
        self._on_close(self)
