"""What a long scan will read next, by object, so that one request fetches several of its frames.

After many commits, neighbouring pages are in many objects, and each object has frames for pages
all over the database. A scan in the order of the pages would ask every object once for each of its
frames. So it looks at the next pages, and takes the frames of one object that lie near each other
together. It sends no request for that: it looks no further than the page table is on this machine.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from graft_vfs.format.table import Source
from graft_vfs.view.page_table import PageTable
from graft_vfs.view.ranges import GAP_BYTES_MIN, WINDOW_RANGE_FRAMES_MAX
from graft_vfs.view.source import FrameSource

HORIZON_PAGES = 8192
"""How far a scan looks: 32 MiB of 4 KiB pages, which a small cache still holds."""


class Horizon:
    """The frames of the next pages of a scan. Owner: a stream, under its view's lock."""

    def __init__(self, table: PageTable[FrameSource], page_count: int) -> None:
        self._table = table
        self._end = page_count + 1
        self._looks_at = 0
        self._frames: dict[Source, dict[int, FrameSource]] = {}
        self._numbers: dict[Source, list[int]] = {}

    def after(self, source: FrameSource, frame: int) -> Iterator[tuple[FrameSource, int]]:
        """Yield the next frames of an object that the next pages need, up to a gap.

        At most as many as one request of a window fetches with `frame`.
        """
        known, numbers = self._frames.get(source.origin, {}), self._numbers.get(source.origin, [])
        first = bisect_right(numbers, frame)
        start, length = source.body.frames.byte_range(frame, frame + 1)
        end = start + length
        for number in numbers[first : first + WINDOW_RANGE_FRAMES_MAX - 1]:
            start, length = known[number].body.frames.byte_range(number, number + 1)
            if start - end > GAP_BYTES_MIN:
                return
            yield known[number], number
            end = start + length

    def look(self, first: int) -> None:
        """Look at the pages from `first` on, unless enough of them were looked at."""
        if first < self._looks_at:
            return
        self._frames = {}
        page, end = first, min(first + HORIZON_PAGES, self._end)
        while page < end and self._table.is_near(page):
            place = self._table.find(page)
            if place is not None:
                source, slot = place
                frames = self._frames.setdefault(source.origin, {})
                frames.setdefault(source.body.frames.frame_of(slot), source)
            page += 1
        # At the edge of what is known at the earliest, and once for the last pages.
        self._looks_at = max(first + 1, page if page < end else first + HORIZON_PAGES // 2)
        if page == self._end:
            self._looks_at = self._end
        self._numbers = {origin: sorted(frames) for origin, frames in self._frames.items()}
