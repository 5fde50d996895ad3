"""Exit codes, and errors as one line with a hint."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import click
import pytest

from graft_vfs import errors
from graft_vfs.cli import main
from graft_vfs.cli.exit_codes import EXIT_CODES, OTHER, exit_code
from graft_vfs.engine.graft import Graft
from graft_vfs.store.directory import DirectoryStore

ERRORS = [
    item
    for item in vars(errors).values()
    if inspect.isclass(item) and issubclass(item, errors.GraftError)
]


def test_the_table_covers_every_error():
    """Each class but the root has itself or a parent in the table, so that none falls through."""
    for kind in ERRORS:
        covered = [parent for parent in kind.__mro__ if parent in EXIT_CODES]
        assert covered or kind is errors.GraftError, kind


def test_the_table_has_the_documented_codes():
    promised = {
        errors.NotFoundError: 2,
        errors.ConfigError: 3,
        errors.WriterBusyError: 4,
        errors.DivergedError: 5,
        errors.CommitOutcomeUnknownError: 6,
        errors.StoreDeniedError: 7,
        errors.CorruptLogError: 8,
        errors.LocalStorageError: 9,
        errors.ForkedProcessError: 1,
        errors.GraftError: OTHER,
    }
    for kind, code in promised.items():
        assert exit_code(kind.__new__(kind)) == code


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("info",),
        ("status", "main", "more"),
        ("status", "--nonsense", "main"),
        ("log", "main", "--limit", "many"),
        ("status", "absent"),
        ("remote", "nonsense"),
    ],
)
def test_a_wrong_call_is_2(cli, arguments):
    assert "hint: " in cli.fails(2, *arguments)


def test_wrong_configuration_is_3(cli, monkeypatch):
    monkeypatch.setenv("GRAFT_CONFIG", "absent.toml")
    cli.fails(3, "tags")


def test_a_file_that_is_being_written_is_4(cli, plain):
    # Two copies of SQLite in one process, as with sqlite3, would not see each other's locks.
    with closing(apsw.Connection(str(plain))) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert "being written" in cli.fails(4, "import", str(plain), "main")


def test_diverged_is_5_and_nothing_moves(pushed):
    pushed.machine("b")
    pushed.ok("clone", "main")
    pushed.sql("main", "INSERT INTO t VALUES(-1, 'from b')")
    pushed.machine("a")
    pushed.sql("main", "INSERT INTO t VALUES(-2, 'from a')")
    pushed.ok("push", "main")
    pushed.machine("b")
    pushed.fails(5, "push", "main")
    assert "diverged" in pushed.fails(5, "pull", "main")
    assert pushed.json("status", "main")["diverged"] is True
    assert pushed.sql("main", "SELECT v FROM t WHERE id < 0") == [("from b",)]


def test_an_unknown_outcome_is_6_and_the_next_push_settles_it(pushed, monkeypatch):
    pushed.sql("main", "INSERT INTO t VALUES(-1, 'new')")

    def lost(self, key, data):
        raise errors.CommitOutcomeUnknownError("no answer came", next_step="push again")

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "put_if_absent", lost)
        pushed.fails(6, "push", "main")
    assert pushed.json("status", "main")["pending_push"] is True
    pushed.ok("push", "main")
    assert pushed.json("status", "main")["base_lsn"] == 2


def test_a_store_that_cannot_be_reached_is_7(cli, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("GRAFT_REMOTE_TYPE", "s3_compatible")
    monkeypatch.setenv("GRAFT_REMOTE_BUCKET", "bucket")
    monkeypatch.setenv("GRAFT_REMOTE_ENDPOINT", "http://127.0.0.1:9")
    cli.fails(7, "remote", "ls")


def test_damage_is_8(cli):
    cli.ok("new", "main")
    (cli.root / "home/.local/share/graft/catalog.db").write_bytes(b"damaged" * 1000)
    cli.fails(8, "tags")


def test_local_storage_is_9(cli, monkeypatch):
    monkeypatch.setenv("GRAFT_DATA_DIR", str(cli.root / "file" / "data"))
    (cli.root / "file").write_text("")
    cli.fails(9, "tags")


def test_any_other_declared_error_is_1(cli, monkeypatch):
    def fail(self, current=None):
        raise errors.GraftError("something\nelse")

    monkeypatch.setattr(Graft, "tags", fail)
    assert cli.fails(1, "tags") == "error: something else\n"


def test_an_interrupt_is_130_in_one_line(cli, monkeypatch):
    def interrupt(self, current=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(Graft, "tags", interrupt)
    assert cli.fails(130, "tags") == "error: interrupted; earlier commits are safe\n"


def test_a_failure_closes_the_engine(cli, monkeypatch):
    closed = []
    original = Graft.close
    monkeypatch.setattr(Graft, "close", lambda self: (closed.append(1), original(self)))
    cli.fails(2, "status", "absent")
    assert closed == [1]


def test_without_standalone_mode_errors_reach_the_caller(cli):
    with pytest.raises(errors.NotFoundError):
        main(["status", "absent"], standalone_mode=False)
    with pytest.raises(click.UsageError):
        main(["nonsense"], standalone_mode=False)


def test_a_closed_pipe_gives_no_traceback(cli):
    for number in range(3):
        cli.ok("new", f"tag {number}")
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = subprocess.run(
        [sys.executable, "-m", "graft_vfs.cli", "tags", "--json"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(write_end)
    assert (process.returncode, process.stderr) == (141, b"")


def test_a_real_process_exits_with_the_code_and_two_lines(cli):
    process = subprocess.run(
        [sys.executable, "-W", "error", "-m", "graft_vfs.cli", "status", "absent"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr == (
        "error: there is no tag 'absent'\nhint: this machine has no tag yet; if a "
        "remote has that ref, run `graft clone absent absent`\n"
    )


@pytest.mark.parametrize("name", ["x" * 5000, "absent/file.db", "new\nline/file.db"], ids=ascii)
def test_an_impossible_path_gives_no_traceback(cli, plain, name):
    cli.ok("import", str(plain), "main")
    cli.fails(9, "export", "main", name)
    assert cli.run("import", name, "other").exit_code in (2, 9)
    assert [row["tag"] for row in cli.json("tags")] == ["main"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_standard_output_gives_no_traceback(cli):
    cli.ok("new", "main")
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "graft_vfs.cli", "tags"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert process.returncode == 9
    assert process.stderr.startswith("error: No space left on device\nhint: ")
    assert "Traceback" not in process.stderr
