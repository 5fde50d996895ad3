"""Diff of two snapshots, against counting in Python, and what it need not read."""

from __future__ import annotations

import contextlib
import random

import apsw
import pytest

import graft_vfs
from graft_vfs import Config, Graft, RemoteConfig
from graft_vfs.errors import CorruptObjectError, NotFoundError, UsageError
from graft_vfs.history import key_ranges
from graft_vfs.reports import Change, Diff


class Database:
    """The tag main of a registered engine, which pushes to a directory."""

    def __init__(self, root) -> None:
        self.root = root
        self.open("a")

    def open(self, machine: str) -> None:
        graft_vfs.unregister()
        remote = RemoteConfig(type="fs", root=str(self.root / "remote"))
        self.engine = graft_vfs.register(Config(data_dir=self.root / machine, remote=remote))

    def run(self, *statements: str) -> None:
        connection = graft_vfs.connect("main")
        for statement in statements:
            connection.execute(statement).fetchall()
        connection.close()

    def rows(self, table: str, lsn: int | None = None) -> dict[object, tuple[object, ...]]:
        """Return the rows of a table by key, as of a remote LSN or now."""
        name = "main" if lsn is None else graft_vfs.uri("main", lsn=str(lsn))
        connection = graft_vfs.connect(name)
        key = "k" if table == "keyed" else "rowid"
        found = {row[0]: row for row in connection.execute(f"SELECT {key}, * FROM {table}")}
        connection.close()
        return found

    def diff(self, older: str | None = None, newer: str | None = None) -> Diff:
        return self.engine.diff("main", older, newer)

    def counts(self, *commits: str) -> dict[str, tuple[int | None, ...]]:
        found = self.diff(*commits)
        return {item.table: (item.inserted, item.deleted, item.updated) for item in found.tables}


@pytest.fixture
def database(tmp_path):
    yield Database(tmp_path)
    graft_vfs.unregister()


def expected(older, newer) -> tuple[int, int, int]:
    updated = sum(1 for key in older.keys() & newer.keys() if older[key] != newer[key])
    return len(newer.keys() - older.keys()), len(older.keys() - newer.keys()), updated


TABLES = ("plain", "long", "keyed")
CREATE = (
    "CREATE TABLE plain(id INTEGER PRIMARY KEY, v, w)",
    "CREATE INDEX plain_by_v ON plain(v)",
    "CREATE TABLE long(v)",
    "CREATE TABLE keyed(k TEXT PRIMARY KEY, v) WITHOUT ROWID",
)


def statement(draw: random.Random, table: str) -> str:
    """Return a random change of a table."""
    first = draw.randrange(600)
    bounds = f"BETWEEN {first} AND {first + draw.choice((0, 0, 3, 40))}"
    # Values as long as before overwrite overflow pages in place, which leaves do not show.
    size = draw.choice((1, 300)) if table == "plain" else draw.choice((10, 1500, 1500))
    value = f"CAST(zeroblob({size - 1}) AS BLOB) || '{draw.choice('abcd')}'"
    key = "CAST(k AS INTEGER)" if table == "keyed" else "rowid"
    kind = draw.random()
    if kind < 0.2:
        return f"DELETE FROM {table} WHERE {key} {bounds}"
    if kind < 0.6:
        return f"UPDATE {table} SET v = {value} WHERE {key} {bounds}"
    column = "k" if table == "keyed" else "rowid"
    return (
        f"WITH RECURSIVE n(i) AS (VALUES({first}) UNION ALL SELECT i + 1 FROM n LIMIT 20) "
        f"INSERT OR IGNORE INTO {table}({column}, v) SELECT i, {value} FROM n"
    )


@pytest.mark.parametrize("is_walked", [True, False])
@pytest.mark.parametrize("auto_vacuum", ["none", "full"])
@pytest.mark.parametrize("seed", range(3))
def test_the_counts_equal_those_of_comparing_all_rows(
    database, seed, auto_vacuum, is_walked, monkeypatch
):
    monkeypatch.setattr(key_ranges, "PAGES_PER_CHANGE", 1 << 30 if is_walked else 0)
    draw = random.Random(f"{seed} {auto_vacuum}")
    database.run("PRAGMA page_size=512", f"PRAGMA auto_vacuum={auto_vacuum}", *CREATE)
    with_pages = 0
    for _ in range(6):
        for _ in range(3):
            database.run(*(statement(draw, table) for table in TABLES if draw.random() < 0.5))
        database.engine.push("main")
    newest = database.engine.status("main").base_lsn
    database.run(statement(draw, "plain"))
    for _ in range(12):
        older, newer = (draw.choice((*range(1, newest + 1), None)) for _ in range(2))
        found = database.diff(*("head" if lsn is None else str(lsn) for lsn in (older, newer)))
        with_pages += found.by_pages
        counts = {item.table: (item.inserted, item.deleted, item.updated) for item in found.tables}
        for table in TABLES:
            wanted = expected(database.rows(table, older), database.rows(table, newer))
            assert counts.get(table, (0, 0, 0)) == wanted, (table, older, newer, found)
        assert found.schema == ()
    assert with_pages


def test_a_change_of_only_an_overflow_page_is_detected(database):
    database.run(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)",
        "INSERT INTO t VALUES(1, zeroblob(100000)), (2, zeroblob(100000))",
    )
    database.engine.push("main")
    connection = graft_vfs.connect("main")
    with connection.blob_open("main", "t", "v", 2, True) as blob:
        blob.seek(90_000)
        blob.write(b"changed")
    connection.close()
    found = database.diff()
    assert found.pages_changed < 5
    assert not found.by_pages
    assert database.counts() == {"t": (0, 0, 1)}


def test_by_default_a_diff_shows_what_a_push_would_publish(database):
    database.run(*CREATE)
    database.engine.push("main")
    assert (database.diff().tables, database.diff().schema) == ((), ())
    database.run("INSERT INTO plain(v) VALUES(1), (2)", "INSERT INTO keyed VALUES('a', 1)")
    assert database.counts() == {"plain": (2, 0, 0), "keyed": (1, 0, 0)}
    assert database.diff().newer == "head"
    database.engine.push("main")
    assert database.counts() == {}
    assert database.counts("1", "2") == {"plain": (2, 0, 0), "keyed": (1, 0, 0)}
    assert database.counts("2", "1") == {"plain": (0, 2, 0), "keyed": (0, 1, 0)}


def test_all_of_a_volume_without_a_base_is_new(database):
    database.engine.new("main")
    assert str(database.diff()).splitlines()[0] == "From nothing to head:"
    database.run("PRAGMA encoding='UTF-16le'", *CREATE, "INSERT INTO plain(v) VALUES('ü')")
    found = database.diff()
    assert (found.older, found.tables[0].inserted) == ("nothing", 1)
    assert {item.name for item in found.schema} == {"plain", "plain_by_v", "long", "keyed"}


def test_a_diff_lists_added_dropped_and_changed_schema_objects(database):
    database.run(
        *CREATE,
        "CREATE VIEW old AS SELECT 1",
        "CREATE TABLE gone(x)",
        "INSERT INTO gone VALUES(1), (2)",
        "INSERT INTO plain(v) VALUES(1), (2)",
    )
    database.engine.push("main")
    database.run(
        "DROP VIEW old",
        "DROP TABLE gone",
        "ALTER TABLE plain ADD COLUMN more DEFAULT 5",
        "UPDATE plain SET more = 6, v = 9 WHERE id = 2",
        "CREATE TABLE fresh(y)",
        "INSERT INTO fresh VALUES(1)",
    )
    found = database.diff()
    assert {(item.kind, item.name, item.change) for item in found.schema} == {
        ("view", "old", Change.DROPPED),
        ("table", "gone", Change.DROPPED),
        ("table", "plain", Change.CHANGED),
        ("table", "fresh", Change.ADDED),
    }
    assert database.counts() == {"gone": (0, 2, 0), "plain": (0, 0, 1), "fresh": (1, 0, 0)}
    assert "table plain: changed" in str(found)
    assert "rows of plain: 0 inserted, 0 deleted, 1 updated" in str(found)


def test_swapped_column_names_change_unwritten_rows(database):
    database.run("CREATE TABLE t(a, b)", "INSERT INTO t VALUES(1, 2), (3, 3)")
    database.engine.push("main")
    database.run(
        "ALTER TABLE t RENAME COLUMN a TO c",
        "ALTER TABLE t RENAME COLUMN b TO a",
        "ALTER TABLE t RENAME COLUMN c TO b",
    )
    assert database.counts() == {"t": (0, 0, 1)}


def test_a_table_with_another_key_has_other_rows(database):
    database.run("CREATE TABLE t(k INTEGER PRIMARY KEY, v)", "INSERT INTO t VALUES(1, 1), (2, 2)")
    database.engine.push("main")
    database.run(
        "DROP TABLE t",
        "CREATE TABLE t(k, v PRIMARY KEY) WITHOUT ROWID",
        "INSERT INTO t VALUES(1, 1)",
    )
    assert database.counts() == {"t": (1, 2, 0)}


def test_a_value_that_changes_its_type_or_its_case_is_an_update(database):
    database.run(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v COLLATE NOCASE)",
        "INSERT INTO t VALUES(1, 'a'), (2, 1), (3, NULL), (4, 'same')",
    )
    database.engine.push("main")
    database.run(
        "UPDATE t SET v = CASE id WHEN 1 THEN 'A' WHEN 2 THEN 1.0 WHEN 3 THEN '' END WHERE id < 4"
    )
    assert database.counts() == {"t": (0, 0, 3)}


def test_names_are_quoted_and_never_executed(database):
    database.run(
        'CREATE TABLE "a""; DROP TABLE b; --"("rowid", "o""id", oid)',
        'INSERT INTO "a""; DROP TABLE b; --" VALUES(1, 2, 3)',
        "CREATE TABLE hidden(rowid, oid, _rowid_)",
    )
    database.engine.push("main")
    database.run(
        'UPDATE "a""; DROP TABLE b; --" SET "o""id" = 7', "INSERT INTO hidden VALUES(1,2,3)"
    )
    found = {item.table: item for item in database.diff().tables}
    assert found['a"; DROP TABLE b; --'].updated == 1
    assert found["hidden"].note is not None
    assert "not compared" in str(found["hidden"])


def test_a_column_named_like_the_rowid_does_not_make_all_rows_new(database):
    database.run("CREATE TABLE t(v)", "INSERT INTO t VALUES(1), (2)")
    database.engine.push("main")
    database.run("DROP TABLE t", "CREATE TABLE t(v, rowid)", "INSERT INTO t VALUES(5, 1), (2, 2)")
    assert database.counts() == {"t": (0, 0, 1)}


def test_a_table_of_many_columns_can_be_compared(database):
    columns = ", ".join(f"c{number}" for number in range(1900))
    database.run(f"CREATE TABLE t({columns})", "INSERT INTO t(c0) VALUES(1), (2)")
    database.engine.push("main")
    database.run("UPDATE t SET c1899 = 1 WHERE c0 = 2")
    assert database.counts() == {"t": (0, 0, 1)}


def test_an_unknown_collation_excludes_only_its_table(database):
    connection = graft_vfs.connect("main")
    connection.create_collation("mine", lambda one, other: (one > other) - (one < other))
    connection.execute(
        "CREATE TABLE t(k TEXT COLLATE mine PRIMARY KEY, v) WITHOUT ROWID;"
        "CREATE TABLE u(x); INSERT INTO t VALUES('a', 1)"
    )
    connection.close()
    database.engine.push("main")
    connection = graft_vfs.connect("main")
    connection.create_collation("mine", lambda one, other: (one > other) - (one < other))
    connection.execute("UPDATE t SET v = 2; INSERT INTO u VALUES(1)")
    connection.close()
    found = {item.table: item for item in database.diff().tables}
    assert "mine" in (found["t"].note or "")
    assert found["u"].inserted == 1


def test_a_small_change_of_a_large_cold_table_reads_little(database):
    database.run(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v)",
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n LIMIT 40000) "
        "INSERT INTO t SELECT i, hex(randomblob(100)) FROM n",
    )
    database.engine.push("main")
    database.run("UPDATE t SET v = 'x' WHERE id IN (5, 20000)", "DELETE FROM t WHERE id = 30000")
    database.engine.push("main")
    database.open("b")
    database.engine.clone("main", "main")
    before = database.engine.store.counters.snapshot()
    found = database.diff("1", "2")
    used = database.engine.store.counters.snapshot() - before
    assert found.by_pages
    assert [(t.inserted, t.deleted, t.updated) for t in found.tables] == [(0, 1, 2)]
    assert used.requests < 30
    assert used.bytes_received < 1_500_000


def test_progress_counts_key_ranges(database):
    database.run(*CREATE, "INSERT INTO plain(v) VALUES(1)")
    calls = []
    database.engine.diff("main", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_absent_commits_are_named(database):
    database.run(*CREATE)
    database.engine.push("main")
    with pytest.raises(NotFoundError):
        database.diff("1", "2")
    with pytest.raises(UsageError, match="names no commit"):
        database.diff("yesterday")


def test_an_engine_that_is_not_registered_can_diff(tmp_path):
    data, sqlite = Config(data_dir=tmp_path / "data"), tmp_path / "plain.db"
    plain = apsw.Connection(str(sqlite))
    plain.execute("CREATE TABLE t(a); INSERT INTO t VALUES(1), (2)")
    plain.close()
    with contextlib.closing(Graft(data)) as engine:
        engine.import_(sqlite, "main")
        (table,) = engine.diff("main").tables
    assert (table.table, table.inserted) == ("t", 2)


def test_a_log_and_its_fork_can_be_compared(database):
    database.run(*CREATE, "INSERT INTO plain(v) VALUES(1)")
    database.engine.push("main")
    log = database.engine.info("main").remote
    database.engine.fork("main")
    database.run("INSERT INTO plain(v) VALUES(2)")
    database.engine.push("main", name="fork")
    found = database.diff(f"{log}:1", "1")
    assert [(item.table, item.inserted) for item in found.tables] == [("plain", 1)]
    assert found.by_pages


def test_page_sizes_may_differ_between_logs(database):
    database.run("PRAGMA page_size=1024", *CREATE, "INSERT INTO plain(v) VALUES(1), (2)")
    database.engine.push("main")
    log = database.engine.info("main").remote
    database.engine.new("main")
    database.run("PRAGMA page_size=8192", *CREATE, "INSERT INTO plain(v) VALUES(1)")
    database.engine.push("main", name="larger")
    found = database.diff(f"{log}:1", "1")
    assert not found.by_pages
    assert [(item.table, item.deleted) for item in found.tables] == [("plain", 1)]


# Pages that are no tree -------------------------------------------------------------------------


def overwrite(database: Database, page: int, at: int, data: bytes) -> None:
    """Change bytes of a page, as a program that knows no SQLite could, and push."""
    volume = database.engine.open("main")
    with volume.writing() as snapshot:
        image = bytearray(snapshot.stored(page))
        image[at : at + len(data)] = data
        volume.write_pages(snapshot, [(page, bytes(image))], page_count=snapshot.page_count)


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (8, b"\0\0\0\2"),  # The root is one of its children,
        (3, b"\0\0\0\0\0\0\0\0\2"),  # or its only child.
        (8, b"\xff\xff\xff\xff"),
        (8, b"\0\0\0\0"),
        (3, b"\xff\xff"),
        (12, b"\xff\xff"),
        (0, b"\7"),
    ],
)
def test_a_page_outside_any_tree_is_an_error_and_no_hang(database, at, data):
    database.run(
        "PRAGMA page_size=512",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v)",
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n LIMIT 3000) "
        "INSERT INTO t SELECT i, 'text' FROM n",
    )
    database.engine.push("main")
    overwrite(database, 2, at, data)
    with pytest.raises(CorruptObjectError, match="SQLite cannot read"):
        database.diff()


def test_a_cyclic_freelist_does_not_hang(database):
    database.run("CREATE TABLE t(v)", "INSERT INTO t VALUES(zeroblob(100000))")
    database.engine.push("main")
    database.run("DELETE FROM t")
    assert database.diff().by_pages
    trunk = int.from_bytes(database.engine.open("main").begin().stored(1)[32:36], "big")
    assert trunk
    overwrite(database, trunk, 0, trunk.to_bytes(4, "big"))
    assert not database.diff().by_pages
