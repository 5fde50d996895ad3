"""Virtual tables in a merge."""

from __future__ import annotations

import pytest

from graft_vfs.merge.conflicts import Kind, Resolution

OWN = "CREATE VIRTUAL TABLE f USING fts5(x, y UNINDEXED); INSERT INTO f VALUES('one', 1);"
OUTSIDE = (
    "CREATE TABLE doc(id INTEGER PRIMARY KEY, x);"
    "CREATE VIRTUAL TABLE f USING fts5(x, content='doc', content_rowid=id);"
    "CREATE TRIGGER i AFTER INSERT ON doc BEGIN "
    "INSERT INTO f(rowid, x) VALUES(new.id, new.x); END;"
    "CREATE TRIGGER u AFTER UPDATE ON doc BEGIN "
    "INSERT INTO f(f, rowid, x) VALUES('delete', old.id, old.x);"
    "INSERT INTO f(rowid, x) VALUES(new.id, new.x); END;"
    "INSERT INTO doc VALUES(1, 'one'), (2, 'two');"
)
CHECK = "INSERT INTO f(f, rank) VALUES('integrity-check', 1)"


def found(result, word: str) -> list[int]:
    return [key for (key,) in result.rows(f"SELECT rowid FROM f('{word}') ORDER BY rowid")]


def test_an_index_that_both_sides_changed_is_rebuilt(merge):
    result = merge(
        OWN,
        "INSERT INTO f(rowid, x, y) VALUES(10, 'ours', 2); UPDATE f SET x = 'eins' WHERE rowid = 1",
        "INSERT INTO f(rowid, x, y) VALUES(11, 'theirs', 3); UPDATE f SET y = 9 WHERE rowid = 1",
    )
    assert result.report.rebuilt == ("f",)
    result.rows(CHECK)
    assert result.rows("SELECT rowid, * FROM f") == [
        (1, "eins", 9),
        (10, "ours", 2),
        (11, "theirs", 3),
    ]
    assert (found(result, "ours"), found(result, "theirs"), found(result, "one")) == (
        [10],
        [11],
        [],
    )


@pytest.mark.parametrize("module", ["fts3(x, y)", "fts4(x, y)", "fts4(x, y, content='doc')"])
def test_older_full_text_tables_are_rebuilt_too(merge, module):
    base = f"CREATE TABLE doc(x, y); CREATE VIRTUAL TABLE f USING {module};"
    row = (
        "INSERT INTO doc(rowid, x) VALUES({0}, '{1}'); INSERT INTO f(docid, x) VALUES({0}, '{1}');"
    )
    result = merge(base + row.format(1, "one"), row.format(10, "ours"), row.format(11, "theirs"))
    assert result.report.rebuilt == ("f",)
    for word, key in (("one", 1), ("ours", 10), ("theirs", 11)):
        assert result.rows(f"SELECT docid FROM f WHERE f MATCH '{word}'") == [(key,)]


def test_rows_of_an_index_conflict_like_others_and_get_fresh_keys(merge):
    sides = "INSERT INTO f VALUES('ours', 2)", "INSERT INTO f VALUES('theirs', 3)"
    assert merge(OWN, *sides).conflicts() == ["insert/insert of f_content(id=2) in c0, c1"]
    result = merge(OWN, *sides, policy=Resolution.RENUMBER)
    result.rows(CHECK)
    assert (found(result, "theirs"), found(result, "ours")) == ([2], [3])


@pytest.mark.parametrize(
    "declaration",
    [
        "USING fts5(x)",
        "USING fts5(x, content='')",
        "USING fts4(x)",
        "USING fts3(x)",
        "USING rtree(x, x0, x1)",
        "USING geopoly(x)",
    ],
)
@pytest.mark.parametrize("is_ours", [True, False])
def test_an_index_that_one_side_changed_is_carried(merge, declaration, is_ours):
    rows = "INSERT INTO {} VALUES({});"
    key, value = "f(rowid, x)", "{}, 'word'"
    if "rtree" in declaration:
        key, value = "f", "{}, 1, 2"
    if "geopoly" in declaration:
        key, value = "f(rowid, _shape)", "{}, '[[0,0],[1,0],[1,1],[0,0]]'"
    change = rows.format(key, value.format(5))
    sides = change, "CREATE TABLE t(a)"
    base = f"CREATE VIRTUAL TABLE f {declaration};" + rows.format(key, value.format(1))
    result = merge(base, *(sides if is_ours else reversed(sides)))
    assert result.report.rebuilt == ()
    keys = "rowid" if "rtree" not in declaration else "x"
    assert result.rows(f"SELECT {keys} FROM f ORDER BY 1") == [(1,), (5,)]
    if "fts" in declaration:
        assert result.rows("SELECT rowid FROM f WHERE f MATCH 'word'") == [(1,), (5,)]


@pytest.mark.parametrize(
    ("declaration", "why"),
    [
        ("fts5(x, content='')", "without content (fts5) cannot be merged"),
        ('fts5(x, content="", columnsize=0)', "without content (fts5) cannot be merged"),
        ('fts4(content="", x)', "without content (fts4) cannot be merged"),
        ("geopoly(x)", "of this module (geopoly) cannot be merged"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(merge, declaration, why):
    base = f"CREATE VIRTUAL TABLE f USING {declaration}"
    column, value = "x", "'a'"
    if "geopoly" in declaration:
        column, value = "_shape", "'[[0,0],[1,0],[1,1],[0,0]]'"
    sides = [f"INSERT INTO f(rowid, {column}) VALUES({key}, {value})" for key in (1, 2)]
    for policy in (Resolution.ABORT, Resolution.OURS):
        result = merge(base, *sides, policy=policy)
        (conflict,) = result.conflicts()
        assert conflict.startswith("schema of table f: both sides changed it")
        assert why in conflict


def test_an_unknown_module_is_refused_if_both_sides_changed_its_tables(merge):
    base = (
        "CREATE TABLE v_data(id INTEGER PRIMARY KEY, a); CREATE TABLE other(a);"
        "PRAGMA writable_schema = ON; INSERT INTO sqlite_schema VALUES("
        "'table', 'v', 'v', 0, 'CREATE VIRTUAL TABLE v USING nothing_known(a)');"
        "PRAGMA writable_schema = RESET"
    )
    sides = "INSERT INTO v_data VALUES(1, 1)", "INSERT INTO v_data VALUES(2, 2)"
    (conflict,) = merge(base, *sides).conflicts()
    assert "of this module (nothing_known) cannot be merged" in conflict
    carried = merge(base, sides[0], "INSERT INTO other VALUES(1)")
    assert carried.rows("SELECT * FROM v_data") == [(1, 1)]


def test_an_index_on_a_table_is_rebuilt_after_its_rows_were_merged(merge):
    result = merge(
        OUTSIDE,
        "INSERT INTO doc VALUES(3, 'ours'); UPDATE doc SET x = 'eins' WHERE id = 1",
        "INSERT INTO doc VALUES(4, 'theirs'); UPDATE doc SET x = 'zwei' WHERE id = 2",
    )
    result.rows(CHECK)
    words = ("ours", "theirs", "eins", "zwei", "one", "two")
    assert [found(result, word) for word in words] == [[3], [4], [1], [2], [], []]
    renumbered = merge(
        OUTSIDE,
        "INSERT INTO doc VALUES(3, 'ours')",
        "INSERT INTO doc VALUES(3, 'theirs')",
        policy=Resolution.RENUMBER,
    )
    renumbered.rows(CHECK)
    assert (found(renumbered, "theirs"), found(renumbered, "ours")) == ([3], [4])


def test_an_r_tree_of_both_sides_is_merged_by_rows(merge):
    base = "CREATE VIRTUAL TABLE r USING rtree(id, x0, x1, +name); INSERT INTO r VALUES"
    base += ",".join(f"({i}, {i}.1, {i}.9, 'n{i}')" for i in range(1, 200))
    result = merge(
        base,
        "INSERT INTO r VALUES(500, 1, 2, 'ours'); UPDATE r SET name = 'ours' WHERE id = 1; "
        "DELETE FROM r WHERE id = 2",
        "INSERT INTO r VALUES(501, 1, 2, 'theirs'); UPDATE r SET x0 = 0.5 WHERE id = 1; "
        "DELETE FROM r WHERE id = 3",
    )
    assert result.rows("SELECT rtreecheck('r')") == [("ok",)]
    rows = result.rows("SELECT id, x0, name FROM r WHERE id < 4 OR id > 400 ORDER BY id")
    assert rows == [(1, 0.5, "ours"), (500, 1.0, "ours"), (501, 1.0, "theirs")]
    assert result.rows("SELECT count(*) FROM r") == [(199,)]


def test_rows_of_an_r_tree_conflict_like_others(merge):
    base = "CREATE VIRTUAL TABLE r USING rtree_i32(id, x0, x1); INSERT INTO r VALUES(1, 1, 5)"
    result = merge(base, "UPDATE r SET x0 = 4", "UPDATE r SET x1 = 2")
    (conflict,) = result.report.conflicts
    assert conflict.kind is Kind.CHECK
    sides = "INSERT INTO r VALUES(2, 1, 1)", "INSERT INTO r VALUES(2, 9, 9)"
    assert merge(base, *sides).conflicts() == ["insert/insert of r(id=2) in x0, x1"]
    renumbered = merge(base, *sides, policy=Resolution.OURS)
    assert renumbered.rows("SELECT * FROM r WHERE id = 2") == [(2, 1, 1)]


@pytest.mark.parametrize("module", ["fts5(x)", "fts4(x)", "rtree(id, x0, x1)"])
def test_a_virtual_table_of_ours_is_made_with_its_rows(merge, module):
    values = "1, 2, 3" if "rtree" in module else "'word'"
    result = merge(
        "CREATE TABLE t(a)",
        f"CREATE VIRTUAL TABLE f USING {module}; INSERT INTO f VALUES({values})",
        "INSERT INTO t VALUES(1)",
    )
    assert result.rows("SELECT count(*) FROM f") == [(1,)]
    if "fts" in module:
        assert result.rows("SELECT rowid FROM f WHERE f MATCH 'word'") == [(1,)]


def test_a_virtual_table_that_ours_dropped_goes_unless_theirs_changed_it(merge):
    result = merge(OWN, "DROP TABLE f", "CREATE TABLE t(a)")
    assert result.rows("SELECT name FROM sqlite_schema") == [("t",)]
    changed = merge(OWN, "DROP TABLE f", "INSERT INTO f VALUES('x', 1)")
    assert changed.conflicts() == [
        "schema of table f: ours dropped it, and theirs changed its rows"
    ]
