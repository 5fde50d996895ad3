"""Importing a file that programs use: no lock is lost, no WAL goes, nothing is zero-filled."""

from __future__ import annotations

import multiprocessing.spawn
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import BusyError, DamageError, LocalStorageError, UsageError
from graft_vfs.plain import source as plain_source
from tests.support.replicas import Replica, rows

LIBRARIES = {
    "sqlite3": lambda path: sqlite3.connect(path, isolation_level=None),
    "apsw": lambda path: apsw.Connection(str(path), vfs="unix"),
}


@pytest.fixture
def replica(tmp_path):
    with Replica(tmp_path / "data", RemoteConfig()) as made:
        yield made


def make(path: Path, *, journal_mode: str = "delete", count: int = 200) -> Path:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode={journal_mode}")
    connection.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)")
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO t VALUES(?, zeroblob(1000))", ((n,) for n in range(count)))
    connection.execute("COMMIT")
    connection.close()
    return path


def in_another_process(path: Path, *statements: str, ends: bool = True) -> str:
    """Run statements in a process; returns what it wrote. With `ends` false it kills itself."""
    lines = [
        "import os, signal, sqlite3, sys",
        "c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)",
        "for statement in sys.argv[2:]:",
        "    print(c.execute(statement).fetchall())",
        "sys.stdout.flush()",
        *([] if ends else ["os.kill(os.getpid(), signal.SIGKILL)"]),
    ]
    command = [sys.executable, "-c", "\n".join(lines), str(path), *statements]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("way", ["engine", "pragma"])
def test_an_import_keeps_the_locks_of_a_program_that_has_the_file_open(
    replica, tmp_path, library, way
) -> None:
    path = make(tmp_path / "app.db")
    own = LIBRARIES[library](path)
    own.execute("BEGIN IMMEDIATE")
    own.execute("INSERT INTO t VALUES(1000, NULL)")
    assert "database is locked" in in_another_process(path, "BEGIN IMMEDIATE")
    if way == "engine":
        replica.engine.import_(path, "main")
    else:
        replica.connect().pragma("graft_import", str(path))
    assert "database is locked" in in_another_process(path, "BEGIN IMMEDIATE")
    own.execute("COMMIT")
    assert rows(replica.connect(), "SELECT count(*) FROM t") == [(200,)]
    assert in_another_process(path, "SELECT count(*) FROM t") == "[(201,)]\n"
    own.close()


@pytest.mark.parametrize("written", [0, 1])
@pytest.mark.parametrize("library", LIBRARIES)
def test_an_import_keeps_the_wal_of_a_program_that_has_the_file_open(
    replica, tmp_path, library, written
) -> None:
    path = make(tmp_path / "app.db", journal_mode="wal")
    wal = path.with_name("app.db-wal")
    own = LIBRARIES[library](path)
    own.execute("PRAGMA wal_autocheckpoint=0").fetchall()
    own.execute("SELECT count(*) FROM t").fetchall()
    if written:
        own.execute("INSERT INTO t VALUES(1000, NULL)")
    before = wal.stat()
    replica.engine.import_(path, "main")
    assert (wal.stat().st_ino, wal.stat().st_size) == (before.st_ino, before.st_size)
    own.execute("INSERT INTO t VALUES(1001, NULL)")
    assert in_another_process(path, "SELECT count(*) FROM t") == f"[({201 + written},)]\n"
    assert rows(replica.connect(), "SELECT count(*) FROM t") == [(200 + written,)]
    own.close()


def test_a_symbolic_link_leads_to_the_wal_of_its_target(replica, tmp_path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = make(tmp_path / "elsewhere" / "real.db", journal_mode="wal")
    in_another_process(
        path,
        "PRAGMA wal_autocheckpoint=0",
        "INSERT INTO t VALUES(1000, NULL)",
        ends=False,
    )
    assert path.with_name("real.db-wal").stat().st_size
    link = tmp_path / "link.db"
    link.symlink_to(path)
    replica.engine.import_(link, "main")
    assert rows(replica.connect(), "SELECT count(*) FROM t") == [(201,)]


def test_a_hot_journal_is_rolled_back_before_pages_are_read(replica, tmp_path) -> None:
    path = make(tmp_path / "app.db")
    in_another_process(
        path,
        "PRAGMA cache_size=5",
        "BEGIN",
        "UPDATE t SET v = randomblob(1000)",
        ends=False,
    )
    assert path.with_name("app.db-journal").stat().st_size
    replica.engine.import_(path, "main")
    connection = replica.connect()
    assert rows(connection, "SELECT count(*), sum(v = zeroblob(1000)) FROM t") == [(200, 200)]
    assert connection.pragma("integrity_check") == "ok"


def test_a_file_that_ends_inside_a_page_is_refused_by_name(replica, tmp_path) -> None:
    path = make(tmp_path / "app.db")
    size = path.stat().st_size
    # Old programs leave a header that does not tell the size: then the file's length counts.
    with path.open("r+b") as file:
        file.seek(92)
        file.write(bytes(4))
        file.truncate(size - 1000)
    with pytest.raises(DamageError, match=f"ends inside page {size // 4096} of {size // 4096}"):
        replica.engine.import_(path, "main")


def test_a_file_that_ends_inside_a_page_beside_a_wal_is_refused_by_name(replica, tmp_path) -> None:
    path = make(tmp_path / "app.db", journal_mode="wal")
    in_another_process(
        path, "PRAGMA wal_autocheckpoint=0", "UPDATE t SET v = NULL WHERE k = 1", ends=False
    )
    os.truncate(path, path.stat().st_size - 1000)
    with pytest.raises(DamageError, match=r"ends inside page .*wal_checkpoint"):
        replica.engine.import_(path, "main")


def test_bytes_after_the_last_page_are_not_part_of_the_database(replica, tmp_path) -> None:
    path = make(tmp_path / "app.db")
    with path.open("ab") as file:
        file.write(b"something else")
    replica.engine.import_(path, "main")
    assert replica.connect().pragma("integrity_check") == "ok"


def test_a_file_that_this_very_connection_s_program_locks_is_busy(
    replica, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(plain_source, "BUSY_TIMEOUT_MS", 0)
    path = make(tmp_path / "app.db")
    own = sqlite3.connect(path, isolation_level=None)
    own.execute("BEGIN EXCLUSIVE")
    with pytest.raises(BusyError, match="end that transaction and try again"):
        replica.engine.import_(path, "main")
    own.close()


def test_an_import_works_in_a_program_that_lets_the_system_reap_its_children(
    replica, tmp_path
) -> None:
    path = make(tmp_path / "app.db")
    former = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        replica.engine.import_(path, "main")
    finally:
        signal.signal(signal.SIGCHLD, former)
    assert rows(replica.connect(), "SELECT count(*) FROM t") == [(200,)]


# The interpreter ----------------------------------------------------------------------------------


def test_a_frozen_program_gets_a_next_step_and_is_not_run_again(
    replica, tmp_path, monkeypatch
) -> None:
    path = make(tmp_path / "app.db")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(UsageError, match=r"no Python interpreter.*graft import.*set_executable"):
        replica.engine.import_(path, "main")


def test_a_frozen_program_may_name_an_interpreter(replica, tmp_path, monkeypatch) -> None:
    path = make(tmp_path / "app.db")
    interpreter = tmp_path / "interpreter"
    interpreter.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", str(interpreter))
    replica.engine.import_(path, "main")
    assert rows(replica.connect(), "SELECT count(*) FROM t") == [(200,)]


@pytest.mark.parametrize("executable", ["", "/usr/sbin/some-server"])
def test_a_server_that_embeds_python_uses_the_installed_interpreter(
    replica, tmp_path, monkeypatch, executable
) -> None:
    path = make(tmp_path / "app.db")
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", executable)
    replica.engine.import_(path, "main")
    assert rows(replica.connect(), "SELECT count(*) FROM t") == [(200,)]


def test_an_interpreter_that_cannot_run_the_reader_is_a_named_error(
    replica, tmp_path, monkeypatch
) -> None:
    path = make(tmp_path / "app.db")
    for executable, reason in (("/bin/false", "ended early"), ("/absent", "No such file")):
        monkeypatch.setattr(multiprocessing.spawn, "_python_exe", executable)
        with pytest.raises(LocalStorageError, match=reason):
            replica.engine.import_(path, "main")


# The path -----------------------------------------------------------------------------------------


def test_a_path_that_cannot_be_examined_is_a_named_error(replica, tmp_path) -> None:
    loop = tmp_path / "loop.db"
    loop.symlink_to(loop)
    with pytest.raises(LocalStorageError, match=r"loop\.db: Too many levels of symbolic links"):
        replica.engine.import_(loop, "main")
    with pytest.raises(LocalStorageError, match="File name too long"):
        replica.engine.import_(tmp_path / ("x" * 300), "main")
    assert (replica.engine.tags(), replica.engine.volumes()) == ([], [])
