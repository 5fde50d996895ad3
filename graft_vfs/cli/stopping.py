"""Signals that end a program cleanly, and immediately if repeated.

The main thread waits for the first signal. The handler of the second one ends the process, whatever
its threads are waiting for.
"""

from __future__ import annotations

import os
import select
import signal
from types import FrameType
from typing import Self

from graft_vfs.cli.exit_codes import INTERRUPTED

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """Inside the block, `wait` receives the signals that end a program.

    Ignored signals, as with `nohup`, stay ignored. Owner: the main thread.
    """

    def __init__(self) -> None:
        self._heard = 0

    def __enter__(self) -> Self:
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        # Also instead of the descriptor of `noticed_at_once`, which would send Ctrl-C again.
        self._former = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._writer = writer
        self._handlers = {
            number: signal.signal(number, self._note)
            for number in _SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._former)
        os.close(self._reader)
        os.close(self._writer)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - Python's call
        self._heard += 1
        if self._heard > 1:
            os._exit(INTERRUPTED)

    def wait(self, seconds: float) -> signal.Signals | None:
        """Wait for a signal up to this long; returns None if none arrived."""
        if not select.select([self._reader], [], [], seconds)[0]:
            return None
        return signal.Signals(os.read(self._reader, 1)[0])

    def wake(self) -> None:
        """End the current or next wait, as SIGPIPE would. Any thread."""
        os.write(self._writer, bytes([signal.SIGPIPE]))
