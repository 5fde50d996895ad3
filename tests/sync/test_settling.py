"""A push that was not settled: from what is known, else by one read, and written only if absent.

And what may go wrong beside it: a machine that may not write any more, a ref that cannot be made,
and a needless probe.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import (
    BucketMissingError,
    CommitOutcomeUnknownError,
    CorruptObjectError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
    UnsafeStoreError,
)
from graft_vfs.remote.log import ascending, commit_key, commits_prefix
from graft_vfs.remote.refs import read_ref
from graft_vfs.store.base import ObjectStore, PutOutcome, StoreCounts
from graft_vfs.store.probe import PROBE_KEY
from graft_vfs.sync import settle
from tests.support.faults import Fault, FaultyStore
from tests.support.replicas import Replica, rows


class StubbornStore(FaultyStore):
    """Raises the error of `refused` for writes of keys that begin as its key."""

    def __init__(self, inner: ObjectStore, **faults) -> None:
        super().__init__(inner, **faults)
        self.refused: dict[str, Exception] = {}

    def put_if_absent(self, key: str, data: bytes) -> PutOutcome:
        for prefix, error in self.refused.items():
            if key.startswith(prefix):
                raise error
        return super().put_if_absent(key, data)


@pytest.fixture
def machines(tmp_path, monkeypatch) -> Iterator[Callable[..., Replica]]:
    """Make machines on one remote in memory; a name used again is the same data directory."""
    monkeypatch.setattr("graft_vfs.remote.claim._PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("graft_vfs.remote.entries._PAUSE_SECONDS", 0.0)
    made: list[Replica] = []
    remote = RemoteConfig(type="memory", root=str(tmp_path))

    def make(name: str, kind: type[FaultyStore] = StubbornStore, **faults) -> Replica:
        store = kind(remote.open(), **faults)
        made.append(Replica(tmp_path / name, remote, store=store))
        return made[-1]

    yield make
    for replica in made:
        replica.close()


def first_push(machine: Replica) -> None:
    machine.connect().execute("CREATE TABLE t(k)")
    machine.engine.push("main")


def unsettled(machines, fault: Fault) -> Replica:
    """Return a machine, started anew, whose second push ended without an answer."""
    machine = machines("ours")
    first_push(machine)
    machine.connect().execute("INSERT INTO t VALUES(1)")
    machine = machines("ours", at=0, fault=fault)
    with pytest.raises(CommitOutcomeUnknownError):
        machine.engine.push("main")
    machine = machines("ours")
    assert machine.engine.status("main").pending_push
    return machine


def asked(machine: Replica, verb: str) -> tuple[Counter[int], StoreCounts]:
    """Do a verb; returns how often each LSN of the log was read, and the requests."""
    log = machine.engine.status("main").remote
    reads: list[str] = []
    machine.engine.store.before_read = reads.append
    before = machine.counts()
    getattr(machine.engine, verb)("main")
    counts = machine.counts() - before
    assert counts.get_range == len(reads)
    return Counter(
        ascending(key.removeprefix(commits_prefix(log)), key=key) for key in reads
    ), counts


PROOF = {1: 1}
"""What a fresh process reads first, to prove that the log is the one that it knows."""

DENIED = StoreDeniedError("no s3:PutObject", next_step="ask for it")


@pytest.mark.parametrize("verb", ["push", "pull"])
def test_a_push_that_landed_is_settled_by_one_read_and_no_write(machines, verb) -> None:
    machine = unsettled(machines, Fault.CUT_AFTER)
    machine.engine.store.refused = {"": DENIED}
    reads, counts = asked(machine, verb)
    # A pull then asks what is new.
    assert reads == ({**PROOF, 2: 1} if verb == "push" else {**PROOF, 2: 1, 3: 1})
    assert counts.requests == counts.get_range
    status = machine.engine.status("main")
    assert (status.pending_push, status.base_lsn, status.ahead) == (False, 2, 0)


def test_a_push_whose_commit_is_known_is_settled_without_a_request(machines) -> None:
    machine = unsettled(machines, Fault.CUT_AFTER)
    machine.engine.fetch("main")
    before = machine.counts()
    assert machine.engine.push("main").claimed is False
    assert (machine.counts() - before).requests == 0
    assert machine.engine.status("main").pending_push is False


def test_a_push_that_did_not_land_is_settled_by_a_read_and_a_write(machines) -> None:
    machine = unsettled(machines, Fault.CUT_BEFORE)
    reads, counts = asked(machine, "push")
    assert reads == {**PROOF, 2: 1}
    assert (counts.put_if_absent, counts.requests) == (1, 3)
    assert machine.engine.status("main").base_lsn == 2


@pytest.mark.parametrize(
    "refusal",
    [
        DENIED,
        StoreError("HTTP 405, MethodNotAllowed"),
        UnsafeStoreError("HTTP 501, NotImplemented"),
    ],
)
def test_a_machine_without_write_permission_can_pull_and_forgets_nothing(machines, refusal) -> None:
    machine = unsettled(machines, Fault.CUT_BEFORE)
    machine.engine.store.refused = {"": refusal}
    assert machine.engine.pull("main").commits == 0
    status = machine.engine.status("main")
    assert (status.pending_push, status.base_lsn, status.ahead) == (True, 1, 1)
    # Its write comes late after all.
    pending = machine.engine.catalog.pending_push(status.volume)
    key = commit_key(pending.log_id, pending.lsn)
    machine.engine.store.inner.put_if_absent(key, pending.data)
    assert machine.engine.pull("main").lsn == 2
    assert machine.engine.status("main").pending_push is False


# Refs --------------------------------------------------------------------------------------------

FINAL = [
    DENIED,
    BucketMissingError("no such bucket"),
    CorruptObjectError("refs/main is not a graft-vfs ref"),
]


@pytest.mark.parametrize("error", FINAL, ids=lambda error: type(error).__name__)
def test_a_ref_that_cannot_be_created_is_a_warning_of_a_settled_push(machines, error) -> None:
    machine = machines("ours")
    machine.connect().execute("CREATE TABLE t(k)")
    machine.engine.store.refused = {"refs/": error}
    pushed = machine.engine.push("main")
    assert pushed.claimed
    assert "gets no ref 'main' and is cloned by its id" in pushed.warning
    assert "gets no ref" in json.dumps(asdict(pushed), default=str)
    assert machine.engine.status("main").pending_push is False
    machine.connect().execute("INSERT INTO t VALUES(1)")
    before = machine.counts()
    assert machine.engine.push("main").warning is None
    assert (machine.counts() - before).requests == 1
    clone = machines("clone")
    assert rows(clone.connect(remote=str(pushed.log))) == [(1,)]


@pytest.mark.parametrize(
    "error", [StoreUnavailableError("down"), CommitOutcomeUnknownError("no answer")]
)
def test_a_ref_without_an_answer_is_created_by_a_later_push(machines, error) -> None:
    machine = machines("ours")
    machine.connect().execute("CREATE TABLE t(k)")
    machine.engine.store.refused = {"refs/": error}
    for _ in range(2):
        assert "the next push tries again" in machine.engine.push("main").warning
        assert machine.engine.status("main").pending_push is False
        machine.connect().execute("INSERT INTO t VALUES(1)")
    machine = machines("ours")
    assert machine.engine.push("main").warning is None
    log = machine.engine.status("main").remote
    assert read_ref(machine.engine.store, "main") == log
    machine.connect().execute("INSERT INTO t VALUES(2)")
    before = machine.counts()
    machine.engine.push("main")
    assert (machine.counts() - before).requests == 1


# The probe ---------------------------------------------------------------------------------------


def test_a_remote_is_probed_only_if_there_is_something_to_push(machines) -> None:
    first = machines("first")
    first_push(first)
    assert first.counts().put_if_absent == 2 + 1 + 1  # The probe, the commit and the ref.
    second = machines("second")
    second.connect(remote="main")
    before = second.counts()
    assert second.engine.push("main").claimed is False
    assert (second.counts() - before).requests == 0
    second.connect().execute("INSERT INTO t VALUES(1)")
    before = second.counts()
    second.engine.push("main")
    assert (second.counts() - before).requests == 2, "the key was there, so one request proves it"
    second.connect().execute("INSERT INTO t VALUES(2)")
    before = second.counts()
    second.engine.push("main")
    assert (second.counts() - before).requests == 1


def test_a_remote_that_creates_twice_is_refused_before_anything_is_sent(machines) -> None:
    class UnsafeStore(StubbornStore):
        def put_if_absent(self, key: str, data: bytes) -> PutOutcome:  # noqa: ARG002
            self.effects.append(key)
            return PutOutcome.CREATED

    machine = machines("ours", UnsafeStore)
    machine.connect().execute("CREATE TABLE t(k)")
    with pytest.raises(UnsafeStoreError):
        machine.engine.push("main")
    assert machine.engine.store.effects == [PROBE_KEY, PROBE_KEY]
    assert machine.engine.status("main").pending_push is False


def test_a_push_that_settles_keeps_no_writer_waiting(machines, monkeypatch):
    """A writer without a busy timeout would get SQLITE_BUSY at each push of another process."""
    machine, again = machines("a"), machines("a")
    writer = again.connect()
    writer.execute("CREATE TABLE t(k); INSERT INTO t VALUES(1)")
    switch = settle.switch

    def commit_then_switch(*arguments, **named) -> None:
        writer.execute("INSERT INTO t VALUES(2)")
        switch(*arguments, **named)

    monkeypatch.setattr(settle, "switch", commit_then_switch)
    machine.engine.push("main")
    assert rows(writer) == [(1,), (2,)]
    assert machine.engine.status("main").ahead == 1
