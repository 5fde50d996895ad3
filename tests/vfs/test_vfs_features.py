"""What applications use of SQLite, on a volume as on a plain file."""

from __future__ import annotations

import apsw
import pytest

import graft_vfs
from tests.support.counting import counted_calls
from tests.support.engines import reopened
from tests.support.sql import content, is_sound, rows, value


@pytest.fixture
def both(connect, plain):
    """Return a function that runs one statement on a volume and a plain file, and compares."""
    ours, theirs = connect("main"), plain()

    def run(statement, *bindings):
        found = rows(ours, statement, *bindings)
        assert found == rows(theirs, statement, *bindings)
        return found

    yield run
    assert content(ours) == content(theirs)
    assert is_sound(ours)
    assert is_sound(connect("main"))


NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})"


def test_full_text_search(both):
    both("CREATE VIRTUAL TABLE doc USING fts5(title, body)")
    both(f"{NUMBERS.format(800)} INSERT INTO doc SELECT 'title ' || i, 'word' || (i % 50) FROM n")
    assert both("SELECT count(*) FROM doc WHERE doc MATCH 'word7'") == [(16,)]
    both("DELETE FROM doc WHERE rowid % 2; UPDATE doc SET body = 'word7 again' WHERE rowid < 20")
    both("SELECT rowid, rank, snippet(doc, 1, '[', ']', '', 3) FROM doc('again') ORDER BY rank")
    both("INSERT INTO doc(doc) VALUES('optimize'); INSERT INTO doc(doc) VALUES('integrity-check')")
    both("SELECT title FROM doc('\"word7 again\"') ORDER BY rowid")


def test_r_tree(both):
    both("CREATE VIRTUAL TABLE box USING rtree(id, x0, x1, y0, y1)")
    both(f"{NUMBERS.format(900)} INSERT INTO box SELECT i, i, i + 5, i % 30, i % 30 + 2 FROM n")
    assert len(both("SELECT id FROM box WHERE x0 < 200 AND x1 > 100 AND y0 > 20 ORDER BY id")) > 9
    both("DELETE FROM box WHERE id % 3 = 0; UPDATE box SET x0 = 0 WHERE id < 100")
    both("SELECT id, x0 FROM box WHERE x0 < 1 ORDER BY id")
    assert both("SELECT rtreecheck('box')") == [("ok",)]


def test_tables_without_rowid_and_generated_columns(both):
    both(
        "CREATE TABLE w(a TEXT, b INT, c AS (b * 2) STORED, d AS (a || b), PRIMARY KEY(a, b))"
        " WITHOUT ROWID"
    )
    both("CREATE INDEX w_d ON w(d, c)")
    both(f"{NUMBERS.format(700)} INSERT INTO w SELECT 'k' || (i % 40), i FROM n")
    both("UPDATE w SET b = b + 10000 WHERE b % 7 = 0; DELETE FROM w WHERE c % 10 = 0")
    assert both("SELECT count(*), sum(c) FROM w INDEXED BY w_d WHERE d > 'k2'")


def test_triggers_foreign_keys_and_json(both, connect):
    both("PRAGMA foreign_keys=on")
    both(
        "CREATE TABLE p(id INTEGER PRIMARY KEY, j TEXT CHECK(json_valid(j)));"
        "CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE);"
        "CREATE TABLE log(n INTEGER PRIMARY KEY, what);"
        "CREATE TRIGGER c_gone AFTER DELETE ON c BEGIN INSERT INTO log(what) VALUES(old.id); END"
    )
    both(
        f"{NUMBERS.format(200)} INSERT INTO p"
        " SELECT i, json_object('n', i, 'l', json('[1]')) FROM n"
    )
    both("INSERT INTO c SELECT id * 10 + k, id FROM p, (SELECT 1 AS k UNION SELECT 2)")
    both("DELETE FROM p WHERE j ->> 'n' % 4 = 0")
    assert both("SELECT count(*) FROM log") == [(100,)]
    both("UPDATE p SET j = json_set(j, '$.l[#]', id)")
    both("SELECT sum(e.value) FROM p, json_each(p.j, '$.l') AS e")
    connection = connect("main")
    connection.execute("PRAGMA foreign_keys=on")
    with pytest.raises(apsw.ConstraintError):
        connection.execute("INSERT INTO c VALUES(1, 4)")


def test_blobs_of_megabytes_with_incremental_io(config, connect):
    connection = connect("main")
    connection.execute("CREATE TABLE b(id INTEGER PRIMARY KEY, data BLOB)")
    size = 5_000_000
    connection.execute("INSERT INTO b VALUES(1, zeroblob(?)), (2, ?)", (size, b"ab" * 1_500_000))
    with connection, connection.blob_open("main", "b", "data", 1, True) as blob:
        for at in range(0, size, 100_000):
            blob.seek(at)
            blob.write(at.to_bytes(8, "big"))
    with connection.blob_open("main", "b", "data", 2, False) as blob:
        blob.seek(2_999_990)
        assert blob.read(100) == b"ab" * 5
    connection.execute("BEGIN")
    with connection.blob_open("main", "b", "data", 1, True) as blob:
        blob.write(b"\xff" * 3_000_000)
    connection.execute("ROLLBACK")
    expected = bytearray(size)
    for at in range(0, size, 100_000):
        expected[at : at + 8] = at.to_bytes(8, "big")
    assert value(connection, "SELECT data FROM b WHERE id = 1") == expected
    reopened(config)
    again = graft_vfs.connect("main")
    assert value(again, "SELECT data FROM b WHERE id = 1") == expected
    assert is_sound(again)


def test_temporary_tables_and_big_sorts_leave_the_volume_alone(connect):
    connection = connect("main")
    connection.execute("CREATE TABLE t(x)")
    connection.execute("PRAGMA temp_store=file; PRAGMA cache_size=20; PRAGMA temp.cache_size=5")
    before = graft_vfs.register().info("main").snapshot
    with counted_calls() as calls:
        connection.execute("CREATE TEMP TABLE s(x, y)")
        connection.execute(f"{NUMBERS.format(60_000)} INSERT INTO s SELECT i, hex(i * 7919) FROM n")
        connection.execute("CREATE INDEX temp.s_y ON s(y); BEGIN; DELETE FROM s; ROLLBACK")
        assert value(connection, "SELECT count(*) FROM (SELECT y FROM s ORDER BY y || x)") == 60_000
        assert value(connection, "SELECT count(DISTINCT y || '-') FROM s") == 60_000
    assert calls["xWrite"] == 0
    assert graft_vfs.register().info("main").snapshot == before


def test_a_big_sort_of_a_volume_s_rows(both):
    both("PRAGMA cache_size=10")
    both("CREATE TABLE t(id INTEGER PRIMARY KEY, k, pad)")
    both(f"{NUMBERS.format(20_000)} INSERT INTO t SELECT i, (i * 7919) % 20011, hex(i) FROM n")
    both("CREATE INDEX t_k ON t(k DESC, pad)")
    both("SELECT group_concat(id) FROM (SELECT id FROM t ORDER BY pad, k LIMIT 500)")


def test_a_session_records_changes_and_another_volume_takes_them(connect):
    source, target = connect("source"), connect("target")
    schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)"
    for connection in (source, target):
        connection.execute(f"{schema}; INSERT INTO t VALUES(1, 'a'), (2, 'b')")
    session = apsw.Session(source, "main")
    session.attach()
    source.execute("UPDATE t SET v = 'A' WHERE id = 1; DELETE FROM t WHERE id = 2")
    source.execute("INSERT INTO t VALUES(3, 'c')")
    apsw.Changeset.apply(session.changeset(), target)
    session.close()
    assert content(target) == content(source)


def test_a_diff_between_two_attached_volumes_is_a_changeset(connect):
    source, target = connect("source"), connect("target")
    for connection, values in ((target, "(1, 'a'), (2, 'b')"), (source, "(1, 'a'), (2, 'c')")):
        connection.execute(
            f"CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES {values}"
        )
    source.execute("ATTACH 'target' AS base")
    session = apsw.Session(source, "main")
    session.attach()
    session.diff("base", "t")
    changes = session.changeset()
    session.close()
    source.execute("DETACH base")
    apsw.Changeset.apply(changes, target)
    assert content(target) == content(source)


def test_deserialised_and_memory_databases_do_not_use_the_vfs(connect):
    source = connect("main")
    source.execute("CREATE TABLE t(x); INSERT INTO t VALUES(7)")
    image = source.serialize("main")
    memory = apsw.Connection(":memory:")
    memory.deserialize("main", image)
    assert rows(memory, "SELECT x FROM t") == [(7,)]
    memory.execute("INSERT INTO t VALUES(8)")
    assert rows(source, "SELECT x FROM t") == [(7,)]
