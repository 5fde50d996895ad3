"""Kept branches, as a person at a terminal and a script see them."""

from __future__ import annotations

import pytest


@pytest.fixture
def kept(cli):
    """A machine with one pushed commit, a restore of it, and two commits that this has left."""
    cli.with_remote()
    cli.machine("a")
    cli.ok("new", "main")
    cli.sql("main", "CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    cli.ok("push", "main")
    cli.sql("main", "INSERT INTO t VALUES(2)")
    cli.sql("main", "INSERT INTO t VALUES(3)")
    cli.ok("restore", "main", "--at", "BASE")
    return cli


def test_branches_are_listed_gone_back_to_and_removed(kept):
    current, left = kept.json("branches", "main")
    assert (current["current"], current["kept_ms"]) == (True, None)
    assert (left["commits"], left["base"], left["reason"]) == (2, 1, "restore")
    lines = kept.ok("branches", "main").splitlines()
    assert [line[0] for line in lines] == ["*", " "]
    assert "kept by restore" in lines[1]
    short = lines[1].split()[0]
    assert len(short) < len(left["branch"])
    assert "deleted" in kept.ok("diff", "main", f"branch:{short}..HEAD")

    text = kept.ok("switch", "main", short)
    assert text.startswith("Switched main to branch ")
    assert kept.sql("main", "SELECT x FROM t") == [(1,), (2,), (3,)]
    (other,) = kept.json("branches", "main")[1:]
    assert f"use `graft switch main {other['branch'][:8]}" in text
    assert "1 branch with unpushed commits kept: `graft branches main`." in kept.ok(
        "status", "main"
    )
    assert kept.ok("branch", "rm", "main", other["branch"]).startswith("Removed branch ")
    assert len(kept.json("branches", "main")) == 1
    assert "kept" not in kept.ok("status", "main")


def test_a_branch_that_is_not_kept_is_refused_with_a_next_step(kept):
    for words in (
        ("switch", "main", "74ggc1B6R4-2kkvcy9fi4CHJ"),
        ("branch", "rm", "main", "74ggc1B6R4-2kkvcy9fi4CHJ"),
        ("export", "main", "x.db", "--at", "branch:74ggc1B6R4-2kkvcy9fi4CHJ"),
    ):
        refused = kept.fails(2, *words)
        assert "the volume keeps no branch '74ggc1B6R4-2kkvcy9fi4CHJ'" in refused
        assert "graft branches main" in refused


def test_the_group_without_a_command_shows_its_help(kept):
    assert "graft branch rm" in kept.ok("branch")
