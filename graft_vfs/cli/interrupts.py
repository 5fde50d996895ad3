"""Ctrl-C that also ends a call that starts to wait at the same moment.

Python records a signal and raises KeyboardInterrupt when the main thread next runs Python code. The
signal interrupts a blocking system call, but not if it arrives between Python's last check and the
call, or in another thread: then a command would continue until the remote answers. So a thread is
notified of the signal (`signal.set_wakeup_fd`), and sends it again until the main thread has
handled it.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

_AGAIN_SECONDS = 0.1


class _Watch:
    """Ensures that the main thread handles the first Ctrl-C.

    Owner: the main thread, which creates it. `note` runs there between any two instructions, so it
    takes no locks: each attribute is written by one thread while the other does not use it.
    """

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._is_over = False
        self._sent_again = -math.inf

    def note(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt, but not for a signal that was repeated too late."""
        if self._is_over and time.monotonic() - self._sent_again < _AGAIN_SECONDS:
            return
        self._is_over = True
        signal.default_int_handler(number, frame)

    def watch(self, reader: int) -> None:
        """Until the other end of the pipe is closed, ensure that its signals are handled."""
        while number := os.read(reader, 1):
            while number[0] == signal.SIGINT:
                time.sleep(_AGAIN_SECONDS)
                if self._is_over:
                    break
                self._sent_again = time.monotonic()
                signal.pthread_kill(self._main, signal.SIGINT)

    def end(self) -> None:
        """Stop forwarding signals."""
        self._is_over = True


@contextlib.contextmanager
def noticed_at_once() -> Iterator[None]:
    """Ensure that the first Ctrl-C inside the block is handled; for the main thread.

    If Ctrl-C is ignored or has another handler, as in background jobs, nothing changes.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.default_int_handler:
        yield
        return
    watch = _Watch()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    thread = threading.Thread(
        target=watch.watch, args=(reader,), name="graft-interrupts", daemon=True
    )
    thread.start()
    # A full pipe loses nothing: one byte is enough.
    former = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, watch.note)
    try:
        yield
    finally:
        watch.end()
        signal.signal(signal.SIGINT, handler)
        signal.set_wakeup_fd(former)
        os.close(writer)
        thread.join()
        os.close(reader)
