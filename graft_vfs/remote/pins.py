"""Pins and children: what keeps commits of a log with retention beside its policy.

    logs/<log>/pins/<id>            a reader needs an LSN until the pin has run out
    logs/<parent>/children/<log>    a log was forked at an LSN

Both have the lines of `format.lines`, version 1: of the kind `pin` the log id, the LSN, and for how
many seconds after its last write it is valid; of the kind `child` the parent's id, the child's id,
the LSN of the parent, and 1 once that is known to be held, else 0. An id of a pin is 32 random
hexadecimal digits.

Invariant: who writes one reads the floor afterwards, and is refused if its LSN is closed. The
collector has closed before it lists, so one of them sees the other.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from dataclasses import dataclass, replace

from graft_vfs.errors import (
    CorruptObjectError,
    ExpiredError,
    InvalidIdError,
    ObjectMissingError,
    StoreError,
)
from graft_vfs.format.lines import (
    LINES_BYTES_MAX,
    decode_lines,
    encode_lines,
    number,
    require_log,
)
from graft_vfs.ids import LogId
from graft_vfs.pages import LSN_MAX, RemoteLsn
from graft_vfs.remote.entries import create_once
from graft_vfs.remote.floor import read_floor
from graft_vfs.remote.log import LOGS_PREFIX
from graft_vfs.store.base import ObjectStore
from graft_vfs.store.dates import answered

PIN_SECONDS = 3600
"""How long a pin is valid by default; its owner renews it after a third of that."""
_PIN_SECONDS_MAX = 366 * 86_400
_VERSION = 1
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Pin:
    """A reader's claim on an LSN of a log; `written_ms` is the store's time of the last write."""

    log_id: LogId
    lsn: RemoteLsn
    id: str
    seconds: int = PIN_SECONDS
    written_ms: int | None = None

    @property
    def key(self) -> str:
        """The key of its object."""
        return f"{pins_prefix(self.log_id)}{self.id}"


@dataclass(frozen=True, slots=True)
class Child:
    """A log that was forked from LSN `lsn` of a parent."""

    parent: LogId
    lsn: RemoteLsn
    log_id: LogId
    is_held: bool = False

    @property
    def key(self) -> str:
        """The key of its object."""
        return f"{children_prefix(self.parent)}{self.log_id}"


def pins_prefix(log_id: LogId) -> str:
    """Return the prefix of the keys of a log's pins."""
    return f"{LOGS_PREFIX}{log_id}/pins/"


def children_prefix(log_id: LogId) -> str:
    """Return the prefix of the keys of a log's children."""
    return f"{LOGS_PREFIX}{log_id}/children/"


def write_pin(
    store: ObjectStore, log_id: LogId, lsn: RemoteLsn, *, seconds: int = PIN_SECONDS
) -> Pin:
    """Pin an LSN; two requests. Raises ExpiredError if it is closed, StoreError."""
    return renew_pin(store, Pin(log_id, lsn, secrets.token_hex(16), seconds))


def renew_pin(store: ObjectStore, pin: Pin) -> Pin:
    """Make a pin valid from now on, and return it. One request; two if it had run out.

    Raises ExpiredError if it had run out and its LSN is closed, StoreError.
    """
    content = encode_lines("pin", _VERSION, (pin.log_id, pin.lsn, pin.seconds))
    with answered(pin.key) as answer:
        store.put(pin.key, [content])
    now_ms, before_ms = answer.date_ms, pin.written_ms
    if now_ms is None or before_ms is None or now_ms - before_ms > pin.seconds * 1000:
        require_open(store, pin.key, pin.log_id, pin.lsn)
    return replace(pin, written_ms=now_ms)


def release_pin(store: ObjectStore, pin: Pin) -> None:
    """Remove a pin, if that is allowed; otherwise it runs out. One request."""
    with contextlib.suppress(StoreError):
        store.delete(pin.key)


def register_child(store: ObjectStore, child: Child) -> None:
    """Register a fork at its parent. Three requests; two if that was done before.

    Raises ExpiredError if its LSN is closed, and it was not registered before that.
    """

    def read() -> Child | None:
        with contextlib.suppress(ObjectMissingError):
            return read_child(store, child.parent, child.key)
        return None

    found = create_once(store, child.key, _encoded(child), read)
    held = replace(child, is_held=True)
    if found == held:
        return
    require_open(store, child.key, child.parent, child.lsn)
    store.put(child.key, [_encoded(held)])


def _encoded(child: Child) -> bytes:
    facts = (child.parent, child.log_id, child.lsn, int(child.is_held))
    return encode_lines("child", _VERSION, facts)


def require_open(store: ObjectStore, key: str, log_id: LogId, lsn: RemoteLsn) -> None:
    """Raise ExpiredError if an LSN is closed, and remove what was written to hold it.

    One request, two if it is closed.
    """
    # Ordering: after the write, so that a collector that has not listed it has closed before.
    floor = read_floor(store, log_id)
    if lsn <= floor.lsn:
        with contextlib.suppress(StoreError):
            store.delete(key)
        raise ExpiredError(
            f"LSN {lsn} of log {log_id} is closed by its retention, as all up to LSN {floor.lsn}",
            next_step="use a newer commit, or one that has a name",
        )


def read_pin(store: ObjectStore, log_id: LogId, key: str) -> Pin:
    """Return the pin at a key. One request. Raises ObjectMissingError, CorruptObjectError."""
    name = key.removeprefix(pins_prefix(log_id))
    content = store.get_range(key, 0, LINES_BYTES_MAX + 1)
    log, *lines = decode_lines(content, kind="pin", version=_VERSION, count=3, key=key)
    require_log(log, log_id, key=key)
    lsn = number(lines[0], key=key, first=1, last=LSN_MAX)
    seconds = number(lines[1], key=key, first=1, last=_PIN_SECONDS_MAX)
    if not _ID.fullmatch(name):
        raise CorruptObjectError(f"{key} is a copy of a pin")
    return Pin(log_id, RemoteLsn(lsn), name, seconds)


def read_child(store: ObjectStore, parent: LogId, key: str) -> Child:
    """Return the child at a key. One request. Raises ObjectMissingError, CorruptObjectError."""
    content = store.get_range(key, 0, LINES_BYTES_MAX + 1)
    log, *lines = decode_lines(content, kind="child", version=_VERSION, count=4, key=key)
    require_log(log, parent, key=key)
    try:
        child = Child(
            parent,
            RemoteLsn(number(lines[1], key=key, first=1, last=LSN_MAX)),
            LogId.parse(lines[0]),
            is_held=number(lines[2], key=key, last=1) == 1,
        )
    except InvalidIdError as error:
        raise CorruptObjectError(f"{key}: {error}") from error
    if child.key != key:
        raise CorruptObjectError(f"{key} is a copy of the child {child.log_id}")
    return child
