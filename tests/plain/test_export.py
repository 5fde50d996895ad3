"""Export: whole files of one snapshot, which never replace another unasked."""

from __future__ import annotations

import io
import os
import secrets
import signal
import sqlite3
import subprocess
import sys

import pytest

from graft_vfs.errors import (
    AlreadyExistsError,
    CorruptObjectError,
    DamageError,
    GraftError,
    UsageError,
)
from graft_vfs.local import layout
from graft_vfs.maintenance.leftovers import leftovers
from tests.plain.files import (
    dump,
    make,
    process,
    stock_dump,
)
from tests.support.replicas import Replica


@pytest.fixture
def filled(replicas, tmp_path) -> Replica:
    replica = replicas()
    replica.engine.import_(make(tmp_path / "source.db", rows_count=3000), "main")
    return replica


def test_an_export_never_replaces_a_file(filled, tmp_path, monkeypatch) -> None:
    taken = tmp_path / "taken.db"
    taken.write_text("mine")
    with pytest.raises(AlreadyExistsError, match="exists already"):
        filled.engine.export("main", taken)
    assert taken.read_text() == "mine"

    late = tmp_path / "late.db"
    with pytest.raises(GraftError):
        filled.engine.export("main", late, progress=lambda *_: late.write_text("came in between"))
    assert late.read_text() == "came in between"

    dangling = tmp_path / "dangling.db"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(GraftError):
        filled.engine.export("main", dangling)
    assert dangling.is_symlink()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_a_failed_export_leaves_nothing(filled, tmp_path) -> None:
    def fail(*_):
        raise KeyboardInterrupt

    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(KeyboardInterrupt):
        filled.engine.export("main", target / "copy.db", progress=fail)
    assert list(target.iterdir()) == []


def test_an_export_into_a_directory_that_is_absent_is_a_named_error(filled, tmp_path) -> None:
    with pytest.raises(GraftError, match="No such file or directory; create the parent"):
        filled.engine.export("main", tmp_path / "absent" / "copy.db")


def test_an_export_that_is_killed_leaves_no_file_under_the_name(filled, tmp_path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from graft_vfs import Config, Graft\n"
        "engine = Graft(Config(data_dir=Path(sys.argv[1])))\n"
        "engine.export('main', Path(sys.argv[2]), "
        "progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    target = tmp_path / "killed.db"
    data_dir = filled.engine.config.data_dir
    done = subprocess.run([sys.executable, "-c", script, str(data_dir), str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    filled.engine.export("main", target)
    assert stock_dump(target) == stock_dump(tmp_path / "source.db")


def test_an_export_shows_one_snapshot_while_others_write(filled, tmp_path) -> None:
    connection = filled.connect()
    expected = dump(connection)

    def write(*_) -> None:
        connection.execute("UPDATE t SET word = word || '!'")

    filled.engine.export("main", tmp_path / "copy.db", progress=write)
    assert stock_dump(tmp_path / "copy.db") == expected
    assert dump(connection) != expected


def test_a_cold_clone_exports_whole_and_damage_stops_it(replicas, tmp_path) -> None:
    ours, theirs = replicas("ours"), replicas("theirs")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v)")
    with connection:
        connection.executemany(
            "INSERT INTO t VALUES(?, ?)", ((n, secrets.token_bytes(800)) for n in range(2000))
        )
    ours.engine.push("main")
    theirs.engine.open("main", create=True, remote="main")
    theirs.engine.export("main", tmp_path / "copy.db")
    assert stock_dump(tmp_path / "copy.db") == dump(connection)

    store = ours.engine.store
    (segment,) = store.keys("segments/")
    data = bytearray(store.get(segment))
    data[len(data) // 2] ^= 1
    store.put(segment, [bytes(data)])
    cold = replicas("cold")
    cold.engine.open("main", create=True, remote="main")
    with pytest.raises(CorruptObjectError):
        cold.engine.export("main", tmp_path / "damaged.db")
    assert not (tmp_path / "damaged.db").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


# Over a file, and through pipes -------------------------------------------------------------------


def test_an_export_by_force_replaces_a_file_in_one_step_and_keeps_its_mode(
    filled, tmp_path
) -> None:
    target = tmp_path / "taken.db"
    target.write_text("mine")
    target.chmod(0o640)
    link = tmp_path / "link.db"
    link.symlink_to(target)
    seen: list[str] = []
    filled.engine.export(
        "main", link, force=True, progress=lambda *_: seen.append(target.read_text())
    )
    assert set(seen) == {"mine"}
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert stock_dump(target) == dump(filled.connect())
    with pytest.raises(AlreadyExistsError, match="is a directory"):
        filled.engine.export("main", tmp_path, force=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AlreadyExistsError, match="is not a regular file"):
        filled.engine.export("main", tmp_path / "pipe", force=True)
    assert not list(tmp_path.glob(".graft-*"))


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("mode", ["wal", "persist"])
def test_an_export_is_never_given_the_wal_or_journal_of_another_database(
    filled, tmp_path, force, mode
) -> None:
    """SQLite would replay what lies beside a file into it, whatever that file holds."""
    target = tmp_path / "target.db"
    with process(
        target,
        f"PRAGMA journal_mode={mode}",
        "CREATE TABLE theirs(x)",
        "BEGIN; " if mode == "persist" else "PRAGMA wal_autocheckpoint=0",
        "INSERT INTO theirs VALUES(zeroblob(100000))",
    ) as writer:
        writer.kill()
        writer.wait()
    if not force:
        target.unlink()
    beside = next(tmp_path.glob("target.db-*[lj]*"))
    with pytest.raises(AlreadyExistsError, match="SQLite would take it for changes of"):
        filled.engine.export("main", target, force=force)
    beside.unlink()
    filled.engine.export("main", target, force=force)
    assert stock_dump(target) == dump(filled.connect())


def test_a_persistent_journal_does_not_block_an_export(filled, tmp_path) -> None:
    target = tmp_path / "target.db"
    connection = sqlite3.connect(target)
    connection.execute("PRAGMA journal_mode=persist")
    connection.execute("CREATE TABLE theirs(x)")
    connection.close()
    assert target.with_name("target.db-journal").stat().st_size
    filled.engine.export("main", target, force=True)
    assert stock_dump(target) == dump(filled.connect())


def test_an_earlier_commit_is_exported(filled, tmp_path) -> None:
    filled.engine.push("main")
    connection = filled.connect()
    expected = dump(connection)
    connection.execute("DELETE FROM t WHERE k < 1000")
    filled.engine.export("main", tmp_path / "first.db", at="BASE")
    filled.engine.export("main", tmp_path / "now.db", at="HEAD")
    assert stock_dump(tmp_path / "first.db") == expected
    assert stock_dump(tmp_path / "now.db") == dump(connection)
    with pytest.raises(GraftError):
        filled.engine.export("main", tmp_path / "absent.db", at="9")
    assert not (tmp_path / "absent.db").exists()


def test_streams_are_exported_to_and_imported_from(filled, replicas, tmp_path) -> None:
    written = io.BytesIO()
    done = filled.engine.export("main", written)
    assert (done.path, done.bytes) == ("-", len(written.getvalue()))
    filled.engine.export("main", tmp_path / "copy.db")
    assert written.getvalue() == (tmp_path / "copy.db").read_bytes()
    other = replicas("other")
    written.seek(0)
    done = other.engine.import_(written, "main")
    assert (done.path, done.lsn) == ("-", 1)
    assert dump(other.connect()) == dump(filled.connect())
    change = sqlite3.connect(tmp_path / "copy.db")
    change.execute("DELETE FROM t WHERE k = 5")
    change.commit()
    change.close()
    with (tmp_path / "copy.db").open("rb") as stream:
        assert other.engine.import_(stream, "main", update=True).differ < 6
    assert dump(other.connect()) == stock_dump(tmp_path / "copy.db")
    with pytest.raises(DamageError, match="standard input is not a valid SQLite database"):
        other.engine.import_(io.BytesIO(b"no database" * 1000), "new")
    with pytest.raises(UsageError, match="there is nothing on standard input"):
        other.engine.import_(io.BytesIO(), "new")
    assert [tag.tag for tag in other.engine.tags()] == ["main"]
    assert not layout.spools(other.engine.config.data_dir)


def test_the_copy_of_an_interrupted_import_is_found(filled) -> None:
    spool = filled.engine.config.data_dir / f"{layout.SPOOL_PREFIX}abc"
    spool.mkdir()
    (spool / "standard input").write_bytes(b"x" * 5000)
    found = list(leftovers(filled.engine.config.data_dir, filled.engine.catalog))
    assert found == [(spool, "is the copy of an import that was interrupted")]
