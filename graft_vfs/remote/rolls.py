"""Rolls: the hashes of the commits that a log with retention has closed.

    logs/<log>/rolls/<descending>    create-only, never deleted; the key has the first LSN

A client that finds its next LSN closed reads there whose commit it was; see decision 19. This
docstring is the normative text of version 1. Little-endian throughout.

      0   8  magic `GRAFTROL`
      8   2  format version: 1
     10   6  zeros
     16  16  log id
     32   8  first LSN
     40   4  number n of commits, 1..65536
     44   4  zeros
     48 32n  hash of each commit, from the first LSN on
     ..   8  XXH3-64 of all of the above

Invariants:
 1. A roll is written before the floor rises to its last LSN. All rolls of a log together have each
    closed LSN once.
 2. Whatever the bytes are, decoding raises CorruptObjectError or FutureVersionError and nothing
    else.
"""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

from graft_vfs.errors import (
    CorruptObjectError,
    FutureVersionError,
    InvalidIdError,
    ObjectMissingError,
)
from graft_vfs.format.commit import HASH_BYTES
from graft_vfs.ids import LogId
from graft_vfs.pages import LSN_MAX, RemoteLsn
from graft_vfs.remote.entries import create_once
from graft_vfs.remote.floor import Floor
from graft_vfs.remote.log import LOGS_PREFIX, ascending, descending
from graft_vfs.store.base import ObjectStore

COMMITS_MAX = 65_536

_MAGIC = b"GRAFTROL"
_VERSION = 1
_HEAD = struct.Struct("<8sH6x16sQI4x")
_CHECKSUM = struct.Struct("<Q")
_ROLL_BYTES_MAX = _HEAD.size + HASH_BYTES * COMMITS_MAX + _CHECKSUM.size
_FOREIGN_MAX = 8


@dataclass(frozen=True, slots=True)
class Roll:
    """The hashes of closed commits, joined, from the LSN `first` on."""

    log_id: LogId
    first: RemoteLsn
    hashes: bytes

    @property
    def last(self) -> RemoteLsn:
        """The last LSN."""
        return RemoteLsn(self.first + len(self.hashes) // HASH_BYTES - 1)

    def hash_of(self, lsn: RemoteLsn) -> bytes:
        """Return the hash of one of its commits."""
        assert self.first <= lsn <= self.last
        at = (lsn - self.first) * HASH_BYTES
        return self.hashes[at : at + HASH_BYTES]

    def encode(self) -> bytes:
        """Return the bytes of the object."""
        count, rest = divmod(len(self.hashes), HASH_BYTES)
        assert not rest
        assert 1 <= count <= COMMITS_MAX
        assert 0 < self.first <= self.last <= LSN_MAX
        body = _HEAD.pack(_MAGIC, _VERSION, self.log_id.raw, self.first, count) + self.hashes
        return body + _CHECKSUM.pack(xxh3_64_intdigest(body))


def rolls_prefix(log_id: LogId) -> str:
    """Return the prefix of the keys of a log's rolls."""
    return f"{LOGS_PREFIX}{log_id}/rolls/"


def roll_key(log_id: LogId, first: RemoteLsn) -> str:
    """Return the key of the roll that begins with an LSN."""
    return rolls_prefix(log_id) + descending(first)


def create_roll(store: ObjectStore, roll: Roll) -> Roll:
    """Write a roll unless one begins with its LSN; returns the one that is there then.

    Durable on return. One request, two if there is one. Raises StoreError.
    """
    key = roll_key(roll.log_id, roll.first)
    return create_once(store, key, roll.encode(), lambda: _read(store, roll.log_id, key)) or roll


def find_roll(store: ObjectStore, log_id: LogId, lsn: RemoteLsn) -> Roll | None:
    """Return the roll that has a closed LSN; None without one, or if the store has no listings.

    One listing of a few keys and one request. Raises CorruptObjectError, StoreError.
    """
    if not store.can_list:
        return None
    prefix = rolls_prefix(log_id)
    after = roll_key(log_id, RemoteLsn(lsn + 1)) if lsn < LSN_MAX else None
    for key in store.keys(prefix, start_after=after, limit=_FOREIGN_MAX):
        try:
            first = ascending(key.removeprefix(prefix), key=key)
        except CorruptObjectError:
            continue
        roll = _read(store, log_id, key)
        return roll if roll is not None and first <= lsn <= roll.last else None
    return None


def closed_lsns(store: ObjectStore, floor: Floor) -> range:
    """Return the LSNs that a log has closed. No request for the floor of nothing, else a listing.

    Those before the first with a grace period are open, though they are below the floor.
    """
    if not floor.lsn or not store.can_list:
        return range(0)
    prefix, first = rolls_prefix(floor.log_id), LSN_MAX
    for key in store.keys(prefix):
        with contextlib.suppress(CorruptObjectError):
            first = min(first, ascending(key.removeprefix(prefix), key=key))
    return range(first, floor.lsn + 1)


def _read(store: ObjectStore, log_id: LogId, key: str) -> Roll | None:
    try:
        content = store.get(key, limit_bytes=_ROLL_BYTES_MAX)
    except ObjectMissingError:
        return None
    roll = decode_roll(content, key=key)
    if (roll.log_id, roll_key(log_id, roll.first)) != (log_id, key):
        raise CorruptObjectError(
            f"{key} is the roll of LSN {roll.first} of log {roll.log_id}",
            next_step="restore the object from a replica or a backup",
        )
    return roll


def decode_roll(content: bytes, *, key: str) -> Roll:
    """Return a roll; raises CorruptObjectError or FutureVersionError. `key` names the object."""
    if content[: len(_MAGIC)] != _MAGIC or len(content) < _HEAD.size + _CHECKSUM.size:
        raise CorruptObjectError(
            f"{key} is not a roll of graft-vfs", next_step="check the bucket and its prefix"
        )
    _magic, version, log, first, count = _HEAD.unpack_from(content)
    if version > _VERSION:
        raise FutureVersionError(
            f"{key} has format version {version}, this program reads {_VERSION}",
            next_step="upgrade graft-vfs",
        )
    body, checksum = content[: -_CHECKSUM.size], content[-_CHECKSUM.size :]
    if _CHECKSUM.pack(xxh3_64_intdigest(body)) != checksum:
        raise CorruptObjectError(
            f"{key}: checksum mismatch, this is not what was written",
            next_step="restore the object from a replica or a backup",
        )
    hashes = body[_HEAD.size :]
    try:
        roll = Roll(LogId(log), RemoteLsn(first), hashes)
    except InvalidIdError as error:
        raise CorruptObjectError(f"{key}: {error}") from error
    is_sound = 1 <= count <= COMMITS_MAX and len(hashes) == count * HASH_BYTES
    is_sound = is_sound and first > 0 and first + count - 1 <= LSN_MAX
    if not is_sound or any(body[10:16] + body[44:48]) or version != _VERSION:
        raise CorruptObjectError(f"{key} says {count} commits from LSN {first} on")
    return roll
