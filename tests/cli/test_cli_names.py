"""`graft tag` and `graft push -m`: names and messages of commits, as a person sees them."""

from __future__ import annotations

import pytest


@pytest.fixture
def two(pushed):
    """A machine `a` with LSN 1 and 2, and a machine `b` that cloned main at LSN 2."""
    pushed.sql("main", "INSERT INTO t VALUES(-1, 'new')")
    pushed.ok("push", "main")
    pushed.machine("b")
    pushed.ok("clone", "main")
    pushed.machine("a")
    return pushed


def test_a_name_is_given_listed_and_found_by_another_machine(two):
    log = two.json("info", "main")["remote"]
    told = two.ok("tag", "main", "before", "HEAD~1", "-m", "before the\nnew row")
    assert told == f"Gave the name before to LSN 1 of log {log}.\n"
    given = two.json("tag", "main", "after")
    assert (given["name"], given["lsn"], given["log"], given["message"]) == ("after", 2, log, "")
    listed = two.json("tag", "main")
    assert [(row["name"], row["lsn"]) for row in listed] == [("after", 2), ("before", 1)]
    two.machine("b")
    assert two.json("show", "main", "before")["lsn"] == 1
    assert two.json("diff", "main", "before..after")["tables"][0]["inserted"] == 1
    first, second = two.ok("tag", "main").splitlines()
    assert first.split()[:3] == ["after", "LSN", "2"]
    assert second.endswith("before the")
    assert two.ok("shell", "main", "--lsn", "before", "-c", "SELECT count(*) FROM t") == "2000\n"
    assert two.json("checkout", "main", "before")["lsn"] == 1


def test_names_that_are_known_are_shown_by_log_and_show(two):
    two.ok("tag", "main", "v1", "1", "-m", "first")
    two.ok("tag", "main", "start", "1")
    newest, oldest = two.json("log", "main")
    assert (newest["names"], oldest["names"]) == ([], ["start", "v1"])
    assert two.ok("log", "main", "--oneline").splitlines()[1].startswith("1 (start, v1)")
    assert "Names:    start, v1\n" in two.ok("show", "main", "v1")
    assert two.ok("remote", "ls").endswith("  [start, v1]\n")
    assert two.json("remote", "ls")[0]["names"] == ["start", "v1"]
    assert two.json("show", "main", "v1")["names"] == ["start", "v1"]
    two.machine("b")
    assert two.json("log", "main")[1]["names"] == []
    two.ok("tag", "main")
    assert two.json("log", "main")[1]["names"] == ["start", "v1"]
    two.machine("c")
    two.ok("clone", "main")
    assert two.json("log", "main")[1]["names"] == ["start", "v1"]
    two.machine("a")
    two.ok("tag", "main", "v2", "2")
    two.machine("c")
    two.ok("fetch", "main")
    assert two.json("log", "main")[0]["names"] == []
    two.machine("a")
    two.sql("main", "INSERT INTO t VALUES(-2, 'newer')")
    two.ok("push", "main")
    two.machine("c")
    two.ok("fetch", "main")
    assert two.json("log", "main")[0]["names"] == ["v2"]


def test_log_begins_at_a_commit_or_has_those_between_two(two):
    two.sql("main", "INSERT INTO t VALUES(-2, 'newer')")
    two.ok("tag", "main", "v1", "1")

    def shown(*refs):
        return [(row["where"], row["lsn"]) for row in two.json("log", "main", *refs)]

    head, *remote = shown()
    assert remote == [("remote", 2), ("remote", 1)]
    assert shown("v1..") == [head, ("remote", 2)]
    assert shown("v1..BASE") == shown("1..2") == [("remote", 2)]
    assert shown("HEAD~1") == remote
    assert shown("HEAD..v1") == [("remote", 1)]
    assert shown("2..2") == []
    assert shown("1..", "--limit", "1") == [head]
    assert "names no commit" in two.fails(2, "log", "main", "v2..")


def test_a_name_is_removed(two):
    two.ok("tag", "main", "v1", "1")
    log = two.json("info", "main")["remote"]
    assert (
        two.ok("tag", "main", "v1", "--delete") == f"Removed the name v1 of LSN 1 of log {log}.\n"
    )
    told = two.run("tag", "main")
    assert (told.exit_code, told.stdout) == (0, "")
    assert "hint: no commit of 'main' has a name; `graft tag main NAME`" in told.stderr
    two.ok("tag", "main", "v1", "2")
    assert two.json("tag", "main", "-d", "v1")["lsn"] == 2
    assert "has no name 'v1'" in two.fails(2, "tag", "main", "-d", "v1")


def test_wrong_calls_say_what_to_type(two):
    two.ok("tag", "main", "v1", "1")
    told = two.fails(2, "tag", "main", "v1", "2")
    assert "'v1' names LSN 1 of log" in told
    assert "hint: choose another name, or remove that one with `graft tag main v1 --delete`" in told
    assert "names a commit already, as a ref" in two.fails(2, "tag", "main", "HEAD")
    assert "cannot name a commit" in two.fails(2, "tag", "main", "two words")
    assert "a message needs a NAME" in two.fails(2, "tag", "main", "-m", "why")
    for wrong in (("-d",), ("v1", "2", "-d"), ("v1", "-d", "-m", "x")):
        assert "takes TAG and NAME only" in two.fails(2, "tag", "main", *wrong)
    two.sql("main", "INSERT INTO t VALUES(-2, 'newer')")
    told = two.fails(2, "tag", "main", "v2")
    assert "is the local commit" in told
    assert "hint: run `graft push main` first" in told
    assert "there is no tag 'none'" in two.fails(2, "tag", "none")
    told = two.fails(2, "show", "main", "v11")
    assert "hint: did you mean 'v1'? write an LSN" in told


def test_pragmas_give_and_list_names(two):
    assert two.sql("main", "PRAGMA graft_names") == [("",)]
    assert "before" in two.sql("main", 'PRAGMA graft_name = "before HEAD~1"')[0][0]
    two.sql("main", "PRAGMA graft_name = 'v1'")
    found = two.sql("main", "PRAGMA graft_names")[0][0].splitlines()
    assert [line.split()[:3:2] for line in found] == [["v1", "2"], ["before", "1"]]
    assert "Checked out" in two.sql("main", "PRAGMA graft_checkout = 'before'")[0][0]


def test_a_push_says_what_it_is(two):
    two.sql("main", "INSERT INTO t VALUES(-2, 'newer')")
    assert "Pushed 1 commit as remote LSN 3" in two.ok("push", "main", "-m", "one row\n\nfor May")
    assert two.json("show", "main")["message"] == "one row\n\nfor May"
    told = two.run("push", "main", "--message", "nothing")
    assert (told.exit_code, told.stdout[:15]) == (0, "Nothing to push")
    assert told.stderr == "hint: there was no commit for the message\n"
    two.sql("main", "INSERT INTO t VALUES(-3, 'newest')", "PRAGMA graft_push = 'by SQL'")
    assert [row["message"] for row in two.json("log", "main")][:2] == [
        "by SQL",
        "one row\n\nfor May",
    ]
    assert "at most 4096 bytes" in two.fails(2, "push", "main", "-m", "x" * 4097)
    two.machine("b")
    two.ok("pull", "main")
    first, second, *_ = two.ok("log", "main", "--oneline").splitlines()
    assert "  by SQL, " in first
    assert "  one row, " in second
    assert "\n        one row\n\n        for May\n" in two.ok("log", "main")
    assert two.ok("show", "main", "HEAD~1").endswith("\n\n    one row\n\n    for May\n")
