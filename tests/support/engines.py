"""The engine of the VFS `graft` for a test; `replicas` has machines with their own VFS names."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

import apsw

import graft_vfs
from graft_vfs import Config, Graft, RemoteConfig


def memory_remote() -> RemoteConfig:
    """Return an unused remote in memory."""
    return RemoteConfig(type="memory", root=secrets.token_hex(8))


@contextlib.contextmanager
def registered(config: Config) -> Iterator[Graft]:
    """Register the VFS `graft` inside the block; its end closes all connections."""
    engine = graft_vfs.register(config)
    try:
        yield engine
    finally:
        close_connections()
        graft_vfs.unregister()


def reopened(config: Config) -> Graft:
    """Close the engine of the VFS `graft` and register a new one, as a new process would."""
    close_connections()
    graft_vfs.unregister()
    return graft_vfs.register(config)


def close_connections() -> None:
    """Close every APSW connection that a test left open."""
    for connection in apsw.connections():
        connection.close(force=True)
