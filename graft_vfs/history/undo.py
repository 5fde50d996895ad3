"""Undoing what changed between two states of a database, in a third one with later changes.

A scratch database over the third state gets the patch from the newer of the two to the older one,
after all of it was compared with what that state has now.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apsw

from graft_vfs.errors import GraftError
from graft_vfs.history.patch import PRAGMAS, Patch
from graft_vfs.history.rows import (
    NotCompared,
    Row,
    RowChange,
    RowReader,
    is_same_row,
    table_changes,
)
from graft_vfs.history.tables import (
    ALL_KEYS,
    NEWER,
    OLDER,
    Object,
    Table,
    Tables,
    objects_of,
    quoted,
    schema_error,
)
from graft_vfs.pager.scratch import Scratch
from graft_vfs.pager.snapshots import connected, scratch_over, unreadable
from graft_vfs.reports import Report, SchemaDiff, TableDiff
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

_CONFLICTS_KEPT = 1000


@dataclass(frozen=True, slots=True, repr=False)
class Conflict(Report):
    """What cannot be undone: a row of `table` that `key` names, or all of it, and why.

    `key` is a condition in SQL. For what is no table, `table` names that.
    """

    table: str
    key: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.table}{f' where {self.key}' if self.key else ''}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Undone:
    """What was undone in the schema and in rows, and how many pages that changed.

    With `conflict_count` nothing was. These are the first of the conflicts.
    """

    schema: tuple[SchemaDiff, ...]
    tables: tuple[TableDiff, ...]
    pages: int
    conflicts: tuple[Conflict, ...] = ()
    conflict_count: int = 0


@contextlib.contextmanager
def undone_over(
    volume: Volume, head: Snapshot, newer: Snapshot, older: Snapshot
) -> Iterator[tuple[Scratch, Undone]]:
    """Yield a scratch database over `head` in which the changes from `older` to `newer` are undone.

    Cost: a diff of the two, twice; the rows of `head` that it names; where a table was made or
    declared anew, a diff of that table with `head`; and all rows of tables with foreign keys to or
    from those that change. Raises the errors of reading.
    """
    back = {NEWER: older, OLDER: newer}
    since = {NEWER: head, OLDER: newer}
    with (
        connected(volume, back) as connection,
        connected(volume, since) as later,
        scratch_over(volume, head) as scratch,
    ):
        try:
            tables = Tables(connection, newer, older)
            undo = _Undo(tables, Tables(later, newer, head), scratch.connection)
            yield scratch, undo.run(scratch)
        except apsw.Error as error:
            raise unreadable(error) from error


class _Undo(Patch):
    """A patch for a state that has later changes. Owner and thread: its caller.

    `OLDER` is the state with what is to be undone, `NEWER` the one without it.
    """

    def __init__(self, tables: Tables, later: Tables, head: apsw.Connection) -> None:
        super().__init__(tables)
        self._later = later
        self._head = head
        self._now = objects_of(head, NEWER)
        self._shadow_names = self.shadows()
        self._gone: set[str] = set()
        """Tables that were made by what is undone, and dropped since."""
        self._conflicts: list[Conflict] = []
        self._conflict_count = 0
        self._counts: dict[str, Counter[str]] = {}
        self._readers: dict[str, RowReader] = {}

    def run(self, scratch: Scratch) -> Undone:
        """Check everything, then apply the patch if there is no conflict."""
        self._check_schema()
        self._check_rows()
        pragmas = list(self._pragmas())
        if not self._conflict_count:
            self._apply(pragmas)
        if self._conflict_count:
            return Undone((), (), 0, tuple(self._conflicts), self._conflict_count)
        pages = sum(1 for _ in scratch.changed_pages())
        schema = tuple(SchemaDiff(*key, change) for key, change in self.schema.items())
        counts = (
            TableDiff(name, found["inserted"], found["deleted"], found["updated"], None)
            for name, found in self._counts.items()
        )
        return Undone(schema, tuple(counts), pages)

    def _add(self, table: str, reason: str, key: str | None = None) -> None:
        self._conflict_count += 1
        if len(self._conflicts) < _CONFLICTS_KEPT:
            self._conflicts.append(Conflict(table, key, reason))

    # Checks -----------------------------------------------------------------------------------

    def _check_schema(self) -> None:
        """Compare what is dropped, made or made anew with what there is now."""
        for key in list(self.schema):
            kind, name = key
            was, wanted, now = (
                each.get(key) for each in (self._tables.older, self._tables.newer, self._now)
            )
            if _sql(now) == _sql(wanted) and (now is None or kind != "table"):
                del self.schema[key]
                if kind == "table":
                    self._gone.add(name)
            elif _sql(now) != _sql(was):
                what = "changed or dropped this" if was else "made another"
                self._add(name, f"a later commit {what} {kind}")
            elif kind == "table" and was is not None:
                self._check_table_alone(name, was)

    def _check_table_alone(self, name: str, was: Object) -> None:
        """Require that nothing of a table that is dropped or made anew was changed later."""
        if was.root:
            self._check_unchanged(name)
        else:
            self._check_virtual(name)
        for (kind, other), item in self._now.items():
            if item.table == name and kind != "table" and item.sql:
                former = self._tables.older.get((kind, other))
                if _sql(former) != item.sql:
                    self._add(other, f"a later commit made this {kind} on {name}")

    def _check_virtual(self, name: str) -> None:
        for shadow in sorted(self._shadow_names):
            if self.owner(shadow) == name:
                self._check_unchanged(shadow, f"it belongs to {name}, which later commits changed")

    def _check_unchanged(self, name: str, reason: str = "later commits changed its rows") -> None:
        for table in self._later.all():
            if table.name == name and next(table_changes(self._later, table), None) is not None:
                self._add(name, reason)

    def _check_rows(self) -> None:
        """Compare the rows that are undone with those that there are now."""
        virtual = set()
        for table in self._tables.all():
            if ("table", table.name) in self.schema or table.name in self._gone:
                continue
            owner = self.owner(table.name) if table.name in self._shadow_names else ""
            if owner and (("table", owner) in self.schema or owner in self._gone):
                continue
            for found in table_changes(self._tables, table):
                if isinstance(found, NotCompared):
                    self._add(table.name, f"its rows cannot be compared: {found.reason}")
                    break
                if _sql(self._now.get(("table", table.name))) != _sql(
                    self._tables.older["table", table.name]
                ):
                    self._add(table.name, "a later commit changed or dropped this table")
                    break
                if owner:
                    virtual.add(owner)
                    self._count(table, found)
                else:
                    self._check_row(table, found)
        for owner in sorted(virtual):
            self._check_virtual(owner)

    def _check_row(self, table: Table, change: RowChange) -> None:
        now = self._row(table, change.key)
        if is_same_row(now, change.newer):
            return
        if is_same_row(now, change.older):
            self._count(table, change)
            return
        what = "inserted a row" if change.older is None else "changed it" if now else "deleted it"
        self._add(table.name, f"a later commit {what}", self.where(change.key))

    def _count(self, table: Table, change: RowChange) -> None:
        self._counts.setdefault(table.name, Counter())[change.change] += 1

    def _row(self, table: Table, key: Row) -> Row | None:
        """Return a row as it is now, in the scratch database."""
        reader = self._readers.get(table.name)
        if reader is None:
            here = Table(table.name, None, table.older, ALL_KEYS)
            reader = self._readers[table.name] = RowReader(self._head, here)
        return reader.newer_row(self.where(key))

    def _pragmas(self) -> Iterator[str]:
        for name in PRAGMAS:
            was, wanted = (self._connection.pragma(name, schema=at) for at in (OLDER, NEWER))
            now = self._head.pragma(name)
            if was != wanted != now:
                if was == now:
                    yield f"PRAGMA {name}={wanted};"
                else:
                    self._add(f"PRAGMA {name}", "a later commit set it again")

    # The patch --------------------------------------------------------------------------------

    def row_changes(self, table: Table) -> Iterator[RowChange]:
        """Yield the rows that differ, without those that are as wanted already."""
        for change in super().row_changes(table):
            is_made = table.older is None or ("table", table.name) in self.schema
            if is_made or not is_same_row(self._row(table, change.key), change.newer):
                yield change

    def tables_to_change(self) -> list[Table]:
        return [table for table in super().tables_to_change() if table.name not in self._gone]

    def drop_triggers(self, table: str) -> Iterator[str]:  # noqa: ARG002
        """Drop none: they do not run."""
        yield from ()

    def _apply(self, pragmas: Iterable[str]) -> None:
        """Run the patch as a transaction, unless the state that it makes is broken."""
        head = self._head
        head.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        head.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        touched = {table.name for table in self._tables.all() if table.name in self._counts}
        touched |= {name for kind, name in self.schema if kind == "table"}
        head.execute("BEGIN IMMEDIATE")
        try:
            broken = {*self._broken_schema(), *self._broken_keys(touched)}
            highest = self._highest()
            for line in itertools.chain(self.changes(), pragmas):
                head.execute(line)
            self._keep_highest(highest)
            for table, key, reason in [*self._broken_schema(), *self._broken_keys(touched)]:
                if (table, key, reason) not in broken:
                    self._add(table, reason, key)
        except (apsw.ConstraintError, apsw.SQLError) as error:
            if isinstance(error.__cause__, GraftError):
                raise
            self._add("the result", str(error))
        if head.in_transaction:
            head.execute("ROLLBACK" if self._conflict_count else "COMMIT")

    def _broken_schema(self) -> list[tuple[str, str | None, str]]:
        """Return what SQLite finds wrong in views and triggers, as when a table is renamed."""
        if not self.schema:
            return []
        error = schema_error(self._head)
        return [] if error is None else [("the schema", None, error)]

    def _broken_keys(self, touched: set[str]) -> list[tuple[str, str | None, str]]:
        """Return rows whose foreign keys find nothing, of tables that the patch has to do with."""
        lowered = {name.lower() for name in touched}
        tables = [name for kind, name in objects_of(self._head, NEWER) if kind == "table"]
        there = {name.lower() for name in tables}
        found: list[tuple[str, str | None, str]] = []
        for name in tables:
            sql = 'SELECT DISTINCT "table" FROM pragma_foreign_key_list(?)'
            parents = [str(parent) for (parent,) in self._head.execute(sql, (name,))]
            found += [
                (name, None, f"its foreign key is to {parent}, which is gone")
                for parent in parents
                if parent.lower() not in there
            ]
            others = {parent.lower() for parent in parents}
            if others and (name.lower() in lowered or others & lowered):
                check = f"PRAGMA foreign_key_check({quoted(name)})"
                try:
                    for _, rowid, parent, _ in self._head.execute(check):
                        key = None if rowid is None else f"rowid = {rowid}"
                        found.append((name, key, f"its foreign key to {parent} finds no row"))
                except apsw.SQLError as error:
                    found.append((name, None, str(error)))
        return found

    def _highest(self) -> dict[str, int]:
        """Return the highest rowids that tables with AUTOINCREMENT have had, on either side."""
        found: dict[str, int] = {}
        for connection in (self._connection, self._head):
            if ("table", "sqlite_sequence") in objects_of(connection, NEWER):
                sql = "SELECT name, CAST(seq AS INTEGER) FROM sqlite_sequence"
                for name, highest in connection.execute(sql):
                    found[str(name)] = max(int(highest or 0), found.get(str(name), 0))
        return found

    def _keep_highest(self, highest: dict[str, int]) -> None:
        """Have tables that were made anew not give rowids again that they gave before."""
        for name in self.remade & set(highest):
            if ("table", name) in self._tables.newer:
                self._head.execute("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
                self._head.execute(
                    "INSERT INTO sqlite_sequence VALUES(?, ?)", (name, highest[name])
                )


def _sql(item: Object | None) -> str | None:
    return None if item is None else item.sql
