"""Fixtures of the whole suite: S3 servers, started when a test first asks for one, and replicas."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graft_vfs.engine.config import RemoteConfig
from tests import servers
from tests.replicas import Replica


def pytest_configure() -> None:
    """A shell starts what runs in the background with Ctrl-C ignored, which tests send."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory):
    with servers.seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def ministack(tmp_path_factory):
    with servers.ministack(tmp_path_factory.mktemp("ministack")) as endpoint:
        yield endpoint


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
