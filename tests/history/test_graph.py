"""The history of a volume as lines: its own commits, and those beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from graft_vfs import RemoteConfig
from graft_vfs.history import graph
from graft_vfs.history.graph import LogLine
from graft_vfs.reports import Change, SchemaDiff, TableDiff
from tests.support.replicas import Replica


@pytest.fixture
def machines(tmp_path) -> Iterator[Callable[[str], Replica]]:
    made: list[Replica] = []
    remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))

    def make(name: str) -> Replica:
        made.append(Replica(tmp_path / name, remote))
        return made[-1]

    yield make
    for machine in made:
        machine.close()


def commit(machine: Replica, *statements: str, tag: str = "main", push: bool = True) -> None:
    connection = machine.connect(tag)
    for statement in statements or ("INSERT INTO t VALUES(randomblob(9))",):
        connection.execute(statement)
    connection.close()
    if push:
        machine.engine.push(tag)


def lines(machine: Replica, tag: str = "main", ref: str | None = None, **options) -> list[LogLine]:
    with contextlib.closing(machine.engine.log_lines(tag, ref, **options)) as found:
        return list(found)


def drawn(machine: Replica, tag: str = "main", ref: str | None = None) -> list[str]:
    return [
        f"{line.marks}{line.entry.ref if line.entry else line.left_out or ''}"
        f"{' ' if line.names else ''}{' '.join(line.names)}{' beside' if line.is_beside else ''}"
        for line in lines(machine, tag, ref, graph=True)
    ]


@pytest.fixture
def diverged(machines) -> Replica:
    """Return a machine with two local commits beside two of the remote."""
    ours, theirs = machines("ours"), machines("theirs")
    commit(ours, "CREATE TABLE t(a)")
    commit(ours)
    theirs.engine.clone("main", "main")
    for _ in range(2):
        commit(theirs)
        commit(ours, push=False)
    ours.engine.fetch("main")
    return ours


def test_what_was_not_pulled_is_beside_local_commits(diverged):
    assert drawn(diverged) == [
        "* local:4 HEAD",
        "* local:3",
        "| * 4 beside",
        "| * 3 beside",
        "|/",
        "* 2 BASE",
        "* 1",
    ]
    assert [line.entry.ref for line in lines(diverged)] == ["local:4", "local:3", "2", "1"]
    assert drawn(diverged, ref="2") == ["* 2 BASE", "* 1"]


def test_what_was_not_pulled_is_above_a_volume_without_local_commits(machines):
    ours, theirs = machines("ours"), machines("theirs")
    commit(ours, "CREATE TABLE t(a)")
    theirs.engine.clone("main", "main")
    commit(ours)
    theirs.engine.fetch("main")
    assert drawn(theirs) == ["* 2 beside", "* 1 HEAD"]
    theirs.engine.pull("main")
    assert drawn(theirs) == ["* 2 HEAD", "* 1"]


def test_a_fork_shows_where_it_was_made_and_what_came_after_that(machines):
    ours = machines("ours")
    commit(ours, "CREATE TABLE t(a)")
    ours.engine.fork("main", new_tag="fork")
    log = str(ours.engine.info("main").remote)
    commit(ours)
    commit(ours, tag="fork", push=False)
    refs = [line.entry.ref for line in lines(ours, "fork")]
    assert refs[0] == "local:1"
    parent, _, lsn = refs[1].partition(":")
    assert lsn == "1"
    assert log.startswith(parent)
    assert drawn(ours, "fork") == [
        "* local:1 HEAD",
        f"| * {parent}:2 beside",
        "|/",
        f"* {parent}:1 BASE",
    ]
    ours.engine.push("fork")
    assert drawn(ours, "fork") == ["* 1 HEAD", f"| * {parent}:2 beside", "|/", f"* {parent}:1"]
    assert str(ours.engine.show("fork", refs[1]).log) == log


def test_of_many_commits_beside_the_rest_is_counted(diverged, machines, monkeypatch):
    monkeypatch.setattr(graph, "_BESIDE_MAX", 1)
    assert drawn(diverged)[2:5] == ["| * 4 beside", "| : 1", "|/"]


def test_a_log_without_commits_has_no_lines(machines):
    ours = machines("ours")
    ours.connect().close()
    assert drawn(ours) == []


def test_each_commit_says_what_it_changed(diverged):
    found = lines(diverged, stat=True)
    assert [line.entry.tables for line in found] == [
        *[(TableDiff("t", 1, 0, 0, None),)] * 3,
        (),
    ]
    assert found[-1].entry.schema == (SchemaDiff("table", "t", Change.ADDED),)
    assert all(line.entry.tables is None for line in lines(diverged))


def test_a_log_without_changes_sends_no_request(diverged):
    before = diverged.counts()
    lines(diverged, graph=True)
    assert diverged.counts() == before


def test_lines_that_are_closed_early_leave_nothing_open(diverged):
    found = diverged.engine.log_lines("main")
    next(found)
    volume = diverged.engine.open("main")
    assert volume.pins
    found.close()
    assert not volume.pins
