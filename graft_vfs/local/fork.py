"""What happens around os.fork(), in one order, whichever modules a process has imported.

Only the thread that forks goes on in the child, and what the others had locked stays locked there
for ever. So before a fork each step below, from the first to the last, waits until no other thread
is in the middle of what the child needs. Afterwards they run from the last to the first, in parent
and child. Waiting in this order always ends: a thread that has a catalog locked may wait for an
import, and one that imports waits for no catalog.

A hook that fails keeps none of the others from running; Python prints its error.
"""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Callable


class Step(enum.IntEnum):
    """What a hook is about."""

    REGISTRY = enum.auto()
    """Child: the lock of the registered VFS is a new one."""
    FILES = enum.auto()
    """Child: files of the VFS neither go on with the parent's transactions nor end them."""
    HANDLES = enum.auto()
    """Child: descriptors that hold the parent's locks are closed."""
    THREADS = enum.auto()
    """Child: autosync's threads, and the pushes that they owe, are the parent's alone."""
    CATALOG = enum.auto()
    """Both: SQLite's files are closed, as its documentation asks; each side opens them anew."""
    IMPORT = enum.auto()
    """Both: no module is half imported, which the child would wait for."""


_Hook = Callable[[], object]

_before: list[tuple[Step, _Hook]] = []
_in_parent: list[tuple[Step, _Hook]] = []
_in_child: list[tuple[Step, _Hook]] = []


def at_fork(
    step: Step,
    *,
    before: _Hook | None = None,
    in_parent: _Hook | None = None,
    in_child: _Hook | None = None,
) -> None:
    """Have hooks called at each fork from now on; for modules, at their import."""
    for hooks, hook in ((_before, before), (_in_parent, in_parent), (_in_child, in_child)):
        if hook is not None:
            hooks.append((step, hook))
            hooks.sort(key=lambda entry: entry[0])


def _prepare() -> None:
    _call([hook for _, hook in _before])


def _go_on(hooks: list[tuple[Step, _Hook]]) -> None:
    _call([hook for _, hook in reversed(hooks)])


def _call(hooks: list[_Hook]) -> None:
    with contextlib.ExitStack() as calls:
        for hook in reversed(hooks):  # A stack calls what was put on it last first.
            calls.callback(hook)


os.register_at_fork(
    before=_prepare,
    after_in_parent=lambda: _go_on(_in_parent),
    after_in_child=lambda: _go_on(_in_child),
)
