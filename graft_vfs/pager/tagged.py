"""The tag of a connection: its current volume, and the errors after it moved.

Another process may move or remove the tag at any time. Its previous volume then gets a new branch
object in every process (see `local.tag_moves`). So the catalog is read only when a connection finds
a branch object that it has not seen.
"""

from __future__ import annotations

from collections.abc import Callable

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import StaleSnapshotError, TagRemovedError
from graft_vfs.ids import VolumeId
from graft_vfs.volume.page_index import PageIndex
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume


class Tagged:
    """One connection's tag. Owner: its file. Without `find`, the file keeps its volume.

    `branch` is the branch for which the tag was last known to name its volume.
    """

    __slots__ = ("_find", "branch", "tag")

    def __init__(self, tag: str, find: Callable[[VolumeId], Volume] | None) -> None:
        self.tag = tag
        self.branch: PageIndex | None = None
        self._find = find

    def other_than(self, volume: Volume) -> Volume | None:
        """Return the tag's volume, opened; None if it is this volume, or if the tag has none.

        Raises NotFoundError, DamageError, LocalStorageError.
        """
        if self._find is None:
            return None
        named = volume.catalog.tag_volume(self.tag)
        return None if named is None or named == volume.id else self._find(named)

    def names(self, volume: Volume, snapshot: Snapshot) -> bool:
        """Return True if the tag named the volume when `snapshot` was taken, or later.

        Ordering: the snapshot first. If the tag moves after it, there is a new branch.
        """
        if snapshot.branch is self.branch or self._find is None:
            return True
        if volume.catalog.tag_volume(self.tag) != volume.id:
            return False
        self.branch = snapshot.branch
        return True

    def require(self, volume: Volume, snapshot: Snapshot) -> None:
        """Refuse to write to a volume that the tag does not name; the writer lock is held.

        Raises StaleSnapshotError if it names another volume, TagRemovedError.
        """
        if self.names(volume, snapshot):
            return
        named = volume.catalog.tag_volume(self.tag)
        if named is not None:
            raise StaleSnapshotError(
                f"tag {self.tag!r} now names volume {named}, but this transaction has read volume "
                f"{volume.id}",
                next_step="roll back and run the transaction again",
            )
        raise TagRemovedError(
            f"tag {self.tag!r} was removed while this connection was open: a commit to volume "
            f"{volume.id} would go to a volume without a name",
            next_step=Hint(
                "run ",
                Advice.SWITCH(TAG=self.tag, VOLUME=str(volume.id)),
                ", or close the connection and open another tag",
            ),
        )
