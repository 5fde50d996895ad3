"""Sweeping a log with retention: what goes and when, killed at every effect, and beside others.

After every step each state that is open or kept has all of its images on the remote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import apsw
import pytest

from graft_vfs.errors import (
    CorruptObjectError,
    DivergedError,
    ExpiredError,
    UnsafeStoreError,
    UsageError,
)
from graft_vfs.ids import LogId
from graft_vfs.maintenance.expiry import make_plan
from graft_vfs.maintenance.sweep import Collected, sweep
from graft_vfs.remote.floor import floor_key, read_floor
from graft_vfs.remote.log import ascending, commit_key, commits_prefix, segment_key
from graft_vfs.remote.pins import Child, register_child, renew_pin, write_pin
from graft_vfs.remote.policy import Policy, write_policy
from graft_vfs.remote.rolls import rolls_prefix
from graft_vfs.testing import WrapperStore
from tests.support.faults import ProcessStopped
from tests.support.replicas import Replica, machines_on, rows
from tests.support.retention import GRACE, World, insert

DAY = 86_400


@pytest.fixture
def world(tmp_path, monkeypatch) -> Iterator[World]:
    monkeypatch.setattr("graft_vfs.remote.claim._PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("graft_vfs.remote.entries._PAUSE_SECONDS", 0.0)
    # So that each commit that is told apart has its own images.
    world = World(tmp_path)
    monkeypatch.setattr("graft_vfs.sync.build.time.time_ns", lambda: int(world.now * 1e9))
    yield world
    world.close()


def filled(world: World, commits: int = 8, **policy: int) -> Replica:
    """A machine at the end of a log of so many commits an hour apart; retention is on from 1."""
    ours = world.machine("ours")
    world.switch_on(ours)
    for value in range(2, commits + 1):
        world.now += GRACE
        insert(ours, value)
    write_policy(world.store, world.log, None, Policy(**policy or {"last": 2}))
    return ours


def swept(world: World, machine: Replica, **options: bool) -> Collected:
    done = sweep(machine.engine.logs, world.log, **options)
    check(world, machine)
    return done


def there(world: World) -> list[int]:
    """The LSNs whose commits are on the remote."""
    prefix = commits_prefix(world.log)
    return sorted(ascending(key.removeprefix(prefix), key=key) for key in world.store.keys(prefix))


def check(world: World, machine: Replica, *kept: int) -> None:
    """Every state that is open, or kept below the floor, has all of its images."""
    floor = read_floor(world.store, world.log).lsn
    newest = machine.engine.catalog.newest_commit(world.log)[0]
    keys = set(world.store.keys(""))
    states = {*range(max(floor, 1), newest + 1), *kept}
    for lsn in states:
        view = machine.engine.logs.log_view(world.log, lsn)
        needed = {source.body.key for _, _, source, _ in view.table.runs()}
        assert needed <= keys, f"LSN {lsn}"


# What goes, and when ------------------------------------------------------------------------------


def test_commits_are_closed_when_they_are_old_and_deleted_a_grace_period_later(world) -> None:
    ours = filled(world)
    assert swept(world, ours).floor == 6, "of 8, the last two are kept; these are old enough"
    assert there(world) == list(range(1, 9))
    world.now += GRACE - 1
    assert swept(world, ours).objects == 0
    world.now += 1
    done = swept(world, ours)
    # The first one with retention stays, and what has pages of the state at the floor.
    assert (done.deleted, done.floor) == (done.objects, 6)
    assert done.deleted + done.shared == 5
    assert there(world) == [1, *sorted({6, 7, 8} | set(there(world)[1:]))]
    assert 2 not in there(world)
    assert rows(ours.connect())[-1] == (8,)


def test_a_dry_run_says_what_would_happen_and_changes_nothing(world) -> None:
    ours = filled(world)
    before = dict(world.objects.by_key)
    done = swept(world, ours, dry_run=True)
    assert (done.floor, done.deleted) == (6, 0)
    assert "would be" in str(done)
    assert world.objects.by_key == before
    swept(world, ours)
    world.now += GRACE
    before = dict(world.objects.by_key)
    dry = swept(world, ours, dry_run=True)
    assert world.objects.by_key == before
    assert dry.objects == swept(world, ours).objects > 0


def test_a_plan_says_why_each_commit_stays(world) -> None:
    ours = filled(world, 6, last=1, hourly=2)
    ours.engine.name("main", "v1", "3")
    plan = make_plan(ours.engine.logs, world.log)
    assert plan.reasons == {
        1: ["the first with retention"],
        3: ["named v1"],
        5: ["the last of its hour"],
        6: ["1 of the last 1", "the last of its hour", "the newest"],
    }


def test_the_newest_commit_is_never_closed(world) -> None:
    ours = filled(world, 3, last=1)
    world.now += 1000 * GRACE
    assert swept(world, ours).floor == 2
    world.now += 1000 * GRACE
    assert swept(world, ours).floor == 2
    assert 3 in there(world)


def test_a_named_commit_and_its_images_stay(world) -> None:
    ours = filled(world, 8, last=1)
    ours.engine.name("main", "v1", "4")
    for _ in range(3):
        world.now += 2 * GRACE
        swept(world, ours)
        check(world, ours, 4)
    assert 4 in there(world)
    assert 3 not in there(world)


def test_a_listing_for_each_thousand_objects_and_one_request_to_delete_them(world) -> None:
    ours = filled(world)
    swept(world, ours)
    world.now += GRACE
    before = ours.counts()
    swept(world, ours)
    assert (ours.counts() - before).list == 2, "one, and one for names"


# Who holds what -----------------------------------------------------------------------------------


def test_a_pin_keeps_its_lsn_while_it_is_valid(world) -> None:
    ours = filled(world, 8, last=1)
    pin = write_pin(world.store, world.log, 3, seconds=2 * GRACE)
    for _ in range(5):
        world.now += GRACE
        pin = renew_pin(world.store, pin)
        swept(world, ours)
        check(world, ours, 3)
        assert 3 in there(world)
    world.now += 2 * GRACE + 1
    swept(world, ours)
    assert 3 not in there(world)
    with pytest.raises(ExpiredError, match="LSN 3 of log"):
        renew_pin(world.store, pin)
    with pytest.raises(ExpiredError, match="LSN 3 of log"):
        write_pin(world.store, world.log, 3)
    assert not [*world.store.keys(f"logs/{world.log}/pins/")], "a refused one is removed"


def test_a_pin_that_is_renewed_in_time_takes_one_request(world) -> None:
    ours = filled(world, 4)
    store = ours.engine.store
    pin = write_pin(store, world.log, 3)
    before = store.counters.snapshot()
    renew_pin(store, pin)
    assert (store.counters.snapshot() - before).requests == 1


def test_a_child_keeps_its_fork_point_for_good(world) -> None:
    ours = filled(world, 8, last=1)
    register_child(world.store, Child(world.log, 4, LogId.new()))
    for _ in range(4):
        world.now += 10 * GRACE
        swept(world, ours)
        check(world, ours, 4)
    with pytest.raises(ExpiredError):
        register_child(world.store, Child(world.log, 3, LogId.new()))


def forked(machine: Replica, ref: str) -> None:
    machine.engine.clone("main", "past")
    machine.engine.checkout("past", ref)
    machine.engine.fork("past", new_tag="other")


def test_a_registration_outlasts_the_floor_and_a_name_is_not_taken_back(world) -> None:
    """Both were there when their LSN was closed, and are made again as after a lost answer."""
    ours = filled(world, 8, last=1)
    child = Child(world.log, 4, LogId.new())
    register_child(world.store, child)
    ours.engine.name("main", "v1", "5", message="kept")
    for _ in range(3):
        world.now += 10 * GRACE
        swept(world, ours)
    register_child(world.store, child)
    assert ours.engine.name("main", "v1", "5", message="kept").lsn == 5
    swept(world, ours)
    assert {4, 5} <= set(there(world))
    check(world, ours, 4, 5)


def test_a_fork_of_a_log_whose_commits_were_deleted_is_cloned(world) -> None:
    ours = filled(world, 8, last=1)
    forked(ours, "5")
    ours.connect("other").execute("INSERT INTO t VALUES(99)")
    ours.engine.push("other")
    for _ in range(3):
        world.now += 10 * GRACE
        swept(world, ours)
    assert not {2, 3} & set(there(world))
    fresh = world.machine("fresh")
    fresh.engine.clone("other", "other")
    assert rows(fresh.connect("other")) == [(0,), (2,), (3,), (4,), (5,), (99,)]


def test_a_fork_registers_before_its_first_claim(world) -> None:
    ours = filled(world, 8, last=1)
    forked(ours, "5")
    ours.connect("other").execute("INSERT INTO t VALUES(99)")
    ours.engine.push("other")
    child = ours.engine.status("other").remote
    effects = [key for key in ours.engine.store.effects if str(child) in key]
    assert effects[0].startswith(f"logs/{world.log}/children/")
    for _ in range(3):
        world.now += 10 * GRACE
        swept(world, ours)
        check(world, ours, 5)


def test_a_fork_of_a_closed_commit_is_refused_before_anything_is_claimed(world) -> None:
    ours = filled(world, 8, last=1)
    forked(ours, "3")
    ours.connect("other").execute("INSERT INTO t VALUES(99)")
    swept(world, ours)
    with pytest.raises(ExpiredError, match="LSN 3 of log"):
        ours.engine.push("other")
    child = ours.engine.status("other").remote
    assert not [*world.store.keys(f"logs/{child}/")]


# Refusals -----------------------------------------------------------------------------------------


def test_what_cannot_have_retention_is_refused_by_name(world) -> None:
    ours = filled(world, 4)
    with pytest.raises(UsageError, match="keeps nothing"):
        Policy()
    world.store.delete(f"logs/{world.log}/retention")
    with pytest.raises(UsageError, match="no retention"):
        swept(world, ours)


def test_a_store_without_time_is_refused(world, monkeypatch) -> None:
    ours = filled(world)
    monkeypatch.setattr("graft_vfs.store.memory.note_time", lambda *_: None)
    with pytest.raises(UnsafeStoreError, match="what time it is"):
        swept(world, ours)


def test_a_clock_that_jumps_is_refused(world) -> None:
    ours = filled(world)
    world.now -= GRACE
    with pytest.raises(UnsafeStoreError, match="a clock that jumps"):
        swept(world, ours)


def test_a_floor_that_fell_is_refused(world) -> None:
    ours = filled(world)
    swept(world, ours)
    world.now += GRACE
    swept(world, ours)
    world.store.delete(floor_key(world.log))
    with pytest.raises(CorruptObjectError, match="its floor fell"):
        swept(world, ours)


# Faults -------------------------------------------------------------------------------------------


class Stopping(WrapperStore):
    """Stops the process before or after its n-th effect; a deletion of many is one for each."""

    def __init__(self, inner, at: int = -1, *, after: bool = False) -> None:
        super().__init__(inner)
        self.effects: list[str] = []
        self.happen: Callable[[str], None] = lambda _: None
        self._at = at
        self._after = after

    def request(self, verb, key, send):
        if verb not in {"put", "put_if_absent", "delete"}:
            return send()
        self.effects.append(key)
        if len(self.effects) - 1 != self._at:
            self.happen(key)
            return send()
        if self._after:
            send()
        raise ProcessStopped

    def delete_many(self, keys):
        for key in keys:
            self.delete(key)


def sweeping(world: World) -> Replica:
    """A log that has something to delete and something to close."""
    ours = filled(world, 6, last=1)
    swept(world, ours)
    for value in range(100, 104):
        world.now += GRACE
        insert(ours, value)
    ours.engine.name("main", "v1", "8")
    return ours


@pytest.mark.parametrize("after", [False, True])
def test_a_sweep_that_is_killed_at_any_effect_is_finished_by_the_next(world, after) -> None:
    ours = sweeping(world)
    start = dict(world.objects.by_key), dict(world.objects.modified)
    machine = world.machine("ours", Stopping)
    swept(world, machine)
    count, end = len(machine.engine.store.effects), set(world.objects.by_key)
    assert count >= 6
    for at in range(count):
        world.objects.by_key, world.objects.modified = map(dict, start)
        machine = world.machine("ours", lambda inner, at=at: Stopping(inner, at, after=after))
        with pytest.raises(ProcessStopped):
            swept(world, machine)
        check(world, ours, 8)
        swept(world, ours)
        assert set(world.objects.by_key) == end, at


def test_two_sweeps_at_once_do_what_one_does(world) -> None:
    """The second runs as a whole at each effect of the first."""
    ours = sweeping(world)
    start = dict(world.objects.by_key), dict(world.objects.modified)
    machine = world.machine("ours", Stopping)
    swept(world, machine)
    end = set(world.objects.by_key)
    for at in range(len(machine.engine.store.effects)):
        world.objects.by_key, world.objects.modified = map(dict, start)
        machine = world.machine("ours", Stopping)
        store = machine.engine.store

        def happen(_key: str, store=store, at=at) -> None:
            if len(store.effects) - 1 == at:
                swept(world, ours)

        store.happen = happen
        swept(world, machine)
        check(world, ours, 8)
        assert set(world.objects.by_key) == end, at


def test_a_writer_that_is_frozen_in_its_claim_does_not_win(world) -> None:
    ours = filled(world, 3, last=1)
    theirs = world.machine("theirs")
    theirs.engine.clone("main", "main")
    theirs = world.machine("theirs", Stopping)
    theirs.connect().execute("INSERT INTO t VALUES(99)")

    def freeze(key: str) -> None:
        if key != commit_key(world.log, 4):
            return
        theirs.engine.store.happen = lambda _: None
        for value in range(4, 8):
            insert(ours, value)
        for _ in range(3):
            world.now += 2 * GRACE
            swept(world, ours)
        assert 4 not in there(world)

    theirs.engine.store.happen = freeze
    with pytest.raises(DivergedError):
        theirs.engine.push("main")
    assert 4 in there(world), "its late claim"
    assert not theirs.engine.status("main").pending_push
    # It is swept with the next that is due, and nobody follows it.
    insert(ours, 8)
    assert (99,) not in rows(ours.connect())
    world.now += 2 * GRACE
    swept(world, ours)
    assert 4 not in there(world)


def test_a_reader_that_pinned_reads_all_of_its_lsn_while_a_sweep_runs(world) -> None:
    ours = sweeping(world)
    reader = world.machine("reader")
    reader.engine.clone("main", "main")
    pin = write_pin(reader.engine.store, world.log, 9, seconds=10 * GRACE)
    machine = world.machine("ours", Stopping)
    machine.engine.store.happen = lambda _: check(world, ours, pin.lsn)
    for _ in range(4):
        world.now += 2 * GRACE
        swept(world, machine)


def test_segments_go_with_the_commits_that_name_them(world, monkeypatch) -> None:
    monkeypatch.setattr("graft_vfs.sync.build.INLINE_BYTES_MAX", 0)
    ours = filled(world, 6, last=1)
    segments = {
        lsn: segment_key(ours.engine.logs.header(world.log, lsn).segment) for lsn in range(1, 7)
    }
    swept(world, ours)
    world.now += GRACE
    swept(world, ours)
    left = set(world.store.keys("segments/"))
    assert {lsn for lsn, key in segments.items() if key in left} == set(there(world))
    assert len(left) < 6


def test_a_sweep_asks_for_what_it_does_not_know(world) -> None:
    filled(world)
    other = world.machine("other")
    other.engine.clone("main", "main")
    assert swept(world, other).floor == 6
    assert [*world.store.keys(rolls_prefix(world.log))]


# Clones, and machines that slept ------------------------------------------------------------------


def shrunk(world: World, *, is_hydrated: bool = True) -> Replica:
    """A log of 8 commits of which 2 and more were deleted; LSN 4 has a name."""
    ours = filled(world, 8, last=1)
    ours.engine.name("main", "v1", "4")
    slept = world.machine("slept")
    slept.engine.clone("main", "main")
    if is_hydrated:
        slept.engine.hydrate("main")
    for value in range(9, 12):
        insert(ours, value)
    for _ in range(3):
        world.now += 2 * GRACE
        swept(world, ours)
    assert not {2, 3, 9} & set(there(world))
    return ours


def test_a_log_whose_commits_were_deleted_is_cloned_through_its_tables(world) -> None:
    ours = shrunk(world)
    fresh = world.machine("fresh")
    fresh.engine.clone("main", "main")
    assert rows(fresh.connect()) == rows(ours.connect())
    insert(fresh, 12)
    assert ours.engine.pull("main").lsn == 12


def test_a_kept_commit_below_the_floor_is_opened_by_its_table(world) -> None:
    shrunk(world)
    fresh = world.machine("fresh")
    fresh.engine.clone("main", "main")
    for ref in ("v1", "4"):
        assert rows(fresh.connect("main", lsn=ref)) == [(0,), (2,), (3,), (4,)]
    with pytest.raises(apsw.Error, match=r"LSN 3 of log .* was deleted by the log's retention"):
        rows(fresh.connect("main", lsn="3"))


def test_a_machine_that_slept_joins_again_at_the_newest_commit(world) -> None:
    ours = shrunk(world)
    slept = world.machine("slept")
    assert slept.engine.pull("main").lsn == 11
    assert rows(slept.connect()) == rows(ours.connect())


def test_a_machine_that_lacks_pages_of_a_deleted_commit_is_told_why(world) -> None:
    ours = shrunk(world, is_hydrated=False)
    slept = world.machine("slept")
    with pytest.raises(apsw.Error, match=r"LSN 8 of log .* was deleted by the log's retention"):
        slept.connect().execute("INSERT INTO t VALUES(99)")
    assert slept.engine.pull("main").lsn == 11
    assert rows(slept.connect()) == rows(ours.connect())


def test_local_commits_of_a_machine_that_slept_have_diverged_and_are_not_lost(world) -> None:
    ours = shrunk(world)
    slept = world.machine("slept")
    slept.connect().execute("INSERT INTO t VALUES(99)")
    for verb in (slept.engine.push, slept.engine.pull, slept.engine.push):
        with pytest.raises(DivergedError, match=r"log .* is at 11"):
            verb("main")
    assert (99,) in rows(slept.connect())
    assert not slept.engine.status("main").pending_push
    ours.engine.pull("main")
    assert (99,) not in rows(ours.connect())


def test_without_listings_a_deleted_commit_is_not_taken_for_the_end(world) -> None:
    shrunk(world)
    fresh = world.machine("fresh")
    fresh.engine.store.can_list = False
    with pytest.raises(ExpiredError, match="was deleted by the log's retention"):
        fresh.engine.clone(str(world.log), "main")


def test_a_reader_from_before_a_compaction_goes_on(world) -> None:
    ours = filled(world, 4, last=1)
    # A page that no later commit changes.
    ours.connect().execute("CREATE TABLE u(k); INSERT INTO u VALUES(7)")
    insert(ours, *range(5, 30))
    reader = world.machine("reader")
    reader.engine.clone("main", "main")
    assert ours.engine.maintain("main").objects > 0
    for _ in range(3):
        world.now += 2 * GRACE
        swept(world, ours)
    assert len(there(world)) < 10
    assert rows(reader.connect()) == rows(ours.connect())
    assert rows(reader.connect(), "SELECT k FROM u") == [(7,)]
    fresh = world.machine("fresh")
    fresh.engine.clone("main", "main")
    assert rows(fresh.connect()) == rows(ours.connect())


# On servers ---------------------------------------------------------------------------------------


def test_a_sweep_on_an_s3_server(seaweedfs, tmp_path, monkeypatch) -> None:
    """With the server's own dates and conditions; only what is old is decided by the test."""
    with machines_on(seaweedfs, tmp_path) as make:
        ours = make("ours")
        ours.connect().execute("CREATE TABLE t(k)")
        ours.engine.push("main")
        assert ours.engine.set_retention("main", last=2).grace_seconds == DAY
        insert(ours, *range(2, 8))
        log = ours.engine.status("main").remote
        assert ours.engine.collect_remote("main").floor == 0, "nothing is old enough"
        monkeypatch.setattr("graft_vfs.maintenance.expiry.Plan._is_old", lambda *_: True)
        assert ours.engine.collect_remote("main").floor == 6
        done = ours.engine.collect_remote("main")
        assert done.deleted
        assert done.floor == 6
        fresh = make("fresh")
        fresh.engine.clone("main", "main")
        assert rows(fresh.connect()) == rows(ours.connect())
        insert(fresh, 8)
        assert ours.engine.pull("main").lsn == 9
        # The server's dates are near one another, so nothing costs more.
        before = ours.counts()
        ours.engine.pull("main")
        assert (ours.counts() - before).requests == 1
        assert read_floor(ours.engine.store, log).grace_seconds == DAY
