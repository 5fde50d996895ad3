"""Tables for tests: sources, their frames, and runs of pages in them."""

from __future__ import annotations

import dataclasses
import random
from array import array
from typing import Any

from graft_vfs.format.commit import FrameTable
from graft_vfs.format.table import (
    Leaf,
    Run,
    Source,
    TableFacts,
    TableHead,
    decode_block,
    decode_head,
    encode_table,
)
from graft_vfs.pages import NO_LSN, RemoteLsn
from tests.format.commit_samples import LOG, OTHER_LOG, SEGMENT, TIME_MS

FACTS = TableFacts(
    log_id=LOG,
    after=NO_LSN,
    lsn=RemoteLsn(50),
    hash=bytes(range(32)),
    parent_log=None,
    parent_lsn=NO_LSN,
    page_size=512,
    page_count=100_000,
    least_pages=90_000,
    change_counter=7,
    time_ms=TIME_MS,
)
FORKED = dataclasses.replace(FACTS, parent_log=OTHER_LOG, parent_lsn=RemoteLsn(9))


def source(lsn: int, slots: int = 20, **changes: Any) -> Source:
    """A commit whose frames follow its header."""
    name = lsn.to_bytes(8, "little") + lsn.to_bytes(8, "big")
    return dataclasses.replace(
        Source(LOG, name, RemoteLsn(lsn), None, 300 + lsn, 16, slots), **changes
    )


def compacted(slots: int = 20) -> Source:
    """A segment written by compaction."""
    return Source(LOG, SEGMENT.raw, NO_LSN, SEGMENT, 32, 16, slots)


def frames_of(place: Source) -> FrameTable:
    """All frames of a source; their sizes and checksums depend on the source."""
    draw = random.Random(place.id)
    count = -(-place.slots // place.frame_pages)
    sizes = array("I", [draw.randrange(1, 600) for _ in range(count)])
    return FrameTable.of(place.frame_pages, sizes, array("I", sizes), draw.randbytes(16 * count))


def encoded(runs: list[Run], facts: TableFacts = FACTS, **options: Any) -> bytes:
    return b"".join(encode_table(facts, runs, frames_of, **options))


def leaves_of(data: bytes, key: str = "the table") -> tuple[TableHead, list[Leaf]]:
    """Read a whole table: its head, and its leaves in page order."""
    head = decode_head(data, key=key)
    leaves, waiting = [], list(head.root)
    while waiting:
        block = waiting.pop(0)
        part = data[block.offset : block.offset + block.length]
        found = decode_block(part, block, key=key)
        if isinstance(found, Leaf):
            leaves.append(found)
        else:
            waiting[:0] = found
    return head, leaves


def runs_of(leaves: list[Leaf]) -> list[Run]:
    """The runs of all leaves, joined where a boundary has cut them."""
    joined: list[Run] = []
    for run in (run for leaf in leaves for run in leaf.runs()):
        if joined:
            first, end, place, slot = joined[-1]
            if (end, place, slot + end - first) == (run[0], run[2], run[3]):
                joined[-1] = first, run[1], place, slot
                continue
        joined.append(run)
    return joined
