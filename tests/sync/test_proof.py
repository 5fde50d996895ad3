"""A log is tied to the history that is known of it: a push never lands where that is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import (
    BucketMissingError,
    CorruptObjectError,
    HistoryMismatchError,
    StoreError,
)
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.remote.log import commit_key
from graft_vfs.store.base import PutOutcome
from graft_vfs.sync.fetch import require_commits
from tests.support.faults import ProcessStopped
from tests.support.replicas import Replica, rows


def fs(path: Path) -> RemoteConfig:
    return RemoteConfig(type="fs", root=str(path))


@pytest.fixture
def right(tmp_path: Path) -> Path:
    """A remote with three commits of the log of `main` in the data directory `data`."""
    remote = tmp_path / "right"
    with Replica(tmp_path / "data", fs(remote)) as replica:
        connection = replica.connect()
        connection.execute("CREATE TABLE t(v)")
        replica.engine.push("main")
        for value in range(2):
            connection.execute("INSERT INTO t VALUES(?)", (value,))
            replica.engine.push("main")
    return remote


def files(path: Path) -> set[str]:
    return {str(each.relative_to(path)) for each in path.rglob("*") if each.is_file()}


def log_of(replica: Replica) -> LogId:
    return replica.engine.status("main").remote


def write_and_push(tmp_path: Path, remote: Path) -> None:
    with Replica(tmp_path / "data", fs(remote)) as replica:
        replica.connect().execute("INSERT INTO t VALUES('new')")
        replica.engine.push("main")


@pytest.mark.parametrize("verb", ["push", "pull", "fetch"])
def test_a_wrong_remote_is_distinguished_from_one_without_new_commits(
    tmp_path, right, verb
) -> None:
    wrong = tmp_path / "wrong"
    with Replica(tmp_path / "other", fs(wrong)) as other:
        other.connect().execute("CREATE TABLE other(v)")
        other.engine.push("main")
    before = files(wrong)
    with Replica(tmp_path / "data", fs(wrong)) as replica:
        connection = replica.connect()
        connection.execute("INSERT INTO t VALUES('new')")
        with pytest.raises(HistoryMismatchError, match=r"has nothing of it.*\[remote\]"):
            getattr(replica.engine, verb)("main")
        assert replica.engine.status("main").ahead == 1
        assert replica.engine.status("main").pending_push is False
    assert {name for name in files(wrong) - before if "logs/" in name} == set()
    with Replica(tmp_path / "data", fs(right)) as replica:
        assert replica.engine.push("main").lsn == 4
        with Replica(tmp_path / "new", fs(right)) as other:
            assert len(rows(other.connect(remote="main"))) == 3


def test_a_remote_restored_from_an_older_backup_is_not_pushed_to(tmp_path, right) -> None:
    backup = tmp_path / "backup"
    shutil.copytree(right, backup)
    write_and_push(tmp_path, right)
    before = files(backup)
    with Replica(tmp_path / "data", fs(backup)) as replica:
        replica.connect().execute("INSERT INTO t VALUES('newer')")
        with pytest.raises(HistoryMismatchError, match=r"is at LSN 3, as if restored.*fsck"):
            replica.engine.push("main")
        with pytest.raises(HistoryMismatchError, match="is at LSN 3"):
            replica.engine.pull("main")
    assert files(backup) == before


@pytest.mark.parametrize("more", [0, 1])
def test_a_replaced_history_is_distinguished_from_a_damaged_object(tmp_path, right, more) -> None:
    with Replica(tmp_path / "data", fs(right)) as replica:
        log = log_of(replica)
    other = tmp_path / "replaced"
    with Replica(tmp_path / "other", fs(other)) as rival:
        rival.engine.switch("main", f"{VolumeId.new()}::{log}")
        connection = rival.connect()
        connection.execute("CREATE TABLE t(v)")
        for value in range(2 + more):
            rival.engine.push("main")
            connection.execute("INSERT INTO t VALUES(?)", (value,))
        rival.engine.push("main")
    with Replica(tmp_path / "data", fs(other)) as replica:
        for verb in (replica.engine.pull, replica.engine.fetch):
            with pytest.raises(
                HistoryMismatchError, match=r"history was replaced.*engine\.clone\("
            ):
                verb("main")
        replica.connect().execute("INSERT INTO t VALUES('new')")
        with pytest.raises(HistoryMismatchError, match="history was replaced"):
            replica.engine.push("main")


def replace_history(tmp_path: Path, log: LogId) -> Path:
    other = tmp_path / "replaced"
    with Replica(tmp_path / "other", fs(other)) as rival:
        rival.engine.switch("main", f"{VolumeId.new()}::{log}")
        rival.connect().execute("CREATE TABLE t(v); INSERT INTO t VALUES('another history')")
        rival.engine.push("main")
    return other


def test_a_replaced_history_can_be_cloned_again_into_the_same_data_directory(
    tmp_path, right
) -> None:
    with Replica(tmp_path / "data", fs(right)) as replica:
        log = log_of(replica)
        volume = replica.engine.open("main").id
        replica.engine.clone(str(log), "copy")
    other = replace_history(tmp_path, log)
    with Replica(tmp_path / "data", fs(other)) as replica:
        for _ in range(2):
            with pytest.raises(
                HistoryMismatchError,
                match=rf"volume {volume} is based on.*engine\.fsck.*engine\.collect_local\(",
            ):
                replica.engine.clone(str(log), "main")
        connection = replica.connect()
        assert len(rows(connection)) == 2, "what stands on the old history still does"
        connection.close()
        for tag in ("main", "copy"):
            remove(replica, tag)
        replica.engine.clone(str(log), "main")
        assert rows(replica.connect()) == [("another history",)]
        replica.connect().execute("INSERT INTO t VALUES('more')")
        assert replica.engine.push("main").lsn == 2


def remove(replica: Replica, tag: str) -> None:
    """Do what the error says: remove the tag, then collect the volume by force."""
    volume = replica.engine.catalog.tag_volume(tag)
    assert volume is not None
    replica.engine.remove_tag(tag)
    (removed,) = replica.engine.collect_local(force=[volume])
    assert removed.removed


def test_a_replaced_history_is_dropped_if_no_volume_needs_it(tmp_path, right) -> None:
    with (
        Replica(tmp_path / "new", fs(right)) as replica,
        Replica(tmp_path / "data", fs(right)) as ours,
    ):
        log = log_of(ours)
        require_commits(replica.engine.logs, log, None)
    other = replace_history(tmp_path, log)
    with Replica(tmp_path / "new", fs(other)) as replica:
        assert rows(replica.connect(remote=str(log))) == [("another history",)]


def test_a_clone_of_a_log_that_lost_commits_keeps_the_local_ones(tmp_path, right) -> None:
    with Replica(tmp_path / "data", fs(right)) as replica:
        log = log_of(replica)
        remove(replica, "main")
        before = files(right)
        for lsn in (2, 3):
            (right / commit_key(log, lsn)).unlink()
    shorter = r"is at LSN 1, .*{} restores .*another data directory \(GRAFT_DATA_DIR"
    in_python = shorter.format(rf"`engine\.fsck\('{log}', repair=True\)`")
    typed = shorter.format(f"`graft fsck {log} --repair`")
    for _ in range(2):
        with Replica(tmp_path / "data", fs(right)) as replica:
            with pytest.raises(HistoryMismatchError, match=in_python):
                replica.engine.clone(str(log), "main")
            with pytest.raises(apsw.CantOpenError, match=typed):
                replica.connect("other", remote=str(log))
            assert replica.engine.catalog.newest_commit(log)[0] == 3
    with Replica(tmp_path / "elsewhere", fs(right)) as replica:
        replica.engine.clone(str(log), "main")
        assert rows(replica.connect()) == []
    with Replica(tmp_path / "data", fs(right)) as replica:
        assert replica.engine.fsck(str(log), repair=True).is_sound
        assert files(right) == before
        replica.engine.clone(str(log), "main")
        assert len(rows(replica.connect())) == 2


@pytest.fixture
def forks(tmp_path: Path, right: Path) -> Callable[[str], Replica]:
    """A remote whose log of `main` was replaced; `tmp_path/new` knows what it was before.

    Of the log and of its fork `old` it knows all commits, and no volume stands on them. The new
    history has the fork `new`. Gives a replica on a copy of that data directory.
    """
    backup = tmp_path / "backup"
    for each in (right, tmp_path / "data"):
        shutil.copytree(each, backup / each.name)
    with Replica(tmp_path / "data", fs(right)) as ours:
        log = log_of(ours)
        ours.connect().execute("INSERT INTO t VALUES('abandoned')")
        ours.engine.push("main")
        fork(ours, "old")
    with Replica(tmp_path / "new", fs(right)) as replica:
        for tag in ("old", "main"):
            replica.engine.clone(tag, tag)
            remove(replica, tag)
    name = f"logs/{log}"
    shutil.rmtree(right / name)
    shutil.copytree(backup / "right" / name, right / name)
    with Replica(backup / "data", fs(right)) as theirs:
        for _ in range(2):
            theirs.connect().execute("INSERT INTO t VALUES('wanted')")
            theirs.engine.push("main")
        fork(theirs, "new")

    def copied(tag: str) -> Replica:
        shutil.copytree(tmp_path / "new", tmp_path / tag / "new")
        return Replica(tmp_path / tag / "new", fs(right))

    return copied


def fork(replica: Replica, tag: str) -> None:
    replica.engine.fork("main", new_tag=tag)
    replica.connect(tag).execute("INSERT INTO t VALUES(?)", (tag,))
    replica.engine.push(tag)


def test_a_fork_of_a_replaced_history_can_be_cloned(forks) -> None:
    with forks("new") as replica:
        replica.engine.clone("new", "new")
        assert rows(replica.connect("new"), "SELECT v FROM t")[-2:] == [("wanted",), ("new",)]


def test_a_fork_of_a_replaced_history_is_refused_if_a_volume_needs_the_old_one(forks) -> None:
    with forks("new") as replica:
        replica.engine.clone("old", "old")
        volume = replica.engine.open("old").id
        for _ in range(2):
            with pytest.raises(
                HistoryMismatchError, match=rf"volume {volume} is based on.*engine\.collect_local\("
            ):
                replica.engine.clone("new", "new")
        assert rows(replica.connect("old"), "SELECT v FROM t")[-1] == ("old",)


def test_a_fork_whose_parent_was_replaced_is_named_as_such(forks) -> None:
    with forks("old") as replica:
        replica.engine.clone("main", "main")
        for _ in range(2):
            with pytest.raises(CorruptObjectError, match=r"was forked from.*restore the objects"):
                replica.engine.clone("old", "old")
        replica.engine.clone("new", "new")
        assert rows(replica.connect("new"), "SELECT v FROM t")[-2:] == [("wanted",), ("new",)]


def test_a_gap_at_the_known_commit_is_named(tmp_path, right) -> None:
    with Replica(tmp_path / "data", fs(right)) as replica:
        log = log_of(replica)
        with Replica(tmp_path / "b", fs(right)) as other:
            other.connect(remote="main").execute("INSERT INTO t VALUES('theirs')")
            other.engine.push("main")
            other.connect().execute("INSERT INTO t VALUES('theirs, too')")
            other.engine.push("main")
        for lsn in (3, 4):
            (right / commit_key(log, lsn)).unlink()
        with pytest.raises(HistoryMismatchError, match="lacks that commit, although it has LSN 5"):
            replica.engine.pull("main")


def test_an_unsettled_push_is_not_sent_to_another_remote(tmp_path, right, monkeypatch) -> None:
    def stop(key: str, data: bytes) -> PutOutcome:
        raise ProcessStopped

    wrong = tmp_path / "wrong"
    with Replica(tmp_path / "data", fs(right)) as replica:
        replica.connect().execute("INSERT INTO t VALUES('new')")
        with monkeypatch.context() as patched:
            patched.setattr(replica.engine.store, "put_if_absent", stop)
            with pytest.raises(ProcessStopped):
                replica.engine.push("main")
    with Replica(tmp_path / "data", fs(wrong)) as replica:
        for verb in (replica.engine.push, replica.engine.pull):
            with pytest.raises((HistoryMismatchError, StoreError)):
                verb("main")
        assert replica.engine.status("main").pending_push
    assert not [name for name in files(wrong) if "logs/" in name]
    with Replica(tmp_path / "data", fs(right)) as replica:
        replica.engine.push("main")
        assert replica.engine.status("main").base_lsn == 4


def test_the_proof_costs_one_request_once_in_an_engine(tmp_path, right) -> None:
    with Replica(tmp_path / "data", fs(right)) as replica:
        for wanted in (2, 1, 1):
            before = replica.counts()
            replica.engine.pull("main")
            assert (replica.counts() - before).requests == wanted
    with Replica(tmp_path / "data", fs(right)) as replica:
        for wanted in (2, 1):
            replica.connect().execute("INSERT INTO t VALUES('more')")
            before = replica.counts()
            replica.engine.push("main")
            assert (replica.counts() - before).requests == wanted


def test_after_a_store_failure_the_next_sync_verifies_again(tmp_path, right, monkeypatch) -> None:
    with Replica(tmp_path / "data", fs(right)) as replica:
        replica.engine.pull("main")
        hidden = right.rename(tmp_path / "away")
        with pytest.raises(StoreError):
            replica.engine.pull("main")
        shutil.copytree(hidden, right)
        shutil.rmtree(right / "logs")
        (right / "logs").mkdir()
        replica.connect().execute("INSERT INTO t VALUES('new')")
        with pytest.raises(HistoryMismatchError):
            replica.engine.push("main")


# A disk that is not mounted ---------------------------------------------------------------------


def test_an_unmounted_directory_is_an_error_and_gets_no_new_remote(tmp_path, right) -> None:
    right.rename(tmp_path / "away")
    for there in (False, True):
        if there:
            right.mkdir()
        with Replica(tmp_path / "data", fs(right)) as replica:
            connection = replica.connect()
            connection.execute("INSERT INTO t VALUES('local work goes on')")
            for verb in (replica.engine.push, replica.engine.pull, replica.engine.fetch):
                with pytest.raises(BucketMissingError, match="not mounted"):
                    verb("main")
        assert right.exists() is there
        assert files(right) == set()
    right.rmdir()
    (tmp_path / "away").rename(right)
    write_and_push(tmp_path, right)
