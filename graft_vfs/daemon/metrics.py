"""The daemon's additions to its engine's metrics, as Prometheus text.

Its volumes are closed most of the time, so their state as of the last sync is kept.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from graft_vfs.ids import VolumeId
from graft_vfs.metrics import Sample, family

StateWord = Literal["synced", "waiting", "busy", "failing", "unreachable", "diverged"]


@dataclass(frozen=True, slots=True)
class VolumeSync:
    """The state of one volume's syncs.

    `synced_ms` is when it was last found synced, else when the daemon found the volume.
    """

    tag: str
    state: StateWord
    synced_ms: int


@dataclass(frozen=True, slots=True)
class SyncMetrics:
    """The state of a daemon's syncs.

    A round ends when each volume was found synced in it. `last_round_ms` is the end of the last
    round, else the beginning of the first. `reachable` says of each remote that was asked whether
    it answers.
    """

    interval_seconds: float
    volumes: Mapping[VolumeId, VolumeSync]
    rounds: int
    last_round_ms: int
    reachable: Mapping[str, bool]
    heartbeat_failures: int


def sync_text(metrics: SyncMetrics) -> str:
    """Return metrics in Prometheus's text exposition format 0.0.4."""
    return "".join(itertools.chain(_daemon(metrics), _volumes(metrics)))


def _daemon(metrics: SyncMetrics) -> Iterator[str]:
    def one(name: str, kind: str, text: str, value: float) -> Iterator[str]:
        return family(f"graft_sync_{name}", kind, text, [("", {}, value)])

    last = metrics.last_round_ms / 1000
    yield from one(
        "interval_seconds", "gauge", "Pause between two syncs.", metrics.interval_seconds
    )
    yield from one(
        "rounds_total", "counter", "Rounds in which all volumes were synced.", metrics.rounds
    )
    yield from one(
        "last_round_timestamp_seconds",
        "gauge",
        "When the last round ended, or else the first began.",
        last,
    )
    yield from family(
        "graft_sync_remote_reachable",
        "gauge",
        "0 while a remote does not answer.",
        [("", {"remote": name}, answers) for name, answers in metrics.reachable.items()],
    )
    yield from one(
        "heartbeat_failures_total", "counter", "Heartbeats that failed.", metrics.heartbeat_failures
    )


def _volumes(metrics: SyncMetrics) -> Iterator[str]:
    counts = Counter(volume.state for volume in metrics.volumes.values())
    yield from family(
        "graft_sync_volumes",
        "gauge",
        "Volumes by how their syncs stand.",
        [("", {"state": word}, counts[word]) for word in get_args(StateWord)],
    )
    samples: list[Sample] = [
        ("", {"volume": str(each), "tag": found.tag}, found.synced_ms / 1000)
        for each, found in metrics.volumes.items()
    ]
    yield from family(
        "graft_sync_volume_synced_timestamp_seconds",
        "gauge",
        "When the volume was last found in sync, or else first seen.",
        samples,
    )
