"""The branch log: one append-only file that holds the local commits of a volume.

Invariants:
 1. Bytes below the end of the last commit never change. A snapshot is therefore an end offset.
 2. One writer appends at a time (the volume's writer lock); any process may read at any time.
 3. A chunk belongs to the log only if its checksum is correct and it names the checksum of the
    previous chunk. So chunks left over from an abandoned transaction can never become part of a
    later one.

File header, 64 bytes, little-endian:

    0   8  magic `GRAFTLOG`
    8   2  format version, 1; 2 if the file begins with a folded run
    10  6  reserved, zero
    16  16 the volume's id
    32  8  salt, random: seeds every chunk's checksum; the first chunk names it as its predecessor
    40  24 reserved, zero

Chunks (`chunk`) follow without gaps.

A transaction is one or more chunks with the same LSN; only the last has COMMIT and makes it
visible. The first transaction of a version 2 file is a folded run: it replaces all commits of its
branch up to its LSN, and holds the newest image of each of their pages. It was durable before any
catalog named the file.

DURABLE_BEFORE means that everything before this chunk was synced when the chunk was written, so
recovery verifies only the images after it. After a crash, a torn or uncommitted tail stays in the
file until the next transaction overwrites it; readers stop before it. If a chunk with this flag
follows the point where reading stops, durable data was damaged at that point (`damaged_before`).

The file is extended sparsely, so that it need not be remapped often, and zeroed a little ahead of
the tail. Overwriting allocated blocks is cheaper than allocating them commit by commit, and syncing
them writes no metadata. A small chunk is copied into the mapping of that space, at a third of the
cost of a write call. If the file system might have to allocate a block for such a copy, a failure
would kill the process, so chunks are written by calls instead (`mapped_writes_are_safe`). Headers
are read by calls, and so are images when their checksums are verified; later reads of verified
images use the mapping. See `mapping` for the rules. The layout follows the ideas of SQLite's WAL.

Truncating the file returns the space that an abandoned transaction wrote past the tail
(`give_back`). Another process may copy small chunks into space that it zeroed. So no process zeroes
more than `_kept_bytes` past the tail that it knows, and that much is never truncated.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import secrets
import struct
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from time import time_ns

from xxhash import xxh3_64, xxh3_64_intdigest

from graft_vfs.errors import CorruptLogError, FutureVersionError
from graft_vfs.ids import VolumeId
from graft_vfs.local import ownership
from graft_vfs.local.chunk import (
    CHUNK_HEAD_BYTES,
    CHUNK_MAGIC,
    CHUNK_MAGIC_BYTES,
    COMMIT,
    DURABLE_BEFORE,
    SMALL_PAGES_MAX,
    Chunk,
    Position,
    checksum_of,
    head_bytes,
    packers,
    parse_head,
)
from graft_vfs.local.files import (
    data_sync,
    fsync_directory,
    grown_size,
    read_exactly,
    storage_errors,
    write_all,
    write_fully,
)
from graft_vfs.local.mapping import FileView, View, mapped_writes_are_safe
from graft_vfs.pages import LocalLsn

LOG_HEADER_BYTES = 64
_LOG_MAGIC = b"GRAFTLOG"
_VERSION = 2
_PLAIN, _FOLDED = 1, 2
_LOG_HEADER = struct.Struct("<8sH6x16sQ24x")
_ZERO_STEP_MIN_BYTES = 64 << 10
_ZERO_STEP_MAX_BYTES = 1 << 20
_ZERO_SKIP_BYTES = 256 << 10
_ZEROS = memoryview(bytes(_ZERO_STEP_MAX_BYTES + _ZERO_SKIP_BYTES + 4096))
_READ_BYTES = 4096
_COUNTER_MAX = 0xFFFF_FFFF
_READ_STEP_BYTES = 1 << 20
SYNC_INTERVAL_BYTES = 64 << 20
"""The maximum of images that recovery must read, because NORMAL syncs at this interval too."""

assert _LOG_HEADER.size == LOG_HEADER_BYTES


def _zero_ahead(offset: int) -> int:
    """Return how far ahead to zero space for a chunk at `offset`."""
    return min(_ZERO_STEP_MAX_BYTES, max(_ZERO_STEP_MIN_BYTES, offset // 4))


def _kept_bytes(end: int) -> int:
    """Return how far past the newest commit any process may have zeroed space."""
    return _ZERO_SKIP_BYTES + 4096 + _zero_ahead(end)


class BranchLog:
    """One open branch log file.

    Owner: a volume, as long as one of its snapshots needs it. Thread rule: `append` and `sync`
    by the holder of the writer lock; everything else by any thread.
    """

    _file = -1

    def __init__(
        self, path: Path, *, volume: VolumeId, writable: bool = True, maps: bool = True
    ) -> None:
        """Open an existing log; raises CorruptLogError if it is not a log of this volume.

        Without `maps`, it is read and written only by calls.
        """
        self.path = path
        self._volume = volume
        self._maps = maps
        self._map: mmap.mmap | None = None  # The mapping for stores.
        with storage_errors(path):
            self._file = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            self.start = self._read_header()
            with storage_errors(path):
                self._writes_in_place = mapped_writes_are_safe(path)
                self._maps_writes = writable and maps and self._writes_in_place
                # The file's length when this process last extended or checked it.
                self.capacity = os.fstat(self._file).st_size
            # This process zeroed the space from the tail up to this offset.
            self._zeroed = 0
            self.durable = 0  # This process synced everything below this offset.
            self.view: View = memoryview(b"") if maps else FileView(self._file, path)
            # The file's current length, by a cheap call, because each transaction checks it.
            self.size_bytes: Callable[[], int] = self.view.__len__
            self.remap()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        volume: VolumeId,
        folded: bool = False,
        maps: bool = True,
        replaces: Path | None = None,
    ) -> BranchLog:
        """Create an empty log; its header and name are durable on return.

        With `folded`, the first transaction replaces all commits up to its LSN. The file gets the
        owner and mode of the log that it `replaces`.
        """
        version = _FOLDED if folded else _PLAIN
        header = _LOG_HEADER.pack(_LOG_MAGIC, version, volume.raw, secrets.randbits(64))
        with storage_errors(path):
            descriptor = ownership.create(path, os.O_RDWR | os.O_EXCL, replaces=replaces)
            try:
                os.pwrite(descriptor, header, 0)
                os.ftruncate(descriptor, grown_size(len(header)))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            fsync_directory(path.parent)
        return cls(path, volume=volume, maps=maps)

    def _read_header(self) -> Position:
        with storage_errors(self.path):
            header = read_exactly(self._file, LOG_HEADER_BYTES, 0)
        step = "restore the data directory, or clone the volume again from its remote"
        if len(header) < LOG_HEADER_BYTES or header[:8] != _LOG_MAGIC:
            raise CorruptLogError(f"{self.path.name} is not a branch log", next_step=step)
        _, version, volume, salt = _LOG_HEADER.unpack(header)
        if version > _VERSION:
            raise FutureVersionError(
                f"{self.path.name} has branch log format {version}; this program reads {_VERSION}",
                next_step="upgrade graft-vfs",
            )
        if version not in {_PLAIN, _FOLDED} or volume != self._volume.raw:
            raise CorruptLogError(
                f"{self.path.name} does not belong to volume {self._volume}", next_step=step
            )
        self.folded = version == _FOLDED
        return Position(LOG_HEADER_BYTES, salt)

    @property
    def file_number(self) -> int:
        """The file descriptor."""
        return self._file

    # Reading ----------------------------------------------------------------------------------

    def remap(self) -> None:
        """Map the file at its current length; snapshots keep their mapping."""
        if not self._maps:
            return
        with storage_errors(self.path):
            length = os.fstat(self._file).st_size
            if length != len(self.view):
                access = mmap.ACCESS_WRITE if self._maps_writes else mmap.ACCESS_READ
                mapped = mmap.mmap(self._file, length, access=access)
                view = memoryview(mapped).toreadonly()
                # Ordering: the view last, because its length implies that all of this is done.
                self._map = mapped if self._maps_writes else None
                self.size_bytes = mapped.size
                self.view = view

    def read_chunk(self, position: Position) -> Chunk | None:
        """Read the chunk header at `position`; None if no chunk of this log follows.

        The images are not verified; see `images_are_sound`.
        """
        chunk = self._parse_chunk(position.offset)
        return chunk if chunk is not None and chunk.previous == position.checksum else None

    def _parse_chunk(self, offset: int) -> Chunk | None:
        with storage_errors(self.path):
            data = os.pread(self._file, _READ_BYTES, offset)
            needed = head_bytes(data)
            if needed is not None and needed > len(data):
                data = read_exactly(self._file, needed, offset)
        if needed is None or needed > len(data):
            return None
        chunk = parse_head(data, offset, self.start.checksum)
        if chunk is None or chunk.after.offset <= len(self.view):
            return chunk
        self.remap()
        return chunk if chunk.after.offset <= len(self.view) else None

    def images_are_sound(self, chunk: Chunk) -> bool:
        """Read all images of a chunk and return True if their checksum is correct."""
        return self.checksum_of(chunk.images, chunk.after.offset) == chunk.images_checksum

    def checksum_of(self, first: int, end: int) -> int:
        """Return the XXH3-64 of the bytes [first, end), read by calls.

        Raises LocalStorageError if the disk cannot read them.
        """
        digest = xxh3_64()
        with storage_errors(self.path):
            for at in range(first, end, _READ_STEP_BYTES):
                digest.update(read_exactly(self._file, min(end - at, _READ_STEP_BYTES), at))
        return digest.intdigest()

    def images_of(self, chunk: Chunk) -> list[bytes]:
        """Return the images of a chunk, read by calls; raises LocalStorageError."""
        with storage_errors(self.path):
            data = read_exactly(self._file, chunk.after.offset - chunk.images, chunk.images)
        return [data[at : at + chunk.page_size] for at in range(0, len(data), chunk.page_size)]

    def transactions(self, position: Position, lsn: LocalLsn) -> Iterator[list[Chunk]]:
        """Yield the committed transactions after `position`; the first has `lsn`.

        A folded run has the LSN of its last commit instead. Stops before the first chunk that does
        not follow. Images are not verified.
        """
        pending: list[Chunk] = []
        is_run = self.begins_with_run(position)
        while (chunk := self.read_chunk(position)) is not None:
            if is_run and not pending:
                lsn, is_run = max(lsn, chunk.lsn), False
            if chunk.lsn != lsn:
                return
            pending.append(chunk)
            position = chunk.after
            if chunk.commits:
                yield pending
                pending = []
                lsn = LocalLsn(lsn + 1)

    def begins_with_run(self, position: Position) -> bool:
        """Return True if a folded run is at `position`; it is durable, since a catalog named it."""
        return self.folded and position == self.start

    def damaged_before(self, position: Position, lsn: LocalLsn) -> bool:
        """Return True if a durable transaction was at `position`, where reading stopped.

        The evidence is a later valid chunk with an LSN above `lsn`, the missing one, that was
        written when everything before it was durable. Reads the rest of the file's data once.
        """
        for first, last in self._data_ranges(position.offset):
            for at in range(first, last, _READ_STEP_BYTES):
                # A magic number may cross the boundary of two steps.
                amount = min(last - at, _READ_STEP_BYTES + len(CHUNK_MAGIC_BYTES) - 1)
                with storage_errors(self.path):
                    data = read_exactly(self._file, amount, at)
                found = data.find(CHUNK_MAGIC_BYTES)
                while found >= 0:
                    chunk = self._parse_chunk(at + found)
                    if chunk is not None and chunk.flags & DURABLE_BEFORE and chunk.lsn > lsn:
                        return True
                    found = data.find(CHUNK_MAGIC_BYTES, found + 1)
        return False

    def _data_ranges(self, offset: int) -> Iterator[tuple[int, int]]:
        """Yield the half-open ranges after `offset` that are not holes in the sparse file."""
        length = self.size_bytes()
        while offset < length:
            try:
                first = os.lseek(self._file, offset, os.SEEK_DATA)
            except OSError:
                return  # ENXIO: only a hole follows.
            offset = min(length, os.lseek(self._file, first, os.SEEK_HOLE))
            yield first, offset

    # Writing ----------------------------------------------------------------------------------

    def append(  # noqa: PLR0917 - keywords would cost time at each commit
        self,
        position: Position,
        lsn: LocalLsn,
        pages: Collection[int],
        images: Collection[bytes],
        page_size: int,
        commit: tuple[int, int] | None,
        sync: bool = False,
    ) -> tuple[int, Position]:
        """Write one chunk at `position`; `commit` is (page count, change counter) or None.

        Returns the offset of the first image and the position after the chunk. With `sync`, the log
        is durable up to that position on return; otherwise only after a call of `sync`. After
        LocalStorageError, part of the chunk may remain: the next append at `position` overwrites
        it.
        """
        count = len(pages)
        is_small = count <= SMALL_PAGES_MAX
        # The images of a large chunk are hashed and written without copying.
        body = b"".join(images) if is_small else b""
        # Unpacking a named tuple costs more than two field accesses.
        offset, previous = position[0], position[1]
        if commit is None:
            flags, page_count, counter = 0, 0, 0
        else:
            flags = COMMIT
            page_count, counter = commit
        if self.durable >= offset:
            flags |= DURABLE_BEFORE
        head = packers[count].pack(
            CHUNK_MAGIC,
            flags,
            0,
            lsn,
            page_count,
            counter,
            count,
            page_size,
            time_ns() // 1_000_000,
            xxh3_64_intdigest(body) if is_small else checksum_of(images),
            previous,
            *pages,
        )
        checksum = xxh3_64_intdigest(head, self.start[1])
        first_image = offset + len(head) + 8
        after = first_image + count * page_size
        if after > self._zeroed:
            self._make_room(offset, after, zeroes=commit is not None)
        data = b"".join((head, checksum.to_bytes(8, "little"), body))
        mapped = self._map
        if mapped is not None and after <= self._zeroed and is_small and not sync:
            mapped[offset:after] = data
        else:
            with storage_errors(self.path):
                if is_small:
                    write_fully(self._file, data, offset)
                else:
                    with self._allocating_whole(offset):
                        write_all(self._file, [data, *images], offset)
                if sync:
                    # Syncing a page that is mapped for writing costs more than writing it.
                    data_sync(self._file)
                    self.durable = after
        # The named tuple's constructor costs three times as much, at each commit.
        return first_image, tuple.__new__(Position, (after, checksum))

    def copy_from(
        self,
        other: BranchLog,
        position: Position,
        lsn: LocalLsn,
        *,
        until: Position | None = None,
        later: tuple[int, int] = (0, 0),
    ) -> Position:
        """Append the transactions after `position` in another log; they are durable on return.

        Copying ends with the last transaction, the one that ends at `until`, or before the first
        with damaged images. Returns the position in the other log after the copied part. The copies
        get the current time, and LSNs and change counters that are `later` by so much.
        """
        end = self.start
        lsns, counters = later
        for chunks in other.transactions(position, lsn):
            if not all(other.images_are_sound(chunk) for chunk in chunks):
                break
            for chunk in chunks:
                images = other.images_of(chunk)
                counter = (chunk.change_counter + counters) & _COUNTER_MAX
                commit = (chunk.page_count, counter) if chunk.commits else None
                at = LocalLsn(chunk.lsn + lsns)
                _, end = self.append(end, at, chunk.pages, images, chunk.page_size, commit)
            position = chunks[-1].after
            if position == until:
                break
        self.sync(end.offset)
        return position

    def _make_room(self, offset: int, needed: int, *, zeroes: bool) -> None:
        """Extend the file and its mapping to `needed` bytes; zero space for small chunks if asked.

        Ordering: the file, its mapping, then the record of zeroed space. If a step fails, the next
        chunk tries again, and no copy goes to space without a mapping or blocks.
        """
        with storage_errors(self.path):
            if needed > self.capacity:
                # Another process may have extended the file. Truncating it would remove space that
                # the other process zeroed, and kill that process at its next copy.
                self.capacity = os.fstat(self._file).st_size
            if needed > self.capacity:
                capacity = grown_size(needed)
                os.ftruncate(self._file, capacity)
                self.capacity = capacity
        if self._maps and self.capacity > len(self.view):
            self.remap()
        if not zeroes:
            # An abandoned transaction must not leave a record of space that may be truncated.
            self._zeroed = 0
        elif needed - offset < _ZERO_SKIP_BYTES:
            first = max(self._zeroed, offset)
            last = min(self.capacity, -(-needed // 4096) * 4096 + _zero_ahead(offset))
            with storage_errors(self.path), self._allocating_whole(first):
                write_fully(self._file, _ZEROS[: last - first], first)
            self._zeroed = last

    @contextlib.contextmanager
    def _allocating_whole(self, offset: int) -> Iterator[None]:
        """If the disk refuses part of a write at `offset`, release the space that it allocated.

        Otherwise the first part of a failed write would keep the last space of a full disk, which
        the catalog needs for a push or for other ways to free space. This is safe, because no
        process has zeroed, or mapped for stores, space that was a hole before.
        """
        size = self.size_bytes()
        hole = os.lseek(self._file, offset, os.SEEK_HOLE) if offset < size else size
        try:
            yield
        except OSError:
            os.ftruncate(self._file, hole)
            self._zeroed, self.capacity = min(self._zeroed, hole), hole
            raise

    def reserve(self, position: Position, pages: int, page_size: int) -> int:
        """Allocate space for a small chunk of `pages` images at `position`, if needed.

        Writing such a chunk then needs no more space on a file system that overwrites in place.
        Returns the number of allocated bytes past the chunk. Raises LocalStorageError.
        """
        after = position[0] + CHUNK_HEAD_BYTES + pages * (4 + page_size)
        if after > self._zeroed:
            self._make_room(position[0], after, zeroes=True)
        return self._zeroed - after

    def is_longer_than_needed(self, end: int) -> bool:
        """Return True if `give_back` would truncate the file. One or two system calls."""
        return self._holds_data_past(end + _kept_bytes(end))

    def _holds_data_past(self, offset: int) -> bool:
        """Return True if space is allocated past `offset`; the file may be sparse."""
        with storage_errors(self.path):
            if self.size_bytes() <= offset:
                return False
            try:
                os.lseek(self._file, offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return False  # Only a hole follows.
                raise
        return True

    def give_back(self, end: int) -> None:
        """Truncate what an abandoned transaction wrote past `end`, the end of the newest commit.

        The caller holds the writer lock. Does nothing if there is nothing. Raises
        LocalStorageError.
        """
        kept = end + _kept_bytes(end)
        # A sparse extension takes no space, and after a truncation the next commit would extend the
        # file again.
        if self._holds_data_past(kept):
            # Ordering: the record first, so that no copy goes to truncated space.
            self._zeroed = min(self._zeroed, kept)
            with storage_errors(self.path):
                os.ftruncate(self._file, kept)
        self.capacity = self.size_bytes()

    def erase(self, position: Position) -> None:
        """Make the chunk at `position` unreadable; raises LocalStorageError.

        On a full copy-on-write disk, even this write may fail. No process stores through a mapping
        on such a disk, so the file is truncated instead, which needs no space.
        """
        with storage_errors(self.path):
            try:
                write_fully(self._file, bytes(CHUNK_HEAD_BYTES), position.offset)
            except OSError:
                if self._writes_in_place:
                    raise
                os.ftruncate(self._file, position.offset)
                self._zeroed, self.capacity = 0, position.offset

    def sync(self, end: int) -> None:
        """Make everything below `end` durable (fdatasync); raises LocalStorageError."""
        if self.durable < end:
            with storage_errors(self.path):
                data_sync(self._file)
            self.durable = end

    def close(self) -> None:
        """Close the file; mappings stay valid as long as snapshots hold them."""
        if self._file >= 0:
            # Ordering: forget the descriptor first. If a signal handler raised after the close, it
            # would be closed again, and its number may then belong to another file.
            file, self._file = self._file, -1
            os.close(file)

    def __del__(self) -> None:
        """Close a log that its volume has replaced, together with the last snapshot that needs it.

        Otherwise the descriptor would keep the deleted file, and its disk space, forever.
        """
        self.close()
