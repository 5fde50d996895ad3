"""The commit codec: round trips, a named test for every header that is refused."""

from __future__ import annotations

import dataclasses
import random
import struct
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from graft_vfs.errors import CorruptObjectError, DamageError, FutureVersionError, UsageError
from graft_vfs.format import commit as codec
from graft_vfs.format.commit import (
    GRACE_END,
    HEAD_BYTES,
    HEADER_BYTES_MAX,
    NO_HASH,
    TIME_MS_MAX,
    CommitHeader,
    FrameTable,
    decode_header,
    grace_seconds_of,
    header_length,
)
from graft_vfs.format.frame import FRAME_PAGES_MAX, compressed_bytes_max
from graft_vfs.format.segment import SEGMENT_HEADER_BYTES
from graft_vfs.pages import LSN_MAX, PAGE_COUNT_MAX, PAGE_SIZES, lock_page
from tests.format.commit_samples import (
    LOG,
    OTHER_LOG,
    SEGMENT,
    body,
    commit,
    header_of,
    image,
    patched,
    sealed,
)

KEY = "logs/x/commits/y"
AUTHOR_AT = 192


def facts(header: CommitHeader) -> dict[str, object]:
    return {field.name: getattr(header, field.name) for field in dataclasses.fields(CommitHeader)}


def decode(data: bytes) -> CommitHeader:
    return decode_header(data, key=KEY)[0]


def refuse(data: bytes, match: str) -> None:
    with pytest.raises(CorruptObjectError, match=match) as raised:
        decode(data)
    assert KEY in str(raised.value)


def frames_for(pages: BitMap, *, frame_pages: int, size: int = 10) -> FrameTable:
    ordered = list(pages)
    last = [
        ordered[min(at + frame_pages, len(ordered)) - 1]
        for at in range(0, len(ordered), frame_pages)
    ]
    count = len(last)
    return FrameTable.of(
        frame_pages, array("I", [size] * count), array("I", last), bytes(range(16)) * count
    )


# Round trips ----------------------------------------------------------------------------------


def test_an_inline_commit_reads_back() -> None:
    header, data = commit()
    read, length = decode_header(data, key=KEY)
    assert facts(read) == facts(header)
    assert data[length - 32 : length] == header.hash
    assert read.encode() == data[:length]
    assert read.body_offset(length) == length
    assert len(data) - length == read.frames.body_bytes


def test_a_commit_with_segment_and_parent_reads_back() -> None:
    header, data = commit(
        [1, 5, 900], segment=SEGMENT, parent_log=OTHER_LOG, parent_lsn=9, previous_hash=b"p" * 32
    )
    read = decode(data)
    assert facts(read) == facts(header)
    assert read.body_offset(12345) == SEGMENT_HEADER_BYTES


def test_a_commit_without_pages_reads_back() -> None:
    header, data = commit([], page_count=4)
    read, length = decode_header(data, key=KEY)
    assert (length, len(read.frames), read.frames.body_bytes) == (len(data), 0, 0)
    assert facts(read) == facts(header)


def test_frame_ranges_slots_and_counts_fit_together() -> None:
    header, data = commit(range(3, 3 + 35))
    frames = header.frames
    assert [frames.frame_of(slot) for slot in (0, 15, 16, 34)] == [0, 0, 1, 2]
    assert [header.pages_in_frame(frame) for frame in range(3)] == [16, 16, 3]
    assert list(frames.last_pages) == [18, 34, 37]
    assert frames.byte_range(0, 3) == (0, frames.body_bytes)
    assert frames.byte_range(1, 1)[1] == 0
    offset, length = frames.byte_range(1, 3)
    assert (offset, length) == (frames.sizes[0], frames.sizes[1] + frames.sizes[2])
    assert len(data) == len(header.encode()) + frames.body_bytes


def test_the_smallest_containers_are_written() -> None:
    dense = BitMap(range(1, 200_001))
    header = header_of(dense, frames_for(dense, frame_pages=64), page_size=4096)
    assert len(header.encode()) < 24 * len(header.frames) + 500
    assert decode(header.encode()).pages == dense


def test_a_page_set_in_larger_containers_is_read() -> None:
    pages = BitMap(list(range(1, 100)), optimize=False)
    header = header_of(pages, frames_for(pages, frame_pages=16))
    encoded = header.encode()
    small, large = decode(encoded).pages.serialize(), pages.serialize()
    assert len(small) < len(large)
    at = AUTHOR_AT + len(header.author.encode())
    assert encoded[at : at + len(small)] == small
    data = bytearray(encoded[:-32])
    data[at : at + len(small)] = large
    data[176:180] = len(large).to_bytes(4, "little")
    assert decode(sealed(data)).pages == pages


def test_the_attempt_distinguishes_equal_pushes() -> None:
    first, _ = commit(attempt=b"a" * 16)
    second, _ = commit(attempt=b"b" * 16)
    assert first.hash != second.hash


def test_a_head_of_16_kib_holds_the_header_of_a_push_of_40_mib() -> None:
    pages = BitMap(range(1, 10_240))
    header = header_of(pages, frames_for(pages, frame_pages=16), page_size=4096)
    assert len(header.encode()) <= HEAD_BYTES


@st.composite
def headers(draw: st.DrawFn) -> CommitHeader:
    page_size = draw(st.sampled_from(PAGE_SIZES))
    page_count = draw(st.integers(0, PAGE_COUNT_MAX))
    pages = BitMap(draw(st.sets(st.integers(1, max(1, page_count)), max_size=200)))
    if draw(st.booleans()) and page_count > 10_000:
        start = draw(st.integers(1, page_count - 5000))
        pages |= BitMap(range(start, start + draw(st.integers(1, 5000))))
    pages.discard(lock_page(page_size))
    pages &= BitMap(range(1, 2)) if page_count == 1 else pages
    if page_count == 0:
        pages.clear()
    frame_pages = draw(st.integers(1, FRAME_PAGES_MAX))
    has_parent = draw(st.booleans())
    lsn = 1 if has_parent else draw(st.integers(1, LSN_MAX))
    some_hash = draw(st.binary(min_size=32, max_size=32).filter(lambda value: value != NO_HASH))
    return header_of(
        pages,
        frames_for(pages, frame_pages=frame_pages, size=draw(st.integers(1, page_size))),
        page_size=page_size,
        page_count=page_count,
        lsn=lsn,
        previous_hash=NO_HASH if lsn == 1 and not has_parent else some_hash,
        parent_log=OTHER_LOG if has_parent else None,
        parent_lsn=draw(st.integers(1, LSN_MAX)) if has_parent else 0,
        change_counter=draw(st.integers(0, 2**32 - 1)),
        local_commits=draw(st.integers(0, 2**32 - 1)),
        segment=draw(st.sampled_from([None, SEGMENT])),
        writer=draw(st.binary(min_size=16, max_size=16)),
        attempt=draw(st.binary(min_size=16, max_size=16)),
        time_ms=draw(st.integers(0, TIME_MS_MAX)),
        checkpoint_lsn=draw(st.integers(0, lsn - 1)),
        author=draw(st.text(max_size=60)),
        message=draw(st.text(max_size=60)),
        grace_seconds=draw(st.just(0) | st.integers(3600, 2**32 - 1)),
    )


@settings(max_examples=150, deadline=None)
@given(headers())
def test_every_header_reads_back(header: CommitHeader) -> None:
    encoded = header.encode()
    read, length = decode_header(encoded + b"body", key=KEY)
    assert length == len(encoded) == header_length(encoded[:16], key=KEY)
    assert facts(read) == facts(header)
    assert read.encode() == encoded


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600))
def test_arbitrary_bytes_raise_only_declared_errors(data: bytes) -> None:
    for attempt in (
        data,
        codec.MAGIC + data,
        sealed((codec.MAGIC + b"\3\0\1\0" + data).ljust(196, b"\0")),
        sealed((codec.MAGIC + b"\1\0\1\0" + data).ljust(192, b"\0")),
    ):
        with pytest.raises(DamageError):
            decode(attempt)


# Refusals: what is no header ------------------------------------------------------------------


def test_refuses_an_empty_object() -> None:
    refuse(b"", "not a commit")


def test_refuses_another_magic() -> None:
    refuse(b"SQLite format 3\0" * 20, "not a commit")


def test_refuses_a_prefix_too_short_to_know_its_length() -> None:
    refuse(commit()[1][:15], "not a commit")


def test_refuses_every_truncation() -> None:
    header, data = commit()
    for length in range(len(header.encode())):
        with pytest.raises(CorruptObjectError):
            decode(data[:length])


def test_refuses_a_later_version_and_says_upgrade() -> None:
    data = bytearray(commit()[1])
    data[8:10] = (4).to_bytes(2, "little")
    with pytest.raises(FutureVersionError, match="upgrade graft-vfs"):
        decode(bytes(data))


def test_refuses_a_later_version_that_is_shorter_than_a_header_of_ours() -> None:
    with pytest.raises(FutureVersionError):
        decode(codec.MAGIC + b"\xff\xff\1\0" + bytes(4))


def test_refuses_version_0() -> None:
    refuse(patched(commit()[0].encode(), 8, b"\0\0"), "version 0")


@pytest.mark.parametrize("kind", [0, 2, 255])
def test_refuses_an_unknown_kind_as_a_later_version(kind: int) -> None:
    with pytest.raises(FutureVersionError, match=f"kind {kind}"):
        decode(patched(commit()[0].encode(), 10, bytes([kind])))


@pytest.mark.parametrize("length", [0, 16, 231, HEADER_BYTES_MAX + 1, 2**32 - 1])
def test_refuses_an_impossible_header_length(length: int) -> None:
    data = bytearray(commit()[1])
    data[12:16] = length.to_bytes(4, "little")
    with pytest.raises(CorruptObjectError, match="no header has"):
        header_length(bytes(data[:16]), key=KEY)


def test_refuses_a_header_length_beyond_the_data() -> None:
    data = bytearray(commit()[1])
    data[12:16] = HEADER_BYTES_MAX.to_bytes(4, "little")
    refuse(bytes(data), "truncated")


def test_refuses_every_flipped_bit_of_the_header() -> None:
    encoded = commit([1, 2, 3])[0].encode()
    for bit in range(8 * len(encoded)):
        data = bytearray(encoded)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamageError):
            decode(bytes(data))


# Refusals: what a hash does not excuse --------------------------------------------------------


def test_refuses_set_reserved_bytes() -> None:
    encoded = commit()[0].encode()
    refuse(patched(encoded, 11, b"\1"), "reserved")


def test_a_message_is_in_version_2_and_a_commit_without_one_in_version_1() -> None:
    plain, said = commit()[0], commit(message="größer, schöner\nand on two lines")[0]
    assert plain.encode()[8:10] == b"\1\0"
    assert said.encode()[8:10] == b"\2\0"
    assert decode(said.encode()).message == said.message
    assert decode(plain.encode()).message == ""


def test_refuses_a_message_in_version_1_and_version_2_without_one() -> None:
    said = commit(message="why")[0].encode()
    refuse(patched(said, 8, b"\1\0"), "message")
    refuse(patched(commit()[0].encode(), 8, b"\2\0"), "message")
    refuse(patched(said, 188, b"\2"), "add up")
    at = said.index(b"why")
    refuse(patched(said, at, b"\xff"), "utf-8")


@pytest.mark.parametrize("message", ["", "why"])
def test_a_grace_period_is_in_version_3_which_may_have_a_message(message: str) -> None:
    kept = commit(grace_seconds=3600, message=message)[0]
    encoded = kept.encode()
    assert encoded[8:10] == b"\3\0"
    assert (decode(encoded).grace_seconds, decode(encoded).message) == (3600, message)
    assert grace_seconds_of(encoded[:GRACE_END]) == 3600
    assert grace_seconds_of(commit(message=message)[0].encode()[:GRACE_END]) == 0


def test_a_program_that_knows_no_retention_refuses_its_commits_by_name(monkeypatch) -> None:
    """What the decoder of version 2 says, whose only check of this is the one of the version."""
    data = commit(grace_seconds=3600)[1]
    monkeypatch.setattr(codec, "VERSION", 2)
    with pytest.raises(FutureVersionError, match=r"version 3 .* reads versions up to 2"):
        header_length(data[:16], key=KEY)


def test_refuses_a_short_grace_period_and_version_3_without_one() -> None:
    kept = commit(grace_seconds=3600)[0].encode()
    refuse(patched(kept, 192, (3599).to_bytes(4, "little")), "grace period of 3599 s")
    refuse(patched(kept, 192, bytes(4)), "no grace period")
    refuse(patched(kept, 8, b"\2\0"), "add up|message")
    refuse(patched(kept, 8, b"\1\0"), "add up|message")
    with pytest.raises(ValueError, match="grace period of 60 s"):
        commit(grace_seconds=60)


def test_refuses_a_long_message() -> None:
    assert decode(commit(message="x" * 4096)[0].encode()).message == "x" * 4096
    with pytest.raises(ValueError, match="message"):
        commit(message="ä" * 2049)


def test_refuses_a_log_id_of_another_type() -> None:
    refuse(patched(commit()[0].encode(), 16, SEGMENT.raw), "log id")


def test_refuses_a_segment_id_of_another_type() -> None:
    refuse(patched(commit()[0].encode(), 112, LOG.raw), "segment id")


def test_refuses_a_parent_id_of_another_type() -> None:
    refuse(patched(commit()[0].encode(), 72, SEGMENT.raw), "log id")


def test_refuses_lsn_0_and_the_lsn_beyond_the_last() -> None:
    encoded = commit()[0].encode()
    refuse(patched(encoded, 32, bytes(8)), "LSN 0")
    refuse(patched(encoded, 32, b"\xff" * 8), "LSN 18446744073709551615")


def test_refuses_lsn_1_with_a_previous_hash() -> None:
    refuse(patched(commit()[0].encode(), 40, b"x" * 32), "previous hash")


def test_refuses_a_later_lsn_without_previous_hash() -> None:
    encoded = commit(lsn=2, previous_hash=b"x" * 32)[0].encode()
    refuse(patched(encoded, 40, NO_HASH), "previous hash")


def test_refuses_half_a_parent() -> None:
    encoded = commit()[0].encode()
    refuse(patched(encoded, 72, OTHER_LOG.raw), "half a parent")
    refuse(patched(encoded, 88, b"\1"), "half a parent")


def test_refuses_a_parent_after_lsn_1() -> None:
    encoded = commit(lsn=2, previous_hash=b"x" * 32)[0].encode()
    with_parent = patched(encoded, 72, OTHER_LOG.raw + (3).to_bytes(8, "little"))
    refuse(with_parent, "after LSN 1")


def test_refuses_a_log_that_is_its_own_parent() -> None:
    encoded = commit(parent_log=OTHER_LOG, parent_lsn=1, previous_hash=b"x" * 32)[0].encode()
    refuse(patched(encoded, 72, LOG.raw), "own parent")


@pytest.mark.parametrize("page_size", [0, 1, 256, 513, 131072])
def test_refuses_a_page_size_that_sqlite_does_not_know(page_size: int) -> None:
    refuse(patched(commit()[0].encode(), 96, page_size.to_bytes(4, "little")), "page size")


def test_refuses_an_impossible_page_count() -> None:
    refuse(patched(commit()[0].encode(), 100, b"\xff" * 4), "page count")


def test_refuses_a_time_after_the_year_9999() -> None:
    late = (TIME_MS_MAX + 1).to_bytes(8, "little")
    refuse(patched(commit()[0].encode(), 160, late), "time")


def test_refuses_a_checkpoint_of_the_commit_itself_or_later() -> None:
    refuse(patched(commit()[0].encode(), 168, b"\1"), "checkpoint at LSN 1")


def test_refuses_parts_that_do_not_add_up() -> None:
    encoded = commit()[0].encode()
    for offset in (176, 180, 186):
        refuse(patched(encoded, offset, bytes([encoded[offset] + 1])), "add up")


def test_refuses_bytes_after_the_columns() -> None:
    refuse(sealed(commit()[0].encode()[:-32] + b"x"), "add up")


def test_refuses_a_long_author() -> None:
    encoded = commit(author="a" * 255)[0].encode()
    data = bytearray(encoded[:-32])
    data[AUTHOR_AT:AUTHOR_AT] = b"a"
    data[186:188] = (256).to_bytes(2, "little")
    refuse(sealed(data), "author")


def test_refuses_an_author_that_is_not_utf_8() -> None:
    refuse(patched(commit()[0].encode(), AUTHOR_AT, b"\xff"), "utf-8")


def test_refuses_an_absent_page_set() -> None:
    header, _ = commit([], page_count=1, author="12345678")
    data = bytearray(header.encode()[:-32])
    data[176:180] = bytes(4)
    data[186:188] = (16).to_bytes(2, "little")
    refuse(sealed(data), "page set is too short")


def replace_page_set(encoded: bytes, page_set: bytes) -> bytes:
    """Put other bytes where the page set of a header without author stands."""
    set_bytes = int.from_bytes(encoded[176:180], "little")
    data = bytearray(encoded[:-32])
    data[AUTHOR_AT : AUTHOR_AT + set_bytes] = page_set
    data[176:180] = len(page_set).to_bytes(4, "little")
    return sealed(data)


def test_refuses_a_page_set_that_is_not_a_roaring_bitmap() -> None:
    encoded = commit(author="")[0].encode()
    refuse(replace_page_set(encoded, b"\xff" * 20), "deserialize")


def test_refuses_bytes_after_the_page_set() -> None:
    encoded = commit(author="")[0].encode()
    page_set = decode(encoded).pages.serialize()
    refuse(replace_page_set(encoded, page_set + b"\0"), "portable form")


def test_refuses_a_page_set_whose_array_is_not_ascending() -> None:
    page_set = BitMap([1, 5, 9]).serialize()
    swapped = page_set[:-6] + page_set[-2:] + page_set[-4:-2] + page_set[-6:-4]
    refuse(replace_page_set(commit([1, 5, 9], author="")[0].encode(), swapped), "strictly")


def test_refuses_a_page_set_that_claims_65536_containers() -> None:
    bomb = struct.pack("<II", 12346, 65_536) + b"\xff" * 64
    refuse(replace_page_set(commit(author="")[0].encode(), bomb), "deserialize")


def test_refuses_page_0() -> None:
    encoded = commit([1, 5, 9], author="")[0].encode()
    refuse(replace_page_set(encoded, BitMap([0, 5, 9]).serialize()), "page 0")


def test_refuses_a_page_beyond_the_page_count() -> None:
    encoded = commit([1, 5, 9], author="")[0].encode()
    refuse(replace_page_set(encoded, BitMap([1, 5, 10]).serialize()), "page 10 of 9")


def test_refuses_the_lock_page() -> None:
    lock = lock_page(65536)
    encoded = commit([lock + 1], page_size=65536, author="")[0].encode()
    refuse(replace_page_set(encoded, BitMap([lock]).serialize()), "lock page")


def test_refuses_more_pages_than_the_frames_hold() -> None:
    encoded = commit(range(1, 17), page_count=40, author="")[0].encode()
    refuse(replace_page_set(encoded, BitMap(range(1, 18)).serialize()), "1 frames for 17 pages")


@pytest.mark.parametrize("frame_pages", [0, FRAME_PAGES_MAX + 1])
def test_refuses_impossible_pages_in_a_frame(frame_pages: int) -> None:
    encoded = commit()[0].encode()
    refuse(patched(encoded, 184, frame_pages.to_bytes(2, "little")), "pages in a frame")


def test_refuses_frames_that_end_with_another_page() -> None:
    encoded = commit([1, 5, 9], author="")[0].encode()
    last_page_at = len(encoded) - 32 - 16 - 4
    refuse(patched(encoded, last_page_at, b"\x08"), "another page")


@pytest.mark.parametrize("size", [0, compressed_bytes_max(512, 3) + 1, 2**32 - 1])
def test_refuses_a_frame_size_that_zstd_never_gives(size: int) -> None:
    encoded = commit([1, 5, 9], author="")[0].encode()
    size_at = len(encoded) - 32 - 16 - 8
    refuse(patched(encoded, size_at, size.to_bytes(4, "little")), "a frame of")


# What a writer may not ask for ----------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"lsn": 0},
        {"lsn": 2},
        {"page_size": 1000},
        {"page_count": 3},
        {"author": "é" * 128},
        {"writer": b"short"},
        {"attempt": b""},
        {"time_ms": -1},
        {"checkpoint_lsn": 1},
        {"previous_hash": b""},
        {"change_counter": 2**32},
        {"local_commits": -1},
        {"parent_lsn": 4},
    ],
    ids=str,
)
def test_build_refuses_what_no_reader_accepts(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        commit(**changes)


def test_build_refuses_a_table_of_other_pages() -> None:
    _, table, _ = body({page: image(page) for page in (1, 2, 3)})
    with pytest.raises(ValueError, match="another page"):
        header_of(BitMap([1, 2, 4]), table)


def test_a_commit_beyond_the_largest_header_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(codec, "HEADER_BYTES_MAX", 400)
    commit(range(1, 17))
    with pytest.raises(UsageError, match="push more often"):
        commit(range(1, 300))


# Fuzz -----------------------------------------------------------------------------------------


def mutated(source: random.Random, data: bytes) -> bytes:
    """Change a few bytes, mostly at the front where the facts are."""
    changed = bytearray(data)
    for _ in range(source.randrange(1, 5)):
        at = min(source.randrange(len(changed)), source.randrange(len(changed)))
        choice = source.randrange(6)
        if choice == 0:
            changed[at] = source.choice((0, 1, 127, 128, 255))
        elif choice <= 3:
            changed[at] ^= 1 << source.randrange(8)
        elif choice == 4:
            changed[at:at] = source.randbytes(source.randrange(1, 9))
        else:
            del changed[at : at + source.randrange(1, 9)]
        if not changed:
            return b""
    return bytes(changed)


def test_mutated_headers_raise_only_declared_errors() -> None:
    source = random.Random(20_251)
    seeds = [
        commit()[0].encode(),
        commit([], page_count=4, author="")[0].encode(),
        commit([3, 70_000, 70_001, 900_000], segment=SEGMENT)[0].encode(),
        header_of(dense := BitMap(range(5, 9000)), frames_for(dense, frame_pages=64)).encode(),
        header_of(odd := BitMap(range(1, 20_000, 2)), frames_for(odd, frame_pages=64)).encode(),
        commit(parent_log=OTHER_LOG, parent_lsn=2, previous_hash=b"x" * 32)[0].encode(),
    ]
    accepted = 0
    for number in range(20_000):
        seed = seeds[number % len(seeds)]
        data = mutated(source, seed[:-32]) + seed[-32:]
        if number % 8:
            # With the right length and hash the mutation reaches the checks behind them.
            data = sealed(data[:-32].ljust(16, b"\0"))
        try:
            header, length = decode_header(data, key=KEY)
        except (CorruptObjectError, FutureVersionError):
            continue
        accepted += 1
        assert length == len(data)
        assert len(header.frames) == 0 or header.pages_in_frame(len(header.frames) - 1) > 0
        assert decode(header.encode()).pages == header.pages
    assert accepted > 100
