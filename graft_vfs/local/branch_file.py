"""The writer lock on a branch file, and the check that the file was not replaced.

Writers lock the branch file itself, each connection through its own descriptor, so that two writers
never append to one file. When a volume switches to another file, its handles follow. A handle that
holds the lock keeps it: the new file is locked for it before other processes can see the file.

The file may be moved, removed or replaced while a process has it open: by a restored backup, a
moved data directory, or a changed symbolic link. Two processes would then write to two files, and
one of these is no longer the volume. The same applies to the head file; without it, processes would
not detect each other's changes. So each commit checks that its *mark* exists: an empty file beside
the branch file, named after the device and the inodes of both files. This is one short call;
comparing inodes would cost twice as much. Ordering: before the first writer to a pair of files
writes, it removes all other marks, creates its own, and reads the tail again. A process with other
files open then finds no mark, compares the paths with its open files, and is refused. A copy of the
directory may contain the mark of the original files; the first writer to the copy removes it before
it writes. For a process that continues on the moved original, the mark may still exist. So a
process also compares the path of the branch file if it last did so more than 10 ms ago, and both
paths every 256 commits.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator
from fcntl import flock
from os import F_OK, access
from pathlib import Path

from graft_vfs.errors import BusyError, LocalStorageError, MovedError, WriterBusyError
from graft_vfs.local import layout, ownership
from graft_vfs.local.files import storage_error, storage_errors
from graft_vfs.local.head import HeadFile
from graft_vfs.local.locks import (
    EXCLUSIVE_AT_ONCE,
    UNLOCK,
    close_after_fork,
    close_instead,
    repeated,
)

CHECK_MASK = 255
"""At each LSN with none of these bits, the paths are checked too: once in 256 commits."""
CHECK_SECONDS = 0.01
"""The branch file is checked too if the last check is older than this. Checking each time would
make a small commit a tenth slower."""


class Place:
    """The path and mark of an open branch file. Owner: the volume while it is current."""

    __slots__ = ("_head", "_identity", "_name", "_path", "mark")

    def __init__(self, path: Path, descriptor: int, head: HeadFile) -> None:
        """Record the identity of the open file; raises LocalStorageError."""
        self._path = path
        self._name = os.fsencode(path)
        self._head = head
        with storage_errors(path):
            found = os.fstat(descriptor)
        self._identity = found.st_dev, found.st_ino
        self.mark = os.fsencode(layout.mark(path, found.st_dev, found.st_ino, head.inode))

    def check(self, *, with_head: bool = True) -> None:
        """Raise MovedError unless branch file and head file are still at their paths."""
        try:
            found = os.stat(self._name)  # noqa: PTH116 - a Path costs three times as much
            if (found.st_dev, found.st_ino) == self._identity and (
                not with_head or self._head.is_in_place()
            ):
                return
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise storage_error(self._path, error) from error
        raise MovedError(
            f"{self._path}, or the head file beside it, was moved, removed or replaced while it "
            "was open; nothing was written to it",
            next_step="close this connection and open it again",
        )

    def leave_mark(self) -> bool:
        """Make this mark the only one; for the writer, after `check`. True if that changed.

        Raises LocalStorageError if another mark cannot be removed.
        """
        if access(self.mark, F_OK):
            return False
        with storage_errors(self._path):
            for path in layout.marks(self._path.parent):
                path.unlink(missing_ok=True)
        # Without a mark, as on a full disk, each commit checks the paths: slower, but as safe.
        with contextlib.suppress(OSError):
            os.close(ownership.create(Path(os.fsdecode(self.mark)), os.O_RDWR))
        return True


class OpenFile:
    """A descriptor of a branch file. Its last user closes it: a thread may be about to lock it."""

    __slots__ = ("__weakref__", "number")

    def __init__(self, path: Path) -> None:
        self.number = -1
        with storage_errors(path):
            self.number = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        close_after_fork(self)

    def abandon(self) -> None:
        """Close it; also in a forked child, where the lock is the parent's."""
        if self.number >= 0:
            # Ordering: see `BranchLog.close`.
            number, self.number = self.number, -1
            os.close(number)

    __del__ = abandon


class WriterLock:
    """One handle on a volume's writer lock; owned by one connection or one verb.

    `held` is the locked descriptor. Ordering: it is set after locking and cleared before unlocking,
    so a handle with `held` always has the lock.
    """

    __slots__ = ("__weakref__", "current", "held", "path")

    def __init__(self, path: Path) -> None:
        """Open the branch file; takes no lock. Raises LocalStorageError."""
        self.path = path
        self.current = OpenFile(path)
        self.held: OpenFile | None = None

    def acquire(self) -> bool:
        """Try to take the lock; immediately False if another handle has it."""
        current = self.current
        try:
            flock(current.number, EXCLUSIVE_AT_ONCE)
        except BlockingIOError:
            return False
        except OSError as error:
            raise storage_error(self.path, error) from error
        except ValueError as error:  # There is no descriptor: see `release`.
            raise LocalStorageError(
                f"the writer lock on {self.path} could not be unlocked after an earlier transaction"
                ", and was closed instead",
                next_step="close this connection and open it again",
            ) from error
        self.held = current
        return True

    def acquire_within(self, timeout_seconds: float) -> bool:
        """Try to take the lock until the timeout; False if another handle keeps it."""
        return repeated(self.acquire, timeout_seconds)

    @property
    def is_current(self) -> bool:
        """True if the locked file is the volume's current branch file."""
        return self.held is self.current

    def is_in_place(self) -> bool:
        """Return True if the open file is still at its path."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self.current.number))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Release the lock; harmless if it is not held."""
        held = self.held
        self.held = None
        if held is None:
            held = self.current
        try:
            flock(held.number, UNLOCK)
        except OSError as error:
            close_instead(held, self.path, error)
        except ValueError:
            pass  # That was done before.

    def abandon(self) -> None:
        """Close the handle in a forked child, as the end of the process would."""
        self.held = None
        self.current.abandon()

    def close(self) -> None:
        """Release the lock and close the handle; idempotent."""
        if self.current.number >= 0:
            self.release()
            self.current.abandon()


@contextlib.contextmanager
def held(directory: Path, *, timeout_seconds: float) -> Iterator[None]:
    """Lock all branch files of a volume inside the block.

    Raises WriterBusyError if another handle keeps one until the timeout, LocalStorageError.
    """
    with contextlib.ExitStack() as stack:
        locked: list[WriterLock] = []
        # Repeat if a writer switched to another file during the wait.
        while not _are_all(directory, locked):
            stack.close()
            locked.clear()
            for path in layout.branch_files(directory):
                try:
                    lock = WriterLock(path)
                except LocalStorageError:
                    if path.exists():
                        raise
                    break  # Removed in the meantime.
                stack.callback(lock.close)
                locked.append(lock)
                if not lock.acquire_within(timeout_seconds):
                    raise WriterBusyError(
                        "another connection is writing to the volume",
                        next_step="end its transaction and try again",
                    )
        yield


def _are_all(directory: Path, locked: list[WriterLock]) -> bool:
    """Return True if the locked files are those in the directory."""
    return [lock.path for lock in locked] == layout.branch_files(directory) and all(
        lock.is_in_place() for lock in locked
    )


class WriterLocks:
    """The handles of one volume in this process. Owner: the volume, under its mutex."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._all: weakref.WeakSet[WriterLock] = weakref.WeakSet()

    def open(self) -> WriterLock:
        """Return a new handle without the lock; raises LocalStorageError."""
        lock = WriterLock(self._path)
        self._all.add(lock)
        return lock

    def reserve(self, path: Path) -> dict[WriterLock, OpenFile]:
        """Lock the next branch file for the holding handle, before others can see the file.

        Raises BusyError if another process has it locked, LocalStorageError.
        """
        reserved = {}
        for lock in list(self._all):
            if lock.held is not None:
                reserved[lock] = following = OpenFile(path)
                try:
                    flock(following.number, EXCLUSIVE_AT_ONCE)
                except BlockingIOError as error:
                    raise BusyError(
                        f"another process has the new file {path} locked", next_step="try again"
                    ) from error
        return reserved

    def follow(self, path: Path, reserved: dict[WriterLock, OpenFile]) -> None:
        """Switch all handles to another file; the one with the lock gets the reserved lock."""
        self._path = path
        for lock in list(self._all):
            if lock.current.number >= 0:
                lock.current = reserved.get(lock) or OpenFile(path)
                lock.held = reserved.get(lock, lock.held)
