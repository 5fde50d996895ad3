"""`graft status` without a tag: one row a volume, in any width."""

from __future__ import annotations

import re

import pytest

from graft_vfs.cli import table as tables
from graft_vfs.cli.table import cropped, table


def test_a_row_a_volume_with_state_and_times(pushed):
    pushed.ok("new", "fresh")
    pushed.sql("local", "CREATE TABLE t(a)", "INSERT INTO t VALUES(1)")
    headings, *lines = pushed.ok("status").splitlines()
    assert headings.split() == ["TAG", "STATE", "CHECKED", "MOVED"]
    assert re.fullmatch(r"fresh  no commits  -  +-", lines[0])
    assert re.fullmatch(r"local  ahead 2     -  +-", lines[1])
    assert re.fullmatch(r"main   up to date  \d+ seconds? ago +\d+ seconds? ago", lines[2])


def test_the_rows_as_json_have_stable_words(pushed):
    pushed.ok("new", "fresh")
    fresh, main = pushed.json("status")
    assert (fresh["tags"], fresh["state"], fresh["last_checked_ms"]) == (
        ["fresh"],
        "no_commits",
        None,
    )
    assert (main["tags"], main["state"], main["ahead"], main["behind"]) == (
        ["main"],
        "up_to_date",
        0,
        0,
    )
    assert main["last_moved_ms"] <= main["last_checked_ms"]
    one = pushed.json("status", "main")
    assert one["state"] == "up_to_date"
    assert one["last_checked_ms"] == one["last_sync_ms"] == main["last_checked_ms"]


def test_without_volumes_standard_output_is_empty(cli):
    result = cli.run("status")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "there is no volume yet" in result.stderr
    assert cli.json("status") == []


def test_without_a_remote_the_state_says_so(cli):
    cli.ok("new", "main")
    assert "main  no remote" in cli.ok("status")
    assert cli.json("status", "main")["state"] == "no_remote"


def test_what_is_wrong_is_below_the_table(pushed, monkeypatch):
    pushed.sql("main", "INSERT INTO t VALUES(-1, 'new')")
    (pushed.root / "remote").rename(pushed.root / "away")
    assert pushed.run("push", "main").exit_code
    assert "\nmain: the last sync failed: " in pushed.ok("status")


def test_a_table_fits_its_screen_and_a_pipe_gets_all_of_it():
    rows = [("a" * 50, "up to date", "5 minutes ago"), ("b", "ahead 3", "-")]
    headings = ("TAG", "STATE", "CHECKED")
    for width in (60, 80, 200):
        lines = [*table(headings, rows, width)]
        assert max(map(len, lines)) <= width
        assert ("..." in lines[1]) == (width < 80)
    assert [*table(headings, rows, None)] == [
        f"{'TAG':<50}  STATE       CHECKED",
        f"{'a' * 50}  up to date  5 minutes ago",
        f"{'b':<50}  ahead 3     -",
    ]


@pytest.mark.parametrize(
    ("text", "width", "shown"), [("abcdef", 6, "abcdef"), ("abcdef", 5, "ab...")]
)
def test_cropped_text_says_that_it_is(text, width, shown):
    assert cropped(text, width) == shown


def test_control_characters_of_a_tag_take_the_room_that_they_are_shown_in(monkeypatch):
    lines = [*table(("TAG", "STATE"), [("a\x1b[2J", "x"), ("b", "y")], None)]
    assert lines == ["TAG       STATE", "a\\x1b[2J  x", "b         y"]


def test_a_pipe_has_no_width(monkeypatch):
    assert tables.screen_width() is None
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(tables.sys.stdout, "isatty", lambda: True, raising=False)
    assert tables.screen_width() == 60
