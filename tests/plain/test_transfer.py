"""Import: what comes in, what is refused, and that nothing is left of what fails."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from graft_vfs.errors import (
    AlreadyExistsError,
    BusyError,
    DamageError,
    GraftError,
    UsageError,
)
from tests.plain.files import (
    KINDS,
    dump,
    leftovers,
    make,
    neutral,
    process,
    state,
    stock_dump,
)
from tests.support.replicas import rows


@pytest.mark.parametrize("kind", KINDS)
def test_export_gives_back_what_was_imported(replicas, tmp_path, kind) -> None:
    source = make(tmp_path / "source.db", *KINDS[kind])
    before, expected = state(source), stock_dump(source)
    replica = replicas()
    done = replica.engine.import_(source, "main")
    assert done.bytes == source.stat().st_size
    connection = replica.connect()
    assert dump(connection) == expected
    assert connection.pragma("integrity_check") == "ok"
    copy = tmp_path / "copy.db"
    replica.engine.export("main", copy)
    assert neutral(copy.read_bytes()) == neutral(source.read_bytes())
    assert stock_dump(copy) == expected
    assert state(source) == before
    beside = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert beside == {"source.db", "copy.db"}
    assert leftovers(replica) == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_imported_file_is_pushed_cloned_and_written_to(replicas, tmp_path, kind) -> None:
    source = make(tmp_path / "source.db", *KINDS[kind])
    ours, theirs = replicas("ours"), replicas("theirs")
    ours.engine.import_(source, "main")
    assert ours.engine.push("main").lsn == 1
    clone = theirs.connect(remote="main")
    assert dump(clone) == stock_dump(source)
    clone.execute("DELETE FROM t WHERE k % 3; INSERT INTO t VALUES(-1, 'new', NULL)")
    theirs.engine.push("main")
    ours.engine.pull("main")
    assert dump(ours.connect()) == dump(clone)
    assert ours.connect().pragma("integrity_check") == "ok"
    theirs.engine.export("main", tmp_path / "copy.db")
    assert stock_dump(tmp_path / "copy.db") == dump(clone)


def test_freelist_pages_are_included(replicas, tmp_path) -> None:
    source = make(tmp_path / "source.db", rows_count=3000)
    stock = sqlite3.connect(source)
    stock.execute("DELETE FROM t WHERE k > 100")
    stock.commit()
    (free,) = stock.execute("PRAGMA freelist_count").fetchone()
    stock.close()
    assert free > 100
    replica = replicas()
    replica.engine.import_(source, "main")
    connection = replica.connect()
    assert connection.pragma("freelist_count") == free
    replica.engine.export("main", tmp_path / "copy.db")
    assert neutral((tmp_path / "copy.db").read_bytes()) == neutral(source.read_bytes())
    connection.execute("VACUUM")
    assert connection.pragma("freelist_count") == 0
    assert connection.pragma("integrity_check") == "ok"


@pytest.mark.parametrize("killed", [False, True], ids=["writer_open", "writer_killed"])
def test_the_content_of_a_wal_is_imported_and_the_files_are_unchanged(
    replicas, tmp_path, killed
) -> None:
    source = make(tmp_path / "source.db", "journal_mode=wal")
    wal = source.with_name("source.db-wal")
    replica = replicas()
    with process(
        source,
        "PRAGMA wal_autocheckpoint=0",
        "INSERT INTO t VALUES(9999, 'in the wal', zeroblob(50000))",
        "DELETE FROM t WHERE k < 100",
    ) as writer:
        if killed:
            writer.kill()
            writer.wait()
        assert wal.stat().st_size > 50_000
        before = state(source), state(wal)
        replica.engine.import_(source, "main")
        assert (state(source), state(wal)) == before
    assert leftovers(replica) == []
    connection = replica.connect()
    assert rows(connection, "SELECT word FROM t WHERE k = 9999") == [("in the wal",)]
    assert rows(connection, "SELECT count(*) FROM t") == [(401,)]
    assert connection.pragma("journal_mode") != "wal"
    assert dump(connection) == stock_dump(source)


def test_a_file_that_is_being_written_to_is_busy_and_imported_later(replicas, tmp_path) -> None:
    source = make(tmp_path / "source.db")
    replica = replicas()
    with (
        process(source, "BEGIN EXCLUSIVE"),
        pytest.raises(BusyError, match="being written to"),
    ):
        replica.engine.import_(source, "main")
    assert replica.engine.import_(source, "main").pages > 1


def test_a_file_stays_locked_against_writers_while_it_is_imported(replicas, tmp_path) -> None:
    source = make(tmp_path / "source.db", rows_count=3000)
    expected = stock_dump(source)
    attempts: list[str] = []

    def write(*_) -> None:
        statement = "c.execute('DELETE FROM t'); c.commit()"
        script = f"import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=0); {statement}"
        command = [sys.executable, "-c", script, str(source)]
        attempts.append(subprocess.run(command, check=False, capture_output=True, text=True).stderr)

    replica = replicas()
    replica.engine.import_(source, "main", progress=write)
    assert attempts
    assert all("database is locked" in text for text in attempts)
    assert dump(replica.connect()) == expected


# What is refused --------------------------------------------------------------------------------


def garbage(path: Path) -> Path:
    path.write_bytes(b"this is not a database, " * 500)
    return path


def short(path: Path) -> Path:
    make(path)
    path.write_bytes(path.read_bytes()[:8192])
    return path


def damaged_schema(path: Path) -> Path:
    make(path)
    data = bytearray(path.read_bytes())
    data[100:108] = b"\xee" * 8
    path.write_bytes(data)
    return path


def odd_page_size(path: Path) -> Path:
    make(path)
    data = bytearray(path.read_bytes())
    data[16:18] = (777).to_bytes(2, "big")
    path.write_bytes(data)
    return path


def empty(path: Path) -> Path:
    path.touch()
    return path


def header_only(path: Path) -> Path:
    path.write_bytes(b"SQLite format 3\0")
    return path


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (garbage, DamageError),
        (short, DamageError),
        (damaged_schema, DamageError),
        (odd_page_size, DamageError),
        (empty, UsageError),
        (header_only, GraftError),
    ],
    ids=lambda value: value.__name__,
)
def test_a_damaged_database_is_refused_and_leaves_nothing(replicas, tmp_path, spoil, error) -> None:
    source = spoil(tmp_path / "source.db")
    before = state(source)
    replica = replicas()
    with pytest.raises(error) as caught:
        replica.engine.import_(source, "main")
    assert caught.value.next_step
    assert "source.db" in str(caught.value)
    assert state(source) == before
    assert (replica.engine.tags(), replica.engine.volumes()) == ([], [])
    assert list((replica.engine.config.data_dir / "volumes").iterdir()) == []
    good = make(tmp_path / "good.db")
    replica.engine.import_(good, "main")
    assert dump(replica.connect()) == stock_dump(good)


def test_an_absent_file_creates_no_tag(replicas, tmp_path) -> None:
    replica = replicas()
    with pytest.raises(UsageError, match="there is no file"):
        replica.engine.import_(tmp_path / "absent.db", "main")
    assert replica.engine.tags() == []


def test_a_directory_or_a_device_is_not_an_absent_file(replicas, tmp_path) -> None:
    replica = replicas()
    with pytest.raises(UsageError, match="is a directory; name a database file, such as") as caught:
        replica.engine.import_(tmp_path, "main")
    assert str(tmp_path / "app.db") in str(caught.value)
    with pytest.raises(UsageError, match="/dev/null is not a regular file"):
        replica.engine.import_(Path("/dev/null"), "main")
    assert replica.engine.tags() == []
    replica.connect().execute("CREATE TABLE mine(x)")
    with pytest.raises(AlreadyExistsError, match="is a directory; name a file in it") as caught:
        replica.engine.export("main", tmp_path)
    assert str(tmp_path / "export.db") in str(caught.value)


def test_a_volume_with_commits_refuses_an_import(replicas, tmp_path) -> None:
    source = make(tmp_path / "source.db")
    replica = replicas()
    connection = replica.connect()
    connection.execute("CREATE TABLE mine(x)")
    before = replica.engine.open("main").begin()
    with pytest.raises(UsageError, match=r"or first run `engine\.new\(tag\)`"):
        replica.engine.import_(source, "main")
    assert replica.engine.open("main").begin() is before
    assert rows(connection, "SELECT name FROM sqlite_schema") == [("mine",)]


@pytest.mark.parametrize("pages", [1000, 3000])
def test_a_failed_import_leaves_nothing(replicas, tmp_path, pages) -> None:
    source = make(tmp_path / "source.db", rows_count=pages, row_bytes=4000)
    whole = source.read_bytes()
    replica = replicas()
    replica.engine.new("main")
    with pytest.raises(DamageError, match="the file ends before page"):
        replica.engine.import_(source, "main", progress=lambda *_: os.truncate(source, 500_000))
    source.write_bytes(whole)
    connection = replica.connect()
    assert rows(connection, "SELECT count(*) FROM sqlite_schema") == [(0,)]
    snapshot = replica.engine.open("main").begin()
    assert (snapshot.page_count, snapshot.lsn) == (0, 0)
    replica.engine.import_(source, "main")
    assert rows(connection, "SELECT count(*) FROM t") == [(pages,)]
    again = replicas()
    assert rows(again.connect(), "SELECT count(*) FROM t") == [(pages,)]


def test_a_failed_import_into_a_tag_that_exists_leaves_the_tag(replicas, tmp_path) -> None:
    replica = replicas()
    replica.engine.new("main")
    with pytest.raises(DamageError):
        replica.engine.import_(garbage(tmp_path / "source.db"), "main")
    assert replica.engine.open("main").begin().page_count == 0
    assert leftovers(replica) == []


def test_a_concurrently_created_tag_is_not_replaced(replicas, tmp_path) -> None:
    replica = replicas()
    source = make(tmp_path / "source.db", rows_count=3000)

    def make_tag(*_: object) -> None:
        if not replica.engine.tags():
            replica.engine.new("main")

    with pytest.raises(AlreadyExistsError, match="tag 'main' exists already"):
        replica.engine.import_(source, "main", progress=make_tag)
    assert len(replica.engine.volumes()) == 1
    assert replica.engine.open("main").begin().page_count == 0


def test_ctrl_c_during_an_import_leaves_nothing(replicas, tmp_path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    replica = replicas()
    source = make(tmp_path / "source.db", rows_count=3000)
    with pytest.raises(KeyboardInterrupt):
        replica.engine.import_(source, "main", progress=interrupt)
    assert (replica.engine.tags(), replica.engine.volumes()) == ([], [])
