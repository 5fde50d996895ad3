"""A volume on a file system that is not known to be local, where the head file may be stale.

Files are not mapped, but a network file system may also serve reads from a cache. So before a
write, the words do not decide whether the next chunk would overwrite a commit: the log's tail and
the catalog's row are read, under the writer lock.
"""

from __future__ import annotations

from graft_vfs.local.branch_file import WriterLock
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.transaction import Transaction
from graft_vfs.volume.volume import Volume


class IncoherentVolume(Volume):
    """One open volume; other machines may have written more than the head file shows."""

    is_coherent = False

    def begin_write(self, snapshot: Snapshot, lock: WriterLock) -> Transaction:
        """Take the writer lock and begin, after reading the log and the catalog."""
        if lock.acquire():
            try:
                is_newest = self._catch_up(lock)
            except BaseException:
                lock.release()
                raise
            if not is_newest:
                lock.release()
        # Taking the lock again while it is held is allowed.
        return super().begin_write(snapshot, lock)
