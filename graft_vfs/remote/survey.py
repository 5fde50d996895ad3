"""What one listing of a log with retention shows, and since when.

All keys of a log begin alike, so one listing has its commits, floor, names, pins, children, rolls
and tables: one request for each 1000. Its first answer dates it: later ones may show what came
later, which only keeps more.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from graft_vfs.errors import CorruptObjectError, UnsafeStoreError
from graft_vfs.ids import LogId
from graft_vfs.pages import RemoteLsn
from graft_vfs.remote.floor import floor_key
from graft_vfs.remote.log import LOGS_PREFIX, ascending, commits_prefix
from graft_vfs.remote.pins import children_prefix, pins_prefix
from graft_vfs.store.base import ObjectInfo, ObjectStore
from graft_vfs.store.dates import Answered, answered

_JUMP_MS = 60_000
"""How far in the future the store may have dated an object: its servers have several clocks."""


@dataclass(slots=True)
class Survey:
    """The objects of a log by kind, with the store's time of their last write, and its time now."""

    now_ms: int
    commits: dict[RemoteLsn, int] = field(default_factory=dict)
    floor_ms: int | None = None
    pins: dict[str, int] = field(default_factory=dict)
    children: list[str] = field(default_factory=list)


def survey(store: ObjectStore, log_id: LogId) -> Survey:
    """List a log. Raises UnsafeStoreError if the store has no clock, or one that jumps."""
    prefix = f"{LOGS_PREFIX}{log_id}/"
    with answered(prefix) as answer:
        listed = store.list(prefix)
        first = next(listed, None)
        found = Survey(_require_time(store, answer))
        for each in [] if first is None else itertools.chain([first], listed):
            # By the answer that shows it.
            _add(found, store, log_id, each, _require_time(store, answer))
    return found


def _require_time(store: ObjectStore, answer: Answered) -> int:
    now_ms = answer.date_ms
    if now_ms is None:
        raise UnsafeStoreError(
            f"{store.describe()} does not say what time it is, so nothing can be deleted by age",
            next_step="use S3, or a directory on a local disk of this machine, without a proxy or "
            "cache that changes its Date",
        )
    return now_ms


def _add(found: Survey, store: ObjectStore, log_id: LogId, each: ObjectInfo, now_ms: int) -> None:
    if each.modified is None:
        raise UnsafeStoreError(
            f"{store.describe()} does not say when it has written {each.key}",
            next_step="use a store that lists when its objects were written, such as S3",
        )
    modified_ms = round(each.modified * 1000)
    if modified_ms > now_ms + _JUMP_MS:
        raise UnsafeStoreError(
            f"{store.describe()} has a clock that jumps: it says that {each.key} was written "
            f"{(modified_ms - now_ms) // 1000} s from now",
            next_step="set its clock, preferably by NTP, and wait until that time has passed",
        )
    commits = commits_prefix(log_id)
    if each.key.startswith(commits):
        try:
            found.commits[ascending(each.key.removeprefix(commits), key=each.key)] = modified_ms
        except CorruptObjectError:
            return  # Foreign, and not ours to delete.
    elif each.key == floor_key(log_id):
        found.floor_ms = modified_ms
    elif each.key.startswith(pins_prefix(log_id)):
        found.pins[each.key] = modified_ms
    elif each.key.startswith(children_prefix(log_id)):
        found.children.append(each.key)
