"""A connection as SQLite's pager is, over a volume's file and without SQL.

It locks, reads, writes, spills, commits and rolls back in SQLite's order of calls. Like SQLite it
keeps its page cache from one transaction to the next as long as bytes 24..39 of page 1 stay the
same: a cached page must then equal what the file holds, or SQLite would answer from a page of
another snapshot. Every read here checks that.

A database is a tuple of page images, the first of which stands for page 1. What SQLite keeps in
page 1 to recognise a change, the change counter and version-valid-for, is no content: `plain`
blanks both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import apsw

from graft_vfs.pager.snapshot_file import SnapshotFile
from graft_vfs.pager.volume_file import VolumeFile
from graft_vfs.sqlite_format.header import page_format
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

Content = tuple[bytes, ...]

_PROBE = slice(24, 40)
_COUNTERS = (slice(24, 28), slice(92, 96))


def image_of(page: int, version: int, page_size: int) -> bytes:
    """Return an image that no other page and no other version has, and that does not compress.

    What SQLite looks at beside the counter, bytes 28..39, is the same in each: only the counter may
    tell a connection that page 1 is another one.
    """
    noise = hashlib.shake_128(b"%d:%d" % (page, version)).digest(page_size)
    if page > 1:
        return noise
    first_page = noise[:16] + page_format(page_size) + noise[20:28] + bytes(12) + noise[40:]
    return plain(1, first_page)


def plain(page: int, image: bytes) -> bytes:
    """Return an image without what page 1 carries beside content."""
    if page > 1:
        return image
    blank = bytearray(image)
    for field in _COUNTERS:
        blank[field] = bytes(4)
    return bytes(blank)


class Pager:
    """One connection. `pages` is the database as it sees it; None outside a transaction."""

    def __init__(
        self, volume: Volume, page_size: int, *, fixed: Snapshot | None = None, tag: str = "main"
    ) -> None:
        hooks = {"on_pragma": lambda *_: None, "on_close": lambda _: None}
        self.file = (
            VolumeFile(tag, volume, **hooks)
            if fixed is None
            else SnapshotFile(tag, volume, fixed, **hooks)
        )
        self.page_size = page_size
        self.is_writing = False
        self._cache: dict[int, bytes] = {}
        self._probe = b""
        self._dirty: dict[int, bytes] = {}
        self._written: set[int] = set()
        self._count = 0
        self._former_count = 0

    # Reading ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin to read: take a snapshot, and drop the cache if it is another one."""
        self.file.xLock(apsw.SQLITE_LOCK_SHARED)
        self._count = self.file.xFileSize() // self.page_size
        probe = bytes(self.file.xRead(16, 24)) if self._count else b""
        if probe != self._probe:
            self._cache.clear()
        self._probe = probe

    def read(self, page: int) -> bytes:
        """Return a page as this connection sees it, without the counters of page 1."""
        if page in self._dirty:
            return plain(page, self._dirty[page])
        if self.is_writing and page > self._former_count and page not in self._written:
            return bytes(self.page_size)  # SQLite never asks for a page that was not there before.
        image = bytes(self.file.xRead(self.page_size, (page - 1) * self.page_size))
        image = image.ljust(self.page_size, b"\0")  # As SQLite takes a read beyond the end.
        assert self._cache.setdefault(page, image) == image, f"the cached page {page} is stale"
        return plain(page, image)

    def content(self) -> Content:
        """Return all pages."""
        return tuple(self.read(page) for page in range(1, self._count + 1))

    def end(self) -> None:
        """End reading."""
        self.file.xUnlock(apsw.SQLITE_LOCK_NONE)

    # Writing ----------------------------------------------------------------------------------

    def begin_write(self) -> None:
        """Take the writer lock; raises apsw.BusyError."""
        self.file.xLock(apsw.SQLITE_LOCK_RESERVED)
        self.is_writing = True
        self._former_count = self._count

    def write(self, page: int, image: bytes) -> None:
        """Change a page, or grow the database to it; pages that are left out are zeros."""
        self._dirty[page] = image
        self._count = max(self._count, page)

    def spill(self) -> None:
        """Write changed pages to the file before the commit, as SQLite does for want of memory."""
        self._write_out(self._dirty)
        self._cache.update(self._dirty)
        self._dirty.clear()

    def _write_out(self, pages: Iterable[int]) -> None:
        self.file.xLock(apsw.SQLITE_LOCK_EXCLUSIVE)
        for page in sorted(pages):
            self.file.xWrite(self._dirty[page], (page - 1) * self.page_size)
            self._written.add(page)

    def commit(self, page_count: int) -> None:
        """Commit, cut to `page_count` pages if there are more."""
        first_page = self._dirty.get(1) or bytes(self.file.xRead(self.page_size, 0))
        self._dirty[1] = self._counted(first_page)
        kept = {page: image for page, image in self._dirty.items() if page <= page_count}
        self._dirty = kept
        self.spill()
        file_count = max(self._former_count, *self._written)
        if page_count > file_count:  # The last page was cut or left out: SQLite writes zeros.
            self.file.xWrite(bytes(self.page_size), (page_count - 1) * self.page_size)
        self.file.xFileControl(apsw.SQLITE_FCNTL_SYNC, 0)
        self.file.xSync(apsw.SQLITE_SYNC_NORMAL)
        if page_count < file_count:
            self.file.xTruncate(page_count * self.page_size)
        self.file.xFileControl(apsw.SQLITE_FCNTL_COMMIT_PHASETWO, 0)
        for page in [page for page in self._cache if page > page_count]:
            del self._cache[page]
        self._probe = self._cache[1][_PROBE]
        self._count = page_count
        self._end_write()

    def _counted(self, first_page: bytes) -> bytes:
        """Return page 1 with the change counter that SQLite would write: the one it read, plus 1.

        The size in pages, behind it, is content to a volume and stays as it is.
        """
        counter = (int.from_bytes(self._probe[:4], "big") + 1) & 0xFFFF_FFFF
        counted = bytearray(first_page)
        for field in _COUNTERS:
            counted[field] = counter.to_bytes(4, "big")
        return bytes(counted)

    def roll_back(self, former: Content) -> None:
        """Roll back; what was spilled is written back first, as from SQLite's journal."""
        self._dirty.clear()
        if self._written:
            self.file.xTruncate(self._former_count * self.page_size)
            for page in sorted(self._written):
                self._cache.pop(page, None)
                if page <= self._former_count:
                    self.file.xWrite(former[page - 1], (page - 1) * self.page_size)
            self.file.xFileControl(apsw.SQLITE_FCNTL_SYNC, 0)
        self._count = self._former_count
        self._end_write()

    def _end_write(self) -> None:
        self._written.clear()
        self.is_writing = False
        self.file.xUnlock(apsw.SQLITE_LOCK_SHARED)
        self.file.xUnlock(apsw.SQLITE_LOCK_NONE)

    # Ends -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection, inside a transaction or not."""
        self.file.xUnlock(apsw.SQLITE_LOCK_NONE)
        self.file.xClose()

    def abandon(self) -> None:
        """Leave the connection as a killed process does: the kernel frees the lock, and no more."""
        self.file.abandon()
