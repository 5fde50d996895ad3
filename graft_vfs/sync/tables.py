"""Tables between this machine and the remote: learning a log through them, and writing them.

A machine that is far behind reads the newest table and those beneath it, and then only the commits
after it, whose headers prove the table. Where a table is missing or damaged, an older one or the
headers of more commits do the same. So tables are never needed, and never a cause of failure.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from graft_vfs.errors import CorruptObjectError, FutureVersionError, GraftError, ObjectMissingError
from graft_vfs.ids import LogId
from graft_vfs.local.catalog.known_tables import TableRow
from graft_vfs.pages import RemoteLsn
from graft_vfs.remote.commit_reader import CommitRecord
from graft_vfs.remote.log import RemoteLog
from graft_vfs.remote.request_threads import request_threads
from graft_vfs.remote.tables import ReadTable, TableName, list_tables, read_table, write_table
from graft_vfs.view.logs import Logs
from graft_vfs.view.new_table import next_table
from graft_vfs.view.table_policy import STEP
from graft_vfs.view.tiling import tiling

_logger = logging.getLogger(__name__)

_LISTED = 8
"""The number of newest tables of which one has to be sound."""
_WORTH_COMMITS = 8
"""Fewer commits are read as fast as a table."""
_READ_WHOLE_BYTES = 256 << 10
"""A longer table is read by blocks, when pages need them."""


# Reading ----------------------------------------------------------------------------------------


def jump(
    logs: Logs, log_id: LogId, known: RemoteLsn, last: RemoteLsn, *, is_needed: bool = False
) -> Iterator[CommitRecord]:
    """Learn the newest table of a log up to LSN `last`, and yield the commit that proves it.

    That is the next commit, or the table's own if it is the last. Yields nothing if no table is
    worth it, or none is sound. With `is_needed`, any is, because commits were deleted. One listing,
    two reads, and one for each table beneath, which are read together.
    """
    if last - known < STEP and not is_needed:
        return
    remote = logs.log(log_id)
    names = list_tables(remote.store, log_id, upto=last, limit=_LISTED)
    # Of two for the same LSNs a compacted one first, although its key comes later.
    for name in sorted(names, key=lambda each: (-each.lsn, each.after, not each.suffix)):
        if name.lsn - known < _WORTH_COMMITS and not is_needed:
            return
        try:
            tables = _read(logs, name, known)
            record = _proof(remote, tables[0], last)
        except (CorruptObjectError, FutureVersionError, ObjectMissingError) as error:
            _logger.warning("table of log %s at LSN %d is not used: %s", log_id, name.lsn, error)
            continue
        for table in reversed(tables):
            _keep(logs, table)
        _logger.info("log %s: %d tables instead of commits up to %d", log_id, len(tables), name.lsn)
        yield record
        return


def _read(logs: Logs, name: TableName, known: RemoteLsn) -> list[ReadTable]:
    """Return a table and those beneath it that are needed after LSN `known`, newest first."""
    store = logs.log(name.log_id).store
    newest = read_table(store, name, whole=_READ_WHOLE_BYTES)
    needed, end = [], newest.head.facts.after
    for beneath in newest.head.facts.beneath:
        if end <= known:
            break
        needed.append(TableName(name.log_id, beneath.lsn, beneath.after, beneath.suffix))
        if beneath.lsn < end:
            break
        end = beneath.after
    if end > known:
        raise CorruptObjectError(f"{name.key}: no known table has the commits before LSN {end + 1}")
    with request_threads("graft-tables", max(1, len(needed))) as executor:
        older = executor.map(lambda each: read_table(store, each, whole=_READ_WHOLE_BYTES), needed)
        return [newest, *older]


def _proof(remote: RemoteLog, table: ReadTable, last: RemoteLsn) -> CommitRecord:
    """Return the commit that proves that a table is of this history."""
    facts = table.head.facts
    lsn = facts.lsn if facts.lsn == last else RemoteLsn(facts.lsn + 1)
    record = remote.read_header(lsn)
    if record is None:
        raise remote.gap(lsn)
    named = record.header.hash if lsn == facts.lsn else record.header.previous_hash
    if named != facts.hash:
        raise CorruptObjectError(f"{table.name.key} is a table of another history")
    return record


def _keep(logs: Logs, table: ReadTable) -> None:
    facts = table.head.facts
    row = TableRow(
        facts.log_id,
        facts.after,
        facts.lsn,
        table.name.suffix,
        facts.hash,
        table.head.length,
        is_remote=True,
        is_whole=len(table.data) == table.head.length,
    )
    logs.catalog.tables.keep(row, table.data)
    if facts.parent_log is not None:
        logs.remotes.inherit(facts.parent_log, facts.log_id)
    logs.catalog.tables.keep_parent(facts.log_id, facts.parent_log, facts.parent_lsn)


# Writing ----------------------------------------------------------------------------------------


def make_table(logs: Logs, log_id: LogId) -> None:
    """Make the table that is due for the known commits of a log, and keep it. Best effort.

    No request, except for the first table of a fork, which reads what is not here of its parent's.
    """
    try:
        made = next_table(logs, log_id)
        if made is not None:
            logs.catalog.tables.keep(*made)
    except GraftError as error:
        _logger.warning("the table of log %s that is due is not made: %s", log_id, error)


def write_tables(logs: Logs, log_id: LogId) -> None:
    """Make the table that is due, and write to the remote those that it lacks, oldest first.

    Best effort, after a push: what fails is written when the next one is due. One request for
    each.
    """
    make_table(logs, log_id)
    newest, _ = logs.catalog.newest_commit(log_id)
    store = logs.log(log_id).store
    for piece in tiling(logs.catalog.tables.all(log_id), newest):
        if isinstance(piece, TableRow) and not piece.is_remote and piece.is_whole:
            data = logs.catalog.tables.read(piece, 0, piece.length)
            if data is None:
                continue
            name = TableName(log_id, piece.lsn, piece.after, piece.suffix)
            try:
                write_table(store, name, data)
            except GraftError as error:
                _logger.info("table %s is not written yet: %s", name.key, error)
                return
            logs.catalog.tables.note_remote(piece)
