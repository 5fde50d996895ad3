"""The rules of a merge, one after another, on real snapshots."""

from __future__ import annotations

import contextlib

import pytest

from graft_vfs.errors import UsageError
from graft_vfs.history.names import remote_snapshot
from graft_vfs.history.rows import RawText
from graft_vfs.merge.conflicts import Choices, Granularity, Kind, Resolution
from graft_vfs.merge.merge import merged
from graft_vfs.merge.sides import Snapshots
from graft_vfs.volume.snapshot import Snapshot
from tests.support.merging import Result

OURS, THEIRS, RENUMBER = Resolution.OURS, Resolution.THEIRS, Resolution.RENUMBER
TABLE = "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES(1, 1, 1), (2, 2, 2);"


# Rows -------------------------------------------------------------------------------------------


def test_both_sides_may_change_different_columns_and_rows(merge):
    result = merge(
        TABLE,
        "UPDATE t SET a = 10 WHERE id = 1; INSERT INTO t VALUES(3, 'ours', 3)",
        "UPDATE t SET b = 20 WHERE id = 1; DELETE FROM t WHERE id = 2",
    )
    assert result.rows("SELECT * FROM t") == [(1, 10, 20), (3, "ours", 3)]
    report = result.report
    assert (report.inserted, report.updated, report.deleted, report.combined) == (1, 1, 0, 1)


@pytest.mark.parametrize(
    ("granularity", "conflict"),
    [
        (Granularity.ROW, "update/update of t(id=1) in a, b"),
        (Granularity.TABLE, "table of t(): both sides changed it"),
    ],
)
def test_a_coarser_granularity_makes_them_conflicts(merge, granularity, conflict):
    sides = "UPDATE t SET a = 10 WHERE id = 1", "UPDATE t SET b = 20 WHERE id = 1"
    assert merge(TABLE, *sides, granularity=granularity).conflicts() == [conflict]
    ours = merge(TABLE, *sides, granularity=granularity, policy=OURS)
    assert ours.rows("SELECT * FROM t") == [(1, 10, 1), (2, 2, 2)]
    theirs = merge(TABLE, *sides, granularity=granularity, policy=THEIRS)
    assert theirs.rows("SELECT * FROM t") == [(1, 1, 20), (2, 2, 2)]


def test_a_conflict_has_the_rows_of_all_sides_and_nothing_is_written(merge):
    result = merge(TABLE, "UPDATE t SET a = 10 WHERE id = 1", "UPDATE t SET a = 20 WHERE id = 1")
    (found,) = result.report.conflicts
    assert (found.kind, found.columns) == (Kind.UPDATE_UPDATE, ("a",))
    assert found.base == {"id": 1, "a": 1, "b": 1}
    assert found.ours == {"id": 1, "a": 10, "b": 1}
    assert found.theirs == {"id": 1, "a": 20, "b": 1}
    assert result.database is None
    assert str(result.report) == "Not merged: 1 conflict.\n  update/update of t(id=1) in a"


@pytest.mark.parametrize(
    ("sides", "kind", "rows"),
    [
        (("UPDATE t SET a = 9", "DELETE FROM t"), "update/delete", ([(1, 9, 1), (2, 9, 2)], [])),
        (("DELETE FROM t", "UPDATE t SET a = 9"), "delete/update", ([], [(1, 9, 1), (2, 9, 2)])),
    ],
)
def test_an_update_meets_a_deletion(merge, sides, kind, rows):
    assert merge(TABLE, *sides).conflicts() == [
        f"{kind} of t(id=1) in a",
        f"{kind} of t(id=2) in a",
    ]
    for policy, expected in zip((OURS, THEIRS), rows, strict=True):
        assert merge(TABLE, *sides, policy=policy).rows("SELECT * FROM t") == expected


def test_equal_changes_are_listed_and_may_be_a_conflict(merge):
    withdrawal = "UPDATE t SET a = a - 1 WHERE id = 1"
    merged = merge(TABLE, withdrawal, withdrawal)
    assert merged.rows("SELECT a FROM t WHERE id = 1") == [(0,)]
    (found,) = merged.report.coincident
    assert (found.table, found.key, found.columns) == ("t", {"id": 1}, ("a",))
    assert merge(TABLE, withdrawal, withdrawal, coincident_conflicts=True).conflicts() == [
        "coincident of t(id=1) in a"
    ]


def test_a_function_may_add_up_what_both_sides_took(merge):
    def policy(conflict):
        return {"a": 2 * conflict.ours["a"] - (conflict.base or {"a": 0})["a"]}

    both = "UPDATE t SET a = a - 1 WHERE id = 1; INSERT INTO t VALUES(3, 5, 'same')"
    result = merge(TABLE, both, both, policy=policy, coincident_conflicts=True)
    assert result.rows("SELECT a FROM t") == [(-1,), (2,), (10,)]


def test_a_function_decides_each_conflict(merge):
    def policy(conflict):
        if conflict.kind is Kind.UPDATE_UPDATE:
            return {"a": conflict.ours["a"] + conflict.theirs["a"] - conflict.base["a"]}
        return THEIRS

    result = merge(
        TABLE,
        "UPDATE t SET a = a + 10 WHERE id = 1; DELETE FROM t WHERE id = 2",
        "UPDATE t SET a = a + 100",
        policy=policy,
    )
    assert result.rows("SELECT * FROM t") == [(1, 111, 1), (2, 102, 2)]
    assert [found.resolution for found in result.report.resolved] == [Resolution.VALUES, THEIRS]


@pytest.mark.parametrize(
    "answer", [None, "ours", {"id": 5}, {"nothing": 1}, {"a": object()}, Resolution.VALUES, 3]
)
def test_a_wrong_answer_of_a_function_is_an_error(merge, answer):
    sides = "UPDATE t SET a = 10 WHERE id = 1", "UPDATE t SET a = 20 WHERE id = 1"
    with pytest.raises(UsageError, match=r"returned .* for the conflict update/update of t\(id=1"):
        merge(TABLE, *sides, policy=lambda _: answer)


# Keys -------------------------------------------------------------------------------------------


def test_a_declared_key_names_a_row_whatever_its_rowid(merge):
    result = merge(
        "CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY, a, b); "
        "INSERT INTO t VALUES('x', 1, 1), ('y', 2, 2), ('z', 3, 3)",
        "UPDATE t SET k = 'X', a = 10 WHERE k = 'x'; REPLACE INTO t VALUES('y', 20, 2)",
        "DELETE FROM t WHERE k = 'z'; INSERT INTO t VALUES('w', 4, 4); "
        "UPDATE t SET b = 30 WHERE k = 'x'; UPDATE t SET b = 40 WHERE k = 'y'",
    )
    assert result.rows("SELECT k, a, b FROM t ORDER BY k") == [
        ("w", 4, 4),
        ("X", 10, 30),
        ("y", 20, 40),
    ]


def test_rows_without_key_are_appended_and_found_by_their_values(merge):
    base = "CREATE TABLE t(a, b); INSERT INTO t VALUES(1, 1), (2, 2), (3, 3);"
    ours = "UPDATE t SET a = 10 WHERE rowid = 1; INSERT INTO t VALUES('ours', 0);"
    result = merge(base, ours, "INSERT INTO t VALUES('theirs', 0); DELETE FROM t WHERE a = 3")
    assert result.rows("SELECT a FROM t ORDER BY rowid") == [(10,), (2,), ("theirs",), ("ours",)]
    moved = merge(base, ours, "DELETE FROM t WHERE a = 1; VACUUM")
    assert moved.conflicts() == ["update/update of t(rowid=1) in a, b"]


def test_rows_with_null_in_their_key_have_none(merge):
    result = merge(
        "CREATE TABLE t(k PRIMARY KEY, a); INSERT INTO t VALUES(NULL, 1), (NULL, 2)",
        "UPDATE t SET a = 10 WHERE a = 1; INSERT INTO t VALUES(NULL, 3)",
        "DELETE FROM t WHERE a = 2; INSERT INTO t VALUES(NULL, 3), ('x', 4)",
    )
    assert result.rows("SELECT k, a FROM t ORDER BY a") == [
        (None, 3),
        (None, 3),
        ("x", 4),
        (None, 10),
    ]


def test_without_rowid(merge):
    result = merge(
        "CREATE TABLE t(v, k PRIMARY KEY) WITHOUT ROWID; INSERT INTO t VALUES(1, 'a'), (2, 'b')",
        "UPDATE t SET v = 10 WHERE k = 'a'; INSERT INTO t VALUES(3, 'c')",
        "DELETE FROM t WHERE k = 'b'; INSERT INTO t VALUES(4, 'd')",
    )
    assert result.rows("SELECT * FROM t") == [(10, "a"), (3, "c"), (4, "d")]


def test_a_table_without_a_name_for_its_rowid_is_refused_only_if_ours_changed_it(merge):
    base = "CREATE TABLE t(rowid, oid, _rowid_); INSERT INTO t VALUES(1, 2, 3); CREATE TABLE u(a)"
    merge(base, "INSERT INTO u VALUES(1)", "INSERT INTO u VALUES(2)").rows("SELECT * FROM u")
    with pytest.raises(UsageError, match="'t' cannot be merged: its columns hide every name"):
        merge(base, "UPDATE t SET oid = 5", "INSERT INTO u VALUES(2)")


def test_a_table_that_needs_the_applications_collation_is_refused_by_name(merge):
    def prepare(connection):
        connection.create_collation("mine", lambda one, other: (one > other) - (one < other))

    base = "CREATE TABLE u(k COLLATE mine PRIMARY KEY, a); INSERT INTO u VALUES('x', 1)"
    sides = "INSERT INTO u VALUES('y', 1)", "INSERT INTO u VALUES('z', 1)"
    with pytest.raises(UsageError, match=r"'u' cannot be merged: no such collation .* mine"):
        merge(base, *sides, prepare=prepare)
    result = merge(base, *sides, prepare=prepare, is_prepared=True)
    assert result.rows("SELECT k FROM u ORDER BY rowid") == [("x",), ("z",), ("y",)]


def test_a_check_that_needs_the_applications_function_is_refused_by_name(merge):
    def prepare(connection):
        connection.create_scalar_function("mine", lambda value: value != "no", deterministic=True)

    base = "CREATE TABLE u(a CHECK(mine(a))); CREATE TABLE t(a)"
    sides = "INSERT INTO u VALUES('y')", "INSERT INTO t VALUES(1)"
    with pytest.raises(UsageError, match=r"'u' cannot be merged: unknown function: mine"):
        merge(base, *sides, prepare=prepare)
    merged = merge(base, *sides, prepare=prepare, is_prepared=True)
    assert merged.rows("SELECT a FROM u") == [("y",)]


# Values -----------------------------------------------------------------------------------------


def test_values_keep_their_class_and_bytes_and_generated_columns_are_made(merge):
    result = merge(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, g AS (a || '!'), s AS (typeof(a)) STORED)",
        "INSERT INTO t(id, a) VALUES(1, 1), (2, 1.0), (3, '1'), (4, x'31'), (5, NULL), "
        "(6, CAST(x'ff' AS TEXT)), (7, 'a' || char(0) || 'b'), (8, 9e999)",
        "INSERT INTO t(id, a) VALUES(9, 9)",
    )
    assert result.rows("SELECT s FROM t") == [
        (kind,)
        for kind in ("integer", "real", "text", "blob", "null", "text", "text", "real", "integer")
    ]
    assert result.rows("SELECT hex(a) FROM t WHERE id IN (6, 7)") == [("FF",), ("610062",)]
    assert result.rows("SELECT g FROM t WHERE id = 3") == [("1!",)]


def test_a_conflict_shows_text_that_is_none_as_its_bytes(merge):
    sides = "UPDATE t SET a = CAST(x'ff' AS TEXT) WHERE id = 1", "UPDATE t SET a = 5 WHERE id = 1"
    (found,) = merge(TABLE, *sides).report.conflicts
    assert found.ours["a"] == RawText(b"\xff")
    assert merge(TABLE, *sides, policy=OURS).rows("SELECT hex(a) FROM t WHERE id = 1") == [("FF",)]


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_other_encodings(merge, encoding):
    base = f"PRAGMA encoding='{encoding}'; CREATE TABLE t(k TEXT PRIMARY KEY, a)"
    sides = "INSERT INTO t VALUES('ü', 'ours')", "INSERT INTO t VALUES('€', 'theirs')"
    assert merge(base, *sides).rows("SELECT * FROM t ORDER BY a") == [
        ("ü", "ours"),
        ("€", "theirs"),
    ]


def test_both_sides_may_begin_with_nothing(merging):
    engine, made = merging.machine.engine, {}
    for tag, encoding in (("one", "UTF-8"), ("two", "UTF-8"), ("other", "UTF-16le")):
        with contextlib.closing(merging.machine.connect(tag)) as connection:
            connection.execute(f"PRAGMA encoding='{encoding}'; CREATE TABLE t(a)")
            connection.execute("INSERT INTO t VALUES(?)", (tag,))
        log = engine.push(tag).log
        made[tag] = remote_snapshot(engine.open(tag), engine.logs, log, 1)
    nothing = remote_snapshot(engine.open("other"), engine.logs, log, 0)

    def run(ours: Snapshot, theirs: Snapshot) -> Result:
        snapshots = Snapshots(nothing, ours, theirs)
        with merged(engine.open("other"), snapshots, Choices()) as merge:
            return Result(merge)

    for ours, theirs in ((made["one"], made["two"]), (made["one"], nothing)):
        assert ("one",) in run(ours, theirs).rows("SELECT a FROM t")
    for theirs in (made["two"], nothing):
        (found,) = run(made["other"], theirs).report.conflicts
        assert (found.object, found.detail) == ("database", "the text encodings differ")
        assert found.ours == "PRAGMA encoding='UTF-16le'"


def test_triggers_do_not_fire_again(merge):
    result = merge(
        TABLE + "CREATE TABLE log(text); CREATE TRIGGER i AFTER INSERT ON t BEGIN "
        "INSERT INTO log VALUES('inserted ' || new.id); END",
        "INSERT INTO t VALUES(3, 3, 3)",
        "INSERT INTO t VALUES(4, 4, 4)",
    )
    assert result.rows("SELECT * FROM log ORDER BY 1") == [("inserted 3",), ("inserted 4",)]
    assert result.rows("SELECT name FROM sqlite_schema WHERE type = 'trigger'") == [("i",)]


# Constraints ------------------------------------------------------------------------------------

UNIQUE = (
    "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE ON CONFLICT REPLACE, a);"
    "INSERT INTO t VALUES(1, 'x', 1), (2, 'y', 2), (3, 'z', 3);"
)


def test_swapped_unique_values_are_no_conflict(merge):
    result = merge(
        UNIQUE,
        "UPDATE t SET u = 'tmp' WHERE id = 1; UPDATE t SET u = 'x' WHERE id = 2; "
        "UPDATE t SET u = 'y' WHERE id = 1",
        "UPDATE t SET a = 10",
    )
    assert result.rows("SELECT * FROM t") == [(1, "y", 10), (2, "x", 10), (3, "z", 10)]
    assert result.report.updated == 2


def test_a_unique_value_of_both_sides_is_a_conflict(merge):
    sides = "INSERT INTO t VALUES(5, 'new', 'ours')", "INSERT INTO t VALUES(6, 'new', 'theirs')"
    (found,) = merge(UNIQUE, *sides).report.conflicts
    assert (found.kind, found.key) == (Kind.UNIQUE, {"id": 5})
    assert found.ours == {"id": 5, "u": "new", "a": "ours"}
    assert found.theirs == {"id": 6, "u": "new", "a": "theirs"}
    at_end = "SELECT id, a FROM t WHERE u = 'new'"
    assert merge(UNIQUE, *sides, policy=OURS).rows(at_end) == [(5, "ours")]
    assert merge(UNIQUE, *sides, policy=THEIRS).rows(at_end) == [(6, "theirs")]
    assert len(merge(UNIQUE, *sides, policy=RENUMBER).conflicts()) == 1


def test_an_update_to_a_unique_value_of_theirs(merge):
    sides = (
        "UPDATE t SET u = 'new' WHERE id = 1",
        "UPDATE t SET u = 'new' WHERE id = 2; UPDATE t SET a = 5 WHERE id = 1",
    )
    assert "UNIQUE constraint failed: t.u" in merge(UNIQUE, *sides).conflicts()[0]
    ours = merge(UNIQUE, *sides, policy=OURS)
    assert ours.rows("SELECT * FROM t") == [(1, "new", 5), (2, "y", 2), (3, "z", 3)]
    theirs = merge(UNIQUE, *sides, policy=THEIRS)
    assert theirs.rows("SELECT * FROM t") == [(1, "x", 5), (2, "new", 2), (3, "z", 3)]


def test_unique_expressions_and_partial_indexes_name_the_other_row(merge):
    base = (
        "CREATE TABLE t(a, b); CREATE UNIQUE INDEX one ON t(lower(a)) WHERE b; "
        "INSERT INTO t VALUES('q', 1);"
    )
    sides = "INSERT INTO t VALUES('X', 1)", "INSERT INTO t VALUES('x', 1), ('X', 0)"
    (found,) = merge(base, *sides).report.conflicts
    assert (found.kind, found.theirs) == (Kind.UNIQUE, {"a": "x", "b": 1})


def test_a_check_that_the_merged_cells_break_is_a_conflict_for_every_policy(merge):
    base = (
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, CHECK(a <= b)); INSERT INTO t VALUES(1, 1, 5)"
    )
    sides = "UPDATE t SET a = 4", "UPDATE t SET b = 3"
    for policy in (Resolution.ABORT, OURS, THEIRS, lambda _: OURS):
        assert merge(base, *sides, policy=policy).conflicts() == [
            "check of t(id=1) in a: CHECK constraint failed: a <= b"
        ]


FAMILY = (
    "CREATE TABLE parent(id INTEGER PRIMARY KEY, name);"
    "CREATE TABLE child(id INTEGER PRIMARY KEY, p REFERENCES parent(id), a);"
    "INSERT INTO parent VALUES(1, 'one'), (2, 'two'), (3, 'three');"
    "INSERT INTO child VALUES(1, 1, 'a'), (7, 99, 'dangling');"
)


@pytest.mark.parametrize(
    ("ours", "theirs", "key"),
    [
        ("INSERT INTO child VALUES(2, 2, 'b')", "DELETE FROM parent WHERE id = 2", 2),
        ("DELETE FROM parent WHERE id = 2", "INSERT INTO child VALUES(2, 2, 'b')", 2),
        ("UPDATE child SET p = 3 WHERE id = 1", "UPDATE parent SET id = 33 WHERE id = 3", 1),
        ("UPDATE parent SET id = 33 WHERE id = 3", "UPDATE child SET p = 3 WHERE id = 1", 1),
    ],
)
def test_a_row_whose_parent_the_other_side_removed_is_a_conflict(merge, ours, theirs, key):
    for policy in (Resolution.ABORT, OURS):
        (found,) = merge(FAMILY, ours, theirs, policy=policy).report.conflicts
        assert (found.kind, found.table) == (Kind.FOREIGN_KEY, "child")
        assert (found.key, found.columns) == ({"id": key}, ("p",))


def test_what_had_no_parent_before_is_no_conflict(merge):
    result = merge(
        FAMILY,
        "UPDATE child SET a = 'x' WHERE id = 7; INSERT INTO child VALUES(8, 98, 'ours')",
        "DELETE FROM parent WHERE id = 3; INSERT INTO child VALUES(9, 97, 'theirs')",
    )
    assert result.rows("SELECT id, p FROM child") == [(1, 1), (7, 99), (8, 98), (9, 97)]


# Renumbering ------------------------------------------------------------------------------------


def test_a_renumbered_row_takes_its_children_along(merge):
    base = FAMILY + (
        "CREATE TABLE profile(id INTEGER PRIMARY KEY REFERENCES parent, text);"
        "CREATE TABLE link(a REFERENCES parent, b REFERENCES parent, PRIMARY KEY(a, b)) "
        "WITHOUT ROWID;"
    )
    result = merge(
        base,
        "INSERT INTO parent VALUES(4, 'ours'), (5, 'alone');"
        "INSERT INTO child VALUES(2, 4, 'ours');"
        "INSERT INTO profile VALUES(4, 'ours'); INSERT INTO link VALUES(4, 1), (1, 4);"
        "UPDATE child SET p = 4 WHERE id = 1",
        "INSERT INTO parent VALUES(4, 'theirs'); INSERT INTO child VALUES(2, 4, 'theirs');"
        "INSERT INTO profile VALUES(4, 'theirs'); INSERT INTO link VALUES(4, 1)",
        policy=RENUMBER,
    )
    assert result.rows("SELECT * FROM parent WHERE id > 3") == [
        (4, "theirs"),
        (5, "alone"),
        (6, "ours"),
    ]
    assert result.rows("SELECT * FROM child WHERE id <> 7") == [
        (1, 6, "a"),
        (2, 4, "theirs"),
        (8, 6, "ours"),
    ]
    assert result.rows("SELECT * FROM profile") == [(4, "theirs"), (6, "ours")]
    assert result.rows("SELECT * FROM link") == [(1, 6), (4, 1), (6, 1)]
    assert {(each.table, each.ours, each.merged) for each in result.report.renumbered} == {
        ("parent", 4, 6),
        ("child", 2, 8),
    }


def test_a_tree_is_renumbered_whole(merge):
    result = merge(
        "CREATE TABLE tree(id INTEGER PRIMARY KEY AUTOINCREMENT, up REFERENCES tree, name)",
        "INSERT INTO tree VALUES(1, NULL, 'a'), (2, 3, 'c'), (3, 1, 'b')",
        "INSERT INTO tree VALUES(1, NULL, 'A'), (2, 1, 'B'), (3, 1, 'b'), (9, 1, 'X'); "
        "DELETE FROM tree WHERE id = 9",
        policy=RENUMBER,
    )
    rows = {name: (key, up) for key, up, name in result.rows("SELECT * FROM tree WHERE id > 9")}
    assert rows["a"][1] is None
    assert rows["c"][1] == rows["b"][0]
    assert rows["b"][1] == rows["a"][0]
    assert result.rows("SELECT seq FROM sqlite_sequence") == result.rows("SELECT max(id) FROM tree")


def test_equal_inserts_are_renumbered_if_they_are_conflicts(merge):
    both = "INSERT INTO t VALUES(3, 'withdraw', 5)"
    result = merge(TABLE, both, both, policy=RENUMBER, coincident_conflicts=True)
    assert result.rows("SELECT * FROM t WHERE id > 2") == [(3, "withdraw", 5), (4, "withdraw", 5)]


def test_there_may_be_no_fresh_key(merge):
    sides = (f"INSERT INTO t VALUES({(1 << 63) - 1}, '{side}', 1)" for side in ("ours", "theirs"))
    assert "insert/insert" in merge(TABLE, *sides, policy=RENUMBER).conflicts()[0]


def test_fresh_keys_do_not_help_other_conflicts(merge):
    sides = "UPDATE t SET a = 10 WHERE id = 1", "UPDATE t SET a = 20 WHERE id = 1"
    assert len(merge(TABLE, *sides, policy=RENUMBER).conflicts()) == 1
