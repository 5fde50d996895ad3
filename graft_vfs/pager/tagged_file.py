"""A read-only file that shows the newest snapshot of its tag's volume.

Each transaction begins with the newest snapshot. If the connection has not seen its branch, the tag
may have moved; see `tagged`. A file that a pragma moved, or whose branch lacks commits that it has
shown, shows page 1 with another schema cookie, so that SQLite drops its schema; see `moved`.
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
    """A volume as SQLite's main database file, read-only.

    If another process has moved the tag, `find` opens the tag's volume; without it, the file keeps
    its volume.
    """

    __slots__ = ("_lineage", "_shift", "_tagged")

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
        # Nonzero once a pragma, or a switch of branches, has moved the connection.
        self._shift = 0
        # The lineage of the branches that SQLite may have parsed the schema of; None for none.
        self._lineage: int | None = None
        self._set_up()
        self._adopt(self._newest())

    def _set_up(self) -> None:
        """Set the attributes of a subclass, before the newest snapshot is looked for."""

    # Where the tag points ----------------------------------------------------------------------

    def move_to(self, volume: Volume) -> None:
        """Show another volume in later transactions; not inside one."""
        assert not self.in_transaction
        self._use(volume)
        self._tagged.branch = None
        self._lineage = None
        self._show_other_content()
        self._take(self._newest())

    def _show_other_content(self) -> None:
        """Show all schema cookies shifted, so that SQLite drops its schema."""
        self._shift = moved.new_shift()
        self._is_plain = False
        self._empty_page_size = self._page_size or moved.DEFAULT_PAGE_SIZE

    def _follow_lineage(self, snapshot: Snapshot) -> None:
        """Show other content if commits that were shown are not in the branch any more."""
        lineage = snapshot.branch.row.lineage
        if lineage != self._lineage:
            if self._lineage is not None:
                self._show_other_content()
            self._lineage = lineage

    def follow_tag(self) -> None:
        """Show the tag's current volume; does nothing inside a transaction."""
        if not self.in_transaction:
            self._leave_if_moved()

    def show(self, volume: Volume, snapshot: Snapshot) -> None:
        """Show the volume again after `prepare`."""
        super().show(volume, snapshot)
        self._tagged.branch = None

    def _newest(self) -> Snapshot:
        """Move to the tag's volume and return its newest snapshot.

        Not inside a transaction. If the tag was removed, the result is a copy that differs from the
        volume's own snapshot, so that each transaction checks the tag again.
        """
        while True:
            snapshot = self._begin_somewhere()
            self._follow_lineage(snapshot)
            if self._tagged.names(self.volume, snapshot):
                return snapshot
            if not self._leave_if_moved():
                self._tagged.branch = None
                return snapshot.copy()

    def _begin_somewhere(self) -> Snapshot:
        """Begin; if a damaged volume was replaced, begin in the new volume."""
        try:
            return self.volume.begin()
        except GraftError:
            if not self._leave_if_moved():
                raise
            return self.volume.begin()

    def _leave_if_moved(self) -> bool:
        """Move to the tag's volume, keeping the pin; False if there is none to move to."""
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
        """Take a snapshot at SHARED, and begin a write at RESERVED."""
        if level == SHARED:
            # The pin comes first, so that no commit forgets an image of the snapshot.
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
        """Show another process's newer snapshot; outside a transaction, also follow the tag."""
        if snapshot.branch is not self._tagged.branch and self._level == NONE:
            snapshot = self._newest()
        self._adopt(snapshot)

    def _begin_elsewhere(self, error: GraftError) -> None:
        """After a failure, begin in the tag's volume; raises the failure if it is the same volume.

        Nothing is pinned if it raises.
        """
        try:
            if not self._leave_if_moved():
                raise error
            self._take(self._newest())
        except GraftError as failure:
            self._unpin(self)
            raise to_sqlite(failure) from failure
