"""Rounds: the intervals in which every volume was found synced once.

A round ends when a sync that began in it has found each volume synced. A failing volume keeps it
open, so a monitor that expects a request per round then gets none.
"""

from __future__ import annotations

import threading
from collections.abc import Collection

from graft_vfs.engine.autosync import Clock
from graft_vfs.ids import VolumeId


class Rounds:
    """The current round. Owner: the daemon. Thread rule: any thread."""

    def __init__(self, clock: Clock) -> None:
        self.count = 0
        self.last_ms = clock.time_ms()
        """When the last round ended, or else the first began."""
        self._clock = clock
        self._lock = threading.Lock()
        self._volumes: set[VolumeId] = set()
        self._waiting: set[VolumeId] = set()
        self._began = clock.seconds()

    def set_volumes(self, volumes: Collection[VolumeId]) -> bool:
        """Set the current volumes; returns True if that ends the round."""
        with self._lock:
            wanted = set(volumes)
            self._waiting = (self._waiting & wanted) | (wanted - self._volumes)
            had_some, self._volumes = bool(self._volumes), wanted
            return had_some and bool(wanted) and self._ends()

    def note_synced(self, volume: VolumeId, began: float) -> bool:
        """Record a volume found synced by a sync that began then; True if that ends the round."""
        with self._lock:
            if began < self._began or volume not in self._waiting:
                return False
            self._waiting.discard(volume)
            return self._ends()

    def _ends(self) -> bool:
        if self._waiting:
            return False
        self.count += 1
        self.last_ms = self._clock.time_ms()
        self._began = self._clock.seconds()
        self._waiting = set(self._volumes)
        return True
