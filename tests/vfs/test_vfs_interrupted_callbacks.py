"""A signal's handler that raises as a callback of SQLite begins, before its first instruction.

No `try` can stand there. The tests raise at the entry of each function that a commit calls, in
turn.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import itertools
import sqlite3
from pathlib import Path

import apsw
import pytest

import graft_vfs
from graft_vfs.pager import volume_file
from graft_vfs.vfs import sqlite3_bridge
from tests.support.sql import is_sound, value
from tests.support.tracing import outcome_under

PACKAGE = str(Path(graft_vfs.__file__).parent)


@pytest.fixture(autouse=True)
def _few_objects():
    """Have each collection look at the test's own objects only, not at those of a whole run."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def alarm():
    return TimeoutError("the alarm of a test")


def run_until(number, work):
    """Run `work`, raising at the entry of function `number`; returns (its name, what came out)."""
    calls, where = itertools.count(), []

    def trace(frame, event, _):
        code = frame.f_code
        # A generator is called once more when it is closed, where nothing can be raised.
        is_counted = event == "call" and not code.co_flags & inspect.CO_GENERATOR and not where
        if is_counted and code.co_filename.startswith(PACKAGE) and next(calls) == number:
            where.append(code.co_qualname)
            raise alarm()

    gc.collect()  # What a finalizer calls ends no commit.
    outcome = outcome_under(trace, work)
    return (where[0] if where else None), outcome


def is_io_error(error):
    return isinstance(error, apsw.IOError) or (
        isinstance(error, sqlite3.OperationalError) and "disk I/O" in str(error)
    )


def open_with(binding, connect):
    if binding == "apsw":
        return connect("main")
    graft_vfs.enable_sqlite3()
    return sqlite3.connect(graft_vfs.uri("main"), uri=True, isolation_level=None)


def count(connection, table):
    return value(connection, f"SELECT count(*) FROM {table}")


FAST = {("apsw", "exclusive", "truncate"), ("sqlite3", "normal", "delete")}
"""What the normal run walks through; the other modes have the deep run."""


def modes(*journal_modes):
    return [
        pytest.param(*case, marks=() if case in FAST else pytest.mark.deep)
        for case in itertools.product(["apsw", "sqlite3"], ["normal", "exclusive"], journal_modes)
    ]


@pytest.fixture
def later(monkeypatch):
    """What is to be raised when SQLite has returned."""
    raised = []
    for module in volume_file, sqlite3_bridge:
        monkeypatch.setattr(module, "raise_behind", raised.append)
    return raised


@pytest.mark.parametrize(
    ("binding", "locking_mode", "journal_mode"), modes("delete", "truncate", "persist", "memory")
)
def test_a_commit_is_what_its_connection_shows(connect, later, binding, locking_mode, journal_mode):
    """And an I/O error means that it was undone."""
    wanted, finished = 0, 0
    for number in itertools.count():
        connection = open_with(binding, connect)
        connection.execute(f"PRAGMA locking_mode={locking_mode}")
        connection.execute(f"PRAGMA journal_mode={journal_mode}")
        connection.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, data)")
        wanted = count(connection, "t")
        connection.execute("BEGIN")
        connection.execute("INSERT INTO t VALUES(?, zeroblob(3000))", (number,))
        where, error = run_until(number, lambda run=connection: run.execute("COMMIT"))
        found = count(connection, "t")
        if is_io_error(error):
            assert found == wanted, where
        finished += found > wanted
        if number % 2:
            # What a rollback restores is the commit before it.
            connection.execute("BEGIN")
            connection.execute("UPDATE t SET data = 1")
            connection.execute("ROLLBACK")
            assert count(connection, "t WHERE data = 1") == 0
        connection.close()
        other = connect("main")
        assert count(other, "t") == found, where
        assert is_sound(other), where
        other.close()
        if where is None:
            break
    assert finished > 2


@pytest.mark.parametrize(
    ("binding", "locking_mode", "journal_mode"), modes("delete", "truncate", "persist")
)
def test_over_two_volumes_both_commit_or_neither_does(
    connect, later, binding, locking_mode, journal_mode
):
    finished, undone = 0, 0
    for number in itertools.count():
        connection = open_with(binding, connect)
        connection.execute("ATTACH 'file:two?vfs=graft' AS two")
        for schema in "main", "two":
            connection.execute(f"PRAGMA {schema}.locking_mode={locking_mode}")
            connection.execute(f"PRAGMA {schema}.journal_mode={journal_mode}")
            connection.execute(f"CREATE TABLE IF NOT EXISTS {schema}.t(id INTEGER PRIMARY KEY, x)")
        wanted = count(connection, "main.t")
        connection.execute("BEGIN")
        for schema in "main", "two":
            connection.execute(f"INSERT INTO {schema}.t VALUES(?, zeroblob(3000))", (number,))
        where, error = run_until(number, lambda run=connection: run.execute("COMMIT"))
        found = count(connection, "main.t")
        assert count(connection, "two.t") == found, where
        assert found == wanted or not is_io_error(error), where
        finished += found > wanted
        undone += found == wanted
        connection.close()
        for tag in "main", "two":
            other = connect(tag)
            assert count(other, "t") == found, (where, tag)
            assert is_sound(other), (where, tag)
            other.close()
        if where is None:
            break
    assert finished > 2
    assert undone > 2


@pytest.mark.parametrize(
    ("binding", "locking_mode", "journal_mode"), modes("delete", "truncate", "persist", "memory")
)
def test_with_a_plain_file_in_wal_mode_both_commit_or_neither_does(  # noqa: PLR0917
    connect, tmp_path, later, binding, locking_mode, journal_mode
):
    path = tmp_path / "plain.db"
    with contextlib.closing(sqlite3.connect(path)) as plain:
        plain.execute("PRAGMA journal_mode=WAL")
        plain.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        plain.commit()
    for number in itertools.count():
        connection = open_with(binding, connect)
        connection.execute(f"ATTACH 'file:{path}?vfs=unix' AS plain")
        connection.execute(f"PRAGMA main.locking_mode={locking_mode}")
        connection.execute(f"PRAGMA main.journal_mode={journal_mode}")
        connection.execute("CREATE TABLE IF NOT EXISTS main.t(id INTEGER PRIMARY KEY, x)")
        connection.execute("BEGIN")
        for schema in "main", "plain":
            connection.execute(f"INSERT INTO {schema}.t VALUES(?, zeroblob(3000))", (number,))
        where, error = run_until(number, lambda run=connection: run.execute("COMMIT"))
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        found = count(connection, "main.t")
        assert count(connection, "plain.t") == found, (where, error)
        connection.close()
        other = connect("main")
        assert count(other, "t") == found, where
        other.close()
        if where is None:
            break


@pytest.mark.parametrize("binding", ["apsw", "sqlite3"])
@pytest.mark.parametrize("locking_mode", ["normal", "exclusive"])
def test_a_commit_that_shrinks_the_database(connect, later, binding, locking_mode):
    for number in itertools.count():
        connection = open_with(binding, connect)
        connection.execute("PRAGMA auto_vacuum=full")
        connection.execute(f"PRAGMA locking_mode={locking_mode}")
        connection.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x)")
        connection.execute("INSERT INTO t VALUES(?, zeroblob(30000))", (number,))
        connection.execute("BEGIN")
        connection.execute("DELETE FROM t")
        where, error = run_until(number, lambda run=connection: run.execute("COMMIT"))
        found = count(connection, "t")
        assert not (is_io_error(error) and not found), where
        connection.execute("DELETE FROM t")
        connection.close()
        other = connect("main")
        assert is_sound(other), where
        assert value(other, "PRAGMA page_count") < 10
        other.close()
        if where is None:
            break
