from __future__ import annotations

import pytest

from graft_vfs.store import MemoryStore
from graft_vfs.testing.store_contract import StoreContract, ThreadRaces


class TestMemoryStore(StoreContract, ThreadRaces):
    @pytest.fixture
    def store(self, request):
        return MemoryStore.named(request.node.nodeid)

    @pytest.fixture
    def again(self, request):
        return MemoryStore.named(request.node.nodeid)


def test_anonymous_stores_share_nothing():
    first, second = MemoryStore(), MemoryStore()
    first.put("k", [b"x"])
    assert list(second.keys("")) == []


def test_stores_of_one_name_share_objects_but_not_counts():
    first, second = MemoryStore.named("shared"), MemoryStore.named("shared")
    first.put("k", [b"x"])
    assert second.get("k") == b"x"
    assert first.counters.snapshot().requests == second.counters.snapshot().requests == 1
    assert list(MemoryStore.named("another").list("")) == []


def test_closing_one_handle_leaves_the_others():
    first, second = MemoryStore.named("closing"), MemoryStore.named("closing")
    first.put("k", [b"x"])
    first.close()
    assert second.get("k") == b"x"


def test_a_store_describes_itself():
    assert MemoryStore.named("demo").describe() == "memory://demo"
