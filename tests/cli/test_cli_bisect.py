"""`graft bisect`, as a person at a terminal and a script see it."""

from __future__ import annotations

import pytest

QUERY = "SELECT min(price) > 0 FROM prices"


@pytest.fixture
def priced(cli):
    """A machine with 12 commits of `main`, of which LSN 9 is wrong, and one that is not pushed."""
    cli.with_remote()
    cli.machine("a")
    cli.ok("new", "main")
    cli.sql("main", "CREATE TABLE prices(price)")
    cli.ok("push", "main", "-m", "no price yet")
    for number in range(2, 13):
        cli.sql("main", f"INSERT INTO prices VALUES({-1 if number == 9 else number})")
        cli.ok("push", "main", "-m", f"import {number}")
    cli.sql("main", "INSERT INTO prices VALUES(13)")
    return cli


def test_each_step_is_shown_and_what_was_found(priced):
    lines = priced.ok("bisect", "main", QUERY).splitlines()
    local = lines[0].split()[1]
    assert local.startswith("local:")
    assert lines[:5] == [f"false  {local}", "false  12", "false  10", "true   6", "true   8"]
    assert lines[5] == "false  9"
    assert lines[6] == (
        "9 is the first commit for which it is false; 8, before it, is the last for which it is "
        "true."
    )
    assert lines[7].endswith("  import 9")
    assert lines[8] == "  snapshots looked at: 6"
    assert lines[9].startswith("  (use `graft diff main 8..9 --rows` to see what changed, ")
    assert lines[9].endswith("`graft revert main 9` to undo it)")


def test_json_has_every_step_and_the_commit(priced):
    found = priced.json("bisect", "main", QUERY, "--good", "2", "--bad", "10")
    assert (found["commit"], found["last_true"], found["sql"]) == ("9", "8", QUERY)
    assert [(each["commit"], each["is_true"]) for each in found["steps"]] == [
        ("10", False),
        ("2", True),
        ("6", True),
        ("8", True),
        ("9", False),
    ]
    assert (found["found"]["message"], found["found"]["lsn"]) == ("import 9", 9)


def test_a_failure_is_shown_beside_its_step(priced):
    priced.sql("main", "ALTER TABLE prices RENAME TO costs")
    text = priced.ok("bisect", "main", "SELECT 1 FROM prices")
    assert text.splitlines()[0].endswith("  (no such table: prices)")


def test_what_is_no_query_or_has_nothing_to_find_is_refused(priced):
    assert "the SQL is not a SELECT" in priced.fails(2, "bisect", "main", "DROP TABLE prices")
    assert "more than one statement" in priced.fails(2, "bisect", "main", "SELECT 1; SELECT 2")
    for ends, steps, said in (
        (("--bad", "8"), "true   8\n", "it is true for 8, so that there is no commit to find"),
        (
            ("--good", "10", "--bad", "12"),
            "false  12\nfalse  10\n",
            f"either\nhint: name an earlier one, `graft bisect main '{QUERY}' --good COMMIT`",
        ),
    ):
        result = priced.run("bisect", "main", QUERY, *ends)
        assert (result.exit_code, result.stdout) == (2, steps)
        assert said in result.stderr
    assert "no tag 'none'" in priced.fails(2, "bisect", "none", QUERY)
