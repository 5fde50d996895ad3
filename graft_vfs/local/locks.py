"""The writer lock of a volume: at most one transaction writes, whichever process or thread.

flock(2) locks belong to an open file, not to a process, so every connection opens the lock file for
itself and threads exclude one another as processes do. The kernel drops the lock of a killed
process, which is why no lock is ever taken over by guessing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from graft_vfs.errors import WriterBusyError
from graft_vfs.local.files import storage_errors

_POLL_SECONDS = 0.002


class WriterLock:
    """One handle on a volume's writer lock; owned by one connection or one verb."""

    __slots__ = ("_file", "_path")

    def __init__(self, path: Path) -> None:
        """Open the lock file, making it if absent; takes no lock."""
        self._path = path
        with storage_errors(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def acquire(self) -> bool:
        """Try to take the lock; False at once if another handle has it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Give the lock back; harmless if it is not held."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the handle, and with it the lock if it is held."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


@contextlib.contextmanager
def held(path: Path, *, timeout_seconds: float) -> Iterator[None]:
    """Hold the lock at `path` inside the block; raises WriterBusyError after the timeout."""
    lock = WriterLock(path)
    try:
        deadline = time.monotonic() + timeout_seconds
        while not lock.acquire():
            # flock has no timeout of its own, and a signal-based one is not for libraries.
            if time.monotonic() >= deadline:
                raise WriterBusyError(
                    "another connection is writing to the volume",
                    next_step="end its transaction and try again",
                )
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        lock.close()
