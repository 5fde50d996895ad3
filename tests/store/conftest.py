"""Fixtures of the store tests: servers that only they use, and a scripted one."""

from __future__ import annotations

import functools

import botocore.session
import pytest

from tests.support import servers

from .scripted import ScriptedServer

pytest.register_assert_rewrite("tests.store.races", "graft_vfs.testing.store_contract")


@pytest.fixture(autouse=True, scope="session")
def descriptions_of_services_are_read_once():
    """Save the tests, which make a store each, most of the time that making one takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            botocore.session, "create_loader", functools.cache(botocore.session.create_loader)
        )
        yield


@pytest.fixture(scope="session")
def moto(tmp_path_factory):
    with servers.moto(tmp_path_factory.mktemp("moto")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def rclone(tmp_path_factory):
    with servers.rclone(tmp_path_factory.mktemp("rclone")) as endpoint:
        yield endpoint


@pytest.fixture
def scripted():
    with ScriptedServer() as server:
        yield server
