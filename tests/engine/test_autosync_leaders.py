"""Autosync in several processes: one of them leads, and another takes over."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from graft_vfs.reports import AutosyncRole
from tests.support import isolated
from tests.support.synced import Synced, insert


def sync_as_told(data_dir: str, root: str) -> None:
    """A process with autosync that does one thing for each line it hears, and says how it went."""
    machine = Synced(Path(data_dir), Path(root))
    connection = machine.connect()
    machine.clock.settle()
    acts: dict[str, Callable[[], object]] = {
        "role": lambda: machine.engine.status("main").autosync.role.value,
        "tick": lambda: machine.tick().requests,
        "insert": lambda: insert(connection, 7),
        "ahead": lambda: machine.engine.status("main").ahead,
        "close": machine.close,
    }
    while line := isolated.hear():
        isolated.say(acts[line]())


def ask(child, line: str) -> str:
    child.say(line)
    return child.hear()


def test_one_of_two_processes_syncs_and_the_other_takes_over_when_it_is_killed(tmp_path, synced):
    places = tmp_path / "ours", tmp_path / "remote"
    with isolated.running(sync_as_told, *places) as first:
        assert ask(first, "role") == "leader"
        ours = synced()
        connection = ours.connect()
        ours.clock.settle()
        assert ours.engine.status("main").autosync.role is AutosyncRole.FOLLOWER
        assert "another process syncs the volume" in str(ours.engine.status("main"))
        insert(connection, 1)
        for _ in range(3):
            assert ours.tick().requests == 0
        assert ours.engine.status("main").ahead == 2
        ask(first, "tick")
        assert ours.engine.status("main").ahead == 0
        insert(connection, 2)
        first.kill()
    ours.tick()
    status = ours.engine.status("main")
    assert status.autosync.role is AutosyncRole.LEADER
    assert status.ahead == 0
    with isolated.running(sync_as_told, *places) as second:
        assert ask(second, "role") == "follower"
        assert ask(second, "tick") == "0"


def test_a_leader_that_closes_releases_the_lead(tmp_path, synced):
    with isolated.running(sync_as_told, tmp_path / "ours", tmp_path / "remote") as first:
        assert ask(first, "role") == "leader"
        ours = synced()
        ours.connect()
        ours.clock.settle()
        assert ours.engine.status("main").autosync.role is AutosyncRole.FOLLOWER
        ask(first, "close")
        ours.tick()
        assert ours.engine.status("main").autosync.role is AutosyncRole.LEADER


def fork_and_sync(data_dir: str, root: str) -> None:
    """The parent leads; its child, whose thread did not survive, has an engine of its own."""
    machine = Synced(Path(data_dir), Path(root))
    insert(machine.connect(), 1)
    machine.clock.settle()
    ready, alive = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        warnings: list[logging.LogRecord] = []
        logging.getLogger("graft_vfs").addFilter(warnings.append)
        logging.getLogger("graft_vfs.engine.autosync").addFilter(warnings.append)
        machine.engine._autosync.close()  # Harmless: it is the parent's.
        assert not warnings
        assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
        own = Synced(Path(data_dir), Path(root))
        connection = own.connect()
        own.clock.settle()
        role = own.engine.status("main").autosync.role
        os.write(ready[1], role.value.encode())
        os.read(alive[0], 1)
        own.tick()
        os.write(ready[1], own.engine.status("main").autosync.role.value.encode())
        connection.close()
        own.engine.close()
        os._exit(0)
    # Else a child that fails would be waited for without an end.
    os.close(ready[1])
    os.close(alive[0])
    assert os.read(ready[0], 10) == b"follower"
    insert(machine.connect(), 2)
    machine.tick()
    assert machine.engine.status("main").ahead == 0
    machine.close()
    os.write(alive[1], b"x")
    assert os.read(ready[0], 10) == b"leader"
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="forking with threads warns there")
def test_a_forked_child_syncs_with_an_engine_of_its_own(tmp_path):
    isolated.run(fork_and_sync, tmp_path / "ours", tmp_path / "remote")
