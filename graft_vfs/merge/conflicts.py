"""What a merge finds and decides: conflicts, the choices that resolve them, and its report."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from graft_vfs.errors import UsageError
from graft_vfs.history.rows import RawText, Row
from graft_vfs.reports import Report

LISTED_MAX = 10_000
"""How many conflicts, coincidences and renumbered keys a merge lists each; it counts all."""

LISTED_BYTES_MAX = 32 << 20
"""How many bytes of values are in listed conflicts, and one conflict more."""


class Granularity(enum.Enum):
    """What both sides may change without a conflict."""

    CELL = "cell"
    """Different columns of one row."""

    ROW = "row"
    """Different rows of one table."""

    TABLE = "table"
    """Different tables."""


class Kind(enum.Enum):
    """The kinds of conflicts; the first word is what ours did, the second what theirs did."""

    UPDATE_UPDATE = "update/update"
    UPDATE_DELETE = "update/delete"
    DELETE_UPDATE = "delete/update"
    INSERT_INSERT = "insert/insert"
    COINCIDENT = "coincident"
    """Both sides wrote the same values, and the choices count that as a conflict."""

    TABLE = "table"
    """Both sides changed rows of one table, and the granularity is the table."""

    UNIQUE = "unique"
    """A row of ours has the values of another row in columns that must be unique."""

    CHECK = "check"
    """A merged row breaks a CHECK, NOT NULL or type constraint."""

    FOREIGN_KEY = "foreign key"
    """A row refers to a parent that the merged database lacks."""

    SCHEMA = "schema"
    """The statements of both sides cannot be merged, or their rows need both statements."""


class Resolution(enum.Enum):
    """How a conflict is resolved."""

    ABORT = "abort"
    """Not at all: nothing is merged."""

    OURS = "ours"
    THEIRS = "theirs"
    RENUMBER = "renumber"
    """Ours gets a fresh key; only for rows that both sides inserted under one INTEGER key."""

    VALUES = "values"
    """By the values that a function returned; not a choice by itself."""


@dataclass(frozen=True, slots=True)
class RowConflict:
    """A conflict about one row, or about one table if `key` is empty.

    `columns` are those in conflict, all if empty. `base`, `ours` and `theirs` are the rows of the
    three snapshots, None where there is none; in a UNIQUE conflict, `theirs` is the other row.
    """

    kind: Kind
    table: str
    key: Row
    columns: tuple[str, ...]
    base: Row | None
    ours: Row | None
    theirs: Row | None
    detail: str = ""
    resolution: Resolution = Resolution.ABORT

    def __str__(self) -> str:
        key = ", ".join(f"{name}={value!r}" for name, value in self.key.items())
        columns = f" in {', '.join(self.columns)}" if self.columns else ""
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.kind.value} of {self.table}({key}){columns}{detail}"


@dataclass(frozen=True, slots=True)
class SchemaConflict:
    """A conflict about the object `name` of the schema, with the statements of the snapshots.

    An object that a snapshot lacks has the statement None.
    """

    object: str
    name: str
    base: str | None
    ours: str | None
    theirs: str | None
    detail: str
    kind: Kind = Kind.SCHEMA

    def __str__(self) -> str:
        return f"schema of {self.object} {self.name}: {self.detail}"


Conflict = RowConflict | SchemaConflict

Decide = Callable[[RowConflict], Resolution | Mapping[str, object]]
"""A function that resolves one conflict: by a Resolution, or by values for columns of the row."""

_DECIDABLE = {
    Kind.UPDATE_UPDATE,
    Kind.UPDATE_DELETE,
    Kind.DELETE_UPDATE,
    Kind.INSERT_INSERT,
    Kind.COINCIDENT,
    Kind.TABLE,
    Kind.UNIQUE,
}
"""The others stop every merge: no choice of one side makes a parent, or a sound row."""

_TAKES_VALUES = {Kind.UPDATE_UPDATE, Kind.INSERT_INSERT, Kind.COINCIDENT}


@dataclass(frozen=True, slots=True)
class Choices:
    """How a merge goes about what both sides changed; by default it stops at every conflict.

    With `coincident_conflicts`, equal changes of both sides are conflicts: they may be two
    withdrawals of one amount.
    """

    policy: Resolution | Decide = Resolution.ABORT
    granularity: Granularity = Granularity.CELL
    coincident_conflicts: bool = False

    @classmethod
    def named(cls, policy: str | Decide, granularity: str, coincident: str) -> Choices:
        """Return choices by name; equal changes may `merge` or `conflict`. Raises UsageError."""
        names = [each.value for each in Resolution if each is not Resolution.VALUES]
        decide = policy if callable(policy) else Resolution(_one_of("policy", policy, names))
        sizes = [each.value for each in Granularity]
        return cls(
            decide,
            Granularity(_one_of("granularity", granularity, sizes)),
            _one_of("coincident", coincident, ["merge", "conflict"]) == "conflict",
        )

    @property
    def may_renumber(self) -> bool:
        """Return True if a conflict may be resolved by a fresh key."""
        return self.policy is Resolution.RENUMBER or not isinstance(self.policy, Resolution)


def _one_of(what: str, name: str, names: list[str]) -> str:
    if name not in names:
        raise UsageError(
            f"{what} is {name!r}, which is none of {', '.join(names)}",
            next_step=f"set {what} to one of these",
        )
    return name


@dataclass(frozen=True, slots=True)
class Coincidence:
    """Both sides changed these columns of a row to the same values, or inserted the same row."""

    table: str
    key: Row
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Renumbered:
    """A row of ours that has another INTEGER key in the merged database."""

    table: str
    ours: int
    merged: int


@dataclass(slots=True)
class Counts:
    """What of ours came into theirs, in rows; `combined` rows were changed by both sides."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    combined: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class Merged(Report):
    """A merge without unresolved conflicts.

    The lists have at most LISTED_MAX entries, the counts are of all. `resolved` are conflicts that
    the policy decided.
    """

    inserted: int
    updated: int
    deleted: int
    combined: int
    resolved_count: int
    coincident_count: int
    renumbered_count: int
    resolved: tuple[RowConflict, ...]
    coincident: tuple[Coincidence, ...]
    renumbered: tuple[Renumbered, ...]
    rebuilt: tuple[str, ...]

    def __str__(self) -> str:
        rows = f"{self.inserted} inserted, {self.updated} updated, {self.deleted} deleted"
        text = f"Merged rows of ours: {rows}; {self.combined} of them with changes of both sides"
        for count, what in (
            (self.resolved_count, "conflicts resolved"),
            (self.coincident_count, "equal changes"),
            (self.renumbered_count, "keys renumbered"),
            (len(self.rebuilt), "indexes rebuilt"),
        ):
            if count:
                text += f"; {what}: {count}"
        return f"{text}."


@dataclass(frozen=True, slots=True, repr=False)
class Conflicting(Report):
    """A merge that stopped: nothing was merged.

    At most LISTED_MAX conflicts are listed, and fewer if their values are large.
    """

    conflict_count: int
    conflicts: tuple[Conflict, ...]

    def __str__(self) -> str:
        count = self.conflict_count
        lines = [f"Not merged: {count} conflict{'' if count == 1 else 's'}."]
        lines += [f"  {conflict}" for conflict in self.conflicts]
        if count > len(self.conflicts):
            lines.append(f"  and {count - len(self.conflicts)} more")
        return "\n".join(lines)


@dataclass(slots=True)
class Findings:
    """What one merge has found so far. Owner and thread: the merge."""

    choices: Choices
    counts: Counts = field(default_factory=Counts)
    conflict_count: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    resolved_count: int = 0
    resolved: list[RowConflict] = field(default_factory=list)
    coincident_count: int = 0
    coincident: list[Coincidence] = field(default_factory=list)
    renumbered_count: int = 0
    renumbered: list[Renumbered] = field(default_factory=list)
    rebuilt: list[str] = field(default_factory=list)
    _listed_bytes: int = 0

    def unresolved(self, conflict: Conflict) -> None:
        """Count a conflict that stops the merge."""
        self.conflict_count += 1
        if self._listed_bytes < LISTED_BYTES_MAX:
            _list(self.conflicts, conflict)
            self._listed_bytes += _size(conflict)

    def coincide(self, found: Coincidence) -> None:
        """Count equal changes."""
        self.coincident_count += 1
        _list(self.coincident, found)

    def renumber(self, found: Renumbered) -> None:
        """Count a key that was renumbered."""
        self.renumbered_count += 1
        _list(self.renumbered, found)

    def resolve(
        self, conflict: RowConflict, *, can_renumber: bool = False
    ) -> tuple[Resolution, Row]:
        """Have the policy decide a conflict, and count it: how, and with which values.

        Raises UsageError if a function returns something else.
        """
        answer = self._answer(conflict)
        values: Row = {}
        if not isinstance(answer, Resolution):
            values, answer = _values(conflict, answer), Resolution.VALUES
        if answer is Resolution.RENUMBER and not can_renumber:
            answer = Resolution.ABORT
        if answer is Resolution.ABORT:
            self.unresolved(conflict)
        else:
            self.resolved_count += 1
            if self._listed_bytes < LISTED_BYTES_MAX:
                _list(self.resolved, replace(conflict, resolution=answer))
                self._listed_bytes += _size(conflict)
        return answer, values

    def _answer(self, conflict: RowConflict) -> object:
        policy = self.choices.policy
        if isinstance(policy, Resolution) or conflict.kind not in _DECIDABLE:
            return policy if conflict.kind in _DECIDABLE else Resolution.ABORT
        answer = policy(conflict)
        if answer is Resolution.VALUES:
            raise _wrong_answer(conflict, answer)
        return answer

    def outcome(self) -> Merged | Conflicting:
        """Return the report."""
        if self.conflict_count:
            return Conflicting(self.conflict_count, tuple(self.conflicts))
        counts = self.counts
        return Merged(
            inserted=counts.inserted,
            updated=counts.updated,
            deleted=counts.deleted,
            combined=counts.combined,
            resolved_count=self.resolved_count,
            coincident_count=self.coincident_count,
            renumbered_count=self.renumbered_count,
            resolved=tuple(self.resolved),
            coincident=tuple(self.coincident),
            renumbered=tuple(self.renumbered),
            rebuilt=tuple(self.rebuilt),
        )


_T = TypeVar("_T")


def _list(found: list[_T], item: _T) -> None:
    if len(found) < LISTED_MAX:
        found.append(item)


def _size(conflict: Conflict) -> int:
    """Return about how many bytes the values of a conflict have."""
    if isinstance(conflict, SchemaConflict):
        return 0
    rows = (conflict.base, conflict.ours, conflict.theirs)
    values = [value for row in rows if row is not None for value in row.values()]
    return sum(len(value) if isinstance(value, str | bytes) else 8 for value in values)


def _values(conflict: RowConflict, answer: object) -> Row:
    """Check the values that a function returned for a row."""
    known = {*(conflict.ours or ()), *(conflict.theirs or ())} - {*conflict.key}
    if (
        conflict.kind not in _TAKES_VALUES
        or not isinstance(answer, Mapping)
        or not known.issuperset(answer)
        or not all(isinstance(value, _VALUES) for value in answer.values())
    ):
        raise _wrong_answer(conflict, answer)
    return dict(answer)


_VALUES = (type(None), int, float, str, bytes, RawText)


def _wrong_answer(conflict: RowConflict, answer: object) -> UsageError:
    return UsageError(
        f"the merge policy returned {answer!r} for the conflict {conflict}",
        next_step="have it return Resolution.OURS, THEIRS, RENUMBER or ABORT, or, where both sides "
        "have the row, a dictionary of values for columns outside its key",
    )
