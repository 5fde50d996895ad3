"""Faults at each effect of a push, stops at each step of it: nothing lost, nothing doubled."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import CommitOutcomeUnknownError, GraftError, StoreUnavailableError
from graft_vfs.ids import LogId
from graft_vfs.local import branch_log, head
from graft_vfs.local.branch_file import WriterLock
from graft_vfs.local.branch_log import BranchLog
from graft_vfs.local.cache.page_cache import PageCache
from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.remote.claim import claim
from graft_vfs.sync import settle as settle_module
from graft_vfs.volume import rotation
from graft_vfs.volume.volume import Volume
from tests.support.faults import Fault, FaultyStore, ProcessStopped
from tests.support.replicas import Replica, rows
from tests.sync.checks import both_go_on, same_everywhere, sound_log

SMALL, LARGE = 100, 1_200_000
SCENARIO = ((1, SMALL), (2, SMALL), (3, LARGE), (4, SMALL))
"""(key, bytes) of the transactions; each is pushed before the next one."""

EFFECTS = ["probe", "probe", "refs", "logs", "logs", "segments", "logs", "logs"]
"""What the pushes write, in this order; the first push also probes and names."""


@pytest.fixture(autouse=True)
def claims_do_not_wait(monkeypatch) -> None:
    impatient = functools.partial(claim, sleep=lambda _: None)
    monkeypatch.setattr(settle_module, "claim", impatient)


@pytest.fixture
def machines(tmp_path) -> Iterator[Callable[..., Replica]]:
    """Make machines on one remote in memory; a name used again is the same data directory."""
    made: list[Replica] = []
    remote = RemoteConfig(type="memory", root=str(tmp_path))

    def make(name: str, *, faulty: dict | None = None) -> Replica:
        store = FaultyStore(remote.open(), **faulty) if faulty is not None else None
        made.append(Replica(tmp_path / name, remote, store=store))
        return made[-1]

    yield make
    for replica in made:
        replica.close()


def content(key: int, size: int) -> bytes:
    return random.Random(key).randbytes(size)


def write(replica: Replica, key: int, size: int) -> None:
    connection = replica.connect()
    with connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY, v)")
        connection.execute("INSERT INTO t VALUES(?, ?)", (key, content(key, size)))
    connection.close()


def log_of(replica: Replica) -> LogId:
    return replica.engine.status("main").remote


def check(machines, replica: Replica) -> None:
    """The remote is sound and has each transaction once; all machines agree and go on."""
    expected = [(key, content(key, size)) for key, size in SCENARIO]
    assert replica.engine.status("main").pending_push is False
    rolled = sound_log(replica.engine.store, log_of(replica))
    assert sum(rolled) == len(SCENARIO) == replica.engine.status("main").local_lsn
    clone = machines("clone")
    same_everywhere(replica, clone, expected)
    both_go_on(replica, clone)


def test_the_scenario_has_the_effects_that_are_failed_one_by_one(machines) -> None:
    replica = machines("ours", faulty={})
    for key, size in SCENARIO:
        write(replica, key, size)
        replica.engine.push("main")
    assert [key.split("/")[0] for key in replica.engine.store.effects] == EFFECTS
    check(machines, replica)


@pytest.mark.parametrize("verb", ["push", "pull"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.name.lower())
@pytest.mark.parametrize("at", range(len(EFFECTS)))
def test_a_fault_at_an_effect_loses_and_doubles_nothing(machines, at, fault, verb) -> None:
    replica = machines("ours", faulty={"at": at, "fault": fault})
    failures = 0
    for key, size in SCENARIO:
        write(replica, key, size)
        try:
            replica.engine.push("main")
        except (GraftError, ProcessStopped):
            failures += 1
            replica = machines("ours")
            getattr(replica.engine, verb)("main")
            assert replica.engine.status("main").pending_push is False
            replica.engine.push("main")
    assert failures <= 1
    if fault in {Fault.CUT_BEFORE, Fault.CUT_AFTER, Fault.STOP_BEFORE, Fault.STOP_AFTER}:
        assert failures == 1, "that cannot be survived"
    check(machines, replica)


@pytest.mark.parametrize("fault", [Fault.LOST_REQUEST, Fault.LOST_ANSWER])
def test_a_push_with_a_lost_message_succeeds_within_itself(machines, fault) -> None:
    replica = machines("ours", faulty={"at": EFFECTS.index("logs"), "fault": fault})
    write(replica, *SCENARIO[0])
    assert replica.engine.push("main").lsn == 1
    assert sound_log(replica.engine.store, log_of(replica)) == [1]


@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE, Fault.CUT_AFTER])
def test_a_push_without_an_answer_is_unknown_and_its_record_kept_until_it_is_settled(
    machines, fault
) -> None:
    replica = machines("ours", faulty={"at": EFFECTS.index("logs"), "fault": fault})
    write(replica, *SCENARIO[0])
    for _ in range(3):
        with pytest.raises(CommitOutcomeUnknownError, match="push again"):
            replica.engine.push("main")
        status = replica.engine.status("main")
        assert (status.pending_push, status.base_lsn, status.ahead) == (True, 0, 1)
        assert "has not been settled" in str(status)
    write(replica, *SCENARIO[1])
    replica.engine.store.is_cut = False
    assert replica.engine.push("main").lsn == 2
    assert sound_log(replica.engine.store, log_of(replica)) == [1, 1]


@pytest.mark.parametrize("first", [False, True], ids=["later push", "first push"])
def test_an_unsettled_push_does_not_look_like_another_clients(machines, first) -> None:
    replica = machines("ours")
    write(replica, *SCENARIO[0])
    if not first:
        replica.engine.push("main")
    write(replica, *SCENARIO[1])
    replica = machines(
        "ours", faulty={"at": EFFECTS.index("logs") if first else 0, "fault": Fault.CUT_AFTER}
    )
    with pytest.raises(GraftError):
        replica.engine.push("main")
    replica = machines("ours")
    assert replica.engine.fetch("main").newest == (1 if first else 2)
    status = replica.engine.status("main")
    assert (status.pending_push, status.ahead, status.behind) == (True, 0, 0)
    assert status.behind_since_ms is None
    write(replica, 3, SMALL)
    status = replica.engine.status("main")
    assert (status.diverged, status.ahead, status.behind) == (False, 1, 0)
    replica.engine.push("main")
    status = replica.engine.status("main")
    assert (status.pending_push, status.ahead, status.behind) == (False, 0, 0)


def test_a_claim_that_was_lost_while_the_process_was_down_is_reported_as_diverged(machines) -> None:
    replica = machines("ours")
    write(replica, 1, SMALL)
    replica.engine.push("main")
    other = machines("theirs")
    other.connect(remote="main").execute("INSERT INTO t VALUES(7, 'theirs')")

    replica = machines("ours", faulty={"at": 0, "fault": Fault.STOP_BEFORE})
    write(replica, 2, SMALL)
    with pytest.raises(ProcessStopped):
        replica.engine.push("main")
    assert other.engine.push("main").lsn == 2

    replica = machines("ours")
    assert replica.engine.status("main").pending_push
    for verb in (replica.engine.pull, replica.engine.push):
        with pytest.raises(GraftError, match="diverged"):
            verb("main")
    status = replica.engine.status("main")
    assert (status.pending_push, status.ahead, status.behind) == (False, 1, 1)
    assert rows(replica.connect()) == [(1, content(1, SMALL)), (2, content(2, SMALL))]


@pytest.mark.parametrize("verb", ["push", "pull", "neither"])
def test_commits_whose_claim_may_have_landed_survive_a_local_power_cut(
    machines, tmp_path, monkeypatch, verb
) -> None:
    durable: list[bytes] = []

    def data_sync(descriptor: int) -> None:
        durable.append(os.pread(descriptor, 1 << 20, 0))

    at = EFFECTS.index("logs")
    replica = machines("ours", faulty={"at": at, "fault": Fault.STOP_AFTER})
    connection = replica.connect()
    connection.pragma("synchronous", "normal")
    with monkeypatch.context() as patch:
        patch.setattr(branch_log, "data_sync", data_sync)
        with connection:
            connection.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v)")
            connection.execute("INSERT INTO t VALUES(1, ?)", (content(1, SMALL),))
        with pytest.raises(ProcessStopped):
            replica.engine.push("main")

    path = replica.engine.open("main").branch_log.path
    empty = path.read_bytes()[: branch_log.LOG_HEADER_BYTES].ljust(1 << 20, b"\0")
    after_the_cut = tmp_path / "after the cut"
    after_the_cut.write_bytes(durable[-1] if durable else empty)
    after_the_cut.replace(path)
    monkeypatch.setattr(head, "boot_number", lambda: 0xB007)
    replica = machines("ours")
    if verb != "neither":
        getattr(replica.engine, verb)("main")
    for key, size in SCENARIO[1:]:
        write(replica, key, size)
        replica.engine.push("main")
    check(machines, replica)


# Steps inside one process -----------------------------------------------------------------------

STEPS = [
    (Catalog, "is_probed"),
    (Catalog, "set_probed"),
    (Catalog, "add_pending_push"),
    (Catalog, "add_commits"),
    (PageCache, "add_all"),
    (Catalog, "current"),
    (Volume, "try_writing"),
    (Volume, "new_log_file"),
    (BranchLog, "create"),
    (Volume, "switch_branch"),
    (Catalog, "switch_branch"),
    (Volume, "_switch"),
    (Volume, "_publish_words"),
]


def stop_at(monkeypatch, owner: type, name: str, when: str) -> list[str]:
    """Stop the process at the next call of a method, before or after it."""
    original = getattr(owner, name)
    stopped: list[str] = []

    def method(*arguments, **keywords):
        if stopped:
            return original(*arguments, **keywords)
        if when == "after":
            result = original(*arguments, **keywords)
            if isinstance(result, WriterLock):
                result.close()  # The kernel does that for a process that ended.
        stopped.append(name)
        raise ProcessStopped

    is_class_method = hasattr(original, "__self__")
    monkeypatch.setattr(owner, name, staticmethod(method) if is_class_method else method)
    return stopped


@pytest.mark.parametrize("rotating", [False, True], ids=["staying", "rotating"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("owner", "step"), STEPS, ids=[name for _, name in STEPS])
def test_a_stop_at_any_step_of_a_push_leaves_a_valid_volume(  # noqa: PLR0917
    machines, monkeypatch, owner, step, when, rotating
) -> None:
    if rotating:
        monkeypatch.setattr(rotation, "ROTATE_BYTES", 0)
    replica = machines("ours")
    write(replica, *SCENARIO[0])
    with monkeypatch.context() as patch:
        stopped = stop_at(patch, owner, step, when)
        try:
            replica.engine.push("main")
        except ProcessStopped:
            pass
        else:
            assert not stopped
            assert not rotating
            assert step in {"try_writing", "new_log_file", "create", "_publish_words"}

    replica = machines("ours")
    assert rows(replica.connect()) == [(1, content(1, SMALL))]
    replica.engine.pull("main")
    assert replica.engine.status("main").pending_push is False
    assert rows(replica.connect()) == [(1, content(1, SMALL))]
    for key, size in SCENARIO[1:]:
        write(replica, key, size)
        replica.engine.push("main")
    snapshot = replica.engine.open("main").begin()
    assert (snapshot.local_commits, snapshot.branch.row.base) == (0, snapshot.remote.lsn)
    check(machines, replica)


@pytest.mark.parametrize("rotating", [False, True], ids=["staying", "rotating"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("owner", "step"), STEPS[3:], ids=[name for _, name in STEPS[3:]])
def test_a_stop_during_recovery_from_a_stop_leaves_a_valid_volume(  # noqa: PLR0917
    machines, monkeypatch, owner, step, when, rotating
) -> None:
    if rotating:
        monkeypatch.setattr(rotation, "ROTATE_BYTES", 0)
    at = EFFECTS.index("logs")
    replica = machines("ours", faulty={"at": at, "fault": Fault.STOP_AFTER})
    write(replica, *SCENARIO[0])
    with pytest.raises(ProcessStopped):
        replica.engine.push("main")
    for _ in range(2):
        replica = machines("ours")
        with monkeypatch.context() as patch, contextlib.suppress(ProcessStopped):
            stop_at(patch, owner, step, when)
            replica.engine.pull("main")
    replica = machines("ours")
    replica.engine.pull("main")
    for key, size in SCENARIO[1:]:
        write(replica, key, size)
        replica.engine.push("main")
    check(machines, replica)


def lose_push_lock(replica: Replica) -> None:
    """Let the next push not wait for the one that runs: only the catalog's record decides then."""
    (replica.engine.open("main").directory / "push.lock").unlink()


@pytest.mark.parametrize("rotating", [False, True], ids=["staying", "rotating"])
@pytest.mark.parametrize("verb", ["pull", "push"])
def test_a_push_that_another_process_settled_is_not_settled_again(
    machines, monkeypatch, verb, rotating
) -> None:
    if rotating:
        monkeypatch.setattr(rotation, "ROTATE_BYTES", 0)
    first, second = machines("ours"), machines("ours")
    write(first, *SCENARIO[0])
    store = first.engine.store
    put = store.put_if_absent
    overtaken: list[str] = []

    def put_and_be_overtaken(key: str, data: bytes):
        outcome = put(key, data)
        if "/commits/" in key and not overtaken:
            overtaken.append(key)
            lose_push_lock(second)
            getattr(second.engine, verb)("main")
            write(second, *SCENARIO[1])
            second.engine.push("main")
        return outcome

    monkeypatch.setattr(store, "put_if_absent", put_and_be_overtaken)
    assert first.engine.push("main").lsn == 1
    for replica in (first, second):
        status = replica.engine.status("main")
        assert (status.base_lsn, status.ahead, status.behind) == (2, 0, 0)
        assert status.pending_push is False
    for key, size in SCENARIO[2:]:
        write(first, key, size)
        first.engine.push("main")
    check(machines, second)


def test_a_push_that_was_not_sent_is_kept_while_another_process_sends_it(
    machines, monkeypatch
) -> None:
    first, second = machines("ours"), machines("ours")
    write(first, *SCENARIO[0])
    first.engine.push("main")
    write(first, *SCENARIO[1])
    has_landed, may_go_on = threading.Event(), threading.Event()
    helper = threading.Thread(target=lambda: second.engine.push("main"))
    put = second.engine.store.put_if_absent

    def put_and_wait(key: str, data: bytes):
        outcome = put(key, data)
        has_landed.set()
        assert may_go_on.wait(60)
        return outcome

    def not_sent(key: str, data: bytes):
        lose_push_lock(first)
        helper.start()
        assert has_landed.wait(60)
        raise StoreUnavailableError("a test cut the connection before the request")

    monkeypatch.setattr(second.engine.store, "put_if_absent", put_and_wait)
    with monkeypatch.context() as unreachable:
        unreachable.setattr(first.engine.store, "put_if_absent", not_sent)
        with pytest.raises(StoreUnavailableError):
            first.engine.push("main")
    # The other process may end just now: only the record knows whose LSN 2 is.
    assert first.engine.status("main").pending_push
    lose_push_lock(first)
    first.engine.push("main")
    may_go_on.set()
    helper.join()
    for replica in (first, second):
        status = replica.engine.status("main")
        assert (status.base_lsn, status.ahead, status.pending_push) == (2, 0, False)
    for key, size in SCENARIO[2:]:
        write(first, key, size)
        first.engine.push("main")
    check(machines, second)


# Processes that are killed ----------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from graft_vfs import Config, RemoteConfig, connect, register
remote = RemoteConfig(type="fs", root=sys.argv[2])
engine = register(Config(data_dir=Path(sys.argv[1]), remote=remote))
connection = connect("main")
connection.execute("CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY, v)")
(number,) = connection.execute("SELECT coalesce(max(k), 0) FROM t").fetchone()
print("ready", flush=True)
while True:
    number += 1
    connection.execute("INSERT INTO t VALUES(?, randomblob(3000))", (number,))
    print(f"committed {number}\\n", end="", flush=True)  # One write, whole or not at all.
    engine.push("main")
    print(f"pushed {number}\\n", end="", flush=True)
"""


def test_processes_killed_while_pushing_lose_nothing_that_was_acknowledged(tmp_path) -> None:
    choice = random.Random(secrets.randbits(32))
    data_dir, root = tmp_path / "data", tmp_path / "remote"
    remote = RemoteConfig(type="fs", root=str(root))
    command = [sys.executable, "-c", CHILD, str(data_dir), str(root)]
    committed = pushed = 0
    for _ in range(20):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(choice.randint(1, 12))]
            try:
                child.wait(timeout=choice.uniform(0, 0.02))
            except subprocess.TimeoutExpired:
                child.kill()
            lines += child.stdout.readlines()
        assert lines[0] == "ready\n"
        for line in lines[1:]:
            word, number = line.split()
            committed = max(committed, int(number))
            pushed = max(pushed, int(number)) if word == "pushed" else pushed
        with Replica(data_dir, remote) as replica:
            found = [key for (key,) in rows(replica.connect(), "SELECT k FROM t ORDER BY k")]
            assert found == list(range(1, len(found) + 1))
            assert len(found) >= committed
            with Replica(tmp_path / f"clone-{committed}-{choice.random()}", remote) as clone:
                if pushed:
                    theirs = clone.connect(remote=str(log_of(replica)))
                    on_remote = rows(theirs, "SELECT count(*) FROM t")[0][0]
                    assert pushed <= on_remote <= len(found)
    with Replica(data_dir, remote) as replica, Replica(tmp_path / "last", remote) as clone:
        replica.engine.push("main")
        assert replica.engine.status("main").ahead == 0
        rolled = sound_log(replica.engine.store, log_of(replica))
        assert sum(rolled) == replica.engine.status("main").local_lsn
        same_everywhere(replica, clone, rows(replica.connect()))
        both_go_on(replica, clone)


def test_a_stopped_store_stays_stopped(tmp_path: Path) -> None:
    store = FaultyStore(RemoteConfig(type="memory").open(), at=0, fault=Fault.STOP_BEFORE)
    with pytest.raises(ProcessStopped):
        store.put("k", [b"x"])
    with pytest.raises(ProcessStopped):
        store.get("k")
