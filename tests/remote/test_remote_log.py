"""The remote log: keys, refs, chains, gaps, frames, and how many requests each of them takes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft_vfs.errors import (
    CorruptObjectError,
    ObjectMissingError,
)
from graft_vfs.format.commit import HEAD_BYTES
from graft_vfs.ids import LogId
from graft_vfs.pages import LSN_MAX
from graft_vfs.remote.log import (
    RemoteLog,
    ascending,
    commit_key,
    commits_prefix,
    descending,
    list_logs,
    segment_key,
)
from graft_vfs.store.base import is_key
from graft_vfs.store.memory import MemoryStore
from tests.format.commit_samples import LOG, OTHER_LOG, SEGMENT, body, commit, header_of, image
from tests.remote.filled import filled, requests_of

# Keys -----------------------------------------------------------------------------------------


def test_keys_are_those_of_the_design() -> None:
    assert commit_key(LOG, 1) == f"logs/{LOG}/commits/fffffffffffffffe"
    assert segment_key(SEGMENT) == f"segments/{SEGMENT}"


@given(st.integers(1, LSN_MAX), st.integers(1, LSN_MAX))
def test_descending_sorts_from_the_newest_and_reads_back(first: int, second: int) -> None:
    assert ascending(descending(first), key="key") == first
    assert (descending(first) < descending(second)) == (first > second)
    assert is_key(commit_key(LOG, first))


@pytest.mark.parametrize(
    "text",
    ["", "f" * 16, "0" * 16, "f" * 15, "f" * 17, "FFFFFFFFFFFFFFFE", "-fffffffffffffff", "tmp"],
)
def test_a_key_that_is_not_an_lsn_is_refused_by_name(text: str) -> None:
    with pytest.raises(CorruptObjectError, match="the-key is foreign"):
        ascending(text, key="the-key")


@pytest.mark.parametrize("count", [1, 20])
def test_foreign_objects_among_the_commits_are_skipped_with_a_warning(count, caplog) -> None:
    store = MemoryStore()
    for number in range(count):
        store.put(f"{commits_prefix(LOG)}.nfs{number:04}", [b"?"])
    store.put(f"{commits_prefix(LOG)}README", [b"?"])
    log = RemoteLog(store, LOG)
    assert log.newest_lsn() == 0
    for lsn in (1, 2):
        store.put(commit_key(LOG, lsn), [b"?"])
    caplog.clear()
    assert log.newest_lsn() == 2
    assert list(log.lsns()) == [2, 1]
    assert "not a commit" in caplog.text


def test_logs_are_listed_whether_or_not_a_ref_names_them() -> None:
    store = MemoryStore()
    assert list(list_logs(store)) == []
    for log, newest in ((LOG, 2), (OTHER_LOG, 1)):
        for lsn in range(1, newest + 1):
            store.put(commit_key(log, lsn), [b"?"])
    for key in ("logs/.DS_Store", "logs/README", "logs/zzz/commits/x", "segments/x"):
        store.put(key, [b"?"])
    store.put(f"{commits_prefix(LogId.new())}README", [b"?"])
    assert dict(list_logs(store)) == {LOG: 2, OTHER_LOG: 1}


def test_a_commit_that_does_not_follow_the_known_one_is_refused() -> None:
    _, log = filled(2)
    first = log.read_header(1)
    assert first is not None
    assert list(log.read_headers(2, 2, previous_hash=first.header.hash))
    with pytest.raises(CorruptObjectError, match="history of this log was replaced"):
        list(log.read_headers(2, 2, previous_hash=b"x" * 32))


def test_the_newest_lsn_is_one_listing() -> None:
    store, log = filled(300)
    assert requests_of(store, log.newest_lsn) == (1, 300)
    assert RemoteLog(store, LogId.new()).newest_lsn() == 0


def test_headers_come_in_order_and_prove_the_chain() -> None:
    store, log = filled(80)
    known = log.read_header(4)
    assert known is not None

    def read() -> list[int]:
        records = log.read_headers(5, 80, previous_hash=known.header.hash)
        return [record.header.lsn for record in records]

    assert requests_of(store, read) == (76, list(range(5, 81)))


def test_no_headers_are_no_requests() -> None:
    store, log = filled(3)
    assert requests_of(store, lambda: list(log.read_headers(3, 2, previous_hash=None))) == (0, [])


def test_a_gap_is_damage() -> None:
    store, log = filled(40)
    store.delete(commit_key(LOG, 20))
    with pytest.raises(CorruptObjectError, match=r"gap.*LSN 20"):
        list(log.read_headers(1, 40, previous_hash=None))
    nineteenth = log.read_header(19)
    assert nineteenth is not None
    assert list(log.probe_next(19, nineteenth.header.hash)) == []


def test_a_gap_after_the_next_commit_is_damage_to_a_poll() -> None:
    store, log = filled(40)
    store.delete(commit_key(LOG, 20))
    with pytest.raises(CorruptObjectError, match=r"gap.*LSN 20"):
        list(log.probe_next(0, None))


def test_a_replaced_history_is_detected_at_its_first_commit() -> None:
    store, log = filled(30)
    eleventh = log.read_header(11)
    assert eleventh is not None
    header, data = commit(lsn=12, previous_hash=b"x" * 32)
    store.put(commit_key(LOG, 12), [data])
    records = log.read_headers(1, 30, previous_hash=None)
    assert [next(records).header.lsn for _ in range(11)] == list(range(1, 12))
    with pytest.raises(CorruptObjectError, match="LSN 12 does not follow"):
        next(records)
    assert header.previous_hash != eleventh.header.hash


# Finding what is new --------------------------------------------------------------------------


def test_a_poll_without_new_commits_is_one_request() -> None:
    store, log = filled(3)
    newest = log.read_header(3)
    assert newest is not None
    assert requests_of(store, lambda: list(log.probe_next(3, newest.header.hash))) == (1, [])


def test_a_poll_of_an_empty_log_is_one_request() -> None:
    store = MemoryStore()
    assert requests_of(store, lambda: list(RemoteLog(store, LOG).probe_next(0, None))) == (1, [])


@pytest.mark.parametrize(
    ("known", "newest", "gets", "listings"),
    [
        (0, 1, 1, 1),
        (0, 60, 60, 1),
        (3, 4, 2, 0),
        (3, 5, 9, 0),
        (3, 11, 9, 0),
        (3, 12, 9, 1),
        (5, 60, 55, 1),
    ],
)
def test_a_poll_finds_everything_new(known: int, newest: int, gets: int, listings: int) -> None:
    store, log = filled(newest)
    known_hash = None
    if known:
        record = log.read_header(known)
        assert record is not None
        known_hash = record.header.hash
    before = store.counters.snapshot()
    records = list(log.probe_next(known, known_hash))
    used = store.counters.snapshot() - before
    assert [record.header.lsn for record in records] == list(range(known + 1, newest + 1))
    assert (used.get_range, used.list, used.requests) == (gets, listings, gets + listings)


def test_a_commit_that_arrives_between_two_reads_is_not_a_gap() -> None:
    store, log = filled(6)
    second = log.read_header(2)
    assert second is not None
    late = commit_key(LOG, 5)
    get_range = store.get_range
    asked: list[str] = []

    def get_late(key: str, start: int, length: int) -> bytes:
        asked.append(key)
        if key == late and asked.count(late) == 1:
            raise ObjectMissingError(key)
        return get_range(key, start, length)

    store.get_range = get_late  # type: ignore[method-assign]
    assert [each.header.lsn for each in log.probe_next(2, second.header.hash)] == [3, 4, 5, 6]
    assert asked.count(late) == 2


def test_a_gap_among_the_commits_of_a_poll_is_damage() -> None:
    store, log = filled(6)
    second = log.read_header(2)
    assert second is not None
    store.delete(commit_key(LOG, 5))
    records = log.probe_next(2, second.header.hash)
    assert [next(records).header.lsn, next(records).header.lsn] == [3, 4]
    with pytest.raises(CorruptObjectError, match=r"gap.*LSN 5"):
        next(records)


def test_a_poll_refuses_a_log_that_does_not_follow_what_is_known() -> None:
    _, log = filled(5)
    with pytest.raises(CorruptObjectError, match="does not follow"):
        list(log.probe_next(3, b"x" * 32))


def test_a_fork_names_its_parent_and_chains_from_there() -> None:
    store, log = filled(4)
    fourth = log.read_header(4)
    assert fourth is not None
    first, data = commit(
        log_id=OTHER_LOG, parent_log=LOG, parent_lsn=4, previous_hash=fourth.header.hash
    )
    store.put_if_absent(commit_key(OTHER_LOG, 1), data)
    fork = RemoteLog(store, OTHER_LOG)
    (record,) = fork.probe_next(0, fourth.header.hash)
    assert (record.header.parent_log, record.header.parent_lsn) == (LOG, 4)
    assert record.header.hash == first.hash
    with pytest.raises(CorruptObjectError, match="does not follow"):
        list(fork.probe_next(0, b"x" * 32))


# Frames ---------------------------------------------------------------------------------------


def test_complete_frames_that_came_with_the_header_are_returned() -> None:
    store = MemoryStore()
    images = {page: random.Random(page).randbytes(512) for page in range(1, 60)}
    pages, table, frames = body(images)
    header = header_of(pages, table)
    store.put(commit_key(LOG, 1), [header.encode(), *frames])
    log = RemoteLog(store, LOG)
    record = log.read_header(1)
    assert record is not None
    whole = (HEAD_BYTES - record.header_length) // len(frames[0])
    assert 0 < whole < len(frames)
    requests, behind = requests_of(store, lambda: list(log.frames_behind(record)))
    assert requests == 0
    assert behind == [
        b"".join(images[page] for page in range(16 * n + 1, 16 * n + 17)) for n in range(whole)
    ]
    damaged = replace(record, behind=record.behind[:10] + b"\xff" + record.behind[11:])
    assert list(log.frames_behind(damaged)) == []


def with_frames(*, in_segment: bool) -> tuple[MemoryStore, RemoteLog]:
    store = MemoryStore()
    log = RemoteLog(store, LOG)
    pages, table, frames = body({page: image(page) for page in range(1, 53)})
    header = header_of(pages, table, segment=SEGMENT if in_segment else None)
    inline = b"" if in_segment else b"".join(frames)
    if in_segment:
        log.write_segment(SEGMENT, frames)
    store.put_if_absent(commit_key(LOG, 1), header.encode() + inline)
    return store, log


def run_of(frame: int) -> bytes:
    last = min(52, 16 * frame + 16)
    return b"".join(image(page) for page in range(16 * frame + 1, last + 1))


both_places = pytest.mark.parametrize("in_segment", [False, True], ids=["inline", "segment"])


@both_places
@pytest.mark.parametrize(("first", "end"), [(0, 1), (3, 4), (1, 3), (0, 4)])
def test_adjacent_frames_are_one_request(in_segment: bool, first: int, end: int) -> None:
    store, log = with_frames(in_segment=in_segment)
    record = log.read_header(1)
    assert record is not None
    read = lambda: log.read_frames(record.header, record.header_length, first, end)  # noqa: E731
    before = store.counters.snapshot().bytes_received
    assert requests_of(store, read) == (1, [run_of(frame) for frame in range(first, end)])
    received = store.counters.snapshot().bytes_received - before
    assert received == record.header.frames.byte_range(first, end)[1]


@both_places
def test_no_frames_are_no_request(in_segment: bool) -> None:
    store, log = with_frames(in_segment=in_segment)
    record = log.read_header(1)
    assert record is not None
    read = lambda: log.read_frames(record.header, record.header_length, 2, 2)  # noqa: E731
    assert requests_of(store, read) == (0, [])


@both_places
def test_a_truncated_body_is_refused(in_segment: bool) -> None:
    store, log = with_frames(in_segment=in_segment)
    record = log.read_header(1)
    assert record is not None
    key = log.body_key(record.header)
    data = store.get_range(key, 0, 1 << 20)
    store.put(key, [data[:-1]])
    assert log.read_frames(record.header, record.header_length, 0, 3)
    with pytest.raises(CorruptObjectError, match=f"{key}: truncated"):
        log.read_frames(record.header, record.header_length, 2, 4)


@both_places
def test_a_flipped_bit_in_a_body_is_refused_and_its_frame_named(in_segment: bool) -> None:
    store, log = with_frames(in_segment=in_segment)
    record = log.read_header(1)
    assert record is not None
    key = log.body_key(record.header)
    data = bytearray(store.get_range(key, 0, 1 << 20))
    data[-1] ^= 1
    store.put(key, [bytes(data)])
    assert log.read_frames(record.header, record.header_length, 0, 3)
    with pytest.raises(CorruptObjectError, match="frame 3 of LSN 1: checksum"):
        log.read_frames(record.header, record.header_length, 0, 4)


def test_a_missing_segment_is_named() -> None:
    store, log = with_frames(in_segment=True)
    record = log.read_header(1)
    assert record is not None
    store.delete(segment_key(SEGMENT))
    with pytest.raises(ObjectMissingError, match=str(SEGMENT)):
        log.read_frames(record.header, record.header_length, 0, 1)


def test_a_segment_may_be_written_from_views() -> None:
    store = MemoryStore()
    log = RemoteLog(store, LOG)
    log.write_segment(SEGMENT, iter([memoryview(b"one"), bytearray(b"two")]))
    assert store.get_range(segment_key(SEGMENT), 32, 99) == b"onetwo"
