"""Foreign keys of the merged database, checked for what the merge changed.

They are not enforced while rows are written. At the end, the rows that were written are looked up
in their parents, and, if parents went away, the rows of theirs that may refer to them. A violation
that a side had before is no conflict of the merge.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apsw

from graft_vfs.history.rows import Row
from graft_vfs.history.tables import quoted
from graft_vfs.merge.cells import differing
from graft_vfs.merge.changes import Change
from graft_vfs.merge.conflicts import Findings, Kind, RowConflict
from graft_vfs.merge.sides import BASE, MAIN, OURS, THEIRS, Located, Sides, bound


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """One declared foreign key: columns of `child` refer to columns of `parent`."""

    child: str
    parent: str
    columns: tuple[str, ...]
    parent_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Written:
    """A written row: its key, and the columns of foreign keys in the merge and on the sides."""

    key: Row
    merged: Row
    sides: tuple[tuple[str, Row], ...]


class ForeignKeys:
    """The foreign keys of a merge, and what it wrote and removed. Owner and thread: the merge."""

    def __init__(self, sides: Sides) -> None:
        """Read the keys that the merged schema declares."""
        self._sides = sides
        self._connection = sides.connection
        self.all = _declared(sides.connection)
        self._of_child: dict[str, list[ForeignKey]] = defaultdict(list)
        self._of_parent: dict[str, list[ForeignKey]] = defaultdict(list)
        for key in self.all:
            self._of_child[key.child].append(key)
            self._of_parent[key.parent].append(key)
        self._written: dict[str, list[_Written]] = defaultdict(list)
        self._parents_removed: set[str] = set()
        self._whole: set[str] = set()

    def references(self, child: str) -> Iterator[tuple[str, str, str]]:
        """Yield (column, parent, column of the parent) for each column that refers to a parent."""
        for key in self._of_child.get(child, ()):
            for column, target in zip(key.columns, key.parent_columns, strict=True):
                yield column, key.parent, target

    # What the merge does ----------------------------------------------------------------------

    def written(self, table: str, change: Change, row: Row, target: Located | None) -> None:
        """Note a row that was written; `target` is the row that it replaced."""
        keys = self._of_child.get(table)
        if not keys:
            return
        names = {name for key in keys for name in key.columns}

        def some(found: Row) -> Row:
            return {name: value for name, value in found.items() if name in names}

        known = ((OURS, change.mover), (THEIRS, target))
        rows = tuple((side, some(found.row)) for side, found in known if found is not None)
        self._written[table].append(_Written(change.key, some(row), rows))

    def changed(self, table: str, former: Row, row: Row) -> None:
        """Note an updated row of which others may refer to a former value."""
        names = {name for key in self._of_parent.get(table, ()) for name in key.parent_columns}
        if names.intersection(differing(former, row)):
            self._parents_removed.add(table)

    def removed(self, table: str, row: Row) -> None:  # noqa: ARG002 - as `changed`
        """Note a deleted row."""
        if table in self._of_parent:
            self._parents_removed.add(table)

    def rewritten(self, table: str) -> None:
        """Note a table whose rows were all written; it is checked as a whole."""
        self._whole.add(table)

    # The check --------------------------------------------------------------------------------

    def check(self, findings: Findings) -> None:
        """List the rows that the merge left without parent."""
        for table, rows in self._written.items():
            for key in self._of_child[table]:
                self._check_written(key, rows, findings)
        for parent in sorted(self._parents_removed | self._whole):
            for key in self._of_parent.get(parent, ()):
                for side in (THEIRS, OURS) if parent in self._whole else (THEIRS,):
                    self._check_children(key, side, findings)
        for child in sorted(self._whole):
            for key in self._of_child.get(child, ()):
                for side in (THEIRS, OURS):
                    self._check_children(key, side, findings)

    def _check_written(self, key: ForeignKey, rows: Iterable[_Written], findings: Findings) -> None:
        for found in rows:
            if not self._is_dangling(MAIN, key, found.merged):
                continue
            if any(
                not differing(found.merged, row) and self._is_dangling(side, key, row)
                for side, row in found.sides
            ):
                continue
            sides = dict(found.sides)
            findings.unresolved(
                RowConflict(
                    Kind.FOREIGN_KEY,
                    key.child,
                    found.key,
                    key.columns,
                    None,
                    sides.get(OURS),
                    sides.get(THEIRS),
                    f"table {key.parent} has no such row",
                )
            )

    def _check_children(self, key: ForeignKey, side: str, findings: Findings) -> None:
        """Check the rows of a child that a side changed: others had their parent in that side."""
        with contextlib.closing(self._sides.rows_changed(BASE, side, key.child)) as changes:
            for found in changes:
                row = found.newer
                if row is None or not self._is_dangling(MAIN, key, row):
                    continue
                if self._is_dangling(side, key, row) or not self._is_in_main(key, row):
                    continue
                ours, theirs = (row, None) if side == OURS else (None, row)
                detail = f"table {key.parent} has no such row"
                findings.unresolved(
                    RowConflict(
                        Kind.FOREIGN_KEY,
                        key.child,
                        found.key,
                        key.columns,
                        found.older,
                        ours,
                        theirs,
                        detail,
                    )
                )

    def _is_dangling(self, schema: str, key: ForeignKey, row: Row) -> bool:
        """Return True if the values of a row have no parent in a schema."""
        if any(row.get(name) is None for name in key.columns):
            return False
        return not self._exists(schema, key.parent, key.parent_columns, key.columns, row)

    def _is_in_main(self, key: ForeignKey, row: Row) -> bool:
        """Return True if the merged child has a row with all of these values."""
        columns = tuple(name for name in row if row[name] is not None)
        return self._exists(MAIN, key.child, columns, columns, row)

    def _exists(
        self,
        schema: str,
        table: str,
        columns: tuple[str, ...],
        names: tuple[str, ...],
        row: Row,
    ) -> bool:
        parts = [bound(row[name]) for name in names]
        where = " AND ".join(
            f"{quoted(column)} = {part}" for column, (part, _) in zip(columns, parts, strict=True)
        )
        sql = f"SELECT 1 FROM {schema}.{quoted(table)} WHERE {where} LIMIT 1"  # noqa: S608 - quoted
        try:
            found = self._connection.execute(sql, [value for _, value in parts]).fetchall()
        except apsw.SQLError:
            # No such table or column: nothing can be its parent.
            return False
        return bool(found)


def _declared(connection: apsw.Connection) -> list[ForeignKey]:
    """Return the foreign keys of the tables in the merged database, with names as declared."""
    sql = (
        'SELECT t.name, f.id, f."table", f."from", f."to" FROM main.sqlite_schema AS t, '
        "pragma_foreign_key_list(t.name, 'main') AS f "
        "WHERE t.type = 'table' AND t.rootpage ORDER BY t.name, f.id, f.seq"
    )
    found: dict[tuple[str, int], list[tuple[str, str, str | None]]] = defaultdict(list)
    for child, number, parent, column, target in connection.execute(sql):
        found[str(child), int(number)].append((str(parent), str(column), target))
    tables = _names(connection, "SELECT name FROM main.sqlite_schema WHERE type = 'table'")
    keys = []
    for (child, _), parts in found.items():
        parent = tables.get(parts[0][0].lower(), parts[0][0])
        targets = [target for _, _, target in parts]
        keys.append(
            ForeignKey(
                child,
                parent,
                _spelled(connection, child, [column for _, column, _ in parts]),
                _spelled(connection, parent, targets),
            )
        )
    return [key for key in keys if len(key.columns) == len(key.parent_columns)]


def _spelled(
    connection: apsw.Connection, table: str, columns: Iterable[str | None]
) -> tuple[str, ...]:
    """Return columns as the table spells them; without names, its primary key."""
    rows = connection.execute(
        "SELECT name, pk FROM pragma_table_xinfo(?, 'main')", (table,)
    ).fetchall()
    names = {str(name).lower(): str(name) for name, _ in rows}
    given = [column for column in columns if column is not None]
    if not given:
        return tuple(str(name) for _, name in sorted((pk, name) for name, pk in rows if pk))
    return tuple(names.get(column.lower(), column) for column in given)


def _names(connection: apsw.Connection, sql: str) -> dict[str, str]:
    return {str(name).lower(): str(name) for (name,) in connection.execute(sql)}
