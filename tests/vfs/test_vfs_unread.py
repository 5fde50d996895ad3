"""Opening reads no page: what is damaged or away can be opened, and the first query says so."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import apsw
import pytest

import graft_vfs
from graft_vfs.errors import StoreUnavailableError
from graft_vfs.integrations.opening import opening, set_up
from tests.support.counting import counted_calls
from tests.support.engines import reopened
from tests.support.sql import rows, stock, value


def by_apsw(tag):
    return graft_vfs.connect(tag)


def by_sqlite3(tag):
    with opening():
        connection = sqlite3.connect(graft_vfs.uri(tag), uri=True, isolation_level=None)
        set_up(connection)
    return connection


LIBRARIES = pytest.mark.parametrize("opened", [by_apsw, by_sqlite3])
FAILURES = (apsw.Error, sqlite3.Error)


@pytest.fixture
def written(connect, config):
    """Have a volume with a table, whose pages nobody has read since."""
    with closing(connect("main")) as connection:
        connection.execute("PRAGMA page_size=1024")
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA encoding='UTF-16le'")
        connection.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
        connection.execute("INSERT INTO t VALUES(1, 'one')")
    reopened(config)


@LIBRARIES
@pytest.mark.usefixtures("written")
def test_opening_reads_no_page(opened):
    with counted_calls() as counts:
        connection = opened("main")
        assert (counts["pages"], counts["probes"]) == (1, 0), "SQLite asks for the file's header"
        assert rows_of(connection, "SELECT * FROM t") == [(1, "one")]
        assert counts["pages"] > 1
    assert rows_of(connection, "PRAGMA journal_mode") == [("truncate",)]
    connection.close()


def rows_of(connection, statement):
    return connection.execute(statement).fetchall()


FIRST_STATEMENTS = [
    "SELECT b FROM t WHERE b = 'one'",
    "SELECT name FROM sqlite_schema",
    "INSERT INTO t VALUES(2, 'two') RETURNING *",
    "PRAGMA table_info(t)",
    "PRAGMA page_size",
    "PRAGMA page_count",
    "PRAGMA encoding",
    "PRAGMA auto_vacuum",
    "PRAGMA schema_version",
    "PRAGMA integrity_check",
    "PRAGMA foreign_key_check(t)",
    "DROP TABLE IF EXISTS t",
    "CREATE TABLE IF NOT EXISTS t(c)",
    "REINDEX t",
    "ANALYZE t",
    "ALTER TABLE t RENAME COLUMN b TO c",
    "BEGIN IMMEDIATE",
]


@LIBRARIES
@pytest.mark.parametrize("statement", FIRST_STATEMENTS)
@pytest.mark.usefixtures("written")
def test_the_first_statement_works_as_on_a_file(opened, statement, tmp_path):
    with closing(graft_vfs.connect("main")) as connection:
        connection.pragma("graft_export", str(tmp_path / "plain.db"))
    plain = (stock if opened is by_apsw else sqlite3.connect)(tmp_path / "plain.db")
    connection = opened("main")
    assert rows_of(connection, statement) == rows_of(plain, statement)
    after = "SELECT type, name, sql FROM sqlite_schema"
    assert rows_of(connection, after) == rows_of(plain, after)
    connection.close()
    plain.close()


@pytest.mark.usefixtures("written")
def test_a_first_call_that_is_not_a_statement_works(connect):
    with closing(connect("main")) as connection:
        assert connection.column_metadata("main", "t", "a")[0] == "INTEGER"
    with closing(connect("main")) as connection:
        blob = connection.blob_open("main", "t", "b", 1, False)
        assert blob.read().decode("utf-16le") == "one"
        blob.close()


def test_an_empty_volume_takes_page_size_encoding_and_vacuum_of_its_first_statements(connect):
    connection = connect("main")
    for pragma, wanted in (("page_size", 2048), ("encoding", "UTF-16be"), ("auto_vacuum", 1)):
        connection.execute(f"PRAGMA {pragma}='{wanted}'")
    connection.execute("CREATE TABLE t(a)")
    assert value(connection, "PRAGMA page_size") == 2048
    assert value(connection, "PRAGMA encoding") == "UTF-16be"
    assert value(connection, "PRAGMA auto_vacuum") == 1


@LIBRARIES
@pytest.mark.usefixtures("written")
def test_a_volume_with_an_unparsable_schema_is_opened_and_repaired(opened, config):
    with closing(graft_vfs.connect("main")) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_schema SET sql = 'nonsense' WHERE name = 't'")
    reopened(config)
    connection = opened("main")
    with pytest.raises(FAILURES, match="malformed database schema"):
        connection.execute("SELECT * FROM t")
    connection.execute("PRAGMA writable_schema=ON")
    connection.execute(
        "UPDATE sqlite_schema SET sql = 'CREATE TABLE t(a INTEGER PRIMARY KEY, b)' WHERE name = 't'"
    )
    connection.execute("PRAGMA writable_schema=RESET")
    assert rows_of(connection, "SELECT * FROM t") == [(1, "one")]
    assert rows_of(connection, "PRAGMA integrity_check") == [("ok",)]
    connection.close()


@LIBRARIES
@pytest.mark.usefixtures("written")
def test_a_cold_clone_opens_while_the_remote_is_unreachable(
    opened, engine, machine, config, monkeypatch
):
    other = machine()
    with closing(other.connect("theirs")) as connection:
        connection.execute("CREATE TABLE t(a)")
        connection.execute("INSERT INTO t VALUES(7)")
        connection.execute("PRAGMA graft_push").fetchall()
    graft_vfs.register().open("cold", create=True, remote="theirs")
    engine = reopened(config)

    def away(*arguments, **options):
        raise StoreUnavailableError("the remote is away", next_step="try again")

    with monkeypatch.context() as patch:
        for verb in ("get", "get_range", "list"):
            patch.setattr(engine.store, verb, away)
        connection = opened("cold")
        with pytest.raises(FAILURES):
            connection.execute("SELECT * FROM t")
    assert engine.store.counters.snapshot().get_range == 0
    assert rows_of(connection, "SELECT * FROM t") == [(7,)]
    connection.close()


@pytest.mark.usefixtures("written")
def test_preparing_is_refused_after_a_first_read(connect):
    connection = connect("main")
    assert rows(connection, "SELECT a FROM t") == [(1,)]
    with pytest.raises(apsw.SQLError, match="first read; omit it"):
        connection.execute("PRAGMA graft_prepare")
    assert rows(connection, "SELECT a FROM t") == [(1,)]


@pytest.mark.usefixtures("written")
def test_a_write_directly_after_prepare_is_refused():
    graft_vfs.enable_sqlite3()
    connection = sqlite3.connect(graft_vfs.uri("main"), uri=True, isolation_level=None)
    connection.execute("PRAGMA graft_prepare").close()
    connection.execute("PRAGMA locking_mode=EXCLUSIVE").close()
    with pytest.raises(sqlite3.OperationalError):
        connection.execute("CREATE TABLE u(a)")
    connection.close()
    with closing(graft_vfs.connect("main")) as connection:
        assert rows(connection, "SELECT * FROM t") == [(1, "one")]


def test_a_tag_that_moves_after_prepare_is_followed_by_the_next_pragma(engine, connect):
    writer = connect("main")
    writer.execute("CREATE TABLE t(x); INSERT INTO t VALUES (1)")
    connection = connect("main")
    connection.execute("PRAGMA graft_prepare").close()
    moved = engine.fork("main")
    (told,) = connection.execute("PRAGMA graft_info").fetchone()
    assert str(moved.volume) in told
    assert connection.execute("SELECT x FROM t").fetchall() == [(1,)]
