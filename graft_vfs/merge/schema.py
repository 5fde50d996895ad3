"""The three-way merge of the schema, object by object, by their statements.

What one side changed is taken from that side; equal changes are one. Added columns of different
names are merged. Every other pair of changes, and a change of one side that the rows of the other
do not survive, is a conflict, and then nothing is merged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import apsw

from graft_vfs.history.rows import Value
from graft_vfs.history.tables import Object, columns_of, objects_of, quoted
from graft_vfs.merge.added_columns import AddedColumn, added_columns
from graft_vfs.merge.conflicts import Findings, Kind, SchemaConflict
from graft_vfs.merge.sides import BASE, OURS, THEIRS, Sides
from graft_vfs.merge.table_merge import NORMAL, REVERSED, Frame

_Key = tuple[str, str]


@dataclass(slots=True)
class TablePlan:
    """How the rows of one table are merged.

    `defaults` are the values of added columns in rows that were not written since. `is_known` is
    false if the mover has columns without such a value, so that all of its rows count as changed.
    """

    name: str
    frame: Frame
    defaults: dict[str, Value] = field(default_factory=dict)
    is_known: bool = True


class SchemaMerge:
    """The schemas of the three snapshots, and their merge. Owner and thread: the merge."""

    def __init__(self, sides: Sides, findings: Findings) -> None:
        self._sides = sides
        self._findings = findings
        self.base, self.ours, self.theirs = (
            objects_of(sides.connection, side) for side in (BASE, OURS, THEIRS)
        )
        all_sides = (self.base, self.ours, self.theirs)
        self.shadows = _shadows(sides.connection, all_sides)
        self.tables: list[TablePlan] = []
        """Tables that ours has, and whose rows may have to be merged."""
        self.remade: list[Object] = []
        """Virtual tables that are made as ours has them."""
        self._drops: list[Object] = []
        self._creates: list[Object] = []
        self._added: dict[str, list[AddedColumn]] = {}

    def statements(self, key: _Key) -> tuple[str | None, str | None, str | None]:
        """Return an object's statements in base, ours and theirs."""
        found = (side.get(key) for side in (self.base, self.ours, self.theirs))
        base, ours, theirs = (None if item is None else item.sql for item in found)
        return base, ours, theirs

    def having(self, key: _Key) -> list[str]:
        """Return the snapshots that have an object."""
        sides = {BASE: self.base, OURS: self.ours, THEIRS: self.theirs}
        return [side for side, objects in sides.items() if key in objects]

    def conflict(self, key: _Key, detail: str) -> None:
        """List a conflict about an object."""
        self._findings.unresolved(SchemaConflict(*key, *self.statements(key), detail))

    # The plan ---------------------------------------------------------------------------------

    def plan(self) -> None:
        """Decide what becomes of each object; conflicts are listed."""
        for key in sorted({*self.base, *self.ours, *self.theirs}):
            kind, name = key
            if name.startswith("sqlite_") or name in self.shadows:
                continue
            if kind == "table":
                self._plan_table(key)
            else:
                self._plan_other(key)
        self._require_tables()

    def _plan_other(self, key: _Key) -> None:
        base, ours, theirs = self.statements(key)
        if ours in (base, theirs):
            return
        if theirs != base:
            self.conflict(key, "both sides changed it")
            return
        self._take(key)

    def _take(self, key: _Key) -> None:
        """Make an object what it is in ours."""
        if key in self.theirs:
            self._drops.append(self.theirs[key])
        if key in self.ours:
            self._creates.append(self.ours[key])

    def _plan_table(self, key: _Key) -> None:
        base, ours, theirs = self.statements(key)
        is_virtual = any(
            key in side and not side[key].root for side in (self.base, self.ours, self.theirs)
        )
        if ours == base:
            if theirs is None and ours is not None and self._changed(key, OURS):
                self.conflict(key, "theirs dropped it, and ours changed its rows")
            elif theirs is not None and ours is not None and not is_virtual:
                self._merge_rows(key[1], NORMAL)
        elif ours == theirs:
            if ours is not None and not is_virtual:
                self._merge_rows(key[1], NORMAL)
        elif theirs == base:
            self._plan_carried(key, is_virtual=is_virtual)
        elif not self._plan_added(key, is_virtual=is_virtual):
            self.conflict(key, "both sides changed it")

    def _plan_carried(self, key: _Key, *, is_virtual: bool) -> None:
        """Plan a table that ours alone dropped, made or declared anew."""
        ours = self.ours.get(key)
        if (ours is None or is_virtual) and key in self.base and self._changed(key, THEIRS):
            did = "dropped" if ours is None else "changed"
            self.conflict(key, f"ours {did} it, and theirs changed its rows")
        elif ours is None:
            self._take(key)
        elif is_virtual:
            self._take(key)
            self.remade.append(ours)
        elif key not in self.base:
            self._take(key)
            self._merge_rows(ours.name, NORMAL)
        elif not self._plan_added(key, is_virtual=False):
            self._take(key)
            self._merge_rows(ours.name, REVERSED)

    def _plan_added(self, key: _Key, *, is_virtual: bool) -> bool:
        """Plan a table to which both sides only added columns; False if that is not so."""
        base, ours, theirs = self.statements(key)
        if is_virtual or base is None or ours is None or theirs is None:
            return False
        by_ours, by_theirs = added_columns(key[1], base, ours), added_columns(key[1], base, theirs)
        if by_theirs is None and theirs == base:
            by_theirs = []
        if by_ours is None or by_theirs is None:
            return False
        there = {column.name.lower(): column for column in by_theirs}
        both = [column for column in by_ours if column.name.lower() in there]
        if any(there[column.name.lower()] != column for column in both):
            return False
        self._added[key[1]] = [column for column in by_ours if column not in both]
        self._merge_rows(key[1], NORMAL)
        return True

    def _merge_rows(self, name: str, frame: Frame) -> None:
        plan = TablePlan(name, frame)
        base, ours, theirs = self.statements(("table", name))
        for is_mover, sql in ((frame.mover == OURS, ours), (frame.mover == THEIRS, theirs)):
            if base is None or sql is None or sql == base:
                continue
            added = added_columns(name, base, sql)
            if added is not None:
                plan.defaults.update((column.name, column.default) for column in added)
            elif is_mover:
                plan.is_known = False
        self.tables.append(plan)

    def _changed(self, key: _Key, side: str) -> bool:
        """Return True if a side changed rows of a table, or of its shadow tables."""
        names = [name for name, owner in self.shadows.items() if owner == key[1]] or [key[1]]
        return any(self._sides.has_changes(BASE, side, name) for name in names)

    def _require_tables(self) -> None:
        """An index or trigger that theirs made on a table that ours dropped has no table."""
        gone = {item.name for item in self._drops if item.kind == "table"}
        gone -= {item.name for item in self._creates if item.kind == "table"}
        for key, item in self.theirs.items():
            base, _, theirs = self.statements(key)
            if item.table in gone and item.kind != "table" and item.sql and theirs != base:
                self.conflict(key, f"ours dropped its table {item.table}")

    # Carrying it out --------------------------------------------------------------------------

    def apply(self) -> None:
        """Change the schema of the merged database, and copy tables that ours declared anew."""
        for kind in ("trigger", "view", "index", "table"):
            for item in self._drops:
                if item.kind == kind:
                    self._run(item, f"DROP {kind.upper()} IF EXISTS main.{quoted(item.name)}")
        self._create(self._creates, "table")
        for name, columns in self._added.items():
            for column in columns:
                self._run(
                    self.ours["table", name],
                    f"ALTER TABLE main.{quoted(name)} ADD COLUMN {column.definition}",
                )
        for plan in self.tables:
            if plan.frame is REVERSED:
                self._copy(plan.name)
        made = {(item.kind, item.name) for item in self._creates}
        for kind in ("index", "view", "trigger"):
            self._create([*self._creates, *self._lost(made)], kind)

    def _create(self, items: Iterable[Object], kind: str) -> None:
        for item in items:
            if item.kind == kind:
                self._run(item, item.sql)

    def _copy(self, name: str) -> None:
        columns = columns_of(self._sides.connection, OURS, name)
        rowid = columns.key if columns.has_rowid and columns.alias is None else ()
        names = ", ".join(map(quoted, (*rowid, *columns.stored)))
        table = quoted(name)
        sql = f"INSERT INTO main.{table}({names}) SELECT {names} FROM ours.{table}"  # noqa: S608
        self._run(self.ours["table", name], sql)

    def _lost(self, made: set[_Key]) -> Iterator[Object]:
        """Yield what went with a table that was dropped and made anew."""
        tables = {item.name for item in self._creates if item.kind == "table"}
        dropped = {(item.kind, item.name) for item in self._drops}
        for key, item in self.theirs.items():
            if item.table in tables and item.sql and key not in made and key not in dropped:
                yield item

    def _run(self, item: Object, sql: str) -> None:
        key = item.kind, item.name
        try:
            self._sides.connection.execute(sql)
        except (apsw.SQLError, apsw.ConstraintError) as error:
            is_unique = isinstance(error, apsw.ConstraintError)
            kind = Kind.UNIQUE if is_unique else Kind.SCHEMA
            found = SchemaConflict(*key, *self.statements(key), str(error), kind)
            self._findings.unresolved(found)


def _shadows(connection: apsw.Connection, sides: Iterable[Mapping[_Key, Object]]) -> dict[str, str]:
    """Return the shadow tables of all sides with the virtual table that each belongs to.

    Tables that begin with the name of a virtual table whose module is unknown count as its own.
    """
    known = {str(name).lower() for (name,) in connection.execute("PRAGMA module_list")}
    sql = "SELECT name FROM pragma_table_list WHERE type = 'shadow'"
    declared = {str(name) for (name,) in connection.execute(sql)}
    items = [item for side in sides for item in side.values() if item.kind == "table"]
    virtual = {item.name: module_of(item.sql) for item in items if not item.root}
    found = {}
    for item in items:
        owners = [
            name
            for name, module in virtual.items()
            if item.root
            and item.name.startswith(f"{name}_")
            and (item.name in declared or module not in known)
        ]
        if owners:
            found[item.name] = max(owners, key=len)
    return found


def module_of(sql: str) -> str:
    """Return the module that a CREATE VIRTUAL TABLE statement names, in lower case."""
    found = re.search(r"\bUSING\s+[\"'`\[]?(\w+)", sql, re.IGNORECASE)
    return found[1].lower() if found else ""
