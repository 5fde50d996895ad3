"""Commits for tests: built from pages, and rebuilt with one fact or one byte changed."""

from __future__ import annotations

import struct
from typing import Any

from pyroaring import BitMap

from graft_vfs.format.body import BodyBuilder
from graft_vfs.format.commit import NO_HASH, CommitHeader, FrameTable, hash_of
from graft_vfs.ids import LogId, SegmentId

LOG = LogId.parse("74ggc1B6R4-2kkvcy9fi4CHJ")
OTHER_LOG = LogId.parse("74ggc1B6jg-2udz14pbDayZC")
SEGMENT = SegmentId(b"\xc0" + bytes(5) + b"\x07\xc0" + b"segment!")
WRITER = b"writer-of-a-test"
ATTEMPT = b"attempt-number-1"
TIME_MS = 1_750_000_000_000


def image(page: int, page_size: int = 512, *, salt: int = 0) -> bytes:
    """The image of a page: compressible, and different for each page and salt."""
    return struct.pack("<II", page, salt) * (page_size // 8)


def body(images: dict[int, bytes]) -> tuple[BitMap, FrameTable, list[bytes]]:
    builder = BodyBuilder()
    frames = [builder.add(page, images[page]) for page in sorted(images)]
    frames.append(builder.finish())
    return builder.pages, builder.table, [frame for frame in frames if frame is not None]


def header_of(pages: BitMap, frames: FrameTable, **changes: Any) -> CommitHeader:
    facts: dict[str, Any] = {
        "log_id": LOG,
        "lsn": 1,
        "previous_hash": NO_HASH,
        "page_size": 512,
        "page_count": max(pages) if pages else 0,
        "change_counter": 7,
        "local_commits": 3,
        "writer": WRITER,
        "attempt": ATTEMPT,
        "time_ms": TIME_MS,
        "author": "Zoë",
    }
    return CommitHeader(pages=pages, frames=frames, **facts | changes).sealed()


def commit(
    page_indexes: range | list[int] = range(1, 20), *, salt: int = 0, **changes: Any
) -> tuple[CommitHeader, bytes]:
    """A header and the whole object: header and frames."""
    page_size = changes.get("page_size", 512)
    images = {page: image(page, page_size, salt=salt) for page in page_indexes}
    pages, table, frames = body(images)
    header = header_of(pages, table, **changes)
    return header, header.encode() + b"".join(frames)


def sealed(head: bytes | bytearray) -> bytes:
    """Give header bytes (without hash) the right length and hash, as a hostile writer would."""
    data = bytearray(head)
    data[12:16] = (len(data) + 32).to_bytes(4, "little")
    return bytes(data) + hash_of(bytes(data))


def patched(encoded: bytes, offset: int, replacement: bytes) -> bytes:
    """Overwrite bytes of an encoded header and put the right hash behind it."""
    data = bytearray(encoded[:-32])
    data[offset : offset + len(replacement)] = replacement
    return sealed(data)
