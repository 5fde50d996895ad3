"""What the whole suite shares: S3 servers, started when a test first asks for one, and settings.

Property tests draw the same examples in every run; `--hypothesis-profile=random` draws others.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from graft_vfs.engine.config import RemoteConfig
from tests.support import servers
from tests.support.extras import absence
from tests.support.replicas import Replica

# No deadline: how long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.register_profile("random", derandomize=False, deadline=None, print_blob=True)
hypothesis.settings.load_profile("fixed")

_NEEDED = {"integrations": "integrations", "test_s3_forward_proxies.py": "servers"}
"""Extras whose packages the modules of a folder, or a module, import."""


def pytest_configure() -> None:
    """A shell starts what runs in the background with Ctrl-C ignored, which tests send."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Skipped(pytest.Module):
    """A module that is not imported, because an extra is not installed."""

    reason = ""

    def collect(self):
        pytest.skip(self.reason, allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    """Skip a module that needs an extra which is not installed, with the reason."""
    for name in (module_path.name, module_path.parent.name):
        if name in _NEEDED and (reason := absence(_NEEDED[name])):
            module = _Skipped.from_parent(parent, path=module_path)
            module.reason = reason
            return module
    return None


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
