"""Counts of an engine's activity outside the hot path: claims, page cache, autosync.

Requests are counted by the store (`store.base.StoreCounters`), and commits by their volume
(`CommitCounts`), because counting a commit must cost no more than incrementing an integer.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

from graft_vfs.reentry import occupied

CountName: TypeAlias = Literal[
    "claim_requests",
    "claims_won",
    "claims_lost",
    "claims_unknown",
    "claim_retries",
    "pages_missed",
    "frames_fetched",
    "pages_fetched",
    "arenas_evicted",
    "bytes_evicted",
    "autosync_runs",
    "autosync_failures",
]


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts since the engine was opened; see `metrics` for their meaning."""

    claim_requests: int = 0
    claims_won: int = 0
    claims_lost: int = 0
    claims_unknown: int = 0
    claim_retries: int = 0
    pages_found: int = 0
    pages_missed: int = 0
    frames_fetched: int = 0
    pages_fetched: int = 0
    arenas_evicted: int = 0
    bytes_evicted: int = 0
    autosync_runs: int = 0
    autosync_failures: int = 0


class CommitCounts:
    """This engine's commits to one volume; changed under the volume's mutex."""

    __slots__ = ("commits", "spilled")

    def __init__(self) -> None:
        self.commits = 0
        self.spilled = 0


class Counters:
    """The running counts of one engine. Any thread may add and take snapshots.

    `pages_found` is incremented without the lock, because a lock would slow every page lookup. It
    is exact if one thread reads; concurrent readers may lose a few counts.
    """

    __slots__ = ("_counts", "_lock", "pages_found")

    def __init__(self) -> None:
        # Reentrant, because a finalizer may count while its own thread is counting.
        self._lock = threading.RLock()
        self.pages_found = 0
        self._counts = {field.name: 0 for field in fields(Counts)}

    def add(self, name: CountName, amount: int = 1) -> None:
        """Add to one count."""
        # Occupied: a handler that fetches a page now would wait for its own thread's lock.
        with occupied(), self._lock:
            self._counts[name] += amount

    def snapshot(self) -> Counts:
        """Return a consistent copy of the current counts."""
        with occupied(), self._lock:
            return Counts(**{**self._counts, "pages_found": self.pages_found})
