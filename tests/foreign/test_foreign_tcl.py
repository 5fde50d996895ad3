"""SQLite's own TCL scripts give the same results on volumes and on files, check by check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import graft_vfs
from tests.foreign.suites import suite
from tests.foreign.tcl_exclusions import Outcome, reason

pytest.importorskip("tkinter", reason="this Python has no Tcl")

_PROGRAM = Path(__file__).with_name("tcl_suite.py")
_PACKAGE_PARENT = Path(graft_vfs.__file__).parents[1]
_SECONDS_MAX = 60.0
"""Scripts of the deep run that take longer, on either side, are left out and counted."""

SAMPLE = [
    "alter4.test",
    "delete.test",
    "fkey1.test",
    "insert2.test",
    "jrnlmode3.test",
    "savepoint5.test",
    "trigger2.test",
    "update.test",
]
_EVERY = int(os.environ.get("TCL_SCRIPTS_EVERY", "1"))


def run_script(kind: str, script: Path, directory: Path) -> dict[str, Any] | None:
    """Run one script in its own process; None if it takes too long, or crashes on a plain file."""
    directory.mkdir(parents=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")}
    try:
        done = subprocess.run(
            [sys.executable, _PROGRAM, kind, script, directory],
            env={**kept, "PYTHONPATH": str(_PACKAGE_PARENT)},
            capture_output=True,
            text=True,
            timeout=_SECONDS_MAX if kind == "file" else 5 * _SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        assert kind == "file", f"{script.name} does not end on a volume"
        return None
    if kind == "file" and done.returncode < 0:
        return None
    assert done.returncode == 0, f"{script.name}: {done.stderr[-2000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def numbered(checks: list[tuple[str, str, str]]) -> dict[tuple[str, int], Outcome]:
    """Return checks by name and occurrence, because some scripts repeat names."""
    counts: Counter[str] = Counter()
    found = {}
    for name, outcome, text in checks:
        counts[name] += 1
        found[name, counts[name]] = (outcome, text)
    return found


def _passed(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome[0] == "ok"


def compare(script: Path, directory: Path) -> tuple[Counter[str], list[str]]:
    """Run a script on both sides; returns what came of its checks, and what nothing explains."""
    plain = run_script("file", script, directory / script.stem / "file")
    if plain is None:
        return Counter(left_out=1), []
    volume = run_script("volume", script, directory / script.stem / "volume")
    assert volume is not None
    ours, theirs = numbered(volume["checks"]), numbered(plain["checks"])
    counts: Counter[str] = Counter()
    unexplained = []
    for key in {**theirs, **ours}:
        # What passes on both sides may hold random values.
        if ours.get(key) == theirs.get(key) or (
            _passed(ours.get(key)) and _passed(theirs.get(key))
        ):
            counts[theirs[key][0]] += 1
        elif reason(script.name, key[0], theirs.get(key), ours.get(key), volume["end"]):
            counts["explained"] += 1
        else:
            unexplained.append(f"{key[0]}: {theirs.get(key)} on a file, {ours.get(key)}")
    return counts, unexplained


def compare_all(scripts: list[Path], directory: Path) -> Counter[str]:
    """Compare scripts, two at a time; returns the sum of their counts."""
    counts: Counter[str] = Counter()
    failures = {}
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda script: compare(script, directory), scripts)
        for script, (found, unexplained) in zip(scripts, results, strict=True):
            counts += found
            if unexplained:
                failures[script.name] = unexplained[:5]
    assert not failures, json.dumps(failures, indent=1)
    return counts


def test_a_sample_of_the_scripts_agrees(tmp_path):
    tests = suite("sqlite3") / "test"
    counts = compare_all([tests / name for name in SAMPLE], tmp_path)
    print(dict(counts))
    assert counts["ok"] > 500


@pytest.mark.deep
@pytest.mark.timeout(0)
def test_every_script_agrees(tmp_path):
    scripts = sorted((suite("sqlite3") / "test").glob("*.test"))[::_EVERY]
    counts = compare_all(scripts, tmp_path)
    print(dict(counts))
    assert counts["ok"] > 100 * len(scripts)
    assert counts["left_out"] < len(scripts) / 20
