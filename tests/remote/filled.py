"""Logs with commits in stores of their own, and what work costs there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graft_vfs.format.commit import CommitHeader
from graft_vfs.remote.log import RemoteLog, commit_key
from graft_vfs.store.base import ObjectStore
from graft_vfs.store.memory import MemoryStore
from tests.format.commit_samples import LOG, commit


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
