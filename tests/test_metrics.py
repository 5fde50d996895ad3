"""Metrics: exact counts of what was done, and the text that Prometheus reads."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from graft_vfs import reentry
from graft_vfs.counters import Counters, CountName, Counts
from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import CommitOutcomeUnknownError
from graft_vfs.ids import VolumeId
from graft_vfs.metrics import Metrics, VolumeMetrics, prometheus
from graft_vfs.remote.claim import claim
from graft_vfs.remote.log import RemoteLog
from graft_vfs.store.base import LATENCY_BOUNDS_SECONDS, StoreCounters, StoreCounts
from graft_vfs.store.memory import MemoryStore
from graft_vfs.volume import transaction
from tests.format.commit_samples import LOG, commit
from tests.support.engines import memory_remote
from tests.support.faults import Fault, FaultyStore
from tests.support.replicas import Replica

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(metrics: Metrics) -> Samples:
    """Return what Prometheus's own parser reads; each sample once."""
    samples: Samples = {}
    for family in text_string_to_metric_families(prometheus(metrics)):
        assert family.documentation
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in samples
            samples[key] = sample.value
    return samples


@pytest.fixture
def machine(tmp_path) -> Iterator[Replica]:
    made = Replica(tmp_path / "ours", RemoteConfig(type="fs", root=str(tmp_path / "remote")))
    yield made
    made.close()


# Counts -----------------------------------------------------------------------------------------


def test_every_name_can_be_counted_and_is_reported():
    names = {field.name for field in dataclasses.fields(Counts)}
    assert names == {*get_args(CountName), "pages_found"}
    counters = Counters()
    for number, name in enumerate(get_args(CountName), 1):
        counters.add(name, number)
    counters.pages_found = 99
    found = dataclasses.asdict(counters.snapshot())
    assert found.pop("pages_found") == 99
    assert found == {name: number for number, name in enumerate(get_args(CountName), 1)}


def test_no_count_of_a_thread_is_lost():
    counters = Counters()

    def count() -> None:
        for _ in range(2000):
            counters.add("claims_won")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.snapshot().claims_won == 8000


def test_latencies_fall_into_the_bucket_whose_bound_they_do_not_exceed(monkeypatch):
    ticks = iter([0.0, 0.001, 0.0, 0.0011, 0.0, 100.0])
    monkeypatch.setattr("graft_vfs.store.base.time.perf_counter", lambda: next(ticks))
    counters = StoreCounters()
    for _ in range(2):
        with counters.timed("get"):
            pass
    with pytest.raises(ZeroDivisionError), counters.timed("get"):
        _ = 1 // 0
    found = counters.latencies()["get"]
    assert sum(found.buckets) == 3
    assert found.buckets == (1, 1, *[0] * (len(LATENCY_BOUNDS_SECONDS) - 2), 1)
    assert found.sum_seconds == pytest.approx(100.0021)


OURS, OUR_DATA = commit(attempt=b"ours".ljust(16))
THEIRS, THEIR_DATA = commit(attempt=b"theirs".ljust(16))


def claimed(store, **arguments) -> Counts:
    counters = Counters()
    try:
        claim(
            RemoteLog(store, LOG),
            1,
            OUR_DATA,
            OURS.hash,
            counters=counters,
            sleep=lambda _: None,
            **arguments,
        )
    except CommitOutcomeUnknownError:
        assert counters.snapshot().claims_unknown
    return counters.snapshot()


def test_each_end_of_a_claim_is_counted():
    store = MemoryStore()
    assert claimed(store) == Counts(claim_requests=1, claims_won=1)
    assert claimed(store) == Counts(claim_requests=1, claims_won=1)
    lost = FaultyStore(MemoryStore(), at=0, fault=Fault.LOST_ANSWER)
    assert claimed(lost) == Counts(claim_requests=2, claims_won=1, claim_retries=1)
    cut = FaultyStore(MemoryStore(), at=0, fault=Fault.CUT_AFTER)
    assert claimed(cut, attempts=3) == Counts(claim_requests=3, claims_unknown=1, claim_retries=2)
    taken = MemoryStore()
    claim(RemoteLog(taken, LOG), 1, THEIR_DATA, THEIRS.hash)
    assert claimed(taken) == Counts(claim_requests=1, claims_lost=1)


# An engine --------------------------------------------------------------------------------------


def test_commits_of_closed_volumes_are_counted_too(machine):
    connection = machine.connect()
    connection.execute("CREATE TABLE t(k)")
    for number in range(3):
        connection.execute("INSERT INTO t VALUES(?)", (number,))
    connection.execute("BEGIN; INSERT INTO t VALUES(9); ROLLBACK")
    connection.close()
    assert machine.engine.metrics().commits == 4
    for volume in machine.engine.context.volumes.all():
        machine.engine.context.volumes.keep_no_longer(volume.id)
    del volume
    assert machine.engine.metrics().volumes == ()
    connection = machine.connect()
    connection.execute("INSERT INTO t VALUES(4)")
    connection.close()
    assert machine.engine.metrics().commits == 5


def test_a_transaction_that_spills_is_counted_once_and_only_if_it_commits(machine, monkeypatch):
    monkeypatch.setattr(transaction, "STAGED_BYTES_MAX", 8 * 4096)
    connection = machine.connect()
    connection.pragma("cache_size", 2)
    connection.execute("CREATE TABLE t(v); BEGIN")
    connection.execute("INSERT INTO t VALUES(zeroblob(1000000))")
    connection.execute("ROLLBACK")
    assert machine.engine.metrics().spilled_transactions == 0
    connection.execute("INSERT INTO t VALUES(zeroblob(1000000))")
    connection.execute("INSERT INTO t VALUES(1)")
    connection.close()
    metrics = machine.engine.metrics()
    assert (metrics.commits, metrics.spilled_transactions) == (3, 1)


def test_remote_pages_are_counted_at_their_first_lookup(tmp_path, machine):
    writer = machine.connect()
    writer.execute("CREATE TABLE t(v)")
    writer.executemany("INSERT INTO t VALUES(randomblob(3000))", [()] * 500)
    writer.close()
    machine.engine.push("main")
    assert machine.engine.metrics().counts.pages_missed == 0
    remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))
    reader = Replica(tmp_path / "reader", remote)
    connection = reader.connect(remote="main")
    pages = connection.pragma("page_count")

    def scan() -> Counts:
        before = reader.engine.metrics().counts
        assert connection.execute("SELECT sum(length(v)) FROM t").get == 1_500_000
        after = reader.engine.metrics().counts
        return Counts(
            **{
                field.name: getattr(after, field.name) - getattr(before, field.name)
                for field in dataclasses.fields(Counts)
            }
        )

    cold = scan()
    assert cold.pages_missed >= 1
    assert cold.pages_found + cold.pages_missed <= pages
    metrics = reader.engine.metrics()
    assert metrics.counts.pages_fetched == pages
    assert metrics.counts.frames_fetched == -(-pages // 16)
    assert metrics.cache_bytes == pages * connection.pragma("page_size")
    assert metrics.store.bytes_received > 1_000_000
    connection.cache_flush()
    warm = scan()
    assert (warm.pages_found, warm.pages_missed) == (0, 0)
    connection.close()
    reader.close()
    reader = Replica(tmp_path / "reader", remote)
    connection = reader.connect()
    assert connection.pragma("page_count") == pages, "connecting reads no page; page 1 is read now"
    again = scan()
    assert again.pages_found == cold.pages_found + cold.pages_missed
    assert (again.pages_missed, again.frames_fetched) == (0, 0)
    connection.close()
    reader.close()


def test_evictions_are_counted(tmp_path, machine, caplog):
    writer = machine.connect()
    writer.execute("CREATE TABLE t(v)")
    writer.executemany("INSERT INTO t VALUES(randomblob(3000))", [()] * 500)
    writer.close()
    machine.engine.push("main")
    remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))
    engine = Graft(Config(data_dir=tmp_path / "small", remote=remote, cache_max_bytes=500_000))
    engine.clone("main", "main")
    caplog.set_level("INFO", "graft_vfs")
    with engine.open("main").pinned() as snapshot:
        for page in range(1, snapshot.page_count + 1):
            snapshot.stored(page)
    metrics = engine.metrics()
    assert metrics.counts.arenas_evicted > 0
    total = metrics.counts.pages_fetched * 4096
    assert metrics.counts.bytes_evicted == total - metrics.cache_bytes
    assert caplog.text.count("evicted") == metrics.counts.arenas_evicted
    engine.close()


def test_volumes_are_reported_in_their_current_state(machine):
    connection = machine.connect()
    connection.execute("CREATE TABLE t(k)")
    (volume,) = machine.engine.metrics().volumes
    assert (volume.tag, volume.ahead, volume.behind) == ("main", 1, 0)
    assert volume.last_checked_ms is volume.last_moved_ms is None
    machine.engine.push("main")
    (volume,) = machine.engine.metrics().volumes
    assert (volume.ahead, volume.failing, volume.diverged) == (0, False, False)
    assert volume.last_moved_ms <= volume.last_checked_ms
    connection.close()


def test_taking_metrics_sends_no_request(machine):
    machine.connect().close()
    before = machine.engine.store.counters.snapshot()
    machine.engine.metrics()
    assert machine.engine.store.counters.snapshot() == before


# Prometheus -------------------------------------------------------------------------------------


def test_the_prometheus_text_equals_the_metrics(machine):
    connection = machine.connect()
    connection.execute("CREATE TABLE t(k)")
    machine.engine.push("main")
    machine.engine.fetch("main")
    connection.close()
    metrics = machine.engine.metrics()
    samples = parsed(metrics)
    for verb in ("get", "get_range", "put", "put_if_absent", "list", "delete", "other"):
        found = samples["graft_store_requests_total", (("verb", verb),)]
        assert found == getattr(metrics.store, verb)
    assert samples["graft_store_sent_bytes_total", ()] == metrics.store.bytes_sent > 0
    assert samples["graft_claims_total", (("outcome", "won"),)] == 1
    assert samples["graft_commits_total", ()] == 1
    for verb, latencies in metrics.latencies.items():
        labels = (("verb", verb),)
        assert samples["graft_store_request_seconds_count", labels] == sum(latencies.buckets)
        assert samples["graft_store_request_seconds_sum", labels] == latencies.sum_seconds
        buckets = [
            samples["graft_store_request_seconds_bucket", (("le", bound), ("verb", verb))]
            for bound in [*map(repr, LATENCY_BOUNDS_SECONDS), "+Inf"]
        ]
        assert buckets == sorted(buckets)
        assert buckets[-1] == sum(latencies.buckets)
    assert {"get_range", "put_if_absent"} <= metrics.latencies.keys()
    assert str(metrics) == prometheus(metrics)


def test_the_text_has_every_count():
    values = iter(range(1000, 2000))
    store = StoreCounts(**{field.name: next(values) for field in dataclasses.fields(StoreCounts)})
    counts = Counts(**{field.name: next(values) for field in dataclasses.fields(Counts)})
    metrics = Metrics(store, {}, counts, next(values), next(values), next(values), ())
    assert {*parsed(metrics).values()} == {*range(1000, next(values))} - {counts.arenas_evicted}


@pytest.mark.parametrize("tag", ["main", 'a "b"\\\n{c="d"}', "ü/ß", ""])
def test_any_tag_can_be_a_label(tag):
    volume = VolumeId.new()
    metrics = Metrics(
        StoreCounts(),
        {},
        Counts(),
        0,
        0,
        0,
        (VolumeMetrics(volume, tag, 2, 1, True, 1_700_000_000_500, 1_600_000_000_000, False),),
    )
    samples = parsed(metrics)
    labels = (("tag", tag), ("volume", str(volume)))
    assert samples["graft_volume_ahead_commits", labels] == 2
    assert samples["graft_volume_diverged", labels] == 1
    assert samples["graft_volume_last_sync_timestamp_seconds", labels] == 1_700_000_000.5
    assert samples["graft_volume_last_moved_timestamp_seconds", labels] == 1_600_000_000


def test_an_idle_engine_has_metrics(tmp_path):
    engine = Graft(Config(data_dir=tmp_path / "data", remote=memory_remote()))
    samples = parsed(engine.metrics())
    assert samples
    assert set(samples.values()) == {0}
    engine.close()


def test_a_count_refuses_handlers_that_would_fetch_a_page(monkeypatch) -> None:
    """Such a handler would wait for the thread that fetches, and that one for the count's lock."""
    depths = []

    class Lock(contextlib.nullcontext):
        def __enter__(self) -> None:
            depths.append(reentry.thread.depth)

    monkeypatch.setattr(threading, "RLock", Lock)
    counters, requests = Counters(), StoreCounters()
    counters.add("claims_won")
    counters.snapshot()
    requests.add("get")
    requests.add_retry()
    with requests.timed("get"):
        pass
    requests.snapshot()
    requests.latencies()
    assert depths == [1] * 7
    assert reentry.thread.depth == 0
