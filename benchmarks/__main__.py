"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import apsw

from benchmarks import machine
from benchmarks.chart import write_chart
from benchmarks.rows import Budget, PremiseError, Row
from benchmarks.table import render
from benchmarks.workspace import Options
from graft_vfs import GraftError

GROUPS = (
    "local", "constancy", "real", "memory", "open", "remote", "long_life", "speedtest", "peers",
)  # fmt: skip
_MODULES = {"open": "opening"}
_FAILURES = (GraftError, PremiseError, apsw.Error, OSError, subprocess.SubprocessError)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP",
        help="which groups to run: " + ", ".join(GROUPS))  # fmt: skip
    add("--pairs", type=int, default=5, help="alternating pairs of stock and graft (5)")
    add("--json", type=Path, metavar="FILE", help="write rows with all raw samples")
    add("--chart", type=Path, metavar="FILE", help="draw the ratios; ends in .svg or .png")
    add("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    add("--large", action="store_true", help="the full 1 GiB for memory and open")
    add("--database", type=Path, metavar="FILE", help="a real database for the group real")
    add("--directory", type=Path, metavar="DIR", help="where the data goes (a temporary one)")
    add("--peer-python", type=Path, metavar="FILE", help="a Python that has the peers installed")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the groups and print what they find; returns 1 if a row misses its budget's floor."""
    chosen = parse(arguments)
    if chosen.directory is not None:
        chosen.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="graft-bench-", dir=chosen.directory) as directory:
        options = Options(
            Path(directory).resolve(),
            pairs=min(chosen.pairs, 2) if chosen.quick else chosen.pairs,
            quick=chosen.quick,
            large=chosen.large,
            database=chosen.database,
            peer_python=chosen.peer_python,
        )
        facts = machine.describe(options.directory)
        print("\n".join(facts.values()), flush=True)
        rows, captions = run(options, [name for name in GROUPS if name in chosen.only])
    print("\n" + render(rows, captions))
    if chosen.json is not None:
        report = {"facts": facts, "quick": options.quick, "rows": [asdict(row) for row in rows]}
        chosen.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    if chosen.chart is not None:
        write_chart(chosen.chart, rows, "stock / graft: longer is better · " + facts["versions"])
    missed = [row for row in rows if row.budget.verdict == "no"]
    # Times of a quick run mean nothing, but a group that did not run does.
    return int(any(row.budget.text == "to run" or not chosen.quick for row in missed))


def run(options: Options, names: Sequence[str]) -> tuple[list[Row], dict[str, str]]:
    """Run groups by name; each module has `run` and a `CAPTION` for what its columns mean."""
    rows: list[Row] = []
    captions = {}
    for name in names:
        module = importlib.import_module(f"benchmarks.{_MODULES.get(name, name)}")
        captions[name] = module.CAPTION
        begin = time.monotonic()
        try:
            rows += module.run(options)
        except _FAILURES as error:
            # The other groups took long, too: what they found must not be lost.
            traceback.print_exc()
            rows.append(
                Row(name, "the whole group", budget=Budget("to run", "no"), note=str(error))
            )
        print(f"{name}: {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)
    return rows, captions


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
