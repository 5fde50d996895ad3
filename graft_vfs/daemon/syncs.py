"""One sync of one volume in the daemon: an unchanged volume is not opened.

The head file shows whether it has changed (`local.head.look`); an open volume costs descriptors and
memory, and its status several queries. The result is kept as a state per volume, and logged once
when it changes.

Invariants:
 1. The head file is read before the volume, so that a commit in between is found next time.
 2. A volume counts as synced only by its status after a sync, or while its head file is unchanged
    since.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from graft_vfs.daemon.events import EventLog, reasons
from graft_vfs.daemon.metrics import StateWord
from graft_vfs.daemon.remote import RemoteStates, Unreachable
from graft_vfs.engine.autosync import FLUSH_SECONDS, Clock, Outcome
from graft_vfs.engine.status import status_of
from graft_vfs.engine.syncing import has_news, is_diverged, needs_push, pull, push
from graft_vfs.errors import BusyError, DivergedError
from graft_vfs.ids import VolumeId
from graft_vfs.local import layout
from graft_vfs.local.head import look
from graft_vfs.metrics import VolumeMetrics
from graft_vfs.pages import RemoteLsn
from graft_vfs.reports import Status
from graft_vfs.sync.push import diverged
from graft_vfs.volume.context import Context, Opened


@dataclass(slots=True)
class SyncState:
    """The state of one volume's syncs; written only by the thread that syncs it."""

    since_ms: int
    """When the daemon found the volume."""
    head: bytes | None = None
    """The head file's content when the volume was last found synced."""
    synced_ms: int | None = None
    """When it was last found synced."""
    is_synced: bool = False
    is_flushed: bool = False
    """Whether it was found synced by a final, push-only sync."""
    error: Exception | None = None
    """Why it is not synced."""
    is_reported: bool = False
    """Whether the error is logged, and its end is not."""
    metrics: VolumeMetrics | None = None

    @property
    def word(self) -> StateWord:
        """The state in one word."""
        if isinstance(self.error, Unreachable):
            return "unreachable"
        if isinstance(self.error, BusyError):
            return "busy"
        if isinstance(self.error, DivergedError):
            return "diverged"
        if self.error is not None:
            return "failing"
        return "waiting" if self.synced_ms is None else "synced"


class Syncs:
    """The syncs of the volumes in `tags`. Owner: the daemon. Thread rule: one thread a volume."""

    def __init__(
        self,
        context: Context,
        remotes: RemoteStates,
        log: EventLog,
        clock: Clock,
        *,
        push_only: bool,
        wait_seconds: float,
        strategy: str | None = None,
    ) -> None:
        self._strategy = strategy
        self.tags: Mapping[VolumeId, str] = {}
        self._context = context
        self._remotes = remotes
        self._log = log
        self._clock = clock
        self._push_only = push_only
        self._wait_seconds = wait_seconds
        self._lock = threading.Lock()
        self._states: dict[VolumeId, SyncState] = {}

    def state(self, volume: VolumeId) -> SyncState:
        """Return the state of a volume."""
        with self._lock:
            return self._states.setdefault(volume, SyncState(self._clock.time_ms()))

    def forget(self, volume: VolumeId) -> None:
        """Forget a volume that is no longer synced."""
        with self._lock:
            self._states.pop(volume, None)

    def __call__(self, volume: VolumeId, /, *, is_last: bool) -> Outcome:
        """Sync a volume: push if it has commits, else pull unless push-only.

        Raises GraftError, after recording it in the state and the log.
        """
        tag = self.tags.get(volume)
        if tag is None:
            return Outcome.CLOSED
        state = self.state(volume)
        state.is_synced = False
        try:
            self._sync(tag, volume, state, is_last=is_last)
        except Unreachable as error:
            self._context.logs.counters.add("autosync_failures")
            state.error = error
            raise
        except BusyError as error:
            state.error = state.error or error
            raise
        except Exception as error:
            # Also a fault of this program: the daemon goes on, and monitors see it.
            self._note_failure(tag, volume, state, error)
            raise
        if state.is_reported:
            self._log.note("recovered", tag=tag, volume=volume)
        state.error, state.is_reported = None, False
        state.is_synced, state.is_flushed = True, is_last
        state.synced_ms = self._clock.time_ms()
        return Outcome.SYNCED

    def _sync(self, tag: str, volume: VolumeId, state: SyncState, *, is_last: bool) -> None:
        context, only_push = self._context, self._push_only or is_last
        head = self._look(volume)
        if head is not None and head == state.head:
            if only_push:
                return
            with self._asked(volume):
                is_behind = has_news(context, volume)
            if not is_behind:
                if state.metrics is not None:
                    now = self._clock.time_ms()
                    state.metrics = replace(state.metrics, last_checked_ms=now)
                context.volumes.hydration.try_again(volume)
                return
        opened = Opened(tag, context.volumes.look(volume))
        try:
            found = status_of(context, opened)
            if is_diverged(context, opened, found):
                self._resolve(opened, found, only_push=only_push)
            elif needs_push(found):
                self._push_or_resolve(opened, only_push=only_push, is_last=is_last)
            elif not only_push:
                self._pull(opened)
        finally:
            found = status_of(context, opened)
            state.metrics = VolumeMetrics.of([tag], found)
        if not only_push:
            context.volumes.hydrate(opened.volume)
        if not (needs_push(found) or found.behind):
            state.head = head

    def _look(self, volume: VolumeId) -> bytes | None:
        """Return the head file's content; None if it proves nothing."""
        if not self._context.volumes.is_local:
            return None
        return look(self._context.directory_of(volume) / layout.HEAD)

    def _asked(self, volume: VolumeId) -> AbstractContextManager[None]:
        """Enclose requests to the remote of a volume; see RemoteState.asked."""
        log_id = self._context.catalog.volume(volume).remote
        return self._remotes.of(self._context.logs.log(log_id).store).asked()

    def _push_or_resolve(self, opened: Opened, *, only_push: bool, is_last: bool) -> None:
        """Push; if this finds that the volume has diverged, resolve that."""
        try:
            self._push(opened, is_last=is_last)
        except DivergedError:
            if only_push or self._strategy is None:
                raise
            self._resolve(opened, status_of(self._context, opened), only_push=False)

    def _push(self, opened: Opened, *, is_last: bool) -> None:
        began = self._clock.seconds()
        wait_seconds = FLUSH_SECONDS if is_last else self._wait_seconds
        with self._asked(opened.volume.id):
            done = push(self._context, opened, wait_seconds=wait_seconds)
        if done.claimed:
            self._log.note(
                "pushed",
                tag=opened.tag,
                volume=opened.volume.id,
                log=done.log,
                lsn=done.lsn,
                commits=done.local_commits,
                pages=done.pages,
                bytes=done.bytes_sent,
                seconds=round(self._clock.seconds() - began, 3),
                warning=done.warning,
            )

    def _pull(self, opened: Opened) -> None:
        began = self._clock.seconds()
        with self._asked(opened.volume.id):
            if not has_news(self._context, opened.volume.id):
                return
            done = pull(self._context, opened)
        if done.commits:
            self._log.note(
                "pulled",
                tag=opened.tag,
                volume=opened.volume.id,
                log=done.log,
                lsn=done.lsn,
                commits=done.commits,
                seconds=round(self._clock.seconds() - began, 3),
            )

    def _resolve(self, opened: Opened, found: Status, *, only_push: bool) -> None:
        """Follow the remote by the strategy; without one, raise DivergedError."""
        if only_push or self._strategy is None:
            newest = RemoteLsn(found.base_lsn + found.behind)
            raise diverged(found.remote, found.base_lsn, newest)
        with self._asked(opened.volume.id):
            done = pull(self._context, opened, strategy=self._strategy)
        if done.kept is not None or done.forked is not None:
            self._log.note(
                "resolved",
                tag=opened.tag,
                volume=opened.volume.id,
                log=done.log,
                lsn=done.lsn,
                commits=done.local_commits,
                branch=done.kept,
                fork=done.forked,
            )

    def _note_failure(self, tag: str, volume: VolumeId, state: SyncState, error: Exception) -> None:
        """Record why a volume is not synced; each kind of error is logged once."""
        is_known = state.is_reported and type(state.error) is type(error)
        state.error, state.is_reported = error, True
        if not is_known:
            event = "diverged" if isinstance(error, DivergedError) else "failed"
            self._log.note(event, "error", tag=tag, volume=volume, **reasons(error))
