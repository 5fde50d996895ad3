"""The tag of a connection: which volume it names, and what to say when that is another one.

Another process may move or remove the tag at any time. The volume that it leaves gets a new branch
object then in every process (see `local.tag_moves`), so the catalog is asked only when a connection
finds one that it has not seen.
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
    """One connection's tag. Owner: its file. Without `find` the file stays with its volume.

    `branch` is the one of which it is known that the tag names its volume.
    """

    __slots__ = ("_find", "branch", "tag")

    def __init__(self, tag: str, find: Callable[[VolumeId], Volume] | None) -> None:
        self.tag = tag
        self.branch: PageIndex | None = None
        self._find = find

    def other_than(self, volume: Volume) -> Volume | None:
        """Return the volume that the tag names, opened; None for this one, or if there is none.

        Raises NotFoundError, DamageError, LocalStorageError.
        """
        if self._find is None:
            return None
        named = volume.catalog.tag_volume(self.tag)
        return None if named is None or named == volume.id else self._find(named)

    def names(self, volume: Volume, snapshot: Snapshot) -> bool:
        """Return True if the tag named the volume when, or after, `snapshot` was taken.

        Ordering: the snapshot first. A tag that moves behind it makes another branch.
        """
        if snapshot.branch is self.branch or self._find is None:
            return True
        if volume.catalog.tag_volume(self.tag) != volume.id:
            return False
        self.branch = snapshot.branch
        return True

    def require(self, volume: Volume, snapshot: Snapshot) -> None:
        """Refuse to write to a volume that the tag does not name; the writer lock is held.

        Raises StaleSnapshotError if it names another one, TagRemovedError.
        """
        if self.names(volume, snapshot):
            return
        named = volume.catalog.tag_volume(self.tag)
        if named is not None:
            raise StaleSnapshotError(
                f"tag {self.tag!r} names volume {named} now, and this transaction has read volume "
                f"{volume.id}",
                next_step="roll back and run the transaction again",
            )
        raise TagRemovedError(
            f"tag {self.tag!r} was removed while this connection was open: a commit to volume "
            f"{volume.id} would be in a volume without a name",
            next_step=Hint(
                "run ",
                Advice.SWITCH(TAG=self.tag, VOLUME=str(volume.id)),
                ", or close the connection and open another tag",
            ),
        )
