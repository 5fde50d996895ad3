"""The page table against a dictionary: whatever the commits, the same page is found."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from graft_vfs.view import page_table
from graft_vfs.view.page_table import PageTable

PAGE_MAX = 60

pages = st.one_of(
    st.sets(st.integers(1, PAGE_MAX)),
    st.builds(
        lambda first, count: set(range(first, first + count)),
        st.integers(1, PAGE_MAX),
        st.integers(0, PAGE_MAX),
    ),
)
commits = st.lists(
    st.builds(
        lambda changed, more: (changed, max(changed, default=1) + more),
        pages,
        st.one_of(st.just(PAGE_MAX), st.integers(0, 10)),
    ),
    max_size=12,
)
Commit = tuple[set[int], int]
"""(its pages, the page count after it)."""


def model_of(history: list[Commit]) -> dict[int, tuple[int, int]]:
    """Page -> (number of the newest commit that has it, its rank among that commit's pages)."""
    model: dict[int, tuple[int, int]] = {}
    for number, (changed, page_count) in enumerate(history):
        model.update({page: (number, slot) for slot, page in enumerate(sorted(changed))})
        model = {page: at for page, at in model.items() if page <= page_count}
    return model


def expanded(table: PageTable[int]) -> dict[int, tuple[int, int]]:
    """What `runs` says, page by page; fails unless runs are ascending and do not overlap."""
    found: dict[int, tuple[int, int]] = {}
    last_end = 0
    for first, end, source, slot in table.runs():
        assert last_end <= first < end
        last_end = end
        found.update({page: (source, slot + page - first) for page in range(first, end)})
    return found


def of(history: list[Commit], numbers: range) -> list[tuple[int, BitMap, int]]:
    """Some commits of a history as `advance` takes them."""
    return [(number, BitMap(history[number][0]), history[number][1]) for number in numbers]


@pytest.mark.parametrize("recent_max", [0, 1, 5, 20, 16_384])
@given(
    history=commits,
    cuts=st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["commits", "runs", "layer"]))),
    sources_min=st.integers(0, 4),
)
@settings(max_examples=80, deadline=None)
def test_finds_what_a_dictionary_finds(recent_max, history, cuts, sources_min) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_table, "_RECENT_MAX", recent_max)
        patch.setattr(page_table, "_SOURCES_MIN", sources_min)
        table: PageTable[int] = PageTable()
        bounds = sorted({0, len(history), *(min(cut, len(history)) for cut, _ in cuts)})
        ways = {min(cut, len(history)): way for cut, way in cuts}
        for first, end in pairwise(bounds):
            older, before = table, expanded(table)
            added = of(history, range(first, end))
            least, newest = min(each[2] for each in added), added[-1][2]
            part = PageTable[int]().advance(added)
            if ways.get(end, "commits") == "commits":
                table = table.advance(added)
            elif ways[end] == "runs":
                table = table.overlaid(part.runs(), least=least, page_count=newest)
            else:
                table = table.above(part, least=least, page_count=newest)
            assert expanded(older) == before, "a table that was advanced stays as it was"
            model = model_of(history[:end])
            for page in range(PAGE_MAX * 2 + 2):
                assert table.find(page) == model.get(page)
                assert table.is_near(page)
            assert expanded(table) == model


def test_a_large_commit_costs_one_run_instead_of_one_entry_per_page() -> None:
    table = PageTable[str]().advance([("bulk", BitMap(range(1, 1_000_001)), 1_000_000)])
    assert [*table.runs()] == [(1, 1_000_001, "bulk", 0)]
    assert not table._recent
    assert table.find(1_000_000) == ("bulk", 999_999)
    assert table.find(1_000_001) is None


def test_many_small_commits_are_settled_into_runs(monkeypatch) -> None:
    monkeypatch.setattr(page_table, "_RECENT_MAX", 100)
    table = PageTable[int]().advance([(0, BitMap(range(1, 1001)), 1000)])
    for number in range(1, 500):
        table = table.advance([(number, BitMap([number]), 1000)])
        assert len(table._recent) <= 100
    assert table.find(499) == (499, 0)
    assert table.find(500) == (0, 499)


def test_an_empty_commit_changes_nothing() -> None:
    table = PageTable[str]().advance([("a", BitMap([3]), 3), ("b", BitMap(), 3)])
    assert table.find(3) == ("a", 0)
    assert [*table.runs()] == [(3, 4, "a", 0)]


def test_commits_without_live_pages_are_dropped() -> None:
    table = PageTable[int]().advance([(0, BitMap(range(1, 1001)), 1000)])
    for number in range(1, 2000):
        table = table.advance([(number, BitMap([1, 2 + number % 10]), 1000)])
    # Live are the first commit and those of the last ten that nothing superseded.
    assert len(table._sources) <= 100
    assert table.find(1) == (1999, 0)
    assert table.find(2) == (1990, 1)
    assert table.find(500) == (0, 499)


def test_each_page_is_touched_once_however_many_commits_have_it(monkeypatch) -> None:
    touched: list[int] = []
    runs_of_pages = page_table._runs_of_pages

    def counted(fresh: BitMap, pages: BitMap, location: int):
        touched.append(len(fresh))
        return runs_of_pages(fresh, pages, location)

    monkeypatch.setattr(page_table, "_runs_of_pages", counted)
    history = [set(range(1 + number % 3, 2001, 3)) for number in range(500)]
    table = PageTable[int]().advance((n, BitMap(pages), 2000) for n, pages in enumerate(history))
    assert sum(touched) == 2000
    assert len(touched) == 3
    assert expanded(table) == model_of([(pages, 2000) for pages in history])
