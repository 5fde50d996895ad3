"""APSW's own speed test (after SQLite's speedtest.tcl) on both VFSs.

    python -m benchmarks.speedtest SIDE DIRECTORY TEST SCALE

runs `apsw.speedtest` in this process, with the VFS registered. The stock side is put into WAL mode
before, as in the other groups; everything else is as the test has it (exclusive locking, FULL).
"""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import apsw

from benchmarks.rows import Row, compare, ratio_budget
from benchmarks.workspace import Options, engine

CAPTION = "elapsed time of the whole test; stock = WAL, FULL"

TESTS = ("bigstmt", "statements", "statements_nobindings")


def child(side: str, directory: Path, test: str, scale: str) -> None:
    """Run one test twice, each time on a fresh database."""
    sys.argv = ["speedtest", "--apsw", "--iterations", "2", "--tests", test, "--scale", scale]
    if side == "stock":
        apsw.connection_hooks.append(lambda connection: connection.pragma("journal_mode", "wal"))
        sys.argv += ["--database", str(directory / "speed.db")]
        runpy.run_module("apsw.speedtest", run_name="__main__")
        return
    with engine(directory / "data"):
        # The test removes its database as a file, which a tag is not.
        apsw.connection_hooks.append(lambda connection: connection.pragma("graft_new"))
        sys.argv += ["--vfs", "graft", "--database", "speed"]
        runpy.run_module("apsw.speedtest", run_name="__main__")


def seconds(side: str, directory: Path, test: str, scale: int) -> float:
    """Return the median of the elapsed seconds that a fresh process reports."""
    arguments = [side, str(directory), test, str(scale)]
    command = [sys.executable, "-m", "benchmarks.speedtest", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    summary = done.stdout[done.stdout.index("Median") :]
    line = next(line for line in summary.splitlines() if line.strip().startswith("apsw_"))
    return float(line.split()[1])


def run(options: Options) -> list[Row]:
    """Run each test in alternating pairs of fresh databases."""
    scale, pairs = options.choose(10, 1), min(3, options.pairs)
    rows = []
    for test in TESTS[:1] if options.quick else TESTS:
        taken: dict[str, list[float]] = {"stock": [], "graft": []}
        for _ in range(pairs):
            for side, samples in taken.items():
                with options.scratch(f"speedtest-{side}") as directory:
                    samples.append(seconds(side, directory, test, scale))
        work = f"apsw.speedtest {test}, scale {scale}"
        rows.append(compare("speedtest", work, taken["stock"], taken["graft"], budget=ratio_budget))
    return rows


if __name__ == "__main__":
    child(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4])
