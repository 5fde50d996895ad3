"""A file that shows the newest snapshot of the volume that its tag names, and takes no writes.

Each transaction begins with the newest snapshot. If that is one of a branch that the connection has
not seen, the tag may have moved meanwhile; see `tagged`. A file that was moved by a pragma shows
page 1 with another change counter, so that SQLite drops its cache; see `moved`.
"""

from __future__ import annotations

from collections.abc import Callable

from graft_vfs.errors import GraftError
from graft_vfs.ids import VolumeId
from graft_vfs.pager import moved
from graft_vfs.pager.snapshot_file import NONE, RESERVED, SHARED, SnapshotFile
from graft_vfs.pager.sqlite_errors import to_sqlite
from graft_vfs.pager.tagged import Tagged
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume


class TaggedFile(SnapshotFile):
    """A volume as SQLite's main database file, to read only.

    `find` opens the volume that the tag names when another process has moved the tag; without it
    the file stays with its volume.
    """

    __slots__ = ("_shift", "_tagged")

    def __init__(
        self,
        tag: str,
        volume: Volume,
        *,
        find: Callable[[VolumeId], Volume] | None = None,
        on_pragma: Callable[[SnapshotFile, str, str | None], str | None],
        on_close: Callable[[SnapshotFile], None],
    ) -> None:
        super().__init__(tag, volume, volume.snapshot, on_pragma=on_pragma, on_close=on_close)
        self._tagged = Tagged(tag, find)
        # Set when a pragma moves the connection.
        self._shift = 0
        self._adopt(self._newest())

    # Where the tag points ----------------------------------------------------------------------

    def move_to(self, volume: Volume) -> None:
        """Show another volume from the next transaction on; not inside one."""
        assert not self.in_transaction
        self._use(volume)
        self._tagged.branch = None
        self._shift = moved.new_shift()
        self._is_plain = False
        self._empty_page_size = self._page_size or moved.DEFAULT_PAGE_SIZE
        self._take(self._newest())

    def follow_tag(self) -> None:
        """Show the volume that the tag names now; nothing inside a transaction."""
        if not self.in_transaction:
            self._leave_if_moved()

    def show(self, volume: Volume, snapshot: Snapshot) -> None:
        """Show the volume again after `prepare`."""
        super().show(volume, snapshot)
        self._tagged.branch = None

    def _newest(self) -> Snapshot:
        """Return the newest snapshot of the volume that the tag names, having moved there.

        Not inside a transaction. A tag that was removed names none: then the snapshot is one that
        the volume does not have, so that each transaction comes here and asks again.
        """
        while True:
            snapshot = self._begin_somewhere()
            if self._tagged.names(self.volume, snapshot):
                return snapshot
            if not self._leave_if_moved():
                self._tagged.branch = None
                return snapshot.copy()

    def _begin_somewhere(self) -> Snapshot:
        """Begin; if a damaged volume was replaced, begin in the new one."""
        try:
            return self.volume.begin()
        except GraftError:
            if not self._leave_if_moved():
                raise
            return self.volume.begin()

    def _leave_if_moved(self) -> bool:
        """Move to the volume that the tag names, pinned there if it was here; False if to none."""
        former = self.volume
        volume = self._tagged.other_than(former)
        if volume is None:
            return False
        is_pinned = self in former.pins
        self.move_to(volume)
        if is_pinned:
            former.pins.discard(self)
            self._pin(self)
        return True

    # What is shown ----------------------------------------------------------------------------

    def _follow(self) -> None:
        if self._level == NONE:
            self._take(self._newest())

    def read_snapshot_page(self, page: int) -> bytes:
        """Return a page as it was before the transaction; empty past the end."""
        shift = self._shift
        if page != 1 or not shift:
            return super().read_snapshot_page(page)
        if self.snapshot.page_count:
            image = self.snapshot.read(1)
        else:
            image = moved.empty_first_page(self._empty_page_size, self.snapshot.counter)
        return moved.shifted(image, shift)

    def xFileSize(self) -> int:
        """Return the size in bytes that the database has in this view."""
        transaction = self.transaction
        if transaction is not None:
            count = transaction.page_count
        else:
            if self._level == NONE:
                self._follow()
            count = self.snapshot.page_count
        if count:
            return count * self._page_size
        return self._empty_page_size if self._shift else 0

    # Locks ------------------------------------------------------------------------------------

    def xLock(self, level: int) -> None:
        """Take a snapshot at SHARED, and what writing needs at RESERVED."""
        if level == SHARED:
            # The pin comes first, so that no commit forgets an image that the snapshot has.
            self._pin(self)
            try:
                snapshot = self.volume.begin()
                if snapshot is not self.snapshot:
                    self._take(snapshot)
            except GraftError as error:
                self._begin_elsewhere(error)
        elif level == RESERVED:
            self._reserve()
        self._level = level

    def _take(self, snapshot: Snapshot) -> None:
        """Show a snapshot that others made; outside a transaction from where the tag points."""
        if snapshot.branch is not self._tagged.branch and self._level == NONE:
            snapshot = self._newest()
        self._adopt(snapshot)

    def _begin_elsewhere(self, error: GraftError) -> None:
        """Begin where the tag points, after a failure here; raises that if it points nowhere else.

        Nothing is pinned if it raises.
        """
        try:
            if not self._leave_if_moved():
                raise error
            self._take(self._newest())
        except GraftError as failure:
            self._unpin(self)
            raise to_sqlite(failure) from failure
