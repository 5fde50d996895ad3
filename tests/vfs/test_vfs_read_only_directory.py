"""A data directory that cannot be written: what is there can be read, all else is a named error.

The directory is mounted read-only for the child alone, as in a container, so that somebody else may
go on writing to it. Nothing that a reader does leaves a trace there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

import graft_vfs
from graft_vfs import Config, RemoteConfig
from graft_vfs.errors import GraftError, ReadOnlyError
from tests.support import isolated, namespaces
from tests.support.engines import registered
from tests.support.isolated import hear, say
from tests.support.sql import is_sound, rows


@pytest.fixture
def config(tmp_path):
    return configured(tmp_path)


def configured(root: Path) -> Config:
    return Config(
        data_dir=root / "machine" / "data",
        remote=RemoteConfig(type="fs", root=str(root / "remote")),
    )


@pytest.fixture
def prefix(tmp_path):
    """The beginning of a command that sees tmp_path/machine read-only."""
    reason = namespaces.refusal(tmp_path)
    if reason:
        pytest.skip(f"this system gives no mount namespace: {reason}")
    (tmp_path / "machine").mkdir()
    return namespaces.read_only(tmp_path / "machine")


@pytest.fixture
def volumes(prefix, config):
    """Tag `main` with pushed and local commits, and `lazy`, none of whose pages is here."""
    with registered(config) as engine:
        connection = graft_vfs.connect("main")
        connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
        engine.push("main")
        connection.execute("INSERT INTO t VALUES(2)")
        engine.clone("main", "lazy")
        for frames in (config.data_dir / "cache").rglob("*.*"):
            frames.unlink()


def trace(directory: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in directory.rglob("*"):
        status = path.stat()
        found[str(path)] = (status.st_size, status.st_mtime_ns)
    return found


# Reading ----------------------------------------------------------------------------------------


def read_everything(root: str) -> None:
    with registered(configured(Path(root))) as engine:
        for tag, expected in (("main", [(1,), (2,)]), ("lazy", [(1,)])):
            for _ in range(2):
                connection = graft_vfs.connect(tag)
                assert connection.readonly("main")
                assert rows(connection, "SELECT x FROM t") == expected
                assert is_sound(connection)
                # A sort that needs a file of its own, and an index that only this connection sees.
                connection.execute("CREATE TEMP TABLE copy AS SELECT x FROM t ORDER BY x DESC")
            for pragma in ("tags", "volumes", "info", "status", "snapshot", "log", "fetch"):
                assert rows(connection, f"PRAGMA graft_{pragma}")
            assert "Checksum" in rows(connection, "PRAGMA graft_audit")[0][0]
            rows(connection, "PRAGMA graft_hydrate")
            past = graft_vfs.connect(f"file:{tag}?vfs=graft&lsn=1")
            assert rows(past, "SELECT x FROM t") == [(1,)]
            exported = Path(root) / f"{tag}.db"
            engine.export(tag, exported)
            assert rows(apsw.Connection(str(exported)), "SELECT x FROM t") == expected


def test_everything_can_be_read_and_nothing_is_written(tmp_path, config, prefix, volumes):
    before = trace(config.data_dir)
    isolated.run(read_everything, tmp_path, prefix=prefix)
    assert trace(config.data_dir) == before


def write_and_wait(root: str) -> None:
    with registered(configured(Path(root))) as engine:
        engine.new("another")
        say("written")
        hear()


def test_the_state_after_a_kill_can_be_read(tmp_path, config, prefix, volumes):
    with isolated.running(write_and_wait, tmp_path) as writer:
        assert writer.hear() == "written"
        writer.kill()
    assert (config.data_dir / "catalog.db-wal").stat().st_size
    isolated.run(read_everything, tmp_path, prefix=prefix)


@pytest.mark.parametrize("gone", ["head", "*.place-*"])
def test_a_file_that_only_writers_need_may_be_missing(tmp_path, config, prefix, volumes, gone):
    for path in (config.data_dir / "volumes").rglob(gone):
        path.unlink()
    isolated.run(read_everything, tmp_path, prefix=prefix)


# A writer somewhere else ------------------------------------------------------------------------


def follow(root: str) -> None:
    with registered(configured(Path(root))):
        connection = graft_vfs.connect("main")
        while hear():
            assert is_sound(connection)
            say(*(x for (x,) in rows(connection, "SELECT x FROM t ORDER BY x")))


@pytest.mark.parametrize("begins", ["while it is written", "at rest"])
def test_a_reader_follows_a_writer_that_can_write(tmp_path, config, prefix, volumes, begins):
    expected = [1, 2]
    with isolated.running(follow, tmp_path, prefix=prefix) as reader:

        def agree() -> None:
            reader.say("look")
            assert reader.hear() == " ".join(map(str, expected))

        if begins == "at rest":
            agree()
        for turn in range(3):
            with registered(config) as engine:
                connection = graft_vfs.connect("main")
                for n in range(3):
                    expected.append(10 * (turn + 1) + n)
                    connection.execute("INSERT INTO t VALUES(?)", (expected[-1],))
                    agree()
                    if n == 1:
                        engine.push("main")
                        agree()
                engine.push("main")
                lazy = graft_vfs.connect("lazy")
                engine.pull("lazy")
                expected.append(10 * (turn + 1) + 9)
                lazy.execute("INSERT INTO t VALUES(?)", (expected[-1],))
                engine.push("lazy")
                engine.pull("main")
                agree()
            agree()
        reader.say("")
        reader.end()


# Writing ----------------------------------------------------------------------------------------

STATEMENTS = ["INSERT INTO t VALUES(3)", "CREATE TABLE u(x)", "VACUUM"]
PRAGMAS = ["new", "fork", "clone", "push", "pull", "checkout='1'", "import='plain.db'"]


def try_to_write(root: str) -> None:
    plain = Path(root) / "plain.db"
    apsw.Connection(str(plain)).execute("CREATE TABLE p(x)")
    with registered(configured(Path(root))) as engine:
        connection = graft_vfs.connect("main")
        for statement in STATEMENTS:
            with pytest.raises(apsw.ReadOnlyError):
                connection.execute(statement)
        verbs = {
            "new": lambda: engine.new("other"),
            "clone": lambda: engine.clone("main", "other"),
            "fork": lambda: engine.fork("main", new_tag="other"),
            "checkout": lambda: engine.checkout("main", "1"),
            "push": lambda: engine.push("main"),
            "pull": lambda: engine.pull("main"),
            "import": lambda: engine.import_(plain, "main"),
            "import new": lambda: engine.import_(plain, "other"),
            "remove": lambda: engine.remove_tag("main"),
        }
        for verb in verbs.values():
            with pytest.raises(ReadOnlyError, match="is read-only; make it writable"):
                verb()
        for pragma in PRAGMAS:
            with pytest.raises(apsw.ReadOnlyError, match="is read-only; make it writable"):
                connection.execute(f"PRAGMA graft_{pragma}")
        with pytest.raises(apsw.CantOpenError):
            graft_vfs.connect("absent")
        with pytest.raises(GraftError, match="Read-only file system; the file system is read-only"):
            engine.export("main", engine.config.data_dir / "inside.db")
        assert rows(connection, "SELECT x FROM t") == [(1,), (2,)]


def test_every_write_is_a_named_error_with_a_next_step(tmp_path, config, prefix, volumes):
    before = trace(config.data_dir)
    isolated.run(try_to_write, tmp_path, prefix=prefix)
    assert trace(config.data_dir) == before


def open_nothing(root: str) -> None:
    with pytest.raises(GraftError, match="read-only; choose a writable directory"):
        graft_vfs.register(configured(Path(root)))


def test_a_data_directory_that_cannot_be_created_is_a_named_error(tmp_path, prefix):
    isolated.run(open_nothing, tmp_path, prefix=prefix)


# The command line -------------------------------------------------------------------------------


@pytest.fixture
def graft(tmp_path, config, prefix):
    """Run a command on the read-only directory; returns (code, output, errors)."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")},
        "GRAFT_DATA_DIR": str(config.data_dir),
        "GRAFT_REMOTE_TYPE": "fs",
        "GRAFT_REMOTE_ROOT": str(tmp_path / "remote"),
    }

    def run(*arguments: str) -> tuple[int, str, str]:
        command = [*prefix, sys.executable, "-m", "graft_vfs.cli", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_commands_that_read_work(tmp_path, volumes, graft):
    for command in (["status", "main"], ["log", "main"], ["export", "lazy", "lazy.db"], ["tags"]):
        code, output, errors = graft(*command)
        assert (code, errors) == (0, "")
        assert output
    assert (tmp_path / "lazy.db").exists()


def test_commands_that_write_print_a_next_step(volumes, graft):
    for command in (["new", "other"], ["push", "main"], ["rm", "main"]):
        code, output, errors = graft(*command)
        assert (code, output) == (2, "")
        error, hint = errors.splitlines()
        assert error.startswith("error: the data directory ")
        assert hint.startswith("hint: make it writable")
