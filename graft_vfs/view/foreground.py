"""Reads that wait for the remote, and background work that lets them pass."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType


class Foreground:
    """Counts the reads that wait for the remote now; each is one `with` block.

    Owner: the logs of an engine. Thread rule: any thread. The lock is held for a few instructions;
    a thread that reads is `occupied`, so no signal handler reads meanwhile.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._waiting = 0

    def __enter__(self) -> None:
        """Count one more."""
        with self._changed:
            self._waiting += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Count one less."""
        with self._changed:
            self._waiting -= 1
            if not self._waiting:
                self._changed.notify_all()

    def let_pass(self, is_over: Callable[[], bool]) -> None:
        """Return once no read waits for the remote, or `is_over` when `wake` was called."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or is_over())

    def wake(self) -> None:
        """Have all who wait look whether their work is over."""
        with self._changed:
            self._changed.notify_all()
