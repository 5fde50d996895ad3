"""Several databases in one connection: volumes, and plain files beside them."""

from __future__ import annotations

import apsw
import pytest

import graft_vfs
from tests.support.engines import reopened
from tests.support.sql import content, is_sound, rows, stock, value


@pytest.fixture
def pair(connect):
    connection = connect("one")
    connection.execute("ATTACH 'file:two?vfs=graft' AS two")
    connection.execute("CREATE TABLE main.a(x); CREATE TABLE two.b(x)")
    return connection


@pytest.mark.parametrize("journal_mode", ["delete", "truncate", "persist", "memory"])
def test_a_transaction_over_two_volumes_commits_and_rolls_back_both(config, pair, journal_mode):
    pair.execute(f"PRAGMA journal_mode={journal_mode}").fetchall()
    pair.execute(f"PRAGMA two.journal_mode={journal_mode}").fetchall()
    pair.execute("BEGIN; INSERT INTO a VALUES(1), (2); INSERT INTO b SELECT x + 10 FROM a; COMMIT")
    pair.execute("BEGIN; DELETE FROM a; UPDATE b SET x = 0; CREATE TABLE two.c(x); ROLLBACK")
    assert rows(pair, "SELECT x FROM a UNION ALL SELECT x FROM b") == [(1,), (2,), (11,), (12,)]
    with pytest.raises(apsw.ConstraintError):
        pair.execute(
            "CREATE UNIQUE INDEX two.b_x ON b(x); BEGIN; INSERT INTO a VALUES(3);"
            "INSERT INTO b VALUES(13), (11)"
        )
    pair.execute("COMMIT")
    reopened(config)
    one, two = graft_vfs.connect("one"), graft_vfs.connect("two")
    assert rows(one, "SELECT x FROM a") == [(1,), (2,), (3,)]
    assert rows(two, "SELECT x FROM b ORDER BY x") == [(11,), (12,)]
    assert rows(two, "SELECT name FROM sqlite_schema WHERE type = 'table'") == [("b",)]
    assert is_sound(one)
    assert is_sound(two)


def test_a_large_transaction_over_two_volumes_rolls_back(pair):
    pair.execute("PRAGMA main.cache_size=5; PRAGMA two.cache_size=5").fetchall()
    fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)"
    pair.execute(f"{fill} INSERT INTO a SELECT zeroblob(500) FROM n")
    pair.execute(f"{fill} INSERT INTO b SELECT i FROM n")
    before = content(pair), content(pair, "two")
    pair.execute("BEGIN; UPDATE a SET x = 1; UPDATE b SET x = randomblob(400); ROLLBACK")
    assert (content(pair), content(pair, "two")) == before
    pair.execute("BEGIN; UPDATE a SET x = 1; UPDATE b SET x = zeroblob(400); COMMIT")
    assert rows(pair, "SELECT sum(a.x), sum(length(b.x)) FROM a JOIN b ON a.rowid = b.rowid") == [
        (3000, 1_200_000)
    ]


def test_one_volume_attached_twice_by_two_connections(pair, connect):
    other = connect("two")
    pair.execute("BEGIN IMMEDIATE; INSERT INTO b VALUES(1)")
    with pytest.raises(apsw.BusyError):
        other.execute("INSERT INTO b VALUES(2)")
    pair.execute("COMMIT")
    other.execute("INSERT INTO b VALUES(2)")
    assert value(pair, "SELECT sum(x) FROM two.b") == 3


def test_pragmas_of_an_attached_volume_apply_to_it(pair):
    assert rows(pair, "PRAGMA two.graft_status")[0][0].startswith("On tag two")
    assert rows(pair, "PRAGMA graft_status")[0][0].startswith("On tag one")


def test_copying_between_a_volume_and_an_attached_plain_file(pair, tmp_path):
    path = tmp_path / "plain.db"
    pair.execute(f"ATTACH 'file:{path}?vfs=unix' AS plain")
    pair.execute("INSERT INTO a VALUES(1), (2)")
    pair.execute("CREATE TABLE plain.p AS SELECT x FROM a")
    pair.execute("INSERT INTO two.b SELECT x * 100 FROM plain.p")
    pair.execute("BEGIN; INSERT INTO plain.p VALUES(9); ROLLBACK")
    pair.execute("DETACH plain")
    assert rows(stock(path), "SELECT x FROM p") == [(1,), (2,)]
    assert rows(pair, "SELECT x FROM b") == [(100,), (200,)]


def test_a_transaction_that_a_crash_could_tear_is_refused(pair, tmp_path):
    # The plain file's journal would name a super-journal that is only in memory.
    path = tmp_path / "plain.db"
    pair.execute(f"ATTACH 'file:{path}?vfs=unix' AS plain; CREATE TABLE plain.p(x)")
    with pytest.raises(apsw.IOError, match="set its journal_mode to WAL"):
        pair.execute("BEGIN; INSERT INTO a VALUES(1); INSERT INTO plain.p VALUES(1); COMMIT")
    assert not pair.in_transaction
    assert rows(pair, "SELECT x FROM a UNION ALL SELECT x FROM p") == []
    assert rows(pair, "PRAGMA plain.journal_mode=wal") == [("wal",)]
    pair.execute("BEGIN; INSERT INTO a VALUES(1); INSERT INTO plain.p VALUES(2); COMMIT")
    assert rows(pair, "SELECT x FROM a UNION ALL SELECT x FROM p") == [(1,), (2,)]


def test_two_plain_files_below_a_volume_keep_no_super_journal_in_memory(pair, tmp_path):
    for name in ("p", "q"):
        pair.execute(
            f"ATTACH 'file:{tmp_path}/{name}.db?vfs=unix' AS {name}; CREATE TABLE {name}.t(x)"
        )
    with pytest.raises(apsw.IOError, match="would not survive a crash"):
        pair.execute("BEGIN; INSERT INTO p.t VALUES(1); INSERT INTO q.t VALUES(1); COMMIT")
    assert rows(pair, "SELECT x FROM p.t UNION ALL SELECT x FROM q.t") == []


def test_volumes_attached_to_a_plain_main_database(engine, connect, tmp_path):
    connection = stock(tmp_path / "plain.db")
    connection.execute(
        "CREATE TABLE p(x); ATTACH 'file:one?vfs=graft' AS one; CREATE TABLE one.a(x)"
    )
    connection.execute("BEGIN; INSERT INTO p VALUES(1); INSERT INTO a VALUES(2); COMMIT")
    connection.execute("BEGIN; INSERT INTO p VALUES(3); INSERT INTO a VALUES(4); ROLLBACK")
    assert rows(connection, "SELECT x FROM p UNION ALL SELECT x FROM a") == [(1,), (2,)]
    connection.close()
    assert rows(connect("one"), "SELECT x FROM a") == [(2,)]
    assert [path.name for path in tmp_path.glob("*-mj*")] == []


def test_wal_of_a_plain_main_database_does_not_reach_an_attached_volume(
    engine, connect, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    connection = stock(tmp_path / "plain.db")
    connection.execute("ATTACH 'file:one?vfs=graft' AS one; CREATE TABLE one.a(x)")
    connection.execute("INSERT INTO one.a VALUES(1)")
    connection.execute("PRAGMA locking_mode=exclusive").fetchall()
    rows(connection, "PRAGMA journal_mode=wal")
    # Without an error SQLite would keep the volume's changes in a WAL in the working directory.
    with pytest.raises(apsw.CantOpenError):
        connection.execute("INSERT INTO one.a VALUES(2)")
    connection.close()
    other = connect("one")
    assert rows(other, "SELECT x FROM a") == [(1,)]
    other.execute("INSERT INTO a VALUES(3)")
    assert is_sound(other)
    assert not list(tmp_path.glob("one*"))


def test_an_attached_volume_takes_its_own_page_size(connect, tmp_path):
    connection = connect("small")
    connection.execute("PRAGMA page_size=512; CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    connection.execute("ATTACH 'file:large?vfs=graft' AS large; PRAGMA large.page_size=65536")
    connection.execute("CREATE TABLE large.t AS SELECT * FROM main.t")
    assert rows(connection, "PRAGMA large.page_size") == [(65536,)]
    assert rows(connection, "PRAGMA main.page_size") == [(512,)]
    assert rows(connect("large"), "SELECT x FROM t") == [(1,)]
