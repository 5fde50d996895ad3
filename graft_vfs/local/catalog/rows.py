"""Rows of the catalog, and their validation when they are read.

Every returned row has valid values, whatever the file contains: ids are ids, numbers are in range,
and the name of a log file is not a path. Anything else raises CorruptCatalogError.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import CorruptCatalogError, InvalidIdError
from graft_vfs.ids import Id, LogId, VolumeId
from graft_vfs.local import layout
from graft_vfs.local.branch_log import LOG_HEADER_BYTES
from graft_vfs.local.chunk import Position
from graft_vfs.pages import LocalLsn, RemoteLsn

DAMAGE_STEP = Hint(
    "move it away with its -wal, then adopt the volumes again, which ",
    Advice.LIST_LOST,
    " lists; no commit is lost",
)
HASH_BYTES = 32
INTEGER_MAX = (1 << 63) - 1
"""SQLite's largest integer, and so the largest LSN in the catalog."""
U32_MAX = 0xFFFF_FFFF
_U64_MAX = 0xFFFF_FFFF_FFFF_FFFF
_TIME_MS_MAX = 253_402_300_799_999  # The end of the year 9999.
_DIGITS = re.compile(r"[0-9]{1,20}", re.ASCII)


@dataclass(frozen=True, slots=True)
class BranchRow:
    """A local branch: everything in `file` from `start`, based on `log` 1..base."""

    id: LogId
    volume: VolumeId
    log_id: LogId
    base: RemoteLsn
    counter: int
    first_lsn: LocalLsn
    file: str
    start: Position
    created_ms: int
    lineage: int = 0
    """Differs from the previous branch's if this one lacks commits that were shown before."""


@dataclass(frozen=True, slots=True)
class KeptBranch:
    """A branch that its volume was switched away from, with its local commits up to `last_lsn`.

    They end at `end` of its file, which may go on with those of other branches. `base_hash` is that
    of the commit that it is based on, None without one. `reason` is the verb that left it, at
    `kept_ms`, in milliseconds since 1970.
    """

    branch: BranchRow
    last_lsn: LocalLsn
    end: Position
    base_hash: bytes | None
    reason: str
    kept_ms: int

    @property
    def id(self) -> LogId:
        """The id that names it."""
        return self.branch.id

    @property
    def commits(self) -> int:
        """How many local commits it has."""
        return self.last_lsn - self.branch.first_lsn + 1

    @property
    def bytes(self) -> int:
        """How many bytes of its file its commits take."""
        return self.end.offset - self.branch.start.offset


@dataclass(frozen=True, slots=True)
class Departure:
    """A switch to a branch that lacks local commits of the former one, which is `kept`.

    With `kept` None it had none, or `tag` is for another volume, which has them. `released` is the
    kept branch whose commits the new one has: it is removed.
    """

    kept: KeptBranch | None
    released: LogId | None = None
    tag: tuple[str, VolumeId] | None = None


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """A volume, its current branch, and the result of its last sync."""

    id: VolumeId
    created_ms: int
    remote: LogId
    attached: bool
    branch: LogId
    epoch: int
    synced_local: LocalLsn | None
    synced_remote: RemoteLsn | None
    synced_ms: int | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class CommitRow:
    """A known commit of a remote log, as its encoded header, which has a hash."""

    lsn: RemoteLsn
    hash: bytes
    header: bytes


@dataclass(frozen=True, slots=True)
class PendingPush:
    """A push whose claim may have been sent: its exact bytes, and the local commits it covers."""

    volume: VolumeId
    log_id: LogId
    lsn: RemoteLsn
    hash: bytes
    data: bytes
    through_lsn: LocalLsn
    counter: int
    through: Position


# Reading --------------------------------------------------------------------------------------

_AnyId = TypeVar("_AnyId", bound=Id)


def volume_row(row: Sequence[Any]) -> VolumeRow:
    """Return a row of `volumes`, all columns in order."""
    volume, created, remote, attached, branch, epoch, local, lsn, synced, last_error = row
    return VolumeRow(
        id=id_of(VolumeId, volume),
        created_ms=number_of(created, last=_TIME_MS_MAX),
        remote=id_of(LogId, remote),
        attached=bool(number_of(attached, last=1)),
        branch=id_of(LogId, branch),
        epoch=number_of(epoch),
        synced_local=None if local is None else local_lsn_of(local),
        synced_remote=None if lsn is None else remote_lsn_of(lsn),
        synced_ms=None if synced is None else number_of(synced, last=_TIME_MS_MAX),
        last_error=None if last_error is None else text_of(last_error),
    )


def branch_row(row: Sequence[Any]) -> BranchRow:
    """Return a row of `branches`, all columns in order; before version 4 the last is absent."""
    branch, volume, log_id, base, counter, first, file, offset, checksum, created, *rest = row
    return BranchRow(
        id=id_of(LogId, branch),
        volume=id_of(VolumeId, volume),
        log_id=id_of(LogId, log_id),
        base=remote_lsn_of(base),
        counter=number_of(counter, last=U32_MAX),
        first_lsn=local_lsn_of(first, 1),
        file=_log_file(file),
        start=position_of(offset, checksum),
        created_ms=number_of(created, last=_TIME_MS_MAX),
        lineage=number_of(rest[0]) if rest else 0,
    )


def kept_row(branch: BranchRow, row: Sequence[Any]) -> KeptBranch:
    """Return a row of `kept_branches` without its ids, with the row of its branch."""
    last, offset, checksum, base_hash, reason, kept_ms = row
    number_of(offset, branch.start.offset)
    return KeptBranch(
        branch=branch,
        last_lsn=local_lsn_of(last, branch.first_lsn),
        end=position_of(offset, checksum),
        base_hash=None if base_hash is None else bytes_of(base_hash, HASH_BYTES),
        reason=text_of(reason),
        kept_ms=number_of(kept_ms, last=_TIME_MS_MAX),
    )


def _impossible(value: object, wanted: str) -> CorruptCatalogError:
    return CorruptCatalogError(
        f"the catalog has {reprlib.repr(value)} instead of {wanted}", next_step=DAMAGE_STEP
    )


def id_of(kind: type[_AnyId], value: object) -> _AnyId:
    """Return an id from its 16 bytes."""
    try:
        if isinstance(value, bytes):
            return kind(value)
    except InvalidIdError as error:
        raise _impossible(value, f"a {kind.KIND} id") from error
    raise _impossible(value, f"a {kind.KIND} id")


def number_of(value: object, first: int = 0, last: int = INTEGER_MAX) -> int:
    """Return a number from `first` to `last`, both inclusive."""
    if not isinstance(value, int) or not first <= value <= last:
        raise _impossible(value, f"a number from {first} to {last}")
    return value


def local_lsn_of(value: object, first: int = 0) -> LocalLsn:
    """Return a local LSN of at least `first`."""
    return LocalLsn(number_of(value, first))


def remote_lsn_of(value: object, first: int = 0) -> RemoteLsn:
    """Return a remote LSN of at least `first`."""
    return RemoteLsn(number_of(value, first))


def text_of(value: object) -> str:
    """Return a text."""
    if not isinstance(value, str):
        raise _impossible(value, "a text")
    return value


def bytes_of(value: object, length: int | None = None) -> bytes:
    """Return bytes, of `length` if given."""
    if not isinstance(value, bytes) or (length is not None and len(value) != length):
        raise _impossible(value, "bytes" if length is None else f"{length} bytes")
    return value


def _log_file(value: object) -> str:
    if not isinstance(value, str) or not layout.is_branch_file(value):
        raise _impossible(value, "the name of a log file")
    return value


def position_of(offset: object, checksum: object) -> Position:
    """Return a position in a branch log."""
    # Checksums are texts because SQLite has no unsigned 64-bit integers.
    is_sound = isinstance(checksum, str) and _DIGITS.fullmatch(checksum) is not None
    if not is_sound or int(cast("str", checksum)) > _U64_MAX:
        raise _impossible(checksum, "a checksum")
    return Position(number_of(offset, LOG_HEADER_BYTES), int(cast("str", checksum)))
