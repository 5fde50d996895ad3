"""What no volume needs is found and removed; what a process is using, or may be needed, is kept."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local import layout
from graft_vfs.local.catalog import catalog
from graft_vfs.maintenance import leftovers
from graft_vfs.sync import clone
from graft_vfs.volume import kept
from tests.support.children import child
from tests.support.replicas import Replica, rows


@pytest.fixture
def machine(tmp_path):
    remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))
    with Replica(tmp_path / "data", remote) as made:
        yield made


def data_dir(machine: Replica):
    return machine.engine.config.data_dir


def pushed(machine: Replica, tag: str) -> LogId:
    connection = machine.connect(tag)
    connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    connection.close()
    machine.engine.push(tag)
    return machine.engine.status(tag).remote


def test_there_is_nothing_to_remove_in_a_directory_in_use(machine) -> None:
    pushed(machine, "main")
    machine.connect("other").execute("CREATE TABLE t(x)")
    machine.engine.fork("main", new_tag="side")
    assert machine.engine.reclaim() == []


def test_a_log_that_no_volume_needs_goes_with_its_cache_commits_names_and_refs(machine) -> None:
    log, kept = pushed(machine, "gone"), pushed(machine, "main")
    machine.engine.name("gone", "v1")
    known = machine.engine.catalog
    volume = machine.engine.status("gone").volume
    machine.engine.remove_tag("gone")
    before = machine.counts()
    (planned,) = machine.engine.reclaim(dry_run=True, besides=[volume])
    assert str(planned).startswith(f"Would remove cached pages and known commits of log {log} (")
    assert machine.engine.reclaim() == []  # The volume is still there.
    machine.engine.collect_local()
    (done,) = machine.engine.reclaim()
    assert done.disk_bytes == planned.disk_bytes > 4096
    assert [path.name for path in (data_dir(machine) / layout.CACHE).iterdir()] == [str(kept)]
    assert known.known_logs() == [kept]
    assert (known.names.all(log), known.known_ref(machine.engine.store.describe(), "gone")) == (
        [],
        None,
    )
    assert machine.engine.reclaim() == []
    assert (machine.counts() - before).requests == 0
    machine.engine.clone("gone", "back")
    assert rows(machine.connect("back")) == [(1,)]
    assert [each.name for each in machine.engine.names("back")] == ["v1"]


def test_what_a_lost_volume_may_need_stays(machine) -> None:
    log = pushed(machine, "gone")
    volume = machine.engine.status("gone").volume
    directory = data_dir(machine) / "volumes" / str(volume)
    shutil.copytree(directory, directory.with_name(str(VolumeId.new())))
    machine.engine.remove_tag("gone")
    machine.engine.collect_local()
    assert machine.engine.reclaim() == []
    assert (data_dir(machine) / layout.CACHE / str(log)).exists()
    assert machine.engine.catalog.known_logs() == [log]


def test_the_parents_of_a_fork_are_needed(machine) -> None:
    parent = pushed(machine, "main")
    machine.engine.fork("main", new_tag="side")
    machine.connect("side").execute("INSERT INTO t VALUES(2)")
    machine.engine.push("side")
    machine.engine.remove_tag("main")
    machine.engine.collect_local()
    assert machine.engine.reclaim() == []
    assert parent in machine.engine.catalog.known_logs()
    assert rows(machine.connect("side")) == [(1,), (2,)]


def test_commits_that_are_forgotten_while_a_volume_is_made_on_them_are_fetched(
    machine, monkeypatch
) -> None:
    pushed(machine, "main")
    with Replica(data_dir(machine).with_name("b"), machine.engine.config.remote) as other:
        add = catalog.Catalog.add_volume

        def add_after_a_removal(self, *arguments, **keywords):
            assert [each.removed for each in other.engine.reclaim()] == [False, True]
            return add(self, *arguments, **keywords)

        monkeypatch.setattr(catalog.Catalog, "add_volume", add_after_a_removal)
        other.engine.clone("main", "copy")
        assert rows(other.connect("copy")) == [(1,)]


def test_remains_of_interrupted_work_go_and_foreign_files_stay(machine) -> None:
    pushed(machine, "main")
    volume = machine.engine.status("main").volume
    root = data_dir(machine)
    made, log = VolumeId.new(), LogId.new()
    (root / "volumes" / str(made)).mkdir()
    (root / "volumes" / str(made) / "0001.log").write_bytes(bytes(100_000))
    (root / "volumes" / str(volume) / "import-12345678.tmp").write_bytes(b"x")
    (root / "volumes" / "notes.txt").write_text("mine")
    (root / "cache" / str(log)).mkdir()
    (root / "cache" / "foreign").mkdir()
    (root / "import-abc").mkdir()
    (kept,) = [each for each in machine.engine.reclaim() if not each.removed]
    assert "import-12345678.tmp" in str(kept)
    assert kept.kept_because == "a process is using it"
    machine.close()
    machine = Replica(root, machine.engine.config.remote)
    (copy,) = machine.engine.reclaim()
    assert "import-12345678.tmp, which is the copy of an import that was inter" in str(copy)
    left = {path.name for path in leftovers_of(machine)}
    assert left == {"notes.txt", "foreign"}
    assert rows(machine.connect("main")) == [(1,)]
    machine.close()


def leftovers_of(machine: Replica):
    return [path for path, _ in leftovers.leftovers(data_dir(machine), machine.engine.catalog)]


def test_an_import_that_is_running_keeps_its_copies(machine, tmp_path) -> None:
    plain = tmp_path / "plain.db"
    with contextlib.closing(sqlite3.connect(plain)) as source:
        source.execute("CREATE TABLE t(x)")
        source.executemany("INSERT INTO t VALUES(zeroblob(3000))", [()] * 2000)
        source.commit()
    program = f"""
        def pause(*_):
            say("importing")
            hear()
        with open({str(plain)!r}, "rb") as stream:
            engine.import_(stream, "main", progress=pause)
    """
    with child(tmp_path / "data", program) as process:
        assert process.hear() == "importing"
        found = machine.engine.reclaim()
        assert [each.kept_because for each in found] == ["a process is using it"]
        assert "import-" in found[0].what
        for _ in range(100):
            process.say("go on")
            if process.process.poll() is not None:
                break
        process.end()
    assert len(rows(machine.connect("main"), "SELECT 1 FROM t")) == 2000
    assert machine.engine.reclaim() == []


def test_dead_images_go_on_request_before_they_go_by_themselves(machine) -> None:
    connection = machine.connect("main")
    connection.pragma("synchronous", "off")
    connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(0)")
    for _ in range(500):
        connection.execute("UPDATE t SET x = x + 1")
    reader = machine.connect("main")
    reader.execute("BEGIN; SELECT * FROM t").fetchall()
    (planned,) = machine.engine.reclaim(dry_run=True)
    connection.execute("BEGIN IMMEDIATE")
    (kept,) = machine.engine.reclaim()
    assert not kept.removed
    connection.execute("UPDATE t SET x = x + 1; COMMIT")
    (done,) = machine.engine.reclaim()
    assert done.disk_bytes >= planned.disk_bytes > 2_000_000
    assert str(done).startswith("Removed dead images in the branch file of volume 'main' (")
    assert machine.engine.reclaim() == []
    assert rows(reader) == [(500,)]
    assert rows(connection) == [(501,)]
    machine.engine.push("main")


def test_a_file_that_a_kept_branch_needs_is_not_compacted_on_request(machine) -> None:
    connection = machine.connect("main")
    connection.pragma("synchronous", "off")
    connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(0)")
    for _ in range(500):
        connection.execute("UPDATE t SET x = x + 1")
    volume = machine.engine.open("main")
    with volume.writing() as snapshot:
        kept.keep_copy(volume, snapshot, "test")
    assert machine.engine.reclaim() == []
    (usage,) = machine.engine.disk_usage("main").volumes
    assert (usage.kept_bytes, usage.dead_bytes > 2_000_000) == (0, True)
    volume.compact()  # As it happens by itself when most of the file is dead.
    (usage,) = machine.engine.disk_usage("main").volumes
    assert usage.kept_bytes > 2_000_000
    assert usage.dead_bytes < 200_000
    assert machine.engine.reclaim() == []


def test_unused_pages_of_the_catalog_go(machine, monkeypatch) -> None:
    log = pushed(machine, "gone")
    row = machine.engine.catalog.commits(log, 1, 1)[0]
    many = [row.__class__(lsn, row.hash, bytes(4000)) for lsn in range(2, 300)]
    machine.engine.catalog.add_commits(log, many)
    machine.engine.remove_tag("gone")
    machine.engine.collect_local()
    path = data_dir(machine) / layout.CATALOG
    machine.engine.reclaim()
    assert path.stat().st_size < 200_000
    assert (data_dir(machine) / layout.CATALOG_WAL).stat().st_size == 0
    assert machine.engine.catalog.problems() == []


def test_each_table_with_a_log_is_one_of_what_is_known_or_of_what_needs_it(machine) -> None:
    needs = {"branches", "pending_pushes"}
    found = machine.engine.catalog._file.rows(
        "SELECT t.name FROM sqlite_schema t, pragma_table_info(t.name) c "
        "WHERE t.type = 'table' AND c.name = 'log'"
    )
    assert {name for (name,) in found} == needs | set(catalog._OF_LOGS)


@pytest.mark.parametrize("step", ["make_directories", "using"])
def test_a_volume_is_made_although_its_empty_directory_was_just_removed(
    machine, monkeypatch, step
) -> None:
    """A collector took it for what an interrupted process has left: it was not locked yet."""
    original = getattr(clone, step)
    removed = []

    def remove_once(path):
        if step == "make_directories":
            original(path)
        if not removed:
            removed.append(path)
            path.rmdir()
        return None if step == "make_directories" else original(path)

    monkeypatch.setattr(clone, step, remove_once)
    connection = machine.connect("new")
    connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    assert rows(connection) == [(1,)]
    assert [path.name for path in removed] == [str(machine.engine.status("new").volume)]
