"""`graft retention`, `expire` and `gc TAG`, on a directory whose objects a test makes older."""

from __future__ import annotations

import os

import pytest

DAY = 86_400


@pytest.fixture
def three(cli):
    """A machine that pushed three commits of `main`."""
    cli.with_remote()
    cli.machine("a")
    cli.ok("new", "main")
    for statement in ("CREATE TABLE t(x)", "INSERT INTO t VALUES(1)", "INSERT INTO t VALUES(2)"):
        cli.sql("main", statement)
        cli.ok("push", "main")
    return cli


def age(cli, days: float) -> None:
    """Make all objects of the remote older."""
    for path in (cli.root / "remote").rglob("*"):
        if path.is_file():
            moment = path.stat().st_mtime - days * DAY
            os.utime(path, (moment, moment))


def test_a_log_keeps_all_until_it_is_told_otherwise(three):
    assert three.ok("retention", "main").endswith(
        "keeps all of its commits; `graft retention TAG --keep-last 10` says which to keep.\n"
    )
    assert three.json("retention", "main")["policy"] is None
    for command in (("expire", "main"), ("gc", "main")):
        assert "has no retention" in three.fails(2, *command)


def test_old_commits_are_closed_deleted_and_explained(three):
    told = three.ok(
        "retention", "main", "--keep-last", "1", "--keep-within", "2h", "--grace", "24h"
    )
    assert "keeps 1 last, those of the last 2h, and commits with a name" in told
    assert "closed when they are 1d old, and deleted 1d later" in told
    assert three.ok("retention", "main") == told
    for number in range(3, 8):
        three.sql("main", f"UPDATE t SET x = {number}")
        three.ok("push", "main")
    three.ok("tag", "main", "v1", "6")
    three.ok("retention", "main", "--keep-last", "1")
    age(three, 1.5)
    lines = three.ok("expire", "main").splitlines()
    assert lines[0].split()[2:] == ["kept:", "1", "of", "the", "last", "1,", "the", "newest"]
    fates = [line.split()[2].rstrip(":") for line in lines]
    assert fates == ["kept", "closing", "closing", "kept", "closing", *["kept"] * 4]
    would = three.ok("gc", "main", "--dry-run")
    assert would == three.ok("gc", "main", "--dry-run")
    assert "0 commits" in would
    assert "up to LSN 8 would be closed" in would
    assert "up to LSN 8 are closed" in three.ok("gc", "main")
    assert {row["fate"] for row in three.json("expire", "main")} == {"kept", "closed"}
    age(three, 1.5)
    assert {row["fate"] for row in three.json("expire", "main")} == {"kept", "due"}
    done = three.json("gc", "main")
    assert done["deleted"] == 2
    assert "sound" in three.ok("fsck", "main")
    three.machine("b")
    three.ok("clone", "main", "main")
    assert three.sql("main", "SELECT x FROM t") == [(7,), (7,)]
    assert "sound" in three.ok("fsck", "main")
    shown = [entry["lsn"] for entry in three.json("log", "main")]
    assert shown == [9, 8, 6, 4, 3, 2, 1]
    assert [entry["lsn"] for entry in three.json("log", "main", "-n", "4")] == [9, 8, 6, 4]
    assert [entry["lsn"] for entry in three.json("log", "main", "3..8")] == [8, 6, 4]
    assert three.ok("checkout", "main", "v1")
    assert three.sql("main", "SELECT x FROM t") == [(4,), (4,)]


def test_what_is_wrong_is_said(three):
    assert "is not a duration" in three.fails(2, "retention", "main", "--keep-within", "30")
    assert "needs a policy" in three.fails(2, "retention", "main", "--grace", "2h")
    short = three.fails(2, "retention", "main", "--keep-last", "1", "--grace", "30m")
    assert "a grace period cannot be 30m" in short
    three.sql("main", "INSERT INTO t VALUES(9)")
    assert "not on the remote" in three.fails(2, "retention", "main", "--keep-last", "1")
    for arguments in (("gc",), ("gc", "main", "--local"), ("gc", "main", "--force", "x")):
        assert "takes either a TAG or --local" in three.fails(2, *arguments)


def test_a_directory_on_another_machine_has_no_time(three, monkeypatch):
    monkeypatch.setattr("graft_vfs.store.directory.mount_of", lambda _: None)
    told = three.fails(7, "retention", "main", "--keep-last", "1")
    assert "does not say what time it is" in told
    assert three.json("retention", "main")["policy"] is None


def test_a_clock_that_jumps_is_refused(three):
    three.ok("retention", "main", "--keep-last", "1")
    age(three, -1)
    assert "a clock that jumps" in three.fails(7, "gc", "main")
