"""Shared by all local files: error translation, exact reads, durable names."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from graft_vfs.errors import AccessDeniedError, DiskFullError, LocalStorageError
from graft_vfs.local import ownership

_PROGRAM = Path(__file__).parents[1]
_BLOCK_BYTES = 512
_READ_BYTES_MAX = 1 << 30  # macOS refuses to read more than 2 GiB at once.
_VECTOR_MAX = 1000  # The system refuses more than 1024 buffers per call.

_NEXT_STEPS = {
    errno.ENOSPC: "free some disk space and try again; no commit is lost",
    errno.EDQUOT: "raise the disk quota and try again; no commit is lost",
    errno.EFBIG: "raise the file size limit (ulimit -f) and try again",
    errno.EROFS: "the file system is read-only; choose a writable directory",
    errno.EACCES: "check the owner and the permissions of this path and of the folders above it",
    errno.EPERM: "check the owner and the permissions of this path and of the folders above it",
    errno.ENOENT: "create the parent folder, or correct the path",
    errno.ENOTDIR: "correct the path: one of its folders is a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files",
    errno.EIO: "the disk reported an error; check the disk first",
}

_KINDS: dict[int, type[LocalStorageError]] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), DiskFullError),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), AccessDeniedError),
}


def storage_error(path: Path, error: OSError) -> LocalStorageError:
    """Translate an OSError about `path` into the declared error, with its next step.

    An OSError without an error number is not the system's and is raised unchanged: a signal handler
    may raise TimeoutError, which is an OSError but has nothing to do with a disk.
    """
    if error.errno is None:
        raise error
    reason = error.strerror or str(error)
    step = _NEXT_STEPS.get(error.errno, "check the path and the disk")
    kind = _KINDS.get(error.errno, LocalStorageError)
    return kind(f"{path}: {reason}", next_step=step)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Convert the system's OSErrors in the block to LocalStorageError."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def importing() -> AbstractContextManager[None]:
    """Raise LocalStorageError if a late import in the block cannot read its module."""
    return storage_errors(_PROGRAM)


def read_exactly(descriptor: int, length: int, offset: int) -> bytes:
    """Read `length` bytes at `offset`; shorter only at the end of the file."""
    parts: list[bytes] = []
    while length > 0:
        part = os.pread(descriptor, min(length, _READ_BYTES_MAX), offset)
        if not part:
            break
        parts.append(part)
        length -= len(part)
        offset += len(part)
    return b"".join(parts)


def write_fully(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`; short writes are continued until the disk refuses."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rest, offset = rest[written:], offset + written


def write_all(descriptor: int, parts: Sequence[bytes], offset: int) -> None:
    """Write parts one after the other from `offset`, without joining them in memory."""
    for first in range(0, len(parts), _VECTOR_MAX):
        batch = parts[first : first + _VECTOR_MAX]
        length = sum(map(len, batch))
        written = os.pwritev(descriptor, batch, offset)
        if written != length:
            write_fully(descriptor, memoryview(b"".join(batch))[written:], offset + written)
        offset += length


def fsync_directory(path: Path) -> None:
    """Make the names inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(path: Path) -> None:
    """Create a directory and its parents, if absent; the new names are durable."""
    absent = [each for each in (path, *path.parents) if not each.exists()]
    for each in reversed(absent):
        ownership.make_directory(each)
        fsync_directory(each.parent)


def data_sync(descriptor: int) -> None:
    """Make a file's bytes durable, but not its times."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:  # On macOS, only this call flushes the drive's cache.
        import fcntl  # noqa: PLC0415

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # type: ignore[attr-defined,unused-ignore]


_GROWTH_MIN_BYTES = 64 << 10
_GROWTH_MAX_BYTES = 64 << 20


def grown_size(needed: int) -> int:
    """Return the size to which a file that must hold `needed` bytes is extended.

    At most a quarter or 64 KiB more than needed, so that a small file stays small and a large one
    is seldom extended and remapped. The result grows with `needed`.
    """
    step = min(_GROWTH_MAX_BYTES, max(_GROWTH_MIN_BYTES, 1 << max(0, needed.bit_length() - 3)))
    return -(-needed // step) * step


def disk_bytes(path: Path) -> int:
    """Return what a file or directory takes on disk; what vanishes meanwhile does not count."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    size = 0
    for each in files:
        with contextlib.suppress(FileNotFoundError):
            size += each.lstat().st_blocks * _BLOCK_BYTES
    return size
