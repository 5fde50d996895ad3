"""`graft du`: tables that fit the screen, and the same as JSON."""

from __future__ import annotations

import json


def test_du_shows_volumes_and_their_total(cli):
    cli.with_remote()
    cli.sql("main", "CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(50000))")
    cli.ok("push", "main")
    lines = cli.ok("du").splitlines()
    assert [line.split()[0] for line in lines] == ["TAG", "main", "(catalog)", "(rest)", "total"]
    assert max(map(len, lines)) < 80
    assert cli.ok("du", "main").splitlines()[1].split() == lines[1].split()
    usage = cli.json("du")
    assert usage["total_bytes"] > usage["volumes"][0]["total_bytes"] > 50_000


def test_du_shows_the_objects_of_remotes(cli):
    cli.with_remote()
    cli.sql("main", "CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(50000))")
    assert "nothing is there yet" in cli.ok("du", "--remote")
    cli.ok("push", "main")
    cli.sql("main", "INSERT INTO t VALUES(1)")
    cli.ok("push", "main")
    lines = cli.ok("du", "main", "--remote", "-n", "1").splitlines()
    assert max(map(len, lines[1:])) < 80
    assert lines[0].startswith("main: log ")
    assert [line.split()[0] for line in lines[1:4]] == ["KIND", "commits", "total"]
    assert lines[-2].split()[:1] == ["…"]
    (usage,) = json.loads(cli.ok("du", "--all", "--remote", "--json"))
    assert [each["lsn"] for each in usage["logs"][0]["commits"]] == [1, 2]
    assert "is for all logs" in cli.fails(2, "du", "--all")
