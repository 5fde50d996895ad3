"""The manual's page on large databases: its arithmetic, and its formulas on small cases."""

from __future__ import annotations

import re
import tracemalloc
from array import array
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pyroaring import BitMap

from graft_vfs.format.commit import HEADER_BYTES_MAX, FrameTable
from graft_vfs.format.frame import CHECKSUM_BYTES, FRAME_PAGES
from graft_vfs.format.segment import SEGMENT_HEADER_BYTES
from graft_vfs.format.table import LEAF_PAGES, NODE_BLOCKS, Source, encode_table
from graft_vfs.format.table_facts import TableFacts
from graft_vfs.local.cache.arena import commit_source
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.remote.log import body_of
from graft_vfs.view.log_view import LogView
from graft_vfs.view.source import FrameSource
from tests.format.commit_samples import LOG, SEGMENT, header_of

PAGE = Path(__file__).parents[1] / "graft_vfs" / "docs" / "explanation" / "large-databases.md"
PAGE_SIZE = 4096
PAGES = {"1 GiB": 1 << 18, "64 GiB": 1 << 24, "1 TiB": 1 << 28}
SMALL = 1 << 16


def rows_of(heading: str) -> dict[str, list[str]]:
    """The cells of a section's table by the first cell of each row."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def number(text: str) -> float:
    return float(re.sub(r"[^\d.]", "", text))


SIZES = rows_of("Sizes") if PAGE.exists() else {}


def each_frame(name: str) -> float:
    return number(SIZES[name][0])


def size_in_bytes(text: str) -> float:
    value, unit = re.fullmatch(r"([\d.]+) (KB|MB|GB)", text).groups()
    return float(value) * {"KB": 1e3, "MB": 1e6, "GB": 1e9}[unit]


@pytest.mark.parametrize("name", [name for name in SIZES if "bytes a frame" not in SIZES[name][0]])
def test_sizes_are_frames_times_bytes(name: str) -> None:
    if name in {"what", "---"}:
        return
    for pages, cell in zip(PAGES.values(), SIZES[name][1:4], strict=True):
        expected = each_frame(name) * pages / FRAME_PAGES
        assert size_in_bytes(cell) == pytest.approx(expected, rel=0.03), (name, cell)


def known(pages: int) -> tuple[FrameTable, Source]:
    """Frames of a database in one segment, with sizes and checksums as of real pages."""
    random, frames = Random(1), pages // FRAME_PAGES
    table = FrameTable.of(
        FRAME_PAGES,
        array("I", (random.randrange(9_000, 40_000) for _ in range(frames))),
        array("I", range(FRAME_PAGES, pages + 1, FRAME_PAGES)),
        random.randbytes(CHECKSUM_BYTES * frames),
    )
    source = Source(
        LOG,
        commit_source(1, bytes(8)),
        RemoteLsn(1),
        SEGMENT,
        SEGMENT_HEADER_BYTES,
        FRAME_PAGES,
        pages,
    )
    return table, source


def test_the_header_of_a_commit() -> None:
    frames, _ = known(SMALL)
    header = header_of(
        BitMap(range(1, SMALL + 1)),
        frames,
        page_size=PAGE_SIZE,
        page_count=SMALL,
        segment=SEGMENT,
    )
    measured = len(header.encode()) / len(frames)
    assert measured == pytest.approx(each_frame("header of a commit of all pages"), abs=0.2)
    # As many frames as fit into the largest header.
    largest = HEADER_BYTES_MAX / each_frame("header of a commit of all pages")
    told = re.search(r"at most ([\d.]+) million\s+frames, or (\d+) GiB", PAGE.read_text("utf-8"))
    assert float(told[1]) * 1e6 == pytest.approx(largest, rel=0.01)
    assert float(told[2]) == pytest.approx(largest * FRAME_PAGES * PAGE_SIZE / 2**30, rel=0.01)


def test_a_table() -> None:
    frames, source = known(SMALL)
    facts = TableFacts(
        log_id=LOG,
        after=NO_LSN,
        lsn=RemoteLsn(24),
        hash=bytes(range(32)),
        parent_log=None,
        parent_lsn=NO_LSN,
        page_size=PAGE_SIZE,
        page_count=SMALL,
        change_counter=1,
        time_ms=1,
        least_pages=SMALL,
        beneath=(),
    )
    table = encode_table(facts, [(1, SMALL + 1, source, 0)], {source: frames}.__getitem__)
    measured = sum(map(len, table)) / len(frames)
    assert measured == pytest.approx(each_frame("complete table"), abs=0.3)


def test_the_memory_of_a_hydrate() -> None:
    frames, origin = known(SMALL)
    source = FrameSource(
        origin,
        body_of(origin, frames, page_size=PAGE_SIZE),
        cast("Any", None),
        cast("Any", None),
    )
    runs = [(1, SMALL + 1, source, 0)]
    view = SimpleNamespace(table=SimpleNamespace(runs=lambda: runs), page_count=SMALL)
    tracemalloc.start()
    found = LogView.frames(cast("LogView", view))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == len(frames)
    # How full Python's hash table is makes the difference, and what memory it uses again.
    most = each_frame("memory of a hydrate, held at most")
    assert most / 2 <= held / len(frames) <= most


def test_levels_of_a_table() -> None:
    """Pages up to which a page costs two requests, and three."""
    told = PAGE.read_text(encoding="utf-8")
    one = NODE_BLOCKS * LEAF_PAGES * PAGE_SIZE / 2**30
    assert f"up to {one:.0f} GiB" in told
    assert f"up to {one * NODE_BLOCKS / 2**10:.0f} TiB" in told


def test_costs_are_requests_times_the_prices_of_the_other_page() -> None:
    costs = PAGE.parents[1] / "guides" / "costs.md"
    prices = {}
    for line in costs.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in {"a million PUT, or LIST", "a million GET"}:
            prices[cells[0]] = [float(cell) for cell in cells[3:]]
    puts, gets = prices["a million PUT, or LIST"], prices["a million GET"]
    rows = {
        name: cells for name, cells in rows_of("Cost of 1 TiB").items() if cells[0][0].isdigit()
    }
    assert len(rows) >= 5
    for name, cells in rows.items():
        count_of_puts, count_of_gets = number(cells[0]), number(cells[1])
        for provider, told in enumerate(cells[2:]):
            cost = (count_of_puts * puts[provider] + count_of_gets * gets[provider]) / 1e6
            assert float(told) == pytest.approx(cost, abs=0.00501), (name, told)
