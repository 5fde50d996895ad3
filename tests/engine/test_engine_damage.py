"""Damage beside good volumes, and data directories that cannot be written."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import apsw
import pytest

import graft_vfs
from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import (
    CorruptCatalogError,
    CorruptLogError,
    GraftError,
    LocalStorageError,
)
from graft_vfs.ids import VolumeId
from graft_vfs.local.branch_log import BranchLog
from graft_vfs.volume.volume import Volume
from tests.support.engines import registered
from tests.support.replicas import Replica, rows


def two_volumes(machines) -> tuple[Path, list]:
    """Make the volumes `main` and `good`, close everything; returns main's log file."""
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(Replica(machines.directory, machines.remote))
        for tag in ("main", "good"):
            connection = ours.connect(tag)
            connection.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v)")
            for number in range(30):
                connection.execute("INSERT INTO t VALUES(?, randomblob(1500))", (number,))
        return ours.engine.open("main").branch_log.path, rows(connection)


@pytest.fixture
def closed(tmp_path):
    """A data directory with two volumes that no process has open."""

    class Place:
        directory = tmp_path / "ours"
        remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))

    return two_volumes(Place)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


def chunks_of(path: Path, volume: str) -> list:
    log = BranchLog(path, volume=VolumeId.parse(volume), writable=False)
    try:
        return [chunk for chunks in log.transactions(log.start, 1) for chunk in chunks]
    finally:
        log.close()


def others_work(ours: Replica, expected: list) -> None:
    good = ours.connect("good")
    assert rows(good) == expected
    good.execute("INSERT INTO t VALUES(1000, 'still works')")
    assert ours.engine.push("good").lsn == 1
    assert ours.engine.new("fresh").lsn == 0


@pytest.mark.parametrize(
    "field", [0, 8, 16, 48, 56], ids=["magic", "lsn", "count", "chain", "page"]
)
def test_a_damaged_chunk_header_is_named_and_other_volumes_work(machines, closed, field) -> None:
    path, expected = closed
    chunk = chunks_of(path, path.parent.name)[10]
    header = chunk.images - 8 - 4 * len(chunk.pages) - 56
    flip(path, header + field)
    ours = machines("ours")
    for _ in range(2):
        with pytest.raises(CorruptLogError) as caught:
            ours.engine.open("main")
        assert "restore the data directory" in str(caught.value)
    with pytest.raises(apsw.CorruptError, match="restore the data directory"):
        ours.connect("main")
    others_work(ours, expected)
    flip(path, header + field)
    assert len(rows(ours.connect("main"))) == 30


def test_a_damaged_image_is_named_and_other_pages_and_volumes_work(machines, closed) -> None:
    path, expected = closed
    chunks = chunks_of(path, path.parent.name)
    newest = {page: chunk for chunk in chunks for page in chunk.pages}
    # A leaf that was full early on: no later chunk writes it again.
    page = max(page for page, chunk in newest.items() if chunk is chunks[10])
    image = newest[page].images + newest[page].pages.index(page) * newest[page].page_size
    flip(path, image + 2000)
    ours = machines("ours")
    connection = ours.connect("main")
    assert rows(connection, "SELECT count(*) FROM sqlite_schema") == [(1,)]
    with pytest.raises(apsw.CorruptError, match="restore the data directory"):
        rows(connection)
    assert len(rows(connection, "SELECT v FROM t WHERE k = 29")) == 1
    with pytest.raises(CorruptLogError):
        ours.engine.push("main")
    status = ours.engine.status("main")
    assert "damaged" in str(status.last_error)
    assert status.pending_push is False
    others_work(ours, expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"GRAFTL0G" + bytes(100), "is not a branch log"), (b"", "is not a branch log")],
)
def test_a_foreign_log_file_is_named_and_other_volumes_work(
    machines, closed, data, message
) -> None:
    path, expected = closed
    path.write_bytes(data)
    ours = machines("ours")
    with pytest.raises(CorruptLogError, match=message):
        ours.engine.open("main")
    others_work(ours, expected)


def test_a_missing_log_file_is_named_and_other_volumes_work(machines, closed) -> None:
    path, expected = closed
    path.unlink()
    ours = machines("ours")
    with pytest.raises(GraftError, match="No such file"):
        ours.engine.open("main")
    others_work(ours, expected)


@pytest.mark.parametrize(
    "data", [b"not a database at all " * 300, b"SQLite format 3\0" + bytes(5000)]
)
def test_a_damaged_catalog_is_named_with_a_next_step(machines, closed, tmp_path, data) -> None:
    catalog = tmp_path / "ours/catalog.db"
    for name in ("catalog.db-wal", "catalog.db-shm"):
        (tmp_path / "ours" / name).unlink(missing_ok=True)
    catalog.write_bytes(data)
    with pytest.raises(CorruptCatalogError, match="move it away") as caught:
        Graft(Config(data_dir=tmp_path / "ours"))
    assert str(catalog) in str(caught.value)
    assert caught.value.next_step
    catalog.unlink()
    with contextlib.closing(Graft(Config(data_dir=tmp_path / "ours"), recovering=True)) as engine:
        for lost in engine.lost_volumes():
            engine.adopt(lost.volume)
    others_work(machines("ours"), closed[1])


def test_another_programs_database_is_not_a_catalog(tmp_path) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data/catalog.db"
    stock = apsw.Connection(str(path), vfs="unix")
    stock.execute("CREATE TABLE mine(x); PRAGMA user_version = 1")
    stock.close()
    before = path.read_bytes()
    with pytest.raises(CorruptCatalogError, match="another directory"):
        Graft(Config(data_dir=tmp_path / "data"))
    stock = apsw.Connection(str(path), vfs="unix")
    assert rows(stock, "SELECT name FROM sqlite_schema") == [("mine",)]
    stock.close()
    assert before[:16] == path.read_bytes()[:16]


# A data directory that cannot be written --------------------------------------------------------


def test_a_read_only_data_directory_is_read_and_never_written(
    machines, closed, tmp_path, monkeypatch
) -> None:
    _, expected = closed
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode, **more: mode != os.W_OK and access(path, mode, **more)
    )
    files = {path: path.read_bytes() for path in (tmp_path / "ours").rglob("*.log")}
    ours = machines("ours")
    assert not ours.engine.writable
    connection = ours.connect("good")
    assert rows(connection) == expected
    with pytest.raises(apsw.ReadOnlyError):
        connection.execute("DELETE FROM t")
    with pytest.raises(GraftError):
        ours.engine.new("main")
    with pytest.raises(GraftError):
        ours.engine.push("good")
    with pytest.raises(apsw.Error):
        ours.connect("absent")
    assert rows(connection) == expected
    assert {path: path.read_bytes() for path in files} == files


def test_a_data_directory_that_is_a_file_is_a_named_error(tmp_path) -> None:
    (tmp_path / "data").write_text("mine")
    with pytest.raises(LocalStorageError, match="data"):
        Graft(Config(data_dir=tmp_path / "data"))
    assert (tmp_path / "data").read_text() == "mine"


def test_a_disk_that_is_full_fails_a_push_and_nothing_else(machines, monkeypatch) -> None:
    ours = machines("ours")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k); INSERT INTO t VALUES(1)")

    def full(*_: object, **__: object) -> None:
        raise LocalStorageError("a test filled the disk", next_step="free some space")

    with monkeypatch.context() as patch:
        patch.setattr(Volume, "switch_branch", full)
        with pytest.raises(LocalStorageError, match="filled the disk"):
            ours.engine.push("main")
    assert "filled the disk" in str(ours.engine.status("main"))
    assert rows(connection) == [(1,)]
    ours.engine.pull("main")
    status = ours.engine.status("main")
    assert (status.base_lsn, status.ahead, status.last_error) == (1, 0, None)


def test_a_damaged_volume_is_one_bad_row_among_the_others(tmp_path) -> None:
    with registered(Config(data_dir=tmp_path / "data")) as engine:
        for tag in ("first", "second", "third"):
            graft_vfs.connect(tag).execute("CREATE TABLE t(x)")
        path = engine.open("second").branch_log.path
    path.write_bytes(b"not a log".ljust(200))
    with registered(Config(data_dir=tmp_path / "data")) as engine:
        found = engine.volumes()
        assert [report.tags for report in found] == [("first",), ("second",), ("third",)]
        assert [report.problem is None for report in found] == [True, False, True]
        assert "is not a branch log" in str(found[1])
        assert found[1].local_lsn is None
        assert (found[0].local_lsn, found[2].local_lsn) == (1, 1)
