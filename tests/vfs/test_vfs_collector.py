"""The garbage collector closes connections in the middle of others' calls, in the same thread.

It runs where Python allocates, so also inside a callback of SQLite, and closes connections that are
part of a cycle and were not closed. No lock that a callback holds may be needed for that.
"""

from __future__ import annotations

import itertools

import apsw
import pytest

import graft_vfs
from tests.support.collecting import collect_everywhere, handled_everywhere
from tests.support.replicas import Replica
from tests.support.sql import value

_ROWS = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) "
_FILL = _ROWS + "INSERT INTO t SELECT i, hex(randomblob(20)) FROM n"


@pytest.fixture(params=["apsw", "sqlite3"])
def opened(request, engine):
    """Open a tag through either library."""
    if request.param == "apsw":
        return graft_vfs.connect
    import sqlite3

    graft_vfs.enable_sqlite3()
    return lambda tag: sqlite3.connect(graft_vfs.uri(tag), uri=True, isolation_level=None)


def _filled(connection):
    connection.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
    connection.execute(_FILL)
    return connection


def _readers(opened):
    """Return a function that makes connections in the middle of a SELECT."""
    connection = _filled(opened("read"))

    def make():
        made = []
        for _ in range(40):
            reader = opened("read")
            cursor = reader.execute("SELECT * FROM t")
            assert cursor.fetchone()
            made.append((reader, cursor))
        assert value(connection, "SELECT count(*) FROM t") == 200
        return made

    return make


def _writers(opened, *, journal_mode="truncate"):
    """Return a function that makes connections inside a transaction that changed rows."""
    tags = [f"victim-{number}" for number in range(16)]
    for tag in tags:
        _filled(opened(tag)).close()

    def make():
        made = []
        for tag in tags:
            writer = opened(tag)
            writer.execute(f"PRAGMA journal_mode={journal_mode}").fetchall()
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("UPDATE t SET b = hex(randomblob(300))")
            made.append(writer)
        return made

    return make


def _unfinished(opened):
    """Return a function that makes connections whose statement has written and not ended."""
    tags = [f"victim-{number}" for number in range(16)]
    for tag in tags:
        _filled(opened(tag)).close()

    def make():
        made = []
        for tag in tags:
            writer = opened(tag)
            cursor = writer.execute("UPDATE t SET b = a RETURNING a")
            assert cursor.fetchone()
            made.append((writer, cursor))
        return made

    return make


_VICTIMS = {
    "reading": _readers,
    "writing": _writers,
    "writing, journals deleted": lambda opened: _writers(opened, journal_mode="delete"),
    "unfinished": _unfinished,
}


def _work(opened, machine):
    """Return an act that goes through most of what callbacks and verbs do."""
    numbers = itertools.count()
    other = machine()

    def act():
        tag = f"work-{next(numbers)}"
        connection = _filled(opened(tag))
        for mode in ("delete", "truncate"):
            connection.execute(f"PRAGMA journal_mode={mode}").fetchall()
            connection.execute("BEGIN")
            connection.execute("UPDATE t SET b = a WHERE a < 20")
            connection.execute("ROLLBACK")
            connection.execute("UPDATE t SET b = a WHERE a < 20")
        connection.execute("PRAGMA graft_push").fetchall()
        log = other_clone(tag)
        with_foreign_commit(log)
        connection.execute("PRAGMA graft_pull").fetchall()
        assert value(connection, "SELECT count(*) FROM t") == 201
        connection.execute(f"ATTACH '{tag}-more' AS more")
        connection.execute("CREATE TABLE more.u AS SELECT * FROM t")
        connection.execute("VACUUM")
        assert value(connection, "PRAGMA integrity_check") == "ok"
        connection.close()

    def other_clone(tag):
        return other.connect(f"clone-{tag}", remote=tag)

    def with_foreign_commit(connection):
        assert value(connection, "SELECT count(*) FROM t") == 200
        connection.execute("INSERT INTO t VALUES(1000, 'theirs')")
        connection.execute("PRAGMA graft_push").fetchall()
        connection.close()

    return act


def _transactions(opened):
    """Return an act that opens a volume, writes, rolls back and closes."""
    numbers = itertools.count()

    def act():
        connection = opened(f"work-{next(numbers)}")
        connection.execute("CREATE TABLE t(a)")
        for mode in ("delete", "truncate"):
            connection.execute(f"PRAGMA journal_mode={mode}").fetchall()
            connection.execute("BEGIN")
            connection.execute("INSERT INTO t VALUES(1)")
            connection.execute("ROLLBACK")
            connection.execute("INSERT INTO t VALUES(2)")
        assert value(connection, "SELECT sum(a) FROM t") == 4
        connection.close()

    return act


@pytest.mark.parametrize("kind", ["reading", "writing, journals deleted"])
def test_a_connection_may_be_collected_anywhere_in_anothers_transaction(opened, kind):
    places = collect_everywhere(_VICTIMS[kind](opened), _transactions(opened))
    assert places > 100, "else this test collects nothing"


@pytest.mark.deep
@pytest.mark.parametrize("kind", _VICTIMS)
def test_a_connection_may_be_collected_anywhere_in_anothers_verb(opened, machine, kind):
    places = collect_everywhere(_VICTIMS[kind](opened), _work(opened, machine))
    assert places > 200, "else this test collects nothing"


def _shown(connection):
    """Return the one value that all rows have, as each commit of the tests below sets it."""
    ((found,),) = connection.execute("SELECT DISTINCT v FROM t").fetchall()
    return found


def _made(connection):
    connection.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, v, filler)")
    connection.execute(_ROWS + "INSERT INTO t SELECT i, 0, hex(randomblob(200)) FROM n")
    return connection


def test_a_handler_that_reads_in_the_middle_of_a_commit_sees_one_snapshot(connect):
    writer, reader, pinned = _made(connect("main")), connect("main"), connect("main")
    reader.execute("PRAGMA cache_size=0")
    pinned.execute("PRAGMA cache_size=0")
    seen = set()

    def handler():
        seen.add(_shown(reader))
        assert _shown(pinned) == 0

    pinned.execute("BEGIN")
    assert _shown(pinned) == 0
    for _ in range(3):
        with handled_everywhere(handler) as places:
            writer.execute("UPDATE t SET v = v + 1")
        assert len(places) > 10
    assert seen == {0, 1, 2, 3}
    assert value(writer, "PRAGMA integrity_check") == "ok"


@pytest.mark.parametrize("verb", ["another process commits", "a push", "a pull"])
def test_a_handler_that_reads_while_another_connection_follows_sees_one_snapshot(
    connect, config, machine, verb
):
    ours, reader = _made(connect("main")), connect("main")
    ours.execute("PRAGMA graft_push")
    reader.execute("PRAGMA cache_size=0")
    other = machine()
    theirs = other.connect("main", remote="main")
    if verb == "another process commits":
        other = Replica(config.data_dir, config.remote)
        theirs = other.connect("main")
    assert _shown(theirs) == 0
    theirs.execute("UPDATE t SET v = 1")
    if verb == "a pull":
        theirs.execute("PRAGMA graft_push")
    elif verb == "a push":
        ours.execute("UPDATE t SET v = 1")
    seen = set()
    with handled_everywhere(lambda: seen.add(_shown(reader))) as places:
        if verb != "another process commits":
            ours.execute(f"PRAGMA graft_{verb.removeprefix('a ')}").fetchall()
        assert _shown(ours) == 1
    assert len(places) > 10
    assert seen <= {0, 1}
    assert _shown(reader) == 1
    assert value(ours, "PRAGMA integrity_check") == "ok"
    if verb == "another process commits":
        other.close()


@pytest.mark.parametrize(
    ("work", "step"),
    [
        ("SELECT sum(length(filler)) FROM t", 2),
        ("PRAGMA graft_hydrate", 4),
        ("PRAGMA graft_push", 25),
    ],
)
def test_a_handler_that_reads_cold_pages_during_a_fetch_succeeds_or_is_refused(
    machine, connect, work, step
):
    _made(connect("main")).execute("PRAGMA graft_push")
    refused, number, places = [], 0, {None}
    while number < len(places):
        # A machine for each place: the handler's first run makes all pages warm.
        other = machine()
        ours, reader = (other.connect("main", remote="main") for _ in range(2))
        calls = itertools.count()

        def handler(calls=calls, number=number, reader=reader):
            if next(calls) == number:
                try:
                    assert _shown(reader) == 0
                except apsw.LockedError as error:
                    refused.append(str(error))

        if work.endswith("push"):
            ours.execute(f"CREATE TABLE u{number}(a)")
        with handled_everywhere(handler) as places:
            ours.execute(work).fetchall()
        assert _shown(reader) == 0
        other.close()
        number += step
    assert number > 20
    assert refused or work.endswith("push")
    assert all("signal handler" in text and "run it again" in text for text in refused)
