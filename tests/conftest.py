"""Fixtures that the whole suite shares: S3 servers, each started when a test first asks for it."""

from __future__ import annotations

import pytest
import servers


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory):
    with servers.seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def ministack(tmp_path_factory):
    with servers.ministack(tmp_path_factory.mktemp("ministack")) as endpoint:
        yield endpoint
