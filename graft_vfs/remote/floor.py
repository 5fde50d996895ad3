"""The floor of a log with retention: the number up to which its LSNs are closed.

    logs/<log>/floor    one object; absent while nothing is closed

What closed means, and why a client may act as it does, is decision 19. A floor is at most 512 bytes
of ASCII. This docstring is the normative text of version 1:

    graft-vfs floor 1 <newline>
    <log id> <newline>
    <F, the newest closed LSN, decimal> <newline>
    <grace period in commit F, in seconds, decimal> <newline>
    <XXH3-64 of all of the above in 16 hexadecimal digits> <newline>

Numbers have no leading zeros, so that equal floors have equal bytes.

Invariants:
 1. A floor only rises. It is created if absent, and then replaced only if it still has the bytes
    that the collector read.
 2. A floor that a cache answers for is not believed: it may be of any age.
 3. Whatever the bytes are, decoding raises CorruptObjectError or FutureVersionError and nothing
    else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from xxhash import xxh3_64_hexdigest

from graft_vfs.errors import (
    ConflictError,
    CorruptObjectError,
    FutureVersionError,
    InvalidIdError,
    ObjectMissingError,
    StoreError,
)
from graft_vfs.format.commit import GRACE_SECONDS_MIN
from graft_vfs.ids import LogId
from graft_vfs.pages import LSN_MAX, NO_LSN, RemoteLsn
from graft_vfs.remote.entries import create_once
from graft_vfs.remote.log import LOGS_PREFIX
from graft_vfs.store.base import ObjectStore
from graft_vfs.store.dates import answered

FLOOR_BYTES_MAX = 512

_MAGIC = b"graft-vfs floor "
_VERSION = 1
_LINES = 5
_NUMBER = re.compile(rb"[1-9][0-9]{0,19}")


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
        lines = (self.log_id, self.lsn, self.grace_seconds)
        body = b"%s%d\n%s" % (_MAGIC, _VERSION, "".join(f"{line}\n" for line in lines).encode())
        return body + xxh3_64_hexdigest(body).encode() + b"\n"


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
            content = store.get_range(key, 0, FLOOR_BYTES_MAX + 1)
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
        is_raised = store.replace(key, old.encode(), new.encode())
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
    version, *lines = content[: FLOOR_BYTES_MAX + 1].split(b"\n")
    digits = version.removeprefix(_MAGIC)
    if not version.startswith(_MAGIC) or not digits.isdigit():
        raise CorruptObjectError(
            f"{key} is not a floor of graft-vfs", next_step="check the bucket and its prefix"
        )
    if digits != b"%d" % _VERSION:
        raise FutureVersionError(
            f"{key} has format version {digits[:16].decode()}, this program reads {_VERSION}",
            next_step="upgrade graft-vfs",
        )
    if len(lines) != _LINES or lines[-1] or len(content) > FLOOR_BYTES_MAX:
        raise CorruptObjectError(f"{key}: a floor has {_LINES} lines")
    body = content[: -len(lines[-2]) - 1]
    if lines[-2] != xxh3_64_hexdigest(body).encode():
        raise CorruptObjectError(f"{key}: checksum mismatch, this is not what was written")
    try:
        found = LogId.parse(lines[0].decode("ascii"))
    except (UnicodeDecodeError, InvalidIdError) as error:
        raise CorruptObjectError(f"{key}: {error}") from error
    numbers = [int(line) if _NUMBER.fullmatch(line) else 0 for line in lines[1:3]]
    lsn, grace_seconds = numbers
    if found != log_id or not 0 < lsn <= LSN_MAX or grace_seconds < GRACE_SECONDS_MIN:
        raise CorruptObjectError(
            f"{key} says LSN {lsn} of log {found} and a grace period of {grace_seconds} s",
            next_step="restore the object from a replica or a backup",
        )
    return Floor(log_id, RemoteLsn(lsn), grace_seconds)
