"""Which commit a ref means, what it costs to find out, and that commit as a snapshot."""

from __future__ import annotations

import contextlib
import random
import time

import pytest

from graft_vfs.errors import GraftError, InvalidIdError, NotFoundError, UsageError
from graft_vfs.history import names
from graft_vfs.history.names import LocalCommit, RemoteCommit
from graft_vfs.history.refs import HEAD
from graft_vfs.ids import short_texts
from graft_vfs.pager.snapshots import connected
from graft_vfs.store.base import StoreCounts
from tests.support.replicas import Replica, rows


def write(replica: Replica, *numbers: int, tag: str = "main") -> None:
    connection = replica.connect(tag)
    connection.execute("CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY)")
    for number in numbers:
        connection.execute("INSERT INTO t VALUES(?)", (number,))


def push_each(replica: Replica, *numbers: int, tag: str = "main") -> None:
    for number in numbers:
        write(replica, number, tag=tag)
        replica.engine.push(tag)


def resolve(replica: Replica, ref: str, tag: str = "main") -> names.Commit:
    return names.resolve(replica.engine.logs, ref, replica.engine.open(tag))


def content(replica: Replica, ref: str, tag: str = "main") -> list[int]:
    """Return the keys of the table as of a ref."""
    volume, logs = replica.engine.open(tag), replica.engine.logs
    snapshot = names.snapshot_of(volume, logs, names.resolve(logs, ref, volume))
    with connected(volume, {"main": snapshot}) as connection:
        return [key for (key,) in rows(connection)]


@contextlib.contextmanager
def requests(replica: Replica, count: int):
    before: StoreCounts = replica.counts()
    yield
    assert replica.counts().requests - before.requests == count


@pytest.fixture
def ours(replicas) -> Replica:
    """A machine with LSN 1 to 3 pushed, and two local commits."""
    replica = replicas("ours")
    push_each(replica, 1, 2, 3)
    write(replica, 4, 5)
    return replica


def test_refs_walk_back_over_local_commits_then_remote_ones(ours) -> None:
    volume = ours.engine.open("main")
    branch, log = ours.engine.status("main").branch, ours.engine.status("main").remote
    newest = volume.begin().lsn
    expected = [
        LocalCommit(branch, newest),
        LocalCommit(branch, newest - 1),
        *(RemoteCommit(log, lsn) for lsn in (3, 2, 1)),
    ]
    with requests(ours, 0):
        assert [resolve(ours, f"HEAD~{back}") for back in range(5)] == expected
        assert [content(ours, f"HEAD~{back}") for back in range(5)] == [
            list(range(1, 6 - back)) for back in range(5)
        ]
        assert (
            resolve(ours, "HEAD^^~")
            == resolve(ours, "BASE~1")
            == resolve(ours, "3~1")
            == expected[3]
        )
        assert (
            resolve(ours, f"local:{newest}~1")
            == resolve(ours, f"local:{newest - 1}")
            == expected[1]
        )
        assert [resolve(ours, str(lsn)) for lsn in (3, 2, 1)] == expected[2:]
        assert resolve(ours, "BASE") == expected[2]
        assert names.resolve(ours.engine.logs, HEAD, volume) == expected[0]


def test_a_ref_that_goes_back_too_far_says_how_far_it_can_go(ours) -> None:
    for ref, start, before in (("HEAD~5", "HEAD", 4), ("head~99", "HEAD", 4), ("3~3", "3", 2)):
        with pytest.raises(
            NotFoundError, match=f"past the first commit: {start} has {before}"
        ) as caught:
            resolve(ours, ref)
        assert f"use {start}~{before}" in caught.value.next_step
        assert resolve(ours, f"{start}~{before}").lsn == 1
    fresh = "fresh"
    write(ours, 1, tag=fresh)
    with pytest.raises(NotFoundError, match="HEAD has 1 commit before it"):
        resolve(ours, "HEAD~2", fresh)
    assert content(ours, "HEAD~1", fresh) == []


def test_after_a_push_the_local_commits_are_one_remote_commit(ours) -> None:
    local = resolve(ours, "HEAD~1")
    ours.engine.push("main")
    assert (resolve(ours, "HEAD").lsn, content(ours, "HEAD~1")) == (4, [1, 2, 3])
    with pytest.raises(NotFoundError, match="all of its commits are pushed"):
        resolve(ours, f"local:{local.lsn}")
    with pytest.raises(NotFoundError, match="pushed meanwhile"):
        names.snapshot_of(ours.engine.open("main"), ours.engine.logs, local)
    write(ours, 6)
    lsn = resolve(ours, "HEAD").lsn
    with pytest.raises(NotFoundError, match=f"has no commit {local.lsn}, it has local:{lsn}"):
        resolve(ours, f"local:{local.lsn}")


def test_an_empty_volume_has_no_head_and_says_what_to_do(replicas) -> None:
    ours = replicas("ours")
    ours.engine.new("empty")
    for ref in ("HEAD", "BASE", "HEAD~1"):
        with pytest.raises(NotFoundError, match="no commit yet") as caught:
            resolve(ours, ref, "empty")
        assert "commit something" in caught.value.next_step
    write(ours, 1)
    with pytest.raises(NotFoundError, match="stands on no remote commit") as caught:
        resolve(ours, "BASE")
    assert "push" in caught.value.next_step
    with pytest.raises(NotFoundError, match="the remote has no log"):
        resolve(ours, "1")


def test_logs_are_named_by_the_beginning_of_their_ids(ours, replicas) -> None:
    log = ours.engine.status("main").remote
    push_each(ours, 7, tag="other")
    ids = ours.engine.catalog.log_ids()
    with requests(ours, 0):
        assert resolve(ours, f"{log}:2", "other") == RemoteCommit(log, 2)
        assert resolve(ours, f"{short_texts(ids)[log]}:2", "other") == RemoteCommit(log, 2)
        assert names.resolve(ours.engine.logs, f"{log}:2", None) == RemoteCommit(log, 2)
    with pytest.raises(InvalidIdError, match=r"begins \d+ log ids: "):
        resolve(ours, f"{str(log)[:4]}:2")
    with pytest.raises(InvalidIdError, match="known here begins with 'main'"):
        resolve(ours, "main:2")
    theirs = replicas("theirs")
    theirs.engine.clone("other", "other")
    with pytest.raises(InvalidIdError, match="no log id known here"):
        resolve(theirs, f"{short_texts(ids)[log]}:2", "other")
    assert resolve(theirs, f"{log}:2", "other") == RemoteCommit(log, 2)


def test_without_a_volume_a_log_alone_has_a_head(ours) -> None:
    logs, log = ours.engine.logs, ours.engine.status("main").remote
    assert names.resolve(logs, "HEAD~1", None, log_id=log) == RemoteCommit(log, 2)
    assert names.resolve(logs, "BASE", None, log_id=log) == RemoteCommit(log, 3)
    assert names.resolve(logs, "1", None, log_id=log) == RemoteCommit(log, 1)
    for ref in ("HEAD", "BASE", "1", "2 hours ago"):
        with pytest.raises(UsageError, match="names no log"):
            names.resolve(logs, ref, None)
    with pytest.raises(UsageError, match="names no volume"):
        names.resolve(logs, "local:1", None, log_id=log)


def test_where_the_remote_must_have_a_commit_a_local_one_is_refused(ours) -> None:
    volume, logs = ours.engine.open("main"), ours.engine.logs
    assert names.resolve_remote(logs, "HEAD~2", volume).lsn == 3
    with pytest.raises(
        UsageError, match=r"'HEAD' is the local commit .*, which is not pushed"
    ) as caught:
        names.resolve_remote(logs, "HEAD", volume)
    assert "push" in caught.value.next_step


def test_an_unknown_lsn_is_requested_once(ours, replicas) -> None:
    theirs = replicas("theirs")
    theirs.engine.clone("main", "main")
    ours.engine.push("main")
    push_each(ours, 6)
    assert content(theirs, "5") == [1, 2, 3, 4, 5, 6]
    with requests(theirs, 0):
        assert resolve(theirs, "4~1").lsn == 3
    assert resolve(theirs, "HEAD").lsn == 3
    with pytest.raises(NotFoundError, match="no commit 9; its newest is 5"):
        resolve(theirs, "9")


# Forks ------------------------------------------------------------------------------------------


def test_the_history_of_a_fork_continues_in_its_parent_log(ours, replicas) -> None:
    ours.engine.push("main")
    log = ours.engine.status("main").remote
    ours.engine.fork("main", new_tag="side")
    with requests(ours, 0):
        assert resolve(ours, "HEAD", "side") == RemoteCommit(log, 4)
        assert resolve(ours, "HEAD~3", "side") == RemoteCommit(log, 1)
    push_each(ours, 8, 9, tag="side")
    side = ours.engine.status("side").remote
    other = replicas("theirs")
    other.engine.clone("side", "side")
    for machine in (ours, other):
        with requests(machine, 0):
            assert resolve(machine, "HEAD~1", "side") == RemoteCommit(side, 1)
            assert resolve(machine, "HEAD~2", "side") == RemoteCommit(log, 4)
            assert resolve(machine, "2~5", "side") == RemoteCommit(log, 1)
            with pytest.raises(NotFoundError, match="HEAD has 5 commits before it"):
                resolve(machine, "HEAD~6", "side")
    assert content(other, "HEAD~3", "side") == [1, 2, 3]


# Times ------------------------------------------------------------------------------------------

NOON_MS = 1_769_860_800_000
HOUR_MS = 3_600_000


def at_hour(monkeypatch, replica: Replica, hour: int, tag: str = "main") -> None:
    with monkeypatch.context() as patch:
        moment = (NOON_MS + hour * HOUR_MS) * 1_000_000
        patch.setattr("graft_vfs.sync.build.time.time_ns", lambda: moment)
        push_each(replica, hour, tag=tag)


def test_a_time_is_the_newest_remote_commit_no_later(replicas, monkeypatch) -> None:
    ours = replicas("ours")
    for hour in (1, 2, 3):
        at_hour(monkeypatch, ours, hour)
    with requests(ours, 0):
        assert resolve(ours, "2026-01-31T13:00").lsn == 1
        assert resolve(ours, "2026-01-31T14:59:59Z").lsn == 2
        assert resolve(ours, "2026-01-31T14:59:59Z~1").lsn == 1
        with pytest.raises(
            NotFoundError, match="no commit at that time; its first, LSN 1, is of 2026"
        ):
            resolve(ours, "2026-01-31T12:59:59Z")
    with requests(ours, 1):
        assert resolve(ours, "2026-01-31T15:00").lsn == 3


def test_a_time_before_a_fork_is_a_commit_of_its_parent(replicas, monkeypatch) -> None:
    ours = replicas("ours")
    at_hour(monkeypatch, ours, 1)
    log = ours.engine.status("main").remote
    ours.engine.fork("main", new_tag="side")
    with requests(ours, 0):
        assert resolve(ours, "2026-01-31T23:00", "side") == RemoteCommit(log, 1)
    at_hour(monkeypatch, ours, 2, tag="side")
    assert resolve(ours, "2026-01-31T13:30", "side") == RemoteCommit(log, 1)
    assert resolve(ours, "2026-01-31T23:00", "side").log == ours.engine.status("side").remote


def test_a_commit_dated_in_the_future_does_not_hide_that_newer_ones_may_be_earlier(
    replicas, monkeypatch
) -> None:
    ours, theirs = replicas("ours"), replicas("theirs")
    at_hour(monkeypatch, ours, 1)
    with monkeypatch.context() as patch:
        future = time.time_ns() + 10**16
        patch.setattr("graft_vfs.sync.build.time.time_ns", lambda: future)
        push_each(ours, 2)
    theirs.engine.clone("main", "main")
    before = theirs.counts().requests
    assert resolve(theirs, "0 seconds ago").lsn == 1
    assert theirs.counts().requests > before


# Local commits ----------------------------------------------------------------------------------


def test_every_local_commit_reads_as_it_was(replicas) -> None:
    ours = replicas("ours")
    draw = random.Random(7)
    connection = ours.connect("main")
    connection.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v)")
    states = {}
    for turn in range(40):
        if turn == 15:
            ours.engine.push("main")
            states.clear()
        for _ in range(draw.randrange(1, 40)):
            connection.execute(
                "INSERT OR REPLACE INTO t VALUES(?, randomblob(?))",
                (draw.randrange(50), draw.randrange(3000)),
            )
        if draw.randrange(4) == 0:
            connection.execute("DELETE FROM t WHERE k < ?", (draw.randrange(50),))
        states[ours.engine.open("main").begin().lsn] = rows(connection)
    volume, logs = ours.engine.open("main"), ours.engine.logs
    for lsn, expected in states.items():
        commit = names.resolve(logs, f"local:{lsn}", volume)
        with connected(volume, {"main": names.snapshot_of(volume, logs, commit)}) as past:
            assert rows(past) == expected


def test_a_local_snapshot_does_not_change_while_the_volume_does(ours) -> None:
    volume, logs = ours.engine.open("main"), ours.engine.logs
    snapshot = names.snapshot_of(volume, logs, resolve(ours, "HEAD~1"))
    with connected(volume, {"main": snapshot}) as past:
        write(ours, *range(10, 40))
        ours.engine.push("main")
        write(ours, *range(40, 60))
        assert rows(past) == [(1,), (2,), (3,), (4,)]


@pytest.mark.parametrize("ref", ["HEAD~x", "1..2", "", "7:", "next week"])
def test_an_invalid_ref_is_a_declared_error(ours, ref) -> None:
    with requests(ours, 0), pytest.raises(GraftError):
        resolve(ours, ref)
