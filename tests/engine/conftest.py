"""Machines on one remote, some with autosync."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from graft_vfs.engine.config import RemoteConfig
from tests.support.replicas import Replica
from tests.support.synced import Synced


@pytest.fixture
def machines(tmp_path) -> Iterator[Callable[..., Replica]]:
    """Make machines on one remote directory; a name used again is the same data directory."""
    made: list[Replica] = []
    remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))

    def make(name: str = "ours", *, remote: RemoteConfig = remote) -> Replica:
        made.append(Replica(tmp_path / name, remote))
        return made[-1]

    yield make
    for machine in made:
        machine.close()


@pytest.fixture
def synced(tmp_path) -> Iterator[Callable[..., Synced]]:
    made: list[Synced] = []

    def make(name: str = "ours", **arguments) -> Synced:
        made.append(Synced(tmp_path / name, tmp_path / "remote", **arguments))
        return made[-1]

    yield make
    for machine in made:
        machine.close()


@pytest.fixture
def other(tmp_path) -> Iterator[Replica]:
    """Another machine on the remote, which syncs when it is told to."""
    machine = Replica(tmp_path / "other", RemoteConfig(type="fs", root=str(tmp_path / "remote")))
    yield machine
    machine.close()
