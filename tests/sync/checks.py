"""What must be true of a remote log and of a machine after any fault."""

from __future__ import annotations

from graft_vfs.ids import LogId
from graft_vfs.remote.log import RemoteLog
from graft_vfs.store.base import ObjectStore
from tests.support.replicas import Replica, rows


def sound_log(store: ObjectStore, log: LogId) -> list[int]:
    """Read a whole log; returns how many local commits each remote commit rolls up.

    Fails at a gap, a broken chain, a missing segment or a damaged frame.
    """
    remote = RemoteLog(store, log)
    rolled = []
    for record in remote.read_headers(1, remote.newest_lsn(), previous_hash=bytes(32)):
        header = record.header
        frames = remote.read_frames(header, record.header_length, 0, len(header.frames))
        assert sum(map(len, frames)) == len(header.pages) * header.page_size
        rolled.append(header.local_commits)
    return rolled


def same_everywhere(replica: Replica, clone: Replica, expected: list[tuple]) -> None:
    """A machine and a fresh clone of its ref show exactly these rows of table t, and are sound."""
    ours = replica.connect()
    theirs = clone.connect(remote="main")
    for connection in (ours, theirs):
        assert rows(connection) == expected
        assert connection.pragma("integrity_check") == "ok"
    clone.engine.hydrate("main")
    replica.engine.hydrate("main")
    assert replica.engine.audit("main").checksum == clone.engine.audit("main").checksum


def both_go_on(replica: Replica, other: Replica) -> None:
    """After whatever happened, the machines push to and pull from each other."""
    a, b = replica.connect(), other.connect()
    b.execute("INSERT INTO t VALUES(1000001, 'theirs')")
    other.engine.push("main")
    replica.engine.pull("main")
    a.execute("INSERT INTO t VALUES(1000002, 'ours')")
    replica.engine.push("main")
    other.engine.pull("main")
    assert rows(a) == rows(b)
    assert rows(a)[-2:] == [(1000001, "theirs"), (1000002, "ours")]
    assert replica.engine.status("main").pending_push is False
    assert replica.engine.status("main").last_error is None
