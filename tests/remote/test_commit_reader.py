"""Commit headers, one or many at once: their requests, their order, and the memory they take."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from graft_vfs.errors import (
    CorruptObjectError,
    ObjectMissingError,
)
from graft_vfs.format.commit import HEAD_BYTES, HEADER_BYTES_MAX
from graft_vfs.remote.log import RemoteLog, commit_key
from graft_vfs.store.base import REQUESTS_MAX
from graft_vfs.store.memory import MemoryStore
from tests.format.commit_samples import LOG, OTHER_LOG, commit
from tests.remote.filled import add, filled, requests_of


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
    with pytest.raises(CorruptObjectError, match="contains LSN 2"):
        log.read_header(3)
    store.put(commit_key(OTHER_LOG, 2), [data])
    with pytest.raises(CorruptObjectError, match=f"of log {LOG}"):
        RemoteLog(store, OTHER_LOG).read_header(2)


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


def test_ctrl_c_does_not_wait_for_requests_in_flight(
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
