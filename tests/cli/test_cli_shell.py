"""`graft shell` with commands, scripts and a person, and the words for Tab."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from graft_vfs.cli import shell


def run(*arguments: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "graft_vfs.cli", *arguments],
        input=script,
        stdin=None if script is not None else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_commands_run_in_order_and_print_rows(cli, plain):
    cli.ok("import", str(plain), "main")
    assert cli.ok("shell", "main", "-c", "SELECT count(*) FROM t") == "2000\n"
    printed = cli.ok(
        "shell",
        "main",
        "--command",
        "DELETE FROM t WHERE id >= 10",
        "-c",
        ".mode csv",
        "-c",
        "SELECT id, length(v) FROM t LIMIT 2; SELECT 'end'",
    )
    assert printed.split() == ["0,204", "1,204", "end"]
    assert cli.sql("main", "SELECT count(*) FROM t") == [(10,)]


def test_a_script_comes_from_standard_input(cli):
    cli.ok("new", "main")
    done = run("shell", "main", script="CREATE TABLE t(x);\nINSERT INTO t\nVALUES(7);\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert cli.sql("main", "SELECT x FROM t") == [(7,)]


def test_a_script_ends_at_its_first_failure(cli):
    cli.ok("new", "main")
    done = run("shell", "main", script="CREATE TABLE t(x);\nNONSENSE;\nCREATE TABLE u(x);\n")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2].startswith("error: line 2: ")
    assert cli.sql("main", "SELECT name FROM sqlite_schema") == [("t",)]


@pytest.mark.parametrize("command", ["SELECT * FROM nothing", "bad sql", "SELECT abs()"])
def test_an_error_of_sql_is_one_line(cli, command):
    cli.ok("new", "main")
    text = cli.fails(1, "shell", "main", "-c", command)
    assert text.startswith(f"error: {command}: ")
    done = run("shell", "main", script=f"SELECT 1;\n{command};\n")
    assert done.stdout == "1\n"
    assert [line.partition(": ")[0] for line in done.stderr.splitlines()] == ["error", "hint"]


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("SELECT * FROM notse", "did you mean 'notes'? `.tables` lists the tables and views"),
        ("SELECT * FROM main.notse", "did you mean 'notes'? `.tables` lists"),
        ("SELECT * FROM xyz", "`.tables` lists the tables and views"),
        ("SELECT bodi FROM notes", "`.schema` shows the columns"),
        (".nonsense", "`.help` lists the shell's own commands"),
        ("SELEC 1", "correct the statement; those before it took effect"),
        ("INSERT INTO notes VALUES(1), (1)", "correct the statement"),
    ],
)
def test_a_script_that_fails_has_a_next_step(cli, command, hint):
    cli.ok("new", "main")
    cli.sql("main", "CREATE TABLE notes(body UNIQUE)")
    assert f"hint: {hint}" in cli.run("shell", "main", "-c", command).stderr


@pytest.mark.parametrize("command", ["SELECT * FROM nothing", ".nonsense", "SELECT"])
def test_a_failed_command_exits_with_1(cli, command):
    cli.ok("new", "main")
    result = cli.run("shell", "main", "-c", command, "-c", "SELECT 'not reached'")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"error: {command}: " in result.stderr


def test_exit_sets_the_exit_code_of_the_command(cli):
    cli.ok("new", "main")
    assert run("shell", "main", script=".exit 5\n").returncode == 5


def test_a_pragma_among_other_statements_runs_once(cli):
    cli.ok("new", "main")
    cli.ok("shell", "main", "-c", "PRAGMA graft_new; SELECT 1;", "-c", "pragma GRAFT_new")
    cli.ok("shell", "main", "-c", "SELECT ';' ; PRAGMA graft_new -- twice; or not\n; SELECT 2")
    assert len(cli.json("volumes")) == 4


def test_statements_end_where_sqlite_says():
    text = (
        "SELECT ';'; CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT 1; END; -- graft_;\nSELECT 2"
    )
    assert [*shell._statements(text)] == [
        "SELECT ';';",
        "CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT 1; END;",
        "-- graft_;\nSELECT 2",
    ]


def test_an_error_of_the_vfs_keeps_its_code(pushed):
    pushed.machine("b")
    pushed.ok("clone", "main")
    pushed.sql("main", "INSERT INTO t VALUES(-1, 'b')")
    pushed.machine("a")
    pushed.sql("main", "INSERT INTO t VALUES(-2, 'a')")
    pushed.ok("push", "main")
    pushed.machine("b")
    result = pushed.run("shell", "main", "-c", "PRAGMA graft_push")
    assert result.exit_code == 5
    assert "diverged" in result.stderr


def test_the_past_is_read_only(pushed):
    pushed.sql("main", "DELETE FROM t")
    pushed.ok("push", "main")
    assert pushed.ok("shell", "main", "--lsn", "1", "-c", "SELECT count(*) FROM t") == "2000\n"
    assert pushed.ok("shell", "main", "--as-of", "0 seconds ago", "-c", "SELECT 1") == "1\n"
    result = pushed.run("shell", "main", "--lsn", "1", "-c", "DELETE FROM t")
    assert (result.exit_code, "readonly" in result.stderr) == (1, True)
    result = pushed.run("shell", "main", "--read-only", "-c", "CREATE TABLE u(x)")
    assert (result.exit_code, "readonly" in result.stderr) == (1, True)
    assert "has no commit 9" in pushed.fails(2, "shell", "main", "--lsn", "9", "-c", "SELECT 1")
    assert "names no commit" in pushed.fails(
        2, "shell", "main", "--as-of", "soon", "-c", "SELECT 1"
    )
    pushed.fails(2, "shell", "main", "--lsn", "1", "--as-of", "now", "-c", "SELECT 1")


def test_an_absent_tag_is_refused_and_not_created(cli):
    assert "there is no tag" in cli.fails(2, "shell", "absent", "-c", "CREATE TABLE t(x)")
    assert cli.json("tags") == []


def test_an_interactive_shell_prompts_and_continues_after_an_error(cli):
    cli.ok("new", "main")
    person, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "graft_vfs.cli", "shell", "main"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "dumb", "NO_COLOR": "1"},
    ) as process:
        os.close(terminal)
        os.write(person, b"NONSENSE;\nCREATE TABLE t(x);\n.exit 3\n")
        seen = b""
        # Linux reports the end of a terminal as an error.
        while chunk := _read(person):
            seen += chunk
        assert process.wait(60) == 3
    os.close(person)
    assert b"PRAGMA graft_status" in seen
    assert b"sqlite> " in seen
    assert b"syntax error" in seen
    assert cli.sql("main", "SELECT name FROM sqlite_schema") == [("t",)]


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


# Completion -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_calls_back(cli, name):
    script = cli.ok("completion", name)
    assert "_GRAFT_COMPLETE" in script
    assert "graft" in script


def test_completion_refuses_other_shells(cli):
    assert "tcsh" in cli.fails(2, "completion", "tcsh")
    assert "Choose from: bash, zsh, fish" in cli.fails(2, "completion")


def completed(words: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "graft_vfs.cli"],
        env={
            **os.environ,
            "_GRAFT_COMPLETE": "bash_complete",
            "COMP_WORDS": f"graft {words}",
            "COMP_CWORD": str(len(words.split(" "))),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_tab_completes_commands_and_options_and_tags(cli):
    cli.ok("new", "main")
    cli.ok("new", "other")
    assert completed("sh") == ["shell", "show"]
    assert "--as-of" in completed("shell --")
    assert completed("status m") == ["main"]
    assert completed("status ") == ["main", "other"]
    assert completed("diff o") == ["other"]
    assert completed("completion z") == ["zsh"]


def test_tab_creates_and_prints_nothing_without_a_data_directory(cli):
    assert completed("status ") == []
    assert not (cli.root / "home" / ".local").exists()
    Path("graft.toml").write_text("nonsense = 1")
    assert completed("status ") == []
