"""What an engine reports of its volumes: how each stands, and when its remote was last asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graft_vfs.engine import syncing
from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.engine.status import VolumeStatus
from graft_vfs.errors import DiskFullError, DivergedError, StoreUnavailableError
from graft_vfs.local import head, layout
from graft_vfs.local.head import CHECKED
from graft_vfs.standing import Standing
from graft_vfs.store.memory import MemoryStore
from graft_vfs.view import logs
from graft_vfs.volume.open_volumes import OpenVolumes
from tests.support.counting import counted_syncs
from tests.support.faults import FaultyStore
from tests.support.replicas import Replica


@pytest.fixture
def clock(monkeypatch) -> Callable[[int], None]:
    """Set the time at which the remote answers, in milliseconds."""

    def set_time(time_ms: int) -> None:
        monkeypatch.setattr(logs.time, "time_ns", lambda: time_ms * 1_000_000)

    return set_time


@pytest.fixture
def machines(tmp_path) -> Iterator[Callable[[str], Replica]]:
    """Make machines on one remote directory; a name used again is the same data directory."""
    made: list[Replica] = []
    remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))

    def make(name: str = "ours") -> Replica:
        made.append(Replica(tmp_path / name, remote))
        return made[-1]

    yield make
    for machine in made:
        machine.close()


def commit(machine: Replica, tag: str = "main", count: int = 1) -> None:
    connection = machine.connect(tag)
    for _ in range(count):
        connection.execute("CREATE TABLE IF NOT EXISTS t(k); INSERT INTO t VALUES(randomblob(9))")
    connection.close()


def status(machine: Replica, tag: str = "main") -> VolumeStatus:
    (found,) = [each for each in machine.engine.statuses() if tag in each.tags]
    return found


def far_future_ms() -> int:
    return 4_102_444_800_000


# When the remote was asked ----------------------------------------------------------------------


def test_a_poll_that_finds_nothing_says_when_and_costs_no_durable_write(machines, clock):
    machine = machines()
    commit(machine)
    machine.engine.push("main")
    machine.engine.pull("main")
    moved = status(machine).last_moved_ms
    catalog = machine.engine.catalog.path
    files = [catalog, catalog.with_name(catalog.name + "-wal")]
    before = [(path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    counts = machine.counts()
    clock(far_future_ms())
    with counted_syncs() as syncs:
        assert machine.engine.pull("main").commits == 0
    after = machine.counts()
    assert after.get + after.get_range - counts.get - counts.get_range == 1
    assert (after.put, after.put_if_absent, after.list) == (
        counts.put,
        counts.put_if_absent,
        counts.list,
    )
    assert not syncs
    assert [(path.stat().st_size, path.stat().st_mtime_ns) for path in files] == before
    assert status(machine).last_checked_ms == far_future_ms()
    assert status(machine).last_moved_ms == moved
    assert machine.engine.status("main").last_checked_ms == far_future_ms()
    (volume,) = machine.engine.metrics().volumes
    assert (volume.last_checked_ms, volume.last_moved_ms) == (far_future_ms(), moved)


def test_the_time_of_a_poll_outlives_its_engine(machines, clock):
    machine = machines()
    commit(machine)
    machine.engine.push("main")
    clock(far_future_ms())
    machine.engine.fetch("main")
    machine.close()
    again = machines()
    assert status(again).last_checked_ms == far_future_ms()
    assert again.engine.status("main").last_checked_ms == far_future_ms()


@pytest.mark.parametrize("verb", ["fetch", "pull", "push"])
def test_every_verb_that_asks_the_remote_says_so(machines, clock, verb):
    machine = machines()
    commit(machine)
    machine.engine.push("main")
    commit(machine)
    if verb != "push":
        machine.engine.push("main")
    clock(far_future_ms())
    getattr(machine.engine, verb)("main")
    assert status(machine).last_checked_ms == far_future_ms()


def test_a_pull_that_finds_a_divergence_has_asked_the_remote(machines, clock):
    ours, theirs = machines("ours"), machines("theirs")
    commit(ours)
    ours.engine.push("main")
    theirs.engine.clone("main", "main")
    commit(theirs)
    theirs.engine.push("main")
    commit(ours)
    clock(far_future_ms())
    with pytest.raises(DivergedError):
        ours.engine.pull("main")
    found = status(ours)
    assert (found.state, found.ahead, found.behind) == (Standing.DIVERGED, 1, 1)
    assert found.last_checked_ms == far_future_ms()
    assert ours.engine.status("main").state is Standing.DIVERGED


def test_a_poll_without_an_answer_is_no_check(tmp_path, clock):
    store = FaultyStore(MemoryStore())
    with Replica(tmp_path / "data", RemoteConfig(), store=store) as machine:
        commit(machine)
        machine.engine.push("main")
        checked = status(machine).last_checked_ms
        clock(far_future_ms())
        store.is_cut = True
        with pytest.raises(StoreUnavailableError):
            machine.engine.pull("main")
        found = status(machine)
        assert found.last_checked_ms == checked
        assert found.last_error


def test_autosync_of_a_log_without_commits_says_when_it_asked(machines, clock):
    machine = machines()
    connection = machine.connect()
    clock(far_future_ms())
    volume = machine.engine.catalog.tag_volume("main")
    syncing.sync_one(machine.engine.context, volume, is_last=False)
    found = status(machine)
    assert (found.state, found.last_checked_ms) == (Standing.NO_COMMITS, far_future_ms())
    connection.close()


def test_the_daemon_polls_a_volume_that_is_not_open(machines, clock, monkeypatch):
    machine = machines()
    commit(machine)
    machine.engine.push("main")
    volume = machine.engine.catalog.tag_volume("main")
    path = machine.engine.context.directory_of(volume) / layout.HEAD
    machine.close()
    again = machines()
    seen = head.look(path)
    clock(far_future_ms())
    monkeypatch.setattr(OpenVolumes, "look", None)
    assert not syncing.has_news(again.engine.context, volume)
    assert status(again).last_checked_ms == far_future_ms()
    assert head.look(path) == seen, "a poll is no change for which a volume is opened"


def test_a_head_file_that_was_cut_is_left_as_it_is(machines):
    machine = machines()
    commit(machine)
    path = machine.engine.open("main").directory / layout.HEAD
    machine.close()
    os.truncate(path, 8)
    head.note_checked(path, 1)
    assert path.stat().st_size == 8
    head.note_checked(path.with_name("absent"), 1)
    assert not path.with_name("absent").exists()


def test_a_clone_counts_as_a_check_and_as_a_move(machines):
    ours, theirs = machines("ours"), machines("theirs")
    commit(ours)
    ours.engine.push("main")
    theirs.engine.clone("main", "copy")
    found = status(theirs, "copy")
    assert found.last_checked_ms == found.last_moved_ms
    assert found.last_moved_ms


def test_a_check_that_cannot_be_recorded_is_logged_and_the_sync_stands(
    machines, monkeypatch, caplog
):
    machine = machines()
    commit(machine)
    machine.engine.push("main")
    caplog.set_level("INFO", "graft_vfs")

    def refuse(*_: object) -> None:
        raise DiskFullError("no room")

    monkeypatch.setattr(head, "note_checked", refuse)
    machine.engine.fetch("main")
    assert "was checked is not recorded: no room" in caplog.text
    assert machine.engine.status("main").last_error is None


# All volumes ------------------------------------------------------------------------------------


def test_every_state_is_a_row(machines, tmp_path):
    ours, theirs = machines("ours"), machines("theirs")
    for tag in ("ahead", "behind", "diverged", "same"):
        commit(ours, tag)
        ours.engine.push(tag)
        theirs.engine.clone(tag, tag)
    ours.engine.fork("same", new_tag="unpublished")
    ours.connect("no commits").close()
    commit(ours, "ahead", 3)
    commit(ours, "diverged")
    for tag in ("behind", "diverged"):
        commit(theirs, tag)
        theirs.engine.push(tag)
        ours.engine.fetch(tag)
    commit(ours, "unreadable")
    volume = ours.engine.catalog.tag_volume("unreadable")
    (log_file,) = (tmp_path / "ours" / "volumes" / str(volume)).glob("*.log")
    ours.close()
    data = bytearray(log_file.read_bytes())
    data[:64] = bytes(64)
    log_file.write_bytes(data)
    again = machines("ours")
    found = {each.tags[0]: each for each in again.engine.statuses()}
    assert list(found) == sorted(found)
    assert {tag: (each.state.value, each.ahead, each.behind) for tag, each in found.items()} == {
        "ahead": ("ahead", 3, 0),
        "behind": ("behind", 0, 1),
        "diverged": ("diverged", 1, 1),
        "no commits": ("no_commits", 0, 0),
        "same": ("up_to_date", 0, 0),
        "unpublished": ("unpublished", 0, 0),
        "unreadable": ("unreadable", None, None),
    }
    assert log_file.name in found["unreadable"].problem
    for tag, each in found.items():
        if tag != "unreadable":
            assert again.engine.status(tag).state is each.state
            assert again.engine.status(tag).last_checked_ms == each.last_checked_ms


def test_without_a_remote_every_volume_says_so(tmp_path):
    engine = Graft(Config(data_dir=tmp_path / "data"))
    assert engine.statuses() == []
    engine.new("main")
    (found,) = engine.statuses()
    assert found.state is Standing.NO_REMOTE
    assert engine.status("main").state is Standing.NO_REMOTE
    engine.close()


def test_volumes_without_a_tag_come_last(machines):
    machine = machines()
    commit(machine, "z")
    commit(machine, "a")
    untagged = machine.engine.catalog.tag_volume("a")
    machine.engine.remove_tag("a")
    found = machine.engine.statuses()
    assert [each.tags for each in found] == [("z",), ()]
    assert found[1].volume == untagged


def test_volumes_without_local_commits_are_not_opened(machines, monkeypatch):
    machine = machines()
    for number in range(3):
        commit(machine, f"same{number}")
        machine.engine.push(f"same{number}")
    commit(machine, "ahead")
    machine.close()
    again = machines()
    looked = []
    look = OpenVolumes.look
    monkeypatch.setattr(
        OpenVolumes, "look", lambda self, volume: looked.append(volume) or look(self, volume)
    )
    assert [each.state.value for each in again.engine.statuses()] == ["ahead", *["up_to_date"] * 3]
    assert looked == [again.engine.catalog.tag_volume("ahead")]


@pytest.mark.parametrize("damage", ["gone", "short", "zeros", "writing", "other boot"])
def test_a_head_file_that_does_not_tell_is_not_believed(machines, damage):
    machine = machines()
    commit(machine)
    machine.engine.push("main")
    commit(machine)
    path = machine.engine.open("main").directory / layout.HEAD
    machine.close()
    words = memoryview(bytearray(path.read_bytes())).cast("Q")
    end = words[head.END]
    if damage == "gone":
        path.unlink()
    elif damage == "short":
        os.truncate(path, 16)
    elif damage == "zeros":
        path.write_bytes(bytes(64))
    else:
        # It says that the branch has no commit, but as one that is not to be believed.
        words[head.END] = end // 2
        words[head.WRITING if damage == "writing" else head.BOOT] = 1
        path.write_bytes(words.tobytes())
    again = machines()
    assert (status(again).state, status(again).ahead) == (Standing.AHEAD, 1)


def test_a_head_file_of_an_earlier_version_has_no_time_of_a_check(machines):
    machine = machines()
    commit(machine)
    machine.engine.push("main")
    machine.engine.open("main").words[CHECKED] = 0
    found = status(machine)
    assert found.last_checked_ms == found.last_moved_ms
    assert head.glance(Path("nothing") / "here") is None


def test_what_another_process_committed_is_seen(machines):
    writer, reader = machines(), machines()
    commit(writer)
    writer.engine.push("main")
    assert status(reader).state is Standing.UP_TO_DATE
    commit(writer, count=2)
    assert status(reader).ahead == 2
    writer.engine.push("main")
    assert status(reader).state is Standing.UP_TO_DATE


@pytest.mark.parametrize("read", ["volume", "newest_commit", "pending_push", "commits", "volumes"])
@pytest.mark.parametrize("is_before", [True, False], ids=["before", "after"])
def test_a_push_by_another_process_never_looks_like_a_divergence(
    machines, monkeypatch, read, is_before
):
    ours, beside = machines(), machines()
    commit(ours)
    ours.engine.push("main")
    commit(ours)
    catalog = ours.engine.catalog
    original = getattr(catalog, read)

    def interrupted(*arguments):
        monkeypatch.setattr(catalog, read, original)
        found = None if is_before else original(*arguments)
        beside.engine.push("main")
        return original(*arguments) if is_before else found

    for look in (
        lambda: ours.engine.status("main").diverged,
        lambda: status(ours).state is Standing.DIVERGED,
    ):
        monkeypatch.setattr(catalog, read, interrupted)
        assert not look()
        monkeypatch.setattr(catalog, read, original)
        commit(ours)


def test_a_diverged_volume_says_how_many_commits_each_side_has(machines) -> None:
    ours, theirs = machines("ours"), machines("theirs")
    ours.connect("main").execute("CREATE TABLE t(x)")
    ours.engine.push("main")
    theirs.connect("main", remote="main").execute(
        "INSERT INTO t VALUES(1); INSERT INTO t VALUES(2)"
    )
    theirs.engine.push("main")
    for number in range(2):
        ours.connect("main").execute("INSERT INTO t VALUES(?)", (number,))
    ours.engine.fetch("main")
    text = str(ours.engine.status("main"))
    assert "have diverged,\nand have 2 and 1 different commits each, respectively." in text
