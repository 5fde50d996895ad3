"""`graft revert`, as a person at a terminal and a script see it."""

from __future__ import annotations

import pytest


@pytest.fixture
def three(cli):
    """A machine that pushed three commits of `main`."""
    cli.with_remote()
    cli.machine("a")
    cli.ok("new", "main")
    for statement in (
        "CREATE TABLE t(x INTEGER PRIMARY KEY, y)",
        "INSERT INTO t VALUES(1, 'one'), (2, 'two')",
        "INSERT INTO t VALUES(3, 'three')",
    ):
        cli.sql("main", statement)
        cli.ok("push", "main")
    return cli


def test_revert_undoes_a_commit_and_names_the_way_back(three):
    text = three.ok("revert", "main", "2", "--dry-run")
    assert text == (
        "Would revert 2 of main: 1 page, 4.0 KiB.\n"
        "  rows of t: 0 inserted, 2 deleted, 0 updated\n"
        "  (use `graft revert main 2` to do it)\n"
    )
    assert three.sql("main", "SELECT x FROM t") == [(1,), (2,), (3,)]
    text = three.ok("revert", "main", "2", "-m", "two was wrong")
    assert text.startswith("Reverted 2 of main as local:")
    assert text.endswith("\n  (use `graft restore main --at 3` to go back to what it had)\n")
    assert three.sql("main", "SELECT x FROM t") == [(3,)]
    assert "two was wrong" in three.ok("log", "main", "-n", "1")
    three.ok("push", "main")
    assert three.ok("undo", "main", "2") == ("Nothing to revert: main has nothing left of 2.\n")
    done = three.json("revert", "main", "HEAD")
    assert (done["commit"], done["before"], done["conflicts"]) == ("4", "4", [])
    assert three.sql("main", "SELECT x FROM t") == [(1,), (2,), (3,)]


def test_conflicts_are_listed_and_nothing_is_written(three):
    three.sql("main", "UPDATE t SET y = 'II' WHERE x = 2")
    three.ok("push", "main")
    said = three.fails(5, "revert", "main", "2")
    assert 't where "x" = 2: a later commit changed it' in said
    assert "graft revert main 2 --dry-run" in said
    result = three.run("revert", "main", "2", "--dry-run")
    assert result.exit_code == 5
    assert result.stdout == (
        "2 of main cannot be reverted, later commits are in the way:\n"
        '  t where "x" = 2: a later commit changed it\n'
    )
    assert three.sql("main", "SELECT x FROM t") == [(1,), (2,), (3,)]
    assert "up to date" in three.ok("status", "main")


def test_what_is_not_pushed_needs_force(three):
    three.sql("main", "INSERT INTO t VALUES(4, 'four')")
    assert "hint: run `graft push main` first, or revert with --force" in three.fails(
        2, "revert", "main", "HEAD"
    )
    three.ok("revert", "main", "HEAD", "--force")
    assert three.sql("main", "SELECT count(*) FROM t") == [(3,)]
    assert "no commit 9" in three.fails(2, "revert", "main", "9")
    assert "no tag 'none'" in three.fails(2, "revert", "none", "1")
