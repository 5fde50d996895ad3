"""The commit point: what is rolled back leaves no trace, what fails is not committed."""

from __future__ import annotations

import contextlib
import errno
import os

import apsw
import pytest

import graft_vfs
from graft_vfs.errors import CorruptLogError, StoreDeniedError, StoreUnavailableError
from graft_vfs.local import branch_log
from graft_vfs.pager import journal
from graft_vfs.pager.volume_file import VolumeFile
from graft_vfs.volume import transaction
from tests.support.counting import counted_calls
from tests.support.engines import reopened
from tests.support.sql import content, is_sound, rows, value

JOURNAL_MODES = ("delete", "truncate", "persist", "memory")
ROWS = 600


def filled(connection, journal_mode="truncate"):
    """Make a table of about 150 pages, and a cache that holds ten."""
    connection.pragma("journal_mode", journal_mode)
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT, data BLOB)")
    with connection:
        connection.executemany(
            "INSERT INTO t VALUES(?, ?, ?)",
            ((n, f"v{n}", bytes([n % 256]) * 900) for n in range(ROWS)),
        )
    connection.pragma("cache_size", 10)
    return connection


def exported(engine, path):
    engine.export("main", path)
    return path.read_bytes()


@pytest.mark.parametrize("journal_mode", JOURNAL_MODES)
def test_rollback_after_a_cache_spill_restores_every_page(engine, connect, tmp_path, journal_mode):
    connection = filled(connect("main"), journal_mode)
    before, image = content(connection), exported(engine, tmp_path / "before.db")
    with counted_calls() as calls:
        connection.execute("BEGIN; UPDATE t SET data = zeroblob(900), v = v || '!'")
        assert calls["xWrite"] > 50, "the cache did not spill, so nothing is tested"
    connection.execute("DELETE FROM t WHERE id % 2; CREATE TABLE u AS SELECT * FROM t; ROLLBACK")
    assert content(connection) == before
    assert is_sound(connection)
    assert exported(engine, tmp_path / "after.db") == image
    connection.execute("INSERT INTO t VALUES(-1, 'on', x'00')")
    assert rows(connect("main"), "SELECT v FROM t WHERE id IN (-1, 5) ORDER BY id") == [
        ("on",),
        ("v5",),
    ]


@pytest.mark.parametrize("journal_mode", JOURNAL_MODES)
def test_a_rollback_in_a_kept_cache_reads_the_old_pages(connect, journal_mode):
    connection = filled(connect("main"), journal_mode)
    for turn in range(3):
        connection.execute("BEGIN; UPDATE t SET v = 'turn', data = x'01'")
        assert value(connection, "SELECT count(*) FROM t WHERE v = 'turn'") == ROWS
        connection.execute("ROLLBACK")
        assert value(connection, "SELECT count(*) FROM t WHERE v = 'v' || id") == ROWS, turn
        assert value(connection, "SELECT sum(length(data)) FROM t") == ROWS * 900


@pytest.mark.parametrize("journal_mode", JOURNAL_MODES)
def test_savepoints_roll_back_over_spilled_pages(connect, journal_mode):
    connection = filled(connect("main"), journal_mode)
    connection.execute("BEGIN; UPDATE t SET v = 'kept' WHERE id < 300; SAVEPOINT one")
    connection.execute("UPDATE t SET v = 'lost', data = zeroblob(901); SAVEPOINT two")
    connection.execute("DELETE FROM t; ROLLBACK TO two")
    assert value(connection, "SELECT count(*) FROM t WHERE v = 'lost'") == ROWS
    connection.execute("ROLLBACK TO one")
    connection.execute("INSERT INTO t VALUES(10000, 'late', NULL); RELEASE one; COMMIT")
    for reader in (connection, connect("main")):
        assert value(reader, "SELECT count(*) FROM t WHERE v = 'kept'") == 300
        assert value(reader, "SELECT count(*) FROM t WHERE v = 'v' || id") == 300
        assert value(reader, "SELECT sum(length(data)) FROM t") == ROWS * 900
        assert value(reader, "SELECT v FROM t WHERE id = 10000") == "late"
        assert is_sound(reader)


@pytest.mark.parametrize("journal_mode", JOURNAL_MODES)
def test_a_statement_that_fails_half_way_is_undone_and_the_transaction_goes_on(
    connect, journal_mode
):
    connection = filled(connect("main"), journal_mode)
    connection.execute("CREATE UNIQUE INDEX t_v ON t(v); BEGIN; INSERT INTO t VALUES(-5, 'a', '')")
    with pytest.raises(apsw.ConstraintError):
        connection.execute(
            "INSERT INTO t SELECT id + 100000, iif(id = 590, 'a', 'n' || id), data FROM t"
        )
    with pytest.raises(apsw.ConstraintError):
        connection.execute("UPDATE t SET v = iif(id < 580, 'm' || id, 'a') WHERE id >= 0")
    connection.execute("INSERT INTO t VALUES(-6, 'b', ''); COMMIT")
    reader = connect("main")
    assert value(reader, "SELECT count(*) FROM t") == ROWS + 2
    assert value(reader, "SELECT count(*) FROM t WHERE v = 'v' || id") == ROWS
    assert is_sound(reader)


@pytest.mark.parametrize("journal_mode", JOURNAL_MODES)
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_transaction_larger_than_the_staging_limit(
    config, connect, monkeypatch, journal_mode, end
):
    monkeypatch.setattr(transaction, "STAGED_BYTES_MAX", 64 << 10)
    connection = filled(connect("main"), journal_mode)
    before = content(connection)
    connection.execute(
        "BEGIN; UPDATE t SET data = zeroblob(1000);"
        "INSERT INTO t SELECT id + 1000, 'new', zeroblob(1500) FROM t"
    )
    inside = content(connection)
    log = connection_volume(connection).branch_log
    connection.execute(end)
    wanted = before if end == "ROLLBACK" else inside
    assert content(connection) == wanted
    connection.execute("CREATE TABLE after(x); INSERT INTO after VALUES(1)")
    assert log.path.stat().st_size > 0
    wanted = content(connection)
    reopened(config)
    again = graft_vfs.connect("main")
    assert content(again) == wanted
    assert is_sound(again)


def test_the_staging_limit_bounds_the_staged_bytes(engine, connect, monkeypatch):
    monkeypatch.setattr(transaction, "STAGED_BYTES_MAX", 64 << 10)
    staged = []
    original = branch_log.BranchLog.append

    def append(self, position, lsn, pages, images, *rest):
        staged.append(sum(map(len, images)))
        return original(self, position, lsn, pages, images, *rest)

    monkeypatch.setattr(branch_log.BranchLog, "append", append)
    filled(connect("main"))
    assert max(staged) <= 64 << 10
    assert len(staged) > 5


def connection_volume(connection):
    """Return the volume behind a connection of the registered engine."""
    return graft_vfs.register().open(connection.filename)


@pytest.fixture
def small_staging(monkeypatch):
    monkeypatch.setattr(transaction, "STAGED_BYTES_MAX", 64 << 10)


@pytest.fixture
def full_disk(monkeypatch):
    """Make the branch log's writes fail while the switch is on."""
    switch = {"on": False, "failed": 0}
    append = branch_log.BranchLog.append
    write_fully = branch_log.write_fully

    def refusing_append(self, position, *arguments):
        if switch["on"]:
            self._maps_writes = False  # So that the write is a call, as on other file systems.
        return append(self, position, *arguments)

    def refusing_write(descriptor, data, offset):
        if switch["on"] and len(data) > 56:
            switch["failed"] += 1
            # A disk that fills up takes a part.
            write_fully(descriptor, bytes(data)[: len(data) // 2], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_fully(descriptor, data, offset)

    monkeypatch.setattr(branch_log.BranchLog, "append", refusing_append)
    monkeypatch.setattr(branch_log, "write_fully", refusing_write)
    return switch


@pytest.mark.parametrize("locking_mode", ["normal", "exclusive"])
@pytest.mark.parametrize("journal_mode", JOURNAL_MODES)
def test_a_commit_that_the_disk_refuses_commits_nothing(
    config, connect, full_disk, journal_mode, locking_mode
):
    connection = filled(connect("main"), journal_mode)
    connection.pragma("locking_mode", locking_mode)
    connection.execute("INSERT INTO t VALUES(-1, 'before', NULL)")
    before = content(connection)
    full_disk["on"] = True
    for _ in range(2):
        with pytest.raises(apsw.FullError, match="free some disk space"):
            connection.execute("INSERT INTO t VALUES(-2, 'refused', zeroblob(5000))")
        assert full_disk["failed"]
        assert not connection.in_transaction
        assert content(connection) == before
    full_disk["on"] = False
    assert content(connect("main")) == before
    connection.execute("INSERT INTO t VALUES(-3, 'after', NULL)")
    wanted = content(connection)
    assert len(wanted["t"]) == ROWS + 2
    assert content(connect("main")) == wanted
    reopened(config)
    again = graft_vfs.connect("main")
    assert content(again) == wanted
    assert is_sound(again)


@pytest.mark.usefixtures("small_staging")
@pytest.mark.parametrize("locking_mode", ["normal", "exclusive"])
@pytest.mark.parametrize("journal_mode", JOURNAL_MODES)
def test_a_large_transaction_that_the_disk_refuses_while_it_runs(
    config, connect, full_disk, journal_mode, locking_mode
):
    connection = filled(connect("main"), journal_mode)
    connection.pragma("locking_mode", locking_mode)
    connection.execute("INSERT INTO t VALUES(-1, 'before', NULL)")
    before = content(connection)
    connection.execute("BEGIN; UPDATE t SET v = 'x' || v WHERE id < 300")
    full_disk["on"] = True
    with pytest.raises(apsw.FullError):
        connection.execute("UPDATE t SET data = zeroblob(1100)")
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    full_disk["on"] = False
    assert content(connection) == before
    connection.execute("DELETE FROM t WHERE id % 2; INSERT INTO t VALUES(-3, 'after', NULL)")
    wanted = content(connection)
    assert content(connect("main")) == wanted
    reopened(config)
    again = graft_vfs.connect("main")
    assert content(again) == wanted
    assert is_sound(again)


@pytest.mark.usefixtures("small_staging")
@pytest.mark.parametrize("journal_mode", JOURNAL_MODES)
def test_the_journal_of_a_refused_transaction_is_never_played_back(
    connect, full_disk, journal_mode
):
    connection = filled(connect("main"), journal_mode)
    connection.execute("BEGIN; UPDATE t SET v = 'x' || v WHERE id < 300")
    full_disk["on"] = True
    with pytest.raises(apsw.FullError):
        connection.execute("UPDATE t SET data = zeroblob(1100)")
    full_disk["on"] = False
    other = connect("main")
    other.execute("UPDATE t SET v = 'other'; DELETE FROM t WHERE id % 3")
    wanted = content(other)
    assert content(connection) == wanted
    connection.execute("INSERT INTO t VALUES(-1, 'last', NULL); DELETE FROM t WHERE id = -1")
    assert content(other) == wanted
    assert is_sound(connection)


@pytest.mark.parametrize(
    "failure",
    [CorruptLogError, StoreUnavailableError, StoreDeniedError, RecursionError, KeyboardInterrupt],
)
@pytest.mark.parametrize("locking_mode", ["normal", "exclusive"])
@pytest.mark.parametrize("journal_mode", ["delete", "truncate", "persist"])
def test_a_rollback_that_cannot_read_an_old_page_shows_nothing_of_the_transaction(
    connect, monkeypatch, journal_mode, locking_mode, failure
):
    read_page, failing = VolumeFile.read_snapshot_page, []

    def read(self, page):
        if failing:
            raise failure("a test took the page away")
        return read_page(self, page)

    monkeypatch.setattr(VolumeFile, "read_snapshot_page", read)
    # More pages than a journal keeps with their bodies; none is written before the rollback.
    monkeypatch.setattr(journal, "_RECENT_BYTES_MAX", 4000)
    connection = filled(connect("main"), journal_mode)
    connection.pragma("cache_size", 2000)
    connection.pragma("locking_mode", locking_mode)
    before = content(connection)
    connection.execute("BEGIN; UPDATE t SET data = zeroblob(900), v = v || '!'")
    failing.append(True)
    with pytest.raises(apsw.IOError, match="a test took the page away"):
        connection.execute("ROLLBACK")
    failing.clear()
    assert content(connection) == before
    assert is_sound(connection)
    connection.execute("INSERT INTO t VALUES(-1, 'on', x'00')")
    assert is_sound(connect("main"))
    assert rows(connect("main"), "SELECT v FROM t WHERE id IN (-1, 5) ORDER BY id") == [
        ("on",),
        ("v5",),
    ]


@pytest.mark.parametrize("spilled", [False, True], ids=["in the cache", "spilled"])
@pytest.mark.parametrize("journal_mode", JOURNAL_MODES)
def test_a_rollback_ended_by_any_exception_shows_nothing_of_the_transaction(
    connect, monkeypatch, journal_mode, spilled
):
    connection = filled(connect("main"), journal_mode)
    connection.pragma("cache_size", 10 if spilled else 2000)
    before = content(connection)
    connection.execute("BEGIN; UPDATE t SET data = zeroblob(900), v = v || '!'")
    with monkeypatch.context() as failing:
        for kind, name in ((journal.Journal, "xRead"), (VolumeFile, "xWrite")):
            failing.setattr(kind, name, raised(RecursionError))
        with contextlib.suppress(RecursionError):
            connection.execute("ROLLBACK")
    if not connection.in_transaction:
        assert content(connection) == before
        connection.execute("INSERT INTO t VALUES(-1, 'on', x'00')")
        connection.execute("DELETE FROM t WHERE id = -1")
    assert content(connect("main")) == before
    assert is_sound(connect("main"))


@pytest.mark.parametrize("failure", [RecursionError, KeyboardInterrupt, CorruptLogError])
@pytest.mark.parametrize("locking_mode", ["normal", "exclusive"])
@pytest.mark.parametrize("journal_mode", JOURNAL_MODES)
def test_a_commit_ended_by_any_exception_shows_nothing_of_the_transaction(
    connect, monkeypatch, journal_mode, locking_mode, failure
):
    connection = filled(connect("main"), journal_mode)
    connection.pragma("cache_size", 2000)
    connection.pragma("locking_mode", locking_mode)
    before = content(connection)
    with monkeypatch.context() as failing:
        failing.setattr(transaction.Transaction, "commit", raised(failure))
        with pytest.raises(apsw.IOError) as raised_error:
            connection.execute("UPDATE t SET data = zeroblob(900), v = v || '!'")
    if failure is KeyboardInterrupt:
        assert isinstance(raised_error.value, KeyboardInterrupt)
    assert content(connection) == before
    connection.execute("INSERT INTO t VALUES(-1, 'on', x'00')")
    connection.execute("DELETE FROM t WHERE id = -1")
    assert content(connect("main")) == before
    assert is_sound(connect("main"))


def raised(kind):
    def fail(*_):
        raise kind("a test fails at any call")

    return fail


def test_the_cache_is_kept_after_a_transaction_without_writes(connect):
    connection = filled(connect("main"))
    connection.pragma("cache_size", 2000)
    content(connection)
    with counted_calls() as calls:
        for statement in ("BEGIN IMMEDIATE", "SELECT count(*) FROM t", "COMMIT"):
            connection.execute(statement)
        connection.execute("BEGIN; UPDATE t SET v = 'x' WHERE id = 1; ROLLBACK")
        assert content(connection)
    assert calls["xRead"] < 30


def test_a_rolled_back_first_transaction_leaves_the_page_size_open(connect):
    connection = connect("main")
    connection.pragma("page_size", 1024)
    connection.execute("BEGIN; CREATE TABLE t(x); ROLLBACK")
    other = connect("main")
    other.pragma("page_size", 8192)
    other.execute("CREATE TABLE t(x)")
    assert rows(connection, "SELECT name FROM sqlite_schema") == [("t",)]
    assert connection.pragma("page_size") == 8192
