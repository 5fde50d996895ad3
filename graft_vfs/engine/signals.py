"""SIGTERM and SIGHUP with autosync: local commits are pushed, then the signal ends the process.

Programs that handle or ignore these signals are not affected: autosync's final push then runs in
`engine.close` or at interpreter exit. A handler is set only where the signal's default action would
kill the process, and only Python's main thread can set it.

Python runs a handler when the main thread next executes Python code; the manual documents that
limit. The handler may run while its thread holds a lock, so it does no work itself: a separate
thread pushes, for FLUSH_SECONDS at most, while the program continues. Then the signal is sent
again, with its default action. Commits made during that time stay local, and the next process
pushes them.
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
    """Set handlers for signals whose default ends the process; idempotent."""
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _handle)


def restore() -> None:
    """Restore the defaults if no engine syncs any more; otherwise do nothing."""
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
            _end(number)  # No thread can start any more.


def _flush(number: int) -> None:
    """Push, then make the main thread end the process."""
    global _is_flushed  # noqa: PLW0603
    try:
        autosync.close_all()
    finally:
        _is_flushed = True
        main = threading.main_thread().ident
        while main is not None:
            # Repeatedly: Python may record a signal just before the thread begins to wait.
            signal.pthread_kill(main, number)
            time.sleep(_AGAIN_SECONDS)


def _end(number: int) -> None:
    """Do what the signal's default action does."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    # The kernel does not kill process 1 of a container this way.
    os._exit(128 + number)


def _forget() -> None:
    """In a forked child: the thread and its push belong to the parent."""
    global _flusher, _is_flushed
    _flusher, _is_flushed = None, False


at_fork(Step.THREADS, in_child=_forget)
