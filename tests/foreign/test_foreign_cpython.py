"""CPython's tests of `sqlite3` pass with graft as its default VFS; each exclusion has a reason."""

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
from tests.foreign.cpython_exclusions import EXCLUDED

_PROGRAM = Path(__file__).with_name("cpython_suite.py")
_PACKAGE_PARENT = Path(graft_vfs.__file__).parents[1]


@pytest.fixture(autouse=True)
def _needs_the_tests_of_cpython():
    pytest.importorskip("test.test_sqlite3", reason="this Python comes without its own tests")


def run_suite(directory: Path, choice: str, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Run `only` these tests, or all `without` these, and return what each did."""
    results = directory / "results.json"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")}
    path = os.pathsep.join(map(str, (_PACKAGE_PARENT, _PROGRAM.parents[1])))
    done = subprocess.run(
        [sys.executable, _PROGRAM, directory / "data", results, choice, *names],
        env={**kept, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return json.loads(results.read_text())


def test_the_tests_of_cpython_pass_on_volumes(tmp_path):
    outcomes = run_suite(tmp_path, "without", EXCLUDED)
    wrong = {
        name: note
        for name, note in outcomes.items()
        if note["outcome"] not in {"passed", "skipped"}
    }
    assert not wrong, "\n\n".join(f"{name}: {note}" for name, note in wrong.items())
    assert sum(note["outcome"] == "passed" for note in outcomes.values()) > 350
    # Most tests are about databases in memory; those with a file had it in graft.
    assert sum(note["opened"] for note in outcomes.values()) >= 10
    assert sum(note["sound"] for note in outcomes.values()) >= 5


def test_each_excluded_test_of_cpython_still_meets_the_limit_that_excludes_it(tmp_path):
    outcomes = run_suite(tmp_path, "only", EXCLUDED)
    for name, note in outcomes.items():
        assert note["outcome"] == "failed", f"{name} passes: exclude it no longer"
        assert EXCLUDED[name].failure in note["detail"], f"{name} fails for another reason"
    assert outcomes
