"""The locks of a volume: which process, and which connection of it, writes, pushes or syncs.

flock(2) locks belong to an open file, not to a process. The kernel drops the lock of a killed
process, which is why no lock is ever taken over by guessing.

A lock excludes those who lock the same file, and a file can be removed or replaced. So a `FileLock`
is compared with what stands at its path once it is held, and writers lock the branch file itself:
two of them never append to one file, whatever is removed or moved around it. That the file is still
the one that others find is what `branch_file` checks.

A forked child has the open files of its parent, and a lock lasts until the last of them is closed.
So the child closes all handles at once, and the parent's locks are the parent's alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import weakref
from collections.abc import Callable
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from pathlib import Path
from typing import Protocol

from graft_vfs.local import ownership
from graft_vfs.local.files import storage_errors
from graft_vfs.local.fork import Step, at_fork

_logger = logging.getLogger(__name__)

EXCLUSIVE_AT_ONCE = LOCK_EX | LOCK_NB
UNLOCK = LOCK_UN
_POLL_SECONDS = 0.002
_POLL_SECONDS_MAX = 0.05


class Handle(Protocol):
    """Whatever keeps a descriptor whose lock belongs to this process alone."""

    def abandon(self) -> None:
        """Close the descriptor in the child of a fork."""
        ...


class FileLock:
    """One handle on a lock file, which at most one handle holds at a time."""

    __slots__ = ("__weakref__", "_file", "_path")

    def __init__(self, path: Path) -> None:
        """Open the lock file, making it if absent; takes no lock. Raises LocalStorageError."""
        self._path = path
        self._file = self._open()
        close_after_fork(self)

    def _open(self) -> int:
        with storage_errors(self._path):
            return ownership.create(self._path, os.O_RDWR)

    def acquire(self) -> bool:
        """Try to take the lock; False at once if another handle has it.

        Raises LocalStorageError if the file is gone and cannot be made anew.
        """
        while True:
            if self._file < 0:  # See `close_instead`.
                self._file = self._open()
            try:
                flock(self._file, EXCLUSIVE_AT_ONCE)
            except BlockingIOError:
                return False
            if self.is_in_place():
                return True
            # The file was removed or replaced: this lock would exclude no newcomer.
            self.abandon()

    def is_in_place(self) -> bool:
        """Return True if the file that is open here is the one at its path."""
        with storage_errors(self._path):
            try:
                return os.path.samestat(os.fstat(self._file), self._path.stat())
            except FileNotFoundError:
                return False

    def acquire_within(self, timeout_seconds: float) -> bool:
        """Try to take the lock until the timeout; False if another handle has it all the time."""
        return repeated(self.acquire, timeout_seconds)

    def release(self) -> None:
        """Give the lock back; harmless if it is not held."""
        if self._file >= 0:
            try:
                flock(self._file, UNLOCK)
            except OSError as error:
                close_instead(self, self._path, error)

    def close(self) -> None:
        """Give the lock back and close the handle; may be repeated."""
        # Closing alone would leave it to a child that has not closed its copy yet.
        self.release()
        self.abandon()

    def abandon(self) -> None:
        """Close the handle; in the child of a fork, where the lock is the parent's."""
        if self._file >= 0:
            # Ordering: see `BranchLog.close`.
            file, self._file = self._file, -1
            os.close(file)


def repeated(acquire: Callable[[], bool], timeout_seconds: float) -> bool:
    """Call `acquire` until it succeeds or the timeout has passed; returns its last answer."""
    deadline = time.monotonic() + timeout_seconds
    pause = _POLL_SECONDS
    while not acquire():
        # flock has no timeout of its own, and a signal-based one is not for libraries.
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(_POLL_SECONDS_MAX, pause * 1.1)
    return True


def close_instead(handle: Handle, path: Path, error: OSError) -> None:
    """Close a handle whose file system refuses to unlock it: the lock goes with the descriptor."""
    _logger.warning("%s could not be unlocked, and was closed instead: %s", path, error)
    # The refusal may mean that other code of this process has closed the descriptor already.
    with contextlib.suppress(OSError):
        handle.abandon()


_handles: weakref.WeakSet[Handle] = weakref.WeakSet()


def close_after_fork(handle: Handle) -> None:
    """Have a handle closed in each child that this process forks."""
    _handles.add(handle)


def _abandon_handles() -> None:
    for handle in list(_handles):
        handle.abandon()


at_fork(Step.HANDLES, in_child=_abandon_handles)
