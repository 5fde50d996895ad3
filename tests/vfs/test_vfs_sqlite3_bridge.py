"""Python's `sqlite3` opens the same volumes, sees the same data, and fails as it should."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
import types
from contextlib import closing

import apsw
import pytest

import graft_vfs
from graft_vfs.errors import StoreUnavailableError, UsageError
from graft_vfs.pager.journal import Journal
from graft_vfs.pager.volume_file import VolumeFile
from graft_vfs.vfs import registry, sqlite3_bridge


def modules():
    """Return the modules whose SQLite library is not APSW's."""
    try:
        from pysqlite3 import dbapi2
    except ImportError:
        return [sqlite3]
    return [sqlite3, dbapi2]  # Shared, and linked statically.


@pytest.fixture(params=modules(), ids=lambda module: module.__name__)
def module(request, engine):
    graft_vfs.enable_sqlite3(request.param)
    return request.param


@pytest.fixture
def opened(module):
    """Open a tag through the module; no transactions but explicit ones."""
    connections = []

    def opened(tag="main", **parameters):
        uri = graft_vfs.uri(tag, **parameters)
        connections.append(module.connect(uri, uri=True, isolation_level=None, timeout=0))
        return connections[-1]

    yield opened
    for connection in connections:
        connection.close()


def value(connection, statement):
    ((found,),) = connection.execute(statement).fetchall()
    return found


def test_both_libraries_see_what_either_commits(opened, connect):
    ours, theirs = connect("main"), opened()
    theirs.execute("CREATE TABLE t(x)")
    for number in range(20):
        (ours if number % 2 else theirs).execute("INSERT INTO t VALUES(?)", (number,))
        for connection in (ours, theirs):
            assert value(connection, "SELECT max(x) FROM t") == number
    assert value(ours, "PRAGMA integrity_check") == value(theirs, "PRAGMA integrity_check") == "ok"


@pytest.mark.parametrize(
    "pragma",
    ["graft_info", "graft_status", "graft_tags", "graft_volumes", "graft_log", "graft_audit"],
)
def test_a_pragma_answers_the_same_text_in_both_libraries(opened, connect, pragma):
    theirs = opened()
    theirs.execute("CREATE TABLE t(x)")
    assert "pushed" in value(theirs, "PRAGMA graft_push").lower()
    text = value(theirs, f"PRAGMA {pragma}")
    assert text
    assert text == value(connect("main"), f"PRAGMA {pragma}")


def test_the_error_of_a_pragma_has_its_text(module, opened):
    with pytest.raises(
        module.OperationalError, match="there is no pragma graft_nope; did you mean"
    ):
        opened().execute("PRAGMA graft_nope")


def test_answers_are_freed_by_the_library_that_allocated_them(module, opened):
    theirs = opened()
    memory_used = registry._bridges[module.__name__].library.sqlite3_memory_used

    def ask():
        assert len(value(theirs, "PRAGMA graft_info")) > 200
        with pytest.raises(module.OperationalError, match="known are"):
            theirs.execute("PRAGMA graft_nope")

    ask()
    before = memory_used()
    for _ in range(200):
        ask()
    assert memory_used() == before


def test_a_busy_writer_is_distinguished_from_a_stale_one(module, opened):
    one, two = opened(), opened()
    one.execute("CREATE TABLE t(x)")
    one.execute("BEGIN IMMEDIATE")
    with pytest.raises(module.OperationalError) as busy:
        two.execute("BEGIN IMMEDIATE")
    assert busy.value.sqlite_errorcode == apsw.SQLITE_BUSY
    one.execute("COMMIT")
    two.execute("BEGIN")
    assert value(two, "SELECT count(*) FROM t") == 0
    one.execute("INSERT INTO t VALUES(1)")
    with pytest.raises(module.OperationalError) as stale:
        two.execute("INSERT INTO t VALUES(2)")
    # pysqlite3 drops what extends a result code.
    code = apsw.SQLITE_BUSY_SNAPSHOT if module is sqlite3 else apsw.SQLITE_BUSY
    assert stale.value.sqlite_errorcode == code
    two.execute("ROLLBACK")
    two.execute("INSERT INTO t VALUES(2)")
    assert value(one, "SELECT sum(x) FROM t") == 3


def test_the_busy_timeout_of_a_connection_waits_for_the_other_writer(module, opened):
    one = opened()
    one.execute("CREATE TABLE t(x)")
    one.execute("BEGIN IMMEDIATE")
    waits = module.connect(
        graft_vfs.uri("main"), uri=True, isolation_level=None, timeout=60, check_same_thread=False
    )
    with closing(waits):
        thread = threading.Thread(target=waits.execute, args=("INSERT INTO t VALUES(1)",))
        thread.start()
        one.execute("COMMIT")
        thread.join()
        assert value(waits, "SELECT count(*) FROM t") == 1


@pytest.mark.parametrize(
    ("parameters", "cause"),
    [
        ({"mode": "ro"}, "there is no tag 'absent'"),
        ({"remote": "nowhere"}, "nowhere"),
        ({"lsn": "x"}, "'x' names no commit"),
    ],
)
def test_an_open_that_fails_leaves_its_cause_in_the_log(module, opened, caplog, parameters, cause):
    with pytest.raises(module.OperationalError, match="unable to open") as failed:
        opened("absent", **parameters).execute("SELECT 1")
    assert failed.value.sqlite_errorcode == apsw.SQLITE_CANTOPEN
    assert [cause in record.getMessage() for record in caplog.records] == [True]


def test_the_cause_of_a_failure_is_reported_once_to_its_thread(module, opened):
    def in_thread():
        with pytest.raises(module.OperationalError):
            opened("nothing", mode="rw")
        found.extend(registry.sqlite3_failure(module) for _ in range(2))

    found = []
    registry.sqlite3_failure(module)  # What an earlier test left.
    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert found[0].startswith("there is no tag 'nothing'; this machine has no tag yet")
    assert found[1:] == [None]
    assert registry.sqlite3_failure(module) is None


@pytest.fixture
def pushed(machine):
    """A log with a table of one large row, which another machine has pushed as `main`."""
    with closing(machine().connect()) as connection:
        connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(100000))")
        connection.pragma("graft_push")


@pytest.mark.usefixtures("pushed")
def test_a_page_that_cannot_be_fetched_fails_the_statement_and_not_the_connection(
    module, opened, engine, caplog, monkeypatch
):
    theirs = opened("copy", remote="main")
    assert value(theirs, "SELECT count(*) FROM t") == 1

    def unreachable(*_, **__):
        raise StoreUnavailableError("the store is away")

    with monkeypatch.context() as patched:
        patched.setattr(engine.store, "get_range", unreachable)
        with pytest.raises(module.OperationalError) as failed:
            theirs.execute("SELECT hex(x) FROM t").fetchall()
    assert failed.value.sqlite_errorcode & 0xFF == apsw.SQLITE_IOERR
    assert "the store is away" in caplog.text
    assert value(theirs, "SELECT length(x) FROM t") == 100_000
    assert value(theirs, "PRAGMA integrity_check") == "ok"


def test_a_refused_page_size_fails_the_vacuum_alone(module, opened):
    theirs = opened()
    theirs.execute("CREATE TABLE t(x)")
    theirs.execute("INSERT INTO t VALUES(1)")
    theirs.execute("PRAGMA page_size = 8192")
    with pytest.raises(module.Error):
        theirs.execute("VACUUM")
    assert value(theirs, "SELECT x FROM t") == 1
    theirs.execute("INSERT INTO t VALUES(2)")
    assert value(theirs, "PRAGMA integrity_check") == "ok"


def _work(connection, database):
    """Spill, roll back, attach, vacuum, sort on disk; return what is left."""
    connection.execute("PRAGMA cache_size = 10")
    connection.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
    connection.execute("CREATE TEMP TABLE kept AS SELECT 1 AS one")
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO t(b) VALUES(?)", [(f"{n:0200}",) for n in range(3000)])
    connection.execute("SAVEPOINT half")
    connection.execute("UPDATE t SET b = 'lost'")
    connection.execute("ROLLBACK TO half")
    connection.execute("COMMIT")
    connection.execute("BEGIN")
    connection.execute("DELETE FROM t WHERE a % 3")
    connection.execute("ROLLBACK")
    connection.execute("DELETE FROM t WHERE a % 2")
    connection.execute("CREATE INDEX i ON t(b)")
    connection.execute("ATTACH ? AS other", (database,))
    connection.execute("CREATE TABLE other.copy AS SELECT * FROM t ORDER BY b DESC")
    connection.execute("DETACH other")
    connection.execute("VACUUM")
    return [
        connection.execute(statement).fetchall()
        for statement in (
            "SELECT count(*), sum(a), min(b), max(b) FROM t",
            "SELECT * FROM kept",
            "PRAGMA page_count",
            "PRAGMA integrity_check",
            "SELECT name, sql FROM sqlite_master",
        )
    ]


def test_the_same_work_gives_the_same_result_as_on_a_file(module, opened, tmp_path):
    with closing(module.connect(tmp_path / "plain.db", isolation_level=None)) as plain:
        on_disk = _work(plain, str(tmp_path / "other.db"))
    assert _work(opened(), graft_vfs.uri("other")) == on_disk


def test_backups_go_in_both_directions(module, opened):
    volume, memory = opened(), module.connect(":memory:")
    memory.execute("CREATE TABLE t(x)")
    memory.executemany("INSERT INTO t VALUES(?)", [(n,) for n in range(1000)])
    memory.commit()
    memory.backup(volume)
    memory.close()
    assert value(volume, "SELECT sum(x) FROM t") == 499_500
    with closing(module.connect(":memory:")) as copy:
        volume.backup(copy)
        assert value(copy, "SELECT sum(x) FROM t") == 499_500
        assert value(copy, "PRAGMA integrity_check") == "ok"


def test_threads_write_through_connections_of_their_own(module, opened):
    opened().execute("CREATE TABLE t(x)")
    failures = []

    def write(number):
        try:
            uri = graft_vfs.uri("main")
            with closing(module.connect(uri, uri=True, isolation_level=None, timeout=60)) as mine:
                for _ in range(25):
                    mine.execute("INSERT INTO t VALUES(?)", (number,))
        except Exception as error:  # noqa: BLE001 - the thread hands it over
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert value(opened(), "SELECT count(*) FROM t") == 100


@pytest.mark.parametrize("method", ["xRead", "xWrite", "xLock", "xUnlock", "xFileSize"])
def test_ctrl_c_in_a_callback_ends_the_statement_and_arrives(module, opened, monkeypatch, method):
    theirs = opened()
    theirs.execute("CREATE TABLE t(x)")
    original = getattr(VolumeFile, method)
    presses = [1]

    def pressed(self, *arguments):
        if presses and self.in_transaction:
            presses.pop()
            signal.raise_signal(signal.SIGINT)
        return original(self, *arguments)

    monkeypatch.setattr(VolumeFile, method, pressed)
    codes = []

    def insert():
        try:
            theirs.execute("INSERT INTO t VALUES(1)")
        except module.OperationalError as error:
            codes.append(error.sqlite_errorcode)
        while True:
            os.sched_yield()  # The interrupt arrives behind the statement, from another thread.

    with pytest.raises(KeyboardInterrupt):
        insert()
    assert presses == []
    code = apsw.SQLITE_IOERR if method == "xWrite" else apsw.SQLITE_INTERRUPT
    assert codes == ([] if method == "xUnlock" else [code])
    # Nothing is left behind: neither the lock nor a half of the row.
    other = opened()
    other.execute("INSERT INTO t VALUES(2)")
    assert value(theirs, "SELECT max(x) FROM t") == 2
    assert value(theirs, "PRAGMA integrity_check") == "ok"


@pytest.mark.parametrize("where", ["before", "inside"])
def test_repeated_ctrl_c_during_a_rollback_leaves_nothing(module, opened, monkeypatch, where):
    theirs = opened()
    theirs.execute("CREATE TABLE t(x)")
    presses, raised = [], []

    def pressing(original):
        def pressed(self, *arguments):
            if len(presses) < 3:  # As often as SQLite tries, at most.
                presses.append(original)
                signal.raise_signal(signal.SIGINT)
            return original(self, *arguments)

        return pressed

    with monkeypatch.context() as pressed:
        # That they arrive is tested above; three of them could arrive in the midst of pytest.
        pressed.setattr(sqlite3_bridge, "raise_behind", raised.append)
        pressed.setattr(VolumeFile, "xWrite", pressing(VolumeFile.xWrite))
        reading = "xRead" if where == "before" else "_read"
        pressed.setattr(Journal, reading, pressing(getattr(Journal, reading)))
        with pytest.raises(module.OperationalError):
            theirs.execute("INSERT INTO t VALUES(1)")
    assert len(set(presses)) == 2
    assert [type(error) for error in raised] == [KeyboardInterrupt] * len(presses)
    other = opened()
    other.execute("INSERT INTO t VALUES(2)")
    assert value(theirs, "SELECT max(x) FROM t") == 2
    assert value(theirs, "PRAGMA integrity_check") == "ok"


def test_a_forked_child_is_refused_and_keeps_the_parents_transaction(module, opened):
    theirs = opened()
    theirs.execute("CREATE TABLE t(x)")
    theirs.execute("BEGIN IMMEDIATE")
    theirs.execute("INSERT INTO t VALUES(1)")
    child = os.fork()
    if not child:
        try:
            theirs.execute("COMMIT")
        except module.Error:
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    theirs.execute("COMMIT")
    assert value(opened(), "SELECT count(*) FROM t") == 1


def test_enabling_again_changes_nothing_and_follows_a_new_engine(module, opened, engine, tmp_path):
    assert graft_vfs.enable_sqlite3(module) is engine
    second = graft_vfs.register(graft_vfs.Config(data_dir=tmp_path / "second"))
    try:
        theirs = opened("fresh")
        theirs.execute("CREATE TABLE t(x)")
        assert [report.tag for report in second.tags()] == ["fresh"]
        theirs.close()
    finally:
        graft_vfs.register(engine.config)
        second.close()


def test_after_unregistering_the_name_is_unknown(module, engine):
    graft_vfs.unregister()
    with pytest.raises(module.OperationalError, match="no such vfs: graft"):
        module.connect(graft_vfs.uri("main"), uri=True)
    graft_vfs.register(engine.config)


def test_a_module_without_a_callable_library_is_refused(engine):
    fake = types.SimpleNamespace(__name__="fake", connect=json.loads)
    with pytest.raises(UsageError, match="the SQLite library of fake cannot be called"):
        graft_vfs.enable_sqlite3(fake)


def test_a_library_that_is_not_the_modules_is_refused(engine):
    class Elsewhere:
        def execute(self, _):
            return self

        def fetchone(self):
            return ("2000-01-01 another build",)

        def close(self):
            pass

    def connect(_):
        return Elsewhere()

    connect.__module__ = "_sqlite3"
    fake = types.SimpleNamespace(__name__="fake", connect=connect)
    with pytest.raises(UsageError, match="fake uses a SQLite library other than"):
        graft_vfs.enable_sqlite3(fake)


def test_mmap_size_returns_a_row_in_both_libraries(opened, connect):
    for connection in (opened(), connect("main")):
        for pragma in ("mmap_size", "mmap_size=1000000", "mmap_size"):
            assert connection.execute(f"PRAGMA {pragma}").fetchall() == [(0,)]
