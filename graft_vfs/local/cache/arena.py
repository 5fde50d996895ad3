"""Arenas: pairs of append-only files with decompressed frames of one remote log.

    NNNN.images  page images, frame after frame
    NNNN.index   header of 16 bytes: magic `GRAFTCCH`, format version (2 bytes, 2), 6 reserved
                 then one record of 48 bytes per frame, little-endian:
                  0 16 source: for a commit its LSN (8) and the first 8 bytes of its hash
                 16 4 frame number               20 4 length in bytes
                 24 8 offset in NNNN.images      32 8 XXH3-64 of the images
                 40 8 XXH3-64 of the 40 bytes before

Version 1 had other file names and no hash, so it did not record which history a frame belonged to.
Its files are deleted unread. Files of a later version are left alone.

Invariants:
 1. Bytes below the tail are never overwritten. An arena is deleted whole, by any process at any
    time.
 2. Images are read through the mapping only after a call has read and verified them, or has written
    them (see `mapping`).
 3. One process appends at a time, holding flock on the index. A process does not wait for the lock,
    because it can use another arena.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from graft_vfs.errors import LocalStorageError
from graft_vfs.local import layout, ownership
from graft_vfs.local.files import (
    grown_size,
    read_exactly,
    storage_error,
    storage_errors,
    write_fully,
)
from graft_vfs.local.mapping import View, forget_resident, view_of

FORMAT_VERSION = 2
HEADER_BYTES = 16
RECORD_BYTES = 48
_LEFT_FREE_BYTES = 1 << 20
"""The cache takes no space of a disk that has less than this; what it keeps, it keeps in memory."""
_HEADER = struct.Struct("<8sH6x")
_RECORD = struct.Struct("<16sIIQQQ")
_SUMMED_BYTES = 40
_MAGIC = b"GRAFTCCH"
_TOUCH_SECONDS = 60.0
# Looked up once, because a transaction begins with this call.
_lseek, _SEEK_END = os.lseek, os.SEEK_END

assert _HEADER.size == HEADER_BYTES
assert _RECORD.size == RECORD_BYTES


class FrameKey(NamedTuple):
    """What a frame is: the 16 bytes that name its source in its log, and its number there."""

    source: bytes
    frame: int


class Record(NamedTuple):
    """The place of a frame in an arena, and the checksum of its images."""

    key: FrameKey
    length: int
    offset: int
    checksum: int


def commit_source(lsn: int, commit_hash: bytes) -> bytes:
    """Return a commit's name as a source of frames: its LSN, and part of its hash."""
    return lsn.to_bytes(8, "little") + commit_hash[:8]


class Arena:
    """One pair of files. Owner: its log's cache, under that cache's lock."""

    _file = -1

    def __init__(self, directory: Path, number: int, *, maps: bool) -> None:
        """Open an existing arena; raises LocalStorageError, also for a later version."""
        self.number = number
        self.index_path = layout.arena_file(directory, number, layout.INDEX)
        self.images_path = layout.arena_file(directory, number, layout.IMAGES)
        self.used = time.time()
        self.tail = 0
        self.is_whole = True
        self.view: View = memoryview(b"")
        self._maps = maps
        self._touched = self.used
        self.index_end = HEADER_BYTES
        with storage_errors(self.index_path):
            _check_index(self.index_path)
        with storage_errors(self.images_path):
            self._file = os.open(self.images_path, os.O_RDONLY | os.O_CLOEXEC)

    @classmethod
    def create(cls, directory: Path, number: int, *, maps: bool) -> Arena:
        """Create an empty arena; raises FileExistsError, LocalStorageError."""
        flags = os.O_WRONLY | os.O_EXCL
        path = layout.arena_file(directory, number, layout.INDEX)
        try:
            # The index comes last: without its complete header there is no arena, even after a
            # crash.
            os.close(ownership.create(layout.arena_file(directory, number, layout.IMAGES), flags))
            file = ownership.create(path, flags)
            try:
                write_fully(file, _HEADER.pack(_MAGIC, FORMAT_VERSION), 0)
            finally:
                os.close(file)
        except FileExistsError:
            raise
        except OSError as error:
            raise storage_error(path, error) from error
        return cls(directory, number, maps=maps)

    def is_deleted(self) -> bool:
        """Return True if the files were removed from the directory, or replaced."""
        try:
            # The open descriptor prevents reuse of the inode number.
            return not os.path.samestat(self.images_path.stat(), os.fstat(self._file))
        except OSError:
            return True

    def new_records(self) -> list[Record]:
        """Return the records added since the last call; raises LocalStorageError."""
        with storage_errors(self.index_path):
            whole = (self.index_path.stat().st_size - HEADER_BYTES) // RECORD_BYTES
            size = HEADER_BYTES + whole * RECORD_BYTES
            if size <= self.index_end:
                return []
            file = os.open(self.index_path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = read_exactly(file, size - self.index_end, self.index_end)
            finally:
                os.close(file)
        with storage_errors(self.images_path):
            size = os.fstat(self._file).st_size
        records = [each for each in _records(data) if each.offset + each.length <= size]
        read = len(data) // RECORD_BYTES
        self.index_end += read * RECORD_BYTES
        self.is_whole &= len(records) == read
        self.tail = max([self.tail, *(each.offset + each.length for each in records)])
        return records

    def verify(self, record: Record) -> bool:
        """Read a frame's images by a call and return True if their checksum is correct."""
        images = self.read(record)
        return images is not None and xxh3_64_intdigest(images) == record.checksum

    def read(self, record: Record) -> bytes | None:
        """Read a frame's images by a call; None if the file is too short, or the disk fails."""
        try:
            if record.offset + record.length > os.fstat(self._file).st_size:
                return None
            images = read_exactly(self._file, record.length, record.offset)
        except (OSError, OverflowError):
            return None
        return images if len(images) == record.length else None

    def map_to(self, end: int) -> bool:
        """Map the images up to `end`; False if the file is shorter. Raises LocalStorageError."""
        if end > len(self.view):
            with storage_errors(self.images_path):
                size = os.fstat(self._file).st_size
            if size < end:
                return False
            self.view = view_of(self._file, self.images_path, size, maps=self._maps)
        return True

    def is_cut(self) -> bool:
        """Return True if another program has truncated the file; it must not be loaded from."""
        try:
            return _lseek(self._file, 0, _SEEK_END) < self.tail
        except OSError:
            return True

    def note_use(self) -> None:
        """Record the arena's use; now and then in the file's times, for other processes."""
        self.used = time.time()
        if self.used - self._touched > _TOUCH_SECONDS:
            self._touched = self.used
            with contextlib.suppress(OSError):
                os.utime(self.index_path)

    def forget_resident(self) -> None:
        """Release mapped pages that were read."""
        forget_resident(self.view)

    @contextlib.contextmanager
    def appending(self) -> Iterator[Appender | None]:
        """Lock the arena for appending; None if another process has the lock, or if it is unfit.

        It is unfit if it is deleted or incomplete: a reader may still use bytes that were lost in a
        power cut or truncated by another program, so they must not be overwritten. Records that
        other processes appended must be read before anything is written. Raises LocalStorageError.
        """
        with contextlib.ExitStack() as stack:
            with storage_errors(self.index_path):
                index = os.open(self.index_path, os.O_RDWR | os.O_CLOEXEC)
                stack.callback(os.close, index)
                try:
                    fcntl.flock(index, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield None
                    return
                # Explicitly, because a child forked at this moment inherits the descriptor.
                stack.callback(fcntl.flock, index, fcntl.LOCK_UN)
            with storage_errors(self.images_path):
                images = os.open(self.images_path, os.O_RDWR | os.O_CLOEXEC)
                stack.callback(os.close, images)
                is_other = not os.path.samestat(os.fstat(images), os.fstat(self._file))
            if is_other or self.is_cut() or not self.is_whole:
                yield None
                return
            yield Appender(self, index, images)

    def __del__(self) -> None:
        """Close the file; mappings stay valid while they are in use."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Appender:
    """The right to append to an arena, inside `Arena.appending`."""

    def __init__(self, arena: Arena, index: int, images: int) -> None:
        self.arena = arena
        self._index = index
        self._images = images

    def growth(self, length: int, *, most: int) -> int:
        """Return by how many bytes the files grow for a frame of `length` bytes.

        No space is reserved beyond a file size of `most` bytes.
        """
        with storage_errors(self.arena.images_path):
            size = os.fstat(self._images).st_size
        needed = self.arena.tail + length
        wanted = max(needed, min(grown_size(needed), most))
        return RECORD_BYTES + max(0, wanted - size)

    def append(self, key: FrameKey, images: bytes, *, growth: int) -> Record:
        """Write a frame and its record; if it raises LocalStorageError, nothing is appended."""
        arena = self.arena
        record = Record(key, len(images), arena.tail, xxh3_64_intdigest(images))
        try:
            with storage_errors(arena.images_path):
                self._leave_room(len(images))
                if growth > RECORD_BYTES:
                    size = os.fstat(self._images).st_size
                    os.ftruncate(self._images, size + growth - RECORD_BYTES)
                write_fully(self._images, images, record.offset)
            with storage_errors(arena.index_path):
                write_fully(self._index, _packed(record), arena.index_end)
        except LocalStorageError:
            # Release useless space on a full disk.
            with contextlib.suppress(OSError):
                os.ftruncate(self._images, arena.tail)
                os.ftruncate(self._index, arena.index_end)
            raise
        arena.index_end += RECORD_BYTES
        arena.tail += len(images)
        return record

    def _leave_room(self, length: int) -> None:
        """Refuse to use the last space of a disk: commits and pushes need it."""
        found = os.fstatvfs(self._images)
        if found.f_bavail * found.f_frsize < length + _LEFT_FREE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _check_index(path: Path) -> None:
    """Raise LocalStorageError if a file is not an index of this version."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header = read_exactly(file, HEADER_BYTES, 0)
    finally:
        os.close(file)
    if len(header) < HEADER_BYTES or _HEADER.unpack(header) != (_MAGIC, FORMAT_VERSION):
        raise LocalStorageError(f"{path} is not an index of format version {FORMAT_VERSION}")


def _packed(record: Record) -> bytes:
    key = record.key
    summed = struct.pack("<16sIIQQ", *key, record.length, record.offset, record.checksum)
    return summed + xxh3_64_intdigest(summed).to_bytes(8, "little")


def _records(data: bytes) -> Iterator[Record]:
    """Yield the valid records in `data`; a power cut may have torn some."""
    view = memoryview(data)
    for at in range(0, len(data) - RECORD_BYTES + 1, RECORD_BYTES):
        source, frame, length, offset, checksum, own_sum = _RECORD.unpack_from(data, at)
        if xxh3_64_intdigest(view[at : at + _SUMMED_BYTES]) == own_sum:
            yield Record(FrameKey(source, frame), length, offset, checksum)
