"""The page table of a remote log: which commit, and which slot in it, has a page's newest image.

A slot is the 0-based rank of a page among the pages of its commit. Sorted runs of consecutive pages
in consecutive slots, found by bisection, and a small dictionary of pages changed since make a
look-up independent of the number of commits, and the memory independent of the number of pages as
long as they were written in order.

A location is one integer: source number << 32 | slot, where sources are numbered per table family
(a table and those that `advance` made from it).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Generic, TypeVar

from pyroaring import BitMap

SLOT_BITS = 32
_SLOT_MASK = (1 << SLOT_BITS) - 1
_RECENT_MAX = 16_384

Source = TypeVar("Source")
Run = tuple[int, int, int]
"""(first page, page behind the last, location of the first page)."""


class PageTable(Generic[Source]):
    """The table as of one commit. Immutable, so any thread may read it."""

    __slots__ = ("_ends", "_firsts", "_locations", "_recent", "_sources")

    def __init__(self) -> None:
        """Make the table of an empty log."""
        self._firsts = array("I")
        self._ends = array("I")
        self._locations = array("Q")
        self._recent: dict[int, int] = {}
        self._sources: list[Source] = []

    def find(self, page: int) -> tuple[Source, int] | None:
        """Return (source, slot) of the newest image of `page`, or None if it has none."""
        location = self._recent.get(page)
        if location is None:
            number = bisect_right(self._firsts, page) - 1
            if number < 0 or page >= self._ends[number]:
                return None
            location = self._locations[number] + page - self._firsts[number]
        return self._sources[location >> SLOT_BITS], location & _SLOT_MASK

    def advance(self, commits: Iterable[tuple[Source, BitMap]]) -> PageTable[Source]:
        """Return the table after further commits, given as (source, its pages), oldest first."""
        table: PageTable[Source] = PageTable()
        table._firsts, table._ends, table._locations = self._firsts, self._ends, self._locations
        table._recent = dict(self._recent)
        table._sources = list(self._sources)
        for source, pages in commits:
            first_location = len(table._sources) << SLOT_BITS
            table._sources.append(source)
            if len(pages) + len(table._recent) <= _RECENT_MAX:
                table._recent.update(
                    zip(pages, range(first_location, first_location + len(pages)), strict=True)
                )
            else:
                table._settle_recent()
                table._overlay(list(_runs_of_pages(pages, first_location)))
        return table

    def _settle_recent(self) -> None:
        if self._recent:
            self._overlay(list(_runs_of_locations(sorted(self._recent.items()))))
            self._recent = {}

    def _overlay(self, newer: list[Run]) -> None:
        firsts, ends, locations = array("I"), array("I"), array("Q")
        older = zip(self._firsts, self._ends, self._locations, strict=True)
        for first, end, location in _overlaid(older, newer):
            firsts.append(first)
            ends.append(end)
            locations.append(location)
        self._firsts, self._ends, self._locations = firsts, ends, locations

    def runs(self) -> Iterator[tuple[int, int, Source, int]]:
        """Yield (first page, page behind the last, source, slot of the first), ascending."""
        recent = list(_runs_of_locations(sorted(self._recent.items())))
        older = zip(self._firsts, self._ends, self._locations, strict=True)
        for first, end, location in _overlaid(older, recent):
            yield first, end, self._sources[location >> SLOT_BITS], location & _SLOT_MASK


def _runs_of_pages(pages: BitMap, location: int) -> Iterator[Run]:
    """Yield the runs of a commit whose first page has `location`."""
    if not pages:
        return
    first = pages.min()
    if pages.max() - first + 1 == len(pages):
        yield first, first + len(pages), location
        return
    ordered = pages.to_array()
    begin = 0
    for number, (before, page) in enumerate(pairwise(ordered), 1):
        if page != before + 1:
            yield ordered[begin], before + 1, location + begin
            begin = number
    yield ordered[begin], ordered[-1] + 1, location + begin


def _runs_of_locations(items: list[tuple[int, int]]) -> Iterator[Run]:
    """Yield the runs of (page, location) pairs in order of page."""
    run: Run | None = None
    for page, location in items:
        if run is not None and page == run[1] and location == run[2] + page - run[0]:
            run = (run[0], page + 1, run[2])
        else:
            if run is not None:
                yield run
            run = (page, page + 1, location)
    if run is not None:
        yield run


def _overlaid(older: Iterable[Run], newer: list[Run]) -> Iterator[Run]:
    """Merge two ascending lists of disjoint runs; where both have a page, the newer wins."""
    position, covered = 0, 0
    for first, end, location in older:
        begin = max(first, covered)
        while position < len(newer) and newer[position][0] < end:
            over = newer[position]
            position += 1
            if begin < over[0]:
                yield begin, over[0], location + begin - first
            yield over
            covered = over[1]
            begin = max(begin, covered)
        if begin < end:
            yield begin, end, location + begin - first
    yield from newer[position:]
