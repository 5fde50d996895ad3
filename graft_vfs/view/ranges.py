"""Which frames one request fetches: those of one object that lie near each other.

The dead bytes between two frames are often cheaper than another request. Read-ahead reads through a
gap of at most 64 KiB. A database that is fetched whole may have two requests for each of its
objects, so the largest gaps are skipped: at most one for each object, and those above 1 MiB. So
there are at most 2 requests for each object, one for each 8 MiB, and one for each gap above 1 MiB.

All of this is counted in stored bytes. The frames are those that the reader knows: the bytes
between them may be dead frames, or frames that no table describes.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from graft_vfs.format.table import Source
from graft_vfs.view.source import FrameSource, joined

WINDOW_RANGE_FRAMES_MAX = 16
RANGE_BYTES_MAX = 8 << 20
"""The limit of stored bytes in one range, and of the images of a range that is read ahead, because
a fetching thread has all of these in memory."""
GAP_BYTES_MIN = 64 << 10
"""A gap up to this size is read: one round trip at 2 MB/s."""
GAP_BYTES_MAX = 1 << 20
"""A larger gap is skipped."""


class FrameRange(NamedTuple):
    """Frames of one object, ascending, that one request fetches."""

    source: FrameSource
    frames: list[int]


class _Extent(NamedTuple):
    """Where a frame is in its body."""

    frame: int
    start: int
    end: int


def window_ranges(frames: Iterable[tuple[FrameSource, int]]) -> Iterator[FrameRange]:
    """Join frames that a reader waits for, into small ranges that arrive soon."""
    for source, extents in _by_source(frames).items():
        frame_bytes = source.body.page_size * source.body.frames.frame_pages
        frames_max = max(1, min(WINDOW_RANGE_FRAMES_MAX, RANGE_BYTES_MAX // frame_bytes))
        yield from _cut(source, extents, GAP_BYTES_MIN, frames_max)


def whole_ranges(frames: Iterable[tuple[FrameSource, int]]) -> list[FrameRange]:
    """Join frames that are all wanted, into few ranges; see above for their number."""
    by_source = _by_source(frames)
    gaps = (
        after.start - before.end
        for extents in by_source.values()
        for before, after in itertools.pairwise(extents)
    )
    # The largest gap that is read: as many gaps are larger as there are objects.
    largest = heapq.nlargest(len(by_source) + 1, gaps)
    read = largest[-1] if len(largest) > len(by_source) else 0
    read = min(max(read, GAP_BYTES_MIN), GAP_BYTES_MAX)
    return [found for source, extents in by_source.items() for found in _cut(source, extents, read)]


def _by_source(frames: Iterable[tuple[FrameSource, int]]) -> dict[FrameSource, list[_Extent]]:
    """Return where the frames of each object are; parts of a large table know it separately."""
    known: dict[Source, dict[FrameSource, None]] = {}
    found: dict[Source, set[_Extent]] = {}
    for source, frame in frames:
        start, length = source.body.frames.byte_range(frame, frame + 1)
        known.setdefault(source.origin, {}).setdefault(source)
        found.setdefault(source.origin, set()).add(_Extent(frame, start, start + length))
    return {joined([*known[origin]]): sorted(extents) for origin, extents in found.items()}


def _cut(
    source: FrameSource, extents: list[_Extent], gap_bytes: int, frames_max: int | None = None
) -> Iterator[FrameRange]:
    """Cut the frames of a source where a range would be too long, or read a larger gap."""
    part: list[_Extent] = []
    for extent in extents:
        if part and (
            extent.start - part[-1].end > gap_bytes
            or extent.end - part[0].start > RANGE_BYTES_MAX
            or len(part) == frames_max
        ):
            yield FrameRange(source, [each.frame for each in part])
            part = []
        part.append(extent)
    if part:
        yield FrameRange(source, [each.frame for each in part])
