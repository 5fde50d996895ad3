"""The probe: what each sequence of answers proves of a store, and real servers."""

from __future__ import annotations

import pytest

from graft_vfs.errors import (
    BucketMissingError,
    CommitOutcomeUnknownError,
    StoreUnavailableError,
    UnsafeStoreError,
)
from graft_vfs.store import MemoryStore, PutOutcome, check_conditional_writes
from graft_vfs.store.probe import PROBE_KEY


class RehearsedStore(MemoryStore):
    """Answers create-only writes as a test says, then as they are."""

    def __init__(self, *outcomes: PutOutcome | Exception) -> None:
        super().__init__()
        self.outcomes = list(outcomes)

    def put_if_absent(self, key: str, data: bytes) -> PutOutcome:
        outcome = super().put_if_absent(key, data)
        if self.outcomes:
            rehearsed = self.outcomes.pop(0)
            if isinstance(rehearsed, Exception):
                raise rehearsed
            return rehearsed
        return outcome


UNKNOWN = CommitOutcomeUnknownError("lost")
CREATED, EXISTS, RACING = PutOutcome.CREATED, PutOutcome.EXISTS, PutOutcome.RACING


def check(store: MemoryStore) -> int:
    """Check a store without waiting; returns how many requests that took."""
    check_conditional_writes(store, sleep=lambda _: None)
    return store.counters.snapshot().requests


def test_a_safe_store_costs_the_first_client_two_requests_and_all_others_one():
    store = MemoryStore.named("a safe store")
    assert check(store) == 2
    assert check(MemoryStore.named("a safe store")) == 1
    assert list(store.keys("")) == [PROBE_KEY]


@pytest.mark.parametrize(
    ("outcomes", "requests"),
    [
        # The key was there, or a proxy sent the first write twice.
        ([EXISTS], 1),
        # Every second answer is lost.
        ([CREATED, UNKNOWN, EXISTS], 3),
        ([UNKNOWN, EXISTS], 2),
        ([RACING, RACING, CREATED, RACING, EXISTS], 5),
        # The first creation may have been undone before the second, as far as anyone knows.
        ([CREATED, UNKNOWN, CREATED, EXISTS], 4),
        ([CREATED, RACING, CREATED, EXISTS], 4),
    ],
)
def test_a_refusal_proves_a_store_safe_after_any_answers(outcomes, requests):
    assert check(RehearsedStore(*outcomes)) == requests


@pytest.mark.parametrize(
    "outcomes",
    [
        [CREATED, CREATED],
        [UNKNOWN, CREATED, CREATED],
        [CREATED, UNKNOWN, CREATED, RACING, CREATED, CREATED],
    ],
)
def test_two_creations_in_a_row_prove_a_store_unsafe(outcomes):
    with pytest.raises(UnsafeStoreError, match=r"memory://.*If-None-Match"):
        check(RehearsedStore(*outcomes))


@pytest.mark.parametrize("outcomes", [[UNKNOWN] * 20, [RACING] * 20, [CREATED, UNKNOWN] * 10])
def test_a_store_without_a_clear_answer_is_neither_safe_nor_unsafe(outcomes):
    with pytest.raises(StoreUnavailableError, match="no clear answer") as caught:
        check(RehearsedStore(*outcomes))
    assert "push" not in str(caught.value), "nothing was pushed"


def test_no_two_test_writes_have_the_same_bytes():
    store, written = MemoryStore(), []
    store.put_if_absent = lambda _, data: (written.append(data), RACING)[1]
    with pytest.raises(StoreUnavailableError):
        check(store)
    assert len(set(written)) == len(written) > 2


def test_a_throttling_store_is_asked_again_when_it_requested():
    throttled = CommitOutcomeUnknownError("slow down")
    throttled.retry_after_seconds = 7.0
    pauses: list[float] = []
    check_conditional_writes(RehearsedStore(throttled, CREATED, EXISTS), sleep=pauses.append)
    assert pauses == [7.0]


@pytest.mark.parametrize("server", ["moto", "ministack", "seaweedfs"])
def test_servers_that_honour_the_condition_pass(request, server):
    with request.getfixturevalue(server).store(prefix="p") as store:
        check_conditional_writes(store)
        assert list(store.keys("")) == [PROBE_KEY]
        before = store.counters.snapshot()
        check_conditional_writes(store)
        assert (store.counters.snapshot() - before).requests == 1


def test_rclone_is_unsafe(rclone):
    unsafe = pytest.raises(UnsafeStoreError, match=r"s3://test-.*twice in a row")
    with rclone.store() as store, unsafe:
        check_conditional_writes(store)


def test_a_missing_bucket_is_named(ministack):
    with ministack.store("absent-bucket") as store, pytest.raises(BucketMissingError):
        check_conditional_writes(store)
