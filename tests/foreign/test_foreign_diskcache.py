"""diskcache's own tests pass with its caches on volumes; each exclusion has a reason."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import graft_vfs
from tests.foreign.diskcache_exclusions import EXCLUDED
from tests.foreign.suites import suite

_CONFTEST = Path(__file__).with_name("diskcache_suite.py")
_PACKAGE_PARENT = Path(graft_vfs.__file__).parents[1]
_OPTIONS = ["-q", "-p", "no:cacheprovider", "--rootdir", "."]
_FILES = ("test_core.py", "test_deque.py", "test_fanout.py", "test_index.py", "test_recipes.py")


def run_suite(directory: Path, *arguments: str) -> dict[str, tuple[str, str]]:
    """Run tests of the suite and return what came of each."""
    sources = suite("diskcache")
    shutil.copytree(sources / "tests", directory / "tests")
    shutil.copy(_CONFTEST, directory / "tests" / "conftest.py")
    outcomes = directory / "outcomes.json"
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GRAFT_", "PYTEST_"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *_OPTIONS, *arguments],
        cwd=directory / "tests",
        env={
            **kept,
            "PYTHONPATH": os.pathsep.join((str(_PACKAGE_PARENT), str(sources))),
            "SUITE_OUTCOMES": str(outcomes),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout[-5000:]
    return json.loads(outcomes.read_text(encoding="utf-8"))


def check(outcomes: dict[str, tuple[str, str]]) -> int:
    """Check that every test passed or is excluded, as it says; returns how many passed."""
    wrong = {
        name: text
        for name, (outcome, text) in outcomes.items()
        if outcome == "failed" and name not in EXCLUDED
    }
    assert not wrong, "\n\n".join(f"{name}: {text}" for name, text in wrong.items())
    for name, excluded in EXCLUDED.items():
        if name in outcomes:
            outcome, text = outcomes[name]
            assert outcome == "failed", f"{name} passes: exclude it no longer"
            assert excluded.failure in text, f"{name} fails for another reason: {text}"
    return sum(outcome == "passed" for outcome, _ in outcomes.values())


def test_the_tests_of_deques_and_indexes_pass(tmp_path):
    assert check(run_suite(tmp_path, "test_deque.py", "test_index.py")) > 40


@pytest.mark.deep
def test_the_whole_suite_passes_but_for_what_needs_the_file_itself(tmp_path):
    outcomes = run_suite(tmp_path, *_FILES)
    assert check(outcomes) > 160
    assert outcomes.keys() >= EXCLUDED.keys()
