"""A catalog that is lost, or older than its volumes, is an error; no commit is lost with it."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import (
    AlreadyExistsError,
    CorruptCatalogError,
    HistoryMismatchError,
    NotFoundError,
    UsageError,
)
from graft_vfs.ids import VolumeId
from graft_vfs.local import layout
from graft_vfs.local.catalog import descriptor
from graft_vfs.maintenance import adopt as adopt_module
from tests.support.replicas import Replica, rows


@pytest.fixture
def remote(tmp_path: Path) -> RemoteConfig:
    return RemoteConfig(type="fs", root=str(tmp_path / "remote"))


def write(replica: Replica, *values: str) -> None:
    connection = replica.connect()
    connection.execute("CREATE TABLE IF NOT EXISTS t(v)")
    for value in values:
        connection.execute("INSERT INTO t VALUES(?)", (value,))
    connection.close()


def volume_of(replica: Replica) -> VolumeId:
    found = replica.engine.catalog.tag_volume("main")
    assert found is not None
    return found


def remove_catalog(data_dir: Path) -> None:
    for path in data_dir.glob("catalog.db*"):
        path.unlink()


@contextlib.contextmanager
def recovering(data_dir: Path, remote: RemoteConfig):
    with contextlib.closing(
        Graft(Config(data_dir=data_dir, remote=remote), recovering=True)
    ) as engine:
        yield engine


def contents(data_dir: Path, remote: RemoteConfig) -> list[tuple]:
    with Replica(data_dir, remote) as replica:
        return rows(replica.connect())


def test_switch_never_reuses_a_directory_with_commits(tmp_path, remote) -> None:
    data = tmp_path / "data"
    with Replica(data, remote) as replica:
        write(replica, "unpushed")
        volume = volume_of(replica)
    remove_catalog(data)
    with recovering(data, remote) as engine:
        with pytest.raises(AlreadyExistsError, match=r"engine\.adopt\(VolumeId"):
            engine.switch("main", str(volume))
        assert engine.adopt(volume).tags == ("main",)
    assert contents(data, remote) == [("unpushed",)]


def test_a_lost_catalog_does_not_create_empty_databases(tmp_path, remote) -> None:
    data = tmp_path / "data"
    with Replica(data, remote) as replica:
        write(replica, "unpushed")
    remove_catalog(data)
    with pytest.raises(CorruptCatalogError, match=r"missing or empty.*engine\.lost_volumes"):
        Graft(Config(data_dir=data, remote=remote))
    # Nothing was made that a restored catalog would meet.
    assert not list(data.glob("catalog.db*"))
    (data / "catalog.db").touch()
    with pytest.raises(CorruptCatalogError, match="missing or empty"):
        Graft(Config(data_dir=data, remote=remote))


def test_a_pushed_and_pulled_volume_is_adopted_unchanged(tmp_path, remote) -> None:
    data = tmp_path / "data"
    with Replica(data, remote) as replica, Replica(tmp_path / "other", remote) as other:
        write(replica, "one", "two")
        replica.engine.push("main")
        b = other.connect(remote="main")
        b.execute("INSERT INTO t VALUES('theirs')")
        other.engine.push("main")
        replica.engine.pull("main")
        write(replica, "unpushed")
        before = replica.engine.status("main")
    remove_catalog(data)
    with recovering(data, remote) as engine:
        (lost,) = engine.lost_volumes()
        assert (lost.volume, lost.is_known, lost.tags) == (before.volume, False, ("main",))
        done = engine.adopt(lost.volume)
        assert (done.remote, done.base_lsn, done.local_commits) == (before.remote, 2, 1)
        assert engine.lost_volumes() == []
    with Replica(data, remote) as replica:
        assert rows(replica.connect(), "SELECT v FROM t") == [
            ("one",), ("two",), ("theirs",), ("unpushed",)
        ]  # fmt: skip
        assert replica.connect().pragma("integrity_check") == "ok"
        assert replica.engine.push("main").lsn == 3


def test_a_catalog_without_its_wal_does_not_recreate_a_tag(tmp_path, remote) -> None:
    data = tmp_path / "data"
    with Replica(data, remote) as replica:
        replica.connect("other").execute("CREATE TABLE t(v)")
    saved = tmp_path / "saved.db"
    shutil.copy(data / "catalog.db", saved)
    with Replica(data, remote) as replica:
        write(replica, "unpushed")
        volume = volume_of(replica)
    remove_catalog(data)
    shutil.copy(saved, data / "catalog.db")
    with Replica(data, remote) as replica:
        assert rows(replica.connect("other")) == []
        for tag in ("main", "new"):
            with pytest.raises(CorruptCatalogError, match=f"lost volume {volume}"):
                replica.engine.open(tag, create=True)
        replica.engine.adopt(volume)
        assert rows(replica.connect()) == [("unpushed",)]
        replica.engine.open("new", create=True)


@pytest.mark.parametrize("step", ["push", "pull"])
def test_a_catalog_older_than_its_volume_is_an_error_until_the_volume_is_adopted(
    tmp_path, remote, step
) -> None:
    data = tmp_path / "data"
    with Replica(data, remote) as replica:
        write(replica, "one")
        replica.engine.push("main")
    saved = tmp_path / "saved.db"
    shutil.copy(data / "catalog.db", saved)
    with Replica(data, remote) as replica, Replica(tmp_path / "other", remote) as other:
        if step == "push":
            write(replica, "two")
            replica.engine.push("main")
        else:
            b = other.connect(remote="main")
            b.execute("INSERT INTO t VALUES('two')")
            other.engine.push("main")
            replica.engine.pull("main")
        write(replica, "unpushed")
        volume = volume_of(replica)
    remove_catalog(data)
    shutil.copy(saved, data / "catalog.db")
    with Replica(data, remote) as replica:
        with pytest.raises(
            CorruptCatalogError, match=rf"older than volume {volume}.*engine\.adopt\("
        ):
            replica.engine.open("main")
        (lost,) = replica.engine.lost_volumes()
        assert lost.is_known
        assert replica.engine.adopt(volume).local_commits == 1
        assert rows(replica.connect()) == [("one",), ("two",), ("unpushed",)]
        assert replica.engine.push("main").lsn == 3


def test_a_missing_stale_or_damaged_descriptor_is_rewritten(tmp_path, remote) -> None:
    data = tmp_path / "data"
    with Replica(data, remote) as replica:
        write(replica, "one")
        path = data / "volumes" / str(volume_of(replica)) / layout.DESCRIPTOR
        late = path.read_bytes()
        replica.engine.push("main")
        newest = path.read_bytes()
    assert late != newest
    for state in (late, b"{}", b"", newest[:-9], None):
        path.unlink() if state is None else path.write_bytes(state)
        assert contents(data, remote) == [("one",)]
        assert path.read_bytes() == newest


def test_a_volume_without_descriptor_is_adopted_if_its_log_has_every_page(tmp_path, remote) -> None:
    data = tmp_path / "data"
    with Replica(data, remote) as replica:
        write(replica, "one", "two")
        replica.engine.push("main")
        write(replica, "three")
        volume = volume_of(replica)
    (data / "volumes" / str(volume) / layout.DESCRIPTOR).unlink()
    remove_catalog(data)
    with recovering(data, remote) as engine:
        done = engine.adopt(volume, "main")
        assert (done.base_lsn, done.local_commits) == (0, 4)
    assert contents(data, remote) == [("one",), ("three",), ("two",)]


def test_a_manual_copy_of_a_branch_file_is_left_alone(tmp_path, remote) -> None:
    data = tmp_path / "data"
    with Replica(data, remote) as replica:
        write(replica, "one")
        volume = volume_of(replica)
    directory = data / "volumes" / str(volume)
    copy = directory / "0001 (2).log"
    copy.write_bytes((directory / "0001.log").read_bytes())
    (directory / layout.DESCRIPTOR).unlink()
    remove_catalog(data)
    with recovering(data, remote) as engine:
        engine.adopt(volume, "main")
    with Replica(data, remote) as replica:
        write(replica, "two")  # Gives unused space back, also that of unused branch files.
    assert copy.exists()
    assert contents(data, remote) == [("one",), ("two",)]


def test_a_volume_without_descriptor_needs_an_explicit_base(tmp_path, remote) -> None:
    data = tmp_path / "data"
    with Replica(tmp_path / "other", remote) as other:
        write(other, *"abcdefgh")
        connection = other.connect()
        connection.execute("CREATE TABLE u(v); INSERT INTO u VALUES(zeroblob(50000))")
        log = other.engine.push("main").log
    with Replica(data, remote) as replica:
        replica.connect(remote="main").execute("INSERT INTO t VALUES('unpushed')")
        volume = volume_of(replica)
    (data / "volumes" / str(volume) / layout.DESCRIPTOR).unlink()
    remove_catalog(data)
    with recovering(data, remote) as engine:
        with pytest.raises(UsageError, match=r"pages are not in its own log.*base=commit"):
            engine.adopt(volume, "main")
        assert engine.adopt(volume, "main", base=f"{log}:1").local_commits == 1
    with Replica(data, remote) as replica:
        assert len(rows(replica.connect())) == 9
        assert replica.connect().pragma("integrity_check") == "ok"
        assert replica.engine.push("main").lsn == 2


def test_a_volume_is_not_adopted_on_another_history(tmp_path, remote) -> None:
    data = tmp_path / "data"
    with Replica(data, remote) as replica:
        write(replica, "one")
        log = replica.engine.push("main").log
        write(replica, "unpushed")
        volume = volume_of(replica)
    remove_catalog(data)
    with Replica(tmp_path / "other", RemoteConfig(type="fs", root=str(tmp_path / "b"))) as other:
        other.engine.switch("main", f"{VolumeId.new()}::{log}")
        write(other, "another")
        other.engine.push("main")
    elsewhere = RemoteConfig(type="fs", root=str(tmp_path / "b"))
    with recovering(data, elsewhere) as engine, pytest.raises(HistoryMismatchError):
        engine.adopt(volume)
    with recovering(data, remote) as engine:
        engine.adopt(volume)
    assert contents(data, remote) == [("one",), ("unpushed",)]


def test_a_refused_adoption_explains_why(tmp_path, remote) -> None:
    data = tmp_path / "data"
    with Replica(data, remote) as replica:
        write(replica, "one")
        volume = volume_of(replica)
        with pytest.raises(AlreadyExistsError, match=r"engine\.switch\(tag, '"):
            replica.engine.adopt(volume)
        with pytest.raises(NotFoundError, match="no directory"):
            replica.engine.adopt(VolumeId.new())
        empty = VolumeId.new()
        (data / "volumes" / str(empty)).mkdir()
        with pytest.raises(UsageError, match="no commit"):
            replica.engine.adopt(empty)
        assert replica.engine.lost_volumes() == []


def test_a_used_tag_moves_to_the_adopted_volume_with_its_connections(tmp_path, remote) -> None:
    data = tmp_path / "data"
    with Replica(data, remote) as replica:
        write(replica, "lost")
        volume = volume_of(replica)
    catalog = tmp_path / "catalog"
    catalog.mkdir()
    for path in data.glob("catalog.db*"):
        path.rename(catalog / path.name)
    aside = (data / "volumes" / str(volume)).rename(tmp_path / "aside")
    with Replica(data, remote) as replica:
        write(replica, "present")
        present = volume_of(replica)
        aside.rename(data / "volumes" / str(volume))
        assert replica.engine.adopt(volume, "main").tags == ("main",)
        assert rows(replica.connect()) == [("lost",)]
        write(replica, "more")
        replica.engine.switch("kept", str(present))
        assert rows(replica.connect("kept")) == [("present",)]
    assert contents(data, remote) == [("lost",), ("more",)]


def test_a_concurrently_adopted_volume_is_left_unchanged(tmp_path, remote, monkeypatch) -> None:
    data = tmp_path / "data"
    with Replica(data, remote) as replica:
        write(replica, "lost")
        volume = volume_of(replica)
    remove_catalog(data)
    held = adopt_module.held

    @contextlib.contextmanager
    def held_late(directory: Path, **options: float):
        monkeypatch.undo()
        with recovering(data, remote) as other:
            other.adopt(volume, "theirs")
        with held(directory, **options):
            yield

    with recovering(data, remote) as engine:
        monkeypatch.setattr(adopt_module, "held", held_late)
        with pytest.raises(AlreadyExistsError, match=rf"engine\.switch\(tag, '{volume}'"):
            engine.adopt(volume, "ours")
        assert engine.catalog.volume_tags(volume) == ["theirs"]


def test_the_file_of_a_fork_has_its_tag(tmp_path) -> None:
    with Replica(tmp_path / "data", RemoteConfig(type="memory", root=str(tmp_path))) as machine:
        machine.connect("main").execute("CREATE TABLE t(x)")
        machine.engine.push("main")
        machine.engine.fork("main", new_tag="side")
        directory = machine.engine.open("side").directory
        found = descriptor.read(directory)
        assert found is not None
        assert found.tags == ("side",)
        former = machine.engine.status("main").volume
        machine.engine.switch("again", str(former))
        again = descriptor.read(machine.engine.config.data_dir / "volumes" / str(former))
        assert again is not None
        assert again.tags == ("again", "main")
