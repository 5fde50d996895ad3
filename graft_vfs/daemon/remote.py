"""Whether a remote answers: during an outage one volume asks it at a time, ever more rarely.

Without that, each of hundreds of volumes would wait for its own timeouts and report the same. The
volumes of another remote go on.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from graft_vfs.daemon.events import EventLog, reasons
from graft_vfs.engine.autosync import Clock, backoff_seconds
from graft_vfs.errors import (
    BucketMissingError,
    BusyError,
    CommitOutcomeUnknownError,
    GraftError,
    StoreUnavailableError,
)
from graft_vfs.store.base import ObjectStore

_OF_THE_REMOTE = (StoreUnavailableError, BucketMissingError, CommitOutcomeUnknownError)
"""Errors that the next volume would also get."""


class Unreachable(BusyError):  # noqa: N818 - it says why a sync was not tried
    """The remote does not answer, and it is not time to ask again; `reason` is why."""

    def __init__(self, reason: GraftError) -> None:
        super().__init__(reason.message, next_step=reason.hint)
        self.reason = reason


class RemoteState:
    """Admits syncs to one remote. Owner: the daemon. Thread rule: any thread."""

    def __init__(self, name: str, interval_seconds: float, log: EventLog, clock: Clock) -> None:
        self._name = name
        self._interval = interval_seconds
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._error: GraftError | None = None
        self._failures = 0
        self._since = self._until = 0.0
        self._is_probed = False

    @property
    def error(self) -> GraftError | None:
        """Why the remote is considered unreachable; None if it answers."""
        return self._error

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """Enclose requests that show whether the remote answers; raises Unreachable."""
        probes = self._enter()
        try:
            yield
        except _OF_THE_REMOTE as error:
            self._failed(error)
            raise Unreachable(error) from error
        except BusyError:
            raise  # No request was sent.
        except GraftError:
            if probes:
                self._answered()
            raise
        else:
            if probes:
                self._answered()
        finally:
            if probes:
                self._is_probed = False

    def ask_now(self) -> None:
        """Have the next sync ask, however long ago the last failure was."""
        self._until = 0.0

    def _enter(self) -> bool:
        """Return True for the single sync that retries an unreachable remote."""
        with self._lock:
            if self._error is None:
                return False
            if self._is_probed or self._clock.seconds() < self._until:
                raise Unreachable(self._error) from self._error
            self._is_probed = True
            return True

    def _failed(self, error: GraftError) -> None:
        now = self._clock.seconds()
        with self._lock:
            is_first = self._error is None
            if is_first:
                self._since, self._failures = now, 0
            elif now < self._until:
                return  # It was already running when another one failed.
            self._error = error
            self._failures += 1
            pause = backoff_seconds(self._interval, self._failures, self._clock.jitter())
            self._until = now + pause
        if is_first:
            self._log.note("unreachable", "error", remote=self._name, **reasons(error))

    def _answered(self) -> None:
        with self._lock:
            was_error, self._error = self._error, None
        if was_error is not None:
            # Only for the sync that retried: others may have been running since before the failure.
            seconds = round(self._clock.seconds() - self._since, 3)
            self._log.note("reachable", remote=self._name, seconds=seconds)


class RemoteStates:
    """The states of all remotes that were asked, by name. Owner: the daemon. Any thread."""

    def __init__(self, interval_seconds: float, log: EventLog, clock: Clock) -> None:
        self._settings = interval_seconds, log, clock
        self._lock = threading.Lock()
        self._states: dict[str, RemoteState] = {}

    def of(self, store: ObjectStore) -> RemoteState:
        """Return the state of a remote. Raises ConfigError if what it is called is not known."""
        name = store.describe()
        with self._lock:
            if name not in self._states:
                self._states[name] = RemoteState(name, *self._settings)
            return self._states[name]

    def reachable(self) -> dict[str, bool]:
        """Return for each remote that was asked whether it answers."""
        with self._lock:
            return {name: state.error is None for name, state in self._states.items()}

    def ask_now(self) -> None:
        """Have the next sync ask, however long ago the last failure was."""
        with self._lock:
            for state in self._states.values():
                state.ask_now()
