"""The table codec: round trips, what a table records, a named test for all that is refused."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_128_digest

from graft_vfs.errors import CorruptObjectError, FutureVersionError
from graft_vfs.format.commit import hash_of
from graft_vfs.format.frame import compress, compressed_bytes_max
from graft_vfs.format.sparse_frames import SparseFrames
from graft_vfs.format.table import (
    HEAD_BYTES,
    Beneath,
    Block,
    Leaf,
    Run,
    TableFacts,
    decode_block,
    decode_head,
    encode_table,
    head_length,
)
from graft_vfs.format.table_leaf import LEAF_BYTES_MAX, LEAF_PAGES
from graft_vfs.format.table_node import NODE_BLOCKS
from graft_vfs.ids import LogId
from graft_vfs.pages import NO_LSN, PAGE_COUNT_MAX, RemoteLsn, lock_page
from tests.format.commit_samples import OTHER_LOG, SEGMENT
from tests.format.table_samples import (
    FACTS,
    FORKED,
    compacted,
    encoded,
    frames_of,
    leaves_of,
    runs_of,
    source,
)

KEY = "logs/x/tables/y"
NEW, OLD, BULK = source(50), source(2), source(1, slots=9000)
RUNS: list[Run] = [(1, 2, NEW, 0), (2, 40, BULK, 1), (40, 41, OLD, 17), (41, 9001, BULK, 40)]


# Round trips ----------------------------------------------------------------------------------


def test_a_table_reads_back() -> None:
    data = encoded(RUNS)
    head, leaves = leaves_of(data)
    assert head.facts == FACTS
    assert (head.length, head.head_length) == (len(data), head_length(data, key=KEY))
    assert head.pages == 9000
    assert [block.pages for block in head.root] == [4096, 4096, 808]
    assert [(block.first_page, block.end_page) for block in head.root] == [
        (1, 4097), (4097, 8193), (8193, 9001),
    ]  # fmt: skip
    assert runs_of(leaves) == RUNS
    assert leaves[0].sources == (NEW, BULK, OLD)
    assert leaves[2].sources == (BULK,)


def test_sources_of_a_fork_and_of_compaction_read_back() -> None:
    of_parent = source(7, log_id=OTHER_LOG, segment=SEGMENT, offset=32, frame_pages=64)
    runs: list[Run] = [(3, 9, of_parent, 11), (20, 30, compacted(), 0), (30, 31, compacted(), 15)]
    head, leaves = leaves_of(encoded(runs, FORKED))
    assert head.facts == FORKED
    assert runs_of(leaves) == runs


def test_a_table_without_pages_reads_back() -> None:
    empty = dataclasses.replace(FACTS, page_count=0, least_pages=0)
    data = encoded([], empty)
    head, leaves = leaves_of(data)
    assert (head.pages, head.stored_bytes, head.root, leaves) == (0, 0, (), [])
    assert head.length == head.head_length == len(data)


def test_older_tables_read_back() -> None:
    older = (
        Beneath(RemoteLsn(24), RemoteLsn(45), "00000000000000a0"),
        Beneath(NO_LSN, RemoteLsn(30)),
    )
    facts = dataclasses.replace(FACTS, after=RemoteLsn(40), beneath=older)
    head, leaves = leaves_of(encoded([(1, 2, NEW, 0)], facts))
    assert head.facts == facts
    assert runs_of(leaves) == [(1, 2, NEW, 0)]


BAD_BENEATH: dict[str, list[tuple[int, int, str]]] = {
    "not older": [(40, 45, "")],
    "newer": [(39, 51, "")],
    "empty": [(30, 30, "")],
    "a short id": [(30, 40, "12")],
    "an id of zeros": [(30, 40, "0" * 16)],
    "another order": [(20, 30, ""), (30, 40, "")],
    "too many": [(39 - at // 2, 50, "") for at in range(65)],
}


@pytest.mark.parametrize("name", BAD_BENEATH)
def test_a_writer_refuses_older_tables(name: str) -> None:
    older = tuple(Beneath(RemoteLsn(a), RemoteLsn(n), suffix) for a, n, suffix in BAD_BENEATH[name])
    with pytest.raises(ValueError, match="beneath"):
        encoded([], dataclasses.replace(FACTS, after=RemoteLsn(40), beneath=older))


def test_a_deep_tree_reads_back() -> None:
    data = encoded(RUNS, leaf_pages=100, node_blocks=4)
    head, leaves = leaves_of(data)
    assert [block.level for block in head.root] == [3, 3]
    assert len(leaves) == 90
    assert runs_of(leaves) == RUNS


def test_a_page_is_found_by_bisection() -> None:
    _, (leaf, *_) = leaves_of(encoded([(2, 4, NEW, 5), (10, 11, OLD, 0)]))
    found = {page: leaf.find(page) for page in range(1, 13)}
    assert {page: place for page, place in found.items() if place} == {
        2: (NEW, 5), 3: (NEW, 6), 10: (OLD, 0),
    }  # fmt: skip


def test_only_the_frames_that_hold_pages_are_recorded() -> None:
    of_all = frames_of(BULK)
    _, (leaf, *_) = leaves_of(encoded([(1, 2, BULK, 0), (5, 20, BULK, 40), (30, 31, BULK, 70)]))
    frames = leaf.frames(BULK)
    assert list(frames.numbers) == [0, 2, 3, 4]
    assert (len(frames), frames.frame_pages, frames.frame_of(40)) == (4, 16, 2)
    assert frames.byte_range(2, 5) == of_all.byte_range(2, 5)
    assert frames.byte_range(0, 0)[1] == 0
    assert [frames.checksum(frame) for frame in (0, 3)] == [
        of_all.checksum(frame) for frame in (0, 3)
    ]
    ask: Callable[[], object]
    for ask in (
        lambda: frames.byte_range(0, 3),
        lambda: frames.byte_range(1, 2),
        lambda: frames.byte_range(4, 6),
        lambda: frames.checksum(5),
    ):
        with pytest.raises(CorruptObjectError, match="records no place"):
            ask()


def test_frames_of_two_leaves_are_joined() -> None:
    _, leaves = leaves_of(encoded(RUNS))
    joined = SparseFrames.joined(leaf.frames(BULK) for leaf in leaves)
    of_all = frames_of(BULK)
    assert list(joined.numbers) == list(range(len(of_all)))
    assert joined.byte_range(0, len(of_all)) == of_all.byte_range(0, len(of_all))
    assert joined.checksums == of_all.checksums


def test_stored_bytes_count_each_frame_once() -> None:
    whole = encoded([(1, 9001, BULK, 0)])
    cut = encoded([(1, 9001, BULK, 0)], leaf_pages=7)
    expected = frames_of(BULK).body_bytes
    assert leaves_of(whole)[0].stored_bytes == leaves_of(cut)[0].stored_bytes == expected


def test_equal_contents_give_equal_bytes() -> None:
    pieces: list[Run] = [(1, 2, NEW, 0), (2, 9, BULK, 1), (9, 40, BULK, 8), *RUNS[2:]]
    assert encoded(pieces) == encoded(RUNS)


def test_a_small_table_fits_into_the_first_read() -> None:
    runs: list[Run] = [(page, page + 1, source(page, 3), 1) for page in range(1, 51)]
    assert len(encoded(runs)) < HEAD_BYTES


def test_the_largest_leaf_has_the_declared_length() -> None:
    sources = [source(lsn, segment=SEGMENT, offset=32) for lsn in range(1, LEAF_PAGES + 1)]
    facts = dataclasses.replace(FACTS, lsn=LEAF_PAGES)
    runs: list[Run] = [(2 * at + 1, 2 * at + 2, each, 3) for at, each in enumerate(sources)]
    head, leaves = leaves_of(encoded(runs, facts))
    assert [block.raw_length for block in head.root] == [LEAF_BYTES_MAX]
    assert runs_of(leaves) == runs


@st.composite
def some_runs(draw: st.DrawFn) -> list[Run]:
    sources = [source(lsn, draw(st.integers(1, 70)), frame_pages=3) for lsn in range(1, 6)]
    runs: list[Run] = []
    page = 0
    for _ in range(draw(st.integers(0, 30))):
        place = draw(st.sampled_from(sources))
        slot = draw(st.integers(0, place.slots - 1))
        first = page + draw(st.integers(1, 3))
        page = first + draw(st.integers(1, place.slots - slot)) - 1
        runs.append((first, page + 1, place, slot))
    return runs


@given(some_runs(), st.integers(1, 9), st.integers(2, 5))
@settings(max_examples=60, deadline=None)
def test_any_runs_read_back(runs: list[Run], leaf_pages: int, node_blocks: int) -> None:
    facts = dataclasses.replace(FACTS, page_count=PAGE_COUNT_MAX)
    # Deep trees only as deep as readers accept.
    if sum(end - first for first, end, _, _ in runs) > leaf_pages * node_blocks**4:
        leaf_pages = LEAF_PAGES
    data = encoded(runs, facts, leaf_pages=leaf_pages, node_blocks=node_blocks)
    head, leaves = leaves_of(data)
    expected = {
        page: (place, slot + page - first)
        for first, end, place, slot in runs
        for page in range(first, end)
    }
    found = {
        page: leaf.find(page)
        for leaf in leaves
        for first, end, _, _ in leaf.runs()
        for page in range(first, end)
    }
    assert found == expected
    assert head.pages == len(expected)


# What a writer refuses ------------------------------------------------------------------------

LOCK = lock_page(512)
BAD_RUNS: dict[str, tuple[list[Run], TableFacts]] = {
    "page 0": ([(0, 2, BULK, 0)], FACTS),
    "a page past the last": ([(99_999, 100_002, BULK, 0)], FACTS),
    "out of order": ([(5, 6, BULK, 0), (4, 5, OLD, 0)], FACTS),
    "twice": ([(5, 7, BULK, 0), (6, 8, OLD, 0)], FACTS),
    "the lock page": (
        [(LOCK - 1, LOCK + 1, BULK, 0)], dataclasses.replace(FACTS, page_count=LOCK + 9)
    ),
    "a slot past the last": ([(1, 3, OLD, 19)], FACTS),
    "an LSN past N": ([(1, 3, source(51), 0)], FACTS),
    "an LSN up to A": ([(1, 3, OLD, 0)], dataclasses.replace(FACTS, after=2)),
    "another log without a parent": ([(1, 3, source(1, log_id=OTHER_LOG), 0)], FACTS),
    "another log in a delta": (
        [(1, 3, source(1, log_id=OTHER_LOG), 0)], dataclasses.replace(FORKED, after=1)
    ),
    "a source without an object": ([(1, 2, source(0), 0)], FACTS),
    "an id of another LSN": ([(1, 2, source(3, id=OLD.id), 0)], FACTS),
    "frames in the segment's header": ([(1, 2, source(3, segment=SEGMENT, offset=31), 0)], FACTS),
    "frames at the beginning of a commit": ([(1, 2, source(3, offset=0), 0)], FACTS),
    "65 pages in a frame": ([(1, 2, source(3, frame_pages=65), 0)], FACTS),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_RUNS)
def test_a_writer_refuses(name: str) -> None:
    runs, facts = BAD_RUNS[name]
    with pytest.raises(ValueError, match=r"\w"):
        encode_table(facts, runs, frames_of)


@pytest.mark.parametrize(
    "change",
    [
        {"lsn": 0}, {"after": 50}, {"after": 51}, {"hash": b"h"}, {"page_size": 511},
        {"parent_lsn": 3}, {"parent_log": OTHER_LOG}, {"time_ms": 253_402_300_800_000},
        {"parent_log": FACTS.log_id, "parent_lsn": 3}, {"page_count": PAGE_COUNT_MAX + 1},
        {"least_pages": 100_001},
    ],
)  # fmt: skip
def test_a_writer_refuses_facts(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        encode_table(dataclasses.replace(FACTS, **change), [], frames_of)


# What a reader refuses ------------------------------------------------------------------------


def patched(data: bytes, offset: int, replacement: bytes) -> bytes:
    """Overwrite bytes of a head and give it the right hash."""
    length = head_length(data, key=KEY)
    changed = bytearray(data)
    changed[offset : offset + len(replacement)] = replacement
    changed[length - 32 : length] = hash_of(bytes(changed[: length - 32]))
    return bytes(changed)


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


DATA = encoded(RUNS)
HEAD = decode_head(DATA, key=KEY)
ROOT_AT = 152
GAPS_AT, SPANS_AT, PAGES_AT, LENGTHS_AT, RAW_AT = (ROOT_AT + 8 + 12 * at for at in range(5))


@pytest.mark.parametrize(
    ("offset", "replacement", "match"),
    [
        (10, b"\1", "blocks|pages"),
        (10, b"\4", "level 4"),
        (11, b"\1", "reserved"),
        (16, b"\0", "id"),
        (32, u64(0), "LSN 0"),
        (72, OTHER_LOG.raw, "half a parent"),
        (88, u64(1), "half a parent"),
        (96, u32(513), "page size"),
        (100, u32(8999), "beyond the last|at least"),
        (108, u32(8999), "other pages"),
        (112, u64(50), "commits from 50"),
        (120, u64(1 << 50), "time"),
        (144, u32(100_001), "at least 100001 pages"),
        (148, u32(1), "add up|beneath"),
        (148, u32(0xFFFF_FFFF), "add up"),
        (128, u64(len(DATA) + 1), "do not end"),
        (128, u64(1 << 48), "a table of"),
        (ROOT_AT, u64(100), "do not end"),
        (GAPS_AT, u32(0), "other pages"),
        (SPANS_AT, u32(4095), "other pages"),
        (SPANS_AT, u32(0xFFFF_FFFF), "beyond the last"),
        (PAGES_AT, u32(0), "other pages"),
        (LENGTHS_AT, u32(0), "length"),
        (LENGTHS_AT, u32(1 << 30), "length"),
        (RAW_AT, u32(0), "length"),
        (RAW_AT, u32(LEAF_BYTES_MAX + 1), "length"),
    ],
)
def test_a_head_is_validated_even_if_its_hash_is_right(
    offset: int, replacement: bytes, match: str
) -> None:
    with pytest.raises(CorruptObjectError, match=match) as raised:
        decode_head(patched(DATA, offset, replacement), key=KEY)
    assert KEY in str(raised.value)


def test_refuses_another_magic_truncation_and_a_wrong_hash() -> None:
    for data in (b"", b"GRAFTCMT" + DATA[8:], DATA[:15]):
        with pytest.raises(CorruptObjectError, match="not a table"):
            decode_head(data, key=KEY)
    with pytest.raises(CorruptObjectError, match="truncated"):
        decode_head(DATA[: HEAD.head_length - 1], key=KEY)
    with pytest.raises(CorruptObjectError, match="hash is wrong"):
        decode_head(DATA[:50] + b"\xff" + DATA[51:], key=KEY)


def test_refuses_a_later_version_and_says_upgrade() -> None:
    with pytest.raises(FutureVersionError, match="upgrade"):
        decode_head(DATA[:8] + b"\2\0" + DATA[10:], key=KEY)
    with pytest.raises(CorruptObjectError, match="version 0"):
        decode_head(DATA[:8] + b"\0\0" + DATA[10:], key=KEY)


@pytest.mark.parametrize("length", [0, 191, HEAD_BYTES + 1, 0xFFFF_FFFF])
def test_refuses_an_impossible_head_length(length: int) -> None:
    with pytest.raises(CorruptObjectError, match="no head has"):
        head_length(DATA[:12] + u32(length), key=KEY)


def test_refuses_a_block_of_another_length_or_checksum() -> None:
    block = HEAD.root[0]
    data = DATA[block.offset : block.offset + block.length]
    with pytest.raises(CorruptObjectError, match="instead of"):
        decode_block(data[:-1], block, key=KEY)
    with pytest.raises(CorruptObjectError, match="checksum mismatch"):
        decode_block(data[:-1] + bytes([data[-1] ^ 1]), block, key=KEY)


def block_of(raw: bytes, like: Block) -> tuple[bytes, Block]:
    """A block of any contents, with the right lengths and checksum."""
    data = compress(raw)
    return data, dataclasses.replace(
        like, length=len(data), raw_length=len(raw), checksum=xxh3_128_digest(data)
    )


def test_refuses_a_block_that_claims_another_length() -> None:
    data, block = block_of(bytes(10_000_000), HEAD.root[0])
    block = dataclasses.replace(block, raw_length=100)
    with pytest.raises(CorruptObjectError, match="claims 10000000 bytes instead of 100"):
        decode_block(data, block, key=KEY)


SMALL: list[Run] = [(3, 5, NEW, 15), (5, 6, OLD, 0), (8, 9, NEW, 19)]
LEAF = Leaf.of(SMALL, frames_of)
LEAF_BYTES = LEAF.encode()
SMALL_BLOCK = Block(3, 9, 300, 1, 4, 0, b"", 1, FACTS)
# Two sources, three runs, three frames: the offset of each column.
COLUMNS = (32, 32, 32, 16, 8, 4, 8, 12, 12, 12, 12, 12, 24, 12, 48)
NAMES = (
    "logs", "ids", "segments", "offsets", "slots", "frame_pages", "counts", "gaps", "lengths",
    "places", "run_slots", "skipped", "frame_gaps", "sizes", "checksums",
)  # fmt: skip
AT = {name: 12 + sum(COLUMNS[:number]) for number, name in enumerate(NAMES)}


def test_the_columns_are_where_the_byte_table_has_them() -> None:
    assert len(LEAF_BYTES) == 12 + sum(COLUMNS)
    leaf = decode_block(*block_of(LEAF_BYTES, SMALL_BLOCK), key=KEY)
    assert isinstance(leaf, Leaf)
    assert list(leaf.runs()) == SMALL
    assert LEAF_BYTES[AT["lengths"] : AT["places"]] == u32(2) + u32(1) + u32(1)
    assert LEAF_BYTES[AT["places"] : AT["run_slots"]] == u32(0) + u32(1) + u32(0xFFFF_FFFF)
    assert LEAF_BYTES[AT["run_slots"] : AT["skipped"]] == u32(15) + u32(0) + u32(2)


TOO_LARGE = compressed_bytes_max(512, 16) + 1


@pytest.mark.parametrize(
    ("offset", "replacement", "match"),
    [
        (0, u32(3), "add up"),
        (0, u32(LEAF_PAGES + 1), "too many"),
        (AT["logs"], b"\0", "log id"),
        (AT["logs"], LogId.new().raw, r"log "),
        (AT["ids"], u64(51), "not covered"),
        (AT["ids"], u64(0xFFFF_FFFF_FFFF_FFFF), "LSN"),
        (AT["ids"] + 16, NEW.id, "twice"),
        (AT["segments"], b"\1", "segment id"),
        (AT["offsets"], u64(0), "frames at byte 0"),
        (AT["offsets"], u64(1 << 60), "frames at byte"),
        (AT["slots"], u32(0), "slot"),
        (AT["slots"], u32(19), "slot"),
        (AT["frame_pages"], b"\0\0", "pages in a frame"),
        (AT["frame_pages"], b"\x41\0", "pages in a frame"),
        (AT["frame_pages"], b"\1\0", "frames"),
        (AT["counts"], u32(3), "other frames"),
        (AT["counts"], u32(1) + u32(2), "frame"),
        (AT["gaps"], u32(1), "another page"),
        (AT["gaps"], u32(0xFFFF_FFFF), "another page"),
        (AT["lengths"], u32(0) + u32(3), "order"),
        (AT["places"], u32(2), "no source"),
        (AT["run_slots"], u32(0xFFFF_FFFF), "slot"),
        (AT["run_slots"], u32(16), "frames|slot"),
        (AT["skipped"], u32(1), "frames"),
        (AT["frame_gaps"], u64(1), "offset"),
        (AT["frame_gaps"], u64(1 << 63), "offset"),
        (AT["sizes"], u32(0), "size"),
        (AT["sizes"], u32(TOO_LARGE), "size"),
    ],
)
def test_a_leaf_is_validated_even_if_its_checksum_is_right(
    offset: int, replacement: bytes, match: str
) -> None:
    changed = bytearray(LEAF_BYTES)
    changed[offset : offset + len(replacement)] = replacement
    with pytest.raises(CorruptObjectError, match=match) as raised:
        decode_block(*block_of(bytes(changed), SMALL_BLOCK), key=KEY)
    assert KEY in str(raised.value)


@pytest.mark.parametrize(
    "change", [{"first_page": 2}, {"end_page": 10}, {"pages": 5}, {"pages": 3}]
)
def test_refuses_a_leaf_of_other_pages(change: dict[str, Any]) -> None:
    with pytest.raises(CorruptObjectError, match="page"):
        decode_block(*block_of(LEAF_BYTES, dataclasses.replace(SMALL_BLOCK, **change)), key=KEY)


@pytest.mark.parametrize(
    "change", [{"first_page": 2}, {"end_page": 403}, {"pages": 399}, {"offset": 300}]
)
def test_refuses_a_node_that_does_not_fit_its_parent(change: dict[str, Any]) -> None:
    data = encoded([(1, 9001, BULK, 0)], leaf_pages=100, node_blocks=4)
    block = decode_head(data, key=KEY).root[0]
    while block.level > 1:
        part = data[block.offset : block.offset + block.length]
        blocks = decode_block(part, block, key=KEY)
        assert isinstance(blocks, tuple)
        block = blocks[0]
    part = data[block.offset : block.offset + block.length]
    assert decode_block(part, block, key=KEY)
    with pytest.raises(CorruptObjectError, match=r"page|later|number"):
        decode_block(part, dataclasses.replace(block, **change), key=KEY)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_head_or_raise_the_declared_errors(data: bytes) -> None:
    for attempt in (data, DATA[:16] + data, DATA[:12] + u32(len(data) + 16) + data):
        with pytest.raises((CorruptObjectError, FutureVersionError)):
            decode_head(attempt, key=KEY)


@given(
    st.lists(st.tuples(st.integers(0, len(LEAF_BYTES) - 1), st.binary(min_size=1, max_size=8))),
    st.sampled_from([0, 1]),
)
@settings(deadline=None)
def test_any_block_is_decoded_or_raises_the_declared_error(
    changes: list[tuple[int, bytes]], level: int
) -> None:
    changed = bytearray(LEAF_BYTES)
    for offset, replacement in changes:
        changed[offset : offset + len(replacement)] = replacement
    block = dataclasses.replace(SMALL_BLOCK, level=level)
    try:
        found = decode_block(*block_of(bytes(changed), block), key=KEY)
    except CorruptObjectError:
        return
    assert isinstance(found, Leaf)
    for first, end, place, slot in found.runs():
        frames = found.frames(place)
        assert found.find(first) == (place, slot)
        frames.byte_range(frames.frame_of(slot), frames.frame_of(slot + end - first - 1) + 1)


def test_a_run_that_claims_millions_of_pages_takes_no_memory() -> None:
    changed = bytearray(Leaf.of([(1, 2, source(1, 9, frame_pages=1), 0)], frames_of).encode())
    pages = 5_000_000
    # One source, one run, one frame: pages of the source, and the length of the run.
    for offset in (12 + 48 + 8, 12 + 48 + 18 + 4):
        changed[offset : offset + 4] = u32(pages)
    facts = dataclasses.replace(FACTS, page_size=65_536, page_count=PAGE_COUNT_MAX)
    first = lock_page(65_536) + 1
    block = dataclasses.replace(SMALL_BLOCK, first_page=first, end_page=first + pages, facts=facts)
    data, block = block_of(bytes(changed), block)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptObjectError, match="too many pages"):
            decode_block(data, block, key=KEY)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_node_has_at_most_512_blocks() -> None:
    runs: list[Run] = [(page, page + 1, OLD, 0) for page in range(1, NODE_BLOCKS + 3, 2)]
    data = encoded(runs, leaf_pages=1)
    assert decode_head(data, key=KEY).head_length < HEAD_BYTES
    crowded = patched(data, 12, u32(152 + 8 + 36 * (NODE_BLOCKS + 1) + 32))
    with pytest.raises(CorruptObjectError):
        decode_head(crowded + bytes(40_000), key=KEY)
