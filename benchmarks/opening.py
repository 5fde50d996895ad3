"""Opening a fully cached volume in a fresh process, and its first query.

The process runs `open_probe.py`, which imports nothing of this package, so that what is imported
with graft_vfs is seen.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.data import forget_cached_pages, large_database
from benchmarks.rows import Row, at_most, compare
from benchmarks.table import quantity
from benchmarks.workspace import Options, engine
from graft_vfs import RemoteConfig

CAPTION = "stock = the plain file; a fresh process each; cold = the kernel's page cache was dropped"

BUDGET_SECONDS = 0.1
_PROBE = Path(__file__).with_name("open_probe.py")
_ROOT = Path(__file__).parent.parent


def prepare(directory: Path, size: int) -> None:
    """Make a plain file, push it from one data directory and hydrate it in another."""
    large_database(directory / "plain.db", size)
    remote = RemoteConfig(type="fs", root=str(directory / "remote"))
    with engine(directory / "origin", remote) as made:
        made.import_(directory / "plain.db", "main")
        made.push("main")
    shutil.rmtree(directory / "origin")
    with engine(directory / "data", remote) as made:
        made.clone("main", "main")
        made.hydrate("main")


def opened(side: str, directory: Path, *, cold: bool) -> dict[str, float]:
    """Return what a fresh process measures."""
    if cold:
        forget_cached_pages(directory / "data")
        forget_cached_pages(directory)
    command = [sys.executable, str(_PROBE), side, str(directory)]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def run(options: Options) -> list[Row]:
    """Measure cold and warm starts."""
    size = options.choose(128 << 20, 4 << 20, 1 << 30)
    rows = []
    with options.scratch("open") as directory:
        prepare(directory, size)
        for state in ("cold", "warm"):
            taken: dict[str, list[dict[str, float]]] = {"stock": [], "graft": []}
            for _ in range(options.pairs):
                for side, samples in taken.items():
                    samples.append(opened(side, directory, cold=state == "cold"))
            rows.append(_row(f"open and first query, {quantity(size, 'B')}, {state}", taken))
    return rows


def _row(work: str, taken: dict[str, list[dict[str, float]]]) -> Row:
    stock, graft = ([sample["open"] for sample in taken[side]] for side in ("stock", "graft"))
    row = compare("open", work, stock, graft)
    imported = statistics.median(sample["import"] for sample in taken["graft"])
    assert row.graft is not None
    return replace(
        row,
        budget=at_most("<= 100 ms", (row.graft, BUDGET_SECONDS)),
        note=f"importing graft_vfs before it: {quantity(imported, 's')}",
        samples=dict(taken),
    )
