"""SIGTERM and SIGHUP: what was committed is on the remote when they have ended the process."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import apsw
import pytest

import graft_vfs
from graft_vfs.engine.config import RemoteConfig
from tests.support import isolated
from tests.support.replicas import Replica
from tests.support.synced import Synced, found, insert

NUMBERS = [signal.SIGTERM, signal.SIGHUP]
DEFAULTS = (signal.SIG_DFL, signal.SIG_DFL)


@pytest.fixture
def pushed(tmp_path):
    """Return what another machine finds on the remote; None if there is no log."""

    def look() -> list[int] | None:
        remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))
        with Replica(tmp_path / "other", remote) as other:
            if not other.engine.refs():
                return None
            return found(other.connect(remote="main"))

    return look


def handlers() -> tuple[object, ...]:
    return tuple(signal.getsignal(number) for number in NUMBERS)


COMPUTE = "WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n) SELECT max(k) FROM n"
"""Never ends, and reads no page."""


def compute(connection: sqlite3.Connection | apsw.Connection) -> None:
    """Compute for ever, with what lets handlers run meanwhile."""
    connection.set_progress_handler(lambda: False, 50_000)
    isolated.say("committed")
    connection.execute(COMPUTE).fetchall()


def commit_and_wait(data_dir: str, root: str, how: str) -> None:
    """Commit with autosync, say so, and be busy in one of several ways when a signal comes."""
    if how == "own handler":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    if how == "ignored":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    machine = Synced(Path(data_dir), Path(root))
    connection = machine.connect()
    machine.clock.settle()
    insert(connection, 1)
    if how == "computes with a progress handler":
        compute(connection)
    elif how == "computes in sqlite3 with a progress handler":
        compute(sqlite3.connect(":memory:"))
    elif how == "computes in another thread":
        other = sqlite3.connect(":memory:", check_same_thread=False)
        threading.Thread(target=other.execute, args=(COMPUTE,), daemon=True).start()
    isolated.say("committed")
    if how == "computes one statement":
        connection.execute(COMPUTE.replace("FROM n)", "FROM n LIMIT 1000000)")).fetchall()
        threading.Event().wait()
    elif how == "reads in a loop":
        number = 1
        while True:
            connection.execute("SELECT count(*) FROM t").fetchall()
            number += 1
    elif how in {"waits for a lock", "computes in another thread"}:
        threading.Event().wait()
    else:
        isolated.hear()


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    "how",
    [
        "reads",
        "reads in a loop",
        "computes one statement",
        "computes in another thread",
        "computes with a progress handler",
        "computes in sqlite3 with a progress handler",
        "waits for a lock",
    ],
)
def test_a_signal_pushes_and_then_ends_the_process_as_usual(tmp_path, pushed, number, how) -> None:
    with isolated.running(commit_and_wait, tmp_path / "ours", tmp_path / "remote", how) as child:
        assert child.hear() == "committed"
        child.process.send_signal(number)
        assert child.process.wait(60) == -number
    assert pushed() == [1]


def test_a_program_with_a_handler_of_its_own_keeps_it(tmp_path, pushed) -> None:
    places = tmp_path / "ours", tmp_path / "remote"
    with isolated.running(commit_and_wait, *places, "own handler") as child:
        assert child.hear() == "committed"
        child.process.send_signal(signal.SIGTERM)
        assert child.process.wait(60) == 7
    assert pushed() == [1]


def test_a_signal_that_is_ignored_stays_ignored(tmp_path) -> None:
    places = tmp_path / "ours", tmp_path / "remote"
    with isolated.running(commit_and_wait, *places, "ignored") as child:
        assert child.hear() == "committed"
        child.process.send_signal(signal.SIGTERM)
        child.say("go on")
        assert child.process.wait(60) == 0


def fork_and_wait(data_dir: str, root: str) -> None:
    machine = Synced(Path(data_dir), Path(root))
    connection = machine.connect()
    machine.clock.settle()
    insert(connection, 1)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, b"x")
        signal.pause()
    os.read(reader, 1)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    isolated.say(os.waitstatus_to_exitcode(status), machine.engine.status("main").ahead)


def test_a_forked_child_ends_at_once_and_pushes_nothing(tmp_path) -> None:
    said = isolated.run(fork_and_wait, tmp_path / "ours", tmp_path / "remote")
    assert said.split() == [str(-signal.SIGTERM), "2"]


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare"
)
def test_the_first_process_of_a_container_ends_too(tmp_path, pushed) -> None:
    places = tmp_path / "ours", tmp_path / "remote"
    prefix = ("unshare", "--pid", "--fork", "--kill-child")
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to make a process namespace")
    with isolated.running(commit_and_wait, *places, "reads", prefix=prefix) as child:
        assert child.hear() == "committed"
        (first,) = (
            Path(f"/proc/{child.process.pid}/task/{child.process.pid}/children")
            .read_text(encoding="ascii")
            .split()
        )
        os.kill(int(first), signal.SIGTERM)
        assert child.process.wait(60) == 128 + signal.SIGTERM
    assert pushed() == [1]


def test_handlers_are_set_only_while_an_engine_syncs(tmp_path) -> None:
    assert handlers() == DEFAULTS
    plain = Replica(tmp_path / "plain", RemoteConfig(type="fs", root=str(tmp_path / "remote")))
    plain.connect()
    assert handlers() == DEFAULTS
    with Synced(tmp_path / "ours", tmp_path / "remote") as ours:
        ours.connect()
        assert all(callable(handler) for handler in handlers())
    assert handlers() == DEFAULTS
    plain.close()


def test_an_engine_that_another_thread_makes_sets_no_handler(tmp_path) -> None:
    made = []
    thread = threading.Thread(
        target=lambda: made.append(Synced(tmp_path / "ours", tmp_path / "remote"))
    )
    thread.start()
    thread.join()
    made[0].connect()
    assert handlers() == DEFAULTS
    made[0].close()


PROGRAM = "CREATE TABLE t(k); INSERT INTO t VALUES(1); SELECT 'committed'"


def test_the_shell_of_the_command_line_pushes_when_its_terminal_is_closed(tmp_path, pushed) -> None:
    environment = {
        **os.environ,
        "GRAFT_DATA_DIR": str(tmp_path / "ours"),
        "GRAFT_REMOTE_TYPE": "fs",
        "GRAFT_REMOTE_ROOT": str(tmp_path / "remote"),
        "GRAFT_AUTOSYNC": "3600",
        "PYTHONPATH": str(Path(graft_vfs.__file__).parents[1]),
    }
    graft = [sys.executable, "-m", "graft_vfs.cli"]
    subprocess.run([*graft, "new", "main"], env=environment, check=True, capture_output=True)
    with subprocess.Popen(
        [*graft, "shell", "main"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{PROGRAM};\n")
        process.stdin.flush()
        assert process.stdout.readline() == "committed\n"
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == -signal.SIGHUP
    assert pushed() == [1]
