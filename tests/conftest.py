"""Fixtures that the whole suite shares: S3 servers, each started when a test first asks for it."""

from __future__ import annotations

import signal

import pytest
import servers


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
