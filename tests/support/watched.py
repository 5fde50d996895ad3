"""A mutex that tells who has it and who waits, so that two threads meet where a test wants it."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Watched:
    """A re-entrant mutex in the place of another one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._holder: int | None = None
        self._depth = 0
        self._is_asked = threading.Event()

    def __enter__(self) -> None:
        if self._holder != threading.get_ident():
            self._is_asked.set()
        self._lock.__enter__()
        self._holder = threading.get_ident()
        self._depth += 1

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._holder = None
        self._lock.__exit__(*error)

    def run_beside(self, work: Callable[[], object]) -> threading.Thread:
        """Start `work` in another thread; returns when it has ended or waits for this mutex."""

        def until_done() -> None:
            try:
                work()
            finally:
                self._is_asked.set()

        self._is_asked.clear()
        thread = threading.Thread(target=until_done)
        thread.start()
        assert self._is_asked.wait(60)
        if self._holder != threading.get_ident():
            thread.join(60)
            assert not thread.is_alive()
        return thread
