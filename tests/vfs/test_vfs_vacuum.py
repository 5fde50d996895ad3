"""Databases that shrink, grow again, and are copied whole."""

from __future__ import annotations

import apsw
import pytest

import graft_vfs
from tests.support.engines import reopened
from tests.support.sql import content, is_sound, rows, stock, value

PAGE_SIZES = (512, 4096, 65536)
FILL = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
    INSERT INTO t(v, data) SELECT 'v' || i, zeroblob(700 + i) FROM n
"""


def filled(connection, page_size=4096, auto_vacuum="none"):
    connection.execute(f"PRAGMA page_size={page_size}; PRAGMA auto_vacuum={auto_vacuum}")
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT, data BLOB)")
    connection.execute(FILL)
    return connection


def same_everywhere(config, expected):
    """Tell that an open connection, a fresh engine and an export show the expected content."""
    assert content(graft_vfs.connect("main")) == expected
    engine = reopened(config)
    again = graft_vfs.connect("main")
    assert content(again) == expected
    assert engine.info("main").pages == again.pragma("page_count")
    assert is_sound(again)
    path = config.data_dir.parent / "exported.db"
    path.unlink(missing_ok=True)
    engine.export("main", path)
    plain = stock(path)
    assert content(plain) == expected
    assert is_sound(plain)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_vacuum_shrinks_as_on_stock_sqlite_and_the_database_grows_again(
    config, connect, plain, page_size
):
    ours, theirs = filled(connect("main"), page_size), filled(plain(), page_size)
    for connection in (ours, theirs):
        connection.execute("DELETE FROM t WHERE id % 10; CREATE INDEX t_v ON t(v)")
        before = connection.pragma("page_count")
        connection.execute("VACUUM")
        assert connection.pragma("page_count") < before
    assert ours.pragma("page_count") == theirs.pragma("page_count")
    assert content(ours) == content(theirs)
    for connection in (ours, theirs):
        connection.execute(FILL.replace("zeroblob(700 + i)", "hex(zeroblob(i))"))
        connection.execute("UPDATE t SET v = v || '.'")
    assert ours.pragma("page_count") == theirs.pragma("page_count")
    same_everywhere(config, content(theirs))


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_auto_vacuum_full_shrinks_at_each_commit(config, connect, plain, page_size):
    ours = filled(connect("main"), page_size, "full")
    theirs = filled(plain(), page_size, "full")
    for statement in (
        "DELETE FROM t WHERE id > 100",
        FILL,
        "BEGIN; DELETE FROM t; ROLLBACK",
        "BEGIN; DELETE FROM t WHERE id % 3; CREATE TABLE u AS SELECT v FROM t; COMMIT",
        "DROP TABLE t",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v, data)",
        FILL,
    ):
        ours.execute(statement)
        theirs.execute(statement)
        assert ours.pragma("page_count") == theirs.pragma("page_count"), statement
        assert content(ours) == content(theirs)
    same_everywhere(config, content(theirs))


def test_incremental_vacuum_releases_the_requested_pages(config, connect, plain):
    ours = filled(connect("main"), 1024, "incremental")
    theirs = filled(plain(), 1024, "incremental")
    for statement in ("DELETE FROM t WHERE id < 300", "PRAGMA incremental_vacuum(50)", FILL):
        for connection in (ours, theirs):
            connection.execute(statement).fetchall()
        for fact in ("page_count", "freelist_count"):
            assert ours.pragma(fact) == theirs.pragma(fact)
    for connection in (ours, theirs):
        connection.execute("DELETE FROM t; PRAGMA incremental_vacuum").fetchall()
    assert ours.pragma("page_count") == theirs.pragma("page_count") < 10
    same_everywhere(config, content(theirs))


def test_a_reader_keeps_its_larger_snapshot_while_the_database_shrinks(connect):
    writer, reader = filled(connect("main"), 512, "full"), connect("main")
    reader.pragma("cache_size", 3)
    reader.execute("BEGIN; SELECT 1 FROM t").fetchall()
    size = reader.pragma("page_count")
    writer.execute("DELETE FROM t")
    writer.execute("VACUUM")
    writer.execute("INSERT INTO t VALUES(1, 'new', zeroblob(100000))")
    assert rows(reader, "SELECT count(*), count(DISTINCT v) FROM t") == [(400, 400)]
    assert reader.pragma("page_count") == size
    assert is_sound(reader)
    reader.execute("COMMIT")
    assert rows(reader, "SELECT v FROM t") == [("new",)]


def test_a_database_that_shrank_and_grew_is_equal_on_another_machine(machine, connect):
    writer = filled(connect("main"), 1024, "full")
    writer.pragma("graft_push")
    elsewhere = machine().connect(remote="main")
    for statement in ("DELETE FROM t WHERE id > 20", FILL, "DELETE FROM t", FILL):
        writer.execute(statement)
        writer.pragma("graft_push")
        elsewhere.pragma("graft_pull")
        assert content(elsewhere) == content(writer)
        assert elsewhere.pragma("page_count") == writer.pragma("page_count")
        assert is_sound(elsewhere)


@pytest.mark.parametrize("locking_mode", ["normal", "exclusive"])
@pytest.mark.parametrize(("old", "new"), [(4096, 1024), (1024, 4096), (512, 65536), (65536, 512)])
def test_vacuum_to_another_page_size_is_refused_and_changes_nothing(
    config, connect, old, new, locking_mode
):
    connection = filled(connect("main"), old)
    connection.pragma("locking_mode", locking_mode)
    expected = content(connection)
    connection.pragma("page_size", new)
    with pytest.raises(apsw.SQLError, match=f"the volume's page size is fixed at {old} bytes"):
        connection.execute("VACUUM")
    assert content(connection) == expected
    assert connection.pragma("page_size") == old
    assert is_sound(connection)
    connection.execute("INSERT INTO t(v) VALUES('after')")
    connection.execute(f"PRAGMA page_size={old}; VACUUM")
    same_everywhere(config, content(connection))
    assert graft_vfs.connect("main").pragma("page_size") == old


def test_vacuum_into_a_plain_file(connect, tmp_path):
    connection = filled(connect("main"))
    connection.execute("DELETE FROM t WHERE id % 2")
    connection.execute(f"VACUUM INTO 'file:{tmp_path}/copy.db?vfs=unix'")
    copy = stock(tmp_path / "copy.db")
    assert content(copy) == content(connection)
    assert is_sound(copy)


def test_vacuum_into_a_volume_from_stock_sqlite(config, connect, tmp_path):
    source = filled(stock(tmp_path / "plain.db"), 8192)
    source.pragma("journal_mode", "wal")
    source.execute("VACUUM INTO 'file:main?vfs=graft'")
    expected = content(source)
    assert connect("main").pragma("page_size") == 8192
    with pytest.raises(apsw.SQLError, match="already exists"):
        source.execute("VACUUM INTO 'file:main?vfs=graft'")
    same_everywhere(config, expected)


def test_vacuum_into_another_volume(connect):
    connection = filled(connect("main"), 1024)
    connection.execute("VACUUM INTO 'copy'")
    copy = connect("copy")
    assert content(copy) == content(connection)
    copy.execute("DELETE FROM t")
    assert value(connection, "SELECT count(*) FROM t") == 400


# The backup API ---------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_backup_into_a_volume(config, connect, plain, page_size, journal_mode):
    source = filled(plain(), page_size)
    source.pragma("journal_mode", journal_mode)
    target, watcher = connect("main"), connect("main")
    assert rows(watcher, "SELECT * FROM sqlite_schema") == []
    with target.backup("main", source, "main") as backup:
        while not backup.done:
            backup.step(100)
    expected = content(source)
    for connection in (target, watcher):
        assert content(connection) == expected
        connection.execute("INSERT INTO t(v) VALUES('after')")
        connection.execute("DELETE FROM t WHERE v = 'after'")
    assert target.pragma("journal_mode") == "truncate"
    same_everywhere(config, expected)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_backup_out_of_a_volume_while_it_changes(connect, plain, page_size):
    source, writer = filled(connect("main"), page_size), connect("main")
    target = plain()
    with target.backup("main", source, "main") as backup:
        backup.step(3)
        writer.execute("UPDATE t SET v = 'x' || v, data = NULL WHERE id < 50")
        backup.step(3)
        source.execute("DELETE FROM t WHERE id = 1")
        while not backup.done:
            backup.step(100)
    assert content(target) == content(source)
    assert is_sound(target)


def test_backup_over_a_volume_of_another_page_size_is_refused(config, connect, plain):
    target = filled(connect("main"), 4096)
    expected = content(target)
    source = plain()
    source.execute("PRAGMA page_size=1024; CREATE TABLE other(x)")
    backup = target.backup("main", source, "main")
    with pytest.raises(apsw.SQLError, match="the volume's page size is fixed at 4096 bytes"):
        backup.step(-1)
    backup.close(force=True)
    assert content(target) == expected
    same_everywhere(config, expected)


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_backup_over_a_volume_replaces_it_for_every_connection(
    config, connect, plain, journal_mode
):
    target, watcher = filled(connect("main")), connect("main")
    value(watcher, "SELECT count(*) FROM t")
    source = plain()
    source.pragma("journal_mode", journal_mode)
    source.execute("CREATE TABLE small(x); INSERT INTO small VALUES(1)")
    with target.backup("main", source, "main") as backup:
        backup.step(-1)
    for connection in (target, watcher):
        assert content(connection) == content(source)
        connection.execute("BEGIN; INSERT INTO small VALUES(2); ROLLBACK")
    same_everywhere(config, content(source))
