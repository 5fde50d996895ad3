"""Autosync: a thread that pushes local commits and pulls new ones, every few seconds.

It syncs the volumes that are open in this process, one after the other; in a daemon, it syncs all
volumes with a tag, a few at a time. Commits do not notify it: each run checks for local commits. So
a commit is on the remote at most one interval and one push later, and a run that finds nothing new
costs one request.

Invariants:
 1. Of all processes that have a volume open, one syncs it, the leader: the process that holds the
    volume's lock file `autosync.lock`. The kernel releases the lock of a dead process, and the next
    process that tries the lock takes over. A follower tries once per interval, without a request. A
    daemon takes no such lock: it makes no difference whether it pushes a commit or finds it already
    pushed.
 2. Two runs of a volume are at least one interval apart. After consecutive failures the pause
    doubles, up to five minutes or two intervals; half of it is random.
 3. A diverged volume costs no request until the divergence is resolved.

A crash leaves the same state as in `push` and `pull`; the next leader settles it. Autosync resolves
a divergence only by the strategy of the setting `on_divergence`.
"""

from __future__ import annotations

import atexit
import enum
import functools
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from graft_vfs.advice import Advice, Hint
from graft_vfs.backoff import backoff
from graft_vfs.counters import Counters
from graft_vfs.errors import BusyError, DivergedError, GraftError, summary
from graft_vfs.ids import VolumeId
from graft_vfs.local import layout
from graft_vfs.local.fork import Step, at_fork
from graft_vfs.local.locks import FileLock
from graft_vfs.reports import AutosyncReport, AutosyncRole

_logger = logging.getLogger(__name__)

FLUSH_SECONDS = 10.0
"""How long closing waits for the final push."""
BACKOFF_SECONDS_MAX = 300.0


class Clock:
    """The time, interruptible waits and randomness. One for each Autosync."""

    def __init__(self) -> None:
        self._woken = threading.Event()

    def seconds(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def time_ms(self) -> int:
        """Return milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def wait(self, seconds: float) -> None:
        """Return after this many seconds, or once `wake` was called since the last wait."""
        self._woken.wait(seconds)
        self._woken.clear()

    def wake(self) -> None:
        """End the current wait, or the next one."""
        self._woken.set()

    @staticmethod
    def jitter() -> float:
        """Return a random number from 0 to 1, so that the pauses of several machines differ."""
        return random.random()  # noqa: S311 - chance, not a secret


class Outcome(enum.Enum):
    """The result of a successful sync of a volume."""

    SYNCED = "it is up to date with the remote, as of the last fetch"
    DIVERGED = "it has diverged; this was found without a request"
    CLOSED = "it is no longer open, or no tag names it"


class Sync(Protocol):
    """Syncs one volume; raises GraftError. With `is_last` it is closing and does not pull."""

    def __call__(self, volume_id: VolumeId, /, *, is_last: bool) -> Outcome:
        """Push, pull, or find that there is nothing to do."""
        ...


@dataclass(slots=True)
class _Task:
    """The state of one volume's syncs. Guarded by the lock of its Autosync."""

    volume: VolumeId
    directory: Path | None
    """Where the lock of the leader is; None if none is wanted."""
    due: float
    is_running: bool = False
    lock: FileLock | None = None
    role: AutosyncRole = AutosyncRole.CANDIDATE
    has_diverged: bool = False
    failures: int = 0
    last_run_ms: int | None = None
    last_error: str | None = None
    is_wanted: bool = True
    """Whether the volume was opened since its last run began."""
    is_flushed: bool = False


class _Workers:
    """Threads for a few runs at a time; with a count of 1 the thread that asks does them itself."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.are_several = count > 1
        self._free = threading.BoundedSemaphore(count)

    def run(self, work: Callable[[], None]) -> None:
        """Do the work: at once, or in a thread, when one is free."""
        if self._count == 1:
            work()
            return
        self._free.acquire()
        try:
            threading.Thread(target=self._do, args=(work,), name="graft-sync", daemon=True).start()
        except RuntimeError:
            # No thread can start any more.
            self._do(work)

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            self._free.release()

    def drain(self, timeout_seconds: float) -> None:
        """Wait until no run is left, or for so long."""
        end = time.monotonic() + timeout_seconds
        held = 0
        while held < self._count and self._free.acquire(timeout=max(0.0, end - time.monotonic())):
            held += 1
        for _ in range(held):
            self._free.release()


class Autosync:
    """The syncs of one engine's volumes, and the thread that runs them.

    Owner: the engine. Thread rule: any thread. The thread starts with the first volume. It does not
    survive a fork; the child's engine starts its own thread.
    """

    def __init__(
        self,
        sync: Sync,
        interval_seconds: float,
        counters: Counters,
        *,
        clock: Clock | None = None,
        threads: int = 1,
        warns: bool = True,
        title: Callable[[VolumeId], str] = "volume {}".format,
    ) -> None:
        """Sync by `sync`, in so many threads; `warns` unless `sync` itself says how it ended.

        `title` is what warnings call a volume.
        """
        self._sync = sync
        self._interval = interval_seconds
        self._counters = counters
        self._clock = clock or Clock()
        self._lock = threading.Lock()
        self._tasks: dict[VolumeId, _Task] = {}
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._workers = _Workers(threads)
        self._warns = warns
        self._title = title
        self._running: set[VolumeId] = set()
        self._is_closing = False
        self._closing_at = 0.0
        self._unpushed: dict[VolumeId, str] = {}

    def add(self, volume: VolumeId, directory: Path | None) -> None:
        """Begin to sync a volume; harmless if it is already synced. No request.

        `directory` is where the lock of the volume's leader is, None to sync it without one.
        """
        with self._lock:
            if self._is_closing:
                return
            task = self._tasks.get(volume)
            if task is not None:
                task.is_wanted = True
                return
            self._tasks[volume] = _Task(volume, directory, due=self._clock.seconds())
            if self._thread is None:
                self._start()
        self._clock.wake()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="graft-autosync", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            # No thread can start, or the interpreter is exiting. The volume opens anyway.
            _logger.warning("autosync does not run: %s", error)
            return
        self._thread = thread
        _live.add(self)

    def report(self, volume: VolumeId) -> AutosyncReport | None:
        """Return the state of a volume's syncs; None if it is not synced."""
        with self._lock:
            task = self._tasks.get(volume)
            if task is None:
                return None
            seconds_left = max(0.0, task.due - self._clock.seconds())
            return AutosyncReport(
                role=task.role,
                interval_seconds=self._interval,
                diverged=task.has_diverged,
                failures=task.failures,
                last_run_ms=task.last_run_ms,
                last_error=task.last_error,
                next_run_ms=self._clock.time_ms() + int(seconds_left * 1000),
            )

    def close(self, seconds: float = FLUSH_SECONDS) -> frozenset[VolumeId]:
        """Push all unpushed commits, for at most `seconds`, and end the thread.

        A warning names volumes with commits that could not be pushed; the next push sends them.
        Returns the volumes whose syncs did not end in time. Idempotent; does nothing in a forked
        child, where the syncs are the parent's.
        """
        if os.getpid() != self._process:
            return frozenset()
        with self._lock:
            thread = self._thread
            if self._is_closing:
                return frozenset()
            self._closing_at = self._clock.seconds() + seconds
            self._is_closing = True
        if thread is None:
            return frozenset()
        self._clock.wake()
        try:
            thread.join(seconds)
        finally:
            # Also if Ctrl-C ends the wait.
            if self._warns:
                self._warn_of_unpushed()
        with self._lock:
            return frozenset(self._running)

    def _warn_of_unpushed(self) -> None:
        with self._lock:
            late = [task.volume for task in self._tasks.values() if not task.is_flushed]
            unpushed = {**dict.fromkeys(late, "the time limit was reached"), **self._unpushed}
        for volume, reason in unpushed.items():
            _logger.warning(
                "%s may have unpushed commits (%s); they stay "
                "on this machine, and the next push sends them",
                self._title(volume),
                reason,
            )

    # The thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_closing:
            self._clock.wait(self._run_due())
        self._flush()
        _live.discard(self)

    def _run_due(self) -> float:
        """Run the due syncs; returns the seconds until the next one."""
        while True:
            with self._lock:
                now = self._clock.seconds()
                waiting = [task for task in self._tasks.values() if not task.is_running]
                due = sorted((t for t in waiting if t.due <= now), key=lambda each: each.due)
                if not due:
                    return min((task.due - now for task in waiting), default=self._interval)
            for task in due:
                if self._is_closing:
                    return 0.0
                with self._lock:
                    task.is_wanted, task.is_running = False, True
                self._workers.run(functools.partial(self._run_one, task))

    def _run_one(self, task: _Task) -> None:
        outcome, error = self._attempt(task, is_last=False)
        self._note_run(task, outcome, error)
        if task.is_running:
            self._flush_one(task)  # The flush leaves it to this thread.
        if self._workers.are_several:
            self._clock.wake()  # Its next run may be the first that is due.

    def _note_run(self, task: _Task, outcome: Outcome, error: Exception | None) -> None:
        """Decide when a volume's next run is due, from how the last one ended."""
        with self._lock:
            if self._is_closing:
                return
            task.is_running = False
            if outcome is Outcome.CLOSED and not task.is_wanted:
                self._tasks.pop(task.volume, None)
                _release(task)
                return
            pause = self._interval
            is_failure = error is not None and not isinstance(error, BusyError)
            if is_failure:
                task.failures += 1
                pause = backoff_seconds(self._interval, task.failures, self._clock.jitter())
            elif error is None:
                task.failures = 0
            if task.role is AutosyncRole.LEADER:
                task.last_run_ms = self._clock.time_ms()
            task.last_error = None if error is None else summary(error)
            had_diverged, task.has_diverged = task.has_diverged, outcome is Outcome.DIVERGED
            task.due = self._clock.seconds() + pause
        if not self._warns:
            return
        if task.has_diverged and not had_diverged:
            _logger.warning(
                "%s has diverged from its log; autosync skips it until that is resolved, by %s, or "
                "by the setting on_divergence (the manual's page two-writers)",
                self._title(task.volume),
                Hint(Advice.PULL_RESET, " or ", Advice.PULL_FORK),
            )
        if is_failure:
            level = logging.WARNING if task.failures == 1 else logging.DEBUG
            _logger.log(
                level,
                "autosync of %s failed, next run in %.0f s: %s",
                self._title(task.volume),
                pause,
                error,
            )

    def _attempt(self, task: _Task, *, is_last: bool) -> tuple[Outcome, Exception | None]:
        """Sync a volume if this process is its leader; returns the result and the error."""
        try:
            if not self._leads(task):
                return Outcome.SYNCED, None
            self._counters.add("autosync_runs")
            with self._lock:
                self._running.add(task.volume)
            return self._sync(task.volume, is_last=is_last), None
        except DivergedError:
            return Outcome.DIVERGED, None
        except GraftError as error:
            self._counters.add("autosync_failures")
            return Outcome.SYNCED, error
        except Exception as error:
            # A bug must not end the thread, or data would silently stay stale forever. The status
            # shows the error too.
            self._counters.add("autosync_failures")
            _logger.exception("autosync of %s", self._title(task.volume))
            return Outcome.SYNCED, error
        finally:
            with self._lock:
                self._running.discard(task.volume)

    def _leads(self, task: _Task) -> bool:
        """Return True if this process is the leader; become it if there is none."""
        if task.role is AutosyncRole.LEADER or task.directory is None:
            return True
        if task.lock is None:
            task.lock = FileLock(task.directory / layout.AUTOSYNC_LOCK)
        if task.lock.acquire():
            task.role = AutosyncRole.LEADER
            _logger.info("this process is the leader for autosync of volume %s", task.volume)
        else:
            task.role = AutosyncRole.FOLLOWER
        return task.role is AutosyncRole.LEADER

    def _flush(self) -> None:
        """Push unpushed commits, volume by volume, until the time limit.

        A volume whose sync is running is left to the thread of that sync, because one that hangs
        must not keep the others from being pushed.
        """
        with self._lock:
            idle = [task for task in self._tasks.values() if not task.is_running]
        for task in idle:
            self._workers.run(functools.partial(self._flush_one, task))
        self._workers.drain(self._closing_at - self._clock.seconds())

    def _flush_one(self, task: _Task) -> None:
        if self._clock.seconds() < self._closing_at:
            outcome, error = self._attempt(task, is_last=True)
            with self._lock:
                task.is_flushed = True
                if error is not None:
                    self._unpushed[task.volume] = summary(error)
                elif outcome is Outcome.DIVERGED:
                    self._unpushed[task.volume] = "it has diverged"
        _release(task)


def backoff_seconds(interval_seconds: float, failures: int, jitter: float) -> float:
    """Return the pause in seconds after consecutive failures; `jitter` is from 0 to 1."""
    longest = max(2 * interval_seconds, BACKOFF_SECONDS_MAX)
    return max(interval_seconds, backoff(interval_seconds, failures, longest, jitter))


def _release(task: _Task) -> None:
    if task.lock is not None:
        task.lock.close()


_live: weakref.WeakSet[Autosync] = weakref.WeakSet()


def is_live() -> bool:
    """Return True if the thread of an Autosync runs in this process."""
    return bool(_live)


def close_all() -> None:
    """Push unpushed commits, as at interpreter exit; see Autosync.close."""
    for autosync in list(_live):
        autosync.close()


atexit.register(close_all)
# The parent's threads do not exist in the child, and the parent finishes their work.
at_fork(Step.THREADS, in_child=_live.clear)
