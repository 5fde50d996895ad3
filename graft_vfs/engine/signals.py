"""SIGTERM and SIGHUP under autosync: what was committed is pushed, then the process ends by them.

A program that handles these signals itself, or ignores them, is left alone: its own way to end
reaches autosync through `engine.close` or through the end of the interpreter. Only where a signal
would have killed the process at once is there a handler, and only Python's main thread can set one.

Python runs a handler when the main thread next executes Python code: README names that limit.
The handler does no work where it runs, which may be inside a lock: a thread of its own pushes, for
FLUSH_SECONDS at most, while the program goes on. Then the signal is sent again and does what it
would have done. What is committed meanwhile stays local and is pushed by the next process.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType

from graft_vfs.engine import autosync
from graft_vfs.local.fork import Step, at_fork

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_AGAIN_SECONDS = 0.1
_flusher: threading.Thread | None = None
_is_flushed = False


def push_before_end() -> None:
    """Set the handlers where the default would end the process; harmless when repeated."""
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _handle)


def restore() -> None:
    """Give the defaults back if no engine syncs any more; otherwise do nothing."""
    if autosync.is_live() or threading.current_thread() is not threading.main_thread():
        return
    for number in _SIGNALS:
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_DFL)


def _handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    global _flusher  # noqa: PLW0603 - signals are the process's, too
    if _is_flushed or not autosync.is_live():
        _end(number)
    elif _flusher is None:
        _flusher = threading.Thread(
            target=_flush, args=(number,), name="graft-last-push", daemon=True
        )
        try:
            _flusher.start()
        except RuntimeError:
            _end(number)  # No thread is to be had any more.


def _flush(number: int) -> None:
    """Push, then make the main thread end the process."""
    global _is_flushed  # noqa: PLW0603
    try:
        autosync.close_all()
    finally:
        _is_flushed = True
        main = threading.main_thread().ident
        while main is not None:
            # Again and again: Python may note a signal just before the thread begins to wait.
            signal.pthread_kill(main, number)
            time.sleep(_AGAIN_SECONDS)


def _end(number: int) -> None:
    """Do what the signal does without a handler."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    # The kernel does not kill the first process of a container in this way.
    os._exit(128 + number)


def _forget() -> None:
    """In the child of a fork: the thread is the parent's, and so is what it pushes."""
    global _flusher, _is_flushed
    _flusher, _is_flushed = None, False


at_fork(Step.THREADS, in_child=_forget)
