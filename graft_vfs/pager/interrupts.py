"""Ctrl-C that ends a statement which computes for long, and errors that SQLite must not see."""

from __future__ import annotations

import _thread
import ctypes
import threading
from typing import Any

import apsw

_STEPS_BETWEEN_CALLS = 50_000


def end_on_interrupt(connection: apsw.Connection) -> None:
    """Have Ctrl-C end each later statement of a connection with KeyboardInterrupt.

    Python sees a signal only when it is called, so SQLite calls it every 50 000 steps of its
    machine (some milliseconds).
    """
    connection.set_progress_handler(lambda: False, _STEPS_BETWEEN_CALLS, id=end_on_interrupt)


def raise_behind(error: BaseException) -> None:
    """Raise an error in the calling thread when SQLite has returned from the present callback.

    Another thread has to ask for it, because this one would raise it at its next instruction, which
    is still inside the callback. It may come in a later callback of the same statement, which ends
    like this one then.
    """

    def itself(*_: object) -> BaseException:
        # Code in C that passes the class on may call it with a value of its own.
        return error

    # Only a class can be asked for. This one has no object but the error itself.
    kind: Any = type(type(error).__name__, (BaseException,), {"__new__": itself})
    ask = ctypes.pythonapi.PyThreadState_SetAsyncExc
    interrupted = ctypes.c_ulong(threading.get_ident())
    _thread.start_new_thread(ask, (interrupted, ctypes.py_object(kind)))
