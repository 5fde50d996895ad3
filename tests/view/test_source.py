"""A view over frames that no commit header describes, as a table or a compaction would give it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from graft_vfs.format.segment import SEGMENT_HEADER_BYTES, segment_header
from graft_vfs.format.sparse_frames import SparseFrames
from graft_vfs.format.table import Source
from graft_vfs.ids import SegmentId
from graft_vfs.local.cache.page_cache import PageCache
from graft_vfs.local.cache.space import CacheSpace
from graft_vfs.pages import NO_LSN
from graft_vfs.remote.body import Body
from graft_vfs.remote.log import RemoteLog, segment_key
from graft_vfs.store.memory import MemoryStore
from graft_vfs.view.log_view import LogView, Tip
from graft_vfs.view.page_table import PageTable
from graft_vfs.view.ranges import whole_ranges
from graft_vfs.view.source import FrameSource
from tests.format.commit_samples import LOG, body, image

PAGES = range(1, 41)


@pytest.fixture
def view(tmp_path: Path) -> Iterator[LogView]:
    """A view of pages in one segment, named by the segment's id, in a log without commits."""
    store, segment = MemoryStore(), SegmentId.new()
    pages, table, frames = body({page: image(page) for page in PAGES})
    RemoteLog(store, LOG).write_segment(segment, frames)
    assert store.get(segment_key(segment))[:SEGMENT_HEADER_BYTES] == segment_header(segment)
    space = CacheSpace(tmp_path)
    where = Body("a base", segment_key(segment), SEGMENT_HEADER_BYTES, table, len(pages), 512)
    cache = PageCache(tmp_path / str(LOG), space)
    origin = Source(LOG, segment.raw, NO_LSN, segment, SEGMENT_HEADER_BYTES, 16, len(pages))
    source = FrameSource(origin, where, lambda: store, cache)
    tip = Tip(9, bytes(32), 512, len(PAGES), 1, 0)
    runs = PageTable[FrameSource]().advance([(source, pages, len(PAGES))])
    with ThreadPoolExecutor(1) as executor:
        yield LogView(LOG, tip, runs, space, lambda: executor)
    space.close()


def test_pages_of_a_source_are_fetched_cached_and_found(view) -> None:
    for _ in range(2):
        for page in PAGES:
            located = view.locate(page)
            assert located is not None
            data, offset = located
            assert bytes(data[offset : offset + 512]) == image(page)
        assert view.pages_present() == (len(PAGES), len(PAGES))
        view.forget_located()
    source, _ = view.table.find(1)
    assert source.cache.counters.snapshot().frames_fetched == 3


def test_frames_that_a_table_does_not_record_are_read_through(tmp_path: Path) -> None:
    store, segment = MemoryStore(), SegmentId.new()
    pages, table, frames = body({page: image(page) for page in range(1, 161)})
    RemoteLog(store, LOG).write_segment(segment, frames)
    live = [0, 1, 4, 9]
    known = SparseFrames(
        table.frame_pages,
        array("I", live),
        array("Q", [table.byte_range(frame, frame + 1)[0] for frame in live]),
        array("I", [table.byte_range(frame, frame + 1)[1] for frame in live]),
        b"".join(table.checksum(frame) for frame in live),
    )
    where = Body("a base", segment_key(segment), SEGMENT_HEADER_BYTES, known, len(pages), 512)
    cache = PageCache(tmp_path / str(LOG), CacheSpace(tmp_path))
    origin = Source(LOG, segment.raw, NO_LSN, segment, SEGMENT_HEADER_BYTES, 16, len(pages))
    source = FrameSource(origin, where, lambda: store, cache)
    expected = [b"".join(image(16 * frame + n) for n in range(1, 17)) for frame in live]
    assert where.read(store, live) == expected
    before = store.counters.snapshot()
    arrived: list[int] = []
    ((_, planned),) = whole_ranges((source, frame) for frame in live)
    source.keep(planned, arrived.append)
    assert arrived == [source.stored_bytes(frame) for frame in live]
    assert [source.cached(frame) for frame in live] == expected
    used = store.counters.snapshot() - before
    assert (used.requests, used.bytes_received) == (1, table.byte_range(0, 10)[1])
    cache.close()
