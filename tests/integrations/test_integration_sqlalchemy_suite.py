"""SQLAlchemy's own tests of dialects give the same results on a volume and on a plain file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import graft_vfs

_CONFTEST = Path(__file__).with_name("sqlalchemy_suite.py")
_CONFIGURATION = """
[tool:pytest]
python_files = test_*.py
[sqla_testing]
requirement_cls = sqlalchemy.testing.requirements:SuiteRequirements
profile_file = profiles.txt
"""

_OPTIONS = ["-c", "setup.cfg", "--maxfail=1000000", "-q", "-p", "no:cacheprovider", "--tb=no"]


def run_suite(directory: Path, url: str, *arguments: str) -> dict[str, str]:
    """Run the suite on a database and return the outcome of each test."""
    directory.mkdir()
    shutil.copy(_CONFTEST, directory / "conftest.py")
    (directory / "test_suite.py").write_text("from sqlalchemy.testing.suite import *\n")
    (directory / "setup.cfg").write_text(_CONFIGURATION)
    outcomes = directory / "outcomes.json"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *_OPTIONS, "--dburi", url, *arguments, "test_suite.py"],
        cwd=directory,
        env={
            **kept,
            "PYTHONPATH": str(Path(graft_vfs.__file__).parents[1]),
            "SUITE_OUTCOMES": str(outcomes),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout[-5000:]
    return json.loads(outcomes.read_text(encoding="utf-8"))


def compare(directory: Path, *arguments: str) -> Counter[str]:
    """Run both sides; return how many tests had which outcome on each."""
    plain = run_suite(directory / "plain", "sqlite:///plain.db", *arguments)
    assert run_suite(directory / "graft", "graft://suite", *arguments) == plain
    return Counter(plain.values())


def test_the_tests_of_writes_and_transactions_agree(tmp_path):
    counts = compare(
        tmp_path,
        "-k",
        "InsertBehavior or SimpleUpdateDelete or RowCount or HasTable or ServerSideCursors"
        " or IsolationLevel or AutocommitIsolation or EscapingTest or LastrowidTest",
    )
    assert counts["passed"] >= 40


@pytest.mark.deep
def test_the_whole_suite_agrees(tmp_path):
    counts = compare(tmp_path)
    assert counts["passed"] > 800
    assert counts["failed"] < counts["passed"] // 10
