"""Kept branches: nothing that was committed goes without being removed by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import (
    CommitOutcomeUnknownError,
    CorruptLogError,
    HistoryMismatchError,
    NotFoundError,
    StoreUnavailableError,
    WriterBusyError,
)
from graft_vfs.history import names
from graft_vfs.history.branches import BranchReport, SwitchedBranch
from graft_vfs.ids import LogId
from graft_vfs.local import layout
from graft_vfs.local.catalog import descriptor
from graft_vfs.volume import rotation
from tests.support.faults import Fault, FaultyStore
from tests.support.replicas import Replica, rows
from tests.support.sql import is_sound


@pytest.fixture
def remote(tmp_path: Path) -> RemoteConfig:
    return RemoteConfig(type="fs", root=str(tmp_path / "remote"))


@pytest.fixture
def machine(tmp_path: Path, remote: RemoteConfig) -> Iterator[Replica]:
    """A pushed commit with 0 in table t, then local ones with 1 and 2."""
    with Replica(tmp_path / "data", remote) as machine:
        connection = machine.connect()
        connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(0)")
        machine.engine.push("main")
        connection.execute("INSERT INTO t VALUES(1)")
        connection.execute("INSERT INTO t VALUES(2)")
        connection.close()
        yield machine


def keep(machine: Replica) -> LogId:
    """Restore what was pushed, so that the local commits are kept."""
    kept = machine.engine.restore("main", "BASE").kept
    assert kept is not None
    return kept


def listed(machine: Replica) -> list[BranchReport]:
    return machine.engine.branches("main")


def kept_ids(machine: Replica) -> list[LogId]:
    return [each.branch for each in listed(machine) if not each.current]


def numbers(machine: Replica, sql: str = "SELECT x FROM t ORDER BY x", **at: str) -> list[int]:
    connection = machine.connect(**at)
    try:
        return [number for (number,) in connection.execute(sql)]
    finally:
        connection.close()


def files(machine: Replica) -> list[str]:
    directory = machine.engine.open("main").directory
    return [path.name for path in layout.branch_files(directory)]


def again(machine: Replica, tmp_path: Path, remote: RemoteConfig) -> Replica:
    """Close the machine and open its data directory again."""
    machine.close()
    return Replica(tmp_path / "data", remote)


# Going back --------------------------------------------------------------------------------------


def test_a_kept_branch_is_listed_and_becomes_current_again(machine: Replica) -> None:
    kept = keep(machine)
    current, other = listed(machine)
    assert (current.current, current.commits, current.reason) == (True, 3, None)
    assert (other.branch, other.commits, other.base, other.reason) == (kept, 2, 1, "restore")
    assert "kept by restore" in str(other)
    assert numbers(machine) == [0]

    done = machine.engine.switch("main", str(kept))
    assert isinstance(done, SwitchedBranch)
    assert (done.commits, done.base) == (2, 1)
    assert numbers(machine) == [0, 1, 2]
    # What it had is kept in turn.
    assert kept_ids(machine) == [done.kept]
    assert [each.reason for each in listed(machine)[1:]] == ["switch"]
    back = machine.engine.switch("main", str(done.kept)[:20])
    assert numbers(machine) == [0]
    assert kept_ids(machine) == [back.kept]
    assert machine.engine.push("main").local_commits == 3


def test_local_lsns_and_change_counters_are_never_used_twice(machine: Replica) -> None:
    volume = machine.engine.open("main")
    seen_counters, newest = {volume.begin().counter}, volume.begin().lsn
    kept = keep(machine)
    for value in range(10, 16):
        snapshot = volume.begin()
        assert snapshot.counter not in seen_counters
        assert snapshot.lsn > newest
        seen_counters.add(snapshot.counter)
        newest = snapshot.lsn
        if value % 2:
            connection = machine.connect()
            connection.execute("INSERT INTO t VALUES(?)", (value,))
            connection.close()
        else:
            done = machine.engine.switch("main", str(kept))
            kept = done.kept
            assert volume.begin().branch.row.first_lsn == newest + 1


def test_an_open_connection_reads_the_schema_of_the_branch_that_is_switched_to(
    machine: Replica,
) -> None:
    """Two branches may have different schemas under one schema cookie."""
    kept = keep(machine)
    ours, reader = machine.connect(), machine.connect()
    cookie = ours.pragma("schema_version")
    ours.execute("CREATE TABLE mine(a)")
    assert ours.pragma("schema_version") == cookie + 1
    first = machine.engine.switch("main", str(kept))
    stale = machine.connect()
    stale.execute("CREATE TABLE theirs(a, b); INSERT INTO theirs VALUES(1, 2)")
    for connection in (ours, reader, stale):
        assert connection.execute("SELECT * FROM theirs").fetchall() == [(1, 2)]
        with pytest.raises(apsw.SQLError, match="no such table: mine"):
            connection.execute("SELECT * FROM mine")
    ours.execute("CREATE INDEX i ON theirs(b)")
    machine.engine.switch("main", str(first.kept))
    for connection in (ours, reader, stale):
        assert connection.execute("SELECT * FROM mine").fetchall() == []
        with pytest.raises(apsw.SQLError, match="no such table: theirs"):
            connection.execute("SELECT * FROM theirs")
        connection.execute("INSERT INTO mine VALUES(7); DELETE FROM mine")
        assert is_sound(connection)


def test_connections_of_another_process_follow_to_the_other_schema(
    machine: Replica, tmp_path: Path, remote: RemoteConfig
) -> None:
    kept = keep(machine)
    machine.connect().execute("CREATE TABLE mine(a)")
    with Replica(tmp_path / "data", remote) as other:
        there = other.connect()
        assert rows(there, "SELECT * FROM mine") == []
        machine.engine.switch("main", str(kept))
        machine.connect().execute("CREATE TABLE theirs(a, b); INSERT INTO theirs VALUES(1, 2)")
        assert rows(there, "SELECT * FROM theirs") == [(1, 2)]
        with pytest.raises(apsw.SQLError, match="no such table: mine"):
            there.execute("SELECT * FROM mine")


def test_a_reader_keeps_its_snapshot_and_a_writer_is_refused_or_refuses(
    machine: Replica, monkeypatch
) -> None:
    kept = keep(machine)
    reader, writer = machine.connect(), machine.connect()
    reader.execute("BEGIN")
    assert rows(reader) == [(0,)]
    writer.execute("BEGIN IMMEDIATE; INSERT INTO t VALUES(9)")
    monkeypatch.setattr("graft_vfs.volume.current_branch._WRITER_TIMEOUT_SECONDS", 0.0)
    with pytest.raises(WriterBusyError) as caught:
        machine.engine.switch("main", str(kept))
    assert "end its transaction" in str(caught.value.next_step)
    assert kept_ids(machine) == [kept]
    writer.execute("ROLLBACK")
    stale = machine.connect()
    stale.execute("BEGIN")
    assert rows(stale) == [(0,)]
    machine.engine.switch("main", str(kept))
    assert rows(reader) == [(0,)]
    with pytest.raises(apsw.BusyError):
        stale.execute("INSERT INTO t VALUES(9)")
    stale.execute("ROLLBACK")
    reader.execute("COMMIT")
    for connection in (reader, writer, stale):
        assert rows(connection) == [(0,), (1,), (2,)]


def test_messages_of_commits_go_with_them(machine: Replica) -> None:
    first = machine.engine.restore("main", "BASE", message="first")
    second = machine.engine.restore("main", str(first.before), message="second")
    done = machine.engine.switch("main", str(first.kept))
    back = machine.engine.switch("main", str(done.kept))
    found = [entry.message for entry in machine.engine.log("main")[:2]]
    assert found == ["second", "first"]
    assert second.kept in kept_ids(machine)
    assert back.kept in kept_ids(machine)
    assert machine.engine.show("main", f"branch:{second.kept}").message == "first"


def test_a_branch_that_was_folded_is_kept_and_copied_as_one_entry(machine: Replica) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rotation, "COMPACT_BYTES", 4 * 4096)
        connection = machine.connect()
        for _ in range(40):
            connection.execute("UPDATE t SET x = x WHERE x = 2")
        connection.close()
        machine.engine.open("main")._tidy()
    assert len(machine.engine.log("main")) < 20
    commits = machine.engine.status("main").ahead
    kept = keep(machine)
    done = machine.engine.switch("main", str(kept))
    assert done.commits == commits
    assert numbers(machine) == [0, 1, 2]
    assert machine.engine.push("main").local_commits == commits


# Reading without going back ----------------------------------------------------------------------


def test_a_kept_branch_is_read_without_going_back(machine: Replica, tmp_path: Path) -> None:
    before = machine.engine.open("main").begin()
    kept = keep(machine)
    machine.engine.push("main")
    head = f"branch:{kept}"
    assert numbers(machine, lsn=head) == [0, 1, 2]
    assert numbers(machine, lsn=f"{head[:20]}~1") == [0, 1]
    assert numbers(machine, lsn=f"local:{before.lsn}") == [0, 1, 2]
    assert numbers(machine, lsn=f"{head}~2") == [0]
    assert str(machine.engine.resolve("main", f"{head}~2")).endswith(":1")
    assert [each.deleted for each in machine.engine.diff("main", head).tables] == [2]
    # The file goes on with commits that it has not.
    assert len(list(names.local_commits(machine.engine.snapshot_at("main", head)))) == 2
    logged = machine.engine.log("main", head)
    assert [entry.ref for entry in logged] == [
        f"local:{before.lsn}",
        f"local:{before.lsn - 1}",
        "1",
    ]
    assert [entry.ref for entry in machine.engine.log("main", f"BASE~1..{head}")] == [
        entry.ref for entry in logged[:-1]
    ]
    shown = machine.engine.show("main", head)
    assert (shown.log, shown.lsn, shown.pages) == (kept, before.lsn, 1)
    path = tmp_path / "out.db"
    machine.engine.export("main", path, at=head)
    assert apsw.Connection(str(path)).execute("SELECT count(*) FROM t").get == 3
    # Its content can be put on top of what is current.
    assert machine.engine.restore("main", head).commit == f"local:{before.lsn}"
    assert numbers(machine) == [0, 1, 2]


def test_a_branch_that_is_not_kept_is_an_error_with_a_next_step(machine: Replica) -> None:
    for text in (str(LogId.new()), "74zz"):
        with pytest.raises(NotFoundError, match="keeps no branch") as caught:
            machine.engine.resolve("main", f"branch:{text}")
        assert "engine.branches" in str(caught.value.next_step)
    kept = keep(machine)
    with pytest.raises(NotFoundError, match="keeps no branch"):
        machine.engine.switch("main", str(LogId.new()))
    with pytest.raises(NotFoundError, match="keeps no branch"):
        machine.engine.remove_branch("main", str(LogId.new()))
    assert kept_ids(machine) == [kept]


# Its file ----------------------------------------------------------------------------------------


def test_no_rotation_compaction_or_opening_takes_the_file_of_a_kept_branch(
    machine: Replica, tmp_path: Path, remote: RemoteConfig, monkeypatch
) -> None:
    monkeypatch.setattr(rotation, "ROTATE_BYTES", 0)
    kept = keep(machine)
    assert files(machine) == ["0001.log"]
    machine.engine.push("main")  # Which replaces the file.
    assert files(machine) == ["0001.log", "0002.log"]
    monkeypatch.setattr(rotation, "COMPACT_BYTES", 2 * 4096)
    connection = machine.connect()
    for value in range(40):
        connection.execute("UPDATE t SET x = ?", (value,))
    connection.close()
    machine.engine.open("main")._tidy()
    assert len(files(machine)) == 2
    machine = again(machine, tmp_path, remote)
    with machine:
        with Replica(tmp_path / "data", remote) as other:
            assert numbers(other, lsn=f"branch:{kept}") == [0, 1, 2]
        assert numbers(machine, lsn=f"branch:{kept}") == [0, 1, 2]
        assert machine.engine.fsck().is_sound
        machine.engine.switch("main", str(kept))
        assert numbers(machine) == [0, 1, 2]
        assert "0001.log" not in files(machine)


def test_removing_a_branch_releases_its_file(
    machine: Replica, tmp_path: Path, remote: RemoteConfig, monkeypatch
) -> None:
    monkeypatch.setattr(rotation, "ROTATE_BYTES", 0)
    kept = keep(machine)
    machine.engine.push("main")
    writer = machine.connect()
    writer.execute("BEGIN IMMEDIATE")
    done = machine.engine.remove_branch("main", str(kept))
    assert (done.branch, done.commits) == (kept, 2)
    # A writer has the lock, so its file is released later.
    assert files(machine) == ["0001.log", "0002.log"]
    writer.execute("COMMIT")
    with pytest.raises(NotFoundError):
        machine.engine.resolve("main", f"branch:{kept}")
    machine = again(machine, tmp_path, remote)
    with machine:
        assert numbers(machine) == [0]
        assert files(machine) == ["0002.log"]
        assert machine.engine.fsck().is_sound


def test_a_kept_branch_survives_the_loss_of_the_catalog(
    machine: Replica, tmp_path: Path, remote: RemoteConfig
) -> None:
    kept = keep(machine)
    done = machine.engine.switch("main", str(kept))
    volume = machine.engine.open("main").id
    before = listed(machine)
    machine.close()
    for path in (tmp_path / "data").glob("catalog.db*"):
        path.unlink()
    with contextlib.closing(
        Graft(Config(data_dir=tmp_path / "data", remote=remote), recovering=True)
    ) as engine:
        engine.adopt(volume)
        assert engine.branches("main") == before
    with Replica(tmp_path / "data", remote) as found:
        assert numbers(found) == [0, 1, 2]
        assert numbers(found, lsn=f"branch:{done.kept}") == [0]
        assert found.engine.fsck().is_sound


def test_the_descriptor_lists_kept_branches_and_is_of_a_format_of_its_own(machine: Replica) -> None:
    directory = machine.engine.open("main").directory
    path = directory / layout.DESCRIPTOR
    assert b'"format": 1' in path.read_bytes()
    kept = keep(machine)
    assert b'"format": 2' in path.read_bytes()
    found = descriptor.read(directory)
    assert found is not None
    assert found.kept == machine.engine.catalog.kept.all(found.branch.volume)
    machine.engine.remove_branch("main", str(kept))
    assert b'"format": 1' in path.read_bytes()


def test_a_file_stays_while_the_descriptor_names_a_branch_in_it(
    machine: Replica, monkeypatch
) -> None:
    monkeypatch.setattr(rotation, "ROTATE_BYTES", 0)
    kept = keep(machine)
    machine.engine.push("main")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(descriptor, "write_fully", full)
        machine.engine.remove_branch("main", str(kept))
        assert files(machine) == ["0001.log", "0002.log"]
    machine.engine.open("main")._tidy()
    assert files(machine) == ["0002.log"]


def test_fsck_reports_a_damaged_kept_branch_and_the_volume_goes_on(
    machine: Replica, monkeypatch
) -> None:
    monkeypatch.setattr(rotation, "ROTATE_BYTES", 0)
    kept = keep(machine)
    machine.engine.push("main")
    (row,) = machine.engine.catalog.kept.all(machine.engine.open("main").id)
    path = machine.engine.open("main").directory / row.branch.file
    with path.open("r+b") as file:
        file.seek(row.end.offset - 100)
        file.write(b"damage")
    checked = machine.engine.fsck()
    assert [str(kept) in each.where for each in checked.local] == [True]
    with pytest.raises(CorruptLogError):
        machine.engine.switch("main", str(kept))
    path.unlink()
    assert [str(kept) in each.where for each in machine.engine.fsck().local] == [True]
    assert numbers(machine) == [0]
    machine.engine.remove_branch("main", str(kept))
    assert machine.engine.fsck().is_sound


def test_a_kept_branch_on_a_replaced_history_is_refused(machine: Replica) -> None:
    kept = keep(machine)
    file = machine.engine.catalog.kept._file
    file.write("UPDATE kept_branches SET base_hash = ?", b"x" * 32)
    with pytest.raises(HistoryMismatchError, match="kept branch"):
        machine.engine.switch("main", str(kept))
    with pytest.raises(HistoryMismatchError, match="kept branch"):
        machine.engine.snapshot_at("main", f"branch:{kept}")


def test_gc_keeps_a_volume_that_keeps_a_branch(machine: Replica) -> None:
    keep(machine)
    machine.engine.push("main")
    volume = machine.engine.open("main").id
    machine.engine.remove_tag("main")
    (found,) = machine.engine.collect_local()
    assert (found.removed, found.kept_because) == (False, "it keeps 1 branch")
    machine.engine.context.volumes.keep_no_longer(volume)
    machine.engine.switch("main", str(volume))
    assert len(kept_ids(machine)) == 1


def test_status_counts_kept_branches(machine: Replica) -> None:
    assert machine.engine.status("main").kept_branches == 0
    keep(machine)
    status = machine.engine.status("main")
    assert status.kept_branches == 1
    assert "1 branch with unpushed commits kept: `engine.branches('main')`." in str(status)


# Pushes of unknown outcome -----------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE, Fault.CUT_AFTER])
def test_a_switch_settles_an_earlier_push_first(
    machine: Replica, tmp_path: Path, remote: RemoteConfig, fault: Fault
) -> None:
    kept = keep(machine)
    machine.close()
    store = FaultyStore(remote.open(), at=0, fault=fault)
    with Replica(tmp_path / "data", remote, store=store) as offline:
        with pytest.raises(CommitOutcomeUnknownError):
            offline.engine.push("main")
        # Nothing moves while the outcome is unknown.
        with pytest.raises(StoreUnavailableError):
            offline.engine.switch("main", str(kept))
        assert kept_ids(offline) == [kept]
    with Replica(tmp_path / "data", remote) as online:
        done = online.engine.switch("main", str(kept))
        # It has landed, so the volume had no local commits that must be kept.
        assert done.kept is None
        assert online.engine.fetch("main").newest == 2
        assert numbers(online) == [0, 1, 2]
        assert online.engine.status("main").diverged
