"""The head file: two mapped words by which processes notice each other's changes.

    word 0  end offset of the newest commit in the current branch log
    word 1  epoch: a random number, new at each change of branch
    word 2  magic and version
    word 3  a number for the machine's boot during which word 0 was written
    word 4  1 while a commit is being written, 0 once word 0 tells of it

A transaction begins with reading the first two words. If they are what the process knows, nothing
has happened. If not, the log's tail and the catalog say what did: the words are a hint, never the
truth. They are not durable, and a missing or short file is made anew. In one boot of the machine
written pages outlive any process, so an end beyond what the log holds is a sign of damage then;
after a power cut it only says that unsynced transactions were lost.

Ordering: whoever changes the branch writes the new epoch here first and commits the same number to
the catalog then. A process whose catalog row does not carry the epoch it sees here looks again at
each transaction, so a crash between the two steps costs time and never a wrong page.
"""

from __future__ import annotations

import functools
import mmap
import os
import secrets
from pathlib import Path

from xxhash import xxh3_64_intdigest

from graft_vfs.errors import FutureVersionError
from graft_vfs.local.files import storage_errors

END = 0
EPOCH = 1
_MAGIC = 2
BOOT = 3
WRITING = 4
_VERSION = 1
_MAGIC_BASE = 0x4752_4146_5448_0000
_HEAD_BYTES = 64


class HeadFile:
    """The mapped head of one volume; owned by the volume, used by every thread."""

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        """Map the file, making it if absent; raises FutureVersionError, LocalStorageError."""
        access = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        with storage_errors(path):
            descriptor = os.open(path, access | os.O_CLOEXEC, 0o666)
            try:
                if writable and os.fstat(descriptor).st_size < _HEAD_BYTES:
                    os.ftruncate(descriptor, _HEAD_BYTES)
                mode = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
                mapped = mmap.mmap(descriptor, _HEAD_BYTES, access=mode)
            except ValueError as error:
                raise OSError(0, f"the head file is too short: {error}") from error
            finally:
                os.close(descriptor)
        self.words = memoryview(mapped).cast("Q")
        found = self.words[_MAGIC]
        if found != _MAGIC_BASE + _VERSION:
            if found >> 16 == _MAGIC_BASE >> 16:
                raise FutureVersionError(
                    f"another version of graft-vfs (head file {found & 0xFFFF}) uses this volume",
                    next_step="use one version for all processes of a data directory",
                )
            if writable:
                self.words[_MAGIC] = _MAGIC_BASE + _VERSION


@functools.cache
def boot_number() -> int:
    """Return a number for this boot of the machine; 0 where the system does not tell."""
    source = Path("/proc/sys/kernel/random/boot_id")
    if not source.exists():
        return 0
    return xxh3_64_intdigest(source.read_bytes()) | 1


def new_epoch() -> int:
    """Return a number that no branch change used before: 63 random bits, never 0."""
    return secrets.randbits(63) | 1
