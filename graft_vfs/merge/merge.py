"""The three-way merge of three snapshots: ours into a scratch database over theirs, or conflicts.

Everything is tried in the scratch database. If there is a conflict that the choices do not resolve,
all conflicts are listed and nothing else remains; no volume changes in either case.

Cost: the interior pages and the leaves that ours changed, in ours and in the base; per changed row
its way from the root in theirs and in the indexes of the columns that it changes. What theirs
changed is read only for virtual tables, for tables that ours declared anew or dropped, for parents
that ours deleted, and with the granularity of tables. Memory is for one row, and for each row that
refers to a parent or waits for a unique value.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import apsw

from graft_vfs.errors import DiskFullError, GraftError
from graft_vfs.history.patch import Literals
from graft_vfs.history.tables import Columns, Table, Tables, columns_of, schema_error
from graft_vfs.merge.conflicts import (
    Choices,
    Conflicting,
    Findings,
    Granularity,
    Kind,
    Merged,
    Resolution,
    RowConflict,
    SchemaConflict,
)
from graft_vfs.merge.foreign_keys import ForeignKeys
from graft_vfs.merge.renumber import Renumbering
from graft_vfs.merge.schema import SchemaMerge, TablePlan
from graft_vfs.merge.sides import (
    BASE,
    MAIN,
    OURS,
    THEIRS,
    Prepare,
    Sides,
    Snapshots,
    no_preparation,
    row_changes,
    unmergeable,
)
from graft_vfs.merge.table_merge import (
    AS_OURS,
    AS_THEIRS,
    NORMAL,
    REVERSED,
    Frame,
    Parts,
    TableMerge,
)
from graft_vfs.merge.virtual import VirtualMerge, r_tree_changes
from graft_vfs.pager.scratch import Scratch
from graft_vfs.pager.snapshots import unreadable
from graft_vfs.sqlite_format.header import TEXT_ENCODING
from graft_vfs.volume.volume import Volume

_PRAGMAS = ("user_version", "application_id")


@dataclass(frozen=True, slots=True)
class Merge:
    """The outcome of a merge: a report, and the merged database if there are no conflicts."""

    report: Merged | Conflicting
    scratch: Scratch | None


@contextlib.contextmanager
def merged(
    volume: Volume, snapshots: Snapshots, choices: Choices, prepare: Prepare = no_preparation
) -> Iterator[Merge]:
    """Merge what ours changed since the base into a scratch database over theirs.

    The snapshots stay pinned until the block ends, and with it the scratch database. Its pages,
    over theirs, make the merged database. `prepare` registers the application's functions and
    collations on each connection. Raises UsageError for rows that cannot be compared or written,
    as without these, and for a wrong answer of a policy; the errors of reading snapshots, and
    DiskFullError.
    """
    findings = Findings(choices)
    with contextlib.ExitStack() as stack:
        try:
            scratch = None
            if _has_one_encoding(snapshots, findings):
                sides = stack.enter_context(Sides.opened(volume, snapshots, prepare))
                scratch = _tried(sides, findings)
        except apsw.FullError as error:
            raise DiskFullError(
                "there is no space for the temporary files of the merge",
                next_step="free space in the directory for temporary files, or set SQLITE_TMPDIR",
            ) from error
        except apsw.Error as error:
            if not isinstance(error, apsw.SQLError) or isinstance(error.__cause__, GraftError):
                raise unreadable(error) from error
            raise unmergeable(f"the databases cannot be merged: {error}") from error
        report = findings.outcome()
        yield Merge(report, scratch if isinstance(report, Merged) else None)


def _tried(sides: Sides, findings: Findings) -> Scratch | None:
    connection = sides.connection
    # What triggers did is in the rows of both sides.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
    connection.execute("PRAGMA foreign_keys = OFF; BEGIN IMMEDIATE")
    _DatabaseMerge(sides, findings).run()
    if findings.conflict_count:
        connection.execute("ROLLBACK")
        return None
    connection.execute("COMMIT")
    return sides.scratch


def _has_one_encoding(snapshots: Snapshots, findings: Findings) -> bool:
    """Return True if SQLite can read the snapshots together; the encoding is fixed once."""
    found = [
        int.from_bytes(each.first_page().image[TEXT_ENCODING]) if each.page_count else None
        for each in (snapshots.base, snapshots.ours, snapshots.theirs)
    ]
    # What is merged into an empty database is in the default encoding.
    if len({encoding for encoding in found if encoding} | {found[2] or 1}) <= 1:
        return True
    base, ours, theirs = (
        f"PRAGMA encoding={_ENCODINGS.get(each)}" if each else None for each in found
    )
    detail = "the text encodings differ"
    findings.unresolved(SchemaConflict("database", "main", base, ours, theirs, detail))
    return False


_ENCODINGS = {1: "'UTF-8'", 2: "'UTF-16le'", 3: "'UTF-16be'"}


class _DatabaseMerge:
    """One merge. Owner and thread: its caller."""

    def __init__(self, sides: Sides, findings: Findings) -> None:
        self._sides = sides
        self._connection = sides.connection
        self._findings = findings
        self._schema = SchemaMerge(sides, findings)
        self._virtual = VirtualMerge(sides, self._schema)

    def run(self) -> None:
        """Merge everything; conflicts of the schema stop it before a row is written."""
        findings = self._findings
        self._schema.plan()
        virtual = self._virtual.plan()
        self._pragmas()
        if findings.conflict_count:
            return
        former = schema_error(self._connection)
        self._schema.apply()
        if findings.conflict_count:
            return
        self._check_schema(former)
        self._virtual.copy_remade()
        keys = ForeignKeys(self._sides)
        parts = Parts(self._sides, findings, Renumbering(self._sides, findings, keys), keys)
        plans = [*self._schema.tables, *virtual.tables]
        if findings.choices.may_renumber and findings.choices.granularity is not Granularity.TABLE:
            parts.renumbering.plan(
                [plan.name for plan in plans if plan.frame is NORMAL],
                {plan.name for plan in plans if plan.frame is REVERSED},
            )
        for plan in plans:
            with _named(plan.name):
                self._merge_table(parts, plan)
        for name in virtual.r_trees:
            with _named(name):
                self._merge_r_tree(parts, name)
        for name in virtual.rebuilds:
            self._virtual.rebuild(name)
            findings.rebuilt.append(name)
        self._sequence()
        keys.check(findings)

    def _check_schema(self, former: str | None) -> None:
        """List what the merge broke in views and triggers: a table or column that they need."""
        error = schema_error(self._connection)
        if error is not None and error != former and not self._sides.has_schema_error(OURS):
            detail = f"the changes of both sides do not fit: {error}"
            self._findings.unresolved(SchemaConflict("schema", MAIN, None, None, None, detail))

    # Rows -------------------------------------------------------------------------------------

    def _merge_table(self, parts: Parts, plan: TablePlan) -> None:
        frame = plan.frame
        if frame is REVERSED:
            parts.foreign_keys.rewritten(plan.name)
        if self._findings.choices.granularity is Granularity.TABLE:
            chosen = self._whole_table(plan)
            if chosen is None:
                return
            frame = chosen
        tables = self._sides.changes(frame.base, frame.mover)
        for table in tables.named(plan.name):
            narrowed = self._narrowed(tables, table, plan)
            if narrowed.ranges:
                columns = self._columns(plan.name)
                if self._fits(plan.name, frame, columns, tables, narrowed):
                    merge = TableMerge(parts, plan.name, frame, plan.defaults, columns)
                    merge.run(row_changes(tables, narrowed))

    def _whole_table(self, plan: TablePlan) -> Frame | None:
        """Return how to merge a table of which only one side may have changed rows."""
        name, frame = plan.name, plan.frame
        if not all(self._sides.has_changes(BASE, side, name) for side in (OURS, THEIRS)):
            return frame
        conflict = RowConflict(Kind.TABLE, name, {}, (), None, None, None, "both sides changed it")
        answer, _ = self._findings.resolve(conflict)
        if frame is NORMAL:
            return AS_OURS if answer is Resolution.OURS else None
        return AS_THEIRS if answer is Resolution.THEIRS else None

    def _narrowed(self, tables: Tables, table: Table, plan: TablePlan) -> Table:
        """Return a table with the columns that were added, which do not change its rows."""
        older, newer = table.older, table.newer
        if older is None or newer is None:
            return table
        added = [name for name in newer.stored if name not in older.stored]
        if not plan.is_known:
            return dataclasses.replace(table, defaults=dict.fromkeys(added))
        literals = Literals(tables.connection)
        defaults = {
            name: literals.of(plan.defaults[name]) if name in plan.defaults else None
            for name in added
        }
        was, now = tables.older["table", table.name], tables.newer["table", table.name]
        ranges = None
        if was.sql != now.sql and all(defaults.values()):
            ranges = tables.keys.ranges(was.root, now.root)
        return dataclasses.replace(
            table, defaults=defaults, ranges=table.ranges if ranges is None else ranges
        )

    def _columns(self, name: str) -> dict[str, Columns]:
        present = self._schema.having(("table", name))
        return {side: columns_of(self._connection, side, name) for side in (*present, MAIN)}

    def _fits(
        self,
        name: str,
        frame: Frame,
        columns: dict[str, Columns],
        tables: Tables,
        table: Table,
    ) -> bool:
        """Return True if the rows of the mover fit into the merged table, or if none changed."""
        mover, main = columns[frame.mover], columns[MAIN]
        lost = [column for column in mover.stored if column not in main.stored]
        keys = {_key(columns[side]) for side in (frame.base, frame.mover, MAIN) if side in columns}
        if not lost and len(keys) == 1:
            return True
        with contextlib.closing(row_changes(tables, table)) as changes:
            if next(changes, None) is None:
                return True
        why = f"has no column {lost[0]}" if lost else "has another key"
        self._schema.conflict(
            ("table", name), f"{frame.mover} changed its rows, and the merged table {why}"
        )
        return False

    def _merge_r_tree(self, parts: Parts, name: str) -> None:
        columns = self._virtual.r_tree_columns(name)
        changes = r_tree_changes(self._sides.changes(BASE, OURS), name, columns[OURS])
        TableMerge(parts, name, NORMAL, {}, columns).run(changes)

    # The rest ---------------------------------------------------------------------------------

    def _sequence(self) -> None:
        """Set the largest rowids of AUTOINCREMENT tables to the larger ones of both sides."""
        key = ("table", "sqlite_sequence")
        if key not in self._schema.ours:
            return
        for name, number in self._connection.execute("SELECT name, seq FROM ours.sqlite_sequence"):
            update = "UPDATE main.sqlite_sequence SET seq = max(seq, ?) WHERE name = ?"
            self._connection.execute(update, (number, name))
            if not self._connection.changes():
                insert = (
                    "INSERT INTO main.sqlite_sequence(name, seq) SELECT ?1, ?2 FROM "
                    "main.sqlite_schema WHERE type = 'table' AND name = ?1 AND "
                    "sql LIKE '%AUTOINCREMENT%'"
                )
                self._connection.execute(insert, (name, number))

    def _pragmas(self) -> None:
        """Take numbers in the header that only ours changed."""
        for name in _PRAGMAS:
            base, ours, theirs = (
                self._connection.pragma(name, schema=side) for side in (BASE, OURS, THEIRS)
            )
            if ours in (base, theirs):
                continue
            if theirs == base:
                self._connection.pragma(name, ours, schema=MAIN)
            else:
                was, mine, other = (f"PRAGMA {name}={value}" for value in (base, ours, theirs))
                detail = "both sides changed it"
                self._findings.unresolved(SchemaConflict("pragma", name, was, mine, other, detail))


@contextlib.contextmanager
def _named(table: str) -> Iterator[None]:
    """Name the table in which SQLite lacks something, such as a function of the application."""
    try:
        yield
    except apsw.SQLError as error:
        if isinstance(error.__cause__, GraftError):
            raise
        raise unmergeable(f"the rows of table {table!r} cannot be merged: {error}") from error


def _key(columns: Columns) -> tuple[bool, str | None, tuple[str, ...]]:
    return columns.has_rowid, columns.alias, columns.declared
