"""Tables on the remote: create-only objects that are listed under their log, newest first.

    logs/<log>/tables/<descending N>-<A>           where the pages that commits A+1..N changed are
    logs/<log>/tables/<descending N>-<A>-<id>

`<descending N>` is that of commits, `<A>` an LSN less than N in 16 hexadecimal digits, and 0 for a
complete table. `<id>` is random, in 16 hexadecimal digits; it is only in keys of tables that
compaction writes, whose content depends on more than the commits. All other tables can be made
again from the commits, so a table may be missing.

Listings skip foreign objects among tables with one warning. A reader verifies that a table is the
one of its key. Commit N has the hash that the table names, and commit N+1 names it as the previous
one: either proves that the table belongs to this history.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from graft_vfs.errors import CorruptObjectError, StoreUnavailableError
from graft_vfs.format.table import HEAD_BYTES, Block, TableHead, decode_block, decode_head
from graft_vfs.format.table_facts import is_suffix
from graft_vfs.ids import LogId
from graft_vfs.pages import RemoteLsn
from graft_vfs.remote.log import LOGS_PREFIX, ascending, descending
from graft_vfs.store.base import ObjectStore, PutOutcome

_logger = logging.getLogger(__name__)

_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})(?:-([0-9a-f]+))?")


@dataclass(frozen=True, slots=True)
class TableName:
    """The key of a table of the commits (after, lsn]; `suffix` is its random id, or empty."""

    log_id: LogId
    lsn: RemoteLsn
    after: RemoteLsn
    suffix: str = ""

    @property
    def key(self) -> str:
        """The key of the object."""
        return table_key(self.log_id, self.lsn, self.after, self.suffix)


@dataclass(frozen=True, slots=True)
class ReadTable:
    """A table that was read: its head, and the beginning of the object or all of it."""

    name: TableName
    head: TableHead
    data: bytes


def table_key(log_id: LogId, lsn: RemoteLsn, after: RemoteLsn, suffix: str = "") -> str:
    """Return the key of a table."""
    end = f"-{suffix}" if suffix else ""
    return f"{tables_prefix(log_id)}{descending(lsn)}-{after:016x}{end}"


def tables_prefix(log_id: LogId) -> str:
    """Return the prefix of the keys of a log's tables."""
    return f"{LOGS_PREFIX}{log_id}/tables/"


def parse_table_key(log_id: LogId, key: str) -> TableName:
    """Return the name of a key of a log's tables; raises CorruptObjectError if it is invalid."""
    found = _NAME.fullmatch(key.removeprefix(tables_prefix(log_id)))
    if found is not None:
        lsn, after = ascending(found[1], key=key), RemoteLsn(int(found[2], 16))
        suffix = found[3] or ""
        if after < lsn and is_suffix(suffix):
            return TableName(log_id, lsn, after, suffix)
    raise CorruptObjectError(
        f"{key} is foreign: it is not the name of a table",
        next_step="check who else writes to the remote",
    )


def list_tables(
    store: ObjectStore, log_id: LogId, *, upto: RemoteLsn | None = None, limit: int
) -> list[TableName]:
    """Return at most `limit` tables, newest first, and of one LSN the one that begins first.

    With `upto` only those up to this LSN. One listing of a few keys; more if foreign objects are
    among them. Empty for a store without listings.
    """
    if not store.can_list:
        return []
    prefix = tables_prefix(log_id)
    last = None if upto is None else prefix + descending(upto)
    names: list[TableName] = []
    foreign: list[CorruptObjectError] = []
    while len(names) < limit:
        missing = limit - len(names)
        keys = list(store.keys(prefix, start_after=last, limit=missing))
        names += _names(log_id, keys, foreign)
        if len(keys) < missing:
            break
        last = keys[-1]
    if foreign:
        _logger.warning("skipped an object that is not a table: %s", foreign[0])
    return names


def _names(
    log_id: LogId, keys: list[str], foreign: list[CorruptObjectError]
) -> Iterator[TableName]:
    for key in keys:
        try:
            yield parse_table_key(log_id, key)
        except CorruptObjectError as error:
            foreign.append(error)


def read_table(store: ObjectStore, name: TableName, *, whole: int) -> ReadTable:
    """Return a table: all of it if the object has at most `whole` bytes, else its beginning.

    What arrives whole is verified whole. One range read of 64 KiB, which has the whole head, and a
    second for the rest of a longer table that is read whole. Raises ObjectMissingError,
    FutureVersionError, and CorruptObjectError if it is not the table of its key.
    """
    key = name.key
    data = store.get_range(key, 0, HEAD_BYTES)
    head = decode_head(data, key=key)
    facts = head.facts
    if (facts.log_id, facts.lsn, facts.after) != (name.log_id, name.lsn, name.after):
        raise CorruptObjectError(
            f"{key} contains the table of LSN {facts.after + 1} to {facts.lsn} of log "
            f"{facts.log_id}",
            next_step="delete the object: a table can be made again",
        )
    arrived = min(head.length, HEAD_BYTES)
    if head.length > HEAD_BYTES and head.length <= whole:
        arrived = head.length
        data += store.get_range(key, HEAD_BYTES, head.length - HEAD_BYTES)
    if len(data) != arrived:
        raise CorruptObjectError(
            f"{key} has {len(data)} bytes instead of {arrived}",
            next_step="delete the object: a table can be made again",
        )
    if arrived == head.length:
        check_blocks(head.root, data, key=key)
    return ReadTable(name, head, data)


def check_blocks(blocks: Iterable[Block], data: bytes, *, key: str) -> None:
    """Raise CorruptObjectError unless blocks of a whole table, and all below them, are sound."""
    for block in blocks:
        found = decode_block(data[block.offset : block.offset + block.length], block, key=key)
        if isinstance(found, tuple):
            check_blocks(found, data, key=key)


def write_table(store: ObjectStore, name: TableName, data: bytes) -> bool:
    """Create a table unless its key is taken; returns False if another table is there.

    Either is right, because both have been made of the same commits. Durable on return. One
    request. Raises StoreError; CommitOutcomeUnknownError if it may have been created.
    """
    outcome = store.put_if_absent(name.key, data)
    if outcome is PutOutcome.RACING:
        raise StoreUnavailableError(
            f"another client is writing {name.key}", next_step="the next push will find it there"
        )
    return outcome is PutOutcome.CREATED
