"""The snapshots of a merge in connections: one that writes, and those that find changed rows.

The scratch connection has theirs, writable, as `main`, and all three snapshots read-only. Rows that
one side changed come from a connection of its own on that side and the base, which knows from pages
where to look.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import apsw

from graft_vfs.errors import UsageError
from graft_vfs.history.rows import (
    NotCompared,
    RawText,
    Row,
    RowChange,
    Value,
    decoded,
    encoding_of,
    read_sql,
    table_changes,
)
from graft_vfs.history.tables import NEWER, OLDER, Columns, Table, Tables, quoted, schema_error
from graft_vfs.pager.scratch import Scratch
from graft_vfs.pager.snapshots import connected, scratch_over
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

BASE, OURS, THEIRS, MAIN = "base", "ours", "theirs", "main"
"""The schemas of the scratch connection."""


Prepare = Callable[[apsw.Connection], None]
"""Registers what the schema needs on a new connection: functions and collations."""


def no_preparation(_: apsw.Connection) -> None:
    """Register nothing."""


@dataclass(frozen=True, slots=True)
class Snapshots:
    """The three snapshots of a merge. They stay pinned until it ends."""

    base: Snapshot
    ours: Snapshot
    theirs: Snapshot

    def of(self, side: str) -> Snapshot:
        """Return one of them by the name of its schema."""
        return {BASE: self.base, OURS: self.ours, THEIRS: self.theirs}[side]


@dataclass(frozen=True, slots=True)
class Located:
    """A row and its rowid; without rowids, None."""

    rowid: int | None
    row: Row


class Sides:
    """The connections of one merge. Owner and thread: the merge."""

    def __init__(
        self,
        volume: Volume,
        snapshots: Snapshots,
        scratch: Scratch,
        stack: contextlib.ExitStack,
        prepare: Prepare,
    ) -> None:
        self.scratch = scratch
        self.connection = scratch.connection
        self.encoding = encoding_of(self.connection)
        self._volume = volume
        self._snapshots = snapshots
        self._stack = stack
        self._prepare = prepare
        self._tables: dict[tuple[str, str], Tables] = {}

    @classmethod
    @contextlib.contextmanager
    def opened(cls, volume: Volume, snapshots: Snapshots, prepare: Prepare) -> Iterator[Sides]:
        """Open the scratch connection; the others are opened when they are first used."""
        beside = {side: snapshots.of(side) for side in (BASE, OURS, THEIRS)}
        with (
            contextlib.ExitStack() as stack,
            scratch_over(volume, snapshots.theirs, beside) as scratch,
        ):
            prepare(scratch.connection)
            yield cls(volume, snapshots, scratch, stack, prepare)

    def changes(self, older: str, newer: str) -> Tables:
        """Return the tables of two sides, from a connection on both."""
        if (older, newer) not in self._tables:
            old, new = self._snapshots.of(older), self._snapshots.of(newer)
            connection = self._stack.enter_context(
                connected(self._volume, {NEWER: new, OLDER: old})
            )
            self._prepare(connection)
            self._tables[older, newer] = Tables(connection, old, new)
        return self._tables[older, newer]

    def has_schema_error(self, side: str) -> bool:
        """Return True if views or triggers of a side are broken in it."""
        with scratch_over(self._volume, self._snapshots.of(side)) as scratch:
            return schema_error(scratch.connection) is not None

    def rows_changed(self, older: str, newer: str, name: str) -> Generator[RowChange, None, None]:
        """Yield the rows of one table that differ between two sides."""
        tables = self.changes(older, newer)
        for table in tables.named(name):
            yield from row_changes(tables, table)

    def has_changes(self, older: str, newer: str, name: str) -> bool:
        """Return True if a row of a table differs between two sides."""
        with contextlib.closing(self.rows_changed(older, newer, name)) as found:
            return next(found, None) is not None


def row_changes(tables: Tables, table: Table) -> Generator[RowChange, None, None]:
    """Yield the rows of a table that differ; raises UsageError if they cannot be compared."""
    for found in table_changes(tables, table):
        if isinstance(found, NotCompared):
            raise unmergeable(f"the rows of table {table.name!r} cannot be merged: {found.reason}")
        yield found


def unmergeable(message: str) -> UsageError:
    """Return the error for what no choice can merge."""
    return UsageError(
        message, next_step="keep one side with a reset or a fork, and copy the rows of the other"
    )


def bound(value: Value) -> tuple[str, Value]:
    """Return SQL for a value and what is bound to it."""
    return ("CAST(? AS TEXT)", value.data) if isinstance(value, RawText) else ("?", value)


def matching(columns: tuple[str, ...], row: Row, alias: str = "") -> tuple[str, list[Value]]:
    """Return the condition that columns have the values of a row, and what is bound to it."""
    prefix = f"{alias}." if alias else ""
    parts = [bound(row[name]) for name in columns]
    sql = " AND ".join(
        f"{prefix}{quoted(name)} = {part}" for name, (part, _) in zip(columns, parts, strict=True)
    )
    return sql, [value for _, value in parts]


class Lookup:
    """Finds single rows of one table in one schema. Owner and thread: the merge."""

    def __init__(
        self, connection: apsw.Connection, schema: str, name: str, columns: Columns, encoding: str
    ) -> None:
        self._connection = connection
        self._columns = columns
        self._encoding = encoding
        names = (*columns.key, *columns.stored) if columns.has_rowid else columns.stored
        selected = ", ".join(read_sql(quoted(column)) for column in names)
        self._sql = f"SELECT {selected} FROM {schema}.{quoted(name)} WHERE "  # noqa: S608 - quoted

    def by_rowid(self, rowid: int) -> Located | None:
        """Return the row with a rowid."""
        return self._one(f"{quoted(self._columns.key[0])} = ?", [rowid])

    def by_key(self, row: Row) -> Located | None:
        """Return the row whose declared primary key a row has."""
        return self._one(*matching(self._columns.declared, row))

    def _one(self, where: str, values: list[Value]) -> Located | None:
        found = self._connection.execute(self._sql + where, values).fetchall()
        if not found:
            return None
        row = [decoded(value, self._encoding) for value in found[0]]
        if not self._columns.has_rowid:
            return Located(None, dict(zip(self._columns.stored, row, strict=True)))
        rowid, *rest = row
        assert isinstance(rowid, int)
        return Located(rowid, dict(zip(self._columns.stored, rest, strict=True)))
