"""sqlite-utils works on volumes: its library on a connection, its commands through the plugin."""

from __future__ import annotations

import json

import pytest
import sqlite_utils
from click.testing import CliRunner
from sqlite_utils import cli
from sqlite_utils.utils import sqlite3

import graft_vfs

ROWS = '[{"id": 1, "name": "Ann"}, {"id": 2, "name": "Bob"}]'


@pytest.fixture
def command(engine):
    """Run a command of sqlite-utils in this process."""

    def command(*arguments, code=0, text=None):
        done = CliRunner().invoke(cli.cli, arguments, input=text)
        assert done.exit_code == code, done.output
        return done.output

    return command


def tags(engine):
    return sorted(report.tag for report in engine.tags())


def test_the_library_works_on_a_connection(engine):
    graft_vfs.enable_sqlite3(sqlite3)  # pysqlite3, where that is installed.
    connection = sqlite3.connect("file:main?vfs=graft", uri=True)
    database = sqlite_utils.Database(connection)
    people = database["people"]
    people.insert_all(json.loads(ROWS), pk="id")
    people.upsert({"id": 2, "name": "Bo", "age": 7}, pk="id", alter=True)
    people.enable_fts(["name"], create_triggers=True)
    people.transform(rename={"name": "full_name"}, drop={"age"})
    assert [row["full_name"] for row in people.rows] == ["Ann", "Bo"]
    assert database["people_fts"].exists()
    database.vacuum()
    database.close()
    reader = graft_vfs.connect("main")
    assert reader.execute("SELECT full_name FROM people").fetchall() == [("Ann",), ("Bo",)]


def test_commands_take_a_tag(command, engine):
    tag = "srv/people & more.db"
    command("graft", "insert", tag, "people", "-", "--pk", "id", text=ROWS)
    assert json.loads(command("graft", "rows", tag, "people", "--where", "id > 1"))[0]["id"] == 2
    (table,) = json.loads(command("graft", "tables", tag, "--counts"))
    assert table == {"table": "people", "count": 2}
    command("graft", "transform", tag, "people", "--rename", "name", "full_name")
    answer = command("graft", "query", tag, "SELECT full_name FROM people", "--csv", "--no-headers")
    assert answer.split() == ["Ann", "Bob"]
    assert "Pushed" in command("graft", "query", tag, "PRAGMA graft_push", "--raw")
    command("graft", "vacuum", tag)
    assert tags(engine) == [tag]


def test_the_shell_finds_the_plugin(run):
    run("-m", "sqlite_utils", "graft", "insert", "main", "people", "-", text=ROWS)
    assert "Ann" in run("-m", "sqlite_utils", "graft", "rows", "main", "people").stdout
    assert "Output all rows" in run("-m", "sqlite_utils", "graft", "rows", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tables", "mian"], "there is no tag 'mian'; this machine has no tag yet"),
        (["tables", ""], "is not a tag"),
        (["tbales", "main"], "no command 'tbales'"),
        (["plugins"], "no command 'plugins' that takes a database"),
        (["graft", "tables", "main"], "no command 'graft'"),
        (["query", "main", "SELECT 1", "--attach", "two", "other"], "absolute paths"),
    ],
)
def test_a_call_that_is_wrong_says_so_and_makes_no_volume(command, engine, arguments, words):
    assert words in " ".join(command("graft", *arguments, code=2).split())
    assert tags(engine) == []


def test_other_commands_still_open_files(command, engine, tmp_path):
    command("graft", "insert", "main", "people", "-", text=ROWS)
    path = str(tmp_path / "plain.db")
    command("insert", path, "people", "-", text=ROWS)
    assert "people" in command("tables", path)
    assert (tmp_path / "plain.db").read_bytes().startswith(b"SQLite format 3")
    assert tags(engine) == ["main"]
