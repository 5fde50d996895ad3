"""Chunks: the records of a branch log. A transaction is one or more chunks.

Little-endian:

    0   4  magic `GCHK`
    4   2  flags: 1 = COMMIT, 2 = DURABLE_BEFORE
    6   2  reserved, zero
    8   8  local LSN
    16  4  page count after the transaction (0 without COMMIT)
    20  4  change counter after the transaction (0 without COMMIT)
    24  4  number of pages n
    28  4  page size in bytes
    32  8  milliseconds since 1970
    40  8  XXH3-64 of the images
    48  8  checksum of the previous chunk (its last header field)
    56  4n page indexes
    ..  8  XXH3-64 of all of the above, seeded with the salt
    ..     n page images

The layout follows the frames of SQLite's WAL: a chunk names the checksum of its predecessor.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from xxhash import xxh3_64, xxh3_64_intdigest

from graft_vfs.pages import PAGE_SIZES, LocalLsn

COMMIT = 1
DURABLE_BEFORE = 2

CHUNK_PAGES_MAX = 65_536
CHUNK_HEAD_BYTES = 64
"""The size of a chunk without its images and page indexes."""
SMALL_PAGES_MAX = 64
"""A chunk of at most this many pages is written at once, into space zeroed in advance."""
CHUNK_MAGIC = 0x4B48_4347
CHUNK_MAGIC_BYTES = CHUNK_MAGIC.to_bytes(4, "little")
_HEADER = struct.Struct("<IHHQIIIIQQQ")
_HEADER_BYTES = 56
_CHECKSUM = struct.Struct("<Q")

assert _HEADER.size == _HEADER_BYTES
assert _HEADER_BYTES + _CHECKSUM.size == CHUNK_HEAD_BYTES


def checksum_of(images: Iterable[bytes]) -> int:
    """Return the XXH3-64 of several images, without joining them."""
    digest = xxh3_64()
    for image in images:
        digest.update(image)
    return digest.intdigest()


class _Packers(dict[int, struct.Struct]):
    """Return the packers of headers with this many page indexes; small ones are cached."""

    def __missing__(self, count: int) -> struct.Struct:
        packer = struct.Struct(f"<IHHQIIIIQQQ{count}I")
        if count <= SMALL_PAGES_MAX:
            self[count] = packer
        return packer


packers = _Packers()


class Position(NamedTuple):
    """A position between two chunks: byte offset, and the checksum of the previous chunk."""

    offset: int
    checksum: int


class Chunk(NamedTuple):
    """The header of one chunk. `images` is the file offset of its first page image."""

    flags: int
    lsn: LocalLsn
    page_count: int
    change_counter: int
    page_size: int
    time_ms: int
    images_checksum: int
    previous: int
    pages: tuple[int, ...]
    images: int
    after: Position

    @property
    def commits(self) -> bool:
        """Return True if this chunk makes its transaction visible."""
        return bool(self.flags & COMMIT)

    @property
    def before(self) -> Position:
        """The position at which this chunk begins."""
        header = _HEADER_BYTES + 4 * len(self.pages) + _CHECKSUM.size
        return Position(self.images - header, self.previous)


def head_bytes(data: bytes) -> int | None:
    """Return the length of the chunk head at the start of `data`, including its checksum.

    None if no chunk begins here. `data` may be shorter than the head.
    """
    if len(data) < _HEADER_BYTES:
        return None
    magic, _, reserved, _, _, _, count, size = _HEADER.unpack_from(data)[:8]
    if magic != CHUNK_MAGIC or reserved or count > CHUNK_PAGES_MAX or size not in PAGE_SIZES:
        return None
    return CHUNK_HEAD_BYTES + 4 * int(count)


def parse_head(data: bytes, offset: int, salt: int) -> Chunk | None:
    """Parse a whole chunk head, read at `offset` of a log with this salt.

    None if its checksum does not match. The images are not verified.
    """
    fixed = _HEADER.unpack_from(data)
    _, flags, _, lsn, page_count, counter, count, size, time_ms, images_checksum, previous = fixed
    end = _HEADER_BYTES + 4 * count
    (checksum,) = _CHECKSUM.unpack_from(data, end)
    if xxh3_64_intdigest(memoryview(data)[:end], salt) != checksum:
        return None
    images = offset + end + _CHECKSUM.size
    return Chunk(
        flags,
        lsn,
        page_count,
        counter,
        size,
        time_ms,
        images_checksum,
        previous,
        packers[count].unpack_from(data)[len(fixed) :],
        images,
        Position(images + count * size, checksum),
    )
