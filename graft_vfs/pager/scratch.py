"""A scratch database: SQL writes over a snapshot, outside the volume.

Written pages go to an unnamed temporary file of SQLite's, each at its offset in the database; all
other pages are read from the snapshot. Rollback journals are such files too. So a transaction may
be of any size, SQLite does the rollback, and nothing is left at the end.
"""

from __future__ import annotations

from collections.abc import Iterator

import apsw
from pyroaring import BitMap

from graft_vfs.errors import GraftError, PageSizeError, UsageError
from graft_vfs.pager.sqlite_errors import as_io_error, to_sqlite
from graft_vfs.pages import check_page_size, lock_page
from graft_vfs.sqlite_format.header import (
    COUNTER_MAX,
    JOURNAL_MODES,
    ROLLBACK_JOURNAL,
    claimed_page_size,
)
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

BUILTIN_VFS = "unix"
_READS_RESIDENT_MAX = 8192
_WITHOUT_NAME = (
    apsw.SQLITE_OPEN_READWRITE
    | apsw.SQLITE_OPEN_CREATE
    | apsw.SQLITE_OPEN_EXCLUSIVE
    | apsw.SQLITE_OPEN_DELETEONCLOSE
)


class TemporaryFile(apsw.VFSFile):
    """An unnamed file, for a database or a journal that is never reopened.

    Owner: one SQLite pager. Thread rule: as its connection.
    """

    def __init__(self, kind: int) -> None:
        super().__init__(BUILTIN_VFS, None, [_WITHOUT_NAME | kind, 0])

    def xSync(self, flags: int) -> None:
        """Do nothing: it need not outlive the process."""

    def xFileControl(self, op: int, pointer: int) -> bool:  # noqa: ARG002
        """Support nothing. The built-in VFS would report an unnamed file as moved."""
        return False


class ScratchFile(TemporaryFile):
    """A snapshot and the pages written over it.

    Owner: the only pager of the scratch database. Thread rule: as its connection.
    """

    def __init__(self, volume: Volume, snapshot: Snapshot) -> None:
        super().__init__(apsw.SQLITE_OPEN_TEMP_DB)
        self.page_size = snapshot.page_size
        self.page_count = snapshot.page_count
        self.counter = (snapshot.counter + 1) & COUNTER_MAX
        self._volume = volume
        self._snapshot = snapshot
        # Unwritten pages up to this one come from the snapshot; later ones are zeros.
        self._kept = snapshot.page_count
        self._written = BitMap()
        self._reads = 0

    def xLock(self, level: int) -> None:
        """When a transaction begins, check that no file of the snapshot was truncated."""
        if level == apsw.SQLITE_LOCK_SHARED:
            self._volume.look_at(self._snapshot)
        super().xLock(level)

    def xRead(self, amount: int, offset: int) -> bytes:
        """Return `amount` bytes at `offset`, all in one page; nothing past the end."""
        if offset >= self.xFileSize():
            return b""
        page, start = divmod(offset, self.page_size)
        page += 1
        if page in self._written:
            return super().xRead(amount, offset)
        if page > self._kept:
            return bytes(amount)
        try:
            self._reads += 1
            if self._reads % _READS_RESIDENT_MAX == 0:
                self._snapshot.forget_resident()
            return self._snapshot.read(page)[start : start + amount]
        except GraftError as error:
            raise to_sqlite(error) from error

    def xWrite(self, data: bytes, offset: int) -> None:
        """Write one page."""
        try:
            if not self._snapshot.page_size and not self.page_count:
                self.page_size = check_page_size(len(data))
            page = offset // self.page_size + 1
            self._check(page, data)
            super().xWrite(data, offset)
            self._written.add(page)
            self.page_count = max(self.page_count, page)
        except GraftError as error:
            raise to_sqlite(error) from error
        except apsw.Error:
            raise
        except BaseException as error:
            raise as_io_error(error) from error

    def _check(self, page: int, data: bytes) -> None:
        """Refuse what a volume cannot hold: another page size, and WAL mode."""
        size = claimed_page_size(data) if page == 1 else len(data)
        if not self.page_size == len(data) == size:
            raise PageSizeError(
                f"the snapshot's page size is {self.page_size} bytes, which a "
                "scratch database cannot change",
                next_step=f"run PRAGMA page_size={self.page_size} before VACUUM",
            )
        if page == 1 and data[JOURNAL_MODES] != ROLLBACK_JOURNAL:
            raise UsageError(
                "a scratch database cannot be in WAL mode",
                next_step="run PRAGMA journal_mode=DELETE on the source database",
            )

    def xTruncate(self, size: int) -> None:
        """Set the size in bytes; pages past it are dropped."""
        self.page_count = size // self.page_size if self.page_size else 0
        self._kept = min(self._kept, self.page_count)
        self._written.remove_range(self.page_count + 1, 1 << 32)

    def xFileSize(self) -> int:
        """Return the database's current size in bytes."""
        return self.page_count * self.page_size

    def changed_pages(self) -> Iterator[tuple[int, bytes]]:
        """Yield (page, image) of pages in the file that differ from the snapshot."""
        snapshot, size = self._snapshot, self.page_size
        for page in self._written | BitMap(range(self._kept + 1, self.page_count + 1)):
            if page != lock_page(size):
                image = self.xRead(size, (page - 1) * size)
                if page > snapshot.page_count or not _is_same(snapshot, page, image):
                    yield page, image


def _is_same(snapshot: Snapshot, page: int, image: bytes) -> bool:
    """Return True if a page equals the snapshot's, except for page 1's change counter."""
    if page == 1:
        return snapshot.first_page().is_same(image)
    return snapshot.stored(page) == image


class Scratch:
    """A scratch database, the schema `main` of `connection`, and its changed pages.

    A commit can be built from it (see `sync.build`), on the commit that its snapshot shows.

    Owner: its opener. Thread rule: as its connection.
    """

    local_commits = 1
    """A commit built from it stands for one, in however many transactions it was written."""

    def __init__(self, connection: apsw.Connection, file: ScratchFile) -> None:
        self.connection = connection
        self._file = file

    @property
    def counter(self) -> int:
        """The change counter of a commit built from it: one more than the snapshot's."""
        return self._file.counter

    @property
    def page_size(self) -> int:
        """The page size in bytes; 0 until something is written over an empty snapshot."""
        return self._file.page_size

    @property
    def page_count(self) -> int:
        """The page count of the database, as of its last commit."""
        self._require_committed()
        return self._file.page_count

    def changed_pages(self) -> Iterator[tuple[int, bytes]]:
        """Yield (page, image) of each page that differs from the snapshot, ascending.

        Together with `page_count`, they turn the snapshot into the database. Page 1 is omitted if
        only its counters changed; rolled-back changes are not included. Reads every written page.
        Raises UsageError inside a transaction, and the errors of reading the snapshot.
        """
        self._require_committed()
        for page, image in self._file.changed_pages():
            self._require_committed()
            yield page, image

    def _require_committed(self) -> None:
        if self.connection.in_transaction:
            raise UsageError(
                "the scratch database is inside a transaction",
                next_step="COMMIT or ROLLBACK it first",
            )
