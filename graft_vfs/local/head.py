"""The head file: six mapped words by which processes detect each other's changes.

    word 0  end offset of the newest commit in the current branch log
    word 1  epoch: a random number, new at each change of branch
    word 2  magic and version
    word 3  a number that identifies the machine's boot in which word 0 was written
    word 4  1 while a commit is being written, 0 once word 0 includes it
    word 5  when a sync last learnt the newest commit of the remote log, in milliseconds since 1970;
            0 if that is not recorded

Word 5 is stored here because a poll that finds nothing new must not cost a durable write. After a
power cut it may be older than it was, but never newer.

A transaction begins by reading the first two words. If they match what the process knows, nothing
has changed. Otherwise the process reads the log's tail and the catalog: the words are only a hint.
They are not durable. A missing or short file is created again, but not while other processes have
the old one mapped, because they would not see the new one. Within one boot of the machine, written
pages outlive any process, so an end past the end of the log means damage. After a power cut, it
only means that unsynced transactions were lost.

Ordering: a process that changes the branch writes the new epoch to this file first, and then
commits the same number to the catalog. Both steps happen inside one catalog transaction, so the
epoch of the last switch remains. If a process sees an epoch here that its catalog row does not
have, it reads the catalog again at each transaction. So a crash between the two steps costs time,
but never gives a wrong page.

Programs of version 1 locked a file `writer.lock`; those of version 2 lock the branch file, so the
two would not exclude each other. A version 1 file is upgraded if no other process has the volume
open, and refused otherwise.
"""

from __future__ import annotations

import fcntl
import functools
import mmap
import os
import secrets
import sys
import time
import weakref
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from graft_vfs.errors import BusyError, FutureVersionError
from graft_vfs.local import head_words, layout, ownership
from graft_vfs.local.files import storage_errors, write_fully
from graft_vfs.local.head_words import WORDS_BYTES, CalledWords
from graft_vfs.local.mapping import mapped_writes_are_safe

END = head_words.END
EPOCH = 1
_MAGIC = 2
BOOT = head_words.BOOT
WRITING = head_words.WRITING
CHECKED = 5
_VERSION = 2
_UPGRADED_VERSION = 1
_MAGIC_BASE = 0x4752_4146_5448_0000
_HEAD_BYTES = WORDS_BYTES
_WORD_BYTES = 8
_JOIN_SECONDS = 1.0
_POLL_SECONDS = 0.002


class HeadFile:
    """The mapped head of one volume; owned by the volume, used by every thread."""

    def __init__(self, path: Path, *, writable: bool = True, maps: bool = True) -> None:
        """Map the file, creating it if absent; without `maps`, it is read and written by calls.

        Raises FutureVersionError, LocalStorageError; BusyError if the file is missing while another
        process, which would not see a new one, has the volume open.
        """
        self._path, self._writable = path, writable
        self._name = os.fsencode(path)
        directory = None
        if writable:
            with storage_errors(path):
                directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        leave = None if directory is None else weakref.finalize(self, os.close, directory)
        try:
            self._begin(path, directory, maps=maps)
        except BaseException:
            # The traceback may keep this object, and so the lock, for as long as it likes.
            if leave is not None:
                leave()
            raise

    def _begin(self, path: Path, directory: int | None, *, maps: bool) -> None:
        writable = self._writable
        with storage_errors(path):
            if directory is not None:
                _join(directory, path)
            mapped, self._device, self.inode = _mapped(path, writable=writable)
            self.words: memoryview | CalledWords = memoryview(mapped).cast("Q")
            self._map = mapped if isinstance(mapped, mmap.mmap) else None
            stores = writable and not mapped_writes_are_safe(path)
            if self._map is not None and (stores or not maps):
                self.words = CalledWords(path, self.words if maps else None, writable=writable)
        found = self.words[_MAGIC]
        if found == _MAGIC_BASE + _VERSION:
            return
        if found >> 16 == _MAGIC_BASE >> 16:
            is_old = found == _MAGIC_BASE + _UPGRADED_VERSION
            if not is_old or (directory is not None and not _is_alone(directory)):
                raise FutureVersionError(
                    f"another version of graft-vfs (head file {found & 0xFFFF}) uses this volume",
                    next_step="use one version for all processes of a data directory; end those "
                    "of the other version",
                )
        if directory is not None:
            self.words[_MAGIC] = _MAGIC_BASE + _VERSION
            fcntl.flock(directory, fcntl.LOCK_SH)

    def is_in_place(self) -> bool:
        """Return False if another file is at the path: other processes may have mapped it.

        No process creates a missing file while this one is mapped. Raises OSError.
        """
        try:
            found = os.stat(self._name)  # noqa: PTH116 - a Path costs three times as much
        except FileNotFoundError:
            return True
        return (found.st_dev, found.st_ino) == (self._device, self.inode)

    def is_whole(self) -> bool:
        """Return False if another program has truncated the file and it cannot be repaired.

        It is filled with zeros, which carry no information, so everything is read from the log and
        the catalog. A load of a truncated word would kill the process.
        """
        if self._map is None or self._map.size() >= _HEAD_BYTES:
            return True
        if not self._writable:
            return False
        with storage_errors(self._path):
            os.close(_whole(self._path, writable=True))
        return self._map.size() >= _HEAD_BYTES


class Glance(NamedTuple):
    """The words of a volume that this process need not have open.

    `end` is None if the log itself has to be read to know it.
    """

    end: int | None
    epoch: int
    checked_ms: int


def glance(path: Path) -> Glance | None:
    """Return what a head file says, by one read; None if the volume has to be opened for that.

    What it says is enough to see that a branch has no commits, and nothing else is concluded.
    Raises LocalStorageError.
    """
    data = _read(path)
    if data is None:
        return None
    words = memoryview(data).cast("Q")
    is_told = not words[WRITING] and words[BOOT] == boot_number() != 0
    return Glance(words[END] if is_told else None, words[EPOCH], words[CHECKED])


def look(path: Path) -> bytes | None:
    """Return what a head file holds, to compare with later to see whether the volume has changed.

    None if that proves nothing: no file, another version's, one that was made anew, or a commit is
    being written. Commits and changes of branch of any process change it, and settling a push does;
    a poll does not. Not for a file system on which another machine may write. Raises
    LocalStorageError.
    """
    data = _read(path)
    if data is None:
        return None
    words = memoryview(data).cast("Q")
    is_settled = words[END] and not words[WRITING]
    return data[: CHECKED * _WORD_BYTES] if is_settled else None


def note_checked(path: Path, time_ms: int) -> None:
    """Record when the remote was checked; not durable. Raises LocalStorageError.

    By a call, which needs no open volume. A file that is missing or was cut is left as it is.
    """
    with storage_errors(path):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            if os.fstat(descriptor).st_size >= _HEAD_BYTES:
                write_fully(
                    descriptor, time_ms.to_bytes(_WORD_BYTES, sys.byteorder), _WORD_BYTES * CHECKED
                )
        finally:
            os.close(descriptor)


def _read(path: Path) -> bytes | None:
    """Return the words of a head file; None if there is none of this version."""
    with storage_errors(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            data = os.pread(descriptor, _HEAD_BYTES, 0)
        finally:
            os.close(descriptor)
    is_known = len(data) == _HEAD_BYTES
    is_known = is_known and memoryview(data).cast("Q")[_MAGIC] == _MAGIC_BASE + _VERSION
    return data if is_known else None


def _is_alone(directory: int) -> bool:
    """Take the exclusive lock on the volume's directory, if no other process has it open."""
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # The attempt has released the shared lock.
        fcntl.flock(directory, fcntl.LOCK_SH)
        return False
    return True


def _join(directory: int, path: Path) -> None:
    """Lock the volume's directory, which is open: shared, but exclusive while creating the file."""
    deadline = time.monotonic() + _JOIN_SECONDS
    while not path.exists():
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # The lock's holder may be creating the file right now.
            if time.monotonic() >= deadline:
                raise BusyError(
                    f"the file {path} is missing, and other processes have the volume open",
                    next_step="end them, then open it again; nothing is lost",
                ) from None
            time.sleep(_POLL_SECONDS)
            continue
        # Written by calls, because a copy to a mapped hole would kill the process on a full disk;
        # under another name, because no process may see a short file.
        temporary = path.with_name(layout.NEW_HEAD)
        temporary.unlink(missing_ok=True)
        made = ownership.create(temporary, os.O_RDWR)
        try:
            write_fully(made, bytes(_HEAD_BYTES), 0)
        finally:
            os.close(made)
        temporary.rename(path)
    fcntl.flock(directory, fcntl.LOCK_SH)


def _mapped(path: Path, *, writable: bool) -> tuple[mmap.mmap | bytes, int, int]:
    """Map the file; returns the mapping, device and inode.

    Maps zeros if the file is missing and cannot be created, so everything is read elsewhere.
    """
    if not writable and (not path.exists() or path.stat().st_size < _HEAD_BYTES):
        return bytes(_HEAD_BYTES), 0, 0
    descriptor = _whole(path, writable=writable)
    try:
        found = os.fstat(descriptor)
        mode = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        return mmap.mmap(descriptor, _HEAD_BYTES, access=mode), found.st_dev, found.st_ino
    finally:
        os.close(descriptor)


def _whole(path: Path, *, writable: bool) -> int:
    """Open the file and fill it with zeros by calls, so that it has no holes."""
    descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        if size < _HEAD_BYTES:
            write_fully(descriptor, bytes(_HEAD_BYTES - size), size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@functools.cache
def boot_number() -> int:
    """Return a number for this boot of the machine; 0 if the system provides none."""
    source = Path("/proc/sys/kernel/random/boot_id")
    if not source.exists():
        return 0
    return xxh3_64_intdigest(source.read_bytes()) | 1


def new_epoch() -> int:
    """Return a number for a new epoch: 63 random bits, never 0."""
    return secrets.randbits(63) | 1
