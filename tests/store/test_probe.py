from __future__ import annotations

import pytest

from graft_vfs.errors import (
    BucketMissingError,
    CommitOutcomeUnknownError,
    StoreDeniedError,
    StoreUnavailableError,
    UnsafeStoreError,
)
from graft_vfs.store import MemoryStore, PutOutcome, check_conditional_writes


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


def test_a_safe_store_passes_with_three_requests_and_keeps_nothing():
    store = MemoryStore()
    check_conditional_writes(store)
    assert store.counters.snapshot().requests == 3
    assert list(store.list("")) == []


def test_a_store_that_ignores_the_condition_is_unsafe():
    store = RehearsedStore(PutOutcome.CREATED, PutOutcome.CREATED)
    with pytest.raises(UnsafeStoreError, match=r"memory://.*If-None-Match"):
        check_conditional_writes(store)
    assert list(store.list("")) == []


def test_a_store_that_never_creates_is_unsafe():
    with pytest.raises(UnsafeStoreError):
        check_conditional_writes(RehearsedStore(PutOutcome.EXISTS))


def test_a_race_is_tried_again():
    store = RehearsedStore(PutOutcome.CREATED, PutOutcome.RACING, PutOutcome.RACING)
    check_conditional_writes(store)


def test_races_without_an_end_are_no_pass():
    store = RehearsedStore(PutOutcome.CREATED, *[PutOutcome.RACING] * 10)
    with pytest.raises(StoreUnavailableError):
        check_conditional_writes(store)


def test_an_unknown_outcome_is_not_reported_as_a_claim():
    store = RehearsedStore(CommitOutcomeUnknownError("lost"))
    with pytest.raises(StoreUnavailableError):
        check_conditional_writes(store)


def test_a_writer_without_permission_to_delete_passes(monkeypatch):
    store = MemoryStore()

    def deny(key: str) -> None:
        raise StoreDeniedError("no s3:DeleteObject")

    monkeypatch.setattr(store, "delete", deny)
    check_conditional_writes(store)
    assert len(list(store.list("probe/"))) == 1


@pytest.mark.parametrize("server", ["moto", "ministack", "seaweedfs"])
def test_servers_that_honour_the_condition_pass(request, server):
    with request.getfixturevalue(server).store(prefix="p") as store:
        check_conditional_writes(store)
        assert list(store.list("")) == []


def test_rclone_is_unsafe(rclone):
    with rclone.store() as store:
        with pytest.raises(UnsafeStoreError, match=r"s3://test-.*created.*created"):
            check_conditional_writes(store)
        assert list(store.list("")) == []


def test_a_missing_bucket_is_named(ministack):
    with ministack.store("absent-bucket") as store, pytest.raises(BucketMissingError):
        check_conditional_writes(store)
