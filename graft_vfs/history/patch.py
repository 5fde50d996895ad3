"""A diff as SQL: statements that turn the older of two snapshots into the newer one.

They are one transaction and need no VFS: `sqlite3 -bail older.db < patch.sql`, where `-bail` keeps
the shell from going on to the COMMIT after an error. A patch that was cut off has no COMMIT, and
changes nothing.

- A row keeps its rowid, and each value its storage class and its bytes.
- A table whose declaration changed is made anew, with all of its rows.
- A table with a unique index gets its rows deleted first and inserted afterwards, because two rows
  may have swapped their values.
- Triggers of a table that changes are dropped before and made again at the end: what they did is in
  the rows.
- Rows of virtual tables are those of their shadow tables.

Statistics of ANALYZE are left out, and so is everything of page 1 but user_version and
application_id.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator

import apsw

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import UsageError
from graft_vfs.history.diff import CommitPair
from graft_vfs.history.rows import (
    NotCompared,
    RawText,
    Row,
    RowChange,
    Value,
    encoding_of,
    table_changes,
)
from graft_vfs.history.tables import NEWER, OLDER, Columns, Object, Table, Tables, quoted
from graft_vfs.pager.snapshots import connected, unreadable
from graft_vfs.reports import Change
from graft_vfs.volume.volume import Volume

_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal, or a reader of lines, would not take as it is."""

_CHECK = re.compile(r"\bCHECK\b", re.IGNORECASE)
_STEP_BITS = 60
PRAGMAS = ("user_version", "application_id")


def statements(volume: Volume, pair: CommitPair) -> Iterator[str]:
    """Yield the lines of the patch, each whole statements; memory is for one row.

    Costs and errors are those of `diff.compare`; UsageError for a table whose rows cannot be
    compared. The consumer closes the iterator, on the thread that made it.
    """
    with connected(volume, {NEWER: pair.newer, OLDER: pair.older}) as connection:
        try:
            patch = Patch(Tables(connection, pair.older, pair.newer))
            yield f"-- From {pair.older_name} to {pair.newer_name}."
            yield from patch.lines()
        except apsw.Error as error:
            raise unreadable(error) from error


class Patch:
    """One patch. Owner and thread: its caller."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._connection = tables.connection
        self.schema = {(item.kind, item.name): item.change for item in tables.schema()}
        self._literals = Literals(self._connection)
        self.remade: set[str] = set()
        """Tables that are dropped, made, or both: what was on them is gone."""
        self._dropped_triggers: set[str] = set()

    def lines(self) -> Iterator[str]:
        """Yield all of it, as a transaction."""
        if self.shadows():
            yield "-- It may write to shadow tables; if the sqlite3 shell refuses that, run first:"
            yield "-- .dbconfig defensive off"
        yield "PRAGMA foreign_keys=OFF;"
        if any(_CHECK.search(item.sql or "") for item in self._tables.newer.values()):
            # Rows may violate it: written while it was not enforced, or before it was added.
            yield "PRAGMA ignore_check_constraints=ON;"
        yield "BEGIN IMMEDIATE;"
        yield from self.changes()
        yield from self._sequence()
        yield from self._pragmas()
        yield "COMMIT;"

    def changes(self) -> Iterator[str]:
        """Yield the statements that change the schema and rows."""
        shadows = self.shadows()
        for kind in ("trigger", "view", "index"):
            yield from self._drops(kind)
        yield from self._virtual_tables()
        for table in self.tables_to_change():
            yield from self._table(table, is_shadow=table.name in shadows)
        for kind in ("index", "view", "trigger"):
            yield from self._creates(kind)

    def _pragmas(self) -> Iterator[str]:
        for name in PRAGMAS:
            older, newer = (self._connection.pragma(name, schema=at) for at in (OLDER, NEWER))
            if older != newer:
                yield f"PRAGMA {name}={newer};"

    # The schema -------------------------------------------------------------------------------

    def _drops(self, kind: str) -> Iterator[str]:
        for (found, name), change in self.schema.items():
            if found == kind and change is not Change.ADDED:
                yield f"DROP {kind.upper()} {quoted(name)};"

    def _creates(self, kind: str) -> Iterator[str]:
        """Make what is new or changed, and what went with a table or for its rows."""
        for item in self._tables.newer.values():
            if item.kind != kind or not item.sql:
                continue
            is_gone = kind == "trigger" and item.name in self._dropped_triggers
            if (kind, item.name) in self.schema or item.table in self.remade or is_gone:
                yield _ended(item.sql)

    def _virtual_tables(self) -> Iterator[str]:
        """Drop and make virtual tables, with which their shadow tables go and come."""
        for (kind, name), change in self.schema.items():
            older, newer = (
                self._tables.older.get((kind, name)),
                self._tables.newer.get((kind, name)),
            )
            if kind == "table" and (_is_virtual(older) or _is_virtual(newer)):
                self.remade.add(name)
                if change is not Change.ADDED:
                    yield f"DROP TABLE {quoted(name)};"
                if newer is not None and _is_virtual(newer):
                    yield _ended(newer.sql)

    def shadows(self) -> set[str]:
        """Return the shadow tables of virtual tables, of both sides."""
        rows = self._connection.execute(
            "SELECT name FROM pragma_table_list WHERE schema IN (?, ?) AND type = 'shadow'",
            (OLDER, NEWER),
        )
        return {str(name) for (name,) in rows}

    def owner(self, shadow: str) -> str:
        """Return the virtual table that a shadow table belongs to."""
        both = (self._tables.older.values(), self._tables.newer.values())
        names = [item.name for item in itertools.chain(*both) if _is_virtual(item)]
        return max((n for n in names if shadow.startswith(f"{n}_")), key=len, default="")

    # Rows -------------------------------------------------------------------------------------

    def _table(self, table: Table, *, is_shadow: bool) -> Iterator[str]:
        change = self.schema.get(("table", table.name))
        name = quoted(table.name)
        if is_shadow and self.owner(table.name) in self.remade:
            if table.newer is not None:
                yield f"DELETE FROM {name};"  # noqa: S608 - it is quoted
                yield from self._all_rows(table)
            return
        if change is None:
            yield from self._changed_rows(table)
            return
        self.remade.add(table.name)
        if table.older is not None:
            # A shadow table is not known as one if a table of its virtual table's name is in the
            # newer commit, and has gone with that already.
            yield f"DROP TABLE IF EXISTS {name};"
        if table.newer is not None:
            yield _ended(self._tables.newer["table", table.name].sql)
            yield from self._all_rows(table)

    def _all_rows(self, table: Table) -> Iterator[str]:
        alone = Table(table.name, None, table.newer, table.ranges)
        for change in self.row_changes(alone):
            yield self._insert(table, change)

    def _changed_rows(self, table: Table) -> Iterator[str]:
        is_first = True
        for line in self._row_lines(table):
            if is_first:
                yield from self.drop_triggers(table.name)
            is_first = False
            yield line

    def _row_lines(self, table: Table) -> Iterator[str]:
        if not self._has_unique(table):
            for change in self.row_changes(table):
                yield self._one_row(table, change)
            return
        for is_insert in (False, True):
            for change in self.row_changes(table):
                if is_insert and change.newer is not None:
                    yield self._insert(table, change)
                elif not is_insert and change.older is not None:
                    yield self._delete(change)

    def tables_to_change(self) -> list[Table]:
        """Return the tables whose rows may differ."""
        return self._tables.all()

    def row_changes(self, table: Table) -> Iterator[RowChange]:
        """Yield the rows that differ; raises UsageError for those that cannot be compared."""
        return map(_required, table_changes(self._tables, table))

    def _has_unique(self, table: Table) -> bool:
        """Return True if a column must be unique that does not name the rows."""
        assert table.newer is not None
        sql = "SELECT 1 FROM pragma_index_list(?, ?) WHERE \"unique\" AND (? OR origin <> 'pk')"
        arguments = (table.name, NEWER, table.newer.has_rowid)
        return bool(self._connection.execute(sql, arguments).fetchall())

    def drop_triggers(self, table: str) -> Iterator[str]:
        """Yield what keeps the triggers of a table from running."""
        for item in self._tables.older.values():
            is_kept = ("trigger", item.name) not in self.schema
            if item.kind == "trigger" and item.table == table and is_kept:
                self._dropped_triggers.add(item.name)
                yield f"DROP TRIGGER {quoted(item.name)};"

    def _one_row(self, table: Table, change: RowChange) -> str:
        if change.older is None:
            return self._insert(table, change)
        if change.newer is None:
            return self._delete(change)
        values = ", ".join(
            f"{quoted(name)} = {self._literals.of(change.newer[name])}"
            for name in change.changed_columns()
        )
        return f"UPDATE {quoted(table.name)} SET {values} WHERE {self.where(change.key)};"  # noqa: S608

    def _insert(self, table: Table, change: RowChange) -> str:
        assert table.newer is not None
        assert change.newer is not None
        row = {**_unseen_key(table.newer, change.key), **change.newer}
        columns = ", ".join(map(quoted, row))
        values = ", ".join(map(self._literals.of, row.values()))
        return f"INSERT INTO {quoted(table.name)}({columns}) VALUES({values});"

    def _delete(self, change: RowChange) -> str:
        return f"DELETE FROM {quoted(change.table)} WHERE {self.where(change.key)};"  # noqa: S608

    def where(self, key: Row) -> str:
        """Return the condition that a row has a key."""
        return " AND ".join(
            f"{quoted(name)} = {self._literals.of(value)}" for name, value in key.items()
        )

    def _sequence(self) -> Iterator[str]:
        """Set the largest rowids of AUTOINCREMENT, which inserting does not bring back."""
        if ("table", "sqlite_sequence") not in self._tables.newer:
            return
        yield "DELETE FROM sqlite_sequence;"
        for name, sequence in self._connection.execute(
            "SELECT name, seq FROM main.sqlite_sequence"
        ):
            values = f"{self._literals.of(name)}, {self._literals.of(sequence)}"
            yield f"INSERT INTO sqlite_sequence VALUES({values});"


def _ended(sql: str) -> str:
    """Return a stored statement with the semicolon that ends it, after a comment at its end."""
    ended = (f"{sql}{end}" for end in (";", "\n;", "*/;"))
    return next(filter(apsw.complete, ended), f"{sql};")


def _is_virtual(item: Object | None) -> bool:
    return item is not None and item.kind == "table" and not item.root


def _required(found: RowChange | NotCompared) -> RowChange:
    if isinstance(found, NotCompared):
        raise UsageError(
            f"the rows of table {found.table!r} cannot be compared: {found.reason}",
            next_step=Hint("use ", Advice.EXPORT, " to get the whole database"),
        )
    return found


def _unseen_key(columns: Columns, key: Row) -> Row:
    """Return the rowid of a row if none of its columns is the rowid."""
    return key if columns.has_rowid and columns.alias is None else {}


class Literals:
    """Values as SQL literals that read back as they were. Owner and thread: its caller."""

    def __init__(self, connection: apsw.Connection) -> None:
        """Take the encoding of the connection's databases, and have it check numbers."""
        self._connection = connection
        self._encoding = encoding_of(connection)

    def of(self, value: Value) -> str:
        """Return the literal of a value."""
        if isinstance(value, bytes):
            return f"x'{value.hex()}'"
        if isinstance(value, RawText):
            return f"CAST(x'{value.data.hex()}' AS TEXT)"
        if isinstance(value, str):
            if _UNSAFE.search(value):
                return f"CAST(x'{value.encode(self._encoding).hex()}' AS TEXT)"
            return "'" + value.replace("'", "''") + "'"
        if isinstance(value, float):
            return self._real(value)
        return "NULL" if value is None else str(value)

    def _real(self, value: float) -> str:
        if math.isinf(value):
            return "9e999" if value > 0 else "-9e999"
        text = repr(value)
        # SQLite reads most, but not all, decimal numbers as the nearest of its own.
        return text if self._connection.execute(f"SELECT {text}").get == value else _exact(value)


def _exact(value: float) -> str:
    """Return a real number as an expression in which nothing is rounded."""
    fraction, exponent = math.frexp(value)
    number, exponent = int(fraction * 2**53), exponent - 53
    parts = [f"{number}.0"]
    while exponent:
        bits = min(abs(exponent), _STEP_BITS)
        parts.append(f"{'*' if exponent > 0 else '/'}{2**bits}.0")
        exponent -= bits if exponent > 0 else -bits
    return f"({''.join(parts)})"
