"""Mapped files: only where a load or a store cannot end the process.

The kernel answers a load or a store that it cannot serve with SIGBUS, which ends the process; a
call returns an error instead. It cannot serve

- a hole on tmpfs without memory left: it is allocated at the first touch, reads included;
- a store that needs a new block when the disk is full: always on btrfs and other copy-on-write file
  systems, on xfs for blocks that a reflink copy shares;
- what lies beyond the end of a file that another program has cut;
- a sector that the disk cannot read.

So the rules for every mapped file are:

 1. Bytes are loaded only after a call of this process has read or written them. The call is what
    fails, and the checksum of what it read is verified at the same time.
 2. Bytes are stored only where `mapped_writes_are_safe`, and where a call has written before.
 3. A transaction begins with a look at the file's length, unless the last look was just before.

What these leave is a file that is cut within a transaction, and a sector that fails after it was
read well and dropped from memory. With the setting `mmap = "off"` nothing is mapped: a `FileView`
stands in, which reads by calls.
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
    """A file that is read by calls; a slice of it is like a slice of a mapping.

    Owner: those who read; the file stays open for them, also after its log closed it. Thread rule:
    any thread.
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

        Raises LocalStorageError if they cannot be read, or if the file ends before.
        """
        first, end = place.start, place.stop
        try:
            # As a rule one call reads all of it; this is the way of each page.
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
                "program has cut it",
                next_step="restore the data directory, or clone the volume again from its remote",
            )
        return data

    def __len__(self) -> int:
        """Return the length of the file now."""
        with storage_errors(self._path):
            return os.fstat(self._descriptor).st_size

    def __del__(self) -> None:
        """Close the file with the last reader."""
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
    """Return a copy of a temporary file's first bytes, in the system's place for such files."""
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
    """Give parts as views of a mapped temporary file, so that they are never in memory together.

    The file has no name, so nothing is left of it whatever happens. It is in `directory` or, once
    that has no room, where the system keeps temporary files: a push is a way out of a full disk.
    Raises LocalStorageError.
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
    """Release the pages of a mapped file that this process has touched.

    They stay in the system's page cache and are mapped again when they are read; without this a
    scan of a large file would count as memory of this process.
    """
    if isinstance(view, memoryview) and isinstance(view.obj, mmap.mmap):
        view.obj.madvise(mmap.MADV_DONTNEED)


def mapped_writes_are_safe(path: Path) -> bool:
    """Return True if a mapped page that was written before can be stored to without allocating.

    A copy-on-write file system allocates at such a moment, and if the disk is full then, the kernel
    kills the process; xfs does so for blocks that a reflink copy shares. True only for file systems
    on Linux that are known to write in place.
    """
    mount = mount_of(path)
    return mount is not None and mount.type in WRITES_IN_PLACE
