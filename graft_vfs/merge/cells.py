"""The three-way merge of one row: pure functions on the values of its columns."""

from __future__ import annotations

from dataclasses import dataclass

from graft_vfs.history.rows import Row, is_same_value


@dataclass(frozen=True, slots=True)
class CellMerge:
    """A merged row; columns in conflict have the target's values.

    `changed` are the columns that differ from the target's row. `is_combined` says whether the
    target changed the row as well.
    """

    row: Row
    changed: tuple[str, ...]
    conflicting: tuple[str, ...]
    coincident: tuple[str, ...]
    is_combined: bool


def differing(one: Row, other: Row) -> tuple[str, ...]:
    """Return the columns of both rows that differ, even if only in their storage class."""
    return tuple(
        name for name in one if name in other and not is_same_value(one[name], other[name])
    )


def merge_cells(base: Row, mover: Row, target: Row, *, by_row: bool) -> CellMerge:
    """Apply the changes from `base` to `mover` to a row of the target.

    A column that only the target has stays as it is. With `by_row`, both sides must not change one
    row, except equally. A column that is missing in `base` counts as changed by both sides.
    """
    ours = [name for name in mover if name in target and _is_changed(base, mover, name)]
    theirs = {
        name
        for name in target
        if (name in base or name in mover) and _is_changed(base, target, name)
    }
    apart = differing(mover, target)
    if by_row and ours and theirs and apart:
        return CellMerge(target, (), apart, (), True)
    conflicting = tuple(name for name in ours if name in apart and name in theirs)
    changed = tuple(name for name in ours if name in apart and name not in theirs)
    coincident = tuple(
        name for name in ours if name in theirs and name not in apart and name in base
    )
    row = {**target, **{name: mover[name] for name in changed}}
    return CellMerge(row, changed, conflicting, coincident, bool(theirs and changed))


def _is_changed(base: Row, row: Row, name: str) -> bool:
    return name not in base or not is_same_value(base[name], row[name])
