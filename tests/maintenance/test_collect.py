"""Removing volumes that no tag names: what is pushed goes, everything else is kept by name."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import NotFoundError, UsageError
from graft_vfs.ids import VolumeId
from tests.support.children import child
from tests.support.replicas import Replica, rows


@pytest.fixture
def machine(tmp_path):
    remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))
    with Replica(tmp_path / "data", remote) as made:
        yield made


def abandoned(machine: Replica, *, commits: int = 1, pushed: bool = True) -> VolumeId:
    """A volume that no tag names and no connection uses."""
    connection = machine.connect("gone")
    for number in range(commits):
        connection.execute(f"CREATE TABLE t{number}(x)")
    connection.close()
    if pushed:
        machine.engine.push("gone")
    volume = machine.engine.status("gone").volume
    machine.engine.remove_tag("gone")
    return volume


def directories(machine: Replica) -> set[str]:
    return {path.name for path in (machine.engine.config.data_dir / "volumes").iterdir()}


def again(machine: Replica) -> Replica:
    """The same machine after its process has ended."""
    machine.close()
    return Replica(machine.engine.config.data_dir, machine.engine.config.remote)


def test_pushed_or_empty_untagged_volumes_are_removed(machine) -> None:
    connection = machine.connect("main")
    connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    pushed, empty = abandoned(machine), abandoned(machine, commits=0, pushed=False)
    before = machine.counts()
    dry = machine.engine.collect_local(dry_run=True)
    assert [(each.volume, each.removed, each.kept_because) for each in dry] == [
        (pushed, False, None),
        (empty, False, None),
    ]
    assert all(str(each).startswith("Would remove volume") for each in dry)
    assert len(directories(machine)) == 3
    done = machine.engine.collect_local()
    assert [(each.volume, each.removed) for each in done] == [(pushed, True), (empty, True)]
    assert (machine.counts() - before).requests == 0
    assert directories(machine) == {str(machine.engine.status("main").volume)}
    assert [report.tags for report in machine.engine.volumes()] == [("main",)]
    assert rows(connection) == [(1,)]
    assert machine.engine.collect_local() == []
    with pytest.raises(NotFoundError):
        machine.engine.catalog.volume(pushed)


def test_commits_that_were_never_pushed_are_kept_unless_they_are_named(machine) -> None:
    volume = abandoned(machine, commits=3, pushed=False)
    (kept,) = machine.engine.collect_local()
    assert str(kept) == f"Kept volume {volume}: it has 3 commits never pushed."
    machine.engine.switch("back", str(volume))
    assert len(rows(machine.connect("back"), "SELECT name FROM sqlite_schema")) == 3
    with pytest.raises(UsageError, match="tag 'back' names volume"):
        machine.engine.collect_local(force=[volume])
    machine.engine.remove_tag("back")
    machine = again(machine)
    (gone,) = machine.engine.collect_local(force=[volume])
    assert gone.removed
    assert directories(machine) == set()
    with pytest.raises(NotFoundError, match="there is no volume"):
        machine.engine.collect_local(force=[volume])
    machine.close()


def test_a_volume_that_cannot_be_read_is_kept_unless_it_is_named(machine) -> None:
    volume = abandoned(machine, commits=2, pushed=False)
    directory = machine.engine.config.data_dir / "volumes" / str(volume)
    machine = again(machine)
    (log,) = directory.glob("*.log")
    log.write_bytes(b"something else" * 1000)
    (kept,) = machine.engine.collect_local()
    assert "it cannot be read" in str(kept)
    machine = again(machine)
    (gone,) = machine.engine.collect_local(force=[volume])
    assert gone.removed
    assert directories(machine) == set()
    machine.close()


def test_a_volume_that_a_process_has_open_is_kept(machine, tmp_path) -> None:
    connection = machine.connect("gone")
    connection.execute("CREATE TABLE t(x)")
    machine.engine.push("gone")
    volume = machine.engine.status("gone").volume
    program = """
        connection = graft_vfs.connect("gone")
        say(connection.execute("SELECT count(*) FROM t").get)
        hear()
    """
    with child(tmp_path / "data", program) as process:
        assert process.hear() == "0"
        machine.engine.remove_tag("gone")
        connection.close()
        machine = again(machine)
        for force in ([], [volume]):
            (kept,) = machine.engine.collect_local(force=force)
            assert "a process has it open" in str(kept)
        process.say("go on")
        process.end()
    (gone,) = machine.engine.collect_local()
    assert gone.removed
    machine.close()


def test_a_concurrently_tagged_volume_is_kept(machine, monkeypatch) -> None:
    volume = abandoned(machine)
    machine = again(machine)
    delete = machine.engine.catalog.delete_volume

    def tag_first(each: VolumeId, removed: Callable[[], None]) -> bool:
        machine.engine.catalog.set_tag("back", each, lambda *_: None)
        return delete(each, removed)

    monkeypatch.setattr(machine.engine.catalog, "delete_volume", tag_first)
    (kept,) = machine.engine.collect_local()
    assert "a tag names it now" in str(kept)
    assert directories(machine) == {str(volume)}
    machine.connect("back").execute("SELECT * FROM t0").fetchall()
    machine.close()


def test_a_tag_never_names_a_removed_volume(machine) -> None:
    volume = abandoned(machine)
    machine = again(machine)
    machine.engine.collect_local()
    with pytest.raises(NotFoundError, match="there is no volume"):
        machine.engine.catalog.set_tag("back", volume, lambda *_: None)
    assert machine.engine.tags() == []
    machine.close()


def test_an_import_that_was_killed_leaves_no_tag_and_is_collected(machine, tmp_path) -> None:
    plain = tmp_path / "plain.db"
    source = sqlite3.connect(plain)
    source.execute("CREATE TABLE t(x)")
    source.executemany("INSERT INTO t VALUES(zeroblob(3000))", [()] * 2000)
    source.commit()
    source.close()
    program = f"""
        import os, signal
        engine.import_(Path({str(plain)!r}), "main",
                       progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    """
    with child(tmp_path / "data", program) as process:
        assert process.process.wait(60) == -signal.SIGKILL
    # The process that reads the file ends with its parent, and gives the file free.
    writer = sqlite3.connect(plain, timeout=60)
    writer.execute("INSERT INTO t VALUES(1)")
    writer.commit()
    writer.close()
    assert machine.engine.tags() == []
    assert len(directories(machine)) == 1
    (gone,) = machine.engine.collect_local()
    assert gone.removed
    assert directories(machine) == set()


@pytest.mark.parametrize("at", ["before the rename", "before the commit", "before the files go"])
def test_a_removal_that_is_killed_leaves_the_volume_or_nothing(machine, tmp_path, at) -> None:
    volume = abandoned(machine)
    machine.close()
    step = {
        "before the rename": "catalog.Catalog.volume_tags",
        "before the commit": "collect.fsync_directory",
        "before the files go": "collect.shutil.rmtree",
    }[at]
    program = f"""
        import os, signal
        from graft_vfs.local.catalog import catalog
        from graft_vfs.maintenance import collect
        from unittest import mock
        kill = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        with mock.patch.object({step.rpartition(".")[0]}, {step.rpartition(".")[2]!r}, kill):
            engine.collect_local()
    """
    with child(tmp_path / "data", program) as process:
        assert process.process.wait(60) == -signal.SIGKILL
    machine = again(machine)
    assert machine.engine.lost_volumes() == []
    if at == "before the files go":
        assert directories(machine) == {f"removed-{volume}"}
        assert machine.engine.volumes() == []
        assert [each.removed for each in machine.engine.reclaim()] == [True, True]
    else:
        assert directories(machine) == {str(volume)}
        machine.engine.switch("back", str(volume))
        assert rows(machine.connect("back"), "SELECT name FROM sqlite_schema") == [("t0",)]
        machine.engine.remove_tag("back")
        machine = again(machine)
        assert [each.removed for each in machine.engine.collect_local()] == [True]
    assert directories(machine) == set()
    machine.connect("new").execute("CREATE TABLE t(x)")
    machine.close()


def test_idle_volumes_go_by_themselves_once_the_remote_has_everything(machine) -> None:
    connection = machine.connect("main")
    connection.execute("CREATE TABLE t(x)")
    pushed, empty = abandoned(machine), abandoned(machine, commits=0, pushed=False)
    unpushed = abandoned(machine, pushed=False)
    machine = again(machine)
    now = time.time_ns() // 1_000_000
    assert machine.engine.collect_idle(now) == []
    later = now + 8 * 86_400_000
    moved = machine.engine.config.data_dir.parent / "moved"
    remote = machine.engine.config.data_dir.parent / "remote"
    remote.rename(moved)
    assert [each.volume for each in machine.engine.collect_idle(later)] == [empty]
    moved.rename(remote)
    before = machine.counts()
    assert [each.volume for each in machine.engine.collect_idle(later)] == [pushed]
    assert (machine.counts() - before).requests == 1
    assert machine.engine.collect_idle(later) == []
    assert [each.volume for each in machine.engine.volumes() if not each.tags] == [unpushed]
    machine.close()
