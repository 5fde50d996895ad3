"""A clock that a test controls."""

from __future__ import annotations

import threading

from graft_vfs.engine.autosync import Clock
from graft_vfs.store.s3.exchange import Clock as StoreClock

_PATIENCE_SECONDS = 60


class SkippingClock(StoreClock):
    """The clock of a store: a pause returns at once and advances the time."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self._skipped = 0.0

    def seconds(self) -> float:
        return super().seconds() + self._skipped

    def pause(self, seconds: float, end: threading.Event | None = None) -> None:  # noqa: ARG002
        self.pauses.append(seconds)
        self._skipped += seconds

    def skip(self, seconds: float) -> None:
        """Advance the time."""
        self._skipped += seconds


class ManualClock(Clock):
    """Only `advance` moves the time; it returns when all waiting threads wait again."""

    def __init__(self) -> None:
        super().__init__()
        self._condition = threading.Condition()
        self._now = 0.0
        self._until: float | None = None
        self._is_woken = False

    def seconds(self) -> float:
        return self._now

    def time_ms(self) -> int:
        return int(self._now * 1000)

    def wait(self, seconds: float) -> None:
        with self._condition:
            self._until = self._now + seconds
            self._condition.notify_all()
            self._condition.wait_for(self._is_over)
            self._until, self._is_woken = None, False

    def wake(self) -> None:
        with self._condition:
            self._is_woken = True
            self._condition.notify_all()

    @staticmethod
    def jitter() -> float:
        return 1.0

    def _is_over(self) -> bool:
        assert self._until is not None
        return self._is_woken or self._now >= self._until

    def move(self, seconds: float) -> None:
        """Advance the time, and return at once."""
        with self._condition:
            self._now += seconds
            self._condition.notify_all()

    def settle(self) -> None:
        """Return when everything due is done."""
        with self._condition:
            assert self._condition.wait_for(
                lambda: self._until is not None and not self._is_over(), _PATIENCE_SECONDS
            )

    def advance(self, seconds: float) -> None:
        """Advance the time, and return when everything due is done."""
        self.move(seconds)
        self.settle()
