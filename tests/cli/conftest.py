"""A command line that sees nothing of this machine: its own home, directory and environment."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click.testing
import pytest

import graft_vfs
from graft_vfs.cli import main


class CommandLine:
    """Runs commands in this process, as one machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.root = root
        self._monkeypatch = monkeypatch

    def machine(self, name: str) -> None:
        """Be another machine from now on; the remote stays."""
        self._monkeypatch.setenv("GRAFT_DATA_DIR", str(self.root / name))

    def with_remote(self) -> None:
        self._monkeypatch.setenv("GRAFT_REMOTE_TYPE", "fs")
        self._monkeypatch.setenv("GRAFT_REMOTE_ROOT", str(self.root / "remote"))

    def run(self, *arguments: str) -> click.testing.Result:
        result = click.testing.CliRunner().invoke(main, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def ok(self, *arguments: str) -> str:
        """Run a command that must work, and return what it prints."""
        result = self.run(*arguments)
        assert result.exit_code == 0, result.stderr
        assert result.stderr == ""
        return result.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "--json"))

    def fails(self, code: int, *arguments: str) -> str:
        """Run a command that must fail with a code, and return standard error."""
        result = self.run(*arguments)
        assert result.exit_code == code, (result.stdout, result.stderr)
        assert result.stdout == ""
        lines = result.stderr.splitlines()
        assert lines[0].startswith("error: ")
        assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: "))
        return result.stderr

    def sql(self, tag: str, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements on a tag through the VFS, and return the rows of the last."""
        rows: list[tuple[Any, ...]] = []
        graft_vfs.register(graft_vfs.Config.load())
        try:
            with closing(graft_vfs.connect(tag)) as connection:
                for statement in statements:
                    rows = connection.execute(statement).fetchall()
        finally:
            graft_vfs.unregister()
        return rows


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[CommandLine]:
    """A command line without configuration, in an empty working directory."""
    for name in list(os.environ):
        if name.startswith(("GRAFT_", "AWS_", "XDG_")):
            monkeypatch.delenv(name)
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(Path(graft_vfs.__file__).parents[1]))
    # Nothing here may wait for the service that gives credentials to machines in the cloud.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(tmp_path / "work")
    yield CommandLine(monkeypatch, tmp_path)
    graft_vfs.unregister()


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A plain SQLite file of about 100 pages."""
    path = tmp_path / "plain.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
        connection.executemany(
            "INSERT INTO t VALUES(?, ?)", ((number, f"row {number:0200}") for number in range(2000))
        )
    return path


@pytest.fixture
def pushed(cli: CommandLine, plain: Path) -> CommandLine:
    """A machine `a` whose tag main is on the remote at LSN 1."""
    cli.with_remote()
    cli.machine("a")
    cli.ok("import", str(plain), "main")
    cli.ok("push", "main")
    return cli
