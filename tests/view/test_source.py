"""A view over frames that no commit header describes, as a table or a compaction would give it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from graft_vfs.format.segment import SEGMENT_HEADER_BYTES, segment_header
from graft_vfs.ids import SegmentId
from graft_vfs.local.cache.page_cache import PageCache
from graft_vfs.local.cache.space import CacheSpace
from graft_vfs.remote.body import Body
from graft_vfs.remote.log import RemoteLog, segment_key
from graft_vfs.store.memory import MemoryStore
from graft_vfs.view.log_view import LogView, Tip
from graft_vfs.view.page_table import PageTable
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
    source = FrameSource(LOG, segment.raw, where, lambda: store, cache)
    tip = Tip(9, bytes(32), 512, len(PAGES), 1, 0)
    runs = PageTable[FrameSource]().advance([(source, pages)])
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
