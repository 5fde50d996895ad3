"""What befalls the files of the page cache costs requests, and nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import apsw
import pytest

from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import LocalStorageError
from graft_vfs.local.cache import arena as arena_module
from graft_vfs.volume import current_branch
from tests.support import isolated
from tests.support.disasters import (
    cut,
    cut_in_the_middle,
    emptied,
    forbidden,
    removed,
    replaced_by_a_file,
)
from tests.support.replicas import Replica, rows

ROWS = 300


DISASTERS = [removed, replaced_by_a_file, emptied, cut, cut_in_the_middle, forbidden]


def filled(connection: apsw.Connection) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY, v)")
    connection.execute(
        "WITH n(k) AS (VALUES(1) UNION ALL SELECT k + 1 FROM n WHERE k < ?) "
        "REPLACE INTO t SELECT k, randomblob(900) FROM n",
        (ROWS,),
    )


def read_write_and_push_after(root: str, disaster: str) -> None:
    """Run in a process of its own: today's failures were signals and loops without an end."""
    current_branch.LOOK_SECONDS = 0  # As if time had passed since the last look at the files.
    (act,) = (each for each in DISASTERS if each.__name__ == disaster)
    remote = RemoteConfig(type="fs", root=f"{root}/remote")
    with Replica(Path(root, "a"), remote) as ours, Replica(Path(root, "b"), remote) as theirs:
        a = ours.connect()
        filled(a)
        ours.engine.push("main")
        b = theirs.connect(remote="main")
        b.pragma("cache_size", 5)
        fixed = theirs.connect(remote="main", lsn="1")
        fixed.pragma("cache_size", 5)
        expected = rows(a)
        for connection in (b, fixed):
            assert rows(connection) == expected
        act(Path(root, "b", "cache"))
        for connection in (b, fixed):
            assert rows(connection) == expected
        filled(b)
        theirs.engine.push("main")
        ours.engine.pull("main")
        assert rows(a) == rows(b)
        assert b.pragma("integrity_check") == "ok"
        assert rows(fixed) == expected
        filled(a)
        ours.engine.push("main")
        act(Path(root, "b", "cache"))
        theirs.engine.pull("main")
        assert rows(a) == rows(b)
    print("done")


@pytest.mark.parametrize("disaster", DISASTERS, ids=lambda each: each.__name__)
def test_reads_and_pushes_survive_any_damage_of_the_cache(tmp_path, disaster) -> None:
    if os.geteuid() == 0 and disaster is forbidden:
        pytest.skip("permissions do not bind root")
    assert isolated.run(read_write_and_push_after, tmp_path, disaster.__name__) == "done\n"


def show_a_view_that_was_read_before_the_cut(root: str) -> None:
    """The last look of the volume is at the files of the view that it shows then."""
    current_branch.LOOK_SECONDS = 3600
    remote = RemoteConfig(type="fs", root=f"{root}/remote")
    with Replica(Path(root, "a"), remote) as ours, Replica(Path(root, "b"), remote) as theirs:
        a = ours.connect()
        filled(a)
        ours.engine.push("main")
        b = theirs.connect(remote="main")
        b.pragma("cache_size", 5)
        assert rows(b) == rows(a)
        a.execute("UPDATE t SET v = randomblob(900)")
        ours.engine.push("main")
        theirs.engine.fetch("main")
        later = theirs.engine.logs.view(theirs.engine.open("main").snapshot.branch.row.log_id, 2)
        for page in range(1, later.page_count + 1):
            later.locate(page)
        cut(Path(root, "b", "cache"))
        theirs.engine.pull("main")
        assert theirs.engine.open("main").snapshot.remote is later
        assert rows(b) == rows(a)
    print("done")


def test_a_view_is_checked_after_its_files_were_truncated(tmp_path) -> None:
    assert isolated.run(show_a_view_that_was_read_before_the_cut, tmp_path) == "done\n"


@pytest.fixture
def machines(tmp_path):
    """A machine with one pushed table, and another that has cloned it and read nothing."""
    remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))
    with Replica(tmp_path / "a", remote) as ours, Replica(tmp_path / "b", remote) as theirs:
        filled(ours.connect())
        ours.engine.push("main")
        theirs.engine.clone("main", "main")
        yield ours, theirs


def test_a_full_disk_fails_no_read_and_no_push_and_costs_no_request(
    machines, monkeypatch, tmp_path
) -> None:
    ours, theirs = machines
    expected = rows(ours.connect())
    with Replica(tmp_path / "c", theirs.engine.config.remote) as healthy:
        healthy.engine.clone("main", "main")
        before = healthy.counts()
        assert rows(healthy.connect()) == expected
        needed = (healthy.counts() - before).requests

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arena_module, "write_fully", full)
    before = theirs.counts()
    connection = theirs.connect()
    connection.pragma("cache_size", 5)
    for _ in range(3):
        assert rows(connection) == expected
    assert (theirs.counts() - before).requests == needed
    connection.execute("DELETE FROM t WHERE k > 10")
    assert theirs.engine.push("main").lsn == 2
    assert len(rows(connection)) == 10


def test_pages_that_the_disk_refuses_are_an_error_of_hydrate(machines, monkeypatch) -> None:
    _, theirs = machines

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arena_module, "write_fully", full)
    with pytest.raises(LocalStorageError, match="free some disk space"):
        theirs.engine.hydrate("main")
    monkeypatch.undo()
    theirs.engine.hydrate("main")


def test_pages_of_an_abandoned_history_are_not_served(tmp_path) -> None:
    """Catalog and volumes come back from a backup, the cache stays, and life goes on."""
    remotes = [RemoteConfig(type="fs", root=str(tmp_path / name)) for name in ("remote", "backup")]
    data, saved = tmp_path / "data", tmp_path / "saved"
    with Replica(data, remotes[0]) as replica:
        filled(replica.connect())
        replica.engine.push("main")
    shutil.copytree(data, saved)
    shutil.copytree(tmp_path / "remote", tmp_path / "backup")
    with Replica(data, remotes[0]) as replica:
        replica.connect().execute("UPDATE t SET v = 'abandoned'")
        replica.engine.push("main")
    for name in ("catalog.db", "volumes"):
        for path in data.glob(f"{name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in saved.glob(f"{name}*"):
            copy = shutil.copytree if path.is_dir() else shutil.copy2
            copy(path, data / path.name)
    with Replica(data, remotes[1]) as replica:
        replica.connect().execute("UPDATE t SET v = 'kept'")
        replica.engine.push("main")
        assert replica.engine.status("main").base_lsn == 2
    with Replica(data, remotes[1]) as replica:
        assert {value for _, value in rows(replica.connect())} == {"kept"}
        audit = replica.engine.audit("main")
        assert audit.present == audit.total


def test_the_limit_covers_all_logs_of_an_engine_together(tmp_path) -> None:
    remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))
    bound = 500_000
    with Replica(tmp_path / "a", remote) as ours, Replica(tmp_path / "b", remote) as theirs:
        theirs.engine.logs._cache_bytes_max = bound
        for number in range(4):
            filled(ours.connect(f"db{number}"))
            ours.engine.push(f"db{number}")
        for _ in range(2):
            for number in range(4):
                connection = theirs.connect(f"db{number}", remote=f"db{number}")
                connection.pragma("cache_size", 5)
                assert rows(connection) == rows(ours.connect(f"db{number}"))
                used = sum(path.stat().st_size for path in (tmp_path / "b" / "cache").rglob("*.*"))
                assert 0 < used <= bound
        held = [
            line
            for line in Path("/proc/self/maps").read_text().splitlines()
            if "(deleted)" in line and str(tmp_path / "b" / "cache") in line
        ]
        assert held == []


@pytest.fixture
def no_time(monkeypatch) -> None:
    """Have every transaction look at its files, from the opening of the machines on."""
    monkeypatch.setattr(current_branch, "LOOK_SECONDS", 0)


@pytest.mark.usefixtures("no_time")
@pytest.mark.parametrize("lsn", [None, "1"])
def test_files_are_checked_at_intervals_and_not_by_each_transaction(
    machines, monkeypatch, lsn
) -> None:
    _, theirs = machines
    connection = theirs.connect(remote="main", lsn=lsn) if lsn else theirs.connect()
    looks = []
    is_cut = arena_module.Arena.is_cut
    monkeypatch.setattr(
        arena_module.Arena, "is_cut", lambda arena: looks.append(1) or is_cut(arena)
    )
    for seconds, most in ((0, 10), (3600, 0)):
        monkeypatch.setattr(current_branch, "LOOK_SECONDS", seconds)
        rows(connection)
        looks.clear()
        for _ in range(10):
            rows(connection)
        assert len(looks) == most


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc to look into")
@pytest.mark.parametrize("setting", ["auto", "off"])
def test_the_cache_is_mapped_unless_mmap_is_off(machines, tmp_path, setting) -> None:
    ours, theirs = machines
    config = Config(data_dir=tmp_path / "c", remote=theirs.engine.config.remote, mmap=setting)
    engine = Graft(config)
    try:
        engine.clone("main", "main")
        snapshot = engine.open("main").begin()
        expected = ours.engine.open("main").begin()
        for page in range(2, expected.page_count + 1):
            assert snapshot.stored(page) == expected.stored(page)
        is_mapped = str(tmp_path / "c" / "cache") in Path("/proc/self/maps").read_text()
        assert is_mapped == (setting == "auto")
    finally:
        engine.close()
