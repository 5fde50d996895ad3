"""Threads for the requests of one verb, and what Ctrl-C does not wait for."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.ids import LogId
from graft_vfs.maintenance.fsck import check_log
from graft_vfs.remote.refs import create_ref, list_refs
from graft_vfs.store.memory import MemoryStore
from graft_vfs.store.wrapper import WrapperStore
from tests.support.replicas import Replica


class Silent(WrapperStore):
    """Once it is silent, answers no read until it is released."""

    def __init__(self):
        super().__init__(MemoryStore())
        self.is_silent = False
        self.asked = threading.Event()
        self.released = threading.Event()
        self.answered = 0

    def request(self, verb, key, send):  # noqa: ARG002
        if self.is_silent and verb in {"get", "get_range"}:
            self.asked.set()
            self.released.wait(5)  # What waits for the answer fails then, and does not hang.
            self.answered += 1
        return send()


@pytest.fixture
def store(monkeypatch):
    """A store at which Ctrl-C is pressed when its caller waits for the first answer."""
    store = Silent()

    def interrupted(future: Future, timeout: float | None = None):
        store.asked.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(Future, "result", interrupted)
    yield store
    store.released.set()


def test_ctrl_c_does_not_wait_for_refs_in_flight(store) -> None:
    for name in "abc":
        create_ref(store, name, LogId.new())
    store.is_silent = True
    with pytest.raises(KeyboardInterrupt):
        list(list_refs(store))
    assert not store.answered


def test_ctrl_c_does_not_wait_for_commits_that_fsck_reads(store, tmp_path) -> None:
    with Replica(tmp_path, RemoteConfig(), store=store) as replica:
        replica.connect().execute("CREATE TABLE t(x)")
        log = replica.engine.push("main").log
        store.is_silent = True
        with pytest.raises(KeyboardInterrupt):
            check_log(replica.engine.logs, log, scratch=tmp_path)
        assert not store.answered
        store.is_silent = False
