"""The end of autosync: what is pushed when an engine or the interpreter ends, and what is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from graft_vfs.counters import Counters
from graft_vfs.engine import autosync
from graft_vfs.ids import VolumeId
from graft_vfs.store.base import ObjectStore
from tests.support import isolated
from tests.support.faults import FaultyStore
from tests.support.synced import INTERVAL, Synced, diverged, found, insert

PATIENCE_SECONDS = 20.0
"""Only a test that fails waits so long."""


def test_closing_pushes_unpushed_commits(synced, other, caplog):
    ours = synced()
    connection = ours.connect()
    ours.clock.settle()
    insert(connection, 1)
    before = ours.engine.store.counters
    ours.close()
    assert before.snapshot().put_if_absent
    theirs = other.connect(remote="main")
    assert found(theirs) == [1]
    theirs.close()
    assert not caplog.records


def test_closing_sends_no_request_if_all_is_pushed(synced):
    ours = synced()
    insert(ours.connect(), 1)
    ours.tick()
    counters = ours.engine.store.counters
    before = counters.snapshot()
    ours.close()
    assert counters.snapshot() == before


def test_closing_reports_diverged_volumes(synced, other, caplog):
    ours = synced()
    diverged(ours, other)
    volume = ours.engine.open("main").id
    caplog.clear()
    ours.close()
    (record,) = caplog.records
    assert f"volume 'main' ({volume}) may have unpushed commits" in record.getMessage()
    assert "it has diverged" in record.getMessage()


class BlockedStore(FaultyStore):
    """Lets a write begin, and not end before the test says so."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def put_if_absent(self, key, data):
        self.begun.set()
        assert self.go_on.wait(60)
        return super().put_if_absent(key, data)


def test_closing_respects_its_time_limit(tmp_path, caplog, synced, other, monkeypatch):
    monkeypatch.setattr(autosync, "FLUSH_SECONDS", 0.05)
    ours = synced(wrap=BlockedStore)
    store = ours.engine.store
    connection = ours.connect()
    ours.clock.settle()
    thread = ours.engine._autosync._thread
    insert(connection, 1)
    caplog.clear()
    ours.clock.move(INTERVAL)
    assert store.begun.wait(60)
    ours.close()
    (record,) = caplog.records
    assert "the time limit was reached" in record.getMessage()
    store.go_on.set()
    thread.join(60)
    assert not thread.is_alive()
    # Nothing is lost, and nothing is there twice.
    again = synced()
    insert(again.connect(), 2)
    again.tick()
    theirs = other.connect(remote="main")
    assert found(theirs) == [1, 2]
    theirs.close()


def write_and_leave(data_dir: str, root: str, how: str) -> None:
    """Commit, say so, and end in one of several ways, with the connection open."""
    machine = Synced(Path(data_dir), Path(root))
    connection = machine.connect()
    machine.clock.settle()
    insert(connection, 1)
    isolated.say("committed")
    if how == "error":
        raise SystemExit(3)
    if how == "interrupt":
        isolated.hear()


@pytest.mark.parametrize("how", ["return", "error", "interrupt"])
def test_interpreter_exit_pushes_unpushed_commits(tmp_path, other, how):
    places = tmp_path / "ours", tmp_path / "remote"
    with isolated.running(write_and_leave, *places, how) as child:
        assert child.hear() == "committed"
        if how == "interrupt":
            child.process.send_signal(signal.SIGINT)
        assert child.process.wait(60) == {"return": 0, "error": 3, "interrupt": -2}[how]
    theirs = other.connect(remote="main")
    assert found(theirs) == [1]
    theirs.close()


LARGE_PROGRAM = """
import graft_vfs
connection = graft_vfs.connect("main")
while graft_vfs.register().status("main").autosync.last_run_ms is None:
    pass
connection.execute("CREATE TABLE t(v); INSERT INTO t VALUES(randomblob(12000000))")
"""


def test_large_commits_are_pushed_at_interpreter_exit_or_reported(tmp_path, ministack):
    settings = {
        **ministack.environment(),
        "GRAFT_DATA_DIR": str(tmp_path / "ours"),
        "GRAFT_REMOTE_TYPE": "s3_compatible",
        "GRAFT_REMOTE_BUCKET": ministack.fresh_bucket(),
        "GRAFT_REMOTE_ENDPOINT": ministack.url,
        "GRAFT_AUTOSYNC": "3600",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            env={**os.environ, **settings, "PYTHONPATH": str(Path(__file__).parents[2])},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )

    ended = run("-c", LARGE_PROGRAM)
    # Threads cannot start any more, so one sends all parts; a slow machine has no time for that.
    is_told = "may have unpushed commits" in ended.stderr
    assert "Traceback" not in ended.stderr
    status = run("-m", "graft_vfs.cli", "status", "main").stdout
    assert ("up to date" in status) is not is_told
    run("-m", "graft_vfs.cli", "push", "main")
    assert "up to date" in run("-m", "graft_vfs.cli", "status", "main").stdout


def test_ctrl_c_ends_the_wait_for_a_push_and_reports_unpushed_commits(synced, caplog, monkeypatch):
    ours = synced(wrap=BlockedStore)
    store = ours.engine.store
    connection = ours.connect()
    ours.clock.settle()
    thread = ours.engine._autosync._thread
    insert(connection, 1)

    def interrupt(_thread: threading.Thread, _timeout: float) -> None:
        assert store.begun.wait(60)
        raise KeyboardInterrupt

    caplog.clear()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ours.engine.close()
    assert "the time limit was reached" in caplog.text
    store.go_on.set()
    thread.join(60)
    assert not thread.is_alive()


def test_a_sync_that_hangs_keeps_no_other_volume_from_its_last_push() -> None:
    hung, idle = VolumeId.new(), VolumeId.new()
    began, may_end, flushed = threading.Event(), threading.Event(), threading.Event()
    synced = threading.Event()
    last: list[VolumeId] = []

    def sync(volume: VolumeId, /, *, is_last: bool) -> autosync.Outcome:
        if is_last:
            last.append(volume)
            flushed.set()
        elif volume == idle:
            synced.set()
        else:
            began.set()
            assert may_end.wait(PATIENCE_SECONDS)
        return autosync.Outcome.SYNCED

    ours = autosync.Autosync(sync, 1000.0, Counters(), threads=2)
    ours.add(idle, None)
    assert synced.wait(PATIENCE_SECONDS)
    ours.add(hung, None)
    assert began.wait(PATIENCE_SECONDS)
    closing = threading.Thread(target=ours.close, args=(PATIENCE_SECONDS,))
    closing.start()
    assert flushed.wait(PATIENCE_SECONDS / 2)
    assert last == [idle]
    may_end.set()
    closing.join()
    assert last == [idle, hung]
