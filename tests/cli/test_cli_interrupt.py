"""Ctrl-C in a real process that is waiting for the writer lock, or for the remote."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

import graft_vfs


def _waits_for_lock(process: subprocess.Popen[str]) -> bool:
    descriptors = Path(f"/proc/{process.pid}/fd")
    for descriptor in descriptors.iterdir():
        try:
            if descriptor.readlink().name == "writer.lock":
                return True
        except FileNotFoundError:
            continue
    return False


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
    assert errors == "error: interrupted; what was committed before is safe\n"
    cli.ok("import", str(plain), "main")
    assert cli.sql("main", "SELECT count(*) FROM t") == [(2000,)]


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


INTERRUPTED = "error: interrupted; what was committed before is safe\n"


@pytest.mark.parametrize("command", ["clone", "fetch", "pull", "push", "remote ls", "doctor"])
def test_ctrl_c_ends_a_command_that_waits_for_the_remote(pushed, silent, monkeypatch, command):
    pushed.sql("main", "INSERT INTO t VALUES(-1, 'new')")
    words = command.split()
    if command == "clone":
        words += ["main", "copy"]
    elif command in ("fetch", "pull", "push"):
        words += ["main"]
    code, _, errors = interrupted(silent, *words)
    assert (code, errors) == (130, INTERRUPTED)
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
    assert (code, output, errors) == (130, "", INTERRUPTED)
    assert not list(Path.cwd().iterdir())
    monkeypatch.setenv("GRAFT_REMOTE_TYPE", "fs")
    assert pushed.ok(*command)
    assert pushed.json("status", "main")["last_error"] is None
