"""Machines that push, follow, clone, fork, compact and lose tables: all see the same commits.

Tables are due at every third LSN here, and are read whole, or by blocks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.sync import tables as tables_module
from graft_vfs.view import logs as logs_module
from graft_vfs.view import table_policy
from tests.support.replicas import Replica, rows

ACTS = ["write"] * 6 + [
    "shrink",
    "maintain",
    "clone",
    "pull",
    "look back",
    "reopen",
    "fork",
    "lose",
]
SELECT = "SELECT a, b FROM t ORDER BY a"


class Walk:
    """Some machines with one log, and what each of its commits has."""

    def __init__(self, directory: Path, random: Random) -> None:
        self.random = random
        self.directory = directory
        self.remote = RemoteConfig(type="memory", root=str(directory))
        self.machines: list[Replica] = []
        first = self.machine()
        first.connect().execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
        first.engine.push("main")
        self.log_id = first.engine.status("main").remote
        self.commits: list[list[tuple]] = [[]]

    def machine(self) -> Replica:
        made = Replica(self.directory / str(len(self.machines)), self.remote)
        self.machines.append(made)
        return made

    def close(self) -> None:
        for machine in self.machines:
            machine.close()

    def step(self) -> None:
        acts: dict[str, Callable[[Replica], None]] = {
            "write": self.write,
            "shrink": self.shrink,
            "maintain": lambda each: each.engine.maintain("main") and None,
            "clone": lambda _: self.clone("main", self.commits[-1]),
            "pull": self.pull,
            "look back": self.look_back,
            "reopen": self.reopen,
            "fork": self.fork,
            "lose": self.lose,
        }
        acts[self.random.choice(ACTS)](self.random.choice(self.machines))

    def write(self, machine: Replica) -> None:
        self.pull(machine)
        connection = machine.connect()
        with connection:
            for _ in range(self.random.randint(1, 5)):
                row = self.random.randint(1, 60), self.random.randint(10, 3000)
                connection.execute("INSERT OR REPLACE INTO t VALUES(?, randomblob(?))", row)
        self.push(machine)

    def shrink(self, machine: Replica) -> None:
        self.pull(machine)
        connection = machine.connect()
        connection.execute("DELETE FROM t WHERE a > ?", (self.random.randint(0, 60),))
        connection.execute("VACUUM")
        self.push(machine)

    def push(self, machine: Replica) -> None:
        if machine.engine.push("main").claimed:
            self.commits.append(rows(machine.connect(), SELECT))

    def clone(self, ref: str, expected: list[tuple]) -> None:
        machine = self.machine()
        machine.engine.clone(ref, "clone")
        assert rows(machine.connect("clone"), SELECT) == expected
        assert rows(machine.connect("clone"), "PRAGMA integrity_check") == [("ok",)]
        machine.engine.clone("main", "main")

    def pull(self, machine: Replica) -> None:
        machine.engine.pull("main")
        assert rows(machine.connect(), SELECT) == self.commits[-1]

    def look_back(self, machine: Replica) -> None:
        machine.engine.fetch("main")
        lsn = self.random.randint(1, len(self.commits))
        assert rows(machine.connect(lsn=str(lsn)), SELECT) == self.commits[lsn - 1]

    def reopen(self, machine: Replica) -> None:
        machine.close()
        again = Replica(machine.engine.config.data_dir, self.remote)
        self.machines[self.machines.index(machine)] = again
        assert rows(again.connect(), SELECT) in self.commits

    def fork(self, machine: Replica) -> None:
        self.pull(machine)
        tag = f"fork-{len(self.machines)}"
        machine.engine.fork("main", new_tag=tag)
        connection = machine.connect(tag)
        for _ in range(self.random.randint(1, 5)):
            connection.execute("INSERT INTO t(b) VALUES('of the fork')")
            machine.engine.push(tag)
        self.clone(tag, rows(connection, SELECT))

    def lose(self, machine: Replica) -> None:
        """The remote loses a table, which nobody needs."""
        store = machine.engine.store
        keys = [info.key for info in store.list(f"logs/{self.log_id}/tables/")]
        if keys:
            store.delete(self.random.choice(keys))


def walk(directory: Path, seed: int) -> None:
    random = Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_policy, "STEP", 3)
        patch.setattr(tables_module, "STEP", 3)
        patch.setattr(tables_module, "_WORTH_COMMITS", 2)
        patch.setattr(tables_module, "_READ_WHOLE_BYTES", random.choice([0, 1 << 18]))
        patch.setattr(logs_module, "_DECODED_BYTES_MAX", random.choice([0, 1 << 17]))
        machines = Walk(directory, random)
        try:
            for _ in range(random.randint(10, 45)):
                machines.step()
            for machine in machines.machines:
                machines.pull(machine)
        finally:
            machines.close()


@pytest.mark.parametrize("seed", [111, 134, 501])
def test_machines_with_tables_see_the_same_commits(tmp_path, seed) -> None:
    walk(tmp_path, seed)


@pytest.mark.deep
@pytest.mark.timeout(1800)
def test_many_walks_of_machines_with_tables(tmp_path) -> None:
    first = int(os.environ.get("GRAFT_TEST_SEED", "1"))
    for seed in range(first, first + 300):
        print("seed", seed)
        walk(tmp_path / str(seed), seed)
