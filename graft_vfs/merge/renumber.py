"""Fresh INTEGER keys for rows of ours, where both sides inserted different rows under one key.

All keys are chosen before a row is written, because rows of other tables refer to them by foreign
keys. Only declared foreign keys are followed, and only in rows that ours inserted or in cells that
it changed: no other can mean the new row.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from graft_vfs.history.rows import Row, Value, is_same_value
from graft_vfs.history.tables import columns_of, quoted
from graft_vfs.merge.cells import differing
from graft_vfs.merge.changes import Change
from graft_vfs.merge.conflicts import Findings, Kind, Renumbered, Resolution, RowConflict
from graft_vfs.merge.foreign_keys import ForeignKeys
from graft_vfs.merge.sides import BASE, OURS, THEIRS, Located, Lookup, Sides
from graft_vfs.sqlite_format.btree import KEY_MAX

_Answer = tuple[Resolution, Row]


class Renumbering:
    """The keys of ours that change in a merge. Owner and thread: the merge."""

    def __init__(self, sides: Sides, findings: Findings, foreign_keys: ForeignKeys) -> None:
        self._sides = sides
        self._findings = findings
        self._foreign_keys = foreign_keys
        self._aliases: dict[str, str] = {}
        self._maps: dict[str, dict[int, int]] = defaultdict(dict)
        self._next: dict[str, int] = {}
        self._answers: dict[tuple[str, Kind, tuple[Value, ...]], _Answer] = {}

    def plan(self, tables: Iterable[str], fixed: Collection[str]) -> None:
        """Choose the fresh keys of tables; those that `fixed` tables refer to keep their keys."""
        connection = self._sides.connection
        of_theirs = {
            name for (name,) in connection.execute("SELECT name FROM theirs.sqlite_schema")
        }
        for name in tables:
            alias = columns_of(connection, OURS, name).alias
            if alias is not None and name in of_theirs:
                self._aliases[name] = alias
        pinned = {
            parent for child in fixed for _, parent, _ in self._foreign_keys.references(child)
        }
        # A key that was found late may change what was compared before.
        while any(self._chose(name, can_renumber=name not in pinned) for name in self._aliases):
            pass

    def _chose(self, table: str, *, can_renumber: bool) -> bool:
        """Choose the keys of one table; return True if there are new ones."""
        sides, alias = self._sides, self._aliases[table]
        columns = columns_of(sides.connection, THEIRS, table)
        if columns.alias != alias:
            return False
        lookup = Lookup(sides.connection, THEIRS, table, columns, sides.encoding)
        known = len(self._maps[table])
        with contextlib.closing(sides.rows_changed(BASE, OURS, table)) as changes:
            for found in changes:
                if found.older is not None or found.newer is None:
                    continue
                key = found.newer[alias]
                assert isinstance(key, int)
                if key not in self._maps[table]:
                    self._choose(table, key, found.newer, lookup, can_renumber=can_renumber)
        return len(self._maps[table]) > known

    def _choose(
        self, table: str, key: int, ours: Row, lookup: Lookup, *, can_renumber: bool
    ) -> None:
        alias = self._aliases[table]
        row = self._with_references(table, ours, None)
        wanted = row[alias]
        assert isinstance(wanted, int)
        theirs = lookup.by_rowid(wanted)
        is_reference = wanted != key
        if is_reference:
            # The key is that of a parent, which was renumbered.
            self._maps[table][key] = wanted
        if theirs is None or is_reference:
            return
        apart = differing(row, theirs.row)
        if not apart and not self._findings.choices.coincident_conflicts:
            return
        kind = Kind.INSERT_INSERT if apart else Kind.COINCIDENT
        columns = apart or tuple(name for name in row if name != alias)
        conflict = RowConflict(kind, table, {alias: key}, columns, None, row, theirs.row)
        answer, values = self._answer(conflict, can_renumber=can_renumber)
        if answer is Resolution.RENUMBER:
            self._maps[table][key] = fresh = self._fresh(table)
            self._findings.renumber(Renumbered(table, key, fresh))
        self._answers[_place(conflict)] = answer, values

    def _answer(self, conflict: RowConflict, *, can_renumber: bool) -> _Answer:
        known = self.decided(conflict)
        if known is not None:
            return known
        is_free = all(
            column != self._aliases[conflict.table] or parent == conflict.table
            for column, parent, _ in self._foreign_keys.references(conflict.table)
        )
        has_room = self._peek(conflict.table) <= KEY_MAX
        return self._findings.resolve(conflict, can_renumber=can_renumber and is_free and has_room)

    def _fresh(self, table: str) -> int:
        fresh = self._peek(table)
        self._next[table] = fresh + 1
        return fresh

    def _peek(self, table: str) -> int:
        """Return the next key that no side has or had."""
        if table not in self._next:
            newest = max(self._newest(schema, table) for schema in (BASE, OURS, THEIRS))
            self._next[table] = newest + 1
        return self._next[table]

    def _newest(self, schema: str, table: str) -> int:
        """Return the largest key that a side has, or had under AUTOINCREMENT; 0 without any."""
        connection, alias, newest = self._sides.connection, self._aliases[table], 0
        names = connection.execute(f"SELECT name FROM {schema}.sqlite_schema")  # noqa: S608
        tables = {str(name) for (name,) in names}
        if table in tables and columns_of(connection, schema, table).alias == alias:
            sql = f"SELECT max({quoted(alias)}) FROM {schema}.{quoted(table)}"  # noqa: S608
            newest = connection.execute(sql).get or 0
        if "sqlite_sequence" in tables:
            sql = f"SELECT max(seq) FROM {schema}.sqlite_sequence WHERE name = ?"  # noqa: S608
            newest = max(newest, connection.execute(sql, (table,)).get or 0)
        return newest

    # Use --------------------------------------------------------------------------------------

    def decided(self, conflict: RowConflict) -> _Answer | None:
        """Return how a conflict was resolved when the keys were chosen; None if it was not."""
        return self._answers.get(_place(conflict))

    def remapped(self, table: str, change: Change) -> Change:
        """Return a change of ours with its keys and references as in the merged database."""
        mover = change.mover
        if mover is None or not self._maps:
            return change
        base = None if change.base is None else change.base.row
        row = self._with_references(table, mover.row, base)
        key, rowid = change.key, mover.rowid
        alias = self._aliases.get(table)
        if alias is not None and base is None:
            fresh = self._maps[table].get(rowid or 0)
            if fresh is not None:
                row, rowid, key = {**row, alias: fresh}, fresh, {alias: fresh}
        if row is mover.row:
            return change
        if base is None and not change.by_values:
            key = {name: row.get(name, value) for name, value in key.items()}
        return replace(change, key=key, mover=Located(rowid, row))

    def _with_references(self, table: str, row: Row, base: Row | None) -> Row:
        """Return a row with the references that ours made as they are in the merged database."""
        changed: Row = {}
        for column, parent, target in self._foreign_keys.references(table):
            if parent not in self._maps or self._aliases.get(parent) != target:
                continue
            value = row.get(column)
            if base is not None and is_same_value(base.get(column), value):
                continue
            fresh = _looked_up(self._maps[parent], value)
            if fresh is not None:
                changed[column] = fresh
        return {**row, **changed} if changed else row


def _looked_up(fresh: Mapping[int, int], value: Value) -> Value:
    """Return the new value of a reference, in its storage class; None if it stays."""
    if isinstance(value, str):
        found = next((new for old, new in fresh.items() if str(old) == value), None)
        return None if found is None else str(found)
    if isinstance(value, float):
        new = fresh.get(int(value)) if value.is_integer() else None
        return None if new is None else float(new)
    return fresh.get(value) if isinstance(value, int) else None


def _place(conflict: RowConflict) -> tuple[str, Kind, tuple[Value, ...]]:
    return conflict.table, conflict.kind, tuple(conflict.key.values())
