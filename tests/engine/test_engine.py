"""The engine: tags, remotes, hydrating in the background, and verbs that move a tag."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import apsw
import pytest

from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import (
    AlreadyExistsError,
    BucketMissingError,
    GraftError,
    InvalidTagError,
    LocalStorageError,
    NoRemoteError,
    NotFoundError,
    UsageError,
)
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.store.directory import DirectoryStore
from graft_vfs.volume.volume import Volume
from tests.support.replicas import Replica, rows

# Tags -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tag",
    ["/srv/app/../x.db", "../../../etc/x", "a/b", ".", "..", "~", "Ünï ✓", "x" * 512, "a%2Fb"],
)
def test_a_tag_is_a_key_and_never_a_path(machines, tmp_path, tag) -> None:
    ours = machines("ours")
    before = {path for path in tmp_path.rglob("*") if "volumes" not in path.parts}
    ours.engine.open(tag, create=True)
    made = {path for path in tmp_path.rglob("*") if "volumes" not in path.parts}
    assert made == before
    volumes = tmp_path / "ours/volumes"
    assert {path.name for path in volumes.iterdir()} == {str(ours.engine.open(tag).id)}
    assert [report.tag for report in ours.engine.tags()] == [tag]
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = apsw.Connection(tag, flags=flags, vfs=ours.vfs)
    connection.execute("CREATE TABLE t(k); INSERT INTO t VALUES(1)")
    ours.engine.push(tag)
    connection.close()
    (ref,) = (tmp_path / "remote/refs").iterdir()
    assert "/" not in ref.name
    assert not ref.name.startswith(".")
    assert [name for name, _ in ours.engine.refs()] == [tag]
    assert machines("theirs").engine.clone(tag, "copy").lsn == 1


@pytest.mark.parametrize("tag", ["", "a\0b", "x" * 513, "\ud800"])
def test_an_invalid_tag_is_refused_everywhere(machines, tag) -> None:
    ours = machines("ours")
    for call in (
        lambda: ours.engine.open(tag, create=True),
        lambda: ours.engine.new(tag),
        lambda: ours.engine.clone("main", tag),
        lambda: ours.engine.switch(tag, str(VolumeId.new())),
    ):
        with pytest.raises(InvalidTagError):
            call()
    assert ours.engine.tags() == []


# Remotes ----------------------------------------------------------------------------------------


def test_verbs_without_a_remote_explain_what_to_configure(tmp_path) -> None:
    with Replica(tmp_path / "data", RemoteConfig()) as ours:
        connection = ours.connect()
        connection.execute("CREATE TABLE t(k)")
        for verb in (
            ours.engine.push, ours.engine.pull, ours.engine.fetch, ours.engine.hydrate,
        ):  # fmt: skip
            with pytest.raises(NoRemoteError, match="GRAFT_REMOTE_TYPE"):
                verb("main")
        for call in (
            lambda: ours.engine.clone("main", "copy"),
            lambda: ours.engine.open("copy", create=True, remote="main"),
            ours.engine.refs,
            lambda: ours.engine.snapshot_at("main", lsn=1),
        ):
            with pytest.raises(NoRemoteError):
                call()
        assert [report.tag for report in ours.engine.tags()] == ["main"]
        assert rows(connection) == []


def test_a_remote_directory_that_is_unmounted_loses_nothing(machines, tmp_path) -> None:
    ours = machines("ours")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k)")
    ours.engine.push("main")
    (tmp_path / "remote").rename(tmp_path / "unmounted")
    connection.execute("INSERT INTO t VALUES(1)")
    for verb in (ours.engine.push, ours.engine.pull):
        with pytest.raises(BucketMissingError, match="is absent, as if its disk were not mounted"):
            verb("main")
    assert not (tmp_path / "remote").exists()
    assert ours.engine.status("main").pending_push is False
    (tmp_path / "unmounted").rename(tmp_path / "remote")
    assert ours.engine.push("main").lsn == 2
    assert rows(machines("clone").connect(remote="main")) == [(1,)]


@pytest.fixture
def hydrating(machines, tmp_path) -> Config:
    """The configuration of a machine that fetches everything in the background."""
    ours = machines("ours")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k, v)")
    with connection:
        connection.executemany(
            "INSERT INTO t VALUES(?, randomblob(900))", ((number,) for number in range(4000))
        )
    ours.engine.push("main")
    remote = ours.engine.config.remote
    return Config(data_dir=tmp_path / "theirs", remote=remote, hydrate="background")


def test_a_background_hydrate_fetches_everything(hydrating) -> None:
    engine = Graft(hydrating)
    volume = engine.open("main", create=True, remote="main")
    engine.context.volumes.hydration.join()
    present, total = volume.begin().remote.pages_present()
    assert present == total > 500
    assert engine.audit("main").checksum
    engine.close()


def test_an_engine_that_closes_ends_its_background_hydrate(hydrating, monkeypatch) -> None:
    is_fetching, is_closing = threading.Event(), threading.Event()
    get_range, shutdown = DirectoryStore.get_range, ThreadPoolExecutor.shutdown

    def slow(self, key: str, start: int, length: int) -> bytes:
        if key.startswith("segments/"):
            is_fetching.set()
            assert is_closing.wait(20)
        return get_range(self, key, start, length)

    def noted(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        shutdown(self, wait=False, cancel_futures=cancel_futures)
        if is_fetching.is_set():
            is_closing.set()
        shutdown(self, wait=wait)

    monkeypatch.setattr(DirectoryStore, "get_range", slow)
    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", noted)
    engine = Graft(hydrating, executor=ThreadPoolExecutor(1))
    engine.open("main", create=True, remote="main")
    assert is_fetching.wait(20)
    thread = engine.context.volumes.hydration._thread
    engine.close()
    assert not thread.is_alive()
    monkeypatch.undo()
    again = Graft(hydrating)
    again.open("main")
    again.context.volumes.hydration.join()
    assert again.audit("main").checksum
    again.close()


# Verbs that move a tag --------------------------------------------------------------------------


def test_fork_reports_the_new_volume_and_keeps_the_old_one(machines) -> None:
    ours = machines("ours")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k); INSERT INTO t VALUES(1)")
    ours.engine.push("main")
    connection.execute("INSERT INTO t VALUES(2)")
    old = ours.engine.open("main")
    moved = ours.engine.fork("main")
    assert (moved.tag, moved.lsn) == ("main", 0)
    assert moved.volume != old.id
    assert moved.log not in {old.id, ours.engine.catalog.volume(old.id).remote}
    assert ours.engine.open("main").id == moved.volume
    assert rows(ours.connect()) == [(1,), (2,)]
    assert rows(connection) == [(1,), (2,)], "a connection that was open stays where it is"
    assert str(moved).startswith(f"Forked to volume {moved.volume} on remote {moved.log}")
    assert {report.volume for report in ours.engine.volumes()} == {old.id, moved.volume}
    status = ours.engine.status("main")
    assert (status.ahead, status.unpublished_fork) == (1, True)


def test_a_fork_that_fails_half_way_moves_no_tag(machines, monkeypatch) -> None:
    ours = machines("ours")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k)")
    ours.engine.push("main")
    connection.execute("INSERT INTO t VALUES('local')")
    old = ours.engine.open("main").id

    def full(*_: object, **__: object) -> None:
        raise LocalStorageError("a test filled the disk")

    with monkeypatch.context() as patch:
        patch.setattr(Volume, "write_pages", full)
        for arguments in ({}, {"new_tag": "fork"}):
            with pytest.raises(LocalStorageError):
                ours.engine.fork("main", **arguments)
    assert ours.engine.open("main").id == old
    assert [report.tag for report in ours.engine.tags()] == ["main"]
    assert rows(ours.connect()) == [("local",)]


def test_checkout_reports_the_new_position_of_the_tag(machines) -> None:
    ours = machines("ours")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k)")
    for number in (1, 2, 3):
        connection.execute("INSERT INTO t VALUES(?)", (number,))
        ours.engine.push("main")
    log = ours.engine.status("main").remote
    for spec in ("2", f"{log}:2"):
        moved = ours.engine.checkout("main", spec)
        assert (moved.tag, moved.log, moved.lsn) == ("main", log, 2)
        assert rows(ours.connect()) == [(1,), (2,)]
        assert ours.engine.status("main").behind == 1
        assert str(ours.engine.info("main").snapshot) == f"{log}[1..2]"
    connection = ours.connect()
    connection.execute("INSERT INTO t VALUES(99)")
    with pytest.raises(GraftError, match="diverged"):
        ours.engine.push("main")
    for spec, error in (
        ("0", NotFoundError),
        ("9", NotFoundError),
        ("x", UsageError),
        ("", UsageError),
    ):
        with pytest.raises(error):
            ours.engine.checkout("main", spec)


def test_switch_moves_to_a_volume_and_creates_an_absent_one(machines) -> None:
    ours, theirs = machines("ours"), machines("theirs")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k); INSERT INTO t VALUES(1)")
    ours.engine.push("main")
    log, old = ours.engine.status("main").remote, ours.engine.open("main").id
    volume, branch = VolumeId.new(), LogId.new()
    moved = theirs.engine.switch("copy", f"{volume}:{branch}:{log}")
    assert (moved.volume, moved.log, moved.lsn) == (volume, log, 1)
    assert theirs.engine.open("copy").begin().branch.row.id == branch
    assert rows(theirs.connect("copy")) == [(1,)]
    with pytest.raises(UsageError, match="is attached to"):
        ours.engine.switch("main", f"{old}::{LogId.new()}")
    with pytest.raises(UsageError):
        ours.engine.switch("main", f"{old}:a:b:c")
    with pytest.raises(AlreadyExistsError):
        theirs.engine.switch("again", f"{VolumeId.new()}:{branch}")
    assert ours.engine.switch("main", str(old)).volume == old


def test_a_tag_is_removed_and_its_volume_stays(machines) -> None:
    ours = machines("ours")
    ours.connect().execute("CREATE TABLE t(k)")
    volume = ours.engine.open("main").id
    ours.engine.remove_tag("main")
    with pytest.raises(NotFoundError):
        ours.engine.open("main")
    with pytest.raises(NotFoundError):
        ours.engine.remove_tag("main")
    ours.engine.switch("again", str(volume))
    assert rows(ours.connect("again")) == []


def test_refs_are_created_once_and_never_replaced(machines) -> None:
    ours, theirs = machines("ours"), machines("theirs")
    for machine in (ours, theirs):
        machine.connect("main").execute("CREATE TABLE t(k)")
    ours.engine.push("main")
    with pytest.raises(AlreadyExistsError, match="nothing was pushed"):
        theirs.engine.push("main")
    assert ours.engine.refs() == [("main", ours.engine.status("main").remote)]
    theirs.connect("other").execute("CREATE TABLE t(k)")
    theirs.engine.push("other")
    assert [name for name, _ in ours.engine.refs()] == ["main", "other"]
    with pytest.raises(NotFoundError, match="has no ref 'absent'"):
        ours.engine.clone("absent", "x")


def test_a_foreign_object_at_the_key_of_a_ref_does_not_stop_a_push(
    machines, tmp_path, caplog
) -> None:
    ours = machines("ours")
    (tmp_path / "remote/refs").mkdir()
    (tmp_path / "remote/refs/main").write_text("something else")
    ours.connect().execute("CREATE TABLE t(k)")
    assert ours.engine.push("main").lsn == 1
    assert "gets no ref" in caplog.text
    assert ours.engine.status("main").pending_push is False
    log = ours.engine.status("main").remote
    assert rows(machines("theirs").connect(remote=str(log))) == []
