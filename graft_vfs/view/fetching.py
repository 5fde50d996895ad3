"""Fetching many ranges of frames into the page cache, a few at a time."""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Executor, Future
from queue import SimpleQueue
from typing import TypeAlias

from graft_vfs.errors import UsageError
from graft_vfs.view.ranges import FrameRange

VERB_RANGES = 8
"""How many ranges a verb fetches at a time; half of the threads stay free for pages that queries
wait for."""
BACKGROUND_RANGES = 2
_CLOSED = "the engine was closed while pages were fetched"


Fetch: TypeAlias = Callable[[FrameRange, Callable[[int], None]], None]


def keep(found: FrameRange, note: Callable[[int], None]) -> None:
    """Fetch a range into the page cache; raises LocalStorageError if the disk refuses a frame."""
    found.source.keep(found.frames, note)


def fetch_ranges(
    ranges: Iterable[FrameRange],
    executor: Callable[[], Executor],
    *,
    fetch: Fetch = keep,
    at_once: int = VERB_RANGES,
    arrived: Callable[[int], None] | None = None,
) -> None:
    """Fetch ranges, by default into the page cache, at most `at_once` of them at a time.

    A range is taken from `ranges` when its request is about to be sent. `fetch` receives it, and
    what to call with the stored bytes of each frame that has arrived. `arrived` is called in this
    thread with the stored bytes of each frame that has arrived. Raises the first error, such as
    LocalStorageError if the disk refuses a frame; the other requests end with their next piece, and
    what has arrived stays cached.
    """
    waiting = iter(ranges)
    is_over = threading.Event()
    events: SimpleQueue[int | Future[None]] = SimpleQueue()
    under_way: set[Future[None]] = set()

    def note(frame_bytes: int) -> None:
        if is_over.is_set():
            raise CancelledError
        executor()  # Which raises UsageError once the engine is closing.
        events.put(frame_bytes)

    def begin() -> None:
        for found in itertools.islice(waiting, at_once - len(under_way)):
            future = _submitted(executor, fetch, found, note)
            under_way.add(future)
            future.add_done_callback(events.put)

    try:
        begin()
        # In the order of their ends, so that one slow request does not hide what has arrived.
        # as_completed of the library would not return what a closing engine has cancelled.
        while under_way:
            event = events.get()
            if isinstance(event, Future):
                under_way.remove(event)
                event.result()
                begin()
            elif arrived is not None:
                arrived(event)
    except CancelledError as error:
        raise UsageError(_CLOSED) from error
    finally:
        is_over.set()
        for future in under_way:
            future.cancel()


def _submitted(
    executor: Callable[[], Executor],
    fetch: Fetch,
    found: FrameRange,
    note: Callable[[int], None],
) -> Future[None]:
    try:
        return executor().submit(fetch, found, note)
    except RuntimeError as error:  # It was closed between two ranges.
        raise UsageError(_CLOSED) from error


def fitting(
    ranges: Iterable[FrameRange], free_bytes: int
) -> tuple[list[FrameRange], list[FrameRange]]:
    """Return the ranges whose images together fit into `free_bytes`, and the others.

    The one at the limit is divided.
    """
    fit: list[FrameRange] = []
    others: list[FrameRange] = []
    for source, frames in ranges:
        ends = [*itertools.accumulate(map(source.frame_bytes, frames))]
        count = 0 if others else bisect_right(ends, free_bytes)
        if count:
            fit.append(FrameRange(source, frames[:count]))
            free_bytes -= ends[count - 1]
        if count < len(frames):
            others.append(FrameRange(source, frames[count:]))
    return fit, others
