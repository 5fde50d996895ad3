"""The garbage collector, or a signal's handler, at a chosen moment in the middle of another's call.

Either may run at any call of Python, in the same thread: the collector closes connections that it
finds in cycles, a handler does what it likes. Here they run at each place where the package calls
something.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import graft_vfs

_PACKAGE = str(Path(graft_vfs.__file__).parent)


class _Cycle:
    """Something that only the collector can free."""

    def __init__(self, held: object) -> None:
        self.held = held
        self.itself = self


@contextlib.contextmanager
def _called_at_calls(function: Callable[[tuple[str, int, str]], None]) -> Iterator[None]:
    """Call a function with each place of the package that calls something inside the block."""

    def look(frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_call") and frame.f_code.co_filename.startswith(_PACKAGE):
            caller = frame if event == "c_call" else frame.f_back
            if caller is not None:
                name = frame.f_code.co_name if event == "call" else event
                function((caller.f_code.co_filename, caller.f_lineno, name))

    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(None)


def collect_everywhere(victims: Callable[[], list[Any]], act: Callable[[], None]) -> int:
    """Repeat an act, and collect a victim at each place of it; returns the number of places."""
    seen = set()
    before = -1
    while len(seen) > before:
        before = len(seen)
        held = victims()
        gc.disable()
        gc.collect()
        gc.freeze()  # So that a collection looks at nothing but the cycles.
        cycles = [_Cycle(held.pop()) for _ in range(len(held))]

        def collect(place: tuple[str, int, str], cycles: list[_Cycle] = cycles) -> None:
            if cycles and place not in seen:
                seen.add(place)
                cycles.pop()
                gc.collect()

        try:
            with _called_at_calls(collect):
                act()
        finally:
            gc.enable()
            gc.unfreeze()
            cycles.clear()
            gc.collect()
    return len(seen)


@contextlib.contextmanager
def handled_everywhere(handler: Callable[[], None]) -> Iterator[set[tuple[str, int, str]]]:
    """Call a handler at each place of the package inside the block; yields the places."""
    seen: set[tuple[str, int, str]] = set()

    def handle(place: tuple[str, int, str]) -> None:
        if place not in seen:
            seen.add(place)
            handler()

    with _called_at_calls(handle):
        yield seen
