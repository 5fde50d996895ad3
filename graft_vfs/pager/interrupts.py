"""Ctrl-C during a long computation, and errors that SQLite must not see."""

from __future__ import annotations

import _thread
import ctypes
import threading
from typing import Any

import apsw

_STEPS_BETWEEN_CALLS = 50_000


def end_on_interrupt(connection: apsw.Connection) -> None:
    """Make Ctrl-C end each later statement of a connection with KeyboardInterrupt.

    Python handles a signal only while it runs, so SQLite calls Python every 50 000 steps of its
    virtual machine (a few milliseconds).
    """
    connection.set_progress_handler(lambda: False, _STEPS_BETWEEN_CALLS, id=end_on_interrupt)


def raise_behind(error: BaseException) -> None:
    """Raise an error in the calling thread after SQLite has returned from the current callback.

    Another thread requests it, because this thread would raise it at its next instruction, still
    inside the callback. It may also be raised in a later callback of the same statement, which then
    ends in the same way.
    """

    def itself(*_: object) -> BaseException:
        # C code that passes the class on may call it with an argument.
        return error

    # Only a class can be requested. Its only instance is the error itself.
    kind: Any = type(type(error).__name__, (BaseException,), {"__new__": itself})
    ask = ctypes.pythonapi.PyThreadState_SetAsyncExc
    interrupted = ctypes.c_ulong(threading.get_ident())
    _thread.start_new_thread(ask, (interrupted, ctypes.py_object(kind)))
