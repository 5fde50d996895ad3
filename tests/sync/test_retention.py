"""Logs with retention: what is believed of them, when, and at what price; decision 19.

Time is the store's, which the tests set. They close and delete as a collector does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from graft_vfs.errors import (
    CommitOutcomeUnknownError,
    ExpiredError,
    HistoryMismatchError,
    StoreError,
)
from graft_vfs.remote.floor import floor_key
from graft_vfs.remote.log import RemoteLog, commit_key
from graft_vfs.remote.tables import tables_prefix
from graft_vfs.store.dates import note_headers, note_time
from tests.format.commit_samples import commit
from tests.support.faults import Fault, FaultyStore
from tests.support.replicas import Replica, rows
from tests.support.retention import GRACE, QUARTER, World, insert


@pytest.fixture
def world(tmp_path, monkeypatch) -> Iterator[World]:
    monkeypatch.setattr("graft_vfs.remote.claim._PAUSE_SECONDS", 0.0)
    world = World(tmp_path)
    yield world
    world.close()


def requests(machine: Replica, verb: str) -> tuple[int, int, int]:
    """Do a verb; returns how many objects it created, read, and other requests."""
    before = machine.counts()
    getattr(machine.engine, verb)("main")
    counts = machine.counts() - before
    reads = counts.get_range + counts.get
    return counts.put_if_absent, reads, counts.requests - reads - counts.put_if_absent


def two_machines(world: World) -> tuple[Replica, Replica]:
    """Two machines at LSN 2 of a log with retention since LSN 1."""
    ours, theirs = world.machine("ours"), world.machine("theirs")
    world.switch_on(ours)
    insert(ours, 1)
    theirs.engine.clone("main", "main")
    theirs.engine.pull("main")
    return ours, theirs


# The price ----------------------------------------------------------------------------------------


def test_pushes_and_polls_cost_one_request_while_they_are_near_one_another(world) -> None:
    ours, theirs = two_machines(world)
    for value in range(2, 6):
        world.now += QUARTER
        ours.connect().execute("INSERT INTO t VALUES(?)", (value,))
        assert requests(ours, "push") == (1, 0, 0)
        assert requests(ours, "pull") == (0, 1, 0)
        # A commit that was read does not move T, the absence of the next one does.
        assert requests(theirs, "pull") == (0, 2, 0)
        assert requests(theirs, "pull") == (0, 1, 0)


@pytest.mark.parametrize("is_restarted", [False, True])
def test_after_a_longer_rest_the_floor_is_read_once_more(world, is_restarted) -> None:
    ours, _ = two_machines(world)
    # A fresh process also proves that the log is the one that it knows.
    proof = 1 if is_restarted else 0
    for away, floor_reads in [(QUARTER, 0), (QUARTER + 1, 1), (QUARTER, 0), (1e9, 1)]:
        world.now += away
        ours = world.machine("ours") if is_restarted else ours
        assert requests(ours, "pull") == (0, 1 + proof + floor_reads, 0)
        world.now += away
        ours = world.machine("ours") if is_restarted else ours
        ours.connect().execute("INSERT INTO t VALUES(?)", (world.now,))
        assert requests(ours, "push") == (1, proof + floor_reads, 0)


def test_a_log_without_retention_costs_nothing_more_and_writes_no_times(world) -> None:
    ours = world.machine("ours")
    ours.connect().execute("CREATE TABLE t(k)")
    ours.engine.push("main")
    for value in range(3):
        world.now += 1e7
        assert requests(ours, "pull") == (0, 1, 0)
        ours.connect().execute("INSERT INTO t VALUES(?)", (value,))
        assert requests(ours, "push") == (1, 0, 0)
    assert ours.engine.catalog._file.rows("SELECT * FROM log_absences") == []


def test_a_longer_grace_period_allows_longer_rests(world) -> None:
    ours = world.machine("ours")
    world.switch_on(ours, 24 * GRACE)
    insert(ours, 1)
    world.now += 6 * GRACE
    assert requests(ours, "pull") == (0, 1, 0)
    world.now += 6 * GRACE + 1
    assert requests(ours, "pull") == (0, 2, 0)


def test_the_time_of_a_proof_is_written_seldom_and_lasts(world) -> None:
    ours, _ = two_machines(world)
    log = world.log
    ours.engine.pull("main")
    written = ours.engine.catalog._file.rows("SELECT proved_ms FROM log_absences")
    for _ in range(3):
        world.now += GRACE // 50
        ours.engine.pull("main")
    assert ours.engine.catalog._file.rows("SELECT proved_ms FROM log_absences") == written
    name = ours.engine.store.describe()
    assert ours.engine.catalog.absences.proved_ms(log, name) == world.now * 1000
    assert world.machine("ours").engine.catalog.absences.proved_ms(log, name) == written[0][0]


class Undated(FaultyStore):
    """A store whose answers have no dates, as behind a proxy that strips them."""

    def request(self, verb, key, send):
        try:
            return super().request(verb, key, send)
        finally:
            note_time(key, lambda: None)


def test_a_store_without_dates_costs_one_more_request_each_time(world) -> None:
    two_machines(world)
    ours = world.machine("ours", Undated)
    ours.engine.pull("main")
    for value in range(3):
        assert requests(ours, "pull") == (0, 2, 0)
        ours.connect().execute("INSERT INTO t VALUES(?)", (value,))
        assert requests(ours, "push") == (1, 1, 0)


class Cached(FaultyStore):
    """A store behind a cache that says so."""

    def request(self, verb, key, send):
        try:
            return super().request(verb, key, send)
        finally:
            note_headers(key, {"date": "Sun, 06 Nov 1994 08:49:37 GMT", "age": "3"})


def test_a_floor_from_a_cache_is_refused_by_name(world) -> None:
    two_machines(world)
    with pytest.raises(StoreError, match="a cache in front of memory"):
        world.machine("ours", Cached).engine.pull("main")


# What is believed ---------------------------------------------------------------------------------


def expired(machine: Replica, verb: str) -> None:
    with pytest.raises(ExpiredError, match=r"LSN 3 of log .* was deleted.* up to LSN 4 may be"):
        getattr(machine.engine, verb)("main")
    # As garbage, they could block the thread that collects them.
    assert not [each for each in threading.enumerate() if each.name.startswith("graft-read")]


def far_ahead(world: World, *deleted: int) -> tuple[Replica, Replica]:
    """One machine slept at LSN 2, while the other pushed to LSN 5, of which 3 and 4 are closed."""
    ours, theirs = two_machines(world)
    insert(theirs, 2, 3, 4)
    world.now += 10 * GRACE
    world.close_to(4)
    world.delete(*deleted)
    return ours, theirs


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_machine_that_slept_does_not_win_an_lsn_a_second_time(world, is_restarted) -> None:
    ours, theirs = far_ahead(world, 2, 3, 4)
    ours.connect().execute("INSERT INTO t VALUES(99)")
    ours = world.machine("ours") if is_restarted else ours
    for _ in range(2):
        expired(ours, "push")
        assert not ours.engine.status("main").pending_push
    assert (99,) in rows(ours.connect()), "the local commit is still there"
    assert requests(theirs, "pull")[0] == 0
    insert(theirs, 5)
    assert theirs.engine.status("main").base_lsn == 6
    assert (99,) not in rows(theirs.connect())


@pytest.mark.parametrize("is_restarted", [False, True])
def test_an_lsn_that_was_deleted_is_not_taken_for_absent(world, is_restarted) -> None:
    ours, _ = far_ahead(world, 2, 3, 4)
    ours = world.machine("ours") if is_restarted else ours
    expired(ours, "fetch")
    expired(ours, "pull")
    assert rows(ours.connect()) == [(0,), (1,)]


def test_a_late_claim_of_a_closed_lsn_is_not_followed(world) -> None:
    ours, _ = two_machines(world)
    third = world.machine("third")
    third.engine.clone("main", "main")
    third.connect().execute("INSERT INTO t VALUES(99)")
    ours_too, theirs = ours, world.machine("theirs")
    insert(theirs, 2, 3, 4)
    world.now += 10 * GRACE
    world.close_to(4)
    world.delete(3, 4)
    expired(third, "push")
    assert RemoteLog(world.store, world.log).read_header(3) is not None, "its late claim"
    expired(ours_too, "pull")
    assert rows(ours_too.connect()) == [(0,), (1,)]


def test_what_is_closed_and_not_deleted_yet_is_followed(world) -> None:
    ours, _ = far_ahead(world)
    assert ours.engine.pull("main").lsn == 5
    assert rows(ours.connect()) == [(value,) for value in range(5)]


def test_many_commits_are_believed_together(world) -> None:
    ours, theirs = two_machines(world)
    insert(theirs, *range(2, 90))
    world.store.delete_many([*world.store.keys(tables_prefix(world.log))])
    world.now += 10 * GRACE
    before = ours.counts()
    assert ours.engine.pull("main").lsn == 90
    counts = ours.counts() - before
    # 88 commits, and the floor after each of three looks and after each 64.
    assert (counts.get_range, counts.list) == (88 + 3 + 2, 2)


@pytest.mark.parametrize("fault", [Fault.CUT_AFTER, Fault.CUT_BEFORE])
@pytest.mark.parametrize("verb", ["push", "pull"])
def test_a_claim_without_an_answer_is_settled_by_the_roll(world, fault, verb) -> None:
    ours, theirs = two_machines(world)
    ours.connect().execute("INSERT INTO t VALUES(99)")
    ours = world.machine("ours", lambda store: FaultyStore(store, at=0, fault=fault))
    with pytest.raises(CommitOutcomeUnknownError):
        ours.engine.push("main")
    has_landed = fault is Fault.CUT_AFTER
    theirs.engine.pull("main")
    assert theirs.engine.status("main").base_lsn == (3 if has_landed else 2)
    insert(theirs, *range(2, 4 if has_landed else 5))
    world.now += 10 * GRACE
    world.close_to(4)
    world.delete(3, 4)
    ours = world.machine("ours")
    if has_landed and verb == "push":
        assert not ours.engine.push("main").claimed, "there is nothing more to push"
        verb = "pull"
    for each in (verb, "pull"):
        with pytest.raises(ExpiredError, match=f"LSN {4 if has_landed else 3} of log"):
            getattr(ours.engine, each)("main")
    status = ours.engine.status("main")
    assert not status.pending_push
    assert status.base_lsn == (3 if has_landed else 2)
    assert (99,) in rows(ours.connect())


def test_a_machine_whose_newest_commit_was_deleted_is_not_on_another_history(world) -> None:
    two_machines(world)
    theirs = world.machine("theirs")
    insert(theirs, 2, 3, 4)
    world.now += 10 * GRACE
    world.close_to(4)
    world.delete(2, 3, 4)
    ours = world.machine("ours")
    ours.connect().execute("INSERT INTO t VALUES(99)")
    expired(ours, "push")
    # Another commit at the LSN of its newest one is another history, unless the roll has ours.
    facts = {"log_id": world.log, "lsn": 2, "previous_hash": b"x" * 32, "grace_seconds": GRACE}
    world.store.put(commit_key(world.log, 2), [commit(**facts)[1]])
    expired(world.machine("ours"), "pull")


def test_the_first_commit_with_retention_is_never_taken_for_deleted(world) -> None:
    ours = world.machine("ours")
    world.switch_on(ours)
    theirs = world.machine("theirs")
    theirs.engine.clone("main", "main")
    insert(theirs, 1, 2)
    world.now += 10 * GRACE
    world.close_to(2)
    world.store.delete(commit_key(world.log, 1))
    ours = world.machine("ours")
    ours.connect().execute("INSERT INTO t VALUES(99)")
    with pytest.raises(HistoryMismatchError, match="lacks that commit"):
        ours.engine.push("main")


def test_without_its_rolls_a_log_is_damaged_and_says_so(world) -> None:
    ours, _ = far_ahead(world, 3, 4)
    world.store.delete_many([key for key in world.store.keys("") if "/rolls/" in key])
    ours.connect().execute("INSERT INTO t VALUES(99)")
    with pytest.raises(Exception, match="no roll of it says"):
        ours.engine.push("main")
    assert ours.engine.status("main").pending_push, "its end is not known"


def test_a_remote_that_lost_its_floor_and_history_is_another_one(world) -> None:
    far_ahead(world, 2, 3, 4, 5)
    world.store.delete(floor_key(world.log))
    with pytest.raises(HistoryMismatchError):
        world.machine("ours").engine.pull("main")
