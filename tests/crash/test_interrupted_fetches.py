"""A hydrate or an export that was killed goes on where it was: real processes, over HTTP."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.store.http import HttpStore
from graft_vfs.view.log_view import LogView
from tests.support.clocks import SkippingClock
from tests.support.replicas import Replica
from tests.support.static_files import StaticFiles, serving

MEGABYTES = 20
PIECE_BYTES = 32 << 10


class Deadly:
    """Sends ranges piece by piece, and kills a process after so many bytes."""

    def __init__(self, server: StaticFiles) -> None:
        self.sent = 0
        self.fatal: int | None = None
        self.victim: subprocess.Popen | None = None
        self.ranges: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        server.change = self._change

    def _change(self, handler, data: bytes | None) -> bool:
        asked = handler.headers.get("Range")
        if data is None or asked is None:
            return False
        start, end = map(int, asked.removeprefix("bytes=").split("-"))
        end = min(end + 1, len(data))
        if start >= end:
            return False
        # So that little is under way that the client has not read.
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE_BYTES)
        handler.send_response(206)
        handler.send_header("Content-Length", str(end - start))
        handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        handler.end_headers()
        with self._lock:
            self.ranges.append((start, end))
        with contextlib.suppress(OSError):
            for at in range(start, end, PIECE_BYTES):
                handler.wfile.write(data[at : min(at + PIECE_BYTES, end)])
                with self._lock:
                    self.sent += min(PIECE_BYTES, end - at)
                    if self.fatal is not None and self.sent >= self.fatal:
                        self.victim.send_signal(signal.SIGKILL)
        return True


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """The directory of a remote with a database of 20 MiB that does not compress."""
    path = tmp_path_factory.mktemp("published")
    remote = RemoteConfig(type="fs", root=str(path / "remote"))
    with Replica(path / "ours", remote) as machine:
        connection = machine.connect()
        connection.execute("CREATE TABLE t(k, v)")
        chance = random.Random(1)
        with connection:
            connection.executemany(
                "INSERT INTO t VALUES(?, ?)",
                ((number, chance.randbytes(1 << 16)) for number in range(MEGABYTES << 4)),
            )
        machine.engine.push("main")
        machine.engine.export("main", path / "whole.db")
    return path


@pytest.fixture
def server(published) -> Iterator[StaticFiles]:
    with serving(published / "remote") as server:
        yield server


def cached(data_dir: Path) -> tuple[int, int]:
    """Return (cached stored bytes, all of them)."""
    engine = Graft(Config(data_dir=data_dir))
    try:
        view = engine.open("main").snapshot.remote
        assert isinstance(view, LogView)
        frames = view.frames()
        missing = sum(source.stored_bytes(frame) for source, frame in view.absent(frames))
        total = sum(source.stored_bytes(frame) for source, frame in frames)
        return total - missing, total
    finally:
        engine.close()


@pytest.mark.parametrize("verb", ["hydrate", "export"])
@pytest.mark.parametrize(
    "percent",
    [60, *(pytest.param(each, marks=pytest.mark.deep) for each in (1, 10, 30, 50, 80, 90, 99))],
)
def test_a_killed_process_leaves_what_arrived_and_the_next_one_fetches_the_rest(
    server, published, tmp_path, verb, percent
) -> None:
    data_dir, copy = tmp_path / "theirs", tmp_path / "copy.db"
    words = ["hydrate", "main"] if verb == "hydrate" else ["export", "main", str(copy)]
    environment = {
        **{name: value for name, value in os.environ.items() if name[:6] != "GRAFT_"},
        "GRAFT_DATA_DIR": str(data_dir),
    }

    def start(*arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "graft_vfs.cli", *arguments],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    with start("clone", f"{server.url}/main") as cloned:
        assert cloned.wait(60) == 0
    deadly = Deadly(server)
    total = MEGABYTES << 20
    deadly.fatal = total * percent // 100
    with start(*words) as victim:
        deadly.victim = victim
        assert victim.wait(60) == -signal.SIGKILL
    deadly.fatal = None
    kept, total = cached(data_dir)
    assert kept < total
    if percent >= 50:
        assert kept > 0
    assert not copy.exists()
    deadly.ranges.clear()
    with start(*words) as repeated:
        assert repeated.wait(60) == 0, repeated.stderr.read()
    assert sum(end - start for start, end in deadly.ranges) == total - kept
    assert len(deadly.ranges) <= 2 + total // (8 << 20)
    assert cached(data_dir) == (total, total)
    if verb == "export":
        assert copy.read_bytes()[100:] == (published / "whole.db").read_bytes()[100:]


def test_a_hydrate_over_a_connection_that_keeps_breaking_receives_each_byte_once(
    server, tmp_path
) -> None:
    sent_bytes = 900_000

    def breaking(handler, data: bytes | None) -> bool:
        """Answer a long range, and end the connection in the middle."""
        asked = handler.headers.get("Range")
        start, end = map(int, (asked or "bytes=0-0").removeprefix("bytes=").split("-"))
        if data is None or end - start < sent_bytes:
            return False
        handler.send_response(206)
        handler.send_header("Content-Length", str(end + 1 - start))
        handler.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
        handler.end_headers()
        handler.wfile.write(data[start : start + sent_bytes])
        handler.close_connection = True
        return True

    store = HttpStore(server.url, clock=SkippingClock())
    engine = Graft(Config(data_dir=tmp_path / "theirs"), store=store)
    try:
        engine.clone("main", "main")
        server.change = breaking
        before = store.counters.snapshot()
        progress: list[int] = []
        engine.hydrate("main", progress=lambda done, _: progress.append(done))
        used = store.counters.snapshot() - before
        assert progress == sorted(progress)
        assert used.bytes_received == progress[-1] > MEGABYTES << 20
        assert used.requests >= progress[-1] // sent_bytes
        audit = engine.audit("main")
        assert audit.present == audit.total
    finally:
        engine.close()
