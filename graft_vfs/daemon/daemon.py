"""The daemon: finds the volumes with tags, and syncs all of them.

`look` is called once per interval. Autosync (`engine.autosync`) syncs the volumes that it finds, a
few at a time, so that a large push does not delay the others. Other processes may push the same
volumes: because of `push.lock`, one of two pushes waits, or finds nothing to push.

A crash leaves the same state as in pushes and pulls; the next sync settles it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from graft_vfs.daemon.events import EventLog, reasons
from graft_vfs.daemon.heartbeat import Heartbeat
from graft_vfs.daemon.housekeeping import Housekeeping
from graft_vfs.daemon.metrics import SyncMetrics, VolumeSync, sync_text
from graft_vfs.daemon.remote import RemoteStates, Unreachable
from graft_vfs.daemon.rounds import Rounds
from graft_vfs.daemon.syncs import Syncs
from graft_vfs.engine.autosync import Autosync, Clock, Outcome
from graft_vfs.engine.graft import Graft
from graft_vfs.engine.syncing import require_remote
from graft_vfs.errors import GraftError
from graft_vfs.ids import VolumeId
from graft_vfs.metrics import prometheus
from graft_vfs.remote.request_threads import request_threads
from graft_vfs.sync.settle import WAIT_SECONDS
from graft_vfs.version import __version__

THREADS = 4
"""The number of volumes that are synced at a time."""
_TAGS_NAMED_MAX = 10


@dataclass(frozen=True, slots=True)
class Left:
    """A volume that is not in sync, and the reason; `error` is None if time ran out."""

    tag: str
    volume: VolumeId
    error: Exception | None


class Daemon:
    """The syncs of a data directory. Owner: the command. Thread rule: one thread.

    With an interval: `start`, then `look` once per interval, then `close`; without: `run_once`.
    """

    def __init__(
        self,
        engine: Graft,
        log: EventLog,
        *,
        tags: Collection[str] = (),
        interval_seconds: float | None = None,
        push_only: bool = False,
        heartbeat: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Sync the volumes of `tags`, by default of all.

        Raises NotFoundError, NoRemoteError, ReadOnlyError if the data directory cannot be written.
        """
        require_remote(engine.context)
        engine.catalog.require_writable()
        for tag in tags:
            if engine.catalog.tag_volume(tag) is None:
                raise engine.catalog.no_tag(tag)
        self._remote_name = engine.store.describe()
        self._engine = engine
        self._log = log
        self._tags = frozenset(tags)
        self._clock = clock = clock or Clock()
        self._interval = interval_seconds or 1.0
        self._heartbeat = None if heartbeat is None else Heartbeat(heartbeat, log)
        self._remotes = RemoteStates(self._interval, log, clock)
        self._rounds = Rounds(clock)
        self._housekeeping = Housekeeping(engine, log, clock)
        self._syncs = Syncs(
            engine.context,
            self._remotes,
            log,
            clock,
            push_only=push_only,
            wait_seconds=WAIT_SECONDS if interval_seconds is None else 0.0,
            strategy=engine.config.strategy(),
        )
        counters = engine.logs.counters
        self._autosync = Autosync(
            self._sync, self._interval, counters, clock=clock, threads=THREADS, warns=False
        )
        self._is_started = False
        self._cannot_look: str | None = None

    def start(self, metrics_url: str | None = None) -> None:
        """Begin to sync the volumes with tags."""
        self._log.note(
            "started",
            version=__version__,
            remote=self._remote_name,
            volumes=len(self._named()),
            every=self._interval,
            metrics=metrics_url,
        )
        self.look()
        self._is_started = True

    @property
    def volumes(self) -> int:
        """The number of volumes to sync."""
        return len(self._syncs.tags)

    def look(self) -> None:
        """Find new volumes with tags, and volumes that lost theirs. No request."""
        try:
            found = self._named()
        except GraftError as error:
            if error.message != self._cannot_look:
                self._log.note("failed", "error", **reasons(error))
            self._cannot_look = error.message
            return
        self._cannot_look = None
        former, self._syncs.tags = self._syncs.tags, found
        for volume in former.keys() - found.keys():
            self._log.note("removed", tag=former[volume], volume=volume)
            self._syncs.forget(volume)
        ended = self._rounds.set_volumes(found)
        for volume in sorted(found.keys() - former.keys()):
            if self._is_started:
                self._log.note("added", tag=found[volume], volume=volume)
            self._autosync.add(volume, None)
        if ended:
            self._round_ended()

    def _named(self) -> dict[VolumeId, str]:
        """Return the volumes that tags name, each with the first of its tags."""
        named: dict[VolumeId, str] = {}
        for tag, volume in self._engine.catalog.tags():
            if not self._tags or tag in self._tags:
                named.setdefault(volume, tag)
        return named

    def run_once(self) -> list[Left]:
        """Sync each volume once; returns those that are not in sync."""
        found = self._syncs.tags = self._named()
        self._rounds.set_volumes(found)
        with request_threads("graft-sync", THREADS) as threads:
            list(threads.map(self._attempt, sorted(found)))
        if self._heartbeat is not None:
            self._heartbeat.join()
        left = [self._left(each) for each in found if not self._syncs.state(each).is_synced]
        self._note_end(left)
        return left

    def _attempt(self, volume: VolumeId) -> None:
        try:
            self._sync(volume, is_last=False)
        except Exception:
            # The state of a failed sync has its error, and so has the log; others are faults here.
            if self._syncs.state(volume).is_synced:
                raise

    def _sync(self, volume: VolumeId, /, *, is_last: bool) -> Outcome:
        began = self._clock.seconds()
        outcome = self._syncs(volume, is_last=is_last)
        if outcome is Outcome.SYNCED and self._rounds.note_synced(volume, began):
            self._round_ended()
        return outcome

    def _round_ended(self) -> None:
        self._housekeeping.run()
        if self._heartbeat is not None:
            self._heartbeat.send()

    def close(self, grace_seconds: float, *, signal: str | None = None) -> tuple[list[Left], bool]:
        """Push the remaining commits, for at most this long, including those of new volumes.

        Returns the volumes that may have unpushed commits, and whether a push is still running:
        then closing the engine would wait for it.
        """
        self._log.note("stopping", signal=signal, grace=grace_seconds)
        self.look()
        self._remotes.ask_now()
        busy = self._autosync.close(grace_seconds)
        tags = self._syncs.tags
        left = [self._left(each) for each in tags if not self._syncs.state(each).is_flushed]
        self._note_end(left)
        return left, bool(busy)

    def _note_end(self, left: Sequence[Left]) -> None:
        tags = ", ".join(each.tag for each in left[:_TAGS_NAMED_MAX])
        if len(left) > _TAGS_NAMED_MAX:
            tags += f" and {len(left) - _TAGS_NAMED_MAX} more"
        self._log.note(
            "stopped",
            "error" if left else "info",
            volumes=self.volumes,
            synced=self.volumes - len(left),
            left=len(left),
            tags=tags or None,
        )

    def _left(self, volume: VolumeId) -> Left:
        error = self._syncs.state(volume).error
        if isinstance(error, Unreachable):
            error = error.reason
        return Left(self._syncs.tags[volume], volume, error)

    def metrics(self) -> str:
        """Return the metrics of the engine and of the syncs, for Prometheus. No request."""
        states = {volume: self._syncs.state(volume) for volume in self._syncs.tags}
        known = [state.metrics for state in states.values() if state.metrics is not None]
        engine = replace(self._engine.metrics(), volumes=tuple(known))
        syncs = SyncMetrics(
            interval_seconds=self._interval,
            volumes={
                volume: VolumeSync(
                    self._syncs.tags.get(volume, ""), state.word, state.synced_ms or state.since_ms
                )
                for volume, state in states.items()
            },
            rounds=self._rounds.count,
            last_round_ms=self._rounds.last_ms,
            reachable=self._remotes.reachable(),
            heartbeat_failures=0 if self._heartbeat is None else self._heartbeat.failures,
        )
        return prometheus(engine) + sync_text(syncs)
