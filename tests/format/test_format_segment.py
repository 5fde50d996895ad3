"""Segment objects: what they begin with."""

from __future__ import annotations

import pytest

from graft_vfs.errors import CorruptObjectError, FutureVersionError
from graft_vfs.format.segment import SEGMENT_HEADER_BYTES, check_segment_header, segment_header
from graft_vfs.ids import SegmentId
from tests.format.commit_samples import SEGMENT


def changed(offset: int, replacement: bytes) -> bytes:
    data = bytearray(segment_header(SEGMENT))
    data[offset : offset + len(replacement)] = replacement
    return bytes(data)


def test_a_segment_header_reads_back() -> None:
    header = segment_header(SEGMENT)
    assert len(header) == SEGMENT_HEADER_BYTES == 32
    assert header == b"GRAFTSEG\1\0" + bytes(6) + SEGMENT.raw
    check_segment_header(header + b"frames", SEGMENT)


def test_refuses_another_magic_and_truncation() -> None:
    for data in (b"", changed(0, b"X"), segment_header(SEGMENT)[:-1]):
        with pytest.raises(CorruptObjectError, match="not a segment"):
            check_segment_header(data, SEGMENT)


def test_refuses_a_later_version_and_says_upgrade() -> None:
    with pytest.raises(FutureVersionError, match="upgrade"):
        check_segment_header(changed(8, b"\2"), SEGMENT)


def test_refuses_version_0_and_set_reserved_bytes() -> None:
    for data in (changed(8, b"\0"), changed(10, b"\1"), changed(15, b"\1")):
        with pytest.raises(CorruptObjectError, match="impossible"):
            check_segment_header(data, SEGMENT)


def test_refuses_another_segment() -> None:
    with pytest.raises(CorruptObjectError, match="another segment"):
        check_segment_header(segment_header(SegmentId.new()), SEGMENT)
