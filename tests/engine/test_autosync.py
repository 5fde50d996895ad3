"""Autosync: what is pushed and pulled by itself, when, by whom, and at what cost."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from functools import partial

import pytest

from graft_vfs.engine import syncing
from graft_vfs.engine.autosync import BACKOFF_SECONDS_MAX, backoff_seconds
from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.volume.context import Opened
from graft_vfs.volume.open_volumes import VOLUMES_KEPT_MAX
from tests.support.faults import Fault, FaultyStore
from tests.support.synced import INTERVAL, diverged, found, insert, push_from

# What is synced, and what it costs --------------------------------------------------------------


def test_commits_are_pushed_at_the_next_run(synced, other):
    ours = synced()
    connection = ours.connect()
    ours.clock.settle()
    insert(connection, 1)
    assert ours.engine.status("main").ahead == 2
    ours.tick()
    assert ours.engine.status("main").ahead == 0
    reader = other.connect(remote="main")
    assert found(reader) == [1]
    reader.close()


def test_a_small_push_costs_one_request(synced):
    ours = synced()
    connection = ours.connect()
    insert(connection, 1)
    ours.tick()  # The first push of a log names it, and proves the remote.
    insert(connection, 2)
    counts = ours.tick()
    assert (counts.requests, counts.put_if_absent) == (1, 1)


def test_remote_commits_are_pulled_at_the_next_run(synced, other):
    push_from(other, 1)
    ours = synced()
    connection = ours.connect(remote="main")
    ours.clock.settle()
    push_from(other, 2)
    assert found(connection) == [1]
    ours.tick()
    assert found(connection) == [1, 2]


def test_a_run_that_finds_nothing_new_costs_one_request(synced, other):
    push_from(other, 1)
    ours = synced()
    ours.connect(remote="main")
    ours.clock.settle()
    for _ in range(5):
        counts = ours.tick()
        assert (counts.requests, counts.get_range) == (1, 1)


def test_a_volume_that_was_never_pushed_costs_one_request_and_no_listing(synced):
    ours = synced()
    ours.connect()
    ours.clock.settle()
    for _ in range(3):
        counts = ours.tick()
        assert (counts.requests, counts.get_range) == (1, 1)


def test_a_log_that_gets_its_first_commit_elsewhere_is_pulled(synced, other):
    other.connect().close()
    remote = other.engine.status("main").remote
    ours = synced()
    ours.engine.switch("main", f"5rMJkf2zHE-2xMqqKcN8RLZh::{remote}")
    connection = ours.connect()
    ours.clock.settle()
    push_from(other, 1)
    ours.tick()
    assert found(connection) == [1]


def test_no_request_is_sent_between_two_runs(synced, other):
    push_from(other, 1)
    ours = synced()
    connection = ours.connect(remote="main")
    ours.clock.settle()
    assert found(connection) == [1]
    before = ours.engine.store.counters.snapshot()
    insert(connection, 2)
    for _ in range(4):
        ours.clock.advance(INTERVAL / 5)
    assert ours.engine.store.counters.snapshot() == before


def test_each_volume_is_synced_even_one_that_got_its_tag_later(synced, other):
    ours = synced()
    first = ours.connect("first")
    ours.clock.settle()
    second = ours.connect("second")
    ours.clock.settle()
    for number, connection in enumerate((first, second)):
        insert(connection, number)
    ours.tick()
    for tag in ("first", "second"):
        assert ours.engine.status(tag).ahead == 0
    assert {name for name, _ in other.engine.refs()} == {"first", "second"}


def test_a_volume_without_a_tag_is_left_alone(synced):
    ours = synced()
    connection = ours.connect()
    ours.clock.settle()
    insert(connection, 1)
    volume = ours.engine.open("main")
    ours.engine.remove_tag("main")
    assert ours.tick().requests == 0
    assert ours.engine.status(Opened("gone", volume)).autosync is None


def test_a_volume_that_was_closed_is_pushed_once_more_and_then_left_alone(synced):
    ours = synced()
    connection = ours.connect("first")
    ours.clock.settle()
    insert(connection, 1)
    connection.close()
    for number in range(VOLUMES_KEPT_MAX):
        ours.engine.open(f"other {number}", create=True)
    ours.clock.settle()
    volume = ours.engine.catalog.tag_volume("first")
    assert not ours.engine.context.volumes.is_open(volume)
    ours.tick()
    assert "first" in {name for name, _ in ours.engine.refs()}
    assert ours.engine._autosync.report(volume) is None
    assert not ours.engine.context.volumes.is_open(volume)
    assert ours.tick().requests == VOLUMES_KEPT_MAX
    assert ours.engine.status("first").ahead == 0


def test_a_report_on_all_volumes_syncs_none(synced):
    ours = synced()
    ours.engine.new("main")
    (report,) = ours.engine.volumes()
    assert ours.engine._autosync.report(report.volume) is None


def test_readers_and_writers_continue_while_their_commits_are_pushed(synced, other):
    ours = synced()
    reader, writer = ours.connect(), ours.connect()
    insert(writer, 0)
    ours.tick()
    reader.execute("BEGIN")
    assert found(reader) == [0]
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO t VALUES(1)")
    ours.tick()  # Nothing to push: the transaction is open.
    writer.execute("COMMIT")
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO t VALUES(2)")
    ours.tick()
    assert found(reader) == [0]
    writer.execute("COMMIT")
    reader.execute("COMMIT")
    assert found(reader) == [0, 1, 2]
    ours.tick()
    theirs = other.connect(remote="main")
    assert found(theirs) == [0, 1, 2]
    theirs.close()


def test_every_commit_is_pushed_once_while_threads_commit_all_the_time(synced, other):
    ours = synced()
    insert(ours.connect(), 0)
    ours.clock.settle()
    enough, another = threading.Event(), threading.Semaphore(0)
    committed = [0]

    def write() -> None:
        connection = ours.connect()
        connection.set_busy_timeout(30_000)
        while not enough.is_set():
            insert(connection, committed[-1] + 1)
            committed.append(committed[-1] + 1)
            another.release()

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(20):
        assert another.acquire(timeout=60)
        ours.tick()
    enough.set()
    thread.join()
    ours.tick()
    assert ours.engine.status("main").base_lsn >= 2
    theirs = other.connect(remote="main")
    assert found(theirs) == committed
    theirs.close()


def test_a_pull_that_finds_nothing_waits_for_no_writer(synced, other):
    push_from(other, 1)
    ours = synced()
    connection = ours.connect(remote="main")
    ours.clock.settle()
    connection.execute("BEGIN IMMEDIATE")
    ours.tick()
    assert ours.engine.status("main").autosync.last_error is None
    connection.execute("ROLLBACK")


# Divergence, errors -----------------------------------------------------------------------------


def test_a_diverged_volume_costs_nothing_and_its_status_says_so(synced, other, caplog, monkeypatch):
    ours = synced()
    connection = diverged(ours, other)
    status = ours.engine.status("main")
    assert status.diverged
    assert status.autosync.diverged
    assert "Autosync: waits until the divergence is resolved." in str(status)
    # Not even a push that is refused here: noting its error would write to the catalog each time.
    monkeypatch.setattr(syncing, "push", lambda *_, **__: pytest.fail("it was pushed"))
    for _ in range(5):
        assert ours.tick().requests == 0
    assert ours.engine.status("main").autosync.diverged
    warnings = [each.getMessage() for each in caplog.records if "diverged" in each.getMessage()]
    assert len(warnings) == 1
    assert found(connection) == [1, 2]


def test_a_diverged_volume_is_synced_again_once_that_is_resolved(synced, other):
    ours = synced()
    connection = diverged(ours, other)
    connection.pragma("graft_clone", "main")
    ours.clock.settle()
    push_from(other, 4)
    ours.tick()
    assert found(connection) == [1, 3, 4]
    assert not ours.engine.status("main").autosync.diverged


@pytest.mark.parametrize("strategy", ["reset", "fork"])
def test_a_strategy_is_applied_once_and_the_volume_is_synced_on(synced, other, strategy, caplog):
    ours = synced(on_divergence=strategy)
    connection = diverged(ours, other)
    ours.tick()
    assert found(connection) == [1, 3]
    branches = ours.engine.branches("main")[1:]
    forks = [each.tag for each in ours.engine.tags() if each.tag != "main"]
    assert (len(branches), len(forks)) == ((1, 0) if strategy == "reset" else (0, 1))
    place = {"tag": forks[0]} if forks else {"lsn": f"branch:{branches[0].branch}"}
    assert found(ours.connect(**place)) == [1, 2]
    assert not ours.engine.status("main").autosync.diverged
    insert(connection, 4)
    ours.tick()
    assert ours.engine.status("main").ahead == 0
    assert "skips it" not in caplog.text


def test_after_failures_the_pause_doubles_and_after_a_good_run_it_is_the_interval(synced, caplog):
    ours = synced(wrap=FaultyStore)
    store = ours.engine.store
    connection = ours.connect()
    insert(connection, 1)
    ours.tick()
    store.is_cut = True
    start, runs = ours.clock.seconds(), []
    seen = 0
    while len(runs) < 4:
        ours.clock.advance(INTERVAL)
        failures = ours.engine.status("main").autosync.failures
        if failures > seen:
            runs.append(ours.clock.seconds() - start)
            seen = failures
    assert runs == [5, 15, 35, 75]
    status = ours.engine.status("main")
    assert "a test cut the line" in status.autosync.last_error
    assert "failed 4 times in a row" in str(status)
    assert len([each for each in caplog.records if each.levelno >= logging.WARNING]) == 1
    store.is_cut = False
    ours.clock.advance(80)
    status = ours.engine.status("main")
    assert (status.autosync.failures, status.autosync.last_error) == (0, None)
    assert ours.tick().requests == 1


@pytest.mark.parametrize("interval", [1.0, 5.0, 200.0, 86_400.0])
@pytest.mark.parametrize("failures", [1, 2, 5, 20, 10_000])
def test_a_pause_after_failures_is_bounded(interval, failures):
    for jitter in (0.0, 0.5, 1.0):
        pause = backoff_seconds(interval, failures, jitter)
        assert interval <= pause <= max(2 * interval, BACKOFF_SECONDS_MAX)
    spread = {backoff_seconds(interval, failures, jitter / 10) for jitter in range(10)}
    assert len(spread) > 1


@pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.LOST_REQUEST, Fault.CUT_AFTER])
def test_a_push_without_an_answer_is_settled_by_a_later_run(synced, other, fault, monkeypatch):
    monkeypatch.setattr("graft_vfs.remote.claim._PAUSE_SECONDS", 0.0)
    ours = synced(wrap=partial(FaultyStore, at=3, fault=fault))
    store = ours.engine.store
    connection = ours.connect()
    ours.clock.settle()  # Else the run that opening began could push the table alone.
    insert(connection, 1)
    ours.tick()
    insert(connection, 2)
    ours.tick()
    store.is_cut = False
    for _ in range(4):
        ours.tick()
    assert len(store.effects) > 3
    status = ours.engine.status("main")
    assert (status.ahead, status.pending_push, status.base_lsn) == (0, False, 2)
    theirs = other.connect(remote="main")
    assert found(theirs) == [1, 2]
    theirs.close()


def test_an_error_of_the_program_does_not_end_the_syncs(synced, monkeypatch, caplog):
    ours = synced()
    connection = ours.connect()
    ours.clock.settle()
    insert(connection, 1)
    with monkeypatch.context() as patch:
        patch.setattr(syncing, "push", lambda *_, **__: 1 // 0)
        ours.tick()
    assert "division" in ours.engine.status("main").autosync.last_error
    assert "ZeroDivisionError" in caplog.text
    ours.clock.advance(2 * INTERVAL)
    assert ours.engine.status("main").ahead == 0


PROGRAM = """
import graft_vfs
connection = graft_vfs.connect("main")
connection.execute("CREATE TABLE t(k); INSERT INTO t VALUES(1)")
print(graft_vfs.register().status("main").autosync.interval_seconds)
"""


def test_a_program_needs_one_setting(tmp_path, other):
    settings = {
        "GRAFT_DATA_DIR": str(tmp_path / "ours"),
        "GRAFT_REMOTE_TYPE": "fs",
        "GRAFT_REMOTE_ROOT": str(tmp_path / "remote"),
        "GRAFT_AUTOSYNC": "3600",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env={**os.environ, **settings},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("3600.0\n", "", 0)
    theirs = other.connect(remote="main")
    assert found(theirs) == [1]
    theirs.close()


def test_without_the_setting_or_a_remote_there_is_no_thread(tmp_path):
    remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))
    for config in (
        Config(data_dir=tmp_path / "one", remote=remote),
        Config(data_dir=tmp_path / "two", autosync=INTERVAL),
    ):
        engine = Graft(config)
        engine.open("main", create=True)
        assert engine.status("main").autosync is None
        assert "graft-autosync" not in {thread.name for thread in threading.enumerate()}
        engine.close()


def test_a_volume_opens_where_no_thread_can_start(synced, monkeypatch, caplog):
    ours = synced()

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        connection = ours.connect()
    insert(connection, 1)
    assert "autosync does not run" in caplog.text
