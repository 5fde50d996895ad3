"""The tables of two snapshots in one connection, and the parts of SQL that compare their rows.

Rows are matched by rowid, or by primary key in a table WITHOUT ROWID. SQLite compares them; of a
table with rowids it is asked only for the key ranges that can differ (`key_ranges`), of others, and
of all when the pages do not tell, for every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import apsw

from graft_vfs.history.key_ranges import ChangedKeys, KeyRange, Roots
from graft_vfs.reports import Change, SchemaDiff
from graft_vfs.sqlite_format.btree import KEY_MAX, KEY_MIN
from graft_vfs.volume.snapshot import Snapshot

OLDER = "older"
NEWER = "main"
"""The schemas under which the connection has the two snapshots."""

HIDDEN_ROWID = "its columns hide every name of the rowid"
_ALIASES = {OLDER: "o", NEWER: "n"}
ALL_KEYS: list[KeyRange] = [(KEY_MIN, KEY_MAX)]
_SCHEMA_ROOT = 1
_PROBE = "graft_schema_probe"
_ROWID_NAMES = ("rowid", "oid", "_rowid_")
_COLUMNS_COMPARED_MAX = 200
"""SQLite limits how deep an expression is, and how long a row value; tables have 2000 columns."""


@dataclass(frozen=True, slots=True)
class Object:
    """A row of sqlite_schema."""

    kind: str
    name: str
    table: str
    root: int
    sql: str


@dataclass(frozen=True, slots=True)
class Columns:
    """How the rows of a table are told apart, and what is stored of them.

    `key` is a name of the rowid, or the primary key of a table WITHOUT ROWID. `declared` is the
    declared primary key, and `alias` the column that is the rowid, if there is one.
    """

    key: tuple[str, ...]
    has_rowid: bool
    stored: tuple[str, ...]
    alias: str | None
    declared: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """One table on both sides, None where there is none of that name, and SQL about its rows.

    `defaults` has, for columns that only the newer side has, SQL of the value in rows that were not
    written since: a row with another value differs. None means that all rows differ. A column that
    is not in it is ignored.
    """

    name: str
    older: Columns | None
    newer: Columns | None
    ranges: Sequence[KeyRange]
    defaults: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def has_key(self) -> bool:
        """Whether rows can be named on the sides that have the table."""
        return all(side.key for side in (self.older, self.newer) if side is not None)

    @property
    def is_matched(self) -> bool:
        """Whether rows of both sides can be matched; if not, all rows are others."""
        older, newer = self.older, self.newer
        if older is None or newer is None:
            return False
        if older.has_rowid and newer.has_rowid:
            return True
        return older.has_rowid == newer.has_rowid and older.key == newer.key

    def side(self, schema: str) -> Columns | None:
        """Return the columns of one side."""
        return self.newer if schema == NEWER else self.older

    def source(self, schema: str) -> str:
        """Return one side as a source of rows, under its alias `o` or `n`."""
        return f"{schema}.{quoted(self.name)} AS {_ALIASES[schema]}"

    def within(self, schema: str, bounds: KeyRange) -> str:
        """Return the condition that a row is in a range; without rowids, there is one of all."""
        side = self.side(schema)
        if side is None or not side.has_rowid or bounds == ALL_KEYS[0]:
            return "true"
        key = f"{_ALIASES[schema]}.{quoted(side.key[0])}"
        return f"{key} BETWEEN {bounds[0]} AND {bounds[1]}"

    def same_key(self) -> str:
        """Return the condition that `o` and `n` are one row."""
        assert self.older is not None
        assert self.newer is not None
        return " AND ".join(
            f"o.{quoted(old)} = n.{quoted(new)}"
            for old, new in zip(self.older.key, self.newer.key, strict=True)
        )

    def differ(self) -> str:
        """Return the condition that `o` and `n` differ in a column, even if only in its type."""
        assert self.older is not None
        assert self.newer is not None
        columns = [column for column in self.newer.stored if column in self.older.stored]
        parts = []
        for first in range(0, len(columns), _COLUMNS_COMPARED_MAX):
            names = [quoted(name) for name in columns[first : first + _COLUMNS_COMPARED_MAX]]
            for side in ("{0} COLLATE BINARY", "typeof({0})"):
                newer = ", ".join(side.format(f"n.{name}") for name in names)
                older = ", ".join(side.format(f"o.{name}") for name in names)
                parts.append(f"({newer}) IS NOT ({older})")
        for name, value in self.defaults.items():
            if value is None:
                return "1"
            for side in ("{0} COLLATE BINARY", "typeof({0})"):
                newer, default = side.format(f"n.{quoted(name)}"), side.format(f"({value})")
                parts.append(f"({newer}) IS NOT ({default})")
        return f"({' OR '.join(parts) or '0'})"

    def both(self, bounds: KeyRange) -> str:
        """Return what follows FROM for the pairs of rows with one key."""
        newer, older = self.source(NEWER), self.source(OLDER)
        return f"{newer} CROSS JOIN {older} ON {self.same_key()} WHERE {self.within(NEWER, bounds)}"


class Tables:
    """What a connection on two snapshots has. Owner and thread: its caller.

    Making it costs what `ChangedKeys` costs.
    """

    def __init__(self, connection: apsw.Connection, older: Snapshot, newer: Snapshot) -> None:
        self.connection = connection
        self.older = objects_of(connection, OLDER)
        self.newer = objects_of(connection, NEWER)
        self.keys = ChangedKeys(older, newer, _roots(self.older), _roots(self.newer))

    def schema(self) -> Iterator[SchemaDiff]:
        """Yield the changes to the schema, without SQLite's internal tables and indexes."""
        for key in sorted({*self.older, *self.newer}):
            change = _change(self.older.get(key), self.newer.get(key))
            if change is not None and not key[1].startswith("sqlite_"):
                yield SchemaDiff(*key, change)

    def all(self) -> list[Table]:
        """Return all tables on either side that have rows of their own, by name."""
        names = sorted(
            item.name
            for item in {**self.older, **self.newer}.values()
            if item.kind == "table" and item.root and not item.name.startswith("sqlite_")
        )
        return [self._table(name) for name in names]

    def named(self, name: str) -> list[Table]:
        """Return the table of a name, if a side has one with rows of its own."""
        found = (self.older.get(("table", name)), self.newer.get(("table", name)))
        return [self._table(name)] if any(item and item.root for item in found) else []

    def _table(self, name: str) -> Table:
        older, newer = self._columns(OLDER, name), self._columns(NEWER, name)
        has_rowid = all(side.has_rowid for side in (older, newer) if side is not None)
        return Table(name, older, newer, self._ranges(name, has_rowid=has_rowid))

    def _ranges(self, name: str, *, has_rowid: bool) -> list[KeyRange]:
        """Return the key ranges of a table to compare; all keys if the pages do not show them."""
        older, newer = self.older.get(("table", name)), self.newer.get(("table", name))
        if older is None or newer is None or not (older.root and newer.root):
            return ALL_KEYS
        ranges = self.keys.ranges(older.root, newer.root, has_rowid=has_rowid)
        # Unchanged rows may be read differently, for example if two columns swapped names.
        if ranges is None or older.sql != newer.sql:
            return ALL_KEYS
        return ranges

    def _columns(self, schema: str, name: str) -> Columns | None:
        """Describe a table with rows; None if there is none of that name."""
        found = (self.newer if schema == NEWER else self.older).get(("table", name))
        if found is None or not found.root:
            return None
        return columns_of(self.connection, schema, name)


def columns_of(connection: apsw.Connection, schema: str, name: str) -> Columns:
    """Describe a table that has rows of its own."""
    rows = connection.execute(
        "SELECT name, pk, hidden FROM pragma_table_xinfo(?, ?)", (name, schema)
    ).fetchall()
    without_rowid = connection.execute(
        "SELECT wr FROM pragma_table_list WHERE schema = ? AND name = ?", (schema, name)
    ).get
    stored = tuple(str(column) for column, _, hidden in rows if not hidden)
    by_place = sorted((int(place), str(column)) for column, place, _ in rows if place)
    declared = tuple(column for _, column in by_place)
    if without_rowid:
        return Columns(declared, False, stored, None, declared)
    taken = {str(column).lower() for column, _, _ in rows}
    key = tuple(n for n in _ROWID_NAMES if n not in taken)[:1]
    return Columns(key, True, stored, _alias(connection, schema, name, declared), declared)


def _alias(
    connection: apsw.Connection, schema: str, name: str, declared: tuple[str, ...]
) -> str | None:
    """Return the column that is the rowid: the one primary key that has no index."""
    if len(declared) != 1:
        return None
    index = "SELECT 1 FROM pragma_index_list(?, ?) WHERE origin = 'pk'"
    has_index = connection.execute(index, (name, schema)).fetchall()
    return None if has_index else declared[0]


def objects_of(connection: apsw.Connection, schema: str) -> dict[tuple[str, str], Object]:
    """Return the rows of a schema's table, by kind and name."""
    columns = "type, name, tbl_name, ifnull(rootpage, 0), ifnull(sql, '')"
    rows = connection.execute(f"SELECT {columns} FROM {schema}.sqlite_schema")  # noqa: S608
    found = [Object(*row) for row in rows]
    return {(item.kind, item.name): item for item in found}


def _roots(objects: dict[tuple[str, str], Object]) -> Roots:
    roots = [item for item in objects.values() if item.root]
    tables = {item.root for item in roots if item.kind == "table"}
    return Roots({_SCHEMA_ROOT, *(item.root for item in roots)}, {_SCHEMA_ROOT, *tables})


def _change(older: Object | None, newer: Object | None) -> Change | None:
    if older is None:
        return Change.ADDED
    if newer is None:
        return Change.DROPPED
    return Change.CHANGED if older.sql != newer.sql else None


def schema_error(connection: apsw.Connection) -> str | None:
    """Return what SQLite finds wrong in views and triggers of `main`, which is writable."""
    connection.execute("SAVEPOINT probe")
    try:
        connection.execute(f"CREATE TABLE {_PROBE}(x)")
        # A rename reads all of them, because they may name the table.
        connection.execute(f"ALTER TABLE {_PROBE} RENAME TO {_PROBE}2")
    except apsw.SQLError as error:
        return str(error)
    finally:
        connection.execute("ROLLBACK TO probe; RELEASE probe")
    return None


def quoted(name: str) -> str:
    """Return a name as SQL takes it for a name, whatever it is."""
    return '"' + name.replace('"', '""') + '"'
