"""The page cache: decompressed frames of one remote log, kept on this machine.

The cache of a log is a row of arenas. An arena is two files that only grow:

    NNNN.pages    page images, frame behind frame (mapped, read without system calls)
    NNNN.frames   one record of 40 bytes a frame, little-endian:
                  0 8 remote LSN of the commit   8 4 frame number   12 4 length in bytes
                  16 8 offset in NNNN.pages      24 8 XXH3-64 of the images
                  32 8 XXH3-64 of the 32 bytes before

Invariants:
 1. A frame counts as present only after its images were proved against its record: when this
    process wrote them, or once at first use. So a power cut that kept the record and lost the
    images costs a fetch, never a wrong page, and nothing here is ever synced.
 2. Bytes are never overwritten. Room is made by deleting the least recently used arena whole, which
    readers that have it mapped do not notice. Another process gives its space back when it next
    looks for a frame that it does not know.

All of it may be deleted while nobody has it open; it is fetched again then.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import re
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from xxhash import xxh3_64_intdigest

from graft_vfs.counters import Counters
from graft_vfs.local.files import (
    read_exactly,
    storage_errors,
    write_fully,
)
from graft_vfs.local.mapping import forget_resident
from graft_vfs.pages import RemoteLsn
from graft_vfs.reentry import occupied

_logger = logging.getLogger(__name__)

_RECORD = struct.Struct("<QIIQQQ")
RECORD_BYTES = 40
_SUMMED_BYTES = 32
_ARENA_BYTES_MAX = 1 << 30
_ARENAS_PER_CACHE = 8
_GROWTH_BYTES = 64 << 20
_ARENA = re.compile(r"[0-9]{4,9}\.frames", re.ASCII)

assert _RECORD.size == RECORD_BYTES

Place = tuple[memoryview, int]


class _Arena:
    """One pair of files; owned by its cache, used under the cache's lock."""

    def __init__(self, directory: Path, number: int, *, writable: bool) -> None:
        self.number = number
        self.pages_path = directory / f"{number:04d}.pages"
        self.frames_path = directory / f"{number:04d}.frames"
        self.used = time.monotonic()
        self.tail = 0
        self._records_read = 0
        flags = (os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY) | os.O_CLOEXEC
        with storage_errors(self.pages_path):
            self.frames_file = os.open(self.frames_path, flags, 0o666)
            try:
                self.pages_file = os.open(self.pages_path, flags, 0o666)
            except OSError:
                os.close(self.frames_file)
                raise
        self.view = memoryview(b"")

    def new_records(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield (LSN, frame, length, offset, checksum) of records not read before."""
        with storage_errors(self.frames_path):
            size = os.fstat(self.frames_file).st_size // RECORD_BYTES * RECORD_BYTES
            if size <= self._records_read:
                return
            data = read_exactly(self.frames_file, size - self._records_read, self._records_read)
        for at in range(0, len(data) - RECORD_BYTES + 1, RECORD_BYTES):
            lsn, frame, length, offset, images_sum, record_sum = _RECORD.unpack_from(data, at)
            if xxh3_64_intdigest(data[at : at + _SUMMED_BYTES]) != record_sum:
                continue  # A power cut tore this record; its frame is fetched again.
            self.tail = max(self.tail, offset + length)
            yield lsn, frame, length, offset, images_sum
        self._records_read = size

    def map_to(self, end: int) -> bool:
        """Map the pages up to `end`; False if the file is shorter, as after a power cut."""
        if end > len(self.view):
            with storage_errors(self.pages_path):
                size = os.fstat(self.pages_file).st_size
                if size < end:
                    return False
                self.view = memoryview(mmap.mmap(self.pages_file, size, access=mmap.ACCESS_READ))
        return True

    def append(self, lsn: RemoteLsn, frame: int, images: bytes) -> int:
        """Write a frame and its record; the caller holds the arena's file lock."""
        offset, length = self.tail, len(images)
        with storage_errors(self.pages_path):
            if os.fstat(self.pages_file).st_size < offset + length:
                os.ftruncate(
                    self.pages_file, -(-(offset + length) // _GROWTH_BYTES) * _GROWTH_BYTES
                )
            write_fully(self.pages_file, images, offset)
            summed = struct.pack("<QIIQQ", lsn, frame, length, offset, xxh3_64_intdigest(images))
            record = summed + xxh3_64_intdigest(summed).to_bytes(8, "little")
            write_fully(self.frames_file, record, self._records_read)
        self._records_read += RECORD_BYTES
        self.tail = offset + length
        return offset

    def close(self) -> None:
        os.close(self.frames_file)
        os.close(self.pages_file)


class PageCache:
    """The cached frames of one remote log.

    Owner: the engine, one per log. Thread rule: any thread; processes share the files. Without
    `writable` what others cached is used and new frames are kept in memory maps of nobody else.
    """

    def __init__(
        self,
        directory: Path,
        *,
        bytes_max: int | None = None,
        writable: bool = True,
        counters: Counters | None = None,
    ) -> None:
        """Open the cache at `directory`, making it if absent; raises LocalStorageError."""
        self.counters = counters or Counters()
        self._directory = directory
        self._bytes_max = bytes_max
        self._arena_bytes = _ARENA_BYTES_MAX
        if bytes_max is not None:
            self._arena_bytes = max(1, min(_ARENA_BYTES_MAX, bytes_max // _ARENAS_PER_CACHE))
        self._writable = writable
        self._lock = threading.RLock()
        self._arenas: dict[int, _Arena] = {}
        # (LSN, frame) -> (arena number, offset, length, checksum, or None once proved)
        self._frames: dict[tuple[int, int], tuple[int, int, int, int | None]] = {}
        self._memory: dict[tuple[int, int], Place] = {}
        if writable:
            with storage_errors(directory):
                directory.mkdir(parents=True, exist_ok=True)
        self._refresh()

    def _refresh(self) -> None:
        """Take in what other processes cached, and forget what they deleted."""
        if not self._directory.exists():
            return
        with storage_errors(self._directory):
            names = [path.name for path in self._directory.iterdir()]
        present = {int(name[:-7]) for name in names if _ARENA.fullmatch(name)}
        for number in sorted(set(self._arenas) - present):
            self._forget(number)
        for number in sorted(present):
            arena = self._arenas.get(number)
            if arena is None:
                arena = self._arenas[number] = _Arena(
                    self._directory, number, writable=self._writable
                )
            for lsn, frame, length, offset, images_sum in arena.new_records():
                self._frames.setdefault((lsn, frame), (number, offset, length, images_sum))

    def _forget(self, number: int) -> None:
        self._arenas.pop(number).close()
        self._frames = {key: at for key, at in self._frames.items() if at[0] != number}

    def find(self, lsn: RemoteLsn, frame: int) -> Place | None:
        """Return where the proved images of a frame are, or None. No request, no sync."""
        with self._lock:
            found = self._prove(lsn, frame)
            if found is None:
                self._refresh()
                found = self._prove(lsn, frame)
            return found

    def _prove(self, lsn: RemoteLsn, frame: int) -> Place | None:
        key = (lsn, frame)
        kept = self._memory.get(key)
        if kept is not None:
            return kept
        known = self._frames.get(key)
        if known is None:
            return None
        number, offset, length, images_sum = known
        arena = self._arenas[number]
        arena.used = time.monotonic()
        if not arena.map_to(offset + length):
            del self._frames[key]
            return None
        if images_sum is not None:
            if xxh3_64_intdigest(arena.view[offset : offset + length]) != images_sum:
                del self._frames[key]
                return None
            self._frames[key] = (number, offset, length, None)
        return arena.view, offset

    def add(self, lsn: RemoteLsn, frame: int, images: bytes) -> Place:
        """Keep a frame's images and return where they are; raises LocalStorageError."""
        with self._lock:  # Else other threads could make room for theirs in between.
            self.add_all(lsn, frame, [images])
            place = self.find(lsn, frame)
        assert place is not None
        return place

    def add_all(self, lsn: RemoteLsn, first: int, frames: Iterable[bytes]) -> None:
        """Keep neighbouring frames of one commit, the first of which has number `first`.

        One pass over the files for all of them. Raises LocalStorageError.
        """
        with occupied(), self._lock:
            if not self._writable:
                for frame, images in enumerate(frames, first):
                    self._memory[lsn, frame] = (memoryview(images), 0)
                return
            with self._appending() as arena:
                for frame, images in enumerate(frames, first):
                    offset = arena.append(lsn, frame, images)
                    self._frames[lsn, frame] = (arena.number, offset, len(images), None)

    @contextlib.contextmanager
    def _appending(self) -> Iterator[_Arena]:
        """Hold the newest arena for appending, with all that other processes wrote to it."""
        while True:
            self._refresh()
            number = max(self._arenas, default=0)
            arena = self._arenas.get(number)
            if arena is None or arena.tail >= self._arena_bytes:
                number += 1
                arena = self._arenas[number] = _Arena(self._directory, number, writable=True)
                self._make_room()
            fcntl.flock(arena.frames_file, fcntl.LOCK_EX)
            try:
                if not arena.frames_path.exists():
                    continue  # Another process deleted the arena before the lock was taken.
                self._refresh()
                yield arena
                return
            finally:
                fcntl.flock(arena.frames_file, fcntl.LOCK_UN)

    def _make_room(self) -> None:
        """Delete the least recently used arenas beyond the cache's bound."""
        if self._bytes_max is None:
            return
        newest = max(self._arenas)
        room = self._bytes_max - self._arena_bytes
        while sum(arena.tail for arena in self._arenas.values()) > room:
            old = [arena for arena in self._arenas.values() if arena.number != newest]
            if not old:
                return
            arena = min(old, key=lambda arena: arena.used)
            self._delete(arena)
            self.counters.add("arenas_evicted")
            self.counters.add("bytes_evicted", arena.tail)
            _logger.info(
                "page cache %s: evicted %d bytes, the least recently used",
                self._directory.name,
                arena.tail,
            )

    def _delete(self, arena: _Arena) -> None:
        with storage_errors(arena.frames_path):
            arena.frames_path.unlink(missing_ok=True)
            arena.pages_path.unlink(missing_ok=True)
        self._forget(arena.number)

    def clear(self) -> None:
        """Delete everything: a frame's number names its content only within one known history."""
        with self._lock:
            if not self._writable:
                return
            self._refresh()
            for arena in list(self._arenas.values()):
                self._delete(arena)

    def present(self) -> set[tuple[int, int]]:
        """Return (LSN, frame) of everything that is here, proved or not."""
        with self._lock:
            self._refresh()
            return {*self._frames, *self._memory}

    def size_bytes(self) -> int:
        """Return how many bytes of page images are here, as far as this process has seen."""
        with self._lock:
            return sum(arena.tail for arena in self._arenas.values())

    def forget_resident(self) -> None:
        """Let go of mapped pages that were read; they are mapped again when they are needed."""
        with self._lock:
            for arena in self._arenas.values():
                forget_resident(arena.view)

    def close(self) -> None:
        """Close the files; maps live on as long as snapshots hold them."""
        with self._lock:
            for arena in self._arenas.values():
                arena.close()
            self._arenas.clear()
            self._frames.clear()
            self._memory.clear()

    def __del__(self) -> None:
        """Close a cache with the last view that reads from it."""
        self.close()
