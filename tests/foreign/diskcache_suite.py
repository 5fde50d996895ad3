"""Has diskcache's tests keep their caches on volumes; conftest of their own pytest.

test_foreign_diskcache.py copies it beside the tests as `conftest.py`. The suite takes databases for
files in directories that it makes and removes; here their names are tags, so the directories hold
only what diskcache itself keeps in files.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import graft_vfs
from graft_vfs import Config

logging.getLogger("graft_vfs").setLevel(logging.CRITICAL)
graft_vfs.register(Config(data_dir=Path("data").absolute()))
graft_vfs.enable_sqlite3(make_default=True)
_outcomes: dict[str, tuple[str, str]] = {}


def pytest_runtest_logreport(report):
    """Note the outcome of each test, with the text of its failure."""
    if report.when == "call" or report.outcome != "passed":
        _outcomes[report.nodeid.split("/")[-1]] = (report.outcome, report.longreprtext)


def pytest_unconfigure(config):
    """Write the outcomes where the caller wants them."""
    Path(os.environ["SUITE_OUTCOMES"]).write_text(json.dumps(_outcomes), encoding="utf-8")
