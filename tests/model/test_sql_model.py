"""Random SQL on a volume and on stock SQLite side by side: same rows, same errors, same database.

One machine has one connection and every rollback journal mode; the other has two connections that
interleave, and stock SQLite in WAL mode beside them, because a volume's readers and writers do not
block each other either. What a remote and a clone show after a push is compared, too.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.store.memory import MemoryObjects, MemoryStore
from graft_vfs.volume import transaction
from tests.model import statements
from tests.model.exploring import explore, explore_deeply, scratch_directory
from tests.support.replicas import Replica
from tests.support.sql import content, is_sound, stock

FACTS = ("user_version", "application_id", "auto_vacuum", "page_size", "page_count", "encoding")
FIRST = (
    "CREATE TABLE t0(a INTEGER PRIMARY KEY, b TEXT UNIQUE, c)",
    "CREATE TABLE t1(a, b, c)",
    (
        "WITH RECURSIVE r(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM r LIMIT 40) "
        "INSERT INTO t0 SELECT i, 'b' || i, zeroblob(i * 90) FROM r"
    ),
    "INSERT INTO t1 SELECT * FROM t0",
    "CREATE TABLE t2(a, b, c, PRIMARY KEY(a, b)) WITHOUT ROWID",
)

pairs_drawn = st.integers(0, 1)


@dataclass
class Side:
    """The connections to one of the two databases, each with at most one open cursor."""

    connections: list[apsw.Connection] = field(default_factory=list)
    cursors: dict[int, apsw.Cursor] = field(default_factory=dict)

    def run(self, number: int, sql: str) -> Any:
        """Return what a statement answers, or how it fails."""
        return self._answer(lambda: self.connections[number].execute(sql).fetchall())

    def open_cursor(self, number: int, sql: str) -> Any:
        """Begin a query and return its first row."""

        def first() -> Any:
            self.cursors[number] = self.connections[number].execute(sql)
            return self.cursors[number].fetchone()

        return self._answer(first)

    def step_cursor(self, number: int) -> Any:
        """Return the next row of the open query."""
        return self._answer(self.cursors[number].fetchone)

    @staticmethod
    def _answer(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except apsw.Error as error:
            # Who is in the way has words of its own here.
            text = "" if isinstance(error, apsw.BusyError) else str(error)
            return type(error).__name__, error.extendedresult, text

    def state(self, number: int) -> tuple[Any, ...]:
        """Return what a connection tells of itself."""
        connection = self.connections[number]
        return (
            connection.in_transaction,
            connection.total_changes(),
            connection.changes(),
            connection.last_insert_rowid(),
        )

    def close(self) -> None:
        """Close everything; open transactions roll back."""
        for cursor in self.cursors.values():
            cursor.close(force=True)
        self.cursors.clear()
        for connection in self.connections:
            connection.close()
        self.connections.clear()


class SqlMachine(RuleBasedStateMachine):
    """Connections in pairs: one to the volume `main`, one to a plain file."""

    pairs = 1

    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen
        self.stack = contextlib.ExitStack()
        self.directory = Path(self.stack.enter_context(scratch_directory()))
        self.objects = MemoryObjects()
        self.ours, self.stock = Side(), Side()
        self.replica: Replica | None = None
        self.clones = 0
        seen["examples"] += 1

    def open_replica(self, name: str) -> Replica:
        store = MemoryStore(self.objects)
        return Replica(self.directory / name, RemoteConfig(type="memory"), store=store)

    def open_connections(self) -> None:
        self.replica = self.open_replica("ours")
        for _ in range(self.pairs):
            self.ours.connections.append(self.replica.connect())
            self.stock.connections.append(stock(self.directory / "stock.db"))
        for number in range(self.pairs):
            self.run(number, "PRAGMA synchronous = off")
            if self.pairs == 1:
                # A connection hook that another test left may have chosen another one.
                self.run(number, "PRAGMA journal_mode = delete")

    @initialize(
        page_size=st.sampled_from((512, 1024, 4096, 65536)),
        auto_vacuum=st.integers(0, 2),
        encoding=st.sampled_from(("UTF-8", "UTF-16le")),
        staged_pages=st.sampled_from((3, 1000)),
    )
    def open(self, page_size: int, auto_vacuum: int, encoding: str, staged_pages: int) -> None:
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(transaction, "STAGED_BYTES_MAX", staged_pages * page_size)
        patch.setattr(transaction.Transaction, "spill", self.counted_spill)
        self.open_connections()
        self.run(0, f"PRAGMA page_size = {page_size}")
        self.run(0, f"PRAGMA auto_vacuum = {auto_vacuum}")
        self.run(0, f"PRAGMA encoding = '{encoding}'")
        for sql in FIRST:
            self.run(0, sql)
        if self.pairs > 1:
            assert self.stock.run(0, "PRAGMA journal_mode = wal") == [("wal",)]

    @property
    def counted_spill(self) -> Callable[[transaction.Transaction], None]:
        """How a transaction spills, counted."""
        spill = transaction.Transaction.spill

        def counted(writing: transaction.Transaction) -> None:
            self.seen["spills"] += 1
            spill(writing)

        return counted

    def close_connections(self) -> None:
        self.ours.close()
        self.stock.close()
        if self.replica is not None:
            self.replica.close()
            self.replica = None

    def teardown(self) -> None:
        try:
            if sys.exception() is None:
                self.reopen()
                self.compare_databases()
        finally:
            self.close_connections()
            self.stack.close()

    # Statements -------------------------------------------------------------------------------

    def run(self, number: int, sql: str) -> Any:
        """Run a statement on both sides and return the answer that both gave."""
        self.seen["steps"] += 1
        found, expected = self.ours.run(number, sql), self.stock.run(number, sql)
        assert found == expected, sql
        assert self.ours.state(number) == self.stock.state(number), sql
        if isinstance(found, tuple):
            self.seen[f"{found[0]} {found[1]}"] += 1
        return found

    def pick(self, number: int) -> int:
        """Return the pair that a drawn number stands for."""
        return number % self.pairs

    @rule(number=pairs_drawn, batch=st.lists(statements.changing, min_size=1, max_size=5))
    def change(self, number: int, batch: list[str]) -> None:
        for sql in batch:
            self.run(self.pick(number), sql)

    @rule(number=pairs_drawn, batch=st.lists(statements.any_kind, min_size=1, max_size=3))
    def do_anything(self, number: int, batch: list[str]) -> None:
        for sql in batch:
            self.run(self.pick(number), sql)

    @precondition(lambda self: self.pairs == 1)
    @rule(sql=statements.alone)
    def set_alone(self, sql: str) -> None:
        self.run(0, sql)

    @rule(number=pairs_drawn, table=statements.tables, how=st.sampled_from(("go on", "close")))
    def use_a_cursor(self, number: int, table: str, how: str) -> None:
        """Begin a query, fetch one more row of it, or leave it before its end."""
        number = self.pick(number)
        if number not in self.ours.cursors:
            sql = f"SELECT * FROM {table}"
            found = self.ours.open_cursor(number, sql)
            assert found == self.stock.open_cursor(number, sql)
        elif how == "close":
            for side in (self.ours, self.stock):
                side.cursors.pop(number).close(force=True)
        else:
            found = self.ours.step_cursor(number)
            assert found == self.stock.step_cursor(number)
            self.seen["cursor steps"] += 1

    # Databases --------------------------------------------------------------------------------

    @rule(what=st.sampled_from(("push", "push", "push", "compare a clone", "reopen")))
    def use_the_engine(self, what: str) -> None:
        assert self.replica is not None
        if what == "reopen":
            self.reopen()
        elif what == "push" or self.is_busy():
            self.replica.engine.push("main")
            self.seen["pushes"] += 1
        else:
            self.compare_a_clone()

    def reopen(self) -> None:
        """Close all connections and the engine, and open them again."""
        self.close_connections()
        self.open_connections()
        self.seen["reopened"] += 1

    def compare_a_clone(self) -> None:
        """Push, and compare the volume of a fresh clone with the plain file."""
        assert self.replica is not None
        self.replica.engine.push("main")
        self.clones += 1
        with self.open_replica(f"clone-{self.clones}") as clone:
            found = clone.connect(remote="main")
            assert is_sound(found)
            assert content(found) == content(self.stock.connections[0])
        self.seen["clones"] += 1

    def is_busy(self) -> bool:
        """Tell whether a connection is inside a transaction or has an open query."""
        connections = self.ours.connections
        return bool(self.ours.cursors) or any(each.in_transaction for each in connections)

    def compare_databases(self) -> None:
        found, expected = self.ours.connections[0], self.stock.connections[0]
        assert is_sound(found)
        assert content(found) == content(expected)
        for fact in FACTS:
            assert found.pragma(fact) == expected.pragma(fact), fact
        assert self.replica is not None
        assert self.replica.engine.info("main").pages == expected.pragma("page_count")
        self.compare_a_clone()


class TwoConnectionsMachine(SqlMachine):
    """Two connections to each database, interleaved."""

    pairs = 2


MUST_COME_UP = (
    "clones",
    "cursor steps",
    "pushes",
    "reopened",
    "spills",
    "ConstraintError 1299",  # NOT NULL
    "ConstraintError 1555",  # PRIMARY KEY
    "ConstraintError 2067",  # UNIQUE
)
MUST_COME_UP_FOR_TWO = (*MUST_COME_UP, "BusyError 5", "BusyError 517")


def test_sql_answers_as_on_stock_sqlite() -> None:
    seen = explore(SqlMachine, examples=50, steps=40)
    assert all(seen[name] for name in MUST_COME_UP), seen


def test_sql_of_two_connections_answers_as_on_stock_sqlite() -> None:
    seen = explore(TwoConnectionsMachine, examples=50, steps=40)
    assert all(seen[name] for name in MUST_COME_UP_FOR_TWO), seen


@pytest.mark.deep
@pytest.mark.timeout(24 * 3600)
@pytest.mark.parametrize("machine", [SqlMachine, TwoConnectionsMachine])
def test_sql_answers_as_on_stock_sqlite_in_long_runs(machine: type[SqlMachine]) -> None:
    seen = explore_deeply(machine, examples=1000, steps=80)
    assert all(seen[name] for name in MUST_COME_UP), seen
