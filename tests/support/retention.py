"""A log with retention on a store whose clock a test sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.remote.floor import Floor, raise_floor, read_floor
from graft_vfs.remote.log import RemoteLog, commit_key
from graft_vfs.remote.rolls import Roll, create_roll
from graft_vfs.store.base import ObjectStore
from graft_vfs.store.memory import MemoryObjects, MemoryStore
from graft_vfs.sync.push import push
from graft_vfs.volume.context import Opened
from tests.support.faults import FaultyStore
from tests.support.replicas import Replica

GRACE = 3600
QUARTER = GRACE // 4


class World:
    """Machines on one store, whose clock is `now`."""

    def __init__(self, directory: Path) -> None:
        self.now = 1_800_000_000.0
        self.objects = MemoryObjects()
        self.objects.clock = lambda: self.now
        self.store: ObjectStore = MemoryStore(self.objects)
        self._directory = directory
        self._machines: list[Replica] = []

    def machine(self, name: str, wrap: Callable[[ObjectStore], ObjectStore] = FaultyStore):
        """Start a machine; a name used again is the same data directory."""
        remote = RemoteConfig(type="memory", root=str(self._directory))
        store = wrap(MemoryStore(self.objects))
        self._machines.append(Replica(self._directory / name, remote, store=store))
        return self._machines[-1]

    def close(self) -> None:
        for machine in self._machines:
            machine.close()

    def switch_on(self, machine: Replica, grace_seconds: int = GRACE) -> None:
        machine.connect().execute("CREATE TABLE t(k); INSERT INTO t VALUES(0)")
        opened = Opened("main", machine.engine.open("main"))
        assert push(machine.engine.context, opened, grace_seconds=grace_seconds).lsn == 1
        self.log = machine.engine.status("main").remote

    def close_to(self, lsn: int) -> None:
        """Close the LSNs up to one, without looking at their age; the first one stays."""
        old = read_floor(self.store, self.log)
        log = RemoteLog(self.store, self.log)
        first = max(old.lsn, 1) + 1
        hashes = [log.read_header(each).header.hash for each in range(first, lsn + 1)]
        create_roll(self.store, Roll(self.log, first, b"".join(hashes)))
        raise_floor(self.store, old, Floor(self.log, lsn, GRACE))

    def delete(self, *lsns: int) -> None:
        self.store.delete_many([commit_key(self.log, lsn) for lsn in lsns])


def insert(machine: Replica, *values: int) -> None:
    for value in values:
        machine.connect().execute("INSERT INTO t VALUES(?)", (value,))
        machine.engine.push("main")
