"""One terabyte on paper: a real table of 2^28 pages, of which only what is read has images."""

from __future__ import annotations

import os
import tracemalloc
from array import array

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.format.commit import FrameTable
from graft_vfs.format.frame import CHECKSUM_BYTES, FRAME_PAGES, checksum_of, encode_frame
from graft_vfs.format.segment import SEGMENT_HEADER_BYTES
from graft_vfs.format.table import Source, encode_table
from graft_vfs.format.table_facts import TableFacts
from graft_vfs.ids import SegmentId
from graft_vfs.pages import lock_page
from graft_vfs.remote.log import commit_key, segment_key
from graft_vfs.remote.tables import table_key
from graft_vfs.store.memory import MemoryStore
from graft_vfs.sync.fetch import fetch_log
from graft_vfs.testing import WrapperStore
from graft_vfs.view.table_policy import STEP
from tests.format.commit_samples import LOG, commit
from tests.support.replicas import Replica

PAGE_SIZE = 4096
PAGES = (1 << 40) // PAGE_SIZE
READ = (1, 70_000_001, 140_000_001, 210_000_001, PAGES)
FRAME = encode_frame([bytes([7]) * PAGE_SIZE] * FRAME_PAGES)


class _OneFrame(WrapperStore):
    """A store in which each frame of one segment has the same bytes."""

    segment = ""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if key != self.segment:
            return super().get_range(key, start, length)
        assert length == len(FRAME)
        self.counters.add("get_range", bytes_received=length)
        return FRAME


@pytest.mark.deep
def test_a_clone_and_the_first_pages_of_a_terabyte(tmp_path) -> None:
    """Requests, bytes and memory do not depend on the number of pages."""
    store = _OneFrame(MemoryStore())
    segment = SegmentId.new()
    store.segment = segment_key(segment)
    header, data = commit(
        [2], lsn=STEP, previous_hash=b"p" * 32, page_size=PAGE_SIZE, page_count=PAGES
    )
    store.put(commit_key(LOG, STEP), [data])
    frames = PAGES // FRAME_PAGES
    checksums = bytearray(os.urandom(CHECKSUM_BYTES * frames))
    for page in READ:
        at = (page - 1) // FRAME_PAGES * CHECKSUM_BYTES
        checksums[at : at + CHECKSUM_BYTES] = checksum_of(FRAME)
    known = FrameTable.of(
        FRAME_PAGES,
        array("I", [len(FRAME)]) * frames,
        array("I", bytes(4 * frames)),
        bytes(checksums),
    )
    source = Source(
        LOG, b"\1" + bytes(7) + b"a source", 1, segment, SEGMENT_HEADER_BYTES, FRAME_PAGES, PAGES
    )
    facts = TableFacts(
        log_id=LOG,
        after=0,
        lsn=STEP,
        hash=header.hash,
        parent_log=None,
        parent_lsn=0,
        page_size=PAGE_SIZE,
        page_count=PAGES,
        change_counter=header.change_counter,
        time_ms=header.time_ms,
        least_pages=PAGES,
        beneath=(),
    )
    lock = lock_page(PAGE_SIZE)
    # The slot of the lock page stays empty, so that frames begin with pages of the form 16 n + 1.
    runs = [(1, lock, source, 0), (lock + 1, PAGES + 1, source, lock)]
    table = b"".join(encode_table(facts, runs, {source: known}.__getitem__))
    store.put(table_key(LOG, STEP, 0), [table])
    del known, checksums
    tracemalloc.start()
    with Replica(
        tmp_path / "data", RemoteConfig(type="memory", root=str(tmp_path)), store=store
    ) as replica:
        counted = replica.counts()
        fetch_log(replica.engine.logs, LOG, lists=True)
        view = replica.engine.logs.log_view(LOG, STEP)
        cloned = replica.counts() - counted
        assert cloned.requests == 4
        # A root, three interior pages and a leaf, each in another part of the table.
        for page in READ:
            before = replica.counts()
            assert view.locate(page) is not None
            sent = (replica.counts() - before).requests
            # The block above its leaf, the leaf, the frame; the first leaf came with the head.
            assert sent == (2 if page == READ[0] else 3)
        read = replica.counts() - counted
        _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(
        f"table {len(table)} bytes; {cloned.bytes_received} for the clone, {read}; {most} in memory"
    )
    assert read.bytes_received < 1 << 20
    assert most < 16 << 20
