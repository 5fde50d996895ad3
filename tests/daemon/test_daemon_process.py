"""The daemon as a process of its own, on a real S3 server, while others write, and when it ends."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from graft_vfs.cli.exit_codes import EXIT_CODES, INTERRUPTED
from graft_vfs.daemon.daemon import THREADS
from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import StoreError
from tests.support.network import Network
from tests.support.proxy import Exchange, Proxy, Stalled, passed
from tests.support.replicas import Replica, rows

PATIENCE_SECONDS = 120
NOWHERE = RemoteConfig(type="memory", root="the daemon alone reaches the remote")


class Process:
    """`graft sync` as a process; its events are read as they come."""

    def __init__(self, data_dir: Path, bucket: str, proxy: Proxy, *arguments: str) -> None:
        environment = {
            **os.environ,
            **proxy.endpoint.environment(),
            "GRAFT_DATA_DIR": str(data_dir),
            "GRAFT_REMOTE_TYPE": "s3_compatible",
            "GRAFT_REMOTE_BUCKET": bucket,
            "GRAFT_REMOTE_ENDPOINT": proxy.endpoint.url,
        }
        command = [sys.executable, "-m", "graft_vfs.cli", "sync", "--json", *arguments]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.events: list[dict] = []

    def next(self) -> dict:
        """Wait for the next event."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.wait(PATIENCE_SECONDS)
        self.events.append(json.loads(line))
        return self.events[-1]

    def until(self, event: str, times: int = 1) -> dict:
        """Wait until an event has occurred this many more times."""
        while True:
            found = self.next()
            times -= found["event"] == event
            if not times:
                return found

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code, once all events are read."""
        self.process.send_signal(number)
        return self.code()

    def code(self) -> int:
        assert self.process.stdout is not None
        self.events += map(json.loads, self.process.stdout)
        return self.process.wait(PATIENCE_SECONDS)


@contextlib.contextmanager
def daemon(data_dir: Path, bucket: str, proxy: Proxy, *arguments: str) -> Iterator[Process]:
    started = Process(data_dir, bucket, proxy, *arguments)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.communicate()


@pytest.fixture
def network(ministack, tmp_path) -> Iterator[Network]:
    with Network(ministack, tmp_path / "network") as made:
        yield made


@pytest.fixture
def proxy(ministack) -> Iterator[Proxy]:
    with Proxy(ministack) as made:
        yield made


class Writer:
    """A process that commits, as far as the daemon can tell; it knows no remote."""

    def __init__(self, data_dir: Path) -> None:
        self.machine = Replica(data_dir, NOWHERE)
        self.expected: collections.defaultdict[str, list[tuple[int]]] = collections.defaultdict(
            list
        )

    def commit(self, tag: str, value: int) -> None:
        connection = self.machine.connect(tag)
        connection.set_busy_timeout(60_000)  # A push that settles may have the lock.
        connection.execute("CREATE TABLE IF NOT EXISTS t(k); INSERT INTO t VALUES(?)", (value,))
        connection.close()
        self.expected[tag].append((value,))


def check_remote(network: Network, writer: Writer, tags: list[str]) -> None:
    """Clone databases on a fresh machine and compare; each local commit counts once."""
    judge = network.judge()
    try:
        for tag in tags:
            assert rows(judge.connect(tag, remote=tag), "SELECT k FROM t") == writer.expected[tag]
            local = sum(entry.local_commits for entry in judge.engine.log(tag))
            # The first of a tag made the table in a transaction of its own.
            assert local == len(writer.expected[tag]) + 1
    finally:
        judge.close()


def run_killed_and_restarted(
    network: Network, proxy: Proxy, tmp_path: Path, *, volumes: int, sample: int
) -> list[Process]:
    """Run a daemon while databases are made and written; kill it, start it, end it by SIGTERM."""
    tags = [f"tag-{number:03}" for number in range(volumes)]
    data_dir = tmp_path / "data"
    writer = Writer(data_dir)
    processes = []
    try:
        for number, tag in enumerate(tags[: volumes // 2]):
            writer.commit(tag, number)
        arguments = (data_dir, network.bucket, proxy, "--every", "1s", "--push-only")
        with daemon(*arguments) as first:
            processes.append(first)
            first.until("pushed", volumes // 4)
            for number, tag in enumerate(tags[volumes // 2 :]):
                writer.commit(tag, number)
            first.until("pushed", volumes // 4)
            assert first.end(signal.SIGKILL) == -signal.SIGKILL
        for tag in tags:
            writer.commit(tag, 1000)
        with daemon(*arguments) as second:
            processes.append(second)
            second.until("pushed", volumes // 2)
            for tag in tags[::3]:
                writer.commit(tag, 2000)
            assert second.end() == 0
            assert second.events[-1]["event"] == "stopped"
            assert (second.events[-1]["volumes"], second.events[-1]["left"]) == (volumes, 0)
        assert all(writer.machine.engine.status(tag).ahead == 0 for tag in tags)
        check_remote(network, writer, tags[:: volumes // sample])
    finally:
        writer.machine.close()
    return processes


def test_a_daemon_that_is_killed_and_restarted_pushes_every_commit_once(network, proxy, tmp_path):
    run_killed_and_restarted(network, proxy, tmp_path, volumes=8, sample=4)
    claims = [request for request in proxy.requests if request.kind == "claim"]
    # A commit each before and after the kill and at the end, and one that the kill made unsure.
    assert len(claims) <= 8 * 4 + 1


@pytest.mark.deep
def test_200_volumes(network, proxy, tmp_path):
    run_killed_and_restarted(network, proxy, tmp_path, volumes=200, sample=20)
    kinds = collections.Counter(request.kind for request in proxy.requests)
    print(dict(kinds))
    # One for each transaction of each database, and those that the kill left unsure.
    assert kinds["claim"] <= 200 + 200 + 67 + 2 * THREADS
    assert kinds["ref"] <= 200 + 2 * THREADS


@pytest.mark.deep
def test_200_idle_volumes_cost_no_request_and_stay_closed(network, proxy, tmp_path):
    data_dir = tmp_path / "data"
    writer = Writer(data_dir)
    for number in range(200):
        writer.commit(f"tag-{number:03}", number)
    with monitor() as heard:
        arguments = ("--every", "1s", "--push-only", "--heartbeat", heard.url)
        with daemon(data_dir, network.bucket, proxy, *arguments) as process:
            process.until("pushed", 200)
            heard.rounds(3)  # Each push is looked at once more.
            before = len(proxy.requests)
            home = Path(f"/proc/{process.process.pid}")
            ticks = [int(part) for part in (home / "stat").read_text().split()[13:15]]
            heard.rounds(10)
            after = [int(part) for part in (home / "stat").read_text().split()[13:15]]
            assert len(proxy.requests) == before
            print("CPU ticks of 10 rounds:", sum(after) - sum(ticks))
            descriptors = list((home / "fd").iterdir())
            assert len(descriptors) < 60
            status = (home / "status").read_text().splitlines()
            (resident,) = (int(line.split()[1]) for line in status if line.startswith("VmRSS"))
            print("descriptors:", len(descriptors), "resident KiB:", resident)
            assert resident < 200 * 1024
            assert process.end() == 0
    writer.machine.close()


def stalled_claims(proxy: Proxy) -> tuple[Stalled, threading.Event]:
    """Let claims wait at the proxy; returns what ends that, and what is set when one waits."""
    stalled, stuck = Stalled(), threading.Event()

    def stall(exchange: Exchange) -> None:
        stuck.set()
        stalled(exchange)

    proxy.choose = lambda request: stall if request.kind == "claim" else passed
    return stalled, stuck


def test_a_second_signal_ends_the_daemon_immediately(network, proxy, tmp_path):
    writer = Writer(tmp_path / "data")
    writer.commit("main", 1)
    stalled, stuck = stalled_claims(proxy)
    with daemon(
        tmp_path / "data", network.bucket, proxy, "--every", "1s", "--grace", "1h"
    ) as process:
        assert stuck.wait(PATIENCE_SECONDS)
        process.process.send_signal(signal.SIGTERM)
        process.until("stopping")
        assert process.end() == INTERRUPTED
        stalled.ended.set()
    proxy.choose = lambda _: passed
    with daemon(tmp_path / "data", network.bucket, proxy) as once:
        assert once.code() == 0
    check_remote(network, writer, ["main"])
    writer.machine.close()


def test_the_end_respects_its_grace_period_and_exits_with_the_code_for_unpushed_commits(
    network, proxy, tmp_path
):
    writer = Writer(tmp_path / "data")
    writer.commit("main", 1)
    stalled, stuck = stalled_claims(proxy)
    with daemon(
        tmp_path / "data", network.bucket, proxy, "--every", "1s", "--grace", "0.1s"
    ) as process:
        assert stuck.wait(PATIENCE_SECONDS)
        assert process.end() != 0
        assert process.events[-1]["left"] == 1
        assert process.events[-1]["tags"] == "main"
        stalled.ended.set()
    writer.machine.close()


def test_the_exit_code_of_one_round_shows_whether_all_is_in_sync(network, proxy, tmp_path):
    writer = Writer(tmp_path / "data")
    writer.commit("main", 1)
    with daemon(tmp_path / "data", "no-such-bucket", proxy) as process:
        assert process.code() == EXIT_CODES[StoreError]
        assert [each["event"] for each in process.events] == ["unreachable", "stopped"]
    with daemon(tmp_path / "data", network.bucket, proxy) as process:
        assert process.code() == 0
        assert [each["event"] for each in process.events] == ["pushed", "stopped"]
    writer.machine.close()


class Monitor:
    """A monitor that hears heartbeats; it answers the first ones with codes that a test gives."""

    def __init__(self, server: HTTPServer) -> None:
        self.url = f"http://127.0.0.1:{server.server_port}/secret"
        self._heard = threading.Semaphore(0)

    def hear(self) -> None:
        self._heard.release()

    def rounds(self, count: int) -> None:
        """Wait until so many more have been heard."""
        for _ in range(count):
            assert self._heard.acquire(timeout=PATIENCE_SECONDS)


@contextlib.contextmanager
def monitor(*codes: int) -> Iterator[Monitor]:
    left = list(codes)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(left.pop(0) if left else 200)
            self.end_headers()
            made.hear()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Monitor(server)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


def test_a_monitor_is_notified_of_each_round_and_reads_metrics(network, proxy, tmp_path):
    writer = Writer(tmp_path / "data")
    writer.commit("main", 1)
    with (
        monitor(500) as heard,
        daemon(
            *(tmp_path / "data", network.bucket, proxy, "--every", "1s"),
            *("--heartbeat", heard.url, "--metrics", "127.0.0.1:0"),
        ) as process,
    ):
        started = process.until("started")
        process.until("heartbeat_recovered")
        with urllib.request.urlopen(started["metrics"]) as answer:
            text = answer.read().decode()
        assert 'graft_sync_volumes{state="synced"} 1' in text
        assert process.end() == 0
        assert "heartbeat_failed" in [each["event"] for each in process.events]
        assert "secret" not in json.dumps(process.events)
    writer.machine.close()
