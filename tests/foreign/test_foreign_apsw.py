"""APSW's own test suite passes with graft as the default VFS, but for tests with a stated reason.

Nothing in the suite knows of volumes: whatever it asserts about SQLite holds for plain files too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import graft_vfs
from tests.foreign.apsw_exclusions import EXCLUDED

_PROGRAM = Path(__file__).with_name("apsw_suite.py")
_PACKAGE_PARENT = Path(graft_vfs.__file__).parents[1]

_UNCHECKED = ["APSW.testScalarFunctions"]
"""Tests that leave an index over a function of theirs, without which it cannot be checked."""

_WAITING = {
    # They wait on purpose, seconds each, and are in the deep run.
    "APSW.testBusyHandling",
    "APSW.testIssue15",
    "APSW.testIssue641",
    "Async.testAsyncIO",
}


def run_suite(
    directory: Path, choice: str, names: Iterable[str], **environment: str
) -> dict[str, dict[str, Any]]:
    """Run `only` these tests, or all `without` these, and return what each did."""
    results = directory / "results.json"
    done = subprocess.run(
        [sys.executable, _PROGRAM, directory / "data", results, choice, *names],
        cwd=directory,  # The suite writes its files here.
        env={**os.environ, "PYTHONPATH": str(_PACKAGE_PARENT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return json.loads(results.read_text())


def assert_passed(outcomes: dict[str, dict[str, Any]]) -> None:
    """Every test passed and left sound databases; those that have one by habit had it in graft."""
    wrong = {name: note for name, note in outcomes.items() if note["outcome"] != "passed"}
    assert not wrong, "\n\n".join(f"{name}: {note}" for name, note in wrong.items())
    assert [name for name, note in outcomes.items() if note["unchecked"]] == _UNCHECKED
    opening = {name: note["opened"] for name, note in outcomes.items() if name.startswith("APSW.")}
    assert len(opening) > 100
    assert all(opening.values())


def test_the_tests_of_apsw_pass_on_volumes(tmp_path):
    left_out = _WAITING.union(EXCLUDED)
    assert_passed(run_suite(tmp_path, "without", left_out, APSW_HEAVY_DURATION="0.5"))


def test_each_excluded_test_of_apsw_still_meets_the_limit_that_excludes_it(tmp_path):
    outcomes = run_suite(tmp_path, "only", EXCLUDED)
    assert outcomes.keys() == EXCLUDED.keys()
    for name, note in outcomes.items():
        assert note["outcome"] == "failed", f"{name} passes: exclude it no longer"
        assert EXCLUDED[name].failure in note["detail"], f"{name} fails for another reason"


@pytest.mark.deep
@pytest.mark.timeout(1200)
def test_all_tests_of_apsw_pass_on_volumes_at_full_length(tmp_path):
    """The suite's own variable APSW_HEAVY_DURATION, in seconds, makes its heaviest tests longer."""
    assert_passed(run_suite(tmp_path, "without", EXCLUDED))
