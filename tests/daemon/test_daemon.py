"""The daemon in one process: what it syncs, opens and asks, and what its log has of it."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graft_vfs.daemon.daemon import Daemon
from graft_vfs.daemon.events import EventLog
from graft_vfs.engine.autosync import Clock, Outcome
from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import (
    DivergedError,
    NoRemoteError,
    NotFoundError,
    StoreDeniedError,
    StoreUnavailableError,
)
from graft_vfs.sync import push as pushing
from graft_vfs.volume.open_volumes import OpenVolumes
from tests.support.faults import FaultyStore
from tests.support.replicas import Replica, rows


class Jumping(Clock):
    """A clock that goes on by itself, and further when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0.0

    def seconds(self) -> float:
        return super().seconds() + self.ahead

    @staticmethod
    def jitter() -> float:
        return 1.0


class Watched:
    """A machine, its daemon, and the events of that."""

    def __init__(
        self, data_dir: Path, root: Path, *, on_divergence: str = "stop", **options
    ) -> None:
        remote = RemoteConfig(type="fs", root=str(root))
        self.store = FaultyStore(remote.open())
        self.machine = Replica(data_dir, remote, store=self.store, on_divergence=on_divergence)
        self.clock = Jumping()
        self.events: list[dict] = []
        self._told = threading.Condition()
        log = EventLog(self._note, as_json=True, clock=self.clock)
        self.options = {"clock": self.clock, **options}
        self._log = log
        self._daemon: Daemon | None = None

    @property
    def daemon(self) -> Daemon:
        if self._daemon is None:
            self._daemon = Daemon(self.machine.engine, self._log, **self.options)
        return self._daemon

    def _note(self, line: str) -> None:
        with self._told:
            self.events.append(json.loads(line))
            self._told.notify_all()

    def until(self, event: str, tag: str) -> None:
        """Wait until the log has an event of a tag."""
        with self._told:
            assert self._told.wait_for(
                lambda: (event, tag) in [(e["event"], e.get("tag")) for e in self.events], 60
            )

    def commit(self, tag: str, value: int) -> None:
        connection = self.machine.connect(tag)
        connection.execute("CREATE TABLE IF NOT EXISTS t(k); INSERT INTO t VALUES(?)", (value,))
        connection.close()

    def round(self) -> tuple[list[tuple[str, str]], int]:
        """Sync all once; returns the events with their tags, and the number of requests."""
        self.events.clear()
        before = self.machine.counts()
        self.daemon.run_once()
        told = sorted((each["event"], each.get("tag", "")) for each in self.events[:-1])
        assert self.events.pop()["event"] == "stopped"
        return told, (self.machine.counts() - before).requests

    def close_volumes(self) -> None:
        """Close what is open only because it was used, so that opening shows."""
        volumes = self.machine.engine.context.volumes
        for volume in volumes.all():
            volumes.keep_no_longer(volume.id)


@pytest.fixture
def watched(tmp_path) -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def make(name: str = "ours", **options) -> Watched:
        made.append(Watched(tmp_path / name, tmp_path / "remote", **options))
        return made[-1]

    yield make
    for each in made:
        each.machine.close()


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The volumes that are opened or used from now on."""
    found: list[str] = []
    look = OpenVolumes.look
    monkeypatch.setattr(
        OpenVolumes, "look", lambda self, volume: found.append(str(volume)) or look(self, volume)
    )
    return found


# What is synced, and what it costs --------------------------------------------------------------


def test_all_commits_are_pushed(watched):
    ours = watched()
    for number in range(5):
        ours.commit(f"tag {number}", number)
    told, _ = ours.round()
    assert told == [("pushed", f"tag {number}") for number in range(5)]
    assert {event["commits"] for event in ours.events} == {2}
    theirs = watched("theirs").machine
    for number in range(5):
        assert rows(theirs.connect(f"tag {number}", remote=f"tag {number}")) == [(number,)]


def test_an_unchanged_volume_is_not_opened_and_costs_one_request(watched, opened):
    ours = watched()
    for number in range(5):
        ours.commit(f"tag {number}", number)
    ours.round()
    ours.round()  # Each push changed the head file, so each is looked at once more.
    ours.close_volumes()
    opened.clear()
    for _ in range(3):
        assert ours.round() == ([], 5)
    assert opened == []


def test_a_push_only_volume_without_commits_costs_no_request(watched, opened):
    ours = watched(push_only=True)
    for number in range(5):
        ours.commit(f"tag {number}", number)
    ours.round()
    ours.round()
    opened.clear()
    for _ in range(3):
        assert ours.round() == ([], 0)
    assert opened == []
    ours.commit("tag 3", 9)
    opened.clear()
    assert ours.round() == ([("pushed", "tag 3")], 1)
    assert set(opened) == {str(ours.machine.engine.catalog.tag_volume("tag 3"))}


def test_remote_commits_are_pulled_unless_the_daemon_only_pushes(watched):
    theirs, ours, backup = watched("theirs"), watched(), watched("backup", push_only=True)
    theirs.commit("main", 1)
    theirs.machine.engine.push("main")
    for each in (ours, backup):
        each.machine.connect(remote="main").close()
        each.round()
        each.round()
    theirs.commit("main", 2)
    theirs.machine.engine.push("main")
    assert ours.round()[0] == [("pulled", "main")]
    assert ours.events[0]["lsn"] == 2
    assert backup.round() == ([], 0)
    assert rows(ours.machine.connect()) == [(1,), (2,)]
    assert rows(backup.machine.connect()) == [(1,)]


def test_a_replica_is_hydrated_and_again_after_an_outage(watched):
    theirs, ours = watched("theirs"), watched()
    connection = theirs.machine.connect()
    connection.execute("CREATE TABLE t(k); INSERT INTO t VALUES(randomblob(3000000))")
    connection.close()
    theirs.machine.engine.push("main")
    ours.machine.connect(remote="main").close()
    engine = ours.machine.engine
    hydration = engine.context.volumes.hydration
    engine.context.volumes._hydrates = True

    def cut(key: str) -> None:
        if key.startswith("segments/"):
            raise StoreUnavailableError("a test cut the line")

    ours.store.before_read = cut
    for _ in range(3):
        ours.round()
        hydration.join()
        audit = engine.audit("main")
        assert audit.present < audit.total
    ours.store.before_read = None
    ours.close_volumes()
    ours.round()
    hydration.join()
    audit = engine.audit("main")
    assert audit.present == audit.total
    assert ours.round() == ([], 1)


def test_a_commit_while_its_volume_is_pushed_is_found_by_the_next_round(watched, monkeypatch):
    ours = watched(push_only=True)
    ours.commit("main", 1)
    finish = pushing.finish

    def commit_then_finish(*arguments) -> str | None:
        monkeypatch.setattr(pushing, "finish", finish)
        ours.commit("main", 2)
        return finish(*arguments)

    monkeypatch.setattr(pushing, "finish", commit_then_finish)
    assert ours.round()[0] == [("pushed", "main")]
    assert ours.machine.engine.status("main").ahead == 1
    assert ours.round()[0] == [("pushed", "main")]
    assert ours.round() == ([], 0)


def test_a_commit_that_was_not_published_is_found(watched):
    """A process that was killed between its commit and the head file leaves WRITING set."""
    ours = watched(push_only=True)
    ours.commit("main", 1)
    ours.round()
    ours.round()
    volume = ours.machine.engine.catalog.tag_volume("main")
    path = ours.machine.engine.context.directory_of(volume) / "head"
    before = path.read_bytes()
    ours.commit("main", 2)
    with path.open("r+b") as file:
        file.write(before[:32] + (1).to_bytes(8, "little") + before[40:])
    assert ours.round()[0] == [("pushed", "main")]


def test_a_poll_that_finds_nothing_is_noted_as_a_check(watched):
    ours = watched()
    ours.commit("main", 1)
    for _ in range(2):
        ours.round()
    before = ours.machine.engine.status("main").last_checked_ms
    text = ours.daemon.metrics()
    assert ours.round() == ([], 1)
    checked = ours.machine.engine.status("main").last_checked_ms
    assert before is not None
    assert checked is not None
    assert checked > before
    name = "graft_volume_last_sync_timestamp_seconds"
    times = [
        re.search(rf"^{name}{{.*}} (.*)$", each, re.MULTILINE)[1]
        for each in (text, ours.daemon.metrics())
    ]
    assert float(times[1]) > float(times[0])


@pytest.mark.parametrize("strategy", ["reset", "fork"])
def test_a_diverged_volume_is_resolved_by_the_strategy(watched, strategy):
    theirs, ours = watched("theirs"), watched(on_divergence=strategy)
    theirs.commit("main", 1)
    theirs.machine.engine.push("main")
    ours.machine.connect(remote="main").close()
    ours.commit("main", 2)
    theirs.commit("main", 3)
    theirs.machine.engine.push("main")
    told, _ = ours.round()
    assert ("resolved", "main") in told
    (event,) = (each for each in ours.events if each["event"] == "resolved")
    assert event["commits"] == 1
    assert ("branch" in event, "fork" in event) == (strategy == "reset", strategy == "fork")
    assert ours.daemon.run_once() == []
    assert ours.machine.engine.status("main").ahead == 0


def test_named_tags_are_synced_and_no_others(watched):
    ours = watched(tags=("b",), push_only=True)
    for tag in "abc":
        ours.commit(tag, 1)
    assert ours.round()[0] == [("pushed", "b")]
    assert ours.daemon.volumes == 1


def test_without_a_remote_or_a_tag_of_that_name_there_is_no_daemon(tmp_path, watched):
    with Replica(tmp_path / "local", RemoteConfig()) as machine, pytest.raises(NoRemoteError):
        Daemon(machine.engine, EventLog(print, as_json=False, clock=Clock()))
    with pytest.raises(NotFoundError, match="there is no tag 'nope'"):
        _ = watched(tags=("nope",)).daemon


# What goes wrong --------------------------------------------------------------------------------


def test_a_diverged_volume_is_reported_once_and_costs_no_request(watched):
    theirs, ours = watched("theirs"), watched(push_only=True)
    theirs.commit("main", 1)
    theirs.machine.engine.push("main")
    ours.machine.connect(remote="main").close()
    ours.commit("main", 2)
    ours.commit("fine", 1)
    theirs.commit("main", 3)
    theirs.machine.engine.push("main")
    told, _ = ours.round()
    assert told == [("diverged", "main"), ("pushed", "fine")]
    (event,) = (each for each in ours.events if each["event"] == "diverged")
    assert "graft pull TAG --strategy reset" in event["hint"]
    for _ in range(3):
        assert ours.round() == ([], 0)
    (left,) = ours.daemon.run_once()
    assert (left.tag, type(left.error)) == ("main", DivergedError)
    ours.machine.engine.fork("main")
    told, _ = ours.round()
    assert ("failed", "main") in told  # The name belongs to the log that it was forked from.
    ours.machine.engine.push("main", name="ours")
    ours.commit("main", 4)
    ours.clock.ahead += 600
    told, _ = ours.round()
    assert ("pushed", "main") in told


def test_an_outage_is_one_line_and_few_requests(watched):
    ours = watched(push_only=True)
    for number in range(20):
        ours.commit(f"tag {number}", number)
    asked: list[str] = []
    ours.store.before_read = asked.append
    ours.store.is_cut = True
    told, _ = ours.round()
    assert told == [("unreachable", "")]
    assert len(ours.daemon.run_once()) == 20
    assert ours.round() == ([], 0)  # It is too early to ask again.
    ours.clock.ahead += 60
    ours.store.is_cut = False
    told, _ = ours.round()
    assert told.count(("reachable", "")) == 1
    while ours.daemon.run_once():
        pass
    pushed = [each["tag"] for each in ours.events if each["event"] == "pushed"]
    assert len(pushed) == len(set(pushed)) == 20


def test_during_an_outage_one_volume_retries_at_a_time_with_growing_pauses(watched, monkeypatch):
    ours = watched(push_only=True, interval_seconds=5)
    for number in range(20):
        ours.commit(f"tag {number}", number)
    tried: list[str] = []

    def refuse(_context, opened, **_arguments) -> None:
        tried.append(opened.tag)
        raise StoreUnavailableError("no answer")

    monkeypatch.setattr("graft_vfs.daemon.syncs.push", refuse)
    ours.daemon.run_once()
    assert 1 <= len(tried) <= 4
    for failures, seconds in ((2, 10), (3, 20), (4, 40)):
        tried.clear()
        ours.clock.ahead += seconds - 1
        ours.daemon.run_once()
        assert tried == []
        ours.clock.ahead += 2
        ours.daemon.run_once()
        assert len(tried) == 1, failures
    assert [e["event"] for e in ours.events if e["event"] != "stopped"] == ["unreachable"]


def test_a_failure_of_one_volume_and_its_recovery_are_reported_once(watched, monkeypatch):
    ours = watched(push_only=True)
    for tag in "ab":
        ours.commit(tag, 1)
    push = pushing.push

    def refuse(context, opened, **arguments):
        if opened.tag == "a":
            raise StoreDeniedError("no access to a", next_step="ask for it")
        return push(context, opened, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pushing, "push", refuse)
        assert ours.round()[0] == [("failed", "a"), ("pushed", "b")]
        assert [e["hint"] for e in ours.events if e["event"] == "failed"] == ["ask for it"]
        assert ours.round()[0] == []
    assert ours.round()[0] == [("pushed", "a"), ("recovered", "a")]


def test_a_volume_that_cannot_be_opened_does_not_delay_others(watched):
    ours = watched(push_only=True)
    for tag in "ab":
        ours.commit(tag, 1)
    ours.round()
    ours.commit("b", 2)
    volume = ours.machine.engine.catalog.tag_volume("a")
    ours.commit("a", 2)
    directory = ours.machine.engine.context.directory_of(volume)
    ours.close_volumes()
    directory.rename(directory.with_name("elsewhere"))
    told, _ = ours.round()
    assert told == [("failed", "a"), ("pushed", "b")]
    directory.with_name("elsewhere").rename(directory)


def test_a_fault_after_a_sync_is_not_swallowed(watched, monkeypatch):
    ours = watched(push_only=True)
    ours.commit("a", 1)

    def fail(volume, began):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(ours.daemon._rounds, "note_synced", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        ours.daemon.run_once()


def test_a_fault_of_the_program_is_told_and_keeps_no_other_volume_waiting(watched, monkeypatch):
    ours = watched(push_only=True)
    for tag in "ab":
        ours.commit(tag, 1)
    push = pushing.push

    def fail(context, opened, **arguments):
        if opened.tag == "a":
            raise ZeroDivisionError("a bug")
        return push(context, opened, **arguments)

    monkeypatch.setattr(pushing, "push", fail)
    assert ours.round()[0] == [("failed", "a"), ("pushed", "b")]
    assert [e["error"] for e in ours.events if e["event"] == "failed"] == [
        "ZeroDivisionError: a bug"
    ]
    assert 'graft_sync_volumes{state="failing"} 1' in ours.daemon.metrics()


# While it runs ----------------------------------------------------------------------------------


@pytest.fixture
def running(watched):
    """A daemon that was started, whose syncs a test can wait for."""
    started: list[Watched] = []

    def start(ours: Watched) -> Watched:
        ours.daemon.start()
        started.append(ours)
        return ours

    yield start
    for each in started:
        each.daemon.close(10)


def test_new_and_removed_volumes_are_detected(watched, running):
    ours = watched(interval_seconds=3600, push_only=True)
    ours.commit("a", 1)
    running(ours)
    ours.commit("b", 1)
    ours.daemon.look()
    assert [e["tag"] for e in ours.events if e["event"] == "added"] == ["b"]
    ours.until("pushed", "b")
    volume = ours.machine.engine.catalog.tag_volume("b")
    ours.machine.engine.remove_tag("b")
    ours.daemon.look()
    assert ("removed", "b") in [(e["event"], e["tag"]) for e in ours.events if "tag" in e]
    assert ours.daemon._sync(volume, is_last=False) is Outcome.CLOSED
    assert ours.daemon.volumes == 1


def test_the_end_pushes_the_remaining_commits(watched):
    ours = watched(interval_seconds=3600, push_only=True)
    ours.daemon.start()
    for number in range(20):
        ours.commit(f"tag {number}", number)
    assert ours.daemon.close(60) == ([], False)
    pushed = [each["tag"] for each in ours.events if each["event"] == "pushed"]
    assert sorted(pushed) == sorted(f"tag {number}" for number in range(20))


def test_the_end_reports_what_could_not_be_pushed(watched):
    ours = watched(interval_seconds=3600, push_only=True)
    ours.commit("a", 1)
    ours.commit("b", 1)
    ours.store.is_cut = True
    ours.daemon.start()
    left, is_busy = ours.daemon.close(60)
    assert not is_busy
    assert [each.tag for each in left] == ["a", "b"]
    assert {type(each.error) for each in left} == {StoreUnavailableError}


def test_two_daemons_on_one_data_directory_push_each_commit_once(tmp_path, watched):
    ours, again = watched(push_only=True), watched(push_only=True)
    assert ours.machine.engine.config.data_dir == again.machine.engine.config.data_dir
    for number in range(10):
        ours.commit(f"tag {number}", number)
    ours.round()
    again.round()
    told = [each["tag"] for each in ours.events + again.events if each["event"] == "pushed"]
    assert len(told) == 10
    logs = ours.machine.engine.remote_logs()
    assert {found.newest_lsn for found in logs} == {1}


def test_a_daemon_and_a_program_that_push_at_the_same_time_push_every_commit_once(watched):
    ours, program = watched(push_only=True), watched()
    tags = [f"tag {number}" for number in range(4)]

    def push_all() -> None:
        for tag in tags:
            program.machine.engine.push(tag)

    for number in range(5):
        for tag in tags:
            program.commit(tag, number)
        pusher = threading.Thread(target=push_all)
        pusher.start()
        assert ours.daemon.run_once() == []
        pusher.join()
    assert {event["event"] for event in ours.events} <= {"pushed", "stopped"}
    theirs = watched("theirs").machine
    for tag in tags:
        assert program.machine.engine.status(tag).ahead == 0
        assert rows(theirs.connect(tag, remote=tag)) == [(number,) for number in range(5)]
        # The first commit of a tag made its table.
        assert sum(entry.local_commits for entry in theirs.engine.log(tag)) == 6


def test_what_no_volume_needs_is_removed_once_a_day(watched) -> None:
    ours = watched()
    ours.commit("main", 1)
    ours.commit("gone", 1)
    ours.round()
    ours.close_volumes()
    engine = ours.machine.engine
    volume, log = engine.status("gone").volume, engine.status("gone").remote
    engine.remove_tag("gone")
    (engine.config.data_dir / "import-abc").mkdir()
    for path in (engine.config.data_dir / "volumes" / str(volume)).rglob("*"):
        os.utime(path, (0, 0))
    os.utime(engine.config.data_dir / "volumes" / str(volume), (0, 0))

    def reclaimed() -> list[str]:
        return [event["what"] for event in ours.events if event["event"] == "reclaimed"]

    ours.round()
    assert reclaimed() == []
    ours.clock.ahead += 86_400
    ours.round()
    removed, copy, known = reclaimed()
    assert removed == f"volume {volume}"
    assert "import-abc" in copy
    assert known == f"cached pages and known commits of log {log}"
    assert [report.tags for report in engine.volumes()] == [("main",)]
