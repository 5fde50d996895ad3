"""Writes rows into one table of the merged database.

No trigger fires, and no clause of the declaration (`ON CONFLICT REPLACE`) decides for the merge.
Generated columns are never written. A row that is written is read back, so that a value that lost
its storage class does not pass.
"""

from __future__ import annotations

import apsw

from graft_vfs.history.rows import Row, Value
from graft_vfs.history.tables import Columns, quoted
from graft_vfs.merge.cells import differing
from graft_vfs.merge.sides import MAIN, Located, Lookup, Sides, bound, matching

_UNIQUE = {
    apsw.SQLITE_CONSTRAINT_UNIQUE,
    apsw.SQLITE_CONSTRAINT_PRIMARYKEY,
    apsw.SQLITE_CONSTRAINT_ROWID,
}


def is_unique_violation(error: apsw.ConstraintError) -> bool:
    """Return True if another row has the values; if not, the row itself breaks a constraint."""
    return getattr(error, "extendedresult", None) in _UNIQUE


class NotKeptError(Exception):
    """The table stored other values than it was given. Internal: the merge lists a conflict."""


class Writer:
    """Writes to one table; each call is all or nothing.

    Raises apsw.ConstraintError for what is refused, and NotKeptError, after which the merged
    database must not be used.

    Owner and thread: the merge.
    """

    def __init__(self, sides: Sides, name: str, columns: Columns) -> None:
        self._connection = sides.connection
        self._columns = columns
        self._name = name
        self._table = f"{MAIN}.{quoted(name)}"
        self._rows = Lookup(sides.connection, MAIN, name, columns, sides.encoding)

    def insert(self, rowid: int | None, row: Row) -> Located:
        """Insert a row, under a fresh rowid if its own is taken and no column shows it."""
        columns = self._columns
        shows_rowid = not columns.has_rowid or columns.alias is not None
        if shows_rowid or rowid is None or self._rows.by_rowid(rowid) is not None:
            self._insert(row)
        else:
            self._insert({columns.key[0]: rowid, **row})
        if not columns.has_rowid:
            return self._checked(self._rows.by_key(row), row)
        return self._checked(self._rows.by_rowid(self._connection.last_insert_rowid()), row)

    def update(self, at: Located, values: Row) -> None:
        """Update columns of a row, given as the table has it."""
        if not values:
            return
        parts = {name: bound(value) for name, value in values.items()}
        assigned = ", ".join(f"{quoted(name)} = {part}" for name, (part, _) in parts.items())
        where, key = self._where(at)
        sql = f"UPDATE OR ABORT {self._table} SET {assigned} WHERE {where}"  # noqa: S608 - quoted
        self._connection.execute(sql, [*(value for _, value in parts.values()), *key])
        if at.rowid is None:
            self._checked(self._rows.by_key({**at.row, **values}), values)
        else:
            self._checked(self._rows.by_rowid(at.rowid), values)

    def delete(self, at: Located) -> None:
        """Delete a row, given as the table has it."""
        where, key = self._where(at)
        self._connection.execute(f"DELETE FROM {self._table} WHERE {where}", key)  # noqa: S608

    def clash(self, rowid: int | None, row: Row) -> Located | None:
        """Return a row that keeps another from being inserted; None if it cannot be named."""
        columns = self._columns
        names = columns.key if columns.has_rowid else columns.declared
        connection = self._connection
        connection.execute("SAVEPOINT clash")
        try:
            shown = {columns.key[0]: rowid, **row} if columns.alias is not None else row
            returned = ", ".join(map(quoted, names))
            first = quoted(columns.stored[0])
            upsert = f" ON CONFLICT DO UPDATE SET {first} = {first} RETURNING {returned}"
            sql, values = self._insert_sql("INSERT", shown)
            found = connection.execute(sql + upsert, values).fetchall()
        except apsw.Error:
            return None
        finally:
            connection.execute("ROLLBACK TO clash; RELEASE clash")
        key = dict(zip(names, found[0], strict=True))
        if not columns.has_rowid:
            return self._rows.by_key(key)
        (at,) = key.values()
        assert isinstance(at, int)
        return self._rows.by_rowid(at)

    def read(self, at: Located) -> Located | None:
        """Return a row as the table has it now."""
        return self._rows.by_key(at.row) if at.rowid is None else self._rows.by_rowid(at.rowid)

    def _insert(self, row: Row) -> None:
        self._connection.execute(*self._insert_sql("INSERT OR ABORT", row))

    def _insert_sql(self, verb: str, row: Row) -> tuple[str, list[Value]]:
        parts = {name: bound(value) for name, value in row.items()}
        columns = ", ".join(map(quoted, parts))
        values = ", ".join(part for part, _ in parts.values())
        sql = f"{verb} INTO {self._table}({columns}) VALUES({values})"
        return sql, [value for _, value in parts.values()]

    def _where(self, at: Located) -> tuple[str, list[Value]]:
        if at.rowid is not None:
            return f"{quoted(self._columns.key[0])} = ?", [at.rowid]
        return matching(self._columns.declared, at.row)

    def _checked(self, found: Located | None, row: Row) -> Located:
        """Compare a row with what was written."""
        changed = tuple(row) if found is None else differing(row, found.row)
        if found is None or changed:
            raise NotKeptError(
                f"the values of {', '.join(changed)} do not keep their types in this declaration"
            )
        return found
