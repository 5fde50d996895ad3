"""Frames: up to 16 page images compressed together, the smallest unit of a range read.

A frame is one zstd frame with its content size in its header. A reader verifies the XXH3-128 of the
compressed bytes before it decompresses them. It rejects a frame whose content size differs from
that of its pages, so a frame cannot make it allocate more.

Invariants:
 1. Only bytes with a correct checksum reach the decompressor.
 2. Decoding returns exactly the bytes of the pages, or raises CorruptObjectError.
 3. Nothing follows the zstd frame.

16 pages of 4 KiB are a measured compromise: a point query fetches about 30 KiB, and a scan combines
adjacent frames into one request anyway.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

import zstandard
from xxhash import xxh3_128_digest

from graft_vfs.errors import CorruptObjectError

FRAME_PAGES = 16
FRAME_PAGES_MAX = 64
CHECKSUM_BYTES = 16
_LEVEL = 3


class _Codecs(threading.local):
    """A compressor and a decompressor per thread, because neither can be shared."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()


_codecs = _Codecs()


class Frames(Protocol):
    """Where the frames of one object are: all of them, or those that are still needed.

    Offsets are relative to the first frame of the object. Thread rule: any thread; it is immutable.
    """

    @property
    def frame_pages(self) -> int:
        """Pages in each frame but the last."""

    def frame_of(self, slot: int) -> int:
        """Return the 0-based frame that holds a 0-based slot."""

    def byte_range(self, first: int, end: int) -> tuple[int, int]:
        """Return (offset, length) in bytes of the frames [first, end)."""

    def checksum(self, frame: int) -> bytes:
        """Return the XXH3-128 of a compressed frame."""


def compress(data: bytes) -> bytes:
    """Return one zstd frame with its content size."""
    return _codecs.compressor.compress(data)


def encode_frame(images: Sequence[bytes]) -> bytes:
    """Compress 1 to 64 page images, in order, into one frame."""
    assert 1 <= len(images) <= FRAME_PAGES_MAX
    return compress(b"".join(images))


def checksum_of(frame: bytes | memoryview) -> bytes:
    """Return the 16-byte checksum of a compressed frame."""
    return xxh3_128_digest(frame)


def compressed_bytes_max(page_size: int, page_count: int) -> int:
    """Return the maximum size of a valid frame of this many pages (zstd's bound)."""
    content = page_size * page_count
    return content + (content >> 8) + 512


def decode_frame(
    frame: bytes | memoryview, *, page_size: int, page_count: int, checksum: bytes, name: str
) -> bytes:
    """Return exactly page_count * page_size bytes; `name` identifies the frame in errors.

    Raises CorruptObjectError for anything else. Allocates no more than the pages need.
    """
    if xxh3_128_digest(frame) != checksum:
        raise CorruptObjectError(
            f"{name}: checksum mismatch; the bytes are not those that were pushed",
            next_step="try again; if that fails, restore the object from a replica or a backup",
        )
    return decompress(frame, page_size * page_count, name=name)


def decompress(frame: bytes | memoryview, expected: int, *, name: str) -> bytes:
    """Return exactly the expected number of bytes, and allocate no more.

    Raises CorruptObjectError for anything but one zstd frame of this content size.
    """
    try:
        claimed = zstandard.get_frame_parameters(frame).content_size
        if claimed != expected:
            raise CorruptObjectError(f"{name}: it claims {claimed} bytes instead of {expected}")
        content = _codecs.decompressor.decompress(
            frame, max_output_size=expected, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise CorruptObjectError(f"{name}: {error}") from error
    if len(content) != expected:
        raise CorruptObjectError(f"{name}: {len(content)} bytes instead of {expected}")
    return content
