"""Rows that differ: which, with what values, and in memory for one of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

import graft_vfs
from graft_vfs import Config, RemoteConfig
from graft_vfs.errors import CorruptObjectError
from graft_vfs.history.rows import NotCompared, RawText, RowChange
from graft_vfs.reports import Change, SchemaDiff


class Database:
    """The tag main of a registered engine."""

    def __init__(self, root) -> None:
        remote = RemoteConfig(type="fs", root=str(root / "remote"))
        self.engine = graft_vfs.register(Config(data_dir=root / "data", remote=remote))

    def run(self, *statements: str) -> None:
        connection = graft_vfs.connect("main")
        for statement in statements:
            connection.execute(statement).fetchall()
        connection.close()

    def push(self, *statements: str) -> None:
        self.run(*statements)
        self.engine.push("main")

    def changes(self, *commits: str) -> list[SchemaDiff | RowChange | NotCompared]:
        with contextlib.closing(self.engine.diff_rows("main", *commits)) as found:
            return list(found)


@pytest.fixture
def database(tmp_path) -> Iterator[Database]:
    yield Database(tmp_path)
    graft_vfs.unregister()


def test_rows_come_by_key_with_what_they_were_and_are(database):
    database.push("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)")
    database.push("INSERT INTO t VALUES(1, 'x', 1), (2, 'y', 2), (3, 'z', 3)")
    database.run("DELETE FROM t WHERE id = 1", "UPDATE t SET b = 2.0 WHERE id = 2")
    database.run("INSERT INTO t VALUES(0, x'00', NULL)")
    inserted, deleted, updated = database.changes()
    assert inserted == RowChange("t", {"id": 0}, None, {"id": 0, "a": b"\0", "b": None})
    assert deleted == RowChange("t", {"id": 1}, {"id": 1, "a": "x", "b": 1}, None)
    assert updated.key == {"id": 2}
    assert [inserted.change, deleted.change, updated.change] == ["inserted", "deleted", "updated"]
    assert updated.changed_columns() == ["b"]
    assert (updated.older["b"], updated.newer["b"]) == (2, 2.0)
    assert [type(side["b"]) for side in (updated.older, updated.newer)] == [int, float]
    again = database.changes("head", "1")
    assert [row.change for row in again if isinstance(row, RowChange)] == ["deleted"] * 3


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("t(a, b)", {"rowid": 1}),
        ("t(a TEXT PRIMARY KEY, b)", {"rowid": 1}),
        ("t(rowid TEXT, a, b)", {"oid": 1}),
        ("t(a INTEGER PRIMARY KEY DESC, b)", {"rowid": 1}),
        ("t(a INTEGER PRIMARY KEY, b)", {"a": 5}),
        ("t(a, b, PRIMARY KEY(b, a)) WITHOUT ROWID", {"b": "v", "a": 5}),
    ],
)
def test_a_row_is_named_by_what_tells_it_apart(database, table, key):
    database.push(f"CREATE TABLE {table}")
    database.run("INSERT INTO t(a, b) VALUES(5, 'v')")
    (found,) = database.changes()
    assert found.key == key


def test_text_that_is_none_is_its_bytes(database):
    database.push("CREATE TABLE t(a)")
    database.run("INSERT INTO t VALUES(CAST(x'61ff' AS TEXT)), ('a' || char(0))")
    assert [found.newer["a"] for found in database.changes()] == [RawText(b"a\xff"), "a\0"]


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_other_encodings_are_read_as_text(database, encoding):
    database.push(f"PRAGMA encoding='{encoding}'", "CREATE TABLE t(a)")
    database.run("INSERT INTO t VALUES('ü€')")
    (found,) = database.changes()
    assert found.newer == {"a": "ü€"}


def test_the_schema_comes_first_and_a_table_that_cannot_be_compared_is_named(database):
    database.push("CREATE TABLE hidden(rowid, oid, _rowid_)", "INSERT INTO hidden VALUES(1, 2, 3)")
    database.run("UPDATE hidden SET oid = 5", "CREATE INDEX i ON hidden(oid)")
    assert database.changes() == [
        SchemaDiff("index", "i", Change.ADDED),
        NotCompared("hidden", "its columns hide every name of the rowid"),
    ]


def test_a_table_that_did_not_change_needs_no_key(database):
    database.push("CREATE TABLE hidden(rowid, oid, _rowid_)", "INSERT INTO hidden VALUES(1, 2, 3)")
    database.run("CREATE TABLE t(a)", "INSERT INTO t VALUES(1)")
    assert not [each for each in database.changes() if isinstance(each, NotCompared)]
    assert [item.table for item in database.engine.diff("main").tables] == ["t"]
    assert "COMMIT;" in list(database.engine.diff_sql("main"))


def test_a_table_with_another_key_has_other_rows(database):
    database.push("CREATE TABLE t(a PRIMARY KEY, b) WITHOUT ROWID", "INSERT INTO t VALUES(1, 2)")
    database.run("DROP TABLE t", "CREATE TABLE t(a, b)", "INSERT INTO t VALUES(1, 2)")
    _, deleted, inserted = database.changes()
    assert (deleted.change, deleted.key) == ("deleted", {"a": 1})
    assert (inserted.change, inserted.key) == ("inserted", {"rowid": 1})


def test_a_table_of_many_columns_has_rows(database):
    names = ", ".join(f"c{number}" for number in range(900))
    database.push(f"CREATE TABLE t({names})", "INSERT INTO t(c1) VALUES(1)")
    database.run("UPDATE t SET c899 = 'new'")
    (found,) = database.changes()
    assert found.changed_columns() == ["c899"]


def test_the_rows_are_as_many_as_the_diff_counts(database):
    database.push(
        "CREATE TABLE t(a, b)",
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n LIMIT 3000) "
        "INSERT INTO t SELECT i, hex(randomblob(40)) FROM n",
    )
    database.run(
        "DELETE FROM t WHERE rowid % 700 = 3",
        "UPDATE t SET b = 'new' WHERE rowid % 800 = 5",
        "INSERT INTO t VALUES(0, 0)",
    )
    (counts,) = database.engine.diff("main").tables
    kinds = [found.change for found in database.changes()]
    assert [kinds.count(kind) for kind in ("inserted", "deleted", "updated")] == [
        counts.inserted,
        counts.deleted,
        counts.updated,
    ]


def test_an_iterator_that_is_closed_early_leaves_nothing_open(database):
    database.push("CREATE TABLE t(a)")
    database.run("INSERT INTO t VALUES(1), (2)")
    found = database.engine.diff_rows("main")
    next(found)
    volume = database.engine.open("main")
    assert volume.pins
    found.close()
    assert not volume.pins


def test_a_schema_that_cannot_be_parsed_is_an_error(database):
    database.push("CREATE TABLE t(a)")
    database.run("PRAGMA writable_schema=ON", "UPDATE sqlite_schema SET sql = 'nonsense'")
    with pytest.raises(CorruptObjectError, match="malformed database schema"):
        database.changes()
