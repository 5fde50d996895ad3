"""Processes on one data directory that push one volume: one sends, the others wait for it."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

import graft_vfs
from graft_vfs import Config, RemoteConfig
from graft_vfs.errors import BusyError
from graft_vfs.local.locks import FileLock
from tests.support.children import child
from tests.support.engines import registered

BYTES, PUSHERS, ROUNDS = 3_000_000, 3, 4

PUSHER = """
    remote = graft_vfs.RemoteConfig(type="fs", root={root!r})
    engine = graft_vfs.register(graft_vfs.Config(data_dir=config.data_dir, remote=remote))
    volume = engine.open("main")
    say("ready")
    while hear():
        try:
            pushed = engine.push("main")
            say(pushed.bytes_sent if pushed.claimed else 0)
        except graft_vfs.GraftError as error:
            say(type(error).__name__, error)
        except KeyboardInterrupt:
            say("interrupted")
"""


@pytest.fixture
def config(tmp_path):
    return Config(
        data_dir=tmp_path / "data", remote=RemoteConfig(type="fs", root=str(tmp_path / "remote"))
    )


@pytest.fixture
def engine(config):
    with registered(config) as engine:
        graft_vfs.connect("main").execute("CREATE TABLE t(x)")
        yield engine


@pytest.fixture
def pusher(config):
    return PUSHER.format(root=config.remote.root)


def test_of_processes_that_push_together_one_sends_and_none_is_busy(config, engine, pusher):
    connection = graft_vfs.connect("main")
    with contextlib.ExitStack() as stack:
        pushers = [stack.enter_context(child(config.data_dir, pusher)) for _ in range(PUSHERS)]
        assert [each.hear() for each in pushers] == ["ready"] * PUSHERS
        for _ in range(ROUNDS):
            connection.execute("INSERT INTO t VALUES(randomblob(?))", (BYTES,))
            for each in pushers:
                each.say("push")
            sent = sorted(int(each.hear()) for each in pushers)
            assert sent[:-1] == [0] * (PUSHERS - 1)
            assert BYTES < sent[-1] < 1.2 * BYTES
    status = engine.status("main")
    assert (status.ahead, status.base_lsn, status.pending_push) == (0, ROUNDS, False)


def test_a_waiting_push_sends_commits_made_during_the_other_push(config, engine, pusher):
    with child(config.data_dir, pusher) as waiting:
        assert waiting.hear() == "ready"
        lock = FileLock(engine.open("main").directory / "push.lock")
        assert lock.acquire()
        waiting.say("push")
        wait_for_lock(waiting.process.pid)
        graft_vfs.connect("main").execute("INSERT INTO t VALUES(1)")
        lock.close()
        assert int(waiting.hear()) > 0
    assert engine.status("main").ahead == 0


def test_a_push_that_waits_ends_with_ctrl_c(config, engine, pusher):
    with child(config.data_dir, pusher) as waiting:
        assert waiting.hear() == "ready"
        lock = FileLock(engine.open("main").directory / "push.lock")
        assert lock.acquire()
        waiting.say("push")
        wait_for_lock(waiting.process.pid)
        os.kill(waiting.process.pid, signal.SIGINT)
        assert waiting.hear() == "interrupted"
        lock.close()
        waiting.say("push")
        assert int(waiting.hear()) > 0


def test_a_push_that_waits_too_long_names_the_cause(engine):
    lock = FileLock(engine.open("main").directory / "push.lock")
    assert lock.acquire()
    with pytest.raises(BusyError, match=r"another push of volume .* end its process"):
        engine.push("main", wait_seconds=0)
    lock.close()
    assert engine.push("main").claimed


def wait_for_lock(process: int) -> None:
    """Return when a process has opened the push lock, which it does to wait for it."""
    descriptors = Path(f"/proc/{process}/fd")
    while True:
        for descriptor in descriptors.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if descriptor.readlink().name == "push.lock":
                    return
