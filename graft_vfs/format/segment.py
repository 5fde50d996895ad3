"""Segments: objects that hold only frames, for commits that are too large to contain them.

    0   8  magic `GRAFTSEG`
    8   2  format version, 1
    10  6  reserved, zero
    16 16  segment id
    32     frames, one after the other; the commit that names the segment has their offsets

Invariants:
 1. A segment is written before its commit and never changes.
 2. A reader does not need the header: the commit has ranges and checksums. The header identifies
    the object to people and tools that find it without its commit.

After a crash between the two writes, no commit names the segment, and collection removes it after
the grace period.
"""

from __future__ import annotations

import struct

from graft_vfs.errors import CorruptObjectError, FutureVersionError
from graft_vfs.ids import SegmentId

SEGMENT_HEADER_BYTES = 32
_MAGIC = b"GRAFTSEG"
_VERSION = 1
_HEADER = struct.Struct("<8sH6s16s")
_RESERVED = bytes(6)

assert _HEADER.size == SEGMENT_HEADER_BYTES


def segment_header(segment: SegmentId) -> bytes:
    """Return the first 32 bytes of a segment object."""
    return _HEADER.pack(_MAGIC, _VERSION, _RESERVED, segment.raw)


def check_segment_header(data: bytes, segment: SegmentId) -> None:
    """Check the first 32 bytes of a segment object.

    Raises CorruptObjectError, FutureVersionError.
    """
    if len(data) < SEGMENT_HEADER_BYTES or data[: len(_MAGIC)] != _MAGIC:
        raise CorruptObjectError(
            f"segment {segment} is not a segment of graft-vfs",
            next_step="check the bucket and its prefix",
        )
    _, version, reserved, raw = _HEADER.unpack_from(data)
    if version > _VERSION:
        raise FutureVersionError(
            f"segment {segment} has format version {version}; this program reads {_VERSION}",
            next_step="upgrade graft-vfs",
        )
    if version != _VERSION or reserved != _RESERVED:
        raise CorruptObjectError(f"segment {segment}: impossible version or reserved bytes")
    if raw != segment.raw:
        raise CorruptObjectError(f"segment {segment} holds another segment's bytes")
