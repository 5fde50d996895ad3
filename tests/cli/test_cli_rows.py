"""`graft diff --rows` and `--sql`: each changed row on the screen, as JSON, and as a patch."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3

import pytest

from graft_vfs.cli import rows
from graft_vfs.history.rows import NotCompared, RawText, RowChange
from graft_vfs.reports import Change, SchemaDiff


@pytest.fixture
def changed(pushed):
    pushed.sql(
        "main",
        "UPDATE t SET v = x'00ff' WHERE id = 5",
        "DELETE FROM t WHERE id = 1000",
        "INSERT INTO t VALUES(3000, 'it''s new')",
        "CREATE INDEX by_v ON t(v)",
    )
    return pushed


def test_rows_show_key_column_and_what_it_was_and_is(changed):
    assert changed.ok("diff", "main", "--rows").splitlines() == [
        "index by_v: added",
        "table t",
        f"  ~ id=5          v: '{'row ' + '0' * 56}'... (204 characters) -> x'00ff'",
        f"  - id=1000       v='{'row ' + '0' * 56}'... (204 characters)",
        "  + id=3000       v='it''s new'",
    ]
    changed.ok("push", "main")
    assert changed.ok("diff", "main", "1", "2", "--rows").count("\n") == 5


def test_rows_as_json_are_one_object_a_line(changed):
    lines = changed.ok("diff", "main", "--rows", "--json").splitlines()
    schema, updated, deleted, inserted = map(json.loads, lines)
    assert schema == {"kind": "index", "name": "by_v", "change": "added"}
    assert updated == {
        "table": "t",
        "change": "updated",
        "key": {"id": 5},
        "old": {"v": f"row {5:0200}"},
        "new": {"v": {"blob": "00ff"}},
    }
    assert (deleted["change"], deleted["new"], deleted["old"]["id"]) == ("deleted", None, 1000)
    assert (inserted["old"], inserted["new"]) == (None, {"id": 3000, "v": "it's new"})


def test_without_changes_standard_output_is_empty(pushed):
    result = pushed.run("diff", "main", "--rows")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing changed" in result.stderr
    assert pushed.ok("diff", "main", "--rows", "--json") == ""


def test_the_patch_makes_an_older_file_the_newer_one(changed, tmp_path):
    older, newer = tmp_path / "older.db", tmp_path / "newer.db"
    shutil.copy(tmp_path / "plain.db", older)
    script = changed.ok("diff", "main", "--sql")
    changed.ok("export", "main", str(newer))
    with contextlib.closing(sqlite3.connect(older)) as connection:
        connection.executescript(script)
        found = list(connection.iterdump())
    with contextlib.closing(sqlite3.connect(newer)) as connection:
        assert found == list(connection.iterdump())


def test_a_patch_is_not_made_safe_for_a_terminal_that_is_none(pushed):
    pushed.sql("main", 'CREATE TABLE "\u009b\x07"(a)')
    assert 'CREATE TABLE "\u009b\x07"(a);' in pushed.ok("diff", "main", "--sql")


@pytest.mark.parametrize("option", ["--rows", "--json"])
def test_sql_is_a_form_of_its_own(pushed, option):
    result = pushed.run("diff", "main", "--sql", option)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--sql excludes" in result.stderr


@pytest.mark.parametrize(
    ("value", "text", "as_json"),
    [
        (None, "NULL", None),
        (2**60, str(2**60), 2**60),
        (1.0, "1.0", 1.0),
        (float("inf"), "inf", {"real": "Infinity"}),
        (float("-inf"), "-inf", {"real": "-Infinity"}),
        ("it's\n", "'it''s\\n'", "it's\n"),
        ("x" * 61, f"'{'x' * 60}'... (61 characters)", "x" * 61),
        (b"\0\xff", "x'00ff'", {"blob": "00ff"}),
        (bytes(21), f"x'{'00' * 20}'... (21 bytes)", {"blob": "00" * 21}),
        (RawText(b"a\xff"), "text x'61ff'", {"text": "61ff"}),
    ],
)
def test_a_value_keeps_its_class(value, text, as_json):
    assert rows.value_text(value) == text
    found = rows.json_value(value)
    assert found == as_json
    assert type(found) is type(as_json)
    json.loads(json.dumps(found, allow_nan=False))


def test_what_is_no_row_has_a_line_of_its_own():
    found = [SchemaDiff("view", "v", Change.DROPPED), NotCompared("t", "no key")]
    assert [*rows.lines(found, 80)] == ["view v: dropped", "rows of t: not compared: no key"]
    assert json.loads(rows.json_line(found[1])) == {"table": "t", "reason": "no key"}


def test_a_column_that_one_side_lacks_is_said():
    change = RowChange("t", {"id": 1}, {"id": 1, "a": 1}, {"id": 1, "b": 2})
    assert [*rows.lines([change], 80)][1:] == [
        "  ~ id=1          b: (no such column) -> 2",
        "                  a: 1 -> (no such column)",
    ]


def test_lines_fit_the_screen():
    change = RowChange("t", {"id": 1}, None, {"id": 1, **{f"c{n}": "x" * 50 for n in range(9)}})
    for width in (60, 80, 200):
        assert max(map(len, rows.lines([change], width))) == width
