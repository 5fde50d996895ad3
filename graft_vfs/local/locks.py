"""The locks of a volume: which process and connection writes, pushes or syncs.

flock(2) locks belong to an open file, not to a process. The kernel releases the lock of a killed
process, so no lock is ever considered stale by guessing.

A lock excludes only processes that lock the same file, and a file can be removed or replaced. So a
`FileLock` is compared with the file at its path once it is held. Writers lock the branch file
itself, so two writers never append to one file, even if other files are removed or moved.
`branch_file` checks that the file is still at its path.

A forked child inherits its parent's open files, and a lock lasts until the last copy is closed. So
the child closes all handles immediately, and only the parent keeps the locks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import weakref
from collections.abc import Callable, Iterator
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock
from pathlib import Path
from typing import Protocol

from graft_vfs.errors import LocalStorageError
from graft_vfs.local import ownership
from graft_vfs.local.files import storage_errors
from graft_vfs.local.fork import Step, at_fork

_logger = logging.getLogger(__name__)

EXCLUSIVE_AT_ONCE = LOCK_EX | LOCK_NB
UNLOCK = LOCK_UN
_POLL_SECONDS = 0.002
_POLL_SECONDS_MAX = 0.05


class Handle(Protocol):
    """The owner of a descriptor whose lock belongs only to this process."""

    def abandon(self) -> None:
        """Close the descriptor in a forked child."""
        ...


class FileLock:
    """One handle on a lock file; at most one handle holds the lock."""

    __slots__ = ("__weakref__", "_file", "_path")

    def __init__(self, path: Path) -> None:
        """Open the lock file, creating it if absent; takes no lock. Raises LocalStorageError."""
        self._path = path
        self._file = self._open()
        close_after_fork(self)

    def _open(self) -> int:
        with storage_errors(self._path):
            return ownership.create(self._path, os.O_RDWR)

    def acquire(self) -> bool:
        """Try to take the lock; immediately False if another handle has it.

        Raises LocalStorageError if the file is missing and cannot be created.
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
            # The file was removed or replaced: this lock would not exclude new processes.
            self.abandon()

    def is_in_place(self) -> bool:
        """Return True if the open file is the one at its path."""
        with storage_errors(self._path):
            try:
                return os.path.samestat(os.fstat(self._file), self._path.stat())
            except FileNotFoundError:
                return False

    def acquire_within(self, timeout_seconds: float) -> bool:
        """Try to take the lock until the timeout; False if another handle keeps it."""
        return repeated(self.acquire, timeout_seconds)

    def release(self) -> None:
        """Release the lock; harmless if it is not held."""
        if self._file >= 0:
            try:
                flock(self._file, UNLOCK)
            except OSError as error:
                close_instead(self, self._path, error)

    def close(self) -> None:
        """Release the lock and close the handle; idempotent."""
        # Closing alone would leave the lock to a child that has not closed its copy yet.
        self.release()
        self.abandon()

    def abandon(self) -> None:
        """Close the handle in a forked child, where the lock is the parent's."""
        if self._file >= 0:
            # Ordering: see `BranchLog.close`.
            file, self._file = self._file, -1
            os.close(file)


@contextlib.contextmanager
def using(directory: Path) -> Iterator[None]:
    """Keep others from removing a directory inside the block; raises LocalStorageError."""
    with storage_errors(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with storage_errors(directory):
            flock(descriptor, LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone_in(directory: Path) -> Iterator[bool]:
    """Lock a directory inside the block; yields False if a process has it open, or is using it.

    True for a directory that does not exist. Raises LocalStorageError.
    """
    try:
        with storage_errors(directory):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except LocalStorageError:
        if directory.exists():
            raise
        yield True
        return
    try:
        try:
            flock(descriptor, EXCLUSIVE_AT_ONCE)
            is_alone = True
        except BlockingIOError:
            is_alone = False
        yield is_alone
    finally:
        os.close(descriptor)


def repeated(acquire: Callable[[], bool], timeout_seconds: float) -> bool:
    """Call `acquire` until it succeeds or the timeout has passed; returns its last result."""
    deadline = time.monotonic() + timeout_seconds
    pause = _POLL_SECONDS
    while not acquire():
        # flock has no timeout, and a library cannot use a signal-based one.
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(_POLL_SECONDS_MAX, pause * 1.1)
    return True


def close_instead(handle: Handle, path: Path, error: OSError) -> None:
    """Close a handle whose file system refuses to unlock it: the lock goes with the descriptor.

    A signal handler may raise an OSError such as TimeoutError, too, which has no number; it is
    raised again.
    """
    if error.errno is None:
        raise error
    _logger.warning("%s could not be unlocked, and was closed instead: %s", path, error)
    # The refusal may mean that other code of this process has closed the descriptor already.
    with contextlib.suppress(OSError):
        handle.abandon()


_handles: weakref.WeakSet[Handle] = weakref.WeakSet()


def close_after_fork(handle: Handle) -> None:
    """Close a handle in each child that this process forks."""
    _handles.add(handle)


def _abandon_handles() -> None:
    for handle in list(_handles):
        handle.abandon()


at_fork(Step.HANDLES, in_child=_abandon_handles)
