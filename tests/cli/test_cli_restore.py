"""Restore, export and import through pipes, as a person at a terminal and a script see them."""

from __future__ import annotations

import os
import pty
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import click.testing
import pytest

from graft_vfs.cli import main


def rows_of(path: Path) -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return connection.execute("SELECT * FROM t").fetchall()


@pytest.fixture
def pushed(cli):
    """A machine that pushed two commits of `main`."""
    cli.with_remote()
    cli.machine("a")
    cli.ok("new", "main")
    cli.sql("main", "CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    cli.ok("push", "main")
    cli.sql("main", "INSERT INTO t VALUES(2)")
    cli.ok("push", "main")
    return cli


def test_restore_in_place_names_the_way_back(pushed):
    text = pushed.ok("restore", "main", "--at", "HEAD~1")
    assert text.startswith("Restored main to 1 as local:")
    assert text.endswith("\n  (use `graft restore main --at 2` to go back to what it had)\n")
    assert pushed.sql("main", "SELECT x FROM t") == [(1,)]
    pushed.ok("push", "main")
    done = pushed.json("restore", "main", "--at", "2")
    assert (done["commit"], done["before"], done["differ"]) == ("2", "3", 2)
    assert pushed.sql("main", "SELECT x FROM t") == [(1,), (2,)]
    pushed.ok("push", "main")
    text = pushed.ok("restore", "main", "--at", "2")
    assert text == "Nothing to restore: main has the content of 2 already.\n"


def test_restore_refuses_what_it_cannot_do(pushed):
    assert "graft restore main --at HEAD~1" in pushed.fails(2, "restore", "main")
    assert "there is no tag 'none'" in pushed.fails(2, "restore", "none", "--at", "1")
    assert "has no commit 9" in pushed.fails(2, "restore", "main", "--at", "9")


def test_restore_keeps_unpushed_commits_as_a_branch(pushed):
    pushed.sql("main", "INSERT INTO t VALUES(3)")
    text = pushed.ok("restore", "main", "--at", "1")
    (kept,) = pushed.json("branches", "main")[1:]
    assert f"What was not pushed is kept as branch {kept['branch'][:8]}" in text
    assert (kept["reason"], kept["commits"]) == ("restore", 1)
    assert "kept as branch" not in pushed.ok("restore", "main", "--at", "2", "--force")


def test_messages_of_imports_and_restores_are_in_the_log(pushed):
    assert "a file has no message" in pushed.fails(2, "restore", "main", "-o", "f", "-m", "text")
    pushed.ok("restore", "main", "--at", "1", "-m", "without the two")
    assert "without the two" in pushed.ok("log", "main", "--oneline").splitlines()[0]
    pushed.ok("push", "main")
    path = pushed.root / "out.db"
    pushed.ok("export", "main", str(path))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO t VALUES(9)")
    pushed.ok("import", "--update", str(path), "main", "-m", "with a nine")
    pushed.ok("push", "main")
    messages = [entry["message"] for entry in pushed.json("log", "main")]
    assert messages == ["with a nine", "without the two", "", ""]


def test_restore_to_a_file_on_a_machine_that_has_never_seen_the_log(pushed):
    pushed.machine("b")
    old, new = pushed.root / "old.db", pushed.root / "new.db"
    text = pushed.ok("restore", "main", "--at", "1", "-o", str(old))
    assert text.endswith("read back, checked by SQLite.\n")
    assert rows_of(old) == [(1,)]
    done = pushed.json("restore", "main", "-o", str(new))
    assert done["checked"] is True
    assert done["bytes"] == new.stat().st_size
    assert rows_of(new) == [(1,), (2,)]
    assert pushed.json("tags") == []
    taken = pushed.fails(2, "restore", "main", "-o", str(new))
    assert "exists already" in taken
    pushed.ok("restore", "main", "--at", "1", "-o", str(new), "--force")
    assert rows_of(new) == [(1,)]
    assert "has no ref 'none'" in pushed.fails(2, "restore", "none", "-o", str(pushed.root / "n"))


def test_export_of_an_earlier_commit_and_over_a_file(pushed):
    path = pushed.root / "out.db"
    pushed.ok("export", "main", str(path), "--at", "1")
    assert rows_of(path) == [(1,)]
    refused = pushed.fails(2, "export", "main", str(path))
    assert "replace it by force (--force" in refused
    pushed.ok("export", "main", str(path), "--force")
    assert rows_of(path) == [(1,), (2,)]


def test_a_database_can_be_piped(pushed):
    result = click.testing.CliRunner().invoke(main, ["export", "main", "-"])
    assert result.exit_code == 0
    data = result.stdout_bytes
    assert result.stderr.startswith("Exported to -: ")
    pushed.machine("b")
    result = click.testing.CliRunner().invoke(main, ["import", "-", "copy", "--json"], input=data)
    assert result.exit_code == 0, result.stderr
    assert pushed.sql("copy", "SELECT x FROM t") == [(1,), (2,)]
    pushed.fails(2, "export", "copy", "-", "--force")
    result = click.testing.CliRunner().invoke(main, ["import", "-", "other"], input=b"no database")
    assert result.exit_code == 8
    assert "standard input is not a valid SQLite database" in result.stderr


def test_a_terminal_is_neither_written_to_nor_read_from(pushed):
    for command in (["export", "main", "-"], ["import", "-", "copy"]):
        ours, theirs = pty.openpty()
        with os.fdopen(theirs, "r+b", buffering=0) as terminal, os.fdopen(ours, "rb", buffering=0):
            done = subprocess.run(
                [sys.executable, "-m", "graft_vfs.cli", *command],
                stdin=terminal,
                stdout=terminal,
                stderr=subprocess.PIPE,
                check=False,
                text=True,
            )
        assert done.returncode == 2
        assert "is a terminal" in done.stderr


def test_a_closed_pipe_ends_an_export(pushed):
    pushed.sql("main", "INSERT INTO t VALUES(zeroblob(3000000))")
    with subprocess.Popen(
        [sys.executable, "-m", "graft_vfs.cli", "export", "main", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.read(16) == b"SQLite format 3\0"
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait() == 141
