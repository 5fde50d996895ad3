"""`graft rebase`, as a person at a terminal and a script see it."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def diverge(cli):
    """Return a function that makes machine b, which is then current, diverge from the remote."""
    cli.with_remote()
    cli.machine("a")
    cli.ok("new", "main")
    cli.sql("main", "CREATE TABLE t(id INTEGER PRIMARY KEY, name, price)")
    cli.sql("main", "INSERT INTO t VALUES(1, 'pen', 2), (2, 'ink', 5)")
    cli.ok("push", "main")
    cli.machine("b")
    cli.ok("clone", "main", "main")

    def run(ours: str, theirs: str):
        cli.machine("a")
        cli.ok("pull", "main")
        cli.sql("main", theirs)
        cli.ok("push", "main")
        cli.machine("b")
        cli.sql("main", ours)
        return cli

    return run


def test_rebase_merges_both_and_says_where_the_former_commits_are(diverge):
    cli = diverge(
        "UPDATE t SET price = 3 WHERE id = 1; INSERT INTO t VALUES(3, 'nib', 1)",
        "UPDATE t SET name = 'quill' WHERE id = 1",
    )
    text = cli.ok("rebase", "main", "--dry-run")
    assert text == (
        "A rebase of main would have no conflicts.\n"
        "Merged rows of ours: 1 inserted, 1 updated, 0 deleted; 1 of them with changes of both "
        "sides.\n"
    )
    assert cli.sql("main", "SELECT name FROM t WHERE id = 1") == [("pen",)]
    text = cli.ok("rebase", "main")
    assert text.startswith("Rebased 2 commits from LSN 1 onto LSN 2 of log ")
    assert "\nThe former commits are kept as branch " in text
    assert cli.sql("main", "SELECT * FROM t") == [(1, "quill", 3), (2, "ink", 5), (3, "nib", 1)]
    assert "kept by rebase" in cli.ok("branches", "main")
    cli.ok("push", "main")
    assert "Already up to date" in cli.ok("rebase", "main")
    assert cli.json("rebase", "main", "--dry-run")["before"] == 3


def test_conflicts_are_listed_with_what_each_side_has(diverge):
    cli = diverge(
        "UPDATE t SET price = 3 WHERE id = 1; INSERT INTO t VALUES(3, 'nib', 1)",
        "UPDATE t SET price = 4 WHERE id = 1; INSERT INTO t VALUES(3, x'00', 9)",
    )
    for arguments in (["rebase", "main"], ["rebase", "main", "--dry-run"]):
        result = cli.run(*arguments)
        assert result.exit_code == 5
        assert result.stdout == (
            "Nothing was moved: 2 conflicts.\n"
            "update/update of t(id=1)\n"
            "  base    price=2\n"
            "  ours    price=3\n"
            "  theirs  price=4\n"
            "insert/insert of t(id=3)\n"
            "  ours    name='nib', price=1\n"
            "  theirs  name=x'00', price=9\n"
        )
    found = json.loads(cli.run("rebase", "main", "--json").stdout)
    assert found["conflict_count"] == 2
    assert found["conflicts"][1] == {
        "kind": "insert/insert",
        "table": "t",
        "key": {"id": 3},
        "columns": ["name", "price"],
        "base": None,
        "ours": {"id": 3, "name": "nib", "price": 1},
        "theirs": {"id": 3, "name": {"blob": "00"}, "price": 9},
        "detail": "",
        "resolution": "abort",
    }
    assert cli.sql("main", "SELECT price FROM t") == [(3,), (5,), (1,)]
    assert "(use `graft rebase main` to merge the rows of both)" in cli.ok("status", "main")
    assert "merge both with `graft rebase main`" in cli.fails(5, "push", "main")
    text = cli.ok("rebase", "main", "--policy", "ours")
    assert "conflicts resolved: 2" in text
    assert cli.sql("main", "SELECT price FROM t") == [(3,), (5,), (1,)]


def test_new_rows_of_ours_get_fresh_keys(diverge):
    cli = diverge("INSERT INTO t VALUES(3, 'nib', 1)", "INSERT INTO t VALUES(3, 'pad', 9)")
    done = cli.json("rebase", "main", "--policy", "renumber")
    assert done["merged"]["renumbered"] == [{"table": "t", "ours": 3, "merged": 4}]
    assert cli.sql("main", "SELECT * FROM t WHERE id > 2") == [(3, "pad", 9), (4, "nib", 1)]


def test_conflicts_of_the_schema_show_the_statements(diverge):
    cli = diverge("CREATE VIEW v AS\n SELECT 1", "CREATE VIEW v AS SELECT 2")
    result = cli.run("rebase", "main", "--policy", "theirs")
    assert (result.exit_code, result.stdout) == (
        5,
        (
            "Nothing was moved: 1 conflict.\n"
            "schema of view v: both sides changed it\n"
            "  ours    CREATE VIEW v AS SELECT 1\n"
            "  theirs  CREATE VIEW v AS SELECT 2\n"
        ),
    )


def test_the_choices_reach_the_merge(diverge):
    both = "UPDATE t SET price = price - 1 WHERE id = 1"
    cli = diverge(both, f"{both}; UPDATE t SET name = 'blue ink' WHERE id = 2")
    assert "equal changes: 1" in cli.ok("rebase", "main", "--dry-run")
    strict = cli.run("rebase", "main", "--coincident", "conflict")
    assert (strict.exit_code, "coincident of t(id=1)" in strict.stdout) == (5, True)
    table = cli.run("rebase", "main", "--granularity", "table")
    assert (table.exit_code, "table of t()" in table.stdout) == (5, True)


def test_many_conflicts_are_counted(diverge):
    fill = "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n LIMIT 30) "
    cli = diverge(*(f"{fill} INSERT INTO t SELECT i, '{side}', 0 FROM n" for side in "ot"))
    result = cli.run("rebase", "main")
    assert "Nothing was moved: 30 conflicts.\n" in result.stdout
    assert result.stdout.endswith("and 10 more, see --json\n")
    assert len(json.loads(cli.run("rebase", "main", "--json").stdout)["conflicts"]) == 30


def test_wrong_calls_say_what_is_wrong(diverge):
    cli = diverge("SELECT 1", "INSERT INTO t VALUES(9, 9, 9)")
    assert "'mine' is not one of" in cli.fails(2, "rebase", "main", "--policy", "mine")
    assert "no tag 'none'" in cli.fails(2, "rebase", "none")
