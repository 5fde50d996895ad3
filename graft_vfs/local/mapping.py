"""Mapped files: used only where a load or a store cannot kill the process.

If the kernel cannot serve a load or a store, it sends SIGBUS, which kills the process; a call
returns an error instead. It cannot serve

- a hole on tmpfs when memory is exhausted: even a read allocates it;
- a store that needs a new block on a full disk: any store on btrfs and other copy-on-write file
  systems, and on xfs a store to blocks shared with a reflink copy;
- an address past the end of a file that another program has truncated;
- a sector that the disk cannot read.

So the rules for every mapped file are:

 1. Bytes are loaded only after a call of this process has read or written them. So it is the call
    that fails, and the checksum of the bytes is verified at the same time.
 2. Bytes are stored only if `mapped_writes_are_safe`, and only where a call has written before.
 3. A transaction begins with a check of the file's length, unless the last check is recent.

Two cases remain: a file that is truncated during a transaction, and a sector that fails after it
was read successfully and evicted from memory. With the setting `mmap = "off"`, nothing is mapped: a
`FileView`, which reads by calls, replaces the mapping.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from graft_vfs.errors import LocalStorageError
from graft_vfs.local.file_systems import WRITES_IN_PLACE, mount_of
from graft_vfs.local.files import read_exactly, storage_error, storage_errors, write_fully


class FileView:
    """A file that is read by calls, with the interface of a mapping.

    Owner: the readers; the file stays open for them after its log has closed it. Thread rule: any
    thread.
    """

    __slots__ = ("_descriptor", "_path")

    _descriptor: int

    def __init__(self, descriptor: int, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        with storage_errors(path):
            self._descriptor = os.dup(descriptor)

    def __getitem__(self, place: slice) -> bytes:
        """Return the bytes of a slice with a start and a stop.

        Raises LocalStorageError if they cannot be read, or if the file is too short.
        """
        first, end = place.start, place.stop
        try:
            # Usually one call reads all of it; every page read takes this path.
            data = os.pread(self._descriptor, end - first, first)
        except OSError as error:
            raise storage_error(self._path, error) from error
        return data if len(data) == end - first else self._read_on(data, first, end)

    def _read_on(self, data: bytes, first: int, end: int) -> bytes:
        with storage_errors(self._path):
            at = first + len(data)
            data += read_exactly(self._descriptor, end - at, at)
        if len(data) != end - first:
            raise LocalStorageError(
                f"{self._path} ends at byte {first + len(data)}, but byte {end} is needed: another "
                "program has truncated it",
                next_step="restore the data directory, or clone the volume again from its remote",
            )
        return data

    def __len__(self) -> int:
        """Return the file's current length."""
        with storage_errors(self._path):
            return os.fstat(self._descriptor).st_size

    def __del__(self) -> None:
        """Close the file together with its last reader."""
        if self._descriptor >= 0:
            os.close(self._descriptor)


View = memoryview | FileView
"""The bytes of a file: mapped, or read by calls."""


def view_of(descriptor: int, path: Path, length: int, *, maps: bool) -> View:
    """Return the first `length` bytes of an open file, mapped for reading if `maps`.

    The caller follows rule 1 of this module. Raises LocalStorageError.
    """
    if not maps:
        return FileView(descriptor, path)
    if not length:
        return memoryview(b"")
    with storage_errors(path):
        return memoryview(mmap.mmap(descriptor, length, access=mmap.ACCESS_READ))


_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def _moved_elsewhere(file: IO[bytes], length: int) -> IO[bytes]:
    """Return a copy of a temporary file's first bytes, in the system's temporary directory."""
    other = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        file.truncate(length)
        file.seek(0)
        shutil.copyfileobj(file, other)
        other.flush()
        file.truncate(0)
    except BaseException:
        other.close()
        raise
    return other


@contextlib.contextmanager
def spooled(directory: Path, parts: Iterable[bytes]) -> Iterator[list[memoryview]]:
    """Return parts as views of a mapped temporary file, so that they are not in memory together.

    The file has no name, so it never outlives the process. It is in `directory` or, if that is
    full, in the system's temporary directory: a push must work even on a full disk. Raises
    LocalStorageError.
    """
    with contextlib.ExitStack() as files, storage_errors(directory):
        file: IO[bytes] = files.enter_context(tempfile.TemporaryFile(dir=directory))
        lengths: list[int] = []
        written = 0
        for part in parts:
            try:
                write_fully(file.fileno(), part, written)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                file = files.enter_context(_moved_elsewhere(file, written))
                write_fully(file.fileno(), part, written)
            lengths.append(len(part))
            written += len(part)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        view = memoryview(mapped)
        ends = list(itertools.accumulate(lengths))
        starts = [0, *ends[:-1]]
    try:
        yield [view[first:end] for first, end in zip(starts, ends, strict=True)]
    finally:
        forget_resident(view)


def forget_resident(view: View) -> None:
    """Release the mapped pages that this process has touched (madvise).

    They stay in the kernel's page cache and are mapped again when they are read. Without this, a
    scan of a large file would count as memory of this process.
    """
    if isinstance(view, memoryview) and isinstance(view.obj, mmap.mmap):
        view.obj.madvise(mmap.MADV_DONTNEED)


def mapped_writes_are_safe(path: Path) -> bool:
    """Return True if a store to a mapped page that was written before allocates nothing.

    A copy-on-write file system allocates a block for such a store, and xfs does for blocks shared
    with a reflink copy; on a full disk, the kernel then kills the process. True only for file
    systems on Linux that are known to overwrite in place.
    """
    mount = mount_of(path)
    return mount is not None and mount.type in WRITES_IN_PLACE
