"""The merge of one table: each row that one side changed is decided and written into the other's.

The *mover* is the side whose changes are applied, the *target* the one whose database they are
applied to: ours and theirs, except where ours has the newer declaration of a table.

Rows are written one after another. A row that cannot be written yet, because another has its unique
values, is removed and written at the end; what clashes then, clashes in the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import apsw

from graft_vfs.history.rows import Row, RowChange, Value
from graft_vfs.history.tables import Columns
from graft_vfs.merge.cells import differing, merge_cells
from graft_vfs.merge.changes import Change, Identified
from graft_vfs.merge.conflicts import (
    Coincidence,
    Findings,
    Granularity,
    Kind,
    Resolution,
    RowConflict,
)
from graft_vfs.merge.foreign_keys import ForeignKeys
from graft_vfs.merge.renumber import Renumbering
from graft_vfs.merge.sides import BASE, MAIN, OURS, THEIRS, Located, Lookup, Sides
from graft_vfs.merge.writer import NotKeptError, Writer, is_unique_violation

_CLASHES_MAX = 100


@dataclass(frozen=True, slots=True)
class Frame:
    """The schemas that take part in the merge of one table."""

    base: str = BASE
    mover: str = OURS
    target: str = THEIRS

    @property
    def is_reversed(self) -> bool:
        """Return True if their changes are applied to ours."""
        return self.mover == THEIRS


NORMAL = Frame()
REVERSED = Frame(BASE, THEIRS, OURS)
AS_OURS = Frame(THEIRS, OURS, THEIRS)
"""All that differs becomes as ours has it."""

AS_THEIRS = Frame(OURS, THEIRS, OURS)
"""The same, where ours has the newer declaration."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the merges of all tables share."""

    sides: Sides
    findings: Findings
    renumbering: Renumbering
    foreign_keys: ForeignKeys


@dataclass(slots=True)
class _Write:
    """A row to write: `at` is the row of the target that it replaces, None for a new row."""

    change: Change
    rowid: int | None
    row: Row
    at: Located | None = None
    values: Row = field(default_factory=dict)
    is_combined: bool = False


@dataclass(frozen=True, slots=True)
class _Choice:
    """How a conflict is resolved: for one side, or by values."""

    is_mover: bool
    values: Row

    def cells(self, mover: Row, columns: tuple[str, ...]) -> Row:
        """Return the cells of the target to change."""
        return {name: mover[name] for name in columns} if self.is_mover else self.values


_SWAPPED = {Kind.UPDATE_DELETE: Kind.DELETE_UPDATE, Kind.DELETE_UPDATE: Kind.UPDATE_DELETE}


class TableMerge:
    """Merges one table. Owner and thread: the merge.

    `columns` has those of each schema that has the table. `defaults` are the values of added
    columns in rows that were not written since.
    """

    def __init__(
        self,
        parts: Parts,
        name: str,
        frame: Frame,
        defaults: dict[str, Value],
        columns: Mapping[str, Columns],
    ) -> None:
        self._parts = parts
        self._findings = parts.findings
        self._name = name
        self._frame = frame
        self._defaults = defaults
        self._columns: Columns = columns[MAIN]
        lookups = {
            schema: Lookup(parts.sides.connection, schema, name, found, parts.sides.encoding)
            for schema, found in columns.items()
        }
        self._mover = lookups[frame.mover]
        self._target = lookups.get(frame.target)
        self._base = lookups.get(frame.base)
        self._identified = Identified(columns[frame.mover], self._base, self._mover, defaults)
        self._writer = Writer(parts.sides, name, self._columns)
        self._pending: list[_Write] = []

    def run(self, rows: Iterable[RowChange]) -> None:
        """Apply the rows that the mover changed."""
        for change in self._identified.changes(rows):
            self._decide(change)
        for write in self._pending:
            self._settle(write)

    # Decisions --------------------------------------------------------------------------------

    def _decide(self, change: Change) -> None:
        if self._frame.mover == OURS:
            change = self._parts.renumbering.remapped(self._name, change)
        target = self._target_of(change)
        base, mover = change.base, change.mover
        if base is None:
            assert mover is not None
            self._inserted(change, mover, target)
        elif mover is None:
            self._deleted(change, base, target)
        else:
            self._updated(change, base, mover, target)

    def _target_of(self, change: Change) -> Located | None:
        """Return the row of the target that a change is about."""
        found = None if self._target is None else self._find(self._target, change)
        return found and Located(found.rowid, {**self._defaults, **found.row})

    def _find(self, rows: Lookup, change: Change) -> Located | None:
        if change.by_values:
            found = None if change.base is None else _at_rowid(rows, change.base)
            # A row that has a key now is found by it.
            return found if found and _has_no_key(found, self._columns) else None
        located = change.base or change.mover
        assert located is not None
        if self._columns.alias is not None:
            return _at_rowid(rows, located)
        # Rows mostly have one rowid on both sides; then the index need not be read.
        guess = _at_rowid(rows, located) if self._columns.has_rowid else None
        keys = {name: located.row[name] for name in self._columns.declared}
        if guess is not None and not differing(keys, guess.row):
            return guess
        return rows.by_key(located.row)

    def _inserted(self, change: Change, mover: Located, target: Located | None) -> None:
        if target is None:
            self._put(_Write(change, mover.rowid, mover.row))
            return
        apart = differing(mover.row, target.row)
        if not apart:
            columns = tuple(name for name in mover.row if name not in change.key)
            cells = self._coincide(change, columns, target)
            self._replace(change, target, cells or {}, is_combined=True)
            return
        choice = self._choose(self._conflict(Kind.INSERT_INSERT, change, apart, target))
        if choice is not None:
            self._replace(change, target, choice.cells(mover.row, apart), is_combined=True)

    def _deleted(self, change: Change, base: Located, target: Located | None) -> None:
        if target is None:
            return
        apart = differing(base.row, target.row)
        if apart:
            choice = self._choose(self._conflict(Kind.DELETE_UPDATE, change, apart, target))
            if choice is None or not choice.is_mover:
                return
        self._writer.delete(target)
        self._findings.counts.deleted += 1
        self._parts.foreign_keys.removed(self._name, target.row)

    def _updated(
        self, change: Change, base: Located, mover: Located, target: Located | None
    ) -> None:
        if target is None:
            apart = differing(base.row, mover.row)
            choice = self._choose(self._conflict(Kind.UPDATE_DELETE, change, apart, None))
            if choice is not None and choice.is_mover:
                self._put(_Write(change, mover.rowid, mover.row))
            return
        by_row = change.by_values or self._findings.choices.granularity is not Granularity.CELL
        merged = merge_cells(base.row, mover.row, target.row, by_row=by_row)
        cells = {name: merged.row[name] for name in merged.changed}
        chosen: list[Row | None] = []
        if merged.coincident:
            chosen.append(self._coincide(change, merged.coincident, target))
        if merged.conflicting:
            conflict = self._conflict(Kind.UPDATE_UPDATE, change, merged.conflicting, target)
            choice = self._choose(conflict)
            chosen.append(None if choice is None else choice.cells(mover.row, merged.conflicting))
        for each in chosen:
            if each is None:
                return
            cells.update(each)
        self._replace(change, target, cells, is_combined=merged.is_combined)

    def _coincide(self, change: Change, columns: tuple[str, ...], target: Located) -> Row | None:
        """Count equal changes; return cells to change nevertheless, None if they stop the merge."""
        self._findings.coincide(Coincidence(self._name, change.key, columns))
        if not self._findings.choices.coincident_conflicts:
            return {}
        choice = self._choose(self._conflict(Kind.COINCIDENT, change, columns, target))
        return None if choice is None else choice.values

    def _conflict(
        self, kind: Kind, change: Change, columns: tuple[str, ...], target: Located | None
    ) -> RowConflict:
        base, mover, other = (
            None if each is None else each.row for each in (change.base, change.mover, target)
        )
        key = change.key
        if self._frame.is_reversed:
            return RowConflict(
                _SWAPPED.get(kind, kind), self._name, key, columns, base, other, mover
            )
        return RowConflict(kind, self._name, key, columns, base, mover, other)

    def _choose(self, conflict: RowConflict) -> _Choice | None:
        decided = self._parts.renumbering.decided(conflict)
        answer, values = decided or self._findings.resolve(conflict)
        if answer is Resolution.ABORT:
            return None
        winner = Resolution.THEIRS if self._frame.is_reversed else Resolution.OURS
        return _Choice(answer is winner, values)

    # Writing ----------------------------------------------------------------------------------

    def _replace(self, change: Change, target: Located, cells: Row, *, is_combined: bool) -> None:
        """Change cells of a row of the target to values that they do not have."""
        changed = {name: cells[name] for name in differing(cells, target.row)}
        if changed:
            row = {**target.row, **changed}
            self._put(_Write(change, target.rowid, row, target, changed, is_combined))

    def _put(self, write: _Write) -> None:
        """Write a row, or keep it for the end if another has its unique values."""
        try:
            if write.at is None:
                written = self._writer.insert(write.rowid, write.row)
            else:
                self._writer.update(write.at, write.values)
                written = Located(write.at.rowid, write.row)
        except apsw.ConstraintError as error:
            if not is_unique_violation(error):
                self._broken(write, str(error))
                return
            if write.at is not None:
                self._writer.delete(write.at)
            self._pending.append(write)
        except NotKeptError as error:
            self._broken(write, str(error))
        else:
            self._written(write, written)

    def _written(self, write: _Write, written: Located) -> None:
        counts, keys = self._findings.counts, self._parts.foreign_keys
        counts.combined += write.is_combined
        if write.at is None:
            counts.inserted += 1
        else:
            counts.updated += 1
            keys.changed(self._name, write.at.row, written.row)
        keys.written(self._name, write.change, written.row, write.at)

    def _broken(self, write: _Write, detail: str) -> None:
        conflict = self._conflict(Kind.CHECK, write.change, tuple(write.values), write.at)
        self._findings.unresolved(replace(conflict, detail=detail))

    # Unique values ----------------------------------------------------------------------------

    def _settle(self, write: _Write) -> None:
        """Write a row that was kept for the end, or resolve with which rows it clashes."""
        for _ in range(_CLASHES_MAX):
            try:
                written = self._writer.insert(write.rowid, write.row)
            except apsw.ConstraintError as error:
                if not is_unique_violation(error):
                    self._broken(write, str(error))
                    return
                if not self._resolve_clash(write, str(error)):
                    return
            except NotKeptError as error:
                self._broken(write, str(error))
                return
            else:
                self._written(write, written)
                return
        self._findings.unresolved(self._unique(write, None, "too many rows have its values"))

    def _unique(self, write: _Write, other: Located | None, detail: str) -> RowConflict:
        found = self._conflict(Kind.UNIQUE, write.change, (), write.at)
        ours, theirs = write.row, None if other is None else other.row
        if self._frame.is_reversed:
            return replace(found, ours=theirs, theirs=ours, detail=detail)
        return replace(found, ours=ours, theirs=theirs, detail=detail)

    def _resolve_clash(self, write: _Write, detail: str) -> bool:
        """Have one clash of a row resolved; return True if it may be written now."""
        other = self._writer.clash(write.rowid, write.row)
        conflict = self._unique(write, other, detail)
        choice = self._choose(conflict)
        if choice is None:
            return False
        if choice.is_mover and other is not None:
            if self._gives_way(other):
                return True
        elif not choice.is_mover and self._is_withdrawn(write):
            return False
        self._findings.unresolved(conflict)
        return False

    def _gives_way(self, other: Located) -> bool:
        """Make a row of the target what the mover has; False for a row that the mover changed."""
        target = self._same_row(self._target, other)
        if target is None or {*differing(other.row, target.row)}:
            return False
        mover = self._same_row(self._mover, other)
        if mover is not None and not (self._columns.alias or self._columns.declared):
            base = self._same_row(self._base, other)
            mover = mover if base is not None and not differing(base.row, mover.row) else None
        keys = self._parts.foreign_keys
        try:
            if mover is None:
                self._writer.delete(other)
                keys.removed(self._name, other.row)
            else:
                apart = differing(mover.row, other.row)
                self._writer.update(other, {name: mover.row[name] for name in apart})
                keys.changed(self._name, other.row, {**other.row, **mover.row})
        except apsw.ConstraintError:
            return False
        return True

    def _same_row(self, rows: Lookup | None, row: Located) -> Located | None:
        if rows is None:
            return None
        columns = self._columns
        if columns.has_rowid and (columns.alias or _has_no_key(row, columns)):
            return rows.by_rowid(row.rowid or 0)
        return rows.by_key(row.row)

    def _is_withdrawn(self, write: _Write) -> bool:
        """Leave a row as the target has it; False if that clashes as well."""
        if write.at is None:
            return True
        names = self._columns.stored
        former = {name: value for name, value in write.at.row.items() if name in names}
        try:
            self._writer.insert(write.at.rowid, former)
        except apsw.ConstraintError:
            return False
        return True


def _has_no_key(row: Located, columns: Columns) -> bool:
    return not columns.declared or any(row.row[name] is None for name in columns.declared)


def _at_rowid(rows: Lookup, located: Located) -> Located | None:
    assert located.rowid is not None
    return rows.by_rowid(located.rowid)
