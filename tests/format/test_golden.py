"""Golden files: objects of every format version that every later program must read.

`python tests/format/test_golden.py --write` makes them anew. That is right only together with a
new format version: what these files hold is on people's remotes.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path
from typing import Any

import pytest

from graft_vfs.errors import CorruptObjectError, FutureVersionError
from graft_vfs.format.commit import (
    CommitHeader,
    FrameTable,
    decode_header,
    hash_of,
    header_length,
)
from graft_vfs.format.frame import decode_frame
from graft_vfs.format.name import CommitName, decode_name
from graft_vfs.format.segment import SEGMENT_HEADER_BYTES, check_segment_header, segment_header
from graft_vfs.format.table import Beneath, Run, TableFacts
from graft_vfs.format.table import head_length as table_head_length
from graft_vfs.ids import SegmentId
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.remote.floor import Floor, decode_floor
from graft_vfs.remote.refs import create_ref, read_ref, ref_key
from graft_vfs.remote.rolls import Roll, decode_roll
from graft_vfs.store.memory import MemoryStore
from tests.format.commit_samples import LOG, OTHER_LOG, SEGMENT, body, header_of, image
from tests.format.table_samples import FACTS, FORKED, compacted, encoded, leaves_of, runs_of, source

GOLDEN = Path(__file__).parent.parent / "golden"
SPARSE = [1, 2, 3, 17, 65_535, 65_536, 70_000, *range(200_001, 200_031)]
COMMITS: dict[str, tuple[list[int], dict[str, Any]]] = {
    "commit-inline.bin": (list(range(1, 20)), {}),
    "commit-in-segment.bin": (
        SPARSE,
        {
            "lsn": 0x0102_0304_0506_0708,
            "previous_hash": bytes(range(32)),
            "page_count": 300_000,
            "segment": SEGMENT,
            "checkpoint_lsn": 0x0102_0304_0506_0700,
            "author": "",
        },
    ),
    "commit-with-message.bin": (
        [1, 2, 7],
        {"lsn": 2, "previous_hash": b"\xbb" * 32, "message": "größer:\n\t- a second table"},
    ),
    "commit-with-grace.bin": (
        [1, 5],
        {"lsn": 3, "previous_hash": b"\xcc" * 32, "grace_seconds": 86_400, "message": "kept"},
    ),
    "commit-forked-empty.bin": (
        [],
        {
            "parent_log": OTHER_LOG,
            "parent_lsn": 41,
            "previous_hash": b"\xaa" * 32,
            "page_count": 12,
            "page_size": 65_536,
            "local_commits": 0,
        },
    ),
}
SEGMENT_FILE = "segment.bin"
REF_FILE = "ref-2.txt"
OLD_REF_FILE = "ref.txt"
NAME_FILE = "name.txt"
FLOOR_FILE, ROLL_FILE = "floor.txt", "roll.bin"
FLOOR = Floor(LOG, RemoteLsn(0x0102_0304_0506_0708), 86_400)
ROLL = Roll(LOG, RemoteLsn(0x0102_0304_0506_0700), bytes(range(32)) + b"\xaa" * 32)
NAME = CommitName(
    log=LOG,
    lsn=RemoteLsn(7),
    hash=bytes(range(32)),
    name="größe/v1.0",
    time_ms=1_750_000_000_000,
    author="Zoë@host",
    message="before the move:\n100 % of it",
    attempt=b"attempt-number-1",
)
REF_NAME = "größe/../a b~.db"
TABLES: dict[str, tuple[TableFacts, list[Run], dict[str, int]]] = {
    "table-of-fork.bin": (
        FORKED,
        [
            (1, 2, source(50), 0),
            (2, 18, source(7, log_id=OTHER_LOG, segment=SEGMENT, offset=32), 3),
            (18, 19, source(50), 19),
            (70_000, 70_010, compacted(), 5),
        ],
        {},
    ),
    "table-deep.bin": (
        dataclasses.replace(
            FACTS,
            after=RemoteLsn(40),
            beneath=(
                Beneath(RemoteLsn(24), RemoteLsn(40)),
                Beneath(NO_LSN, RemoteLsn(24), "0123456789abcdef"),
            ),
        ),
        [(9, 40, source(41, slots=64), 0), (50, 51, source(42), 7), (51, 60, source(43), 2)],
        {"leaf_pages": 4, "node_blocks": 3},
    ),
}


def build(name: str, table: FrameTable | None = None) -> tuple[CommitHeader, bytes]:
    page_indexes, changes = COMMITS[name]
    pages, built, frames = body({page: image(page) for page in page_indexes})
    return header_of(pages, table or built, **changes), b"".join(frames)


def read(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def frames_of(header: CommitHeader, data: bytes, offset: int) -> bytes:
    runs = []
    for frame in range(len(header.frames)):
        start, length = header.frames.byte_range(frame, frame + 1)
        runs.append(
            decode_frame(
                data[offset + start : offset + start + length],
                page_size=header.page_size,
                page_count=header.pages_in_frame(frame),
                checksum=header.frames.checksum(frame),
                name=f"frame {frame}",
            )
        )
    return b"".join(runs)


@pytest.mark.parametrize("name", COMMITS)
def test_todays_decoder_reads_golden_commits(name: str) -> None:
    data = read(name)
    header, length = decode_header(data, key=name)
    page_indexes, changes = COMMITS[name]
    assert list(header.pages) == page_indexes
    for fact, value in changes.items():
        assert getattr(header, fact) == value
    if header.segment is None:
        images = b"".join(image(page) for page in page_indexes)
        assert frames_of(header, data, header.body_offset(length)) == images


@pytest.mark.parametrize("name", COMMITS)
def test_todays_encoder_gives_golden_headers(name: str) -> None:
    # Frames are taken from the file, because zstd may compress better one day; headers may not
    # change by a bit.
    data = read(name)
    golden, length = decode_header(data, key=name)
    header, _ = build(name, golden.frames)
    assert header.encode() == data[:length]
    assert header.hash == golden.hash


def test_todays_decoder_reads_a_golden_segment() -> None:
    data = read(SEGMENT_FILE)
    header, length = decode_header(read("commit-in-segment.bin"), key="commit")
    assert isinstance(header.segment, SegmentId)
    check_segment_header(data, header.segment)
    assert data[:SEGMENT_HEADER_BYTES] == segment_header(SEGMENT)
    images = b"".join(image(page) for page in SPARSE)
    assert frames_of(header, data, header.body_offset(length)) == images


def test_a_golden_ref_is_what_is_written_and_read() -> None:
    store = MemoryStore()
    assert create_ref(store, REF_NAME, LOG) == LOG
    key = ref_key(REF_NAME)
    assert key == "refs/gr%C3%B6%C3%9Fe%2F..%2Fa%20b%7E.db"
    assert store.get_range(key, 0, 9999) == read(REF_FILE)
    for file in (REF_FILE, OLD_REF_FILE):
        fresh = MemoryStore()
        fresh.put(key, [read(file)])
        assert read_ref(fresh, REF_NAME) == LOG


def test_a_golden_name_is_what_is_written_and_read() -> None:
    assert NAME.encode() == read(NAME_FILE)
    assert decode_name(read(NAME_FILE), key="the name") == NAME


@pytest.mark.parametrize("name", TABLES)
def test_todays_decoder_reads_golden_tables(name: str) -> None:
    facts, runs, options = TABLES[name]
    head, leaves = leaves_of(read(name))
    _, expected = leaves_of(encoded(runs, facts, **options))
    assert (head.facts, runs_of(leaves), head.length) == (facts, runs, len(read(name)))
    # The contents of each leaf; zstd may compress them better one day.
    assert [leaf.encode() for leaf in leaves] == [leaf.encode() for leaf in expected]


@pytest.mark.parametrize("name", TABLES)
def test_golden_tables_with_any_byte_changed_raise_only_declared_errors(name: str) -> None:
    data = read(name)
    length = table_head_length(data, key=name)
    for at, value in itertools.product(range(len(data)), (0, 1, 0x7F, 0x80, 0xFF)):
        changed = data[:at] + bytes([value]) + data[at + 1 :]
        for attempt in (changed, reseal(changed, length)):
            try:
                head, leaves = leaves_of(attempt)
            except (CorruptObjectError, FutureVersionError):
                continue
            assert sum(end - first for first, end, _, _ in runs_of(leaves)) == head.pages


@pytest.mark.parametrize("name", TABLES)
def test_golden_tables_cut_anywhere_raise_only_the_declared_error(name: str) -> None:
    data = read(name)
    for kept in range(len(data)):
        with pytest.raises(CorruptObjectError):
            leaves_of(data[:kept])


def test_a_golden_floor_and_a_golden_roll_are_what_is_written_and_read() -> None:
    assert FLOOR.encode() == read(FLOOR_FILE)
    assert decode_floor(read(FLOOR_FILE), key="the floor", log_id=LOG) == FLOOR
    assert ROLL.encode() == read(ROLL_FILE)
    assert decode_roll(read(ROLL_FILE), key="the roll") == ROLL


def reseal(data: bytes, length: int) -> bytes:
    """Give a changed header the right hash, so that the checks behind the hash see the change."""
    return data[: length - 32] + hash_of(data[: length - 32]) + data[length:]


@pytest.mark.parametrize("name", COMMITS)
def test_golden_commits_with_any_byte_changed_raise_only_declared_errors(name: str) -> None:
    data = read(name)
    length = header_length(data, key=name)
    for at, value in itertools.product(range(len(data)), (0, 1, 0x7F, 0x80, 0xFF)):
        changed = data[:at] + bytes([value]) + data[at + 1 :]
        for attempt in (changed, reseal(changed, length)):
            try:
                header, header_bytes = decode_header(attempt, key=name)
                frames_of(header, attempt, header.body_offset(header_bytes))
            except (CorruptObjectError, FutureVersionError):
                continue
            assert len(header.pages) <= header.page_count


@pytest.mark.parametrize("name", COMMITS)
def test_golden_commits_cut_anywhere_raise_only_the_declared_error(name: str) -> None:
    data = read(name)
    for kept in range(header_length(data, key=name)):
        with pytest.raises(CorruptObjectError):
            decode_header(data[:kept], key=name)


def write() -> None:
    """Make the golden files anew."""
    for name in COMMITS:
        header, frames = build(name)
        inline = b"" if header.segment else frames
        (GOLDEN / name).write_bytes(header.encode() + inline)
    _, frames = build("commit-in-segment.bin")
    (GOLDEN / SEGMENT_FILE).write_bytes(segment_header(SEGMENT) + frames)
    store = MemoryStore()
    create_ref(store, REF_NAME, LOG)
    for name, (facts, runs, options) in TABLES.items():
        (GOLDEN / name).write_bytes(encoded(runs, facts, **options))
    (GOLDEN / NAME_FILE).write_bytes(NAME.encode())
    (GOLDEN / FLOOR_FILE).write_bytes(FLOOR.encode())
    (GOLDEN / ROLL_FILE).write_bytes(ROLL.encode())
    (GOLDEN / REF_FILE).write_bytes(store.get_range(ref_key(REF_NAME), 0, 9999))


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
