"""A wrapper is a store like the one that it wraps, and each call goes through `request`."""

from __future__ import annotations

import pytest

from graft_vfs.store import MemoryStore
from graft_vfs.testing import WrapperStore
from graft_vfs.testing.store_contract import StoreContract, ThreadRaces


class TestWrapperStore(StoreContract, ThreadRaces):
    @pytest.fixture
    def store(self, request):
        return WrapperStore(MemoryStore.named(request.node.nodeid))

    @pytest.fixture
    def again(self, request):
        return MemoryStore.named(request.node.nodeid)


class Noting(WrapperStore):
    """Notes what goes through it."""

    def __init__(self, inner):
        super().__init__(inner)
        self.seen = []

    def request(self, verb, key, send):
        self.seen.append((verb, key))
        return send()


def test_every_call_goes_through_one_method():
    store = Noting(MemoryStore())
    store.put_if_absent("k", b"old")
    store.put("p", [b"x"])
    store.replace("k", b"old", b"new")
    assert store.get("k") == b"new"
    store.get_range("k", 0, 1)
    assert list(store.keys("")) == ["k", "p"]
    store.delete("k")
    store.delete_many(["k", "p"])
    assert store.seen == [
        ("put_if_absent", "k"),
        ("put", "p"),
        ("put", "k"),
        ("get", "k"),
        ("get_range", "k"),
        ("list", ""),
        ("delete", "k"),
        ("delete", ""),
    ]


def test_the_counts_and_the_clock_are_those_of_the_inner_store():
    class Late(MemoryStore):
        def clock_ahead_seconds(self):
            return 7.0

    inner = Late()
    store = WrapperStore(inner)
    store.put("k", [b"x"])
    assert store.counters.snapshot() == inner.counters.snapshot()
    assert store.clock_ahead_seconds() == 7.0
    assert store.describe() == inner.describe()
