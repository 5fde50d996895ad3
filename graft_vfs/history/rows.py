"""The rows that differ between two snapshots, one after another, in memory for one row.

Values keep their storage class. Text is read as its bytes, because a database may hold bytes that
are no text in its encoding; such a value becomes `RawText`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apsw

from graft_vfs.history.diff import CommitPair
from graft_vfs.history.key_ranges import KeyRange
from graft_vfs.history.tables import HIDDEN_ROWID, NEWER, OLDER, Columns, Table, Tables, quoted
from graft_vfs.pager.snapshots import connected, unreadable
from graft_vfs.reports import SchemaDiff
from graft_vfs.volume.volume import Volume


@dataclass(frozen=True, slots=True)
class RawText:
    """A value of SQLite's class text whose bytes are no text in the database's encoding."""

    data: bytes


Value = None | int | float | str | bytes | RawText
Row = dict[str, Value]
"""Values by the names of columns."""


@dataclass(frozen=True, slots=True)
class RowChange:
    """A row that was inserted (`older` is None), deleted (`newer` is None) or updated.

    `key` names it: by the column that is its rowid, by `rowid` (or another name of it that no
    column has), or by the primary key of a table WITHOUT ROWID.
    """

    table: str
    key: Row
    older: Row | None
    newer: Row | None

    @property
    def change(self) -> str:
        """Return `inserted`, `deleted` or `updated`."""
        if self.older is None:
            return "inserted"
        return "deleted" if self.newer is None else "updated"

    def changed_columns(self) -> list[str]:
        """Return the columns of an updated row that differ, even if only in their class."""
        older, newer = self.older or {}, self.newer or {}
        names = {**newer, **older}
        return [name for name in names if not _is_same(older, newer, name)]


@dataclass(frozen=True, slots=True)
class NotCompared:
    """A table whose rows were not compared, and why."""

    table: str
    reason: str


def is_same_row(older: Row | None, newer: Row | None) -> bool:
    """Return True if two rows have the same columns, of the same classes; None is no row."""
    if older is None or newer is None:
        return older is newer
    return older.keys() == newer.keys() and all(_is_same(older, newer, name) for name in older)


def _is_same(older: Row, newer: Row, name: str) -> bool:
    if not (name in older and name in newer):
        return False
    return is_same_value(older[name], newer[name])


def is_same_value(one: Value, other: Value) -> bool:
    """Return True if two values are equal and of one storage class."""
    return type(one) is type(other) and one == other


def changes(volume: Volume, pair: CommitPair) -> Iterator[SchemaDiff | RowChange | NotCompared]:
    """Yield what became of the schema, then the rows that differ, table by table.

    Rows come in the order of their rowids; those of a table WITHOUT ROWID first the deleted, then
    the inserted, then the updated ones. Costs and errors are those of `diff.compare`. The consumer
    closes the iterator, on the thread that made it.
    """
    with connected(volume, {NEWER: pair.newer, OLDER: pair.older}) as connection:
        try:
            tables = Tables(connection, pair.older, pair.newer)
            yield from tables.schema()
            for table in tables.all():
                yield from table_changes(tables, table)
        except apsw.Error as error:
            raise unreadable(error) from error


def table_changes(tables: Tables, table: Table) -> Iterator[RowChange | NotCompared]:
    """Yield the rows of one table that differ; one that cannot be compared is named instead."""
    if table.ranges and not table.has_key:
        yield NotCompared(table.name, HIDDEN_ROWID)
        return
    reader = RowReader(tables.connection, table)
    try:
        for bounds in table.ranges:
            yield from reader.changes(bounds)
    except apsw.SQLError as error:
        # Such as a collation that only the application knows.
        yield NotCompared(table.name, str(error))


class RowReader:
    """Reads rows of one table from both sides. Owner and thread: its caller."""

    def __init__(self, connection: apsw.Connection, table: Table) -> None:
        self._connection = connection
        self._table = table
        self._encoding = encoding_of(self._connection)

    def changes(self, bounds: KeyRange) -> Iterator[RowChange]:
        """Yield the rows of a key range that differ."""
        kinds = (self.only(OLDER, bounds), self.only(NEWER, bounds), self.updated(bounds))
        side = self._table.newer or self._table.older
        if side is not None and side.has_rowid and self._table.is_matched:
            yield from heapq.merge(*kinds, key=_rowid)
        else:
            for kind in kinds:
                yield from kind

    def newer_row(self, condition: str) -> Row | None:
        """Return the row of the newer side that a condition is true for."""
        side = self._table.newer
        assert side is not None
        source = self._table.source(NEWER)
        sql = f"SELECT {_selected('n', side)} FROM {source} WHERE {condition}"  # noqa: S608
        found = self._connection.execute(sql).fetchall()
        return self._row(side, found[0])[1] if found else None

    def only(self, schema: str, bounds: KeyRange) -> Iterator[RowChange]:
        """Yield the rows that only one side has."""
        table, side = self._table, self._table.side(schema)
        if side is None:
            return
        other = OLDER if schema == NEWER else NEWER
        alias = table.source(schema)[-1]
        source, where = table.source(schema), table.within(schema, bounds)
        if table.is_matched:
            partner = f"SELECT 1 FROM {table.source(other)} WHERE {table.same_key()}"  # noqa: S608
            where += f" AND NOT EXISTS ({partner})"
        sql = f"SELECT {_selected(alias, side)} FROM {source} WHERE {where}"  # noqa: S608
        for found in self._connection.execute(sql):
            key, row = self._row(side, found)
            older, newer = (row, None) if schema == OLDER else (None, row)
            yield RowChange(table.name, key, older, newer)

    def updated(self, bounds: KeyRange) -> Iterator[RowChange]:
        """Yield the rows that both sides have, and that differ in a column."""
        table = self._table
        if not table.is_matched or table.older is None or table.newer is None:
            return
        columns = f"{_selected('o', table.older)}, {_selected('n', table.newer)}"
        sql = f"SELECT {columns} FROM {table.both(bounds)} AND {table.differ()}"  # noqa: S608
        split = len(table.older.key) + len(table.older.stored)
        for found in self._connection.execute(sql):
            key, older = self._row(table.older, found[:split])
            yield RowChange(table.name, key, older, self._row(table.newer, found[split:])[1])

    def _row(self, side: Columns, found: Sequence[object]) -> tuple[Row, Row]:
        """Return the key of a row as it was selected, and the row."""
        values = [decoded(value, self._encoding) for value in found]
        names = (side.alias,) if side.alias is not None else side.key
        key = dict(zip(names, values, strict=False))
        return key, dict(zip(side.stored, values[len(side.key) :], strict=True))


def decoded(found: object, encoding: str) -> Value:
    """Return a value that was selected with `read_sql`."""
    if isinstance(found, bytes):
        try:
            return found.decode(encoding)
        except UnicodeDecodeError:
            return RawText(found)
    if isinstance(found, str):
        return bytes.fromhex(found[2:-1])
    assert found is None or isinstance(found, int | float)
    return found


def encoding_of(connection: apsw.Connection) -> str:
    """Return Python's name of the encoding of a connection's databases."""
    names = {"UTF-8": "utf-8", "UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}
    return names[str(connection.pragma("encoding"))]


def _rowid(change: RowChange) -> int:
    (rowid,) = change.key.values()
    assert isinstance(rowid, int)
    return rowid


def _selected(alias: str, side: Columns) -> str:
    return ", ".join(read_sql(f"{alias}.{quoted(name)}") for name in (*side.key, *side.stored))


def read_sql(column: str) -> str:
    """Return SQL for a value that tells its class: text as its bytes, bytes as text in hex."""
    return (
        f"CASE typeof({column}) WHEN 'text' THEN CAST({column} AS BLOB) "
        f"WHEN 'blob' THEN quote({column}) ELSE {column} END"
    )
