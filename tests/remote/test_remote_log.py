"""The remote log: keys, refs, chains, gaps, frames, and how many requests each of them takes."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft_vfs.errors import (
    CommitOutcomeUnknownError,
    CorruptObjectError,
    DamageError,
    FutureVersionError,
    InvalidTagError,
    ObjectMissingError,
    StoreUnavailableError,
)
from graft_vfs.format.commit import HEAD_BYTES, HEADER_BYTES_MAX, CommitHeader
from graft_vfs.ids import LogId
from graft_vfs.pages import LSN_MAX
from graft_vfs.remote.log import (
    REF_BYTES_MAX,
    RemoteLog,
    ascending,
    commit_key,
    commits_prefix,
    create_ref,
    descending,
    list_logs,
    list_refs,
    read_ref,
    ref_key,
    segment_key,
)
from graft_vfs.store.base import REQUESTS_MAX, ObjectStore, PutOutcome, is_key
from graft_vfs.store.memory import MemoryStore
from tests.format.commit_samples import LOG, OTHER_LOG, SEGMENT, body, commit, header_of, image


def requests_of(store: ObjectStore, work: Callable[[], Any]) -> tuple[int, Any]:
    before = store.counters.snapshot()
    result = work()
    return (store.counters.snapshot() - before).requests, result


def filled(count: int, *, page_indexes: range = range(1, 4)) -> tuple[MemoryStore, RemoteLog]:
    """A log of `count` commits in a store of its own."""
    store = MemoryStore()
    add(store, count, page_indexes=page_indexes)
    return store, RemoteLog(store, LOG)


def add(
    store: ObjectStore, count: int, *, after: CommitHeader | None = None, **changes: Any
) -> CommitHeader:
    page_indexes = changes.pop("page_indexes", range(1, 4))
    newest = after
    for salt in range(count):
        if newest is not None:
            changes |= {"lsn": newest.lsn + 1, "previous_hash": newest.hash}
        newest, data = commit(page_indexes, salt=salt, **changes)
        store.put_if_absent(commit_key(newest.log_id, newest.lsn), data)
    assert newest is not None
    return newest


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
def test_a_key_that_is_no_lsn_is_refused_by_name(text: str) -> None:
    with pytest.raises(CorruptObjectError, match="the-key is foreign"):
        ascending(text, key="the-key")


# Refs -----------------------------------------------------------------------------------------

NAMES = [
    "main", ".", "..", "...", ".hidden", "a/b", "/", "../../etc/passwd", "a b", "größe", "日本語",
    "100%", "%2E", "a~b", "~", "a%2Fb", "x" * 512, "/" * 512, "é" * 512, "\n", "C:\\db", "Main",
    "\U0001f600" * 512, "a" * 160, "a" * 161,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:20]))
def test_any_tag_is_one_safe_key_segment(name: str) -> None:
    key = ref_key(name)
    assert is_key(key)
    assert key.count("/") == 1
    assert len(key) <= 200
    assert key.rpartition("/")[2][0] != "."


def test_different_names_have_different_keys() -> None:
    assert len({ref_key(name) for name in NAMES}) == len(NAMES)
    assert ref_key("x" * 511 + "y") != ref_key("x" * 511 + "z")


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@settings(max_examples=200)
@given(names.filter(lambda name: len(name) <= 512), st.data())
def test_refs_of_any_name_read_back(name: str, data: st.DataObject) -> None:
    store = MemoryStore()
    assert create_ref(store, name, LOG) == LOG
    assert read_ref(store, name) == LOG
    assert list(list_refs(store)) == [(name, LOG)]
    other = data.draw(names)
    if other != name and len(other) <= 512:
        assert read_ref(store, other) is None


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 513, "\ud800"], ids=ascii)
def test_a_name_that_no_tag_has_is_refused(name: str) -> None:
    with pytest.raises(InvalidTagError):
        ref_key(name)


def test_a_ref_is_made_once_and_tells_the_winner() -> None:
    store = MemoryStore()
    assert requests_of(store, lambda: create_ref(store, "main", LOG)) == (1, LOG)
    assert requests_of(store, lambda: create_ref(store, "main", OTHER_LOG)) == (2, LOG)
    assert requests_of(store, lambda: read_ref(store, "main")) == (1, LOG)


def test_an_absent_ref_is_none() -> None:
    assert read_ref(MemoryStore(), "main") is None


@pytest.mark.parametrize("landed", [True, False])
def test_a_ref_whose_answers_prove_nothing_is_settled_by_reading(landed: bool) -> None:
    store = MemoryStore()
    create = store.put_if_absent

    def put(key: str, data: bytes) -> PutOutcome:
        if landed:
            create(key, data)
        error = CommitOutcomeUnknownError("HTTP 200 with a page")
        error.was_answered = True
        raise error

    store.put_if_absent = put  # type: ignore[method-assign]
    if landed:
        assert create_ref(store, "main", LOG, sleep=lambda _: None) == LOG
        return
    with pytest.raises(CommitOutcomeUnknownError):
        create_ref(store, "main", LOG, sleep=lambda _: None)


def test_refs_are_listed_with_their_names() -> None:
    store = MemoryStore()
    for name in NAMES:
        create_ref(store, name, LOG)
    assert sorted(name for name, _ in list_refs(store)) == sorted(NAMES)


class UncertainStore(MemoryStore):
    """Loses the answers of the first conditional writes, after or before their effect."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__()
        self._faults = faults

    def put_if_absent(self, key: str, data: bytes) -> PutOutcome:
        fault = self._faults.pop(0) if self._faults else "fine"
        if fault == "racing":
            return PutOutcome.RACING
        if fault == "landed":
            super().put_if_absent(key, data)
        if fault in ("landed", "not landed"):
            raise CommitOutcomeUnknownError("no answer")
        return super().put_if_absent(key, data)


def no_sleep(seconds: float) -> None:
    """Wait for nothing."""


@pytest.mark.parametrize("faults", [["landed"], ["not landed"] * 4, ["racing"], ["racing"] * 4])
def test_a_ref_survives_lost_answers(faults: list[str]) -> None:
    store = UncertainStore(list(faults))
    assert create_ref(store, "main", LOG, sleep=no_sleep) == LOG
    assert read_ref(store, "main") == LOG


def test_a_ref_that_cannot_be_made_says_why() -> None:
    with pytest.raises(CommitOutcomeUnknownError):
        create_ref(UncertainStore(["not landed"] * 9), "main", LOG, sleep=no_sleep)
    with pytest.raises(StoreUnavailableError, match="neither makes"):
        create_ref(UncertainStore(["racing"] * 9), "main", LOG, sleep=no_sleep)


LOG_LINE = str(LOG).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        LOG_LINE,
        b"graft-vfs ref 1",
        b"graft-vfs ref 1\n" + LOG_LINE + b"\nmain",
        b"graft-vfs ref 1\n" + LOG_LINE + b"\nmain\nmore",
        b"graft-vfs ref 1\n" + LOG_LINE + b"\nma%69n\n",
        b"graft-vfs ref 1\n" + LOG_LINE + b"\n%FF\n",
        b"graft-vfs ref 1\n" + LOG_LINE + b"\n\xff\n",
        b"graft-vfs ref 1\n" + LOG_LINE + b"\n\n",
        b"graft-vfs ref 1\n" + str(SEGMENT).encode() + b"\nmain\n",
        b"graft-vfs ref x\n" + LOG_LINE + b"\nmain\n",
        b"x" * (REF_BYTES_MAX + 1),
    ],
    ids=lambda content: content[:40].decode("latin-1"),
)
def test_foreign_and_damaged_refs_are_refused_by_name(content: bytes) -> None:
    store = MemoryStore()
    store.put("refs/main", [content])
    with pytest.raises(CorruptObjectError, match="refs/main"):
        read_ref(store, "main")
    with pytest.raises(CorruptObjectError, match="refs/main"):
        create_ref(store, "main", LOG, sleep=no_sleep)


def test_a_ref_of_a_later_version_says_upgrade() -> None:
    store = MemoryStore()
    store.put("refs/main", [b"graft-vfs ref 3\nwho knows"])
    with pytest.raises(FutureVersionError, match="upgrade"):
        read_ref(store, "main")


def test_a_ref_of_another_name_is_refused() -> None:
    # So it looks on a file system that takes Main and main for one name.
    store = MemoryStore()
    create_ref(store, "Main", LOG)
    store.put(ref_key("main"), [store.get_range(ref_key("Main"), 0, 999)])
    with pytest.raises(CorruptObjectError, match="'Main', not 'main'"):
        read_ref(store, "main")


def test_a_ref_without_checksum_is_read_and_one_with_a_wrong_one_is_not() -> None:
    store = MemoryStore()
    create_ref(store, "main", LOG)
    written = store.get("refs/main")
    store.put("refs/main", [b"graft-vfs ref 1\n" + LOG_LINE + b"\nmain\n"])
    assert read_ref(store, "main") == LOG
    other = written.replace(LOG_LINE, str(OTHER_LOG).encode())
    for content in (other, written[:-2] + b"\n", written[:-17]):
        store.put("refs/main", [content])
        with pytest.raises(CorruptObjectError, match="refs/main"):
            read_ref(store, "main")


@pytest.mark.parametrize(
    "foreign", ["a%2", "%ff", "ma%69n", "a%2fb", ".hidden", ".DS_Store", ".nfs0001", "README"]
)
def test_foreign_objects_among_the_refs_are_skipped_with_one_warning(foreign, caplog) -> None:
    store = MemoryStore()
    for name in ("first", "main"):
        create_ref(store, name, LOG)
    for key in (foreign, "another"):
        store.put(f"refs/{key}", [b"?"])
    store.put("refs/copy", [store.get("refs/main")])
    store.put("refs/later", [b"graft-vfs ref 3\nwho knows"])
    assert list(list_refs(store)) == [("first", LOG), ("main", LOG)]
    (record,) = caplog.records
    assert "skipped 4 objects among the refs" in record.getMessage()


def test_refs_are_read_together(monkeypatch) -> None:
    store = MemoryStore()
    for number in range(8):
        create_ref(store, f"ref {number}", LOG)
    together = threading.Barrier(8)
    get_range = store.get_range

    def get(key: str, start: int, length: int) -> bytes:
        together.wait(30)
        return get_range(key, start, length)

    monkeypatch.setattr(store, "get_range", get)
    assert len(list(list_refs(store))) == 8


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
    assert "no commit" in caplog.text


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


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_in_a_ref_raise_only_declared_errors(content: bytes) -> None:
    for data in (content, b"graft-vfs ref " + content, b"graft-vfs ref 1\n" + content):
        store = MemoryStore()
        store.put("refs/main", [data])
        with pytest.raises((CorruptObjectError, FutureVersionError)):
            read_ref(store, "main")


# Reading headers ------------------------------------------------------------------------------


def test_a_header_is_one_request() -> None:
    store, log = filled(2)
    requests, record = requests_of(store, lambda: log.read_header(2))
    assert requests == 1
    assert record.header.lsn == 2
    assert len(record.encoded) == record.header_length
    assert record.encoded[-32:] == record.header.hash


def test_a_header_longer_than_the_head_is_two_requests() -> None:
    store = MemoryStore()
    header, data = commit(range(1, 20_000, 2), page_count=20_000)
    assert len(header.encode()) > HEAD_BYTES
    store.put_if_absent(commit_key(LOG, 1), data)
    requests, record = requests_of(store, lambda: RemoteLog(store, LOG).read_header(1))
    assert requests == 2
    assert record.encoded == header.encode()
    assert record.header.pages == header.pages


@pytest.mark.parametrize("kept", [0, 10, 15, 100, HEAD_BYTES, HEAD_BYTES + 1])
def test_a_truncated_header_is_refused(kept: int) -> None:
    store = MemoryStore()
    _, data = commit(range(1, 20_000, 2), page_count=20_000)
    store.put(commit_key(LOG, 1), [data[:kept]])
    with pytest.raises(CorruptObjectError, match=commit_key(LOG, 1)):
        RemoteLog(store, LOG).read_header(1)


def test_an_absent_header_is_none() -> None:
    store, log = filled(1)
    assert requests_of(store, lambda: log.read_header(2)) == (1, None)


def test_a_commit_under_another_lsn_or_log_is_refused() -> None:
    store, log = filled(2)
    data = store.get_range(commit_key(LOG, 2), 0, 1 << 20)
    store.put(commit_key(LOG, 3), [data])
    with pytest.raises(CorruptObjectError, match="holds LSN 2"):
        log.read_header(3)
    store.put(commit_key(OTHER_LOG, 2), [data])
    with pytest.raises(CorruptObjectError, match=f"of log {LOG}"):
        RemoteLog(store, OTHER_LOG).read_header(2)


def test_a_commit_that_does_not_follow_the_known_one_is_refused() -> None:
    _, log = filled(2)
    first = log.read_header(1)
    assert first is not None
    assert log.read_header(2, expect_previous=first.header.hash) is not None
    with pytest.raises(CorruptObjectError, match="history of this log was replaced"):
        log.read_header(2, expect_previous=b"x" * 32)


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


def test_a_gap_behind_the_next_commit_is_damage_to_a_poll() -> None:
    store, log = filled(40)
    store.delete(commit_key(LOG, 20))
    with pytest.raises(CorruptObjectError, match=r"gap.*LSN 20"):
        list(log.probe_next(0, None))


def test_a_replaced_history_is_found_where_it_begins() -> None:
    store, log = filled(30)
    eleventh = log.read_header(11)
    assert eleventh is not None
    header, data = commit(lsn=12, previous_hash=b"x" * 32)
    store.put(commit_key(LOG, 12), [data])
    records = log.read_headers(1, 30, previous_hash=None)
    assert [next(records).header.lsn for _ in range(11)] == list(range(1, 12))
    with pytest.raises(CorruptObjectError, match="LSN 12 does not stand on"):
        next(records)
    assert header.previous_hash != eleventh.header.hash


class SlowStore(MemoryStore):
    """Counts how many reads run at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self._gate = threading.Lock()
        self._running = 0
        self.running_max = 0
        self.reads = 0

    def get_range(self, key: str, start: int, length: int) -> bytes:
        with self._gate:
            self.reads += 1
            self._running += 1
            self.running_max = max(self.running_max, self._running)
        time.sleep(0.005)
        with self._gate:
            self._running -= 1
        return super().get_range(key, start, length)


def test_headers_are_read_in_parallel_and_not_far_ahead() -> None:
    store = SlowStore()
    add(store, 200)
    log = RemoteLog(store, LOG)
    records: Iterator[Any] = log.read_headers(1, 200, previous_hash=None)
    for _ in range(3):
        next(records)
    records.close()
    assert 2 <= store.running_max <= REQUESTS_MAX
    assert store.reads <= 3 + 2 * REQUESTS_MAX
    assert not [each for each in threading.enumerate() if each.name.startswith("graft-read")]


def test_an_error_in_one_read_ends_them_all() -> None:
    store, log = filled(50)
    store.put(commit_key(LOG, 7), [b"damage"])
    with pytest.raises(CorruptObjectError, match="not a commit"):
        list(log.read_headers(1, 50, previous_hash=None))


class Claiming(MemoryStore):
    """A store of objects that all claim the largest header; it notes how much is under way."""

    def __init__(self, claimed_bytes: int) -> None:
        super().__init__()
        self._claim = b"GRAFTCMT" + bytes([1, 0, 1, 0]) + claimed_bytes.to_bytes(4, "little")
        self._gate = threading.Lock()
        self.under_way = self.under_way_max = self.received = 0

    def get_range(self, key: str, start: int, length: int) -> bytes:  # noqa: ARG002
        if start == 0:
            return self._claim.ljust(length, b"\0")
        with self._gate:
            self.under_way += length
            self.received += length
            self.under_way_max = max(self.under_way_max, self.under_way)
        time.sleep(0.005)
        with self._gate:
            self.under_way -= length
        return b"short"


def test_headers_that_claim_64_mib_are_not_read_all_at_once() -> None:
    store = Claiming(HEADER_BYTES_MAX)
    with pytest.raises(CorruptObjectError, match="truncated"):
        list(RemoteLog(store, LOG).read_headers(1, 64, previous_hash=None))
    assert store.received <= HEADER_BYTES_MAX


def test_long_headers_are_read_together_within_a_bound() -> None:
    store = Claiming(HEADER_BYTES_MAX // 8)
    with pytest.raises(CorruptObjectError, match="truncated"):
        list(RemoteLog(store, LOG).read_headers(1, 64, previous_hash=None))
    assert store.under_way_max <= HEADER_BYTES_MAX
    assert store.received >= 2 * HEADER_BYTES_MAX // 8


def test_long_headers_come_in_order_among_short_ones() -> None:
    store, newest = MemoryStore(), None
    for lsn in range(1, 21):
        pages = range(1, 20_000, 2) if lsn % 3 else range(1, 4)
        facts = {} if newest is None else {"previous_hash": newest.hash}
        newest, data = commit(pages, lsn=lsn, page_count=20_000, **facts)
        store.put_if_absent(commit_key(LOG, lsn), data)
    log = RemoteLog(store, LOG)
    requests, records = requests_of(
        store, lambda: list(log.read_headers(1, 20, previous_hash=None))
    )
    assert [record.header.lsn for record in records] == list(range(1, 21))
    assert requests == 20 + 14


# Finding what is new --------------------------------------------------------------------------


def test_a_poll_with_nothing_new_is_one_request() -> None:
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


def test_a_commit_that_arrives_between_two_looks_is_no_gap() -> None:
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


def test_a_gap_among_the_commits_that_a_poll_looks_at_is_damage() -> None:
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
    with pytest.raises(CorruptObjectError, match="does not stand on"):
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
    with pytest.raises(CorruptObjectError, match="does not stand on"):
        list(fork.probe_next(0, b"x" * 32))


# Frames ---------------------------------------------------------------------------------------


def test_frames_that_came_with_the_header_are_returned_as_far_as_they_are_whole() -> None:
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
def test_neighbouring_frames_are_one_request(in_segment: bool, first: int, end: int) -> None:
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
def test_a_body_that_is_cut_is_refused(in_segment: bool) -> None:
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


def test_a_segment_that_is_gone_is_named() -> None:
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


def test_a_flipped_bit_in_a_ref_gives_another_log_or_an_error_that_says_what_to_do() -> None:
    store = MemoryStore()
    create_ref(store, "main", LOG)
    content = store.get(ref_key("main"))
    errors: list[DamageError] = []
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        store.put(ref_key("main"), [damaged])
        try:
            assert read_ref(store, "main") != LOG
        except DamageError as error:
            errors.append(error)
    assert len(errors) > 4 * len(content)
    assert [error for error in errors if not error.next_step] == []


def test_ctrl_c_does_not_wait_for_requests_that_are_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_asked, may_answer = threading.Event(), threading.Event()
    waits: list[bool] = []

    class Silent(MemoryStore):
        def get_range(self, key: str, start: int, length: int) -> bytes:  # noqa: ARG002
            is_asked.set()
            waits.append(may_answer.wait(20))
            raise ObjectMissingError(key)

    def interrupt(future: object) -> None:
        is_asked.wait(20)
        raise KeyboardInterrupt

    monkeypatch.setattr("graft_vfs.remote.commit_reader.Future.result", interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(RemoteLog(Silent(), LOG).read_headers(1, 4, previous_hash=None))
    assert waits == []
    may_answer.set()


def test_progress_counts_the_commits_that_are_read() -> None:
    _, log = filled(4)
    calls: list[tuple[int, int]] = []
    list(log.probe_next(0, None, progress=lambda done, total: calls.append((done, total))))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    first = log.read_header(1)
    assert first is not None
    _, log = filled(16)
    calls.clear()
    counted = log.probe_next(
        1, first.header.hash, progress=lambda done, total: calls.append((done, total))
    )
    assert len(list(counted)) == 15
    assert calls == [(n, 15) for n in range(9, 16)]
