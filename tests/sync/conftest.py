from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graft_vfs.config import RemoteConfig
from tests.replicas import Replica


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Callable[..., Replica]]:
    """Make replicas that share one remote in memory; all are closed at the end."""
    made: list[Replica] = []
    remote = RemoteConfig(type="memory", root=str(tmp_path))

    def make(name: str = "a", **arguments: object) -> Replica:
        replica = Replica(tmp_path / name, remote, **arguments)
        made.append(replica)
        return replica

    yield make
    for replica in made:
        replica.close()
