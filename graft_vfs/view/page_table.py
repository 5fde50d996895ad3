"""The page table of a remote log: maps each page to the commit and slot of its newest image.

A slot is the 0-based rank of a page among the pages of its commit. The table has sorted runs of
consecutive pages in consecutive slots, found by bisection, and a small dictionary of pages changed
since. So the cost of a lookup does not depend on the number of commits, and for pages written in
order, the memory does not depend on their number.

A location is one integer: source number << 32 | slot. From time to time, when most sources have no
live pages, these are dropped, so that the memory does not grow with the log. The remaining sources
then get new numbers.

Below these may be *layers*, such as a table of the remote that is too large for memory. A page that
is in none of the runs is looked for in the layers, newest first.

A page beyond the end of the database has no image, and none appears if the database grows again:
what was there before it shrank is dropped.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

from pyroaring import BitMap

SLOT_BITS = 32
_SLOT_MASK = (1 << SLOT_BITS) - 1
_RECENT_MAX = 16_384
_SOURCES_MIN = 64

Source = TypeVar("Source")
Found_co = TypeVar("Found_co", covariant=True)
Run = tuple[int, int, int]
"""(first page, page after the last, location of the first page)."""
_ALL_PAGES = 1 << 32


class Layer(Protocol[Found_co]):
    """Images of pages that are older than those of the table above it. Thread rule: any thread."""

    def find(self, page: int) -> tuple[Found_co, int] | None:
        """Return (source, slot) of a page's image, or None. May send a request."""
        ...

    def is_near(self, page: int) -> bool:
        """Return True if `find` would send no request for this page."""
        ...

    def runs(self) -> Iterator[tuple[int, int, Found_co, int]]:
        """Yield what `PageTable.runs` yields. May send requests."""
        ...


class PageTable(Generic[Source]):
    """The table as of one commit. Immutable, so any thread may read it."""

    __slots__ = (
        "_ends",
        "_firsts",
        "_layers",
        "_locations",
        "_page_count",
        "_recent",
        "_sources",
        "_sources_max",
    )

    def __init__(self) -> None:
        """Return the table of an empty log."""
        self._firsts = array("I")
        self._ends = array("I")
        self._locations = array("Q")
        self._recent: dict[int, int] = {}
        self._sources: list[Source] = []
        self._sources_max = _SOURCES_MIN
        self._page_count = 0
        # Newest first, each with the last page of it that is still there.
        self._layers: tuple[tuple[Layer[Source], int], ...] = ()

    def find(self, page: int) -> tuple[Source, int] | None:
        """Return (source, slot) of the newest image of `page`, or None if it has none.

        May send a request if there are layers; see `is_near`.
        """
        location = self._location(page)
        if location is not None:
            return self._sources[location >> SLOT_BITS], location & _SLOT_MASK
        for layer, last in self._layers:
            found = layer.find(page) if page <= last else None
            if found is not None:
                return found
        return None

    @property
    def has_layers(self) -> bool:
        """True if `find` may read a block of a layer."""
        return bool(self._layers)

    def is_near(self, page: int) -> bool:
        """Return True if `find` sends no request for this page."""
        if not self._layers or self._location(page) is not None:
            return True
        return all(page > last or layer.is_near(page) for layer, last in self._layers)

    def _location(self, page: int) -> int | None:
        location = self._recent.get(page)
        if location is None:
            number = bisect_right(self._firsts, page) - 1
            if number < 0 or page >= self._ends[number]:
                return None
            location = self._locations[number] + page - self._firsts[number]
        return location

    def advance(self, commits: Iterable[tuple[Source, BitMap, int]]) -> PageTable[Source]:
        """Return the table after further commits: (source, its pages, page count), oldest first.

        They are processed from newest to oldest, each only for pages that no newer commit has. So
        each page is processed once, regardless of how many commits changed it.
        """
        commits = list(commits)
        newer = BitMap()
        live: list[tuple[Source, BitMap, BitMap]] = []
        least = _ALL_PAGES
        for source, pages, page_count in reversed(commits):
            fresh = pages - newer
            if fresh and fresh.max() > least:
                fresh.remove_range(least + 1, fresh.max() + 1)
            if fresh:
                live.append((source, pages, fresh))
                newer |= fresh
            least = min(least, page_count)
        table: PageTable[Source] = self._cut(least)
        table._page_count = commits[-1][2] if commits else self._page_count
        runs = []
        for source, pages, fresh in reversed(live):
            runs.append(_runs_of_pages(fresh, pages, len(table._sources) << SLOT_BITS))
            table._sources.append(source)
        # Only one run of each commit is in memory at a time.
        table._add(runs[0] if len(runs) == 1 else heapq.merge(*runs), len(newer))
        if len(table._sources) > table._sources_max:
            table._forget_superseded()
        return table

    def above(self, layer: Layer[Source], *, least: int, page_count: int) -> PageTable[Source]:
        """Return a table with a newer layer on top of this one, which is cut to `least` pages.

        That is the smallest page count of the commits in the layer; `page_count` is the newest.
        """
        older: PageTable[Source] = self._cut(least)
        table: PageTable[Source] = PageTable()
        table._page_count = page_count
        if older._recent or older._firsts:
            table._layers = ((layer, _ALL_PAGES), (older, least))
        else:
            table._layers = ((layer, _ALL_PAGES), *older._layers)
        return table

    def overlaid(
        self, runs: Iterable[tuple[int, int, Source, int]], *, least: int, page_count: int
    ) -> PageTable[Source]:
        """Return the table with newer runs, as of `above`, but in memory."""
        table: PageTable[Source] = self._cut(least)
        table._page_count = page_count
        numbers: dict[Source, int] = {}
        found = list(_numbered(runs, _ALL_PAGES, table._sources, numbers))
        table._add(found, sum(end - first for first, end, _ in found))
        if len(table._sources) > table._sources_max:
            table._forget_superseded()
        return table

    def _cut(self, least: int) -> PageTable[Source]:
        """Return a copy without pages beyond `least`; it shares the arrays."""
        table: PageTable[Source] = PageTable()
        table._firsts, table._ends, table._locations = self._firsts, self._ends, self._locations
        table._recent = dict(self._recent)
        table._sources = list(self._sources)
        table._sources_max = self._sources_max
        table._page_count = min(self._page_count, least)
        table._layers = tuple((layer, min(last, least)) for layer, last in self._layers)
        if least >= self._page_count:
            return table
        if table._ends and table._ends[-1] > least + 1:
            kept = bisect_right(table._firsts, least)
            table._firsts, table._locations = table._firsts[:kept], table._locations[:kept]
            table._ends = table._ends[:kept]
            if kept:
                table._ends[-1] = min(table._ends[-1], least + 1)
        table._recent = {page: at for page, at in table._recent.items() if page <= least}
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
        """Yield (first page, page after the last, source, slot of the first), ascending.

        May send requests if there are layers.
        """
        recent = _runs_of_locations(sorted(self._recent.items()))
        older = zip(self._firsts, self._ends, self._locations, strict=True)
        merged = _overlaid(older, recent)
        sources = list(self._sources)
        numbers: dict[Source, int] = {}
        for layer, last in self._layers:
            merged = _overlaid(_numbered(layer.runs(), last, sources, numbers), merged)
        for first, end, location in merged:
            yield first, end, sources[location >> SLOT_BITS], location & _SLOT_MASK


def _numbered(
    runs: Iterable[tuple[int, int, Source, int]],
    last: int,
    sources: list[Source],
    numbers: dict[Source, int],
) -> Iterator[Run]:
    """Yield runs up to page `last` with locations; new sources get the next numbers."""
    for first, end, source, slot in runs:
        if first > last:
            return
        number = numbers.get(source)
        if number is None:
            number = numbers[source] = len(sources)
            sources.append(source)
        yield first, min(end, last + 1), number << SLOT_BITS | slot


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
