"""One volume under several threads and processes, without SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.local import head
from graft_vfs.volume import current_branch
from graft_vfs.volume.volume import Volume
from tests.support.replicas import Replica
from tests.support.watched import Watched


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[tuple[Replica, Replica]]:
    """Two engines on one data directory, as two processes have them; `main` has a commit."""
    remote = RemoteConfig(type="memory", root=str(tmp_path))
    with Replica(tmp_path / "data", remote) as first, Replica(tmp_path / "data", remote) as second:
        first.connect().execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
        yield first, second


def volume_of(replica: Replica) -> Volume:
    return replica.engine.volume(replica.engine.status("main").volume)


def test_no_thread_gets_the_previous_branch_during_a_switch(processes, monkeypatch) -> None:
    ours, theirs = map(volume_of, processes)
    ours.mutex = mutex = Watched()
    former = ours.begin().branch
    processes[1].engine.push("main")
    assert theirs.begin().branch.row.base == 1
    found, threads = [], []
    publish = ours._publish

    def publish_beside_a_reader(snapshot):
        if not threads:
            threads.append(mutex.run_beside(lambda: found.append(ours.begin().branch.row.base)))
        publish(snapshot)

    monkeypatch.setattr(ours, "_publish", publish_beside_a_reader)
    assert ours.begin().branch is not former
    threads.pop().join()
    assert found == [1]


def test_a_volume_opened_during_a_switch_by_another_process_follows_it(
    processes, monkeypatch
) -> None:
    first, second = processes
    theirs = volume_of(first)
    theirs.words[head.EPOCH] = 0  # As in a head file that was made anew.

    class Words:
        """The words, beside whose first look at the epoch another process pushes."""

        def __init__(self, words) -> None:
            self._words, self._is_first = words, True

        def __getitem__(self, number: int) -> int:
            found = self._words[number]
            if number == head.EPOCH and self._is_first:
                self._is_first = False
                first.engine.push("main")
            return found

        def __setitem__(self, number: int, value: int) -> None:
            self._words[number] = value

    class WatchedHead(head.HeadFile):
        def __init__(self, *arguments, **options) -> None:
            super().__init__(*arguments, **options)
            self.words = Words(self.words)

    monkeypatch.setattr(current_branch, "HeadFile", WatchedHead)
    ours = volume_of(second)
    assert ours.begin().branch.row.base == 1
