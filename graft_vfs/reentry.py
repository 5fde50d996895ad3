"""Refuses work in a signal handler or finalizer that its own thread was already doing.

A signal handler, or a finalizer that the garbage collector calls, may read a page during any call.
If its own thread is fetching a page, sending a request or filling the page cache at that moment,
the read would wait for locks that this thread holds (in the page cache, the executor or the store's
client), or change the state that they protect. So the read is refused.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any, TypeVar

from graft_vfs.errors import ReentryError

_Value = TypeVar("_Value")


class _Thread(threading.local):
    """`depth` is the number of nested occupied blocks of the thread."""

    depth = 0


thread = _Thread()


@contextlib.contextmanager
def occupied() -> Iterator[None]:
    """Inside the block, refuse this thread's reads of pages that need a lookup."""
    thread.depth += 1
    try:
        yield
    finally:
        thread.depth -= 1


def refuse_reentry() -> None:
    """Raise ReentryError if this thread is inside such a block."""
    if thread.depth:
        raise ReentryError(
            "a signal handler or finalizer reads a page while its thread is fetching another",
            next_step="run it again outside the handler, and close connections before they are "
            "garbage",
        )


def living(values: weakref.WeakValueDictionary[Any, _Value]) -> list[_Value]:
    """Return the values of a weak dictionary, even if a handler adds one during the call.

    The dictionary's own iteration is Python code and would raise RuntimeError; copying its
    references is a single call.
    """
    return [value for reference in values.valuerefs() if (value := reference()) is not None]
