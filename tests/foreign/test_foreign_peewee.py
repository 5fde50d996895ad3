"""peewee's own tests give the same results on volumes and on stock files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import graft_vfs
from tests.foreign.suites import suite

_PROGRAM = Path(__file__).with_name("peewee_suite.py")
_PACKAGE_PARENT = Path(graft_vfs.__file__).parents[1]


def run_suite(directory: Path, kind: str, *modules: str) -> dict[str, str]:
    """Run the suite on volumes or files and return the outcome of each test."""
    directory.mkdir()
    results = directory / "results.json"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", _PROGRAM, kind, suite("peewee"), results, *modules],
        env={**kept, "PYTHONPATH": str(_PACKAGE_PARENT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return json.loads(results.read_text())


def compare(directory: Path, *modules: str) -> Counter[str]:
    """Run both sides; return how many tests had which outcome on each."""
    plain = run_suite(directory / "plain", "file", *modules)
    volume = run_suite(directory / "volume", "volume", *modules)
    differing = {
        name: (plain.get(name), volume.get(name))
        for name in sorted({*plain, *volume})
        if plain.get(name) != volume.get(name)
    }
    assert not differing
    return Counter(plain.values())


def test_the_tests_of_transactions_and_keys_agree(tmp_path):
    counts = compare(tmp_path, "transactions", "keys", "returning")
    assert counts["passed"] > 30


@pytest.mark.deep
def test_the_whole_suite_agrees(tmp_path):
    counts = compare(tmp_path)
    assert counts["passed"] > 800
