"""The rows that one side changed, paired by what identifies a row in their table.

- `INTEGER PRIMARY KEY`: the rowid; `WITHOUT ROWID`: the primary key.
- Another declared primary key: that key, whatever rowid the row has. A row with NULL in its key
  counts as one without key.
- No key: an inserted row is new; one that was updated or deleted is the row with the same rowid
  *and* the same values, because VACUUM and reused rowids move rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from graft_vfs.history.rows import Row, RowChange, Value, is_same_value
from graft_vfs.history.tables import Columns
from graft_vfs.merge.cells import differing
from graft_vfs.merge.sides import Located, Lookup


@dataclass(frozen=True, slots=True)
class Change:
    """A row as it was in the base and as a side has it, None where there is none.

    With `by_values`, the row has no key.
    """

    key: Row
    base: Located | None
    mover: Located | None
    by_values: bool = False


class Identified:
    """Pairs the changed rows of one table. Owner and thread: the merge."""

    def __init__(
        self,
        columns: Columns,
        base: Lookup | None,
        mover: Lookup,
        defaults: Mapping[str, Value],
    ) -> None:
        self._columns = columns
        self._base = base
        self._mover = mover
        self._defaults = dict(defaults)

    def changes(self, rows: Iterable[RowChange]) -> Iterator[Change]:
        """Yield each row that was inserted, updated or deleted once."""
        columns = self._columns
        for found in rows:
            rowid = None
            if columns.has_rowid:
                (value,) = found.key.values()
                assert isinstance(value, int)
                rowid = value
            older, newer = self._located(rowid, found.older), self._located(rowid, found.newer)
            if not columns.has_rowid or columns.alias is not None:
                yield Change(found.key, older, newer)
            elif not columns.declared:
                yield Change(found.key, older, newer, by_values=True)
            else:
                yield from self._by_declared_key(found.key, older, newer)

    def _located(self, rowid: int | None, row: Row | None) -> Located | None:
        return None if row is None else Located(rowid, {**self._defaults, **row})

    def _by_declared_key(
        self, rowid: Row, older: Located | None, newer: Located | None
    ) -> Iterator[Change]:
        if older is not None and newer is not None:
            if self._has_null(older.row) and self._has_null(newer.row):
                yield Change(rowid, older, newer, by_values=True)
                return
            if self._is_same_key(older.row, newer.row):
                yield Change(self._key(newer.row), older, newer)
                return
        if older is not None:
            yield from self._gone(rowid, older)
        if newer is not None:
            yield from self._come(rowid, newer)

    def _gone(self, rowid: Row, older: Located) -> Iterator[Change]:
        """Yield a row that is no longer at its rowid, unless it is at another."""
        if self._has_null(older.row):
            yield Change(rowid, older, None, by_values=True)
        elif self._mover.by_key(older.row) is None:
            yield Change(self._key(older.row), older, None)

    def _come(self, rowid: Row, newer: Located) -> Iterator[Change]:
        """Yield a row that was not at its rowid before."""
        if self._has_null(newer.row):
            yield Change(rowid, None, newer, by_values=True)
            return
        partner = None if self._base is None else self._base.by_key(newer.row)
        if partner is not None:
            partner = Located(partner.rowid, {**self._defaults, **partner.row})
        if partner is None or differing(partner.row, newer.row):
            yield Change(self._key(newer.row), partner, newer)

    def _key(self, row: Row) -> Row:
        return {name: row[name] for name in self._columns.declared}

    def _has_null(self, row: Row) -> bool:
        return any(row[name] is None for name in self._columns.declared)

    def _is_same_key(self, one: Row, other: Row) -> bool:
        return all(is_same_value(one[name], other[name]) for name in self._columns.declared)
