"""A machine with autosync whose time is the test's, and what tests do with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import apsw

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.store.base import ObjectStore, StoreCounts
from tests.support.clocks import ManualClock
from tests.support.replicas import Replica

INTERVAL = 5.0


class Synced(Replica):
    """A machine with autosync, whose time is the test's."""

    def __init__(
        self,
        data_dir: Path,
        root: Path,
        *,
        wrap: Callable[[ObjectStore], ObjectStore] | None = None,
        on_divergence: str = "stop",
    ) -> None:
        self.clock = ManualClock()
        remote = RemoteConfig(type="fs", root=str(root))
        store = None if wrap is None else wrap(remote.open())
        super().__init__(
            data_dir,
            remote,
            store=store,
            clock=self.clock,
            autosync=INTERVAL,
            on_divergence=on_divergence,
        )

    def tick(self) -> StoreCounts:
        """Let an interval pass; returns what its run asked the store."""
        self.clock.settle()  # Else the run that opening began could end after time has passed.
        before = self.engine.store.counters.snapshot()
        self.clock.advance(INTERVAL)
        return self.engine.store.counters.snapshot() - before


def insert(connection: apsw.Connection, value: int) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS t(k)")
    connection.execute("INSERT INTO t VALUES(?)", (value,))


def found(connection: apsw.Connection) -> list[int]:
    return [k for (k,) in connection.execute("SELECT k FROM t ORDER BY k")]


def push_from(machine: Replica, value: int, **parameters: str) -> None:
    connection = machine.connect(**parameters)
    insert(connection, value)
    connection.close()
    machine.engine.push("main")


def diverged(ours: Synced, other: Replica) -> apsw.Connection:
    push_from(other, 1)
    connection = ours.connect(remote="main")
    ours.clock.settle()
    insert(connection, 2)
    push_from(other, 3)
    ours.tick()
    return connection
