"""What a thread is in the middle of, and a handler or finalizer in it must not do meanwhile.

A signal handler, or a finalizer that the garbage collector calls, may read a page in the middle of
any call. While its own thread fetches a page, sends a request or fills the page cache, it would
wait for locks that this thread holds (in the page cache, the executor, the store's client), or
change under it what they guard. So it is refused.
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
    """`depth` counts what the thread is in the middle of."""

    depth = 0


thread = _Thread()


@contextlib.contextmanager
def occupied() -> Iterator[None]:
    """Have reads of pages that have to be looked for refused inside the block, in this thread."""
    thread.depth += 1
    try:
        yield
    finally:
        thread.depth -= 1


def refuse_reentry() -> None:
    """Raise ReentryError if this thread is in the middle of such work."""
    if thread.depth:
        raise ReentryError(
            "a signal handler or finalizer reads a page while its thread is fetching another",
            next_step="run it again outside the handler, and close connections before they are "
            "garbage",
        )


def living(values: weakref.WeakValueDictionary[Any, _Value]) -> list[_Value]:
    """Return the values of a weak dictionary, to which a handler may add in the middle.

    Its own iteration is code in Python, and ends with RuntimeError then; the copy of its references
    is one call.
    """
    return [value for reference in values.valuerefs() if (value := reference()) is not None]
