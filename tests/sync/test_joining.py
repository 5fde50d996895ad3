"""Opening a tag that exists with `remote=`: what is empty is cloned, another log refused."""

from __future__ import annotations

import apsw
import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import (
    AlreadyExistsError,
    NoRemoteError,
    NotFoundError,
)
from graft_vfs.sync import joining
from tests.support.faults import FaultyStore
from tests.support.replicas import Replica, rows


@pytest.fixture
def remote(tmp_path) -> RemoteConfig:
    """A remote with the refs `main` and `other`, whose tables hold their names."""
    config = RemoteConfig(type="fs", root=str(tmp_path / "remote"))
    with Replica(tmp_path / "author", config) as author:
        for tag in ("main", "other"):
            author.connect(tag).execute(f"CREATE TABLE t(x); INSERT INTO t VALUES('{tag}')")
            author.engine.push(tag)
    return config


@pytest.fixture
def machines(tmp_path, remote):
    made: list[Replica] = []

    def make(name: str = "ours", **arguments) -> Replica:
        made.append(Replica(tmp_path / name, remote, **arguments))
        return made[-1]

    yield make
    for machine in made:
        machine.close()


def test_an_empty_volume_becomes_a_clone(machines) -> None:
    ours = machines()
    early = ours.connect("main")
    assert rows(early, "SELECT * FROM sqlite_schema") == []
    volume = ours.engine.status("main").volume
    late = ours.connect("main", remote="main")
    assert rows(late) == rows(early) == [("main",)]
    assert ours.engine.status("main").volume == volume
    early.execute("INSERT INTO t VALUES('ours')")
    assert ours.engine.push("main").lsn == 2
    theirs = machines("theirs")
    assert rows(theirs.connect("main", remote="main")) == [("main",), ("ours",)]


@pytest.mark.parametrize("by", ["ref", "log"])
def test_a_volume_on_another_log_is_an_error(machines, by) -> None:
    ours = machines()
    ours.connect("main", remote="main")
    refs = dict(ours.engine.refs())
    name = "other" if by == "ref" else str(refs["other"])
    text = rf"names volume .* on log {refs['main']}, but remote={name} means log {refs['other']}"
    with pytest.raises(AlreadyExistsError, match=text):
        ours.engine.open("main", remote=name)
    with pytest.raises(apsw.CantOpenError, match="choose another tag for that log"):
        ours.connect("main", remote=name)
    ours.engine.fork("main")
    with pytest.raises(AlreadyExistsError):
        ours.engine.open("main", remote="main")
    assert rows(ours.connect("main")) == [("main",)]


def test_a_known_ref_costs_no_request(machines) -> None:
    ours = machines()
    ours.engine.open("main", create=True, remote="main")
    ours.engine.clone("other", "elsewhere")
    again = machines()
    before = again.counts()
    again.engine.open("main", remote="main")
    with pytest.raises(AlreadyExistsError):
        again.engine.open("main", remote="other")
    assert (again.counts() - before).requests == 0


def test_an_unknown_ref_is_requested_once(machines) -> None:
    ours = machines()
    log = dict(ours.engine.refs())["main"]
    ours.engine.open("main", create=True, remote=str(log))
    before = ours.counts()
    ours.engine.open("main", remote="main")
    assert (ours.counts() - before).requests == 1
    before = ours.counts()
    ours.engine.open("main", remote="main")
    machines().engine.open("main", remote="main")
    assert (ours.counts() - before).requests == 0


def test_a_volume_without_a_ref_yet_opens(machines) -> None:
    ours = machines()
    ours.connect("new").execute("CREATE TABLE t(x); INSERT INTO t VALUES('mine')")
    assert rows(ours.connect("new", remote="new")) == [("mine",)]
    assert ours.engine.push("new").lsn == 1
    assert rows(ours.connect("new", remote="new")) == [("mine",)]


def test_a_ref_that_does_not_exist_is_an_error_for_a_volume_with_commits(machines) -> None:
    ours = machines()
    ours.engine.clone("main", "main")
    before = ours.counts()
    with pytest.raises(NotFoundError, match=r"has no ref 'zzz'; .*engine\.name_log\('zzz'"):
        ours.engine.open("main", remote="zzz")
    assert (ours.counts() - before).requests == 1
    ours.connect("new").execute("CREATE TABLE t(x)")
    with pytest.raises(apsw.CantOpenError, match="has no ref 'zzz'"):
        ours.connect("new", remote="zzz")
    ours.engine.clone("main", "renamed")
    with pytest.raises(NotFoundError, match="has no ref 'renamed'"):
        ours.engine.open("renamed", remote="renamed")


def test_a_volume_with_commits_opens_while_the_remote_is_unreachable(
    machines, remote, caplog
) -> None:
    ours = machines()
    ours.engine.clone("main", "main")
    ours.engine.hydrate("main")
    ours.close()
    store = FaultyStore(remote.open())
    store.is_cut = True
    again = machines(store=store)
    again.engine.catalog._file.write("DELETE FROM known_refs")
    assert rows(again.connect("main", remote="main")) == [("main",)]
    assert "is opened without checking ref 'main'" in caplog.text


def test_an_empty_volume_is_not_opened_instead_of_the_clone(machines, tmp_path) -> None:
    ours = machines()
    ours.engine.new("absent")
    with pytest.raises(NotFoundError, match="has no ref 'absent'"):
        ours.engine.open("absent", remote="absent")
    with Replica(tmp_path / "alone", RemoteConfig()) as alone:
        alone.engine.new("main")
        with pytest.raises(NoRemoteError):
            alone.engine.open("main", remote="main")


def test_a_crash_before_the_branch_moves_is_completed_by_the_next_open(
    machines, monkeypatch
) -> None:
    ours = machines()
    ours.engine.new("main")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(joining, "follow", crash)
        with pytest.raises(KeyboardInterrupt):
            ours.engine.open("main", remote="main")
    assert rows(machines().connect("main", remote="main")) == [("main",)]


def test_a_volume_with_a_concurrent_first_commit_is_not_replaced(machines, monkeypatch) -> None:
    ours = machines()
    connection = ours.connect("main")
    clone_base = joining.clone_base

    def commit_first(*arguments: object):
        connection.execute("CREATE TABLE mine(x)")
        return clone_base(*arguments)

    monkeypatch.setattr(joining, "clone_base", commit_first)
    with pytest.raises(AlreadyExistsError):
        ours.engine.open("main", remote="main")
    assert rows(connection, "SELECT name FROM sqlite_schema") == [("mine",)]
