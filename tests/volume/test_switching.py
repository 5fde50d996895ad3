"""Changing which branch is current: no process sees a candidate before the switch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.volume.switching import Candidate, new_file, prepare, switch
from graft_vfs.volume.volume import Volume
from tests.support.replicas import Replica


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[tuple[Replica, Replica]]:
    """Two engines on one data directory; a pushed commit with 1 in table t, a local one with 2."""
    remote = RemoteConfig(type="memory", root=str(tmp_path))
    with Replica(tmp_path / "data", remote) as ours, Replica(tmp_path / "data", remote) as other:
        ours.connect().execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
        ours.engine.push("main")
        ours.connect().execute("INSERT INTO t VALUES(2)")
        yield ours, other


@pytest.fixture
def machine(processes: tuple[Replica, Replica]) -> Replica:
    return processes[0]


def numbers(replica: Replica) -> list[int]:
    return [number for (number,) in replica.connect().execute("SELECT x FROM t ORDER BY x")]


def on_the_base(volume: Volume) -> Candidate:
    """Return an empty candidate on what the current branch stands on."""
    snapshot = volume.begin()
    row = snapshot.branch.row
    return prepare(
        row,
        log_id=row.log_id,
        base=row.base,
        counter=snapshot.counter + 1,
        through=snapshot.lsn,
        end=snapshot.end,
    )


def logs(volume: Volume) -> list[str]:
    return sorted(path.name for path in volume.directory.glob("*.log"))


def test_a_candidate_shows_nothing_before_the_switch_and_everything_after_it(processes) -> None:
    machine, other = processes
    volume = machine.engine.open("main")
    with volume.writing():
        candidate = on_the_base(volume)
        assert numbers(machine) == numbers(other) == [1, 2]
        assert switch(volume, candidate, synced=True)
    assert numbers(machine) == numbers(other) == [1]
    row = machine.engine.catalog.volume(volume.id)
    assert (row.synced_local, row.synced_remote) == (candidate.row.first_lsn - 1, 1)


def test_commits_are_written_to_a_separate_file_before_the_switch(processes) -> None:
    machine, other = processes
    volume = machine.engine.open("main")
    with volume.writing() as snapshot:
        candidate = on_the_base(volume)
        pages = snapshot.local_pages()
        images = [snapshot.stored(page) for page in pages]
        facts = snapshot.page_count, candidate.row.counter + 1
        with new_file(volume) as log:
            size = snapshot.page_size
            log.append(log.start, candidate.row.first_lsn, pages, images, size, facts, True)
            candidate = candidate.moved_to(log)
        assert switch(volume, candidate)
    assert logs(volume) == [candidate.row.file]
    assert numbers(machine) == numbers(other) == [1, 2]
    other.connect().execute("INSERT INTO t VALUES(3)")
    assert numbers(machine) == [1, 2, 3]
    assert volume.begin().local_commits == 2


def test_a_candidate_of_a_previous_branch_is_refused_and_its_file_removed(machine) -> None:
    volume = machine.engine.open("main")
    late = on_the_base(volume)
    machine.engine.push("main")
    with volume.writing():
        with new_file(volume) as log:
            late = late.moved_to(log)
        before = volume.begin().branch.row
        assert not switch(volume, late)
        assert volume.begin().branch.row == before
    assert logs(volume) == [before.file]
    assert numbers(machine) == [1, 2]


def test_a_file_whose_writing_failed_is_removed(machine) -> None:
    volume = machine.engine.open("main")
    before = logs(volume)
    with volume.writing(), pytest.raises(OSError, match="full"), new_file(volume):
        raise OSError("full")
    assert logs(volume) == before
