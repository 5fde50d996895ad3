"""Runs SQLAlchemy's suite for dialects on `graft://` or stock SQLite; conftest of its own pytest.

test_integration_sqlalchemy_suite.py copies it to an empty directory as `conftest.py`. The suite
asks a dialect to say which features its database lacks; here none are said for either side, so
both fail where SQLite lacks one, and have to fail in the same tests.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import sqlalchemy.dialects.sqlite.provision
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.testing import provision
from sqlalchemy.testing.plugin.pytestplugin import *  # noqa: F403 - as SQLAlchemy wants it

import graft_vfs
from graft_vfs import Config

graft_vfs.register(Config(data_dir=Path("data")))
_outcomes: dict[str, str] = {}

assert sqlalchemy.dialects.sqlite.provision  # It has registered what SQLite needs; so does graft.
for _each in vars(provision).values():
    if isinstance(_each, provision.register) and "sqlite" in _each.fns:
        _each.fns["graft"] = _each.fns["sqlite"]


@provision.generate_driver_url.for_db("graft")
def _keep_url(url, driver, query):
    return make_url(url)


@provision.post_configure_engine.for_db("graft", "sqlite")
def _leave_engine(url, engine, follower):
    """Leave out what SQLAlchemy does to files of SQLite."""


@provision.post_configure_testing_engine.for_db("graft", "sqlite")
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
