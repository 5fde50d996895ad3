"""Machines for tests: each has a data directory and a VFS name of its own, in one process."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import apsw

import graft_vfs
from graft_vfs import Config, Graft, RemoteConfig
from graft_vfs.vfs.file_system import FileSystem


def memory_remote() -> RemoteConfig:
    """Return a remote in memory that nobody else uses."""
    return RemoteConfig(type="memory", root=secrets.token_hex(8))


@contextlib.contextmanager
def registered(config: Config) -> Iterator[Graft]:
    """Register the VFS `graft` inside the block; all connections to it are closed at its end."""
    engine = graft_vfs.register(config)
    try:
        yield engine
    finally:
        close_connections()
        graft_vfs.unregister()


def reopened(config: Config) -> Graft:
    """End the engine of the VFS `graft` and register a fresh one, as a new process would."""
    close_connections()
    graft_vfs.unregister()
    return graft_vfs.register(config)


def close_connections() -> None:
    """Close every APSW connection that a test left open."""
    for connection in apsw.connections():
        connection.close(force=True)


class Machine:
    """Another data directory on the same remote, with a VFS of its own name."""

    def __init__(self, data_dir: Path, remote: RemoteConfig) -> None:
        self.vfs = f"graft-{secrets.token_hex(4)}"
        self.engine = Graft(Config(data_dir=data_dir, remote=remote))
        self._file_system = FileSystem(self.engine, name=self.vfs)

    def connect(self, tag: str = "main", **parameters: str) -> apsw.Connection:
        """Open a tag with URI parameters."""
        query = "".join(f"&{name}={value}" for name, value in parameters.items())
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        return apsw.Connection(f"file:{tag}?vfs={self.vfs}{query}", flags=flags)

    def close(self) -> None:
        """Close the engine; its connections are closed already."""
        self._file_system.unregister()
        self.engine.close()
