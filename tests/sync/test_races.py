"""Clients that race for one remote log: each LSN has one winner, and every loser is told."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from pyroaring import BitMap

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import BusyError, CommitOutcomeUnknownError, DivergedError
from graft_vfs.format.body import BodyBuilder
from graft_vfs.format.commit import NO_HASH, CommitHeader
from graft_vfs.ids import LogId
from graft_vfs.remote.claim import claim
from graft_vfs.remote.log import RemoteLog
from graft_vfs.remote.refs import read_ref
from graft_vfs.store.base import ObjectStore
from tests.support.replicas import Replica, rows
from tests.support.servers import S3Endpoint
from tests.sync.checks import sound_log

THREADS, PROCESSES, ROUNDS = 16, 4, 20
_PATIENCE_SECONDS = 120

Claimed = tuple[int, int, str, bytes, bytes]
"""(round, client, outcome, own hash, hash of the commit that won)."""


@pytest.fixture(autouse=True, scope="module")
def descriptions_of_services_are_read_once() -> Iterator[None]:
    """Save machines, which make clients each, most of the time that making them takes."""
    with pytest.MonkeyPatch.context() as patch:
        loader = functools.cache(botocore.session.create_loader)
        patch.setattr(botocore.session, "create_loader", loader)
        yield


def a_commit(log: LogId, lsn: int, previous: bytes, client: int) -> tuple[CommitHeader, bytes]:
    """Make a commit of one page that all clients write alike: only its ids tell them apart."""
    builder = BodyBuilder()
    builder.add(1, bytes(512))
    frame = builder.finish()
    assert frame is not None
    header = CommitHeader(
        log_id=log,
        lsn=lsn,
        previous_hash=previous,
        page_size=512,
        page_count=1,
        change_counter=1,
        local_commits=1,
        writer=client.to_bytes(16, "big"),
        attempt=client.to_bytes(16, "big"),
        time_ms=lsn,
        pages=BitMap([1]),
        frames=builder.table,
    ).sealed()
    return header, header.encode() + frame


def race(
    store: ObjectStore, log_id: LogId, client: int, barrier: Any, report: Callable[[Claimed], None]
) -> None:
    """Claim LSN after LSN on what won before, at the same moment as everybody else."""
    log = RemoteLog(store, log_id)
    previous = NO_HASH
    for number in range(1, ROUNDS + 1):
        header, data = a_commit(log_id, number, previous, client)
        barrier.wait()
        try:
            winner = claim(log, number, data, header.hash).winner
        except CommitOutcomeUnknownError:
            # That is neither won nor lost; ask the log, as the next sync would.
            record = log.read_header(number)
            assert record is not None
            winner = None if record.header.hash == header.hash else record
        outcome = "won" if winner is None else "lost"
        previous = header.hash if winner is None else winner.header.hash
        report((number, client, outcome, header.hash, previous))


def racing_process(
    process: int, *, endpoint: S3Endpoint, bucket: str, log: bytes, barrier: Any, results: Any
) -> None:
    with endpoint.store(bucket) as store:
        threads = [
            threading.Thread(
                target=race,
                args=(store, LogId(log), process * 4 + number, barrier, results.put),
            )
            for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def judge(store: ObjectStore, log_id: LogId, reports: list[Claimed]) -> None:
    """Fail unless each LSN has one winner, the log holds it, and every loser names it."""
    assert len(reports) == THREADS * ROUNDS
    log = RemoteLog(store, log_id)
    records = list(log.read_headers(1, ROUNDS, previous_hash=NO_HASH))
    assert log.newest_lsn() == len(records) == ROUNDS
    for record in records:
        of_round = [report for report in reports if report[0] == record.header.lsn]
        winners = [report for report in of_round if report[2] == "won"]
        assert len(winners) == 1, f"LSN {record.header.lsn} was won by {winners}"
        assert winners[0][3] == record.header.hash
        assert record.header.writer == winners[0][1].to_bytes(16, "big")
        assert {report[4] for report in of_round} == {record.header.hash}
    assert sound_log(store, log_id) == [1] * ROUNDS


def test_threads_that_race_for_a_log_have_one_winner_each_round(seaweedfs) -> None:
    log, bucket = LogId.new(), seaweedfs.fresh_bucket()
    barrier = threading.Barrier(THREADS, timeout=_PATIENCE_SECONDS)
    reports: list[Claimed] = []
    with seaweedfs.store(bucket) as store:
        threads = [
            threading.Thread(target=race, args=(store, log, number, barrier, reports.append))
            for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        judge(store, log, reports)


def test_processes_that_race_for_a_log_have_one_winner_each_round(seaweedfs) -> None:
    log, bucket = LogId.new(), seaweedfs.fresh_bucket()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(THREADS, timeout=_PATIENCE_SECONDS)
    results = context.Queue()
    processes = [
        context.Process(
            target=racing_process,
            args=(number,),
            kwargs={
                "endpoint": seaweedfs,
                "bucket": bucket,
                "log": log.raw,
                "barrier": barrier,
                "results": results,
            },
        )
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    try:
        reports = [results.get(timeout=_PATIENCE_SECONDS) for _ in range(THREADS * ROUNDS)]
    finally:
        for process in processes:
            process.join(_PATIENCE_SECONDS)
            process.close()
        results.close()
        results.join_thread()
    with seaweedfs.store(bucket) as store:
        judge(store, log, reports)


def deliver(
    directory: Path, remote: RemoteConfig, client: int, round_number: int, log: LogId
) -> tuple[int, int]:
    """Insert a row and push it, on a fresh clone after each loss; returns (LSN, losses)."""
    for losses in itertools.count():
        name = f"client-{client}-{round_number}-{losses}"
        with Replica(directory / name, remote) as machine:
            connection = machine.connect(remote=str(log))
            row = (client * 1000 + round_number,)
            try:
                connection.execute("INSERT INTO t VALUES(?)", row)
                return machine.engine.push("main").lsn, losses
            except (DivergedError, BusyError):
                # The row that was not pushed is still here, in a volume that has diverged.
                assert row in rows(connection)
    raise AssertionError("the loop returns")


def test_racing_replicas_that_retry_all_succeed(seaweedfs, tmp_path) -> None:
    clients, rounds = 4, 5
    remote = RemoteConfig(
        type="s3_compatible", bucket=seaweedfs.fresh_bucket(), endpoint=seaweedfs.url
    )
    with seaweedfs.identity():
        with Replica(tmp_path / "first", remote) as first:
            first.connect().execute("CREATE TABLE t(k INTEGER PRIMARY KEY)")
            first.engine.push("main")
            log = read_ref(first.engine.store, "main")
            assert log is not None
        barrier = threading.Barrier(clients, timeout=_PATIENCE_SECONDS)
        acknowledged: dict[int, int] = {}
        losses: Counter[int] = Counter()
        failures: list[BaseException] = []

        def run(client: int) -> None:
            try:
                for number in range(rounds):
                    barrier.wait()
                    lsn, lost = deliver(tmp_path, remote, client, number, log)
                    acknowledged[client * 1000 + number] = lsn
                    losses[client] += lost
            except BaseException as error:
                failures.append(error)
                barrier.abort()
                raise

        threads = [threading.Thread(target=run, args=(client,)) for client in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert sorted(acknowledged.values()) == list(range(2, clients * rounds + 2))
        with Replica(tmp_path / "last", remote) as last:
            connection = last.connect(remote="main")
            assert rows(connection) == [(key,) for key in sorted(acknowledged)]
            assert connection.pragma("integrity_check") == "ok"
            assert sound_log(last.engine.store, log) == [1] * (clients * rounds + 1)
            for key, lsn in acknowledged.items():
                since = last.connect("main", lsn=str(lsn))
                assert rows(since, f"SELECT count(*) FROM t WHERE k = {key}") == [(1,)]


def test_racing_machines_in_memory_all_succeed(tmp_path) -> None:
    """The same without the network's pace: many more losses in the same time."""
    clients = 4
    remote = RemoteConfig(type="memory", root=str(tmp_path))
    with Replica(tmp_path / "first", remote) as first:
        first.connect().execute("CREATE TABLE t(k INTEGER PRIMARY KEY)")
        first.engine.push("main")
        log = read_ref(first.engine.store, "main")
        assert log is not None
        threads = []
        arrived: list[tuple[int, int]] = []

        def run(client: int) -> None:
            arrived.extend(deliver(tmp_path, remote, client, number, log) for number in range(8))

        for client in range(clients):
            threads.append(threading.Thread(target=run, args=(client,)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        assert sorted(lsn for lsn, _ in arrived) == list(range(2, 8 * clients + 2))
        first.engine.pull("main")
        assert len(rows(first.connect())) == 8 * clients
        assert sound_log(first.engine.store, log) == [1] * (8 * clients + 1)
