"""The floor of a log with retention: the number up to which its LSNs are closed.

    logs/<log>/floor    one object; absent while nothing is closed

What closed means, and why a client may act as it does, is decision 19. The object has the lines of
`format.lines`, of the kind `floor` and version 1: the log id, the newest closed LSN F, and the
grace period in commit F in seconds.

Invariants:
 1. A floor only rises. It is created if absent, and then replaced only if it still has the bytes
    that the collector read.
 2. A floor that a cache answers for is not believed: it may be of any age.
 3. Whatever the bytes are, decoding raises CorruptObjectError or FutureVersionError and nothing
    else.
"""

from __future__ import annotations

from dataclasses import dataclass

from graft_vfs.errors import ConflictError, ObjectMissingError, StoreError
from graft_vfs.format.commit import GRACE_SECONDS_MIN
from graft_vfs.format.lines import (
    LINES_BYTES_MAX,
    decode_lines,
    encode_lines,
    number,
    require_log,
)
from graft_vfs.ids import LogId
from graft_vfs.pages import LSN_MAX, NO_LSN, RemoteLsn
from graft_vfs.remote.entries import create_once, replace_as_read
from graft_vfs.remote.log import LOGS_PREFIX
from graft_vfs.store.base import ObjectStore
from graft_vfs.store.dates import answered

_KIND, _VERSION = "floor", 1
_GRACE_SECONDS_MAX = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Floor:
    """The newest closed LSN of a log, 0 for none, and the grace period in its commit."""

    log_id: LogId
    lsn: RemoteLsn = NO_LSN
    grace_seconds: int = 0

    def encode(self) -> bytes:
        """Return the bytes of the object."""
        assert 0 < self.lsn <= LSN_MAX
        assert self.grace_seconds >= GRACE_SECONDS_MIN
        return encode_lines(_KIND, _VERSION, (self.log_id, self.lsn, self.grace_seconds))


def floor_key(log_id: LogId) -> str:
    """Return the key of a log's floor."""
    return f"{LOGS_PREFIX}{log_id}/floor"


def read_floor(store: ObjectStore, log_id: LogId) -> Floor:
    """Return the floor of a log. One request.

    Raises CorruptObjectError, FutureVersionError, and StoreError, even if a cache answers.
    """
    key = floor_key(log_id)
    with answered(key) as answer:
        try:
            content = store.get_range(key, 0, LINES_BYTES_MAX + 1)
        except ObjectMissingError:
            content = b""
    if answer.is_cached:
        raise StoreError(
            f"a cache in front of {store.describe()} answered for {key}, which has to come from "
            "the store itself",
            next_step=f"exempt {LOGS_PREFIX} from the cache",
        )
    return decode_floor(content, key=key, log_id=log_id) if content else Floor(log_id)


def raise_floor(store: ObjectStore, old: Floor, new: Floor) -> None:
    """Replace the floor `old` of a log by a higher one; durable on return.

    Two requests, one for the first floor. Raises ConflictError if another collector was first.
    """
    assert new.lsn > old.lsn
    key = floor_key(new.log_id)
    if old.lsn:
        is_raised = replace_as_read(store, key, old.encode(), new.encode())
    else:
        found = create_once(store, key, new.encode(), lambda: read_floor(store, new.log_id))
        is_raised = found in {None, new}
    if not is_raised:
        raise ConflictError(
            f"another collector has raised {key} meanwhile",
            next_step="run this again, from one machine at a time",
        )


def decode_floor(content: bytes, *, key: str, log_id: LogId) -> Floor:
    """Return the floor of `log_id`; raises CorruptObjectError or FutureVersionError."""
    log, *lines = decode_lines(content, kind=_KIND, version=_VERSION, count=3, key=key)
    require_log(log, log_id, key=key)
    lsn = number(lines[0], key=key, first=1, last=LSN_MAX)
    grace_seconds = number(lines[1], key=key, first=GRACE_SECONDS_MIN, last=_GRACE_SECONDS_MAX)
    return Floor(log_id, RemoteLsn(lsn), grace_seconds)
