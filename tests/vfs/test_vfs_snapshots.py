"""One snapshot for a whole transaction, one writer at a time, and caches that stay valid."""

from __future__ import annotations

import threading

import apsw
import pytest

from graft_vfs.vfs import file_system
from graft_vfs.volume import transaction
from graft_vfs.volume.page_index import PageIndex
from graft_vfs.volume.volume import Volume
from tests.support.children import child
from tests.support.counting import counted_calls
from tests.support.sql import content, is_sound, rows, value

BUSY = apsw.SQLITE_BUSY
BUSY_SNAPSHOT = apsw.SQLITE_BUSY_SNAPSHOT


@pytest.fixture
def two(connect):
    """Two connections to one volume, with a table of a few hundred pages."""
    writer, reader = connect("main"), connect("main")
    writer.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER, data BLOB)")
    with writer:
        writer.executemany("INSERT INTO t VALUES(?, 0, zeroblob(700))", ((n,) for n in range(500)))
    return writer, reader


@pytest.mark.parametrize("cache_pages", [5, 2000])
def test_a_reader_sees_one_snapshot_while_a_writer_commits(two, cache_pages):
    writer, reader = two
    reader.pragma("cache_size", cache_pages)
    reader.execute("BEGIN")
    assert value(reader, "SELECT sum(n) FROM t WHERE id < 3") == 0
    for turn in range(1, 20):
        writer.execute("UPDATE t SET n = ?, data = zeroblob(600 + ?)", (turn, turn))
        if turn == 10:
            writer.execute("DELETE FROM t WHERE id > 400; CREATE TABLE u(x)")
        assert rows(reader, "SELECT count(*), max(n), sum(length(data)) FROM t") == [
            (500, 0, 350_000)
        ]
    assert is_sound(reader)
    reader.execute("COMMIT")
    assert rows(reader, "SELECT count(*), min(n), max(n) FROM t") == [(401, 19, 19)]


def test_a_reader_keeps_its_snapshot_through_a_commit_larger_than_the_staging_limit(
    two, monkeypatch
):
    monkeypatch.setattr(transaction, "STAGED_BYTES_MAX", 16 << 10)
    writer, reader = two
    for connection in two:
        connection.pragma("cache_size", 5)
    reader.execute("BEGIN; SELECT 1 FROM t").fetchall()
    writer.execute("BEGIN; UPDATE t SET n = 1, data = zeroblob(701); DELETE FROM t WHERE id % 2")
    assert rows(reader, "SELECT sum(n), sum(length(data)) FROM t") == [(0, 350_000)]
    writer.execute("COMMIT")
    writer.execute("DELETE FROM t")
    assert rows(reader, "SELECT sum(n), sum(length(data)) FROM t") == [(0, 350_000)]
    assert is_sound(reader)


def test_readers_of_different_ages_each_keep_their_own_snapshot(connect, two):
    writer, _ = two
    readers = []
    for turn in range(8):
        writer.execute("UPDATE t SET n = ?", (turn,))
        readers.append(connect("main"))
        readers[-1].pragma("cache_size", 3)
        readers[-1].execute("BEGIN")
        assert value(readers[-1], "SELECT n FROM t LIMIT 1") == turn
    writer.execute("DELETE FROM t")
    for turn in (3, 0, 7, 5, 1, 2, 6, 4):
        assert rows(readers[turn], "SELECT min(n), max(n), count(*) FROM t") == [(turn, turn, 500)]
        readers[turn].execute("COMMIT")
        assert value(readers[turn], "SELECT count(*) FROM t") == 0


def test_threads_that_read_see_whole_transactions_of_a_thread_that_writes(connect, two):
    writer, _ = two
    begun = threading.Barrier(4)
    finished = threading.Event()
    faults = []

    def read():
        connection = connect("main")
        connection.pragma("cache_size", 5)
        begun.wait()
        last = 0
        while True:
            is_last = finished.is_set()
            connection.execute("BEGIN")
            low, high = rows(connection, "SELECT min(n), max(n) FROM t")[0]
            again = rows(connection, "SELECT min(n), max(n) FROM t WHERE id % 7")[0]
            connection.execute("COMMIT")
            if not (low == high >= last and again == (low, high)):
                faults.append((low, high, again, last))
            last = high
            if is_last:
                break
        if last != 60:
            faults.append(("not the newest", last))
        connection.close()

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait()
    for turn in range(1, 61):
        writer.execute("UPDATE t SET n = ?", (turn,))
    finished.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert is_sound(writer)


def test_upgrading_a_stale_reader_is_busy_snapshot_without_a_busy_handler(two):
    writer, reader = two
    asked = []
    reader.set_busy_handler(lambda count: asked.append(count) or False)
    reader.execute("BEGIN; SELECT count(*) FROM t").fetchall()
    writer.execute("UPDATE t SET n = 1 WHERE id = 1")
    with pytest.raises(apsw.BusyError) as caught:
        reader.execute("UPDATE t SET n = 2 WHERE id = 2")
    assert caught.value.extendedresult == BUSY_SNAPSHOT
    assert not asked
    assert value(reader, "SELECT n FROM t WHERE id = 1") == 0
    reader.execute("ROLLBACK; BEGIN; UPDATE t SET n = 2 WHERE id = 2; COMMIT")
    assert rows(writer, "SELECT n FROM t WHERE id IN (1, 2)") == [(1,), (2,)]


def test_a_reader_whose_snapshot_is_the_newest_may_upgrade(two):
    writer, reader = two
    writer.execute("UPDATE t SET n = 1")
    reader.execute("BEGIN; SELECT count(*) FROM t").fetchall()
    reader.execute("UPDATE t SET n = 2; COMMIT")
    assert value(writer, "SELECT sum(n) FROM t") == 1000


def test_a_second_writer_is_busy_and_its_busy_handler_is_called(two):
    writer, second = two
    asked = []
    second.set_busy_handler(lambda count: asked.append(count) or count < 3)
    writer.execute("BEGIN IMMEDIATE; UPDATE t SET n = 1")
    with pytest.raises(apsw.BusyError) as caught:
        second.execute("BEGIN IMMEDIATE")
    assert caught.value.extendedresult == BUSY
    assert asked == [0, 1, 2, 3]
    assert value(second, "SELECT sum(n) FROM t") == 0
    writer.execute("COMMIT")
    second.execute("BEGIN IMMEDIATE; UPDATE t SET n = n + 1; COMMIT")
    assert value(writer, "SELECT sum(n) FROM t") == 1000


def test_the_busy_handler_waits_for_the_writer_to_end(two):
    writer, second = two
    writer.execute("BEGIN IMMEDIATE; UPDATE t SET n = 1")

    def let_go(_):
        writer.execute("COMMIT")
        return True

    second.set_busy_handler(let_go)
    second.execute("UPDATE t SET n = n + 1")
    assert value(second, "SELECT sum(n) FROM t") == 1000


def test_busy_timeout_waits_for_a_writer_in_another_thread(connect, two):
    writer, second = two
    second.set_busy_timeout(60_000)
    holds, asked = threading.Event(), threading.Event()

    def hold():
        connection = connect("main")
        connection.execute("BEGIN IMMEDIATE; UPDATE t SET n = 5")
        holds.set()
        asked.wait()
        connection.execute("COMMIT")
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait()
    asked.set()
    second.execute("UPDATE t SET n = n + 1")
    thread.join()
    assert value(writer, "SELECT sum(n) FROM t") == 3000


def test_a_connection_that_waits_for_its_turn_lets_other_threads_run(two, monkeypatch):
    first, second = two
    second.set_busy_timeout(60_000)
    waited = []

    def sleep(seconds):
        # Whatever is called like Python's own sleep gives up the interpreter's lock meanwhile.
        waited.append(seconds)
        if len(waited) == 3:
            first.execute("COMMIT")

    monkeypatch.setattr(file_system, "sleep", sleep)
    first.execute("BEGIN IMMEDIATE; UPDATE t SET n = 1")
    second.execute("UPDATE t SET n = n + 1")
    assert len(waited) == 3
    assert all(0 < seconds <= 0.1 for seconds in waited)
    assert rows(second, "SELECT DISTINCT n FROM t") == [(2,)]


def test_a_busy_timeout_ends(two):
    writer, second = two
    second.pragma("busy_timeout", 20)
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(apsw.BusyError):
        second.execute("UPDATE t SET n = 1")


def test_a_writer_does_not_wait_for_readers_nor_readers_for_it(two):
    writer, reader = two
    reader.execute("BEGIN; SELECT count(*) FROM t").fetchall()
    writer.execute("BEGIN EXCLUSIVE; UPDATE t SET n = 1")
    assert value(reader, "SELECT sum(n) FROM t") == 0
    writer.execute("COMMIT")


# Caches -----------------------------------------------------------------------------------------


def test_a_commit_is_immediately_visible_to_other_connections(two):
    first, second = two
    for turn in range(1, 30):
        first, second = second, first
        first.execute("UPDATE t SET n = ? WHERE id = 7", (turn,))
        assert value(second, "SELECT n FROM t WHERE id = 7") == turn
        assert value(first, "SELECT n FROM t WHERE id = 7") == turn


def test_a_schema_change_is_seen_by_the_other_connection(two):
    first, second = two
    first.execute("ALTER TABLE t ADD COLUMN more DEFAULT 9; CREATE INDEX t_n ON t(n)")
    assert value(second, "SELECT sum(more) FROM t") == 4500
    second.execute("DROP TABLE t")
    with pytest.raises(apsw.SQLError, match="no such table"):
        first.execute("SELECT * FROM t")


def test_own_commits_keep_the_cache_warm(two):
    writer, _ = two
    writer.execute("UPDATE t SET n = 1 WHERE id = 250")
    with counted_calls() as calls:
        for turn in range(10):
            writer.execute("UPDATE t SET n = ? WHERE id = 250", (turn,))
    assert calls["pages"] == 0
    assert calls["probes"] == 10
    assert calls["xWrite"] == 20


def test_a_growing_table_keeps_the_cache_warm(two):
    writer, _ = two
    writer.execute("INSERT INTO t VALUES(10000, 1, zeroblob(700))")
    with counted_calls() as calls:
        for turn in range(40):
            writer.execute("INSERT INTO t VALUES(?, 1, zeroblob(700))", (10_001 + turn,))
    assert calls["pages"] == 0


def test_a_rollback_keeps_the_cache_of_unchanged_pages(two):
    writer, _ = two
    value(writer, "SELECT sum(length(data)) FROM t")
    writer.execute("BEGIN; UPDATE t SET n = 1 WHERE id = 250; ROLLBACK")
    with counted_calls() as calls:
        value(writer, "SELECT sum(length(data)) FROM t")
    assert calls["pages"] <= 1


def test_a_push_keeps_the_cache_warm(two):
    writer, reader = two
    value(writer, "SELECT sum(length(data)) FROM t")
    value(reader, "SELECT sum(length(data)) FROM t")
    writer.pragma("graft_push")
    with counted_calls() as calls:
        value(writer, "SELECT sum(length(data)) FROM t")
        value(reader, "SELECT sum(length(data)) FROM t")
        writer.execute("UPDATE t SET n = 1 WHERE id = 250")
    assert calls["pages"] == 0


def test_a_push_inside_an_open_read_transaction_changes_nothing_in_it(two):
    writer, reader = two
    reader.pragma("cache_size", 3)
    reader.execute("BEGIN; SELECT count(*) FROM t").fetchall()
    writer.execute("UPDATE t SET n = 1")
    writer.pragma("graft_push")
    writer.execute("UPDATE t SET n = 2")
    writer.pragma("graft_push")
    assert rows(reader, "SELECT sum(n), count(*) FROM t") == [(0, 500)]
    reader.execute("COMMIT")
    assert value(reader, "SELECT sum(n) FROM t") == 1000


def test_a_push_during_a_write_transaction_leaves_it_to_commit(connect, two):
    writer, other = two
    writer.execute("BEGIN IMMEDIATE; UPDATE t SET n = 3")
    other.pragma("graft_push")
    writer.execute("COMMIT")
    assert value(other, "SELECT sum(n) FROM t") == 1500
    assert "ahead of the remote by 1 commit" in other.pragma("graft_status")
    other.pragma("graft_push")
    assert value(connect("main"), "SELECT sum(n) FROM t") == 1500


def test_after_a_pull_every_open_connection_sees_the_new_data(machine, connect, two):
    writer, reader = two
    writer.pragma("graft_push")
    elsewhere = machine().connect(remote="main")
    elsewhere.execute("UPDATE t SET n = 9; CREATE TABLE u AS SELECT 1 AS x")
    elsewhere.pragma("graft_push")
    old = connect("main")
    old.pragma("cache_size", 3)
    for connection in (writer, reader):
        assert value(connection, "SELECT sum(n) FROM t") == 0
    old.execute("BEGIN; SELECT count(*) FROM t").fetchall()

    reader.pragma("graft_pull")

    for connection in (writer, reader):
        assert value(connection, "SELECT sum(n) FROM t") == 4500
        assert value(connection, "SELECT x FROM u") == 1
    assert rows(old, "SELECT sum(n), sum(length(data)) FROM t") == [(0, 350_000)]
    old.execute("COMMIT")
    assert content(old) == content(elsewhere)
    assert is_sound(old)


def test_a_transaction_begun_before_a_pull_cannot_write_after_it(machine, two):
    writer, reader = two
    writer.pragma("graft_push")
    elsewhere = machine().connect(remote="main")
    elsewhere.execute("UPDATE t SET n = 9")
    elsewhere.pragma("graft_push")
    writer.execute("BEGIN; SELECT count(*) FROM t").fetchall()
    reader.pragma("graft_pull")
    with pytest.raises(apsw.BusyError) as caught:
        writer.execute("UPDATE t SET n = 1")
    assert caught.value.extendedresult == BUSY_SNAPSHOT
    writer.execute("ROLLBACK; UPDATE t SET n = n + 1")
    assert value(reader, "SELECT sum(n) FROM t") == 5000


def test_pulls_and_own_commits_in_turn_never_show_an_old_cache(machine, two):
    here, watcher = two
    here.pragma("graft_push")
    there = machine().connect(remote="main")
    for turn in range(1, 12):
        there.execute("UPDATE t SET n = n + 1")
        there.pragma("graft_push")
        here.pragma("graft_pull")
        assert value(watcher, "SELECT sum(n) FROM t") == 500 * (2 * turn - 1)
        here.execute("UPDATE t SET n = n + 1")
        assert value(watcher, "SELECT sum(n) FROM t") == 500 * 2 * turn
        here.pragma("graft_push")
        there.pragma("graft_pull")
        assert value(there, "SELECT sum(n) FROM t") == 500 * 2 * turn


@pytest.mark.parametrize("is_foreign", [False, True], ids=["this process", "another process"])
def test_a_reader_that_begins_during_a_commit_sees_all_or_nothing_of_it(
    config, engine, connect, monkeypatch, is_foreign
):
    setup = connect("main")
    for name in ("one", "other"):
        setup.execute(f"CREATE TABLE {name}(n)")
        setup.execute(f"INSERT INTO {name} VALUES(0)")
    writer, reader = connect("main"), connect("main")
    update = "BEGIN; UPDATE one SET n = 1; UPDATE other SET n = 1; COMMIT"
    if is_foreign:
        with child(config.data_dir, f"graft_vfs.connect('main').execute({update!r})") as process:
            process.end()
    seen = []
    has_begun_or_waits = threading.Event()
    refresh, apply = Volume.refresh, PageIndex.apply

    def read_one():
        monkeypatch.setattr(Volume, "refresh", refresh_with_notice)
        seen.append(value(reader, "BEGIN; SELECT n FROM one"))
        has_begun_or_waits.set()

    def refresh_with_notice(self):
        has_begun_or_waits.set()
        refresh(self)

    def apply_beside_a_reader(self, *arguments):
        monkeypatch.setattr(PageIndex, "apply", apply)
        thread.start()
        assert has_begun_or_waits.wait(60)
        apply(self, *arguments)

    thread = threading.Thread(target=read_one)
    monkeypatch.setattr(PageIndex, "apply", apply_beside_a_reader)
    if is_foreign:
        engine.status("main")  # Takes in the commit without reading a page.
    else:
        writer.execute(update)
    thread.join()
    seen.append(value(reader, "SELECT n FROM other"))
    assert seen in ([0, 0], [1, 1])


def test_a_commit_after_a_push_in_its_transaction_is_read_from_the_new_branch(engine, connect):
    """A push settles without the writer lock, so a transaction may commit to another branch."""
    writer = connect("main")
    writer.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v, filler)")
    writer.execute("PRAGMA cache_size=1")
    rows = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) "
    writer.execute(rows + "INSERT INTO t SELECT i, 0, hex(randomblob(200)) FROM n")
    for number in range(1, 4):
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE t SET v = ?", (number,))
        assert engine.push("main").lsn == number
        writer.execute("COMMIT")
        assert value(writer, "SELECT count(*) FROM t WHERE v = ?", number) == 200
        writer.execute("UPDATE t SET v = v + 10")
        assert value(writer, "SELECT count(*) FROM t WHERE v = ?", number + 10) == 200
        assert value(writer, "PRAGMA integrity_check") == "ok"
