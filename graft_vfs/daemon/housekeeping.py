"""What the daemon removes of the local disk, once a day, when all volumes were found in sync.

Volumes that lost their tag a week ago or earlier, and of which the remote has everything; and what
no volume needs. `graft gc --local` does the same at once, for all volumes without a tag, and also
compacts branch files that are not due yet.
"""

from __future__ import annotations

import threading

from graft_vfs.daemon.events import EventLog
from graft_vfs.engine.autosync import Clock
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import GraftError

_INTERVAL_SECONDS = 86_400.0


class Housekeeping:
    """Owner: the daemon. Thread rule: any thread; one at a time does the work."""

    def __init__(self, engine: Graft, log: EventLog, clock: Clock) -> None:
        self._engine = engine
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._due = clock.seconds()

    def run(self) -> None:
        """Remove what is not needed, if that is due. An error is an event."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            now = self._clock.seconds()
            if now < self._due:
                return
            self._due = now + _INTERVAL_SECONDS
            for each in self._engine.collect_idle(self._clock.time_ms()):
                what = f"volume {each.volume}"
                self._log.note("reclaimed", what=what, bytes=each.disk_bytes)
            for found in self._engine.reclaim(compacts=False):
                if found.removed:
                    self._log.note("reclaimed", what=found.what, bytes=found.disk_bytes)
        except GraftError as error:
            self._log.note("warning", "warning", message=f"no space was reclaimed: {error}")
        finally:
            self._lock.release()
