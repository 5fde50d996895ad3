"""Autosync: a thread that pushes what was committed and pulls what is new, every few seconds.

It syncs the volumes that are open in this process, one after the other; a daemon has it sync those
that tags name, a few at a time. Nothing is done when a
transaction commits: each run looks whether there are local commits. So what was committed is on the
remote at the latest one interval and one push later, and a run that finds nothing new costs one
request.

Invariants:
 1. Of all processes that have a volume open, one syncs it: the one that holds the lock file
    `autosync.lock` of the volume, its leader. The kernel drops the lock of a dead process, and
    the next process that asks takes over; a follower asks once an interval, without a request.
    A daemon takes no such lock: whether it finds a commit on the remote or pushes it is the same.
 2. Two runs of a volume are at least one interval apart. After failures in a row the pause doubles,
    up to five minutes or two intervals, with half of it random.
 3. A volume that has diverged costs no request until that is resolved.

Crash here: what `push` and `pull` leave, which the next leader settles.

It never decides what becomes of diverged commits.
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
"""How long closing waits for what was not pushed."""
BACKOFF_SECONDS_MAX = 300.0


class Clock:
    """The time, a wait that another thread can end, and chance. One for each Autosync."""

    def __init__(self) -> None:
        self._woken = threading.Event()

    def seconds(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()

    def time_ms(self) -> int:
        """Return milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def wait(self, seconds: float) -> None:
        """Return after so many seconds, or as soon as `wake` was called since the last wait."""
        self._woken.wait(seconds)
        self._woken.clear()

    def wake(self) -> None:
        """End the wait that is running, or the next one."""
        self._woken.set()

    @staticmethod
    def jitter() -> float:
        """Return a number from 0 to 1, by which pauses of several machines differ."""
        return random.random()  # noqa: S311 - chance, not a secret


class Outcome(enum.Enum):
    """How one sync of a volume ended, if not with an error."""

    SYNCED = "it is up to date with the remote, as far as is known"
    DIVERGED = "it has diverged, which was found without a request"
    CLOSED = "it is no longer open, or no tag names it"


class Sync(Protocol):
    """Syncs one volume; raises GraftError. With `is_last` it is closing and is not to pull."""

    def __call__(self, volume_id: VolumeId, /, *, is_last: bool) -> Outcome:
        """Push, pull, or find out that there is nothing to do."""
        ...


@dataclass(slots=True)
class _Task:
    """What is known about one volume's syncs. Guarded by the lock of its Autosync."""

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

    Owner: the engine. Thread rule: any thread. The thread starts with the first volume; it does not
    survive a fork, where the child's own engine starts its own.
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
    ) -> None:
        """Sync by `sync`, in so many threads; `warns` unless `sync` itself says how it ended."""
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
        self._running: set[VolumeId] = set()
        self._is_closing = False
        self._closing_at = 0.0
        self._unpushed: dict[VolumeId, str] = {}

    def add(self, volume: VolumeId, directory: Path | None) -> None:
        """Sync a volume from now on; harmless if it is synced already. No request here.

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
            # No thread is to be had, or the interpreter is ending. The volume opens all the same.
            _logger.warning("autosync does not run: %s", error)
            return
        self._thread = thread
        _live.add(self)

    def report(self, volume: VolumeId) -> AutosyncReport | None:
        """Return how the syncs of a volume stand; None if it is not synced."""
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
        """Push what was not pushed, for so long at most, and end the thread.

        What could not be pushed is told by a warning; it stays in its volume, and the next push has
        it. Returns the volumes whose syncs did not end in time. Harmless when repeated, and in the
        child of a fork, where the syncs are the parent's.
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
            # Also when Ctrl-C ends the wait.
            if self._warns:
                self._warn_of_unpushed()
        with self._lock:
            return frozenset(self._running)

    def _warn_of_unpushed(self) -> None:
        with self._lock:
            late = [task.volume for task in self._tasks.values() if not task.is_flushed]
            unpushed = {**dict.fromkeys(late, "there was no time left"), **self._unpushed}
        for volume, reason in unpushed.items():
            _logger.warning(
                "volume %s may have commits that were not pushed before the end (%s); they stay "
                "here, and the next push has them",
                volume,
                reason,
            )

    # The thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_closing:
            self._clock.wait(self._run_due())
        self._flush()
        _live.discard(self)

    def _run_due(self) -> float:
        """Run what is due; returns how many seconds nothing will be."""
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
        if self._workers.are_several:
            self._clock.wake()  # Its next run may be the first that is due.

    def _note_run(self, task: _Task, outcome: Outcome, error: Exception | None) -> None:
        """Decide when a volume's next run is due, from how the last one ended."""
        with self._lock:
            task.is_running = False
            if self._is_closing:
                return  # The flush looks at this volume again, and tells what it finds.
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
                "volume %s has diverged from its log; autosync leaves it alone until that is "
                "resolved",
                task.volume,
            )
        if is_failure:
            level = logging.WARNING if task.failures == 1 else logging.DEBUG
            _logger.log(
                level, "autosync of volume %s, again in %.0f s: %s", task.volume, pause, error
            )

    def _attempt(self, task: _Task, *, is_last: bool) -> tuple[Outcome, Exception | None]:
        """Sync a volume if this process leads it; returns what came of it, and what kept it."""
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
            # A fault of the program must not end the thread, or data would be stale for ever with
            # no sign. The status shows it, too.
            self._counters.add("autosync_failures")
            _logger.exception("autosync of volume %s", task.volume)
            return Outcome.SYNCED, error
        finally:
            with self._lock:
                self._running.discard(task.volume)

    def _leads(self, task: _Task) -> bool:
        """Return True if this process leads the volume; take the lead if no process has it."""
        if task.role is AutosyncRole.LEADER or task.directory is None:
            return True
        if task.lock is None:
            task.lock = FileLock(task.directory / layout.AUTOSYNC_LOCK)
        if task.lock.acquire():
            task.role = AutosyncRole.LEADER
            _logger.info("this process leads the autosync of volume %s", task.volume)
        else:
            task.role = AutosyncRole.FOLLOWER
        return task.role is AutosyncRole.LEADER

    def _flush(self) -> None:
        """Push what was not pushed, volume after volume, as long as there is time."""
        self._workers.drain(self._closing_at - self._clock.seconds())
        for task in self._tasks.values():
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
    """Return the pause after so many failures in a row, in seconds; `jitter` is from 0 to 1."""
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
    """Push what was not pushed, as at the interpreter's end; see Autosync.close."""
    for autosync in list(_live):
        autosync.close()


atexit.register(close_all)
# The threads of the parent are not in the child, and what they did is the parent's to end.
at_fork(Step.THREADS, in_child=_live.clear)
