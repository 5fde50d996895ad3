"""Virtual tables in a merge.

If only one side changed a virtual table, that side's shadow tables are taken, whatever its module.
If both did, the rows are merged and the index is made from them: FTS3, FTS4 and FTS5 with content
are rebuilt, an R-Tree gets the rows of ours. Every other module keeps its data in a form of its
own, and is refused by name; so is a full-text table without content, as its text is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import apsw

from graft_vfs.history.rows import Row, RowChange, decoded, encoding_of, read_sql
from graft_vfs.history.tables import NEWER, OLDER, Columns, Object, Tables, columns_of, quoted
from graft_vfs.merge.cells import differing
from graft_vfs.merge.schema import SchemaMerge, TablePlan, module_of
from graft_vfs.merge.sides import BASE, MAIN, OURS, THEIRS, Sides
from graft_vfs.merge.table_merge import NORMAL

_FULL_TEXT = {"fts3", "fts4", "fts5"}
_R_TREES = {"rtree", "rtree_i32"}
_NO_CONTENT = re.compile(r"\bcontent\s*=\s*(?:''|\"\"|``|\[\]|(?=[,)]))", re.IGNORECASE)
_CONTENT = re.compile(r"\bcontent\s*=\s*['\"`\[]?([^'\"`\],)]+)", re.IGNORECASE)
_MERGED_SHADOWS = ("content", "config")
"""Of the shadow tables of full-text tables, those that a rebuild reads."""


@dataclass(slots=True)
class VirtualPlan:
    """What is merged for virtual tables: shadow tables as tables, R-Trees, indexes to rebuild."""

    tables: list[TablePlan] = field(default_factory=list)
    r_trees: list[str] = field(default_factory=list)
    rebuilds: list[str] = field(default_factory=list)


class VirtualMerge:
    """Merges virtual tables. Owner and thread: the merge."""

    def __init__(self, sides: Sides, schema: SchemaMerge) -> None:
        self._sides = sides
        self._schema = schema
        self._connection = sides.connection

    def plan(self) -> VirtualPlan:
        """Decide how each virtual table is merged; what cannot be is listed as a conflict."""
        plan = VirtualPlan()
        remade = {item.name for item in self._schema.remade}
        for (kind, name), item in sorted(self._schema.ours.items()):
            is_shared = (kind, name) in self._schema.theirs and name not in remade
            if kind == "table" and not item.root and is_shared:
                self._plan_one(item, plan)
        return plan

    def _plan_one(self, item: Object, plan: VirtualPlan) -> None:
        shadows = sorted(s for s, owner in self._schema.shadows.items() if owner == item.name)
        ours, theirs = self._changed(OURS, shadows), self._changed(THEIRS, shadows)
        module = module_of(item.sql)
        outside = _outside_content(item.sql) if module in _FULL_TEXT else None
        if outside is not None and (ours or theirs):
            # Its text may come from rows of both sides.
            if all(
                is_changed or self._sides.has_changes(BASE, side, outside)
                for side, is_changed in ((OURS, ours), (THEIRS, theirs))
            ):
                plan.rebuilds.append(item.name)
            elif ours:
                plan.tables += [TablePlan(name, NORMAL) for name in shadows]
        elif not ours:
            return
        elif not theirs:
            plan.tables += [TablePlan(name, NORMAL) for name in shadows]
        elif module in _FULL_TEXT and not _NO_CONTENT.search(item.sql):
            kept = {f"{item.name}_{suffix}" for suffix in _MERGED_SHADOWS}
            plan.tables += [TablePlan(name, NORMAL) for name in shadows if name in kept]
            plan.rebuilds.append(item.name)
        elif module in _R_TREES:
            plan.r_trees.append(item.name)
        else:
            what = "without content" if module in _FULL_TEXT else "of this module"
            self._schema.conflict(
                ("table", item.name),
                f"both sides changed it, and a virtual table {what} ({module}) cannot be merged",
            )

    def _changed(self, side: str, shadows: list[str]) -> bool:
        return any(self._sides.has_changes(BASE, side, name) for name in shadows)

    # Carrying it out --------------------------------------------------------------------------

    def copy_remade(self) -> None:
        """Fill virtual tables that were made as in ours with the shadow tables of ours."""
        for item in self._schema.remade:
            for name, owner in sorted(self._schema.shadows.items()):
                if owner != item.name or ("table", name) not in self._schema.ours:
                    continue
                columns = columns_of(self._connection, OURS, name)
                rowid = columns.key if columns.has_rowid and columns.alias is None else ()
                names = ", ".join(map(quoted, (*rowid, *columns.stored)))
                table = quoted(name)
                self._connection.execute(f"DELETE FROM main.{table}")  # noqa: S608 - quoted
                self._connection.execute(
                    f"INSERT INTO main.{table}({names}) SELECT {names} FROM ours.{table}"  # noqa: S608
                )

    def rebuild(self, name: str) -> None:
        """Make the index of a full-text table from its content."""
        table = quoted(name)
        try:
            self._connection.execute(f"INSERT INTO main.{table}({table}) VALUES('rebuild')")
        except apsw.SQLError as error:
            self._schema.conflict(("table", name), f"its index cannot be rebuilt: {error}")

    def r_tree_columns(self, name: str) -> dict[str, Columns]:
        """Return the columns of an R-Tree in each schema, of which the first is its key."""
        sides = self._schema.having(("table", name))
        found = {side: self._r_tree(side, name) for side in sides}
        return {**found, MAIN: found[THEIRS]}

    def _r_tree(self, side: str, name: str) -> Columns:
        sql = "SELECT name FROM pragma_table_xinfo(?, ?)"
        names = tuple(str(column) for (column,) in self._connection.execute(sql, (name, side)))
        return Columns(names[:1], True, names, names[0], names[:1])


def r_tree_changes(tables: Tables, name: str, columns: Columns) -> Iterator[RowChange]:
    """Yield the rows of an R-Tree that differ between two snapshots; reads all of both."""
    connection, encoding = tables.connection, encoding_of(tables.connection)
    key = quoted(columns.stored[0])
    selected = ", ".join(read_sql(quoted(column)) for column in columns.stored)

    def rows(schema: str, where: str = "", *values: object) -> Iterator[Row]:
        if ("table", name) in (tables.newer if schema == NEWER else tables.older):
            sql = f"SELECT {selected} FROM {schema}.{quoted(name)} {where}"  # noqa: S608 - quoted
            for found in connection.execute(sql, values):
                values_read = [decoded(value, encoding) for value in found]
                yield dict(zip(columns.stored, values_read, strict=True))

    for schema, other in ((NEWER, OLDER), (OLDER, NEWER)):
        for row in rows(schema):
            place = {columns.stored[0]: row[columns.stored[0]]}
            partner = next(rows(other, f"WHERE {key} = ?", *place.values()), None)
            if schema == OLDER:
                if partner is None:
                    yield RowChange(name, place, row, None)
            elif partner is None or differing(partner, row):
                yield RowChange(name, place, partner, row)


def _outside_content(sql: str) -> str | None:
    """Return the table whose rows a full-text table indexes, if they are not its own."""
    if _NO_CONTENT.search(sql):
        return None
    found = _CONTENT.search(sql)
    return None if found is None else found[1].strip()
