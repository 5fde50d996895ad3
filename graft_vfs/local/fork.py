"""Hooks before and after os.fork(), in a fixed order, independent of the imported modules.

Only the forking thread continues in the child, and locks of other threads stay locked there
forever. So before a fork, each step below, from first to last, waits until no other thread is using
what the child needs. Afterwards the steps run from last to first, in parent and child. Waiting in
this order always ends: a thread that holds a catalog's lock may wait for an import, but an
importing thread never waits for a catalog.

If a hook fails, the others still run; Python prints the error.
"""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Callable


class Step(enum.IntEnum):
    """The purpose of a hook."""

    REGISTRY = enum.auto()
    """Child: the registered VFS gets a new lock."""
    FILES = enum.auto()
    """Child: files of the VFS neither continue nor end the parent's transactions."""
    HANDLES = enum.auto()
    """Child: descriptors with the parent's locks are closed."""
    THREADS = enum.auto()
    """Child: autosync's threads and pending pushes stay with the parent."""
    CATALOG = enum.auto()
    """Both: SQLite's files are closed, as its documentation requires; each side reopens them."""
    IMPORT = enum.auto()
    """Both: no import is in progress; the child would wait for it forever."""


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
    """Register hooks for all later forks; modules call this when they are imported."""
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
        for hook in reversed(hooks):  # A stack calls the last registered hook first.
            calls.callback(hook)


os.register_at_fork(
    before=_prepare,
    after_in_parent=lambda: _go_on(_in_parent),
    after_in_child=lambda: _go_on(_in_child),
)
