"""The locks of a volume, first the writer's: one transaction writes, in any process or thread.

flock(2) locks belong to an open file, not to a process, so every connection opens the lock file for
itself and threads exclude one another as processes do. The kernel drops the lock of a killed
process, which is why no lock is ever taken over by guessing.

A forked child has the open files of its parent, and a lock lasts until the last of them is closed.
So the child closes all handles at once, and the parent's locks are the parent's alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from graft_vfs.errors import WriterBusyError
from graft_vfs.local.files import storage_errors

_POLL_SECONDS = 0.002


class FileLock:
    """One handle on a lock file, which at most one handle holds at a time."""

    __slots__ = ("__weakref__", "_file", "_path")

    def __init__(self, path: Path) -> None:
        """Open the lock file, making it if absent; takes no lock."""
        self._path = path
        with storage_errors(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        _handles.add(self)

    def acquire(self) -> bool:
        """Try to take the lock; False at once if another handle has it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def acquire_within(self, timeout_seconds: float) -> bool:
        """Try to take the lock until the timeout; False if another handle has it all the time."""
        deadline = time.monotonic() + timeout_seconds
        while not self.acquire():
            # flock has no timeout of its own, and a signal-based one is not for libraries.
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def release(self) -> None:
        """Give the lock back; harmless if it is not held."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the lock back and close the handle; may be repeated."""
        if self._file >= 0:
            # Closing alone would leave it to a child that has not closed its copy yet.
            self.release()
            self.abandon()

    def abandon(self) -> None:
        """Close the handle; in the child of a fork, where the lock is the parent's."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class WriterLock(FileLock):
    """One handle on a volume's writer lock; owned by one connection or one verb."""

    __slots__ = ()


@contextlib.contextmanager
def held(path: Path, *, timeout_seconds: float) -> Iterator[None]:
    """Hold the lock at `path` inside the block; raises WriterBusyError after the timeout."""
    lock = WriterLock(path)
    try:
        if not lock.acquire_within(timeout_seconds):
            raise WriterBusyError(
                "another connection is writing to the volume",
                next_step="end its transaction and try again",
            )
        yield
    finally:
        lock.close()


_handles: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _abandon_handles() -> None:
    for handle in list(_handles):
        handle.abandon()


os.register_at_fork(after_in_child=_abandon_handles)
