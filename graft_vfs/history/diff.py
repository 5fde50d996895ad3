"""Diff: what changed between two snapshots of a database, in its schema and in the rows of tables.

SQLite compares the rows, in one connection that has both snapshots. Of a table with rowids it is
asked only for the key ranges that can differ (`key_ranges`), of others, and of all when the pages
do not tell, for every row. Rows are matched by rowid, or by primary key in a table WITHOUT ROWID.

What it does not do: read virtual tables (their shadow tables are compared as what they are), and
compare what only repeats other columns, which are generated columns and indexes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apsw

from graft_vfs.history import names
from graft_vfs.history.key_ranges import ChangedKeys, KeyRange
from graft_vfs.history.refs import BASE, HEAD, Ref, Span, parse, parse_span
from graft_vfs.pager.snapshots import connected, unreadable
from graft_vfs.pages import NO_LSN
from graft_vfs.reports import Change, Diff, Progress, SchemaDiff, TableDiff
from graft_vfs.sqlite_format.btree import KEY_MAX, KEY_MIN
from graft_vfs.view.logs import Logs
from graft_vfs.volume.context import Opened
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

OLDER = "older"
NEWER = "main"
"""The schemas under which the connection has the two snapshots."""

_ALL_KEYS: list[KeyRange] = [(KEY_MIN, KEY_MAX)]
_SCHEMA_ROOT = 1
_ROWID_NAMES = ("rowid", "oid", "_rowid_")
_COLUMNS_COMPARED_MAX = 200
"""SQLite limits how deep an expression is, and how long a row value; tables have 2000 columns."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison found; `by_pages` tells whether unchanged pages saved reading rows."""

    schema: tuple[SchemaDiff, ...]
    tables: tuple[TableDiff, ...]
    pages_changed: int
    by_pages: bool


@dataclass(frozen=True, slots=True)
class _Object:
    """A row of sqlite_schema."""

    kind: str
    name: str
    root: int
    sql: str


@dataclass(frozen=True, slots=True)
class _Columns:
    """How the rows of a table are told apart, and what is compared of them."""

    key: tuple[str, ...]
    has_rowid: bool
    stored: tuple[str, ...]


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
    b-trees and the leaves of the ranges; at worst, all pages of both. Raises what reading raises.
    """
    with connected(volume, {NEWER: newer, OLDER: older}) as connection:
        try:
            return _Comparison(connection, older, newer).run(progress)
        except apsw.Error as error:
            raise unreadable(error) from error


def diff(
    opened: Opened,
    logs: Logs,
    older: str | None,
    newer: str | None,
    *,
    progress: Progress | None = None,
) -> Diff:
    """Compare two commits of a volume, by default BASE and HEAD; `older` may be `A..B`."""
    volume = opened.volume
    if older is not None and newer is None:
        span = parse_span(older)
    else:
        span = Span(
            BASE if older is None else parse(older), HEAD if newer is None else parse(newer)
        )
    with volume.pinned() as head:
        old_name, old = _commit_view(volume, logs, head, span.older)
        new_name, new = _commit_view(volume, logs, head, span.newer)
        found = compare(volume, old, new, progress=progress)
    return Diff(
        tag=opened.tag,
        older=old_name,
        newer=new_name,
        schema=found.schema,
        tables=found.tables,
        pages_changed=found.pages_changed,
        page_count=max(old.page_count, new.page_count),
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


class _Comparison:
    """One comparison. Owner and thread: its caller."""

    def __init__(self, connection: apsw.Connection, older: Snapshot, newer: Snapshot) -> None:
        self._connection = connection
        self._older = _objects(connection, OLDER)
        self._newer = _objects(connection, NEWER)
        self._keys = ChangedKeys(older, newer, _roots(self._older), _roots(self._newer))

    def run(self, progress: Progress | None) -> Compared:
        plan = [(name, self._ranges(name)) for name in self._tables()]
        total, done = sum(len(ranges) for _, ranges in plan), 0
        tables = []
        for name, ranges in plan:
            found = self._compare_table(name, ranges)
            done += len(ranges)
            if progress is not None:
                progress(done, total)
            if found is not None:
                tables.append(found)
        return Compared(
            tuple(self._schema()), tuple(tables), len(self._keys.pages), self._keys.is_known
        )

    def _schema(self) -> Iterator[SchemaDiff]:
        """Yield what became of everything in the schema but SQLite's own tables and indexes."""
        for key in sorted({*self._older, *self._newer}):
            change = _change(self._older.get(key), self._newer.get(key))
            if change is not None and not key[1].startswith("sqlite_"):
                yield SchemaDiff(*key, change)

    def _tables(self) -> list[str]:
        """Return the names of all tables on either side that have rows of their own."""
        return sorted(
            item.name
            for item in {**self._older, **self._newer}.values()
            if item.kind == "table" and item.root and not item.name.startswith("sqlite_")
        )

    def _ranges(self, name: str) -> list[KeyRange]:
        """Return the key ranges of a table to compare; all keys if the pages do not tell."""
        older, newer = self._older.get(("table", name)), self._newer.get(("table", name))
        if older is None or newer is None or not (older.root and newer.root):
            return _ALL_KEYS
        ranges = self._keys.ranges(older.root, newer.root)
        # Unchanged rows may be read in another way, such as when two columns swapped their names.
        if ranges is None or older.sql != newer.sql:
            return _ALL_KEYS
        return ranges

    def _compare_table(self, name: str, ranges: list[KeyRange]) -> TableDiff | None:
        """Return what became of a table's rows, None if nothing did."""
        older, newer = self._columns(OLDER, name), self._columns(NEWER, name)
        counts = _Counts()
        try:
            if older is None or newer is None or not _have_one_key(older, newer):
                # Without a key in common, all rows are others.
                counts.older = 0 if older is None else self._count_rows(OLDER, name)
                counts.newer = 0 if newer is None else self._count_rows(NEWER, name)
            elif not (older.key and newer.key):
                return TableDiff(name, None, None, None, "its columns hide every name of the rowid")
            else:
                for bounds in ranges:
                    self._add_range(counts, name, older, newer, bounds)
        except apsw.SQLError as error:
            # Such as a collation that only the application knows.
            return TableDiff(name, None, None, None, str(error))
        if counts.newer == counts.older == counts.both and not counts.updated:
            return None
        inserted, deleted = counts.newer - counts.both, counts.older - counts.both
        return TableDiff(name, inserted, deleted, counts.updated, None)

    # SQL --------------------------------------------------------------------------------------

    def _columns(self, schema: str, name: str) -> _Columns | None:
        """Describe a table that has rows of its own; None if there is none of that name."""
        found = (self._newer if schema == NEWER else self._older).get(("table", name))
        if found is None or not found.root:
            return None
        rows = self._connection.execute(
            "SELECT name, pk, hidden FROM pragma_table_xinfo(?, ?)", (name, schema)
        ).fetchall()
        without_rowid = self._connection.execute(
            "SELECT wr FROM pragma_table_list WHERE schema = ? AND name = ?", (schema, name)
        ).get
        stored = tuple(str(column) for column, _, hidden in rows if not hidden)
        if without_rowid:
            by_place = sorted((place, str(column)) for column, place, _ in rows if place)
            return _Columns(tuple(column for _, column in by_place), False, stored)
        taken = {str(column).lower() for column, _, _ in rows}
        return _Columns(tuple(n for n in _ROWID_NAMES if n not in taken)[:1], True, stored)

    def _count_rows(self, schema: str, name: str, where: str = "") -> int:
        return self._count(f"{schema}.{_quoted(name)} AS n {where}")

    def _count(self, source: str) -> int:
        # Tables and columns cannot be bound; their names are quoted.
        return int(self._connection.execute(f"SELECT count(*) FROM {source}").get)  # noqa: S608

    def _add_range(
        self, counts: _Counts, name: str, older: _Columns, newer: _Columns, bounds: KeyRange
    ) -> None:
        """Count the rows of a key range; a table without rowids has one range, all of it."""
        where = "WHERE n.{0} BETWEEN {1} AND {2}" if newer.has_rowid else "WHERE true"
        in_newer, in_older = (
            where.format(_quoted(side.key[0]), *bounds) for side in (newer, older)
        )
        same_key = " AND ".join(
            f"o.{_quoted(old)} = n.{_quoted(new)}"
            for old, new in zip(older.key, newer.key, strict=True)
        )
        differ = _differ([column for column in newer.stored if column in older.stored])
        table = _quoted(name)
        both = f"{NEWER}.{table} AS n CROSS JOIN {OLDER}.{table} AS o ON {same_key} {in_newer}"
        counts.both += self._count(both)
        counts.updated += self._count(f"{both} AND ({differ})")
        counts.newer += self._count_rows(NEWER, name, in_newer)
        counts.older += self._count_rows(OLDER, name, in_older)


def _objects(connection: apsw.Connection, schema: str) -> dict[tuple[str, str], _Object]:
    columns = "type, name, ifnull(rootpage, 0), ifnull(sql, '')"
    rows = connection.execute(f"SELECT {columns} FROM {schema}.sqlite_schema")  # noqa: S608
    found = [_Object(*row) for row in rows]
    return {(item.kind, item.name): item for item in found}


def _have_one_key(older: _Columns, newer: _Columns) -> bool:
    """Return True if rows of both sides can be matched."""
    if older.has_rowid and newer.has_rowid:
        return True
    return older.has_rowid == newer.has_rowid and older.key == newer.key


def _roots(objects: dict[tuple[str, str], _Object]) -> set[int]:
    return {_SCHEMA_ROOT, *(item.root for item in objects.values() if item.root)}


def _change(older: _Object | None, newer: _Object | None) -> Change | None:
    if older is None:
        return Change.ADDED
    if newer is None:
        return Change.DROPPED
    return Change.CHANGED if older.sql != newer.sql else None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _differ(columns: Sequence[str]) -> str:
    """Return the condition that two rows differ in a column, even if only in type or in case."""
    parts = []
    for first in range(0, len(columns), _COLUMNS_COMPARED_MAX):
        names = [_quoted(name) for name in columns[first : first + _COLUMNS_COMPARED_MAX]]
        for side in ("{0} COLLATE BINARY", "typeof({0})"):
            newer = ", ".join(side.format(f"n.{name}") for name in names)
            older = ", ".join(side.format(f"o.{name}") for name in names)
            parts.append(f"({newer}) IS NOT ({older})")
    return " OR ".join(parts) or "0"
