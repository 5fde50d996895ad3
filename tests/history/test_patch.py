"""A diff as SQL: applied to the older state, stock SQLite has the newer one, bit for bit."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import graft_vfs
from graft_vfs import Config, RemoteConfig
from graft_vfs.errors import UsageError
from graft_vfs.history.patch import Literals, _exact
from graft_vfs.history.rows import RawText


class Database:
    """Volumes of a registered engine, one a tag, each with the state of its last push as a file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        remote = RemoteConfig(type="fs", root=str(root / "remote"))
        self.engine = graft_vfs.register(Config(data_dir=root / "data", remote=remote))
        self.tag = ""
        self._count = 0

    def start(self, *statements: str) -> None:
        """Make a new volume and run statements in it."""
        self._count += 1
        self.tag = f"tag{self._count}"
        self.run(*statements)

    def run(self, *statements: str | tuple[str, tuple[object, ...]]) -> None:
        connection = graft_vfs.connect(self.tag)
        for each in statements:
            sql, values = (each, ()) if isinstance(each, str) else each
            connection.execute(sql, values).fetchall()
        connection.close()

    def push(self) -> None:
        """Push, and keep the state as a file."""
        self.engine.push(self.tag)
        self.engine.export(self.tag, self.file("older"))

    def file(self, name: str) -> Path:
        return self.root / f"{self.tag} {name}.db"

    def patch(self) -> list[str]:
        with contextlib.closing(self.engine.diff_sql(self.tag)) as lines:
            return list(lines)

    def check(self) -> list[str]:
        """Apply the patch in two ways, and compare with the state now; returns its lines."""
        lines = self.patch()
        newer, patched = self.file("newer"), self.file("patched")
        self.engine.export(self.tag, newer)
        shutil.copy(self.file("older"), patched)
        with contextlib.closing(sqlite3.connect(patched)) as connection:
            # Whatever a program has set, the patch does not depend on it.
            connection.execute("PRAGMA foreign_keys=ON")
            connection.executescript("\n".join(lines))
        wanted = state(newer)
        assert state(patched) == wanted
        shell = shutil.which("sqlite3")
        if shell is not None:
            shutil.copy(self.file("older"), patched)
            script = "\n".join(lines).encode()
            done = subprocess.run(
                [shell, "-bail", patched], input=script, capture_output=True, check=False
            )
            assert (done.returncode, done.stderr) == (0, b"")
            assert state(patched) == wanted
        for path in (newer, patched):
            path.unlink()
        return lines


def state(path: Path) -> object:
    """Return all that a database says: its schema, and each row with its key, classes and bytes."""
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        assert connection.execute("PRAGMA integrity_check").get == "ok"
        schema = connection.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY 1, 2"
        ).fetchall()
        rows = {}
        for name, without_rowid in connection.execute(
            "SELECT name, wr FROM pragma_table_list "
            "WHERE schema = 'main' AND type IN ('table', 'shadow')"
        ).fetchall():
            if name == "sqlite_schema":
                continue
            quoted = '"' + name.replace('"', '""') + '"'
            columns = [
                '"' + column.replace('"', '""') + '"'
                for (column,) in connection.execute(
                    "SELECT name FROM pragma_table_xinfo(?)", (name,)
                )
            ]
            read = [f"typeof({c}), hex(CAST({c} AS BLOB)), hex(quote({c}))" for c in columns]
            if not without_rowid and name != "sqlite_sequence":
                read.insert(0, "_rowid_")
            found = connection.execute(f"SELECT {', '.join(read)} FROM {quoted}").fetchall()
            rows[name] = sorted(found)
        numbers = [connection.pragma(name) for name in ("user_version", "application_id")]
        return schema, rows, numbers


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Iterator[Database]:
    yield Database(tmp_path_factory.mktemp("patch"))
    graft_vfs.unregister()


# Rows -------------------------------------------------------------------------------------------

TABLES = {
    "plain": "(a, b)",
    "numbered": "(a INTEGER PRIMARY KEY, b)",
    "descending": "(a INTEGER PRIMARY KEY DESC, b)",
    "counted": "(a INTEGER PRIMARY KEY AUTOINCREMENT, b)",
    "unique_pair": "(a UNIQUE, b UNIQUE)",
    "text_key": "(a TEXT PRIMARY KEY, b REAL)",
    "keyed": "(a, b, c DEFAULT 7, PRIMARY KEY(a, b)) WITHOUT ROWID",
    "folded": "(a TEXT COLLATE NOCASE PRIMARY KEY, b) WITHOUT ROWID",
    "made": "(a, b NUMERIC, c AS (typeof(a) || typeof(b)) STORED, d AS (typeof(b)))",
    "od\"d ,name's": '(a, b, "sel ect;")',
    "rowid_taken": "(rowid TEXT, a, b)",
    "strictly": "(a ANY, b BLOB) STRICT",
}
VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-3, 3),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(
        [
            "",
            "a",
            "A",
            "it's",
            "two\nlines",
            "cr\r\n",
            "\0",
            "a\0b",
            "\x1b[2J",
            "\x85",
            "a\n.quit\n",
            "\ngo\n/\n",
        ]
    ),
    st.binary(max_size=8),
)
KEYS = st.one_of(VALUES, st.integers(0, 5), st.sampled_from(["a", "A", "b"]))
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "insert", "update", "swap", "delete"]),
        st.sampled_from(sorted(TABLES)),
        KEYS,
        VALUES,
    ),
    max_size=40,
)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def take(database: Database, steps: list[tuple[str, str, object, object]]) -> None:
    connection = graft_vfs.connect(database.tag)
    for kind, name, key, value in steps:
        table = quoted(name)
        sql, values = {
            "insert": (f"INSERT INTO {table}(a, b) VALUES(?, ?)", (key, value)),
            "update": (f"UPDATE {table} SET b = ? WHERE a IS ?", (value, key)),
            "swap": (f"UPDATE {table} SET a = b, b = a WHERE a IS ?", (key,)),
            "delete": (f"DELETE FROM {table} WHERE a IS ?", (key,)),
        }[kind]
        with contextlib.suppress(apsw.ConstraintError, apsw.MismatchError):
            connection.execute(sql, values)
    connection.close()


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(before=STEPS, after=STEPS, encoding=st.sampled_from(["UTF-8", "UTF-16le", "UTF-16be"]))
@example(before=[("insert", "plain", 1, "\0")], after=[("delete", "plain", 1, 0)], encoding="UTF-8")
def test_any_rows_become_those_of_the_newer_state(database, before, after, encoding):
    database.start(f"PRAGMA encoding='{encoding}'")
    database.run(*(f"CREATE TABLE {quoted(name)}{columns}" for name, columns in TABLES.items()))
    take(database, before)
    database.push()
    take(database, after)
    database.check()


def test_values_that_two_rows_of_a_unique_column_swap(database):
    database.start(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE)", "INSERT INTO t VALUES(1, 'x')"
    )
    database.run("INSERT INTO t VALUES(2, 'y')")
    database.push()
    database.run("UPDATE t SET a = a || '!'", "UPDATE t SET a = iif(id = 1, 'y', 'x')")
    lines = database.check()
    assert not [line for line in lines if line.startswith("UPDATE")]


def test_an_update_names_only_what_changed(database):
    database.start("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)", "INSERT INTO t VALUES(1, 2, 3)")
    database.push()
    database.run("UPDATE t SET b = 4")
    assert 'UPDATE "t" SET "b" = 4 WHERE "id" = 1;' in database.check()


def test_bytes_that_are_no_text_stay_as_they_are(database):
    database.start("CREATE TABLE t(a PRIMARY KEY, b) WITHOUT ROWID")
    database.run("INSERT INTO t VALUES(CAST(x'ff' AS TEXT), 1), (2, CAST(x'61ff' AS TEXT))")
    database.push()
    database.run("DELETE FROM t WHERE b = 1", "UPDATE t SET b = CAST(x'ff00fe' AS TEXT)")
    database.check()


def test_triggers_do_not_run_again(database):
    database.start(
        "CREATE TABLE t(a)",
        "CREATE TABLE journal(what, a)",
        "CREATE TRIGGER i AFTER INSERT ON t BEGIN INSERT INTO journal VALUES('+', new.a); END",
        "CREATE TRIGGER d AFTER DELETE ON t BEGIN INSERT INTO journal VALUES('-', old.a); END",
        "INSERT INTO t VALUES(1)",
    )
    database.push()
    database.run("INSERT INTO t VALUES(2)", "DELETE FROM t WHERE a = 1")
    database.check()


def test_rows_that_refer_to_deleted_ones_are_not_deleted_by_it(database):
    database.start(
        "CREATE TABLE parent(id INTEGER PRIMARY KEY, a UNIQUE)",
        "CREATE TABLE child(p REFERENCES parent ON DELETE CASCADE, v)",
        "INSERT INTO parent VALUES(1, 1)",
        "INSERT INTO child VALUES(1, 'kept')",
    )
    database.push()
    database.run("UPDATE parent SET a = 2")
    database.check()


def test_numbers_of_autoincrement_go_on_where_they_were(database):
    database.start("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a)")
    database.run("INSERT INTO t(a) VALUES(1), (2), (3)")
    database.push()
    database.run("INSERT INTO t(a) VALUES(4), (5)", "DELETE FROM t WHERE id > 3")
    database.check()


def test_all_rows_of_a_database_without_a_base(database):
    database.start("CREATE TABLE t(a)", "INSERT INTO t VALUES(1)")
    lines = database.patch()
    assert lines[0] == "-- From nothing to head."
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript("\n".join(lines))
        assert connection.execute("SELECT a FROM t").fetchall() == [(1,)]


# The schema -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statements",
    [
        ("ALTER TABLE t ADD COLUMN c DEFAULT 5",),
        ("DROP INDEX by_b", "ALTER TABLE t DROP COLUMN b", "INSERT INTO t VALUES(9)"),
        ("ALTER TABLE t RENAME TO u", "INSERT INTO u VALUES(9, 9)"),
        ("ALTER TABLE t RENAME COLUMN a TO z",),
        ("DROP TABLE t",),
        ("DROP TABLE t", "CREATE TABLE t(k PRIMARY KEY, v) WITHOUT ROWID"),
        ("DROP INDEX by_b", "CREATE INDEX by_b ON t(b DESC)", "INSERT INTO t VALUES(3, 3)"),
        ("DELETE FROM t", "CREATE UNIQUE INDEX one_b ON t(b)", "INSERT INTO t VALUES(3, 3)"),
        ("DROP VIEW seen", "CREATE VIEW seen AS SELECT b FROM t"),
        ("DROP TRIGGER touched", "INSERT INTO t VALUES(3, 3)"),
        (
            "DROP TRIGGER touched",
            "CREATE TRIGGER touched AFTER INSERT ON t BEGIN DELETE FROM other; END",
            "UPDATE t SET b = 'new'",
        ),
        ("CREATE TABLE fresh(a UNIQUE, b)", "INSERT INTO fresh VALUES(1, x'00')"),
        ("PRAGMA user_version=7", "PRAGMA application_id=-9"),
        ('CREATE TABLE "semi;colon \'"""("a\nb")', 'INSERT INTO "semi;colon \'""" VALUES(1)'),
        (
            "CREATE TABLE numbered(id INTEGER PRIMARY KEY AUTOINCREMENT)",
            "INSERT INTO numbered VALUES(5)",
        ),
    ],
)
def test_a_schema_that_changes_is_made_anew(database, statements):
    database.start(
        "CREATE TABLE t(a, b)",
        "CREATE TABLE other(x)",
        "CREATE INDEX by_b ON t(b)",
        "CREATE VIEW seen AS SELECT * FROM other",
        "CREATE TRIGGER touched AFTER INSERT ON t BEGIN INSERT INTO other VALUES(new.a); END",
        "INSERT INTO t VALUES(1, 'one'), (2, 'two')",
    )
    database.push()
    database.run(*statements)
    database.check()


FTS = ("CREATE VIRTUAL TABLE search USING fts5(body)", "INSERT INTO search VALUES('some words')")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (FTS, ("INSERT INTO search VALUES('more words')",)),
        (FTS, ("DROP TABLE search",)),
        ((), FTS),
        (FTS, ("DROP TABLE search", "CREATE VIRTUAL TABLE search USING fts5(title, body)")),
        (FTS, ("DROP TABLE search", "CREATE TABLE search(x)", "INSERT INTO search VALUES(1)")),
        (
            ("CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1)",),
            ("INSERT INTO boxes VALUES(1, 2.5, 3)",),
        ),
    ],
)
def test_virtual_tables_are_what_their_shadow_tables_hold(database, before, after):
    database.start("CREATE TABLE t(a)", *before)
    database.push()
    database.run(*after)
    database.check()


@pytest.mark.parametrize("comment", ["-- new", "-- new;", "/* new", "/* new;"])
def test_a_comment_at_the_end_of_a_declaration_hides_nothing(database, comment):
    database.start("CREATE TABLE t(x)")
    database.push()
    database.run(
        f"CREATE VIEW v AS SELECT x FROM t {comment}",
        f"CREATE INDEX i ON t(x) {comment}",
        f"CREATE TABLE s(x INTEGER) STRICT {comment}",
        f"CREATE VIRTUAL TABLE f USING fts5(x) {comment}",
        f"CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END {comment}",
        "INSERT INTO t VALUES(1)",
        "INSERT INTO s VALUES(2)",
        "INSERT INTO f VALUES('three')",
    )
    newer = database.file("newer")
    database.engine.export(database.tag, newer)
    older = database.file("older")
    with contextlib.closing(sqlite3.connect(older)) as connection:
        connection.executescript("\n".join(database.patch()))

    def found(path):
        """Return the declarations, of which SQLite may keep what ends a comment, and the rows."""
        with contextlib.closing(sqlite3.connect(path)) as connection:
            schema = connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_schema")
            declared = {(kind, name): sql.removesuffix("*/").rstrip() for kind, name, sql in schema}
            return declared, [connection.execute(f"SELECT * FROM {t}").fetchall() for t in "tsfv"]

    declared, rows = found(older)
    assert (declared, rows) == found(newer)
    assert rows == [[(1,)], [(2,)], [("three",)], [(1,)]]


def test_a_table_that_cannot_be_compared_is_an_error_with_a_way_out(database):
    database.start("CREATE TABLE t(rowid, oid, _rowid_)", "INSERT INTO t VALUES(1, 2, 3)")
    database.push()
    database.run("UPDATE t SET oid = 5")
    with pytest.raises(
        UsageError, match=r"table 't' cannot be compared.*hide every name"
    ) as caught:
        database.patch()
    assert "export" in str(caught.value)


def test_a_patch_that_was_cut_off_changes_nothing(database):
    database.start("CREATE TABLE t(a)", "INSERT INTO t VALUES(1)")
    database.push()
    database.run("INSERT INTO t VALUES(2), (3)")
    lines = database.patch()
    assert lines[-1] == "COMMIT;"
    copy = database.file("copy")
    shutil.copy(database.file("older"), copy)
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        connection.executescript("\n".join(lines[:-1]))
    assert state(copy) == state(database.file("older"))


def test_a_large_diff_is_in_memory_for_one_row(database):
    database.start("CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    rows = 10_000
    database.run(
        f"WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n LIMIT {rows}) "
        "INSERT INTO t SELECT i, zeroblob(1000) FROM n"
    )
    with contextlib.closing(database.engine.diff_sql(database.tag)) as lines:
        next(lines)
        tracemalloc.start()
        try:
            assert sum(line.startswith("INSERT") for line in lines) == rows
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 2_000_000


# Literals ---------------------------------------------------------------------------------------


@pytest.fixture
def read() -> Iterator[Callable[[str], object]]:
    with contextlib.closing(apsw.Connection(":memory:")) as connection:
        yield lambda text: connection.execute(f"SELECT {text}").get


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.floats(allow_nan=False, allow_infinity=False))
@example(value=5e-324)
@example(value=1.7976931348623157e308)
@example(value=2.2250738585072014e-308)
@example(value=0.30000000000000004)
def test_a_real_number_is_exact_in_any_sqlite(read, value):
    found = read(_exact(value))
    assert isinstance(found, float)
    assert found == value


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        (None, "NULL"),
        (-(2**63), "-9223372036854775808"),
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (float("inf"), "9e999"),
        (float("-inf"), "-9e999"),
        ("it's", "'it''s'"),
        ("a\0", "CAST(x'6100' AS TEXT)"),
        ("ü\x85", "CAST(x'c3bcc285' AS TEXT)"),
        (b"\0\xff", "x'00ff'"),
        (RawText(b"\xff"), "CAST(x'ff' AS TEXT)"),
    ],
)
def test_a_literal_reads_back(value, literal):
    with contextlib.closing(apsw.Connection(":memory:")) as connection:
        assert Literals(connection).of(value) == literal
        classes = {str: "text", RawText: "text", bytes: "blob", float: "real", int: "integer"}
        found = connection.execute(f"SELECT typeof({literal}), CAST({literal} AS BLOB)").fetchall()
        assert found[0][0] == classes.get(type(value), "null")


def test_rows_that_violate_a_check_are_patched(database) -> None:
    database.start("CREATE TABLE t(x CHECK(x > 0)); INSERT INTO t VALUES(1)")
    database.push()
    connection = graft_vfs.connect(database.tag)
    connection.execute("PRAGMA ignore_check_constraints=ON; INSERT INTO t VALUES(-1)")
    connection.close()
    lines = database.patch()
    assert "PRAGMA ignore_check_constraints=ON;" in lines
    with contextlib.closing(sqlite3.connect(database.file("older"))) as patched:
        patched.executescript("\n".join(lines))
        assert patched.execute("SELECT x FROM t").fetchall() == [(1,), (-1,)]


def test_without_a_check_none_is_switched_off(database) -> None:
    database.start("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    database.push()
    database.run("INSERT INTO t VALUES(2)")
    assert not any("check_constraints" in line for line in database.check())
