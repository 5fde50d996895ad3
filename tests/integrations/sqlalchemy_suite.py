"""Runs SQLAlchemy's suite for dialects on `graft://` or stock SQLite; conftest of its own pytest.

test_integration_sqlalchemy_suite.py copies it to an empty directory as `conftest.py`. To what
SQLAlchemy wants of the conftest of any dialect it adds the data directory, the outcomes, and, for
stock SQLite alone, that its files are not removed between tests. The suite asks a dialect to say
which features its database lacks; here none are said for either side, so both fail where SQLite
lacks one, and have to fail in the same tests.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import sqlalchemy.dialects.sqlite.provision
from sqlalchemy import event
from sqlalchemy.testing import provision
from sqlalchemy.testing.plugin.pytestplugin import *  # noqa: F403 - as SQLAlchemy wants it

import graft_vfs
from graft_vfs import Config

graft_vfs.register(Config(data_dir=Path("data")))
_outcomes: dict[str, str] = {}
assert sqlalchemy.dialects.sqlite.provision  # What it registered for SQLite is replaced below.


@provision.post_configure_engine.for_db("sqlite")
def _leave_engine(url, engine, follower):
    """Leave out what SQLAlchemy does to files of SQLite."""


@provision.post_configure_testing_engine.for_db("sqlite")
def _attach_schema(url, engine, options, scope):
    @event.listens_for(engine, "connect")
    def attach(connection, record):
        connection.execute("ATTACH 'test_schema' AS test_schema")


def pytest_runtest_logreport(report):
    """Note the outcome of each test; its name holds the dialect's, which differs."""
    name = report.nodeid.replace("sqlite+graft", "sqlite").replace("sqlite+pysqlite", "sqlite")
    if report.when == "call" or report.outcome != "passed":
        _outcomes[name] = report.outcome


def pytest_unconfigure(config):
    """Write the outcomes where the caller wants them."""
    Path(os.environ["SUITE_OUTCOMES"]).write_text(json.dumps(_outcomes), encoding="utf-8")
