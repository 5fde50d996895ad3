"""The page table of a remote log: maps each page to the commit and slot of its newest image.

A slot is the 0-based rank of a page among the pages of its commit. The table has sorted runs of
consecutive pages in consecutive slots, found by bisection, and a small dictionary of pages changed
since. So the cost of a lookup does not depend on the number of commits, and for pages written in
order, the memory does not depend on their number.

A location is one integer: source number << 32 | slot. From time to time, when most sources have no
live pages, these are dropped, so that the memory does not grow with the log. The remaining sources
then get new numbers.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Generic, TypeVar

from pyroaring import BitMap

SLOT_BITS = 32
_SLOT_MASK = (1 << SLOT_BITS) - 1
_RECENT_MAX = 16_384
_SOURCES_MIN = 64

Source = TypeVar("Source")
Run = tuple[int, int, int]
"""(first page, page after the last, location of the first page)."""


class PageTable(Generic[Source]):
    """The table as of one commit. Immutable, so any thread may read it."""

    __slots__ = ("_ends", "_firsts", "_locations", "_recent", "_sources", "_sources_max")

    def __init__(self) -> None:
        """Return the table of an empty log."""
        self._firsts = array("I")
        self._ends = array("I")
        self._locations = array("Q")
        self._recent: dict[int, int] = {}
        self._sources: list[Source] = []
        self._sources_max = _SOURCES_MIN

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
        """Return the table after further commits, given as (source, its pages), oldest first.

        They are processed from newest to oldest, each only for pages that no newer commit has. So
        each page is processed once, regardless of how many commits changed it.
        """
        table: PageTable[Source] = PageTable()
        table._firsts, table._ends, table._locations = self._firsts, self._ends, self._locations
        table._recent = dict(self._recent)
        table._sources = list(self._sources)
        table._sources_max = self._sources_max
        newer = BitMap()
        live: list[tuple[Source, BitMap, BitMap]] = []
        for source, pages in reversed(list(commits)):
            fresh = pages - newer
            if fresh:
                live.append((source, pages, fresh))
                newer |= fresh
        runs = []
        for source, pages, fresh in reversed(live):
            runs.append(_runs_of_pages(fresh, pages, len(table._sources) << SLOT_BITS))
            table._sources.append(source)
        # Only one run of each commit is in memory at a time.
        table._add(runs[0] if len(runs) == 1 else heapq.merge(*runs), len(newer))
        if len(table._sources) > table._sources_max:
            table._forget_superseded()
        return table

    def _add(self, runs: Iterable[Run], pages: int) -> None:
        """Overlay the table with ascending runs of this many pages."""
        if pages + len(self._recent) <= _RECENT_MAX:
            for first, end, location in runs:
                self._recent.update(
                    zip(range(first, end), range(location, location + end - first), strict=True)
                )
        else:
            self._settle_recent()
            self._overlay(runs)

    def _forget_superseded(self) -> None:
        """Drop sources without live pages; the next time when their number has doubled."""
        kept = sorted({at >> SLOT_BITS for at in (*self._locations, *self._recent.values())})
        # The amount to add to a location, so that it has its source's new number.
        moves = {old: (new - old) << SLOT_BITS for new, old in enumerate(kept)}
        # Older tables share the arrays, so they are not changed.
        self._locations = array("Q", (at + moves[at >> SLOT_BITS] for at in self._locations))
        self._recent = {page: at + moves[at >> SLOT_BITS] for page, at in self._recent.items()}
        self._sources = [self._sources[number] for number in kept]
        self._sources_max = max(_SOURCES_MIN, 2 * len(kept))

    def _settle_recent(self) -> None:
        if self._recent:
            self._overlay(_runs_of_locations(sorted(self._recent.items())))
            self._recent = {}

    def _overlay(self, newer: Iterable[Run]) -> None:
        firsts, ends, locations = array("I"), array("I"), array("Q")
        older = zip(self._firsts, self._ends, self._locations, strict=True)
        for first, end, location in _overlaid(older, newer):
            firsts.append(first)
            ends.append(end)
            locations.append(location)
        self._firsts, self._ends, self._locations = firsts, ends, locations

    def runs(self) -> Iterator[tuple[int, int, Source, int]]:
        """Yield (first page, page after the last, source, slot of the first), ascending."""
        recent = _runs_of_locations(sorted(self._recent.items()))
        older = zip(self._firsts, self._ends, self._locations, strict=True)
        for first, end, location in _overlaid(older, recent):
            yield first, end, self._sources[location >> SLOT_BITS], location & _SLOT_MASK


def _runs_of_pages(fresh: BitMap, pages: BitMap, location: int) -> Iterator[Run]:
    """Yield the runs of some pages of a commit; `location` is that of the commit's first page.

    Adjacent pages have adjacent slots.
    """
    first = fresh.min()
    if fresh.max() - first + 1 == len(fresh):
        yield first, first + len(fresh), location + pages.rank(first) - 1
        return
    is_whole = len(fresh) == len(pages)
    slot = 0
    for number, (before, page) in enumerate(pairwise(fresh), 1):
        if page != before + 1:
            at = slot if is_whole else pages.rank(first) - 1
            yield first, before + 1, location + at
            first, slot = page, number
    yield first, fresh.max() + 1, location + (slot if is_whole else pages.rank(first) - 1)


def _runs_of_locations(items: list[tuple[int, int]]) -> Iterator[Run]:
    """Yield the runs of (page, location) pairs, sorted by page."""
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


def _overlaid(older: Iterable[Run], newer: Iterable[Run]) -> Iterator[Run]:
    """Merge ascending, disjoint runs of two tables; if both have a page, the newer wins.

    Only one run of each is in memory: a commit of scattered pages has as many runs as pages.
    """
    waiting, covered = iter(newer), 0
    over = next(waiting, None)
    for first, end, location in older:
        begin = max(first, covered)
        while over is not None and over[0] < end:
            if begin < over[0]:
                yield begin, over[0], location + begin - first
            yield over
            covered = over[1]
            begin = max(begin, covered)
            over = next(waiting, None)
        if begin < end:
            yield begin, end, location + begin - first
    if over is not None:
        yield over
        yield from waiting
