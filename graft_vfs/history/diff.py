"""Diff: what changed between two snapshots of a database, in its schema and in the rows of tables.

SQLite counts the rows, in one connection that has both snapshots; `tables` says how they are
matched, `rows` has the rows themselves.

Virtual tables are not read (their shadow tables are compared like other tables), and neither are
generated columns and indexes, which only repeat other columns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import apsw

from graft_vfs.history import names
from graft_vfs.history.key_ranges import KeyRange
from graft_vfs.history.refs import BASE, HEAD, Ref, Span, parse, parse_span
from graft_vfs.history.tables import HIDDEN_ROWID, NEWER, OLDER, Table, Tables
from graft_vfs.pager.snapshots import connected, unreadable
from graft_vfs.pages import NO_LSN
from graft_vfs.reports import Diff, Progress, SchemaDiff, TableDiff
from graft_vfs.view.logs import Logs
from graft_vfs.volume.context import Opened
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume


@dataclass(frozen=True, slots=True)
class Compared:
    """The result of a comparison; `by_pages` is true if unchanged pages saved reading rows."""

    schema: tuple[SchemaDiff, ...]
    tables: tuple[TableDiff, ...]
    pages_changed: int
    by_pages: bool


@dataclass(slots=True)
class _Counts:
    """Rows of a table, or of some of its key ranges."""

    newer: int = 0
    older: int = 0
    both: int = 0
    updated: int = 0


def compare(
    volume: Volume, older: Snapshot, newer: Snapshot, *, progress: Progress | None = None
) -> Compared:
    """Compare two snapshots.

    `progress` is called with (key ranges done, key ranges to do). Cost: the interior pages of all
    b-trees and the leaves of the ranges; at worst, all pages of both. Raises the errors of reading.
    """
    with connected(volume, {NEWER: newer, OLDER: older}) as connection:
        try:
            return _compared(Tables(connection, older, newer), progress)
        except apsw.Error as error:
            raise unreadable(error) from error


@dataclass(frozen=True, slots=True)
class CommitPair:
    """The full names of two commits and their views, which are pinned."""

    older_name: str
    older: Snapshot
    newer_name: str
    newer: Snapshot


@contextlib.contextmanager
def commit_pair(
    volume: Volume, logs: Logs, older: str | None, newer: str | None
) -> Iterator[CommitPair]:
    """Yield two commits of a volume, by default BASE and HEAD; `older` may be `A..B`."""
    if older is not None and newer is None:
        span = parse_span(older)
    else:
        span = Span(
            BASE if older is None else parse(older), HEAD if newer is None else parse(newer)
        )
    with volume.pinned() as head:
        old, new = (_commit_view(volume, logs, head, ref) for ref in (span.older, span.newer))
        yield CommitPair(*old, *new)


def diff(
    opened: Opened,
    logs: Logs,
    older: str | None,
    newer: str | None,
    *,
    progress: Progress | None = None,
) -> Diff:
    """Compare two commits of a volume, by default BASE and HEAD; `older` may be `A..B`."""
    with commit_pair(opened.volume, logs, older, newer) as pair:
        found = compare(opened.volume, pair.older, pair.newer, progress=progress)
    return Diff(
        tag=opened.tag,
        older=pair.older_name,
        newer=pair.newer_name,
        schema=found.schema,
        tables=found.tables,
        pages_changed=found.pages_changed,
        page_count=max(pair.older.page_count, pair.newer.page_count),
        by_pages=found.by_pages,
    )


def _commit_view(volume: Volume, logs: Logs, head: Snapshot, ref: Ref) -> tuple[str, Snapshot]:
    """Return the full name of HEAD or of a commit, and its view."""
    if ref == HEAD:
        return "head", head
    row = head.branch.row
    if ref == BASE and not row.base:
        return "nothing", names.remote_snapshot(volume, logs, row.log_id, NO_LSN)
    commit = names.resolve(logs, ref, volume)
    return str(commit), names.snapshot_of(volume, logs, commit)


def _compared(tables: Tables, progress: Progress | None) -> Compared:
    plan = tables.all()
    total, done = sum(len(table.ranges) for table in plan), 0
    found = []
    for table in plan:
        counted = _counted(tables.connection, table)
        done += len(table.ranges)
        if progress is not None:
            progress(done, total)
        if counted is not None:
            found.append(counted)
    keys = tables.keys
    return Compared(tuple(tables.schema()), tuple(found), len(keys.pages), keys.is_known)


def _counted(connection: apsw.Connection, table: Table) -> TableDiff | None:
    """Return the changes to a table's rows, None if there are none."""
    counts = _Counts()

    def count(source: str) -> int:
        # Tables and columns cannot be bound; their names are quoted.
        return int(connection.execute(f"SELECT count(*) FROM {source}").get)  # noqa: S608

    try:
        if not table.is_matched:
            # Without a common key, all rows differ.
            counts.older = 0 if table.older is None else count(table.source(OLDER))
            counts.newer = 0 if table.newer is None else count(table.source(NEWER))
        elif table.ranges and not table.has_key:
            return TableDiff(table.name, None, None, None, HIDDEN_ROWID)
        else:
            for bounds in table.ranges:
                _add_range(counts, count, table, bounds)
    except apsw.SQLError as error:
        # For example a collation that only the application defines.
        return TableDiff(table.name, None, None, None, str(error))
    if counts.newer == counts.older == counts.both and not counts.updated:
        return None
    inserted, deleted = counts.newer - counts.both, counts.older - counts.both
    return TableDiff(table.name, inserted, deleted, counts.updated, None)


def _add_range(
    counts: _Counts, count: Callable[[str], int], table: Table, bounds: KeyRange
) -> None:
    """Count the rows of a key range."""
    both = table.both(bounds)
    counts.both += count(both)
    counts.updated += count(f"{both} AND {table.differ()}")
    counts.newer += count(f"{table.source(NEWER)} WHERE {table.within(NEWER, bounds)}")
    counts.older += count(f"{table.source(OLDER)} WHERE {table.within(OLDER, bounds)}")
