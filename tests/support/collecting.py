"""Runs the garbage collector, or a signal handler, at a chosen point inside another call.

Both may run at any Python call, in the same thread: the collector closes connections in cycles, and
a handler may do anything. This module runs them at each call of the package.
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
    """An object that only the collector can free."""

    def __init__(self, held: object) -> None:
        self.held = held
        self.itself = self


@contextlib.contextmanager
def _called_at_calls(function: Callable[[tuple[str, int, str]], None]) -> Iterator[None]:
    """Inside the block, call a function at each call of the package."""

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
    """Repeat an operation, and collect a victim at each of its calls; returns their number."""
    seen = set()
    before = -1
    while len(seen) > before:
        before = len(seen)
        held = victims()
        gc.disable()
        gc.collect()
        gc.freeze()  # So that a collection examines only the cycles.
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
    """Inside the block, call a handler at each call of the package; yields these places."""
    seen: set[tuple[str, int, str]] = set()

    def handle(place: tuple[str, int, str]) -> None:
        if place not in seen:
            seen.add(place)
            handler()

    with _called_at_calls(handle):
        yield seen
