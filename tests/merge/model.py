"""A three-way merge of tables as dictionaries, and random tables to compare it with.

The model reads whole states from stock SQLite and knows nothing of pages, key ranges or SQL writes.
A value is a text of its storage class and its bytes, so that 1, 1.0 and '1' are three.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import apsw

from graft_vfs.history.rows import RawText
from graft_vfs.merge.conflicts import Choices, Granularity, Kind, Resolution

Row = dict[str, str]
Place = tuple[str, ...]

NULL = "nullNULL"


@dataclass(frozen=True)
class TableKind:
    """A table whose key columns are `key`; `shows_rowid` if its first column is the rowid."""

    name: str
    declaration: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    shows_rowid: bool = False
    has_rowid: bool = True


CHILD = TableKind(
    "child", 'id INTEGER PRIMARY KEY, p REFERENCES "{}", a, b', ("id",), ("id", "p", "a", "b"), True
)

KINDS = (
    TableKind("whole", "id INTEGER PRIMARY KEY, a, b, c", ("id",), ("id", "a", "b", "c"), True),
    TableKind(
        "auto",
        "id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT, b REAL, c, g AS (a || b), "
        "s AS (length(c)) STORED",
        ("id",),
        ("id", "a", "b", "c"),
        True,
    ),
    TableKind("text", "k TEXT NOT NULL PRIMARY KEY, a, b, c", ("k",), ("k", "a", "b", "c")),
    TableKind("null", "k PRIMARY KEY, a, b, c", ("k",), ("k", "a", "b", "c")),
    TableKind("two", "a, k, l, b, PRIMARY KEY(l, k)", ("l", "k"), ("a", "k", "l", "b")),
    TableKind("none", "a, b, c", (), ("a", "b", "c")),
    TableKind(
        "without",
        "a, k, l, b, PRIMARY KEY(k, l)) WITHOUT ROWID --",
        ("k", "l"),
        ("a", "k", "l", "b"),
        has_rowid=False,
    ),
)


def canonical(column: str) -> str:
    """Return SQL for a value as the model has it."""
    return (
        f"CASE typeof({column}) WHEN 'text' THEN 'text' || hex({column}) "
        f"ELSE typeof({column}) || quote({column}) END"
    )


@dataclass
class State:
    """One table: its rows by rowid, or by a number that means nothing."""

    rows: dict[int, Row]

    @classmethod
    def read(cls, connection: apsw.Connection, name: str, kind: TableKind) -> State:
        selected = ", ".join(canonical(f'"{column}"') for column in kind.columns)
        rowid = "rowid" if kind.has_rowid else "row_number() OVER ()"
        found = connection.execute(f'SELECT {rowid}, {selected} FROM "{name}"')
        return cls({int(rowid): dict(zip(kind.columns, row, strict=True)) for rowid, *row in found})

    def keyed(self, kind: TableKind) -> dict[Place, Row]:
        places = ((_place(kind, row), row) for row in self.rows.values())
        return {place: row for place, row in places if place is not None}

    def unkeyed(self, kind: TableKind) -> dict[int, Row]:
        return {rowid: row for rowid, row in self.rows.items() if _place(kind, row) is None}


def _place(kind: TableKind, row: Row) -> Place | None:
    place = tuple(row[column] for column in kind.key)
    return None if not place or NULL in place else place


Found = tuple[Kind, str, Place, tuple[str, ...]]
"""A conflict: its kind, table, key and sorted columns."""


@dataclass
class Expected:
    """The rows that the merge must have, and what it must report."""

    rows: Counter[tuple[str, ...]] = field(default_factory=Counter)
    unresolved: set[Found] = field(default_factory=set)
    coincident: int = 0


@dataclass
class Model:
    """Merges one table. `answers` are those that a function gave, by kind, table and key.

    `fresh` has, by table, the keys that the merge gave to rows of ours, if it says. `references`
    has, by child, its column and the table whose key that names.
    """

    choices: Choices
    answers: dict[tuple[Kind, str, Place], Resolution | Row]
    fresh: dict[str, dict[str, str]]
    has_fresh: bool = True
    references: dict[str, tuple[str, str]] = field(default_factory=dict)

    def merge(
        self, name: str, kind: TableKind, base: State, ours: State, theirs: State
    ) -> Expected:
        self._name, self._kind, self._expected = name, kind, Expected()
        if self.choices.granularity is Granularity.TABLE:
            if base.rows not in (ours.rows, theirs.rows):
                answer = self._answer(Kind.TABLE, (), ())
                self._keep(ours if answer is Resolution.OURS else theirs)
            else:
                self._keep(theirs if base.rows == ours.rows else ours)
            return self._expected
        self._keyed(base.keyed(kind), ours.keyed(kind), theirs.keyed(kind))
        self._unkeyed(base.unkeyed(kind), ours.unkeyed(kind), theirs)
        return self._expected

    def _keep(self, state: State) -> None:
        for row in state.rows.values():
            self._expected.rows[tuple(row.values())] += 1

    def _answer(self, kind: Kind, place: Place, columns: tuple[str, ...]) -> Resolution | Row:
        policy = self.choices.policy
        if not isinstance(policy, Resolution):
            policy = self.answers[kind, self._name, place]
        if policy is Resolution.RENUMBER:
            is_new = kind in (Kind.INSERT_INSERT, Kind.COINCIDENT)
            if is_new and self._kind.shows_rowid and self._is_insert:
                if not self.has_fresh:
                    return Resolution.THEIRS
                raise AssertionError(f"{place} of {self._name} has no fresh key")
            policy = Resolution.ABORT
        if policy is Resolution.ABORT:
            self._expected.unresolved.add((kind, self._name, place, tuple(sorted(columns))))
        return policy

    def _keyed(
        self, base: dict[Place, Row], ours: dict[Place, Row], theirs: dict[Place, Row]
    ) -> None:
        merged = dict(theirs)
        for place in {*base, *ours}:
            b, o = base.get(place), ours.get(place)
            if b == o:
                continue
            if o is not None:
                o = self._followed(b, o)
            at = place
            if o is not None and b is None:
                if self._kind.shows_rowid and place[0] in self.fresh.get(self._name, {}):
                    o = {**o, "id": self.fresh[self._name][place[0]]}
                at = tuple(o[column] for column in self._kind.key)
            row = self._row(at, b, o, theirs.get(at))
            merged.pop(at, None)
            if row is not None:
                merged[at] = row
        for row in merged.values():
            self._expected.rows[tuple(row.values())] += 1

    def _followed(self, base: Row | None, ours: Row) -> Row:
        reference = self.references.get(self._name)
        if reference is None:
            return ours
        column, parent = reference
        if base is not None and base[column] == ours[column]:
            return ours
        return {**ours, column: self.fresh.get(parent, {}).get(ours[column], ours[column])}

    def _row(self, place: Place, b: Row | None, o: Row | None, t: Row | None) -> Row | None:
        """Return the row at a key that ours changed."""
        self._is_insert = b is None
        if b is None:
            assert o is not None
            return self._inserted(place, o, t)
        if o is None:
            if t is None or t == b:
                return None
            answer = self._answer(Kind.DELETE_UPDATE, place, _apart(b, t))
            return None if answer is Resolution.OURS else t
        if t is None:
            answer = self._answer(Kind.UPDATE_DELETE, place, _apart(b, o))
            return o if answer is Resolution.OURS else None
        if self.choices.granularity is Granularity.ROW:
            return self._by_row(place, b, o, t)
        return self._by_cell(place, b, o, t)

    def _inserted(self, place: Place, o: Row, t: Row | None) -> Row:
        if t is None:
            return o
        apart = _apart(o, t)
        if not apart:
            return self._coincide(place, tuple(c for c in o if c not in self._kind.key), t)
        return self._chosen(Kind.INSERT_INSERT, place, apart, o, t)

    def _by_cell(self, place: Place, b: Row, o: Row, t: Row) -> Row:
        mine, other = _apart(b, o), _apart(b, t)
        both = [column for column in mine if column in other]
        conflicting = tuple(column for column in both if o[column] != t[column])
        coincident = tuple(column for column in both if o[column] == t[column])
        row = {**t, **{column: o[column] for column in mine if column not in other}}
        if coincident:
            self._coincide(place, coincident, t)
        if conflicting:
            return self._chosen(Kind.UPDATE_UPDATE, place, conflicting, o, row)
        return row

    def _by_row(self, place: Place, b: Row, o: Row, t: Row) -> Row:
        if t == b:
            return o
        if o == t:
            return self._coincide(place, _apart(b, o), t)
        return self._chosen(Kind.UPDATE_UPDATE, place, _apart(o, t), o, t)

    def _chosen(self, kind: Kind, place: Place, columns: tuple[str, ...], o: Row, t: Row) -> Row:
        answer = self._answer(kind, place, columns)
        if answer is Resolution.OURS:
            return {**t, **{column: o[column] for column in columns}}
        return t if isinstance(answer, Resolution) else {**t, **answer}

    def _coincide(self, place: Place, columns: tuple[str, ...], t: Row) -> Row:
        self._expected.coincident += 1
        if self.choices.coincident_conflicts:
            self._answer(Kind.COINCIDENT, place, columns)
        return t

    def _unkeyed(self, base: dict[int, Row], ours: dict[int, Row], theirs: State) -> None:
        rows = dict(theirs.unkeyed(self._kind))
        appended = []
        self._is_insert = False
        for rowid in {*base, *ours}:
            b, o = base.get(rowid), ours.get(rowid)
            if b == o:
                continue
            if b is None:
                appended.append(o)
                continue
            t, place = theirs.unkeyed(self._kind).get(rowid), (f"integer{rowid}",)
            if o is None:
                if t is None:
                    continue
                if (
                    t == b
                    or self._answer(Kind.DELETE_UPDATE, place, _apart(b, t)) is Resolution.OURS
                ):
                    rows[rowid] = {}
            elif t is None:
                if self._answer(Kind.UPDATE_DELETE, place, _apart(b, o)) is Resolution.OURS:
                    appended.append(o)
            else:
                rows[rowid] = self._by_row(place, b, o, t)
        self._expected.rows.update(
            tuple(row.values()) for row in (*rows.values(), *appended) if row
        )


def _apart(one: Row, other: Row) -> tuple[str, ...]:
    return tuple(column for column in one if one[column] != other[column])


class Canon:
    """Values of Python as the model has them."""

    def __init__(self) -> None:
        self._connection = apsw.Connection(":memory:")

    def value(self, value: object) -> str:
        part = "CAST(?1 AS TEXT)" if isinstance(value, RawText) else "?1"
        bound = value.data if isinstance(value, RawText) else value
        return str(self._connection.execute(f"SELECT {canonical(part)}", (bound,)).get)


# Random tables ----------------------------------------------------------------------------------

_VALUES = ("1", "1.0", "'1'", "2", "2.5", "'x'", "x'31'", "NULL", "CAST(x'ff41' AS TEXT)", "''")
_KEYS = ("'k1'", "'k2'", "'k3'", "1", "2", "'1'", "x'6b'")


class Script:
    """Random SQL for one table of a kind."""

    def __init__(
        self, rng: random.Random, name: str, kind: TableKind, parent: str = "", *, is_mild: bool
    ) -> None:
        self._rng, self._name, self.kind, self._parent = rng, name, kind, parent
        self._is_mild = is_mild
        # Few values, so that both sides often write the same one.
        self._values = rng.sample(_VALUES, 4)

    def create(self) -> str:
        statements = [
            f'CREATE TABLE "{self._name}"({self.kind.declaration.format(self._parent)}\n);'
        ]
        statements[0] = statements[0].replace("--\n)", "")
        if self._rng.random() < 0.5:
            column = "b" if "b" in self.kind.columns else "a"
            statements.append(f'CREATE INDEX "by {self._name}" ON "{self._name}"({column});')
        statements += [self.insert() for _ in range(self._rng.randrange(12))]
        if self.kind.name == "whole" and self._rng.random() < 0.1:
            statements.append(
                "WITH RECURSIVE n(i) AS (SELECT 20 UNION ALL SELECT i + 1 FROM n WHERE i < 300) "
                f'INSERT INTO "{self._name}" SELECT i, hex(zeroblob(50)), i, i FROM n;'
            )
        return "".join(statements)

    def changes(self, count: int) -> list[str]:
        kinds = (self.insert, self.insert, self.update, self.update, self.delete, self.move)
        if self._is_mild and (self.kind.shows_rowid or self._rng.random() < 0.8):
            kinds = (self.insert,)
        return [self._rng.choice(kinds)() for _ in range(count)]

    def remade(self) -> str:
        """Declare the table anew, as migrations do, if its rows have keys."""
        if self.kind.name in {"none", "null", "two", "auto"}:
            return ""
        declaration = self.kind.declaration.format(self._parent)
        columns = ", ".join(self.kind.columns)
        return (
            f"CREATE TABLE new({declaration.replace(') WITHOUT', ', CHECK(1)) WITHOUT')}"
            f"{'' if '--' in declaration else ', CHECK(1)'}\n);"
            f'INSERT INTO new({columns}) SELECT {columns} FROM "{self._name}";'
            f'DROP TABLE "{self._name}"; ALTER TABLE new RENAME TO "{self._name}";'
        ).replace("--\n)", "")

    def _value(self, column: str) -> str:
        if column in {"id", "p"}:
            return str(self._rng.randrange(1, 7))
        if column in self.kind.key:
            is_null = self.kind.name in {"null", "two"} and self._rng.random() < 0.2
            return "NULL" if is_null else self._rng.choice(_KEYS)
        return self._rng.choice(self._values)

    def insert(self) -> str:
        values = ", ".join(self._value(column) for column in self.kind.columns)
        columns = ", ".join(self.kind.columns)
        verb = "REPLACE" if self._rng.random() < 0.2 and not self._is_mild else "INSERT OR IGNORE"
        return f'{verb} INTO "{self._name}"({columns}) VALUES({values});'

    def _where(self) -> str:
        if self.kind.has_rowid:
            if self._rng.random() < 0.1:
                return f"rowid IN ({self._rng.randrange(20, 310)}, {self._rng.randrange(20, 310)})"
            return f"rowid = {self._rng.randrange(1, 7)}"
        column = self._rng.choice(self.kind.key)
        return f"{column} = {self._value(column)}"

    def update(self) -> str:
        rest = [column for column in self.kind.columns if column not in self.kind.key]
        columns = self._rng.sample(rest, self._rng.randrange(1, len(rest)))
        values = ", ".join(f"{column} = {self._value(column)}" for column in columns)
        return f'UPDATE "{self._name}" SET {values} WHERE {self._where()};'

    def delete(self) -> str:
        return f'DELETE FROM "{self._name}" WHERE {self._where()};'

    def move(self) -> str:
        """Change a key."""
        if not self.kind.key:
            return self.update()
        column = self._rng.choice(self.kind.key)
        value, where = self._value(column), self._where()
        return f'UPDATE OR IGNORE "{self._name}" SET {column} = {value} WHERE {where};'
