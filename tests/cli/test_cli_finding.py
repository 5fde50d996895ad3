"""Finding the way: groups, aliases, suggestions, next steps that can be typed, errors as JSON."""

from __future__ import annotations

import json
import logging

import click
import pytest
from click.shell_completion import ShellComplete

from graft_vfs import reports
from graft_vfs.cli import main, vocabulary
from graft_vfs.errors import BusyError


def commands() -> list[str]:
    return main.list_commands(click.Context(main))


# Help -------------------------------------------------------------------------------------------


def test_a_short_option_asks_for_the_help_everywhere(cli):
    assert cli.ok("-h") == cli.ok("--help")
    assert cli.ok("push", "-h").partition(" push ")[2].startswith("[OPTIONS] TAG\n")
    assert " remote ls [OPTIONS]" in cli.ok("remote", "ls", "-h")


def test_the_help_has_each_command_once_and_in_its_group(cli):
    lines = cli.ok("-h").splitlines()
    shown = [line.split()[0] for line in lines if line.startswith("  ") and line[2:3] != " "]
    for name in commands():
        assert shown.count(name) == 1, name
    for title, names in vocabulary.GROUPS.items():
        at = lines.index(f"{title}:")
        listed = [line.split()[0] for line in lines[at + 1 :][: len(names.split()) + 3] if line]
        assert [name for name in names.split() if name in commands()] == [
            name for name in listed if name in names.split()
        ]


def test_version_is_a_command_too(cli):
    assert cli.ok("version") == cli.ok("--version")
    assert cli.json("version")["sqlite"] == reports.Versions.current().sqlite


@pytest.mark.parametrize("alias", vocabulary.ALIASES)
def test_an_alias_is_a_command_and_no_command_is_hidden_by_one(alias):
    assert vocabulary.ALIASES[alias] in commands()
    assert alias not in commands()


def test_an_alias_does_what_its_command_does(cli):
    cli.ok("create", "main")
    assert cli.ok("ls") == cli.ok("list") == cli.ok("tags")
    assert cli.ok("databases") == cli.ok("status")
    assert "List the tags" in cli.ok("help", "ls")
    assert "Removed tag main" in cli.ok("delete", "main")


# Suggestions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("stauts",), "there is no command 'stauts'", "did you mean 'status'"),
        (("xyzzy",), "there is no command 'xyzzy'", "`graft --help` lists the commands"),
        (("commit",), "there is no command 'commit'", "each SQLite transaction is a commit"),
        (("status", "mian"), "there is no tag 'mian'", "did you mean 'main'? see `graft tags`"),
        (("rm", "mian"), "there is no tag 'mian'", "did you mean 'main'? see `graft tags`"),
        (("status", "xyz"), "there is no tag 'xyz'", "see `graft tags`"),
        (("help", "opertions"), "no topic 'opertions'", "did you mean 'operations'"),
        (("status", "--jsn", "main"), "No such option '--jsn'. Did you mean '--json'?", "see `"),
    ],
)
def test_a_mistyped_word_has_a_suggestion(cli, arguments, message, hint):
    cli.ok("new", "main")
    error, step = cli.fails(2, *arguments).splitlines()
    assert message in error
    assert step.startswith(f"hint: {hint}")


def test_a_variable_that_sets_nothing_has_a_suggestion(cli, monkeypatch):
    monkeypatch.setenv("GRAFT_REMOTE_BUKET", "b")
    checks = {check["name"]: check for check in cli.json("doctor") if check["level"] == "warning"}
    assert "did you mean 'GRAFT_REMOTE_BUCKET'?" in checks["configuration"]["next_step"]


@pytest.mark.parametrize("word", vocabulary.ELSEWHERE)
def test_a_word_of_another_program_is_no_command_here(word):
    assert word not in commands()


# Next steps -------------------------------------------------------------------------------------


def test_a_next_step_names_the_tag_of_the_command(pushed):
    log = pushed.json("info", "main")["remote"]
    pushed.machine("b")
    pushed.ok("clone", "main", "it's")
    pushed.sql("it's", "INSERT INTO t VALUES(NULL, 'theirs')")
    pushed.machine("a")
    pushed.sql("main", "INSERT INTO t VALUES(NULL, 'ours')")
    pushed.ok("push", "main")
    pushed.machine("b")
    tag = "'it'\"'\"'s'"
    for verb in ("push", "pull"):
        step = pushed.fails(5, verb, "it's").splitlines()[1]
        assert f"as a branch with `graft pull {tag} --strategy reset`" in step
        assert f"as a new volume with `graft pull {tag} --strategy fork`" in step
    status = pushed.ok("status", "it's")
    assert f"(use `graft pull {tag} --strategy reset` to follow the remote and keep" in status
    pushed.ok("fork", "it's", "kept")
    pushed.ok("clone", log, "it's", "--force")
    assert pushed.sql("it's", "SELECT v FROM t WHERE v IN ('ours', 'theirs')") == [("ours",)]
    assert pushed.sql("kept", "SELECT v FROM t WHERE v IN ('ours', 'theirs')") == [("theirs",)]


# Errors as JSON ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "code", "hint"),
    [
        (("status", "mian"), "NotFoundError", 2, "did you mean 'main'? see `graft tags`"),
        (("stauts",), "UsageError", 2, "did you mean 'status'? `graft --help` lists"),
        (("info",), "UsageError", 2, "see `"),
        (("push", "main"), "NoRemoteError", 2, "add a [remote] table"),
        (("export", "main", "/nowhere/x.db"), "LocalStorageError", 9, "create the parent folder"),
    ],
)
def test_with_json_an_error_is_a_line_of_json(cli, arguments, kind, code, hint):
    cli.ok("new", "main")
    result = cli.run(*arguments, "--json")
    assert (result.exit_code, result.stdout) == (code, "")
    (line,) = result.stderr.splitlines()
    error = json.loads(line)["error"]
    assert (error["type"], error["exit_code"]) == (kind, code)
    assert error["hint"].startswith(hint)
    assert error["message"]


def test_with_json_an_error_without_a_next_step_has_null(cli, monkeypatch):
    cli.ok("new", "main")

    def fail(*_: object) -> None:
        raise BusyError("it is\nbusy at http://user:secret@host/")

    monkeypatch.setattr("graft_vfs.Graft.info", fail)
    result = cli.run("info", "main", "--json")
    assert json.loads(result.stderr) == {
        "error": {
            "type": "BusyError",
            "message": "it is busy at http://***@host/",
            "hint": None,
            "exit_code": 4,
        }
    }


def test_with_json_a_warning_is_a_line_of_json(cli, monkeypatch):
    cli.ok("new", "main")

    def warn(*_: object) -> list[object]:
        logging.getLogger("graft_vfs.test").warning("it is %s", "late")
        return []

    monkeypatch.setattr("graft_vfs.Graft.tags", warn)
    result = cli.run("tags", "--json")
    assert (json.loads(result.stdout), json.loads(result.stderr)) == ([], {"warning": "it is late"})
    assert cli.run("tags").stderr.startswith("warning: it is late\n")


# Tab --------------------------------------------------------------------------------------------


def completed(*words: str) -> list[str]:
    complete = ShellComplete(main, {}, "graft", "_GRAFT_COMPLETE")
    return [item.value for item in complete.get_completions([*words[:-1]], words[-1])]


def test_tab_completes_what_is_known_here(pushed):
    pushed.sql("main", "INSERT INTO t VALUES(NULL, 'new')")
    pushed.ok("push", "main")
    assert completed("sho") == ["show"]
    assert completed("show", "m") == ["main"]
    assert completed("show", "main", "") == ["HEAD", "BASE", "2", "1"]
    assert completed("diff", "main", "1", "H") == ["HEAD"]
    pushed.ok("tag", "main", "v1.0", "1")
    assert completed("show", "main", "v") == ["v1.0"]
    assert completed("help", "op") == ["operations"]
    pushed.ok("clone", "main", "copy")
    assert completed("clone", "m") == ["main"]
    assert completed("show", "absent", "") == ["HEAD", "BASE"]


def test_tab_has_no_errors(cli, monkeypatch):
    assert completed("show", "") == []
    monkeypatch.setenv("GRAFT_AUTOSYNC", "nonsense")
    assert completed("show", "") == []
    assert completed("clone", "") == []
