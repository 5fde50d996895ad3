"""The schema in a merge: what is carried, what is merged, and what stops it."""

from __future__ import annotations

import apsw
import pytest

from graft_vfs.merge.added_columns import added_columns
from graft_vfs.merge.conflicts import Kind, Resolution

TABLE = "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES(1, 1, 1), (2, 2, 2);"
SCHEMA = "SELECT type, name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2"


def test_objects_of_one_side_are_carried(merge):
    result = merge(
        TABLE + "CREATE INDEX i ON t(a); CREATE VIEW v AS SELECT 1; CREATE TABLE gone(a);",
        "CREATE TABLE ours(a UNIQUE, b); INSERT INTO ours VALUES(1, 'x'); CREATE INDEX j ON t(b); "
        "DROP VIEW v; DROP TABLE gone; CREATE TRIGGER r AFTER INSERT ON ours BEGIN SELECT 1; END; "
        "DROP INDEX i; CREATE INDEX i ON t(a, b); PRAGMA user_version = 5",
        "CREATE TABLE theirs(a); CREATE VIEW w AS SELECT 2; PRAGMA application_id = 7",
    )
    assert result.rows(SCHEMA) == [
        ("index", "i"),
        ("index", "j"),
        ("table", "ours"),
        ("table", "t"),
        ("table", "theirs"),
        ("trigger", "r"),
        ("view", "w"),
    ]
    assert result.rows("SELECT sql FROM sqlite_schema WHERE name = 'i'") == [
        ("CREATE INDEX i ON t(a, b)",)
    ]
    assert result.rows("SELECT * FROM ours") == [(1, "x")]
    assert result.rows("PRAGMA user_version") == [(5,)]
    assert result.rows("PRAGMA application_id") == [(7,)]


def test_equal_changes_are_one(merge):
    both = "CREATE TABLE n(a); CREATE INDEX i ON t(a); PRAGMA user_version = 5;"
    result = merge(
        TABLE, both + "INSERT INTO n VALUES('ours')", both + "INSERT INTO n VALUES('theirs')"
    )
    assert result.rows("SELECT a FROM n ORDER BY a") == [("ours",), ("theirs",)]


@pytest.mark.parametrize(
    ("ours", "theirs", "statements"),
    [
        ("CREATE VIEW v AS SELECT 1", "CREATE VIEW v AS SELECT 2", 2),
        ("CREATE TABLE n(a)", "CREATE TABLE n(b)", 2),
        ("CREATE INDEX n ON t(a)", "CREATE INDEX n ON t(b)", 2),
        ("ALTER TABLE t ADD COLUMN c", "ALTER TABLE t ADD COLUMN c DEFAULT 1", 3),
        ("ALTER TABLE t ADD COLUMN c", "ALTER TABLE t DROP COLUMN b", 3),
        ("ALTER TABLE t RENAME COLUMN a TO x", "ALTER TABLE t RENAME COLUMN a TO y", 3),
        ("DROP TABLE t", "UPDATE t SET a = 5", 2),
        ("UPDATE t SET a = 5", "DROP TABLE t", 2),
        ("DROP TABLE t", "CREATE INDEX i ON t(a)", 1),
        ("DROP TABLE t", "ALTER TABLE t ADD COLUMN c", 2),
        ("UPDATE t SET b = 5", "ALTER TABLE t DROP COLUMN b", 3),
        ("ALTER TABLE t DROP COLUMN b", "UPDATE t SET b = 5", 3),
        ("PRAGMA user_version = 1", "PRAGMA user_version = 2", 3),
        ("CREATE INDEX i ON t(a)", "DROP TABLE t", 1),
        (
            "UPDATE t SET b = 5",
            (
                "CREATE TABLE n(id TEXT PRIMARY KEY, a, b); INSERT INTO n SELECT * FROM t; "
                "DROP TABLE t; ALTER TABLE n RENAME TO t"
            ),
            3,
        ),
    ],
)
def test_other_changes_list_their_statements_and_move_nothing(merge, ours, theirs, statements):
    for policy in (Resolution.ABORT, Resolution.OURS):
        result = merge(TABLE, ours, theirs, policy=policy)
        assert result.conflicts()
        found = result.report.conflicts[0]
        assert found.kind is Kind.SCHEMA
        listed = [each for each in (found.base, found.ours, found.theirs) if each is not None]
        assert len(listed) == statements


def test_both_sides_may_add_columns(merge):
    result = merge(
        TABLE,
        "ALTER TABLE t ADD COLUMN c TEXT DEFAULT 5; ALTER TABLE t ADD COLUMN same; "
        "UPDATE t SET c = 'ours', same = 1 WHERE id = 1; INSERT INTO t VALUES(3, 3, 3, 'new', 3)",
        "ALTER TABLE t ADD COLUMN same; ALTER TABLE t ADD COLUMN d NOT NULL DEFAULT 2; "
        "UPDATE t SET d = 'theirs', a = 10; INSERT INTO t VALUES(4, 4, 4, 4, 4)",
    )
    assert result.rows("SELECT id, a, b, c, d, same FROM t") == [
        (1, 10, 1, "ours", "theirs", 1),
        (2, 10, 2, "5", "theirs", None),
        (3, 3, 3, "new", 2, 3),
        (4, 4, 4, "5", 4, 4),
    ]


def test_a_migration_of_ours_meets_rows_of_theirs(merge):
    """As frameworks do it: a new table, the rows, and its name."""
    result = merge(
        TABLE + "CREATE INDEX i ON t(a); CREATE TRIGGER r AFTER DELETE ON t BEGIN SELECT 1; END;",
        "CREATE TABLE n(id INTEGER PRIMARY KEY, a TEXT, b, c DEFAULT 'c'); "
        "INSERT INTO n(id, a, b) SELECT * FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t; "
        "CREATE INDEX i ON t(a); CREATE TRIGGER r AFTER DELETE ON t BEGIN SELECT 1; END; "
        "UPDATE t SET a = 'ours', c = 'new' WHERE id = 1",
        "INSERT INTO t VALUES(3, 'x', 3); UPDATE t SET b = 10 WHERE id = 1; "
        "DELETE FROM t WHERE id = 2; CREATE INDEX j ON t(b)",
        policy=Resolution.THEIRS,
    )
    assert result.rows("SELECT * FROM t") == [(1, "ours", 10, "new"), (3, "x", 3, "c")]
    assert [name for _, name in result.rows(SCHEMA)] == ["i", "j", "t", "r"]


def test_a_migration_of_theirs_meets_rows_of_ours(merge):
    result = merge(
        TABLE,
        "INSERT INTO t VALUES(3, 'x', 3); UPDATE t SET b = 10 WHERE id = 1",
        "CREATE TABLE n(id INTEGER PRIMARY KEY, a TEXT, b, c NOT NULL DEFAULT 'c'); "
        "INSERT INTO n(id, a, b) SELECT * FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t",
    )
    assert result.rows("SELECT * FROM t") == [
        (1, "1", 10, "c"),
        (2, "2", 2, "c"),
        (3, "x", 3, "c"),
    ]


def test_the_same_migration_on_both_sides(merge):
    both = "ALTER TABLE t RENAME COLUMN a TO x; "
    result = merge(
        TABLE, both + "UPDATE t SET x = 'ours' WHERE id = 1", both + "UPDATE t SET b = 'theirs'"
    )
    # Nothing says what x was in the base, so ours and theirs differ in it.
    assert result.conflicts() == ["update/update of t(id=1) in x"]
    calm = merge(TABLE, both, both + "UPDATE t SET b = 'theirs'")
    assert calm.rows("SELECT * FROM t") == [(1, 1, "theirs"), (2, 2, "theirs")]


def test_values_that_another_declaration_would_change_are_a_conflict(merge):
    result = merge(
        TABLE,
        "INSERT INTO t VALUES(3, 7, 3)",
        "CREATE TABLE n(id INTEGER PRIMARY KEY, a TEXT, b); "
        "INSERT INTO n SELECT * FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t",
    )
    assert result.conflicts() == [
        "check of t(id=3): the values of a do not keep their types in this declaration"
    ]


def test_a_unique_index_of_ours_over_rows_of_theirs(merge):
    ours = "CREATE UNIQUE INDEX u ON t(a)"
    result = merge(TABLE, ours, "UPDATE t SET a = 1")
    assert result.conflicts() == ["schema of index u: UNIQUE constraint failed: t.a"]
    assert result.report.conflicts[0].kind is Kind.UNIQUE
    row = "INSERT INTO t VALUES({}, 'new', 1)"
    both = merge(TABLE, f"{ours}; {row.format(5)}", row.format(6))
    assert both.conflicts() == ["unique of t(id=5): UNIQUE constraint failed: t.a"]


def test_the_larger_sequence_and_the_statistics_of_theirs_are_kept(merge):
    table = "CREATE TABLE {}(id INTEGER PRIMARY KEY AUTOINCREMENT, a); "
    result = merge(
        table.format("t")
        + table.format("u")
        + "INSERT INTO t VALUES(5, 1); CREATE INDEX i ON t(a)",
        "INSERT INTO t VALUES(50, 1); DELETE FROM t WHERE id = 50; INSERT INTO u VALUES(3, 1); "
        + table.format("ours")
        + "INSERT INTO ours VALUES(9, 1); DELETE FROM ours; ANALYZE",
        "INSERT INTO t VALUES(20, 1); INSERT INTO u VALUES(4, 1); ANALYZE",
    )
    assert sorted(result.rows("SELECT * FROM sqlite_sequence")) == [
        ("ours", 9),
        ("t", 50),
        ("u", 4),
    ]
    assert result.rows("SELECT stat FROM sqlite_stat1 WHERE tbl = 't'") == [("2 2",)]


def test_a_view_or_trigger_that_loses_its_column_is_a_conflict(merge):
    sides = "ALTER TABLE t DROP COLUMN b", "CREATE VIEW v AS SELECT b FROM t"
    for ours, theirs in (sides, reversed(sides)):
        (conflict,) = merge(TABLE, ours, theirs).conflicts()
        assert "schema of schema main: the changes of both sides do not fit" in conflict
        assert "no such column: b" in conflict
    broken = "CREATE VIEW broken AS SELECT * FROM missing"
    for ours, theirs in ((broken, "CREATE VIEW v AS SELECT 1"), ("CREATE TABLE n(a)", broken)):
        assert ("view", "broken") in merge(TABLE, ours, theirs).rows(SCHEMA)


# Added columns ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "definitions"),
    [
        ("CREATE TABLE t(a)", ["b"]),
        ("CREATE TABLE t(a, a2)", ["a3", "a4 DEFAULT ','"]),
        ("CREATE TABLE t(a, CHECK(a > 0))", ["b CHECK(b IN (1, 2))", '"x,y" TEXT']),
        ("CREATE TABLE t(a) STRICT".replace("a)", "a INT)"), ["b INT /* , ( */", "c TEXT"]),
        ("CREATE TABLE t(a -- (comment\n)", ["b AS (a || '),')", "[c,] DEFAULT x'00'"]),
        ("CREATE TABLE t(a PRIMARY KEY) WITHOUT ROWID", ["b REFERENCES t(a)"]),
    ],
)
def test_added_columns_are_recognised(base, definitions):
    connection = apsw.Connection(":memory:")
    connection.execute(base)
    for definition in definitions:
        connection.execute(f"ALTER TABLE t ADD COLUMN {definition}")
    after = connection.execute("SELECT sql FROM sqlite_schema WHERE type = 'table'").get
    found = added_columns("t", base, after)
    assert found is not None
    assert [each.definition for each in found] == definitions


@pytest.mark.parametrize(
    "after",
    [
        "CREATE TABLE t(b, a)",
        "CREATE TABLE t(a, b, CHECK(a))",
        "CREATE TABLE t(a INTEGER)",
        "CREATE TABLE u(a, b)",
        "nonsense, b",
    ],
)
def test_what_is_no_added_column_is_not_taken_for_one(after):
    assert added_columns("t", "CREATE TABLE t(a)", after) is None


def test_defaults_are_as_they_are_stored():
    base = "CREATE TABLE t(a)"
    after = "CREATE TABLE t(a, b TEXT DEFAULT 5, c REAL DEFAULT 1, d DEFAULT (2 + 2), e BLOB)"
    found = added_columns("t", base, after)
    assert found is not None
    assert [each.default for each in found] == ["5", 1.0, 4, None]
    assert isinstance(found[1].default, float)
