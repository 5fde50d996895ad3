"""Who may append to a branch file, and whether it is still the one that others find.

Writers lock the branch file itself, each connection through a descriptor of its own, so that two of
them never append to one file. When a volume moves on to another file its handles follow, and one
that is held keeps its right: the new file is locked for it before others can see that.

The file may be moved, removed or replaced under a process that has it open: a restored backup, a
data directory that was moved, a symbolic link that points elsewhere now. Two processes would write
to two files then, one of which is no longer the volume. The same holds for the head file, without
which they would not notice each other. So each commit asks whether its *mark* is there: an empty
file beside the branch file, named after the device and the inodes of both. That is one short call,
where comparing inodes would cost twice as much. Ordering: the first writer to a pair of files
removes all other marks, makes its own, and reads the tail again, before it writes. From then on a
process that has other files open finds no mark, compares the paths with what it has open, and is
refused. A copy may hold the mark of the files it was made from; no process writes to it before its
first writer has removed that. So who goes on at the old place also compares the path
of the branch file when it did so more than 10 ms ago, and both paths once in 256 commits.
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
"""At each LSN that has none of these bits the paths are looked at, too: once in 256 commits."""
CHECK_SECONDS = 0.01
"""The branch file is looked at, too, when the last look is older than this. Looking each time would
make a small commit a tenth slower."""


class Place:
    """Where a branch file that is open here stands. Owner: the volume while it is current."""

    __slots__ = ("_head", "_identity", "_name", "_path", "mark")

    def __init__(self, path: Path, descriptor: int, head: HeadFile) -> None:
        """Note what `descriptor` has open; raises LocalStorageError."""
        self._path = path
        self._name = os.fsencode(path)
        self._head = head
        with storage_errors(path):
            found = os.fstat(descriptor)
        self._identity = found.st_dev, found.st_ino
        self.mark = os.fsencode(layout.mark(path, found.st_dev, found.st_ino, head.inode))

    def check(self, *, with_head: bool = True) -> None:
        """Raise MovedError unless branch file and head file are what stands at their paths."""
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
            "was open here; nothing was written to it",
            next_step="close this connection and open it again",
        )

    def leave_mark(self) -> bool:
        """Make this mark the only one; for the writer, after `check`. Returns True if it was not.

        Raises LocalStorageError if the mark of another place cannot be removed.
        """
        if access(self.mark, F_OK):
            return False
        with storage_errors(self._path):
            for path in layout.marks(self._path.parent):
                path.unlink(missing_ok=True)
        # Without a mark, as on a full disk, each commit looks at the paths: slower, and as safe.
        with contextlib.suppress(OSError):
            os.close(ownership.create(Path(os.fsdecode(self.mark)), os.O_RDWR))
        return True


class OpenFile:
    """A descriptor of a branch file. Closed by its last user: a thread may be about to lock it."""

    __slots__ = ("__weakref__", "number")

    def __init__(self, path: Path) -> None:
        self.number = -1
        with storage_errors(path):
            self.number = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        close_after_fork(self)

    def abandon(self) -> None:
        """Close it; also in the child of a fork, where its lock is the parent's."""
        if self.number >= 0:
            # Ordering: see `BranchLog.close`.
            number, self.number = self.number, -1
            os.close(number)

    __del__ = abandon


class WriterLock:
    """One handle on a volume's writer lock; owned by one connection or one verb.

    `held` is the descriptor whose lock it has. Ordering: it is set after locking and cleared before
    unlocking, so that a handle that shows one has the lock.
    """

    __slots__ = ("__weakref__", "current", "held", "path")

    def __init__(self, path: Path) -> None:
        """Open the branch file; takes no lock. Raises LocalStorageError."""
        self.path = path
        self.current = OpenFile(path)
        self.held: OpenFile | None = None

    def acquire(self) -> bool:
        """Try to take the lock; False at once if another handle has it."""
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
        """Try to take the lock until the timeout; False if another handle has it all the time."""
        return repeated(self.acquire, timeout_seconds)

    @property
    def is_current(self) -> bool:
        """True if what is locked is the volume's present branch file."""
        return self.held is self.current

    def is_in_place(self) -> bool:
        """Return True if the file that it was opened on stands at its path."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self.current.number))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give the lock back; harmless if it is not held."""
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
        """Close the handle as the end of the process would; in the child of a fork."""
        self.held = None
        self.current.abandon()

    def close(self) -> None:
        """Give the lock back and close the handle; may be repeated."""
        if self.current.number >= 0:
            self.release()
            self.current.abandon()


@contextlib.contextmanager
def held(directory: Path, *, timeout_seconds: float) -> Iterator[None]:
    """Lock all branch files of a volume inside the block, whichever is current.

    Raises WriterBusyError if another handle has one until the timeout, LocalStorageError.
    """
    with contextlib.ExitStack() as stack:
        locked: list[WriterLock] = []
        # Again if a writer has moved on to another file while its former one was waited for.
        while not _are_all(directory, locked):
            stack.close()
            locked.clear()
            for path in layout.branch_files(directory):
                try:
                    lock = WriterLock(path)
                except LocalStorageError:
                    if path.exists():
                        raise
                    break  # Removed meanwhile.
                stack.callback(lock.close)
                locked.append(lock)
                if not lock.acquire_within(timeout_seconds):
                    raise WriterBusyError(
                        "another connection is writing to the volume",
                        next_step="end its transaction and try again",
                    )
        yield


def _are_all(directory: Path, locked: list[WriterLock]) -> bool:
    """Return True if the files that are locked are those in the directory."""
    return [lock.path for lock in locked] == layout.branch_files(directory) and all(
        lock.is_in_place() for lock in locked
    )


class WriterLocks:
    """The handles of one volume in this process. Owner: the volume, under whose mutex it is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._all: weakref.WeakSet[WriterLock] = weakref.WeakSet()

    def open(self) -> WriterLock:
        """Return a new handle, not held; raises LocalStorageError."""
        lock = WriterLock(self._path)
        self._all.add(lock)
        return lock

    def reserve(self, path: Path) -> dict[WriterLock, OpenFile]:
        """Lock the next branch file for the handle that is held, before others can see the file.

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
        """Let all handles lock another file from now on; a held one has what was reserved."""
        self._path = path
        for lock in list(self._all):
            if lock.current.number >= 0:
                lock.current = reserved.get(lock) or OpenFile(path)
                lock.held = reserved.get(lock, lock.held)
