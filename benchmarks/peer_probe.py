"""Run a peer in a process of its own, with a Python that has it installed.

    python -m benchmarks.peer_probe sqlite-graft DIRECTORY ROWS TRANSACTIONS READS
    python -m benchmarks.peer_probe litestream-vfs DIRECTORY ROWS

prints a dictionary of seconds by kind of work. For litestream-vfs, LITESTREAM_REPLICA_URL is set
before this process starts, because the library reads it when it is loaded.
"""

from __future__ import annotations

import importlib
import json
import sys

import apsw

from benchmarks.workload import Sample, cold_queries, workload

_NEW = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI


def load(module: str) -> None:
    """Load a peer's extension, which registers its VFS for the whole process."""
    path = importlib.import_module(module).loadable_path()
    connection = apsw.Connection(":memory:")
    connection.enable_load_extension(True)
    connection.load_extension(path.removesuffix(".so").removesuffix(".dylib"))


def sqlite_graft(rows: int, transactions: int, reads: int) -> Sample:
    """Run the local work on upstream Graft, configured by GRAFT_CONFIG."""
    load("sqlite_graft")
    return workload(apsw.Connection("main", _NEW, "graft"), rows, transactions, reads)


def litestream_vfs(rows: int) -> Sample:
    """Run cold queries on a replica."""
    load("litestream_vfs")
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    return cold_queries(lambda: apsw.Connection("file:text.db?vfs=litestream", flags=flags), rows)


if __name__ == "__main__":
    sizes = [int(text) for text in sys.argv[3:]]
    found = sqlite_graft(*sizes) if sys.argv[1] == "sqlite-graft" else litestream_vfs(*sizes)
    print(json.dumps(found))
