"""Threads for the requests of one verb, which end with it.

They are not those of the engine, which fetch pages in the background, for four reasons. A query
that waits for a page would stand in one queue with the thousands of requests of a verb. Ctrl-C
leaves the threads of a verb behind with whatever they wait for, but an engine that closes waits for
its own. What reads a remote needs a store alone. And verbs never wait for a thread that another
verb has, so that no bound can be a deadlock. To start 32 threads takes less than one millisecond.

A task submits nothing to the executor that runs it, and waits for none of its tasks. A verb that is
a task itself has threads of its own again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

from graft_vfs.store.base import REQUESTS_MAX


@contextlib.contextmanager
def request_threads(name: str, number: int = REQUESTS_MAX) -> Iterator[Executor]:
    """Yield an executor of up to `number` threads; what has not begun is cancelled at the end.

    A caller who stops early waits for the requests that are already on their way, a person who
    presses Ctrl-C does not.
    """
    executor = ThreadPoolExecutor(number, thread_name_prefix=name)
    waits = True
    try:
        yield executor
    except KeyboardInterrupt:
        waits = False
        raise
    finally:
        executor.shutdown(wait=waits, cancel_futures=True)
