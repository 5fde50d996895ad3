"""Replicas for tests: engines with a VFS of their own name each, several in one process."""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from types import TracebackType
from typing import Self

import apsw

from graft_vfs.engine.autosync import Clock
from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.store.base import ObjectStore, StoreCounts
from graft_vfs.vfs.file_system import FileSystem
from tests.support.servers import S3Endpoint

_numbers = itertools.count()


class Replica:
    """One machine, as far as the remote can tell: a data directory and an engine."""

    def __init__(
        self,
        data_dir: Path,
        remote: RemoteConfig,
        *,
        store: ObjectStore | None = None,
        executor: Executor | None = None,
        clock: Clock | None = None,
        autosync: float = 0.0,
        on_divergence: str = "stop",
    ) -> None:
        config = Config(
            data_dir=data_dir, remote=remote, autosync=autosync, on_divergence=on_divergence
        )
        self.engine = Graft(config, store=store, executor=executor, clock=clock)
        self.vfs = f"graft-test-{next(_numbers)}"
        self._file_system = FileSystem(self.engine, name=self.vfs)
        self._connections: list[apsw.Connection] = []

    def connect(self, tag: str = "main", **parameters: str) -> apsw.Connection:
        query = "".join(f"&{key}={value}" for key, value in parameters.items())
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(f"file:{tag}?vfs={self.vfs}{query}", flags=flags)
        self._connections.append(connection)
        return connection

    def counts(self) -> StoreCounts:
        return self.engine.store.counters.snapshot()

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self._file_system.unregister()
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def rows(connection: apsw.Connection, sql: str = "SELECT * FROM t ORDER BY 1") -> list[tuple]:
    return connection.execute(sql).fetchall()


@contextlib.contextmanager
def machines_on(server: S3Endpoint, directory: Path) -> Iterator[Callable[[str], Replica]]:
    """Make machines on one prefix of a fresh bucket, with credentials from the environment."""
    remote = RemoteConfig(
        type="s3_compatible",
        bucket=server.fresh_bucket(),
        prefix=f"some/{secrets.token_hex(4)}",
        endpoint=server.url,
    )
    made: list[Replica] = []

    def make(name: str) -> Replica:
        made.append(Replica(directory / name, remote))
        return made[-1]

    with server.identity():
        yield make
        for machine in made:
            machine.close()
