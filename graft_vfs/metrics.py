"""Metrics: counts of one engine since it was opened, typed and as Prometheus text.

`Graft.metrics()` returns them, at the cost of a few catalog queries per open volume. Counting
costs almost nothing: requests, claims and fetches are counted where they happen, and a commit
increments an integer. Reads of a cached page are counted only the first time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from graft_vfs.counters import Counts
from graft_vfs.ids import VolumeId
from graft_vfs.reports import Status
from graft_vfs.store.base import LATENCY_BOUNDS_SECONDS, Latencies, StoreCounts, Verb

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The media type of the text that `prometheus` returns."""

_NOT_VERBS = frozenset({"retries", "bytes_sent", "bytes_received"})
_VERBS = tuple(field.name for field in fields(StoreCounts) if field.name not in _NOT_VERBS)


@dataclass(frozen=True, slots=True)
class VolumeMetrics:
    """An open volume relative to its log; `tag` is the first that names it, "" for none.

    `ahead` and `behind` count local and remote commits, as in `Status`.
    """

    volume: VolumeId
    tag: str
    ahead: int
    behind: int
    diverged: bool
    last_checked_ms: int | None
    last_moved_ms: int | None
    failing: bool

    @classmethod
    def of(cls, tags: list[str], status: Status) -> VolumeMetrics:
        """Return a volume's metrics from its status."""
        return cls(
            volume=status.volume,
            tag=tags[0] if tags else "",
            ahead=status.ahead,
            behind=status.behind,
            diverged=status.diverged,
            last_checked_ms=status.last_checked_ms,
            last_moved_ms=status.last_moved_ms,
            failing=status.last_error is not None,
        )


@dataclass(frozen=True, slots=True)
class Metrics:
    """Counts of one engine since it was opened, and its open volumes.

    `store` and `latencies` are those of requests, by verb. `counts` are: PUTs of claims, and the
    outcomes of claims (`claims_lost`: another push had the LSN; `claims_unknown`: no response
    arrived); pages that a view found in the page cache at its first lookup (`pages_found`) or had
    to fetch (`pages_missed`); fetches, including read-ahead; evictions from the cache; autosync
    runs as leader, and failed runs. `spilled_transactions` is the number of local `commits` that
    were too large for memory. `cache_bytes` is the size of the page caches in use.
    """

    store: StoreCounts
    latencies: Mapping[Verb, Latencies]
    counts: Counts
    commits: int
    spilled_transactions: int
    cache_bytes: int
    volumes: tuple[VolumeMetrics, ...]

    def __str__(self) -> str:
        return prometheus(self)


Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]


def prometheus(metrics: Metrics) -> str:
    """Return metrics in Prometheus's text exposition format 0.0.4."""
    return "".join(itertools.chain(_store(metrics), _local(metrics), _volumes(metrics)))


def _store(metrics: Metrics) -> Iterator[str]:
    store, counts = metrics.store, metrics.counts
    requests = [("", {"verb": verb}, float(getattr(store, verb))) for verb in _VERBS]
    yield from family("graft_store_requests_total", "counter", "Requests to the store.", requests)
    yield from _counter("graft_store_retries_total", "Requests that repeat one.", store.retries)
    yield from _counter("graft_store_sent_bytes_total", "Object bytes sent.", store.bytes_sent)
    yield from _counter(
        "graft_store_received_bytes_total", "Object bytes received.", store.bytes_received
    )
    yield from family(
        "graft_store_request_seconds",
        "histogram",
        "Time until the answer to a request began.",
        [sample for verb, found in metrics.latencies.items() for sample in _histogram(verb, found)],
    )
    yield from _counter(
        "graft_claim_requests_total", "Conditional writes of commits.", counts.claim_requests
    )
    yield from _counter(
        "graft_claim_retries_total", "Steps of claims that were repeated.", counts.claim_retries
    )
    yield from family(
        "graft_claims_total",
        "counter",
        "Claims of a remote LSN, by how they ended.",
        [
            ("", {"outcome": "won"}, counts.claims_won),
            ("", {"outcome": "lost"}, counts.claims_lost),
            ("", {"outcome": "unknown"}, counts.claims_unknown),
        ],
    )


def _local(metrics: Metrics) -> Iterator[str]:
    counts = metrics.counts
    yield from _counter("graft_commits_total", "Local commits.", metrics.commits)
    yield from _counter(
        "graft_spilled_transactions_total",
        "Commits that were too large for memory.",
        metrics.spilled_transactions,
    )
    yield from family(
        "graft_cache_lookups_total",
        "counter",
        "Remote pages that a view looked for the first time.",
        [
            ("", {"result": "hit"}, counts.pages_found),
            ("", {"result": "miss"}, counts.pages_missed),
        ],
    )
    yield from _counter(
        "graft_fetched_frames_total", "Frames fetched, read ahead or not.", counts.frames_fetched
    )
    yield from _counter(
        "graft_fetched_pages_total", "Pages fetched, read ahead or not.", counts.pages_fetched
    )
    yield from family(
        "graft_cache_bytes",
        "gauge",
        "Size of the page caches in use.",
        [("", {}, metrics.cache_bytes)],
    )
    yield from _counter(
        "graft_cache_evicted_bytes_total",
        "Bytes that the page caches gave up for room.",
        counts.bytes_evicted,
    )
    yield from _counter(
        "graft_autosync_runs_total", "Syncs of a volume by autosync.", counts.autosync_runs
    )
    yield from _counter(
        "graft_autosync_failures_total", "Syncs that failed.", counts.autosync_failures
    )


def _volumes(metrics: Metrics) -> Iterator[str]:
    def gauge(name: str, text: str, values: list[float | None]) -> Iterator[str]:
        samples: list[Sample] = [
            ("", {"volume": str(each.volume), "tag": each.tag}, value)
            for each, value in zip(metrics.volumes, values, strict=True)
            if value is not None
        ]
        return family(f"graft_volume_{name}", "gauge", text, samples)

    volumes = metrics.volumes
    yield from gauge(
        "ahead_commits", "Local commits that are not pushed.", [each.ahead for each in volumes]
    )
    yield from gauge(
        "behind_commits",
        "Known remote commits that the volume does not stand on.",
        [each.behind for each in volumes],
    )
    yield from gauge("diverged", "1 for a diverged volume.", [each.diverged for each in volumes])
    yield from gauge("sync_failing", "1 if the last sync failed.", [e.failing for e in volumes])
    yield from gauge(
        "last_sync_timestamp_seconds",
        "When the remote last answered a sync of the volume.",
        [_seconds(each.last_checked_ms) for each in volumes],
    )
    yield from gauge(
        "last_moved_timestamp_seconds",
        "When a sync last changed what the volume stands on.",
        [_seconds(each.last_moved_ms) for each in volumes],
    )


def _seconds(time_ms: int | None) -> float | None:
    return None if time_ms is None else time_ms / 1000


def _histogram(verb: Verb, latencies: Latencies) -> Iterator[Sample]:
    total = 0
    for bound, count in zip([*LATENCY_BOUNDS_SECONDS, None], latencies.buckets, strict=True):
        total += count
        yield "_bucket", {"verb": verb, "le": "+Inf" if bound is None else repr(bound)}, total
    yield "_sum", {"verb": verb}, latencies.sum_seconds
    yield "_count", {"verb": verb}, total


def _counter(name: str, text: str, value: int) -> Iterator[str]:
    return family(name, "counter", text, [("", {}, value)])


def family(name: str, kind: str, text: str, samples: Sequence[Sample]) -> Iterator[str]:
    """Yield the lines of one metric; nothing if it has no samples."""
    if samples:
        yield f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
    for suffix, labels, value in samples:
        shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        number = repr(float(value)) if isinstance(value, float) else str(int(value))
        yield f"{name}{suffix}{f'{{{shown}}}' if shown else ''} {number}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
