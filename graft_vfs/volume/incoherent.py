"""A volume on a file system that is not known as local, where the head file may show an old state.

Nothing is mapped there, and yet a network file system may answer a read from a cache. So before a
write the words are not asked whether the next chunk would overwrite a commit: the log's tail and
the catalog's row are read, under the writer lock.
"""

from __future__ import annotations

from graft_vfs.local.branch_file import WriterLock
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.transaction import Transaction
from graft_vfs.volume.volume import Volume


class IncoherentVolume(Volume):
    """One open volume of which other machines may have written more than the head file tells."""

    is_coherent = False

    def begin_write(self, snapshot: Snapshot, lock: WriterLock) -> Transaction:
        """Take the writer lock and begin, after a look at the log and the catalog."""
        if lock.acquire():
            try:
                is_newest = self._catch_up(lock)
            except BaseException:
                lock.release()
                raise
            if not is_newest:
                lock.release()
        # It may be locked again while it is held.
        return super().begin_write(snapshot, lock)
