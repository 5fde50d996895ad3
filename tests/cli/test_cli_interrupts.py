"""Ctrl-C in a real process that waits for the writer lock or the remote, whenever it comes."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

import graft_vfs
from graft_vfs.cli.interrupts import noticed_at_once


def _waits_for_lock(process: subprocess.Popen[str]) -> bool:
    """Return True if the process has opened the branch file to read it, and again to lock it."""
    opened = 0
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            opened += descriptor.readlink().suffix == ".log"
        except FileNotFoundError:
            continue
    return opened > 1


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_ctrl_c_is_130_and_the_next_command_works(cli, plain):
    cli.ok("new", "main")
    graft_vfs.register(graft_vfs.Config.load())
    with closing(graft_vfs.connect("main")) as connection:
        connection.execute("BEGIN IMMEDIATE")
        process = subprocess.Popen(
            [sys.executable, "-m", "graft_vfs.cli", "import", str(plain), "main"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 30
        while not _waits_for_lock(process) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        connection.execute("ROLLBACK")
    graft_vfs.unregister()
    assert (process.returncode, output) == (130, "")
    assert errors == "error: interrupted; earlier commits are safe\n"
    cli.ok("import", str(plain), "main")
    assert cli.sql("main", "SELECT count(*) FROM t") == [(2000,)]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_ctrl_c_ends_a_statement_that_only_computes(cli):
    cli.ok("new", "main")
    forever = (
        "SELECT 'started'; WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c) "
        "SELECT count(*) FROM c"
    )
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "graft_vfs.cli", "shell", "main", "-c", forever],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "started\n"
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, output, errors) == (130, "", INTERRUPTED)


# On a remote that takes a connection and never answers ------------------------------------------


@pytest.fixture
def silent(cli, monkeypatch):
    """A server that never answers, as the remote from now on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "GRAFT_REMOTE_TYPE": "s3_compatible",
            "GRAFT_REMOTE_BUCKET": "bucket",
            "GRAFT_REMOTE_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}",
        }.items():
            monkeypatch.setenv(name, value)
        yield server


def interrupted(server: socket.socket, *arguments: str) -> tuple[int, str, str]:
    """Interrupt a command as soon as it waits for the server; return code, output, errors."""
    with subprocess.Popen(
        [sys.executable, "-m", "graft_vfs.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as process:
        connection, _ = server.accept()
        with connection:
            connection.recv(1)
            process.send_signal(signal.SIGINT)
            try:
                # Less than a request may take, and far less than its repetitions.
                output, errors = process.communicate(timeout=12)
            finally:
                process.kill()
    return process.returncode, output, errors


INTERRUPTED = "error: interrupted; earlier commits are safe\n"


@pytest.mark.parametrize("command", ["clone", "fetch", "pull", "push", "remote ls", "doctor"])
def test_ctrl_c_ends_a_command_that_waits_for_the_remote(pushed, silent, monkeypatch, command):
    pushed.sql("main", "INSERT INTO t VALUES(-1, 'new')")
    words = command.split()
    if command == "clone":
        words += ["main", "copy"]
    elif command in ("fetch", "pull", "push"):
        words += ["main"]
    code, _, errors = interrupted(silent, *words)
    # What became of the push, too; `test_cli_terminal` has the other answers.
    added = "hint: the push is not in the log: `graft push main` sends it again\n"
    assert (code, errors) == (130, INTERRUPTED + added * (command == "push"))
    monkeypatch.setenv("GRAFT_REMOTE_TYPE", "fs")
    assert [row["tag"] for row in pushed.json("tags")] == ["main"]
    pushed.run("pull", "main")
    pushed.run("push", "main")
    assert pushed.json("status", "main")["ahead"] == 0
    assert pushed.sql("main", "SELECT count(*) FROM t") == [(2001,)]


@pytest.mark.parametrize(
    "command",
    [
        ("hydrate", "main"),
        ("export", "main", "copy.db"),
        ("diff", "main", "1", "2"),
        ("shell", "main", "-c", "SELECT sum(length(v)) FROM t"),
    ],
    ids=" ".join,
)
def test_ctrl_c_ends_a_command_that_waits_for_pages(pushed, monkeypatch, command, request):
    pushed.sql("main", "UPDATE t SET v = 'new' WHERE id = 1000")
    pushed.ok("push", "main")
    pushed.machine("b")
    pushed.ok("clone", "main")
    server = request.getfixturevalue("silent")
    code, output, errors = interrupted(server, *command)
    added = ""
    if command[0] == "hydrate":
        found = re.search(r"hint: (\d+) of (\d+) pages are cached; `graft hydrate main`", errors)
        assert int(found[1]) < int(found[2])
        added = f"{found[0]} fetches the rest\n"
    assert (code, output, errors) == (130, "", INTERRUPTED + added)
    assert not list(Path.cwd().iterdir())
    monkeypatch.setenv("GRAFT_REMOTE_TYPE", "fs")
    assert pushed.ok(*command)
    assert pushed.json("status", "main")["last_error"] is None


# When a call is just beginning to wait ---------------------------------------------------------

# The signal goes to another thread, so that the call in which the main thread waits goes on: what
# happens too if it comes just before the call.
WAITING = """
import contextlib, signal, sys, threading, time
from pathlib import Path
from graft_vfs.cli.interrupts import noticed_at_once

def interrupt_elsewhere():
    while " S " not in Path(f"/proc/self/task/{main}/stat").read_text():
        time.sleep(0.01)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

main = threading.get_native_id()
lock = threading.Lock()
lock.acquire()
with noticed_at_once() if sys.argv[1] == "guarded" else contextlib.nullcontext():
    threading.Thread(target=interrupt_elsewhere, daemon=True).start()
    try:
        lock.acquire()
    except KeyboardInterrupt:
        print("noticed", flush=True)
"""


def child(how: str, timeout_seconds: float) -> str:
    command = [sys.executable, "-c", WAITING, how]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_seconds, check=True
    )
    assert not done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_call_that_starts_to_wait_as_the_signal_arrives_ends() -> None:
    assert child("guarded", 60) == "noticed\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_without_the_guard_the_call_does_not_end() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        child("bare", 2)


def test_a_signal_interrupts_once_and_the_handler_is_restored() -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupts = 0
    with noticed_at_once():
        for _ in range(3):
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                interrupts += 1
    assert interrupts == 3
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_foreign_signal_handler_is_kept() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noticed_at_once():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
