"""Progress and Ctrl-C as a terminal shows them: real processes on a pty, before a slow server."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import random
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import graft_vfs
from graft_vfs.cli.exit_codes import INTERRUPTED
from graft_vfs.engine.config import RemoteConfig
from tests.support.network import Network
from tests.support.proxy import Exchange, Fault, Proxy, Request, Stalled, passed
from tests.support.replicas import Replica

PATIENCE_SECONDS = 30
NOWHERE = RemoteConfig(type="memory", root="the commands alone reach the remote")
ERASE = "\r\x1b[2K"


class Screen:
    """A command on a terminal of so many columns."""

    def __init__(self, environment: dict[str, str], columns: int, *arguments: str) -> None:
        self.text = ""
        self._descriptor, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "graft_vfs.cli", *arguments],
            env=environment,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)

    def until(self, pattern: str) -> re.Match[str]:
        """Read what is shown until it has a pattern."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < end, self.text[-500:]
            assert self._read(), self.text[-500:]
        return found

    def _read(self) -> bool:
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # What Linux says when the last process has closed its side.
            return False
        self.text += data.decode()
        return bool(data)

    def end(self) -> int:
        """Read what is left, and return the exit code."""
        while self._read():
            pass
        os.close(self._descriptor)
        return self.process.wait(PATIENCE_SECONDS)

    def lines(self) -> list[str]:
        """Return all that was ever shown as a line, and what was erased again."""
        return [line for line in re.split(r"\r\x1b\[2K|\r?\n", self.text) if line]


class Stand:
    """A data directory with a database, the proxy before its remote, and its environment."""

    def __init__(self, proxy: Proxy, bucket: str, directory: Path, megabytes: int) -> None:
        self.proxy = proxy
        data_dir = directory / "data"
        blob = random.Random(1).randbytes((megabytes << 20) + 1)
        with Replica(data_dir, NOWHERE) as machine:
            connection = machine.connect()
            connection.execute("CREATE TABLE t(v)")
            connection.execute("INSERT INTO t VALUES(?)", (blob,))
        self.environment = {
            **{name: value for name, value in os.environ.items() if name[:6] != "GRAFT_"},
            **proxy.endpoint.environment(),
            "TERM": "xterm",
            "GRAFT_DATA_DIR": str(data_dir),
            "GRAFT_REMOTE_TYPE": "s3_compatible",
            "GRAFT_REMOTE_BUCKET": bucket,
            "GRAFT_REMOTE_ENDPOINT": proxy.endpoint.url,
            "GRAFT_REMOTE_READ_TIMEOUT": "3600",
            "GRAFT_REMOTE_TOTAL_TIMEOUT": "3600",
            "PYTHONPATH": str(Path(graft_vfs.__file__).parents[1]),
        }

    @contextlib.contextmanager
    def screen(self, columns: int, *arguments: str, **variables: str) -> Iterator[Screen]:
        shown = Screen({**self.environment, **variables}, columns, *arguments)
        try:
            yield shown
        finally:
            shown.process.kill()
            shown.process.wait()


@pytest.fixture
def stand(ministack, tmp_path, request) -> Iterator[Stand]:
    """A database of 17 MiB, which is pushed in three parts, or as large as a test says."""
    megabytes = getattr(request, "param", 17)
    with Network(ministack, tmp_path / "network") as network, Proxy(ministack) as proxy:
        yield Stand(proxy, network.bucket, tmp_path, megabytes)


class Gate:
    """Lets the first part of an upload, or the first reads, through; others when a test says so."""

    def __init__(self, *, reads: int = 0) -> None:
        self.opened = threading.Event()
        self._reads = reads
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Fault:
        if request.kind == "part":
            return passed if "partNumber=1&" in request.target + "&" else self._wait
        if request.kind != "get":
            return passed
        with self._lock:
            self._reads -= 1
            return self._wait if self._reads < 0 else passed

    def _wait(self, exchange: Exchange) -> None:
        exchange.wait(self.opened)
        passed(exchange)


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_push_shows_what_the_remote_has(stand, columns):
    gate = stand.proxy.choose = Gate()
    with stand.screen(columns, "push", "main") as screen:
        screen.until(r"Sending: 8\.0 MiB of 17\.\d MiB \(47%\)")
        gate.opened.set()
        assert screen.end() == 0
    *progress, pushed, hint = screen.lines()
    assert max(map(len, progress)) < columns
    # The line has gone when the result stands there.
    assert re.fullmatch(r"Pushed 2 commits as remote LSN 1 of log .*: .* 17\.\d MiB\.", pushed)
    assert hint.startswith("hint: other machines get it with `graft clone")
    assert screen.text.rpartition(ERASE)[2].startswith("Pushed")
    assert not re.search(r"\x1b\[[0-9;]*m", screen.text)


def test_hydrate_shows_what_came(stand):
    with stand.screen(80, "push", "main") as pushed:
        assert pushed.end() == 0
    fresh = {"GRAFT_DATA_DIR": stand.environment["GRAFT_DATA_DIR"] + "-fresh"}
    with stand.screen(80, "clone", "main", **fresh) as cloned:
        assert cloned.end() == 0
    # Of three ranges, one for each 8 MiB.
    gate = stand.proxy.choose = Gate(reads=1)
    with stand.screen(80, "hydrate", "main", **fresh) as screen:
        screen.until(r"Fetching: \d+\.\d (?:KiB|MiB) of 17\.\d MiB \(\d+%\)")
        gate.opened.set()
        assert screen.end() == 0


def test_a_terminal_without_control_sequences_gets_none(stand):
    with stand.screen(80, "push", "main", TERM="dumb", NO_COLOR="1") as screen:
        assert screen.end() == 0
    assert "Pushed 2 commits" in screen.text
    assert "\x1b" not in screen.text
    assert "\r" not in screen.text.replace("\r\n", "\n")


# Ctrl-C -----------------------------------------------------------------------------------------

INTERRUPT = "error: interrupted; earlier commits are safe"


def stalled(proxy: Proxy, kind: str, *, after: bool = False) -> threading.Event:
    """Let requests of a kind wait for ever, or their answers; returns what says that one does."""
    silence, waits = Stalled(), threading.Event()

    def stall(exchange: Exchange) -> None:
        if after:
            exchange.forward()
        waits.set()
        silence(exchange)

    proxy.choose = lambda request: stall if request.kind == kind else passed
    return waits


@pytest.mark.parametrize(
    ("stand", "kind", "after", "hint"),
    [
        (17, "part", False, "the push is not in the log: `graft push main` sends it again"),
        (0, "claim", False, "the push may have landed: the next push or pull of main settles it"),
        (0, "claim", True, "the push may have landed: the next push or pull of main settles it"),
        (0, "ref", False, "the push is not in the log: `graft push main` sends it again"),
    ],
    indirect=["stand"],
)
def test_ctrl_c_says_what_becomes_of_the_push(stand, kind, after, hint):
    waits = stalled(stand.proxy, kind, after=after)
    with stand.screen(120, "push", "main") as screen:
        assert waits.wait(PATIENCE_SECONDS)
        # The terminal sends it to the whole group of processes.
        os.killpg(screen.process.pid, signal.SIGINT)
        assert screen.end() == INTERRUPTED
    shown = screen.text.rpartition(ERASE)[2].splitlines()
    assert [line for line in shown if line] == [INTERRUPT, f"hint: {hint}"]
    stand.proxy.choose = lambda _: passed
    with stand.screen(120, "push", "main") as again:
        assert again.end() == 0
    with stand.screen(120, "status", "main") as status:
        assert status.end() == 0
    assert "up to date" in status.text
