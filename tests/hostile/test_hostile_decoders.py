"""Whatever bytes a decoder is given, it answers, or raises the error that it declares.

Each run is a process of its own: a crash of native code (zstd, Roaring, SQLite) ends it with a
signal, a hang with the stack of the case, and its peak of memory is that of the cases. A failure
names decoder, seed and number of its case, by which `python -m tests.hostile.fuzz` repeats it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import graft_vfs

_ROOT = Path(__file__).parents[2]
CASES = 8_000
DEEP_CASES = int(os.environ.get("GRAFT_TEST_FUZZ_CASES", "1000000"))
DEEP_SEED = int(os.environ.get("GRAFT_TEST_FUZZ_SEED", "1"))
DECODERS = {
    "commit header", "commit object", "frame", "segment", "table", "ref object", "ref key",
    "LSN key", "id", "ref, time, tag", "configuration", "branch log", "head file", "catalog row",
    "catalog file", "page cache", "descriptor", "commit name", "floor and roll",
}  # fmt: skip


def fuzz(seed: int, cases: int) -> list[dict]:
    """Run the cases in a child; returns what it reports of each decoder."""
    package = Path(graft_vfs.__file__).parents[1]
    environment = {
        **{name: text for name, text in os.environ.items() if not name.startswith("GRAFT_")},
        "PYTHONPATH": os.pathsep.join((str(package), str(_ROOT))),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.hostile.fuzz", str(seed), str(cases)],
        env=environment,
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(reports: list[dict], cases: int) -> None:
    """Every decoder was reached, refused some inputs by name, and took others."""
    assert {report["decoder"] for report in reports} == DECODERS
    assert sum(report["cases"] for report in reports) >= cases
    for report in reports:
        assert report["outcomes"].get("accepted", 0) > 0, report
        refused = report["cases"] - report["outcomes"]["accepted"]
        # A page cache leaves out what it cannot prove, so that it never refuses.
        assert (refused > 0) == (report["decoder"] != "page cache"), report


def test_hostile_bytes_give_a_value_or_a_declared_error() -> None:
    check(fuzz(20_261, CASES), CASES)


@pytest.mark.deep
@pytest.mark.timeout(3600)
def test_a_million_hostile_bytes_give_a_value_or_a_declared_error() -> None:
    reports = fuzz(DEEP_SEED, DEEP_CASES)
    for report in reports:
        print(json.dumps(report))
    check(reports, DEEP_CASES)
