"""`kill -9` at random moments of processes that write, push, pull and read the same volume.

Two machines share one remote. In each round one of them writes: two writers, a process that pushes
and one that reads, while on the other machine one process pulls and one reads. Whichever is killed
is started again, until at the end of the round all are killed at once. Then every commit that a
writer said it had made must be there exactly once, on both machines and on the remote, and the
machines change roles.

The seed decides who is killed and when. The operating system decides what they were doing, so a
failure is looked for with the same seed and more rounds.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graft_vfs import RemoteConfig
from tests.support import crew
from tests.support.replicas import Replica
from tests.sync.checks import sound_log

KILLS_A_ROUND = 4
"""Before all that are left are killed: six more."""
DELAY_MAX_SECONDS = 0.12


class Expedition:
    """Two machines, their crews, and what the writers reported."""

    def __init__(self, directory: Path, remote: RemoteConfig, seed: int) -> None:
        self.machines = [crew.Machine(name, directory / name, remote) for name in "ab"]
        self.kills = 0
        self.acknowledged: dict[str, int] = {}
        self.pushed = 0
        self._remote = remote
        self._directory = directory
        self._choice = random.Random(seed)
        self._crew: list[crew.Member] = []
        self._numbers = 0

    def begin(self) -> None:
        """Make the volume on one machine and its clone on the other."""
        ours, theirs = self.machines
        with Replica(ours.data_dir, self._remote) as replica:
            replica.connect().execute(crew.SCHEMA)
            replica.engine.push("main")
        with Replica(theirs.data_dir, self._remote) as replica:
            replica.connect(remote="main")

    def round(self) -> None:
        """Let the first machine write, kill and restart, check everything, and change roles."""
        ours, theirs = self.machines
        roles = [
            (crew.write, ours),
            (crew.write, ours),
            (crew.push, ours),
            (crew.read, ours),
            (crew.pull, theirs),
            (crew.read, theirs),
        ]
        self._crew = [self._start(*each) for each in roles]
        self._wait_for_work()
        for at in self._choice.sample(range(len(roles)), KILLS_A_ROUND):
            self._wait(self._crew[at])
            self._bury(self._crew[at])
            self._crew[at] = self._start(*roles[at])
        self._wait_for_work()
        self._wait(self._crew[0])
        # With all of them at work, none may find time to finish what another one began.
        for member in self._crew:
            member.process.kill()
        while self._crew:
            self._bury(self._crew.pop())
        self._check()
        self.machines.reverse()

    def _start(self, role: Callable[..., None], machine: crew.Machine) -> crew.Member:
        self._numbers += 1
        return crew.start(f"{machine.name}-{self._numbers}", role, machine)

    def _wait_for_work(self) -> None:
        """Go on when each process has opened its volume: some are killed before that all the same.

        A process that fails says so, and ends its pipe.
        """
        for member in self._crew:
            while not member.is_ready and not member.failure:
                member.pipe.poll(None)

    def _wait(self, member: crew.Member) -> None:
        """Come to a random moment; a process that ends before it has failed."""
        member.process.join(self._choice.uniform(0, DELAY_MAX_SECONDS))

    def _bury(self, member: crew.Member) -> None:
        member.kill()
        self.kills += 1
        if member.role is crew.write:
            self.acknowledged[member.name] = member.said
        elif member.role is crew.push:
            self.pushed = max(self.pushed, member.said)

    def _check(self) -> None:
        ours, theirs = self.machines
        with Replica(ours.data_dir, self._remote) as replica:
            written = self._check_rows(replica)
            with Replica(self._directory / f"clone-{self.kills}", self._remote) as clone:
                connection = clone.connect(remote="main")
                assert self.pushed <= crew.check_snapshot(connection) <= written
            replica.engine.push("main")
            status = replica.engine.status("main")
            assert (status.ahead, status.pending_push, status.last_error) == (0, False, None)
            rolled = sound_log(replica.engine.store, status.remote)
            assert (len(rolled), sum(rolled)) == (status.base_lsn, self._commits(written))
            with Replica(theirs.data_dir, self._remote) as other:
                other.engine.pull("main")
                assert self._check_rows(other) == written
                self._same(replica, other)

    @staticmethod
    def _commits(written: int) -> int:
        """Each row is a commit, and so is each statement of the schema."""
        return written + 3

    def _check_rows(self, replica: Replica) -> int:
        """Every acknowledged row is there once, and of each writer at most one that was not."""
        connection = replica.connect()
        assert connection.pragma("integrity_check") == "ok"
        total = crew.check_snapshot(connection)
        found: dict[str, list[int]] = {name: [] for name in self.acknowledged}
        for name, n in connection.execute("SELECT writer, n FROM t ORDER BY writer, n"):
            found[name].append(n)
        for name, numbers in found.items():
            said = self.acknowledged[name]
            assert numbers == list(range(1, len(numbers) + 1)), name
            assert said <= len(numbers) <= said + 1, name
        return total

    @staticmethod
    def _same(*replicas: Replica) -> None:
        sums = set()
        for replica in replicas:
            replica.engine.hydrate("main")
            sums.add(replica.engine.audit("main").checksum)
        assert len(sums) == 1

    def end(self) -> None:
        """Leave no process behind, whatever failed."""
        for member in self._crew:
            if not member.pipe.closed:
                member.process.kill()
                member.process.join()
                member.pipe.close()


@pytest.fixture
def expedition(tmp_path: Path) -> Iterator[Callable[[int], Expedition]]:
    made: list[Expedition] = []

    def begin(seed: int) -> Expedition:
        remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))
        made.append(Expedition(tmp_path, remote, seed))
        made[-1].begin()
        return made[-1]

    yield begin
    for each in made:
        each.end()


def test_no_acknowledged_commit_is_lost_or_doubled_by_twenty_kills(expedition) -> None:
    journey = expedition(seed=1)
    while journey.kills < 20:
        journey.round()
    assert journey.kills == 20
    assert sum(journey.acknowledged.values()) > 0
    assert journey.pushed > 0


@pytest.mark.deep
@pytest.mark.timeout(3600)
def test_no_acknowledged_commit_is_lost_or_doubled_by_hundreds_of_kills(expedition) -> None:
    """GRAFT_TEST_KILLS sets how many, GRAFT_TEST_SEED where the choices begin."""
    journey = expedition(seed=int(os.environ.get("GRAFT_TEST_SEED", "2")))
    wanted = int(os.environ.get("GRAFT_TEST_KILLS", "300"))
    while journey.kills < wanted:
        journey.round()
    commits = sum(journey.acknowledged.values())
    print(f"\n{journey.kills} kills, {commits} acknowledged commits, {journey.pushed} seen pushed")
    assert journey.pushed > 0
