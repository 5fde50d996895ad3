"""Fixtures of the VFS tests: an engine behind `vfs=graft`, and further machines on its remote."""

from __future__ import annotations

import itertools

import pytest

import graft_vfs
from graft_vfs import Config
from tests.support import engines
from tests.support.replicas import Replica
from tests.support.sql import stock


def pytest_configure(config):
    config.addinivalue_line("markers", "deep: takes long; run with -m deep")


def pytest_collection_modifyitems(config, items):
    if "deep" not in config.option.markexpr:
        deep = [item for item in items if item.get_closest_marker("deep")]
        items[:] = [item for item in items if item not in deep]
        config.hook.pytest_deselected(items=deep)


@pytest.fixture
def config(tmp_path):
    return Config(data_dir=tmp_path / "data", remote=engines.memory_remote())


@pytest.fixture
def engine(config):
    with engines.registered(config) as engine:
        yield engine


@pytest.fixture
def connect(engine):
    return graft_vfs.connect


@pytest.fixture
def plain(tmp_path):
    """Open plain SQLite files beside the engine."""

    def opened(name="plain.db"):
        return stock(tmp_path / name)

    return opened


@pytest.fixture
def machine(engine, config, tmp_path):
    """Make further machines on the same remote."""
    made = []
    numbers = itertools.count(2)

    def make():
        made.append(Replica(tmp_path / f"machine-{next(numbers)}", config.remote))
        return made[-1]

    yield make
    engines.close_connections()
    for each in made:
        each.close()
