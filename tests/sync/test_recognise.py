"""A data directory restored from a backup recognises its own commits on the log."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.engine.syncing import sync_one
from graft_vfs.errors import DivergedError
from graft_vfs.format import body
from tests.support.replicas import Replica, rows


@pytest.fixture
def remote(tmp_path: Path) -> RemoteConfig:
    return RemoteConfig(type="fs", root=str(tmp_path / "remote"))


def filled(data: Path, remote: RemoteConfig) -> None:
    """Make a volume with one pushed commit, and two that were not pushed."""
    with Replica(data, remote) as replica:
        connection = replica.connect()
        connection.execute("CREATE TABLE t(v)")
        replica.engine.push("main")
        connection.execute("INSERT INTO t VALUES('one')")
        connection.execute("INSERT INTO t VALUES(zeroblob(100000))")


def restored(tmp_path: Path, remote: RemoteConfig, *pushes: str) -> Path:
    """Return a backup of a data directory, after which it pushed, and committed and pushed more."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    filled(data, remote)
    shutil.copytree(data, backup)
    with Replica(data, remote) as replica:
        replica.engine.push("main")
        for value in pushes:
            replica.connect().execute("INSERT INTO t VALUES(?)", (value,))
            replica.engine.push("main")
    return backup


COUNT = "SELECT count(*) FROM t"


@pytest.mark.parametrize("verb", ["push", "pull"])
def test_own_commits_that_were_pushed_after_the_backup_are_recognised(
    tmp_path, remote, verb
) -> None:
    backup = restored(tmp_path, remote, "three", "four")
    with Replica(backup, remote) as replica:
        connection = replica.connect()
        before = rows(connection, COUNT)
        replica.engine.fetch("main")
        assert replica.engine.status("main").diverged
        if verb == "push":
            assert not replica.engine.push("main").claimed
            assert rows(connection, COUNT) == before
        replica.engine.pull("main")
        status = replica.engine.status("main")
        assert (status.base_lsn, status.ahead, status.behind) == (4, 0, 0)
        assert rows(connection, COUNT) == [(4,)]
        connection.execute("INSERT INTO t VALUES('five')")
        assert replica.engine.push("main").lsn == 5
    with Replica(tmp_path / "new", remote) as other:
        assert rows(other.connect(remote="main"), COUNT) == [(5,)]


def test_commits_made_after_the_restore_stay_and_are_pushed(tmp_path, remote) -> None:
    backup = restored(tmp_path, remote)
    with Replica(backup, remote) as replica:
        connection = replica.connect()
        connection.execute("UPDATE t SET v = 'changed' WHERE v = 'one'")
        assert replica.engine.push("main").lsn == 3
        assert rows(connection, "SELECT v FROM t WHERE typeof(v) = 'text'") == [("changed",)]
    with Replica(tmp_path / "new", remote) as other:
        connection = other.connect(remote="main")
        assert rows(connection, "SELECT v FROM t WHERE typeof(v) = 'text'") == [("changed",)]
        assert connection.pragma("integrity_check") == "ok"


def test_a_first_push_is_recognised(tmp_path, remote) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    with Replica(data, remote) as replica:
        replica.connect().execute("CREATE TABLE t(v)")
    shutil.copytree(data, backup)
    with Replica(data, remote) as replica:
        replica.engine.push("main")
    with Replica(backup, remote) as replica:
        replica.engine.push("main")
        assert replica.engine.status("main").base_lsn == 1


def test_frames_that_compress_differently_are_compared_by_pages(
    tmp_path, remote, monkeypatch
) -> None:
    backup = restored(tmp_path, remote)
    encode = body.encode_frame
    with Replica(backup, remote) as replica:
        monkeypatch.setattr(body, "encode_frame", lambda images: encode(images) + b"?")
        replica.engine.pull("main")
        assert replica.engine.status("main").base_lsn == 2


def test_other_commits_on_the_same_base_still_diverge(tmp_path, remote) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    filled(data, remote)
    shutil.copytree(data, backup)
    with Replica(data, remote) as replica:
        replica.connect().execute("INSERT INTO t VALUES('after the backup')")
        replica.engine.push("main")
    for change in ("INSERT INTO t VALUES('at the restored')", "DELETE FROM t WHERE v = 'one'"):
        copy = tmp_path / change.split()[0]
        shutil.copytree(backup, copy)
        with Replica(copy, remote) as replica:
            replica.connect().execute(change)
            before = rows(replica.connect())
            for verb in (replica.engine.push, replica.engine.pull):
                with pytest.raises(DivergedError):
                    verb("main")
            assert rows(replica.connect()) == before


def test_autosync_recognises_them_too(tmp_path, remote) -> None:
    backup = restored(tmp_path, remote, "three")
    with Replica(backup, remote) as replica:
        replica.engine.fetch("main")
        volume = replica.engine.open("main")
        sync_one(replica.engine.context, volume.id, is_last=False)
        assert replica.engine.status("main").diverged is False
