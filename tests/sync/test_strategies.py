"""Diverged volumes with a strategy: local commits are a kept branch, or a volume of their own."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import (
    BusyError,
    CommitOutcomeUnknownError,
    DivergedError,
    GraftError,
    UsageError,
    WriterBusyError,
)
from graft_vfs.ids import LogId
from graft_vfs.local.branch_log import BranchLog
from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.sync import strategies
from graft_vfs.sync.pull import Pulled
from graft_vfs.volume import rotation
from graft_vfs.volume.volume import Volume
from tests.support.faults import Fault, FaultyStore, ProcessStopped
from tests.support.replicas import Replica, rows
from tests.support.sql import is_sound
from tests.sync.checks import sound_log

STRATEGIES = sorted(strategies.STRATEGIES)
Machines = Callable[..., Replica]


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    """Make machines on one remote in memory; a name used again is the same data directory."""
    made: list[Replica] = []
    remote = RemoteConfig(type="memory", root=str(tmp_path))

    def make(name: str, **faulty: object) -> Replica:
        store = FaultyStore(remote.open(), **faulty) if faulty else None  # type: ignore[arg-type]
        made.append(Replica(tmp_path / name, remote, store=store))
        return made[-1]

    yield make
    for replica in made:
        replica.close()


def insert(machine: Replica, *values: int, tag: str = "main") -> None:
    connection = machine.connect(tag)
    for value in values:
        connection.execute("INSERT INTO t VALUES(?)", (value,))
    connection.close()


def found(machine: Replica, tag: str = "main", **at: str) -> list[int]:
    connection = machine.connect(tag, **at)
    try:
        assert is_sound(connection)
        return [value for (value,) in connection.execute("SELECT x FROM t ORDER BY x")]
    finally:
        connection.close()


def diverge(machines: Machines, **faulty: object) -> Replica:
    """Return a machine with local 10 and 11 on LSN 1, which has 0; the log has 1 at LSN 2."""
    theirs = machines("theirs")
    theirs.connect().execute("CREATE TABLE t(x); INSERT INTO t VALUES(0)")
    theirs.engine.push("main")
    ours = machines("ours", **faulty)
    ours.connect(remote="main").close()
    insert(ours, 10)
    insert(ours, 11)
    insert(theirs, 1)
    theirs.engine.push("main")
    return ours


def kept(machine: Replica) -> list[LogId]:
    return [each.branch for each in machine.engine.branches("main")[1:]]


def forks(machine: Replica) -> list[str]:
    return [each.tag for each in machine.engine.tags() if "-fork-" in each.tag]


# What they do ------------------------------------------------------------------------------------


def test_without_a_strategy_nothing_moves_and_the_error_names_both(machines) -> None:
    ours = diverge(machines)
    with pytest.raises(DivergedError) as caught:
        ours.engine.pull("main")
    step = str(caught.value.next_step)
    assert "engine.pull(tag, strategy='reset')" in step
    assert "engine.pull(tag, strategy='fork')" in step
    assert "strategy='reset'" in str(ours.engine.status("main"))
    assert (found(ours), kept(ours), forks(ours)) == ([0, 10, 11], [], [])


def test_reset_follows_the_remote_and_keeps_the_commits_as_a_branch(machines) -> None:
    ours = diverge(machines)
    branch = ours.engine.status("main").branch
    before = ours.counts()
    done = ours.engine.pull("main", strategy="reset")
    assert (done.commits, done.local_commits, done.kept, done.forked) == (1, 2, branch, None)
    assert f"2 commits kept as branch {branch}." in str(done)
    requests = ours.counts() - before
    assert (requests.put, requests.get_range) == (0, 2)  # The new LSN, and the one after it.
    assert kept(ours) == [branch]
    assert found(ours) == [0, 1]
    assert found(ours, lsn=f"branch:{branch}") == [0, 10, 11]
    status = ours.engine.status("main")
    assert (status.ahead, status.behind, status.last_error) == (0, 0, None)
    ours.engine.switch("main", str(branch))
    assert found(ours) == [0, 10, 11]
    assert ours.engine.status("main").diverged


def test_fork_makes_the_commits_a_volume_on_a_log_of_its_own(machines) -> None:
    ours = diverge(machines)
    branch = ours.engine.status("main").branch
    remote = ours.engine.status("main").remote
    done = ours.engine.pull("main", strategy="fork")
    assert done.forked == f"main-fork-{str(branch)[-6:]}"
    assert (done.local_commits, done.kept) == (2, None)
    assert (found(ours), kept(ours)) == ([0, 1], [])
    assert found(ours, done.forked) == [0, 10, 11]
    # Each commit is there, on the same base.
    assert [entry.where for entry in ours.engine.log(done.forked)] == ["local", "local", "remote"]
    assert found(ours, done.forked, lsn="HEAD~1") == [0, 10]
    status = ours.engine.status(done.forked)
    assert status.remote != remote
    ours.engine.push(done.forked)
    assert sound_log(ours.engine.store, remote) == [2, 1]
    copy = machines("copy")
    copy.connect(done.forked, remote=done.forked).close()
    assert found(copy, done.forked) == [0, 10, 11]
    insert(ours, 2)
    assert ours.engine.push("main").lsn == 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_is_fetched_but_what_a_pull_fetches(machines, strategy) -> None:
    theirs = machines("theirs")
    connection = theirs.connect()
    connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(0)")
    connection.execute("CREATE TABLE large(v)")
    connection.execute("INSERT INTO large VALUES(?)", (random.Random(1).randbytes(2_000_000),))
    theirs.engine.push("main")
    ours = machines("ours")
    ours.connect(remote="main").close()
    insert(ours, 10)
    insert(theirs, 1)
    theirs.engine.push("main")
    cached = ours.engine.audit("main").present
    before = ours.counts()
    done = ours.engine.pull("main", strategy=strategy)
    assert (ours.counts() - before).bytes_received < 100_000
    assert ours.engine.audit("main").present <= cached + 2
    if done.forked:
        assert ours.engine.audit(done.forked).present <= cached + 2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_volume_that_has_not_diverged_is_only_pulled(machines, strategy) -> None:
    ours = diverge(machines)
    ours.engine.pull("main", strategy=strategy)
    machines("theirs")
    assert ours.engine.pull("main", strategy=strategy).commits == 0
    insert(ours, 5)
    assert ours.engine.pull("main", strategy=strategy).commits == 0
    assert found(ours) == [0, 1, 5]
    assert len(kept(ours)) + len(forks(ours)) == 1


def test_own_commits_of_a_restored_backup_are_recognised_and_not_kept(machines, tmp_path) -> None:
    ours = diverge(machines)
    ours.engine.pull("main", strategy="reset")
    insert(ours, 20)
    ours.close()
    (tmp_path / "ours").rename(tmp_path / "backup")
    shutil.copytree(tmp_path / "backup", tmp_path / "ours")
    again = machines("ours")
    again.engine.push("main")
    again.close()
    shutil.rmtree(tmp_path / "ours")
    (tmp_path / "backup").rename(tmp_path / "ours")
    restored = machines("ours")
    restored.engine.pull("main", strategy="reset")
    assert (found(restored), len(kept(restored))) == ([0, 1, 20], 1)


def test_an_unknown_strategy_or_policy_is_refused_before_any_request(machines) -> None:
    ours = diverge(machines)
    before = ours.counts()
    for text, error in (
        ("resett", "no strategy 'resett'"),
        ("", "no strategy ''"),
        ("reset:ours", "'ours' is no policy"),
    ):
        with pytest.raises(UsageError, match=error) as caught:
            ours.engine.pull("main", strategy=text)
        assert caught.value.next_step
    with pytest.raises(apsw.SQLError, match="no strategy 'merge'"):
        ours.connect().execute("PRAGMA graft_pull = 'merge'")
    assert ours.counts() == before
    assert found(ours) == [0, 10, 11]


def test_a_pragma_resets_and_its_connection_reads_the_other_schema(machines) -> None:
    ours, theirs = diverge(machines), machines("theirs")
    connection = ours.connect()
    connection.execute("CREATE TABLE mine(a); INSERT INTO mine VALUES(1)")
    theirs.connect().execute("CREATE TABLE theirs(b); INSERT INTO theirs VALUES(2)")
    theirs.engine.push("main")
    (text,) = connection.execute("PRAGMA graft_pull = 'reset'").fetchone()
    assert "3 commits kept as branch" in text or "4 commits kept as branch" in text
    assert rows(connection, "SELECT * FROM theirs") == [(2,)]
    with pytest.raises(apsw.SQLError, match="no such table: mine"):
        connection.execute("SELECT * FROM mine")
    connection.execute("INSERT INTO theirs VALUES(3)")
    ours.engine.push("main")
    theirs.engine.pull("main")
    assert rows(theirs.connect(), "SELECT * FROM theirs") == [(2,), (3,)]


def test_the_name_of_a_fork_does_not_clash(machines) -> None:
    ours = diverge(machines)
    branch = str(ours.engine.status("main").branch)
    ours.connect(f"main-fork-{branch[-6:]}").execute("CREATE TABLE mine(x)")
    done = ours.engine.pull("main", strategy="fork")
    assert done.forked == f"main-fork-{branch[-13:]}"
    assert found(ours, done.forked) == [0, 10, 11]
    long = "x" * 512
    theirs = machines("theirs")
    volume = ours.engine.open("main").id
    ours.engine.switch(long, str(volume))
    insert(ours, 12)
    insert(theirs, 3)
    theirs.engine.push("main")
    again = ours.engine.pull(long, strategy="fork")
    assert again.forked is not None
    assert len(again.forked) == 512
    assert found(ours, again.forked) == [0, 1, 12]


def test_messages_go_with_the_commits(machines) -> None:
    ours = diverge(machines)
    ours.engine.restore("main", "BASE", message="what I did")
    done = ours.engine.pull("main", strategy="fork")
    assert done.forked is not None
    assert ours.engine.log(done.forked)[0].message == "what I did"
    ours.engine.push(done.forked)
    assert ours.engine.log(done.forked)[0].message == "what I did"


# Others at work ----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_writer_in_a_transaction_is_not_disturbed(machines, strategy, monkeypatch) -> None:
    ours = diverge(machines)
    writer, reader = ours.connect(), ours.connect()
    reader.execute("BEGIN")
    assert rows(reader) == [(0,), (10,), (11,)]
    writer.execute("BEGIN IMMEDIATE; INSERT INTO t VALUES(12)")
    monkeypatch.setattr("graft_vfs.volume.current_branch._WRITER_TIMEOUT_SECONDS", 0.0)
    with pytest.raises(WriterBusyError):
        ours.engine.pull("main", strategy=strategy)
    assert (kept(ours), forks(ours)) == ([], [])
    writer.execute("COMMIT")
    done = ours.engine.pull("main", strategy=strategy)
    assert done.local_commits == 3
    assert rows(reader) == [(0,), (10,), (11,)]
    with pytest.raises(apsw.BusyError):
        reader.execute("INSERT INTO t VALUES(13)")
    reader.execute("ROLLBACK")
    assert rows(reader) == rows(writer) == [(0,), (1,)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_that_resolve_at_once_do_it_once(machines, tmp_path, strategy) -> None:
    one = diverge(machines)
    other = machines("ours")
    reports: list[Pulled] = []

    def pull(machine: Replica) -> None:
        while True:
            try:
                reports.append(machine.engine.pull("main", strategy=strategy))
            except BusyError:
                continue
            return

    threads = [threading.Thread(target=pull, args=(each,)) for each in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done.local_commits for done in reports) == [0, 2]
    for machine in (one, other):
        assert found(machine) == [0, 1]
        assert len(kept(machine)) + len(forks(machine)) == 1
    assert one.engine.fsck().is_sound


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("fault", [Fault.STOP_BEFORE, Fault.STOP_AFTER])
def test_a_killed_push_before_it_is_settled_first(machines, strategy, fault) -> None:
    theirs = machines("theirs")
    theirs.connect().execute("CREATE TABLE t(x); INSERT INTO t VALUES(0)")
    theirs.engine.push("main")
    ours = machines("ours", at=1, fault=fault)
    ours.connect(remote="main").close()
    insert(ours, 10)
    with pytest.raises(ProcessStopped):
        ours.engine.push("main")
    ours = machines("ours")
    insert(ours, 11)
    if fault is Fault.STOP_AFTER:
        theirs.engine.pull("main")  # The push has landed.
    insert(theirs, 1)
    theirs.engine.push("main")
    done = ours.engine.pull("main", strategy=strategy)
    landed = fault is Fault.STOP_AFTER
    assert done.local_commits == (1 if landed else 2)
    assert found(ours) == ([0, 1, 10] if landed else [0, 1])
    place = {"lsn": f"branch:{done.kept}"} if done.kept else {}
    assert found(ours, done.forked or "main", **place) == [0, 10, 11]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_is_resolved_while_the_outcome_of_a_push_is_unknown(machines, strategy) -> None:
    theirs = machines("theirs")
    theirs.connect().execute("CREATE TABLE t(x); INSERT INTO t VALUES(0)")
    theirs.engine.push("main")
    ours = machines("ours", at=1, fault=Fault.CUT_AFTER)
    ours.connect(remote="main").close()
    insert(ours, 10)
    with pytest.raises(CommitOutcomeUnknownError):
        ours.engine.push("main")
    with pytest.raises(GraftError):
        ours.engine.pull("main", strategy=strategy)
    assert found(ours) == [0, 10]
    assert (kept(ours), forks(ours)) == ([], [])
    assert ours.engine.status("main").pending_push


# Steps inside one process ------------------------------------------------------------------------

STEPS = [
    (Catalog, "switch_branch"),
    (Catalog, "add_volume"),
    (Catalog, "describe"),
    (Volume, "switch_branch"),
    (Volume, "_switch"),
    (Volume, "_publish_words"),
    (Volume, "new_log_file"),
    (BranchLog, "create"),
    (BranchLog, "copy_from"),
    (BranchLog, "sync"),
]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("owner", "step"), STEPS, ids=[name for _, name in STEPS])
def test_a_stop_at_any_step_leaves_it_diverged_or_resolved(  # noqa: PLR0917
    machines, monkeypatch, owner, step, when, strategy
) -> None:
    ours = diverge(machines)
    original = getattr(owner, step)
    calls = 0
    for at in range(4):
        calls = 0

        def stopping(*arguments, _at=at, **keywords):
            nonlocal calls
            calls += 1
            if calls != _at + 1:
                return original(*arguments, **keywords)
            if when == "after":
                original(*arguments, **keywords)
            raise ProcessStopped

        with monkeypatch.context() as patch:
            is_class_method = hasattr(original, "__self__")
            patch.setattr(owner, step, staticmethod(stopping) if is_class_method else stopping)
            try:
                ours.engine.pull("main", strategy=strategy)
            except ProcessStopped:
                pass
            else:
                break
        ours = machines("ours")
        _is_diverged_or_resolved(ours)
    ours = machines("ours")
    ours.engine.pull("main", strategy=strategy)
    assert _is_diverged_or_resolved(ours)
    assert ours.engine.fsck().is_sound
    insert(ours, 2)
    assert ours.engine.push("main").lsn == 3
    # No volume is left over.
    assert len(ours.engine.volumes()) == 1 + len(forks(ours))


def _is_diverged_or_resolved(ours: Replica) -> bool:
    """Return True if it is resolved; fails if it is neither, or in between."""
    commits = {tuple(found(ours, lsn=f"branch:{each}")) for each in kept(ours)}
    commits |= {tuple(found(ours, each)) for each in forks(ours)}
    if found(ours) == [0, 10, 11]:
        assert commits == set()
        return False
    assert found(ours) == [0, 1]
    assert commits == {(0, 10, 11)}
    assert len(kept(ours)) + len(forks(ours)) == 1
    return True


# Anything, in any order --------------------------------------------------------------------------


class Game:
    """Random steps of one machine beside another, and what must be there, as sets of rows.

    Each row is inserted once, so a state is the set of rows that it shows.
    """

    def __init__(self, machines: Machines, seed: int) -> None:
        self._random = random.Random(seed)
        self._machines = machines
        self.theirs = machines("theirs")
        self.theirs.connect().execute("CREATE TABLE t(x)")
        self.theirs.engine.push("main")
        self.ours = machines("ours")
        self.ours.connect(remote="main").close()
        self._next = 0
        self.shown: set[int] = set()
        self.base: set[int] = set()
        self.remote: set[int] = set()
        self.lsn, self.based = 1, 1
        self.kept: dict[LogId, set[int]] = {}
        self.forked: dict[str, set[int]] = {}
        self.events: set[str] = set()

    def step(self) -> None:
        """Do one random step and check everything."""
        steps = (
            (5, self._commit),
            (2, self._push),
            (2, self._pull),
            (3, self._theirs),
            (2, self._reset),
            (1, self._fork),
            (2, self._switch),
            (1, self._remove),
            (1, self._restore),
            (1, self._reopen),
        )
        weights, choices = zip(*steps, strict=True)
        (chosen,) = self._random.choices(choices, weights)
        chosen()
        self.check()

    def check(self) -> None:
        """Compare the machine with the model."""
        assert set(found(self.ours)) == self.shown
        assert set(kept(self.ours)) == set(self.kept)
        for branch, content in self.kept.items():
            assert set(found(self.ours, lsn=f"branch:{branch}")) == content
        for tag, content in self.forked.items():
            assert set(found(self.ours, tag)) == content

    def _number(self) -> int:
        self._next += 1
        return self._next

    def _has_local(self) -> bool:
        return self.ours.engine.status("main").ahead > 0

    def _is_behind(self) -> bool:
        return self.based < self.lsn

    def _commit(self) -> None:
        for _ in range(self._random.randint(1, 3)):
            number = self._number()
            insert(self.ours, number)
            self.shown.add(number)

    def _theirs(self) -> None:
        number = self._number()
        self.theirs.engine.pull("main")
        insert(self.theirs, number)
        self.theirs.engine.push("main")
        self.remote.add(number)
        self.lsn += 1

    def _push(self) -> None:
        if self._has_local() and self._is_behind():
            with pytest.raises(DivergedError):
                self.ours.engine.push("main")
            self.events.add("diverged")
            return
        if self._has_local():
            self.ours.engine.push("main")
            self.remote, self.lsn = set(self.shown), self.lsn + 1
            self._follow()

    def _follow(self) -> None:
        self.base, self.based = set(self.remote), self.lsn

    def _pull(self) -> None:
        if self._has_local() and self._is_behind():
            with pytest.raises(DivergedError):
                self.ours.engine.pull("main")
            return
        self.ours.engine.pull("main")
        if not self._has_local():
            self.shown = set(self.remote)
            self._follow()

    def _resolve(self, strategy: str) -> None:
        diverged = self._has_local() and self._is_behind()
        had_local = self._has_local()
        done = self.ours.engine.pull("main", strategy=strategy)
        if diverged:
            self.events.add(strategy)
            if done.kept is not None:
                self.kept[done.kept] = self.shown
            if done.forked is not None:
                self.forked[done.forked] = self.shown
        if diverged or not had_local:
            self.shown = set(self.remote)
            self._follow()

    def _reset(self) -> None:
        self._resolve("reset")

    def _fork(self) -> None:
        self._resolve("fork")

    def _switch(self) -> None:
        if not self.kept:
            return
        branch = self._random.choice(sorted(self.kept))
        done = self.ours.engine.switch("main", str(branch))
        content = self.kept.pop(branch)
        if done.kept is not None:
            self.kept[done.kept] = self.shown
        self.shown = content
        self.based = done.base
        self.events.add("switch")

    def _remove(self) -> None:
        if self.kept:
            branch = self._random.choice(sorted(self.kept))
            self.ours.engine.remove_branch("main", str(branch))
            del self.kept[branch]
            self.events.add("remove")

    def _restore(self) -> None:
        before = set(self.shown)
        done = self.ours.engine.restore("main", "BASE")
        self.shown = set(found(self.ours, lsn="BASE"))
        if done.kept is not None:
            self.kept[done.kept] = before
            self.events.add("restore")

    def _reopen(self) -> None:
        self.ours.close()
        self.ours = self._machines("ours")


def play(machines: Machines, seed: int, steps: int) -> set[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rotation, "ROTATE_BYTES", 64 << 10)
        patch.setattr(rotation, "COMPACT_BYTES", 96 << 10)
        game = Game(machines, seed)
        for _ in range(steps):
            game.step()
        assert game.ours.engine.fsck().is_sound
    return game.events


def test_random_steps_lose_nothing_that_was_not_removed_by_name(machines) -> None:
    events = play(machines, 1, 60)
    assert events >= {"diverged", "reset", "fork", "switch", "remove", "restore"}


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(20))
def test_more_random_steps_lose_nothing(machines, seed) -> None:
    play(machines, seed, 300)
