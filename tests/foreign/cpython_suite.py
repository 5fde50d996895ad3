"""Runs CPython's `test.test_sqlite3` with graft as sqlite3's default VFS; a program for a process.

    python cpython_suite.py DATA_DIRECTORY RESULTS only|without [TEST...]

The suite takes databases for files and deletes them behind each test; where it does, their tags are
deleted too, so that each test begins without them. Before that APSW checks what sqlite3 left.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import pkgutil
import sys
import unittest
from pathlib import Path
from typing import Any

import graft_vfs
from graft_vfs import Config
from tests.foreign.apsw_suite import Databases, Results, all_tests, name_of


def modules() -> list[Any]:
    """Import the modules of the suite."""
    package = importlib.import_module("test.test_sqlite3")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return [
        importlib.import_module(f"{package.__name__}.{name}")
        for name in names
        if name.startswith("test_")
    ]


def run(data_directory: Path, choice: str, names: list[str]) -> dict[str, dict[str, Any]]:
    """Run tests and return what each did."""
    engine = graft_vfs.register(Config(data_dir=data_directory))
    graft_vfs.enable_sqlite3(make_default=True)
    # Errors on purpose are most of the suite; each is in the log, too.
    logging.disable(logging.ERROR)
    databases = Results.databases = Databases(engine)
    Results.outcomes = {}
    loader = unittest.TestLoader()
    tests = [
        test
        for module in modules()
        for test in all_tests(loader.loadTestsFromModule(module))
        if (name_of(test) in names) == (choice == "only")
    ]
    for test in tests:
        test.addCleanup(databases.remove)
    runner = unittest.TextTestRunner(verbosity=2, resultclass=Results)
    runner.run(unittest.TestSuite(tests))
    return Results.outcomes


if __name__ == "__main__":
    data_directory, results, choice, *names = sys.argv[1:]
    os.chdir(Path(results).parent)
    outcomes = run(Path(data_directory), choice, names)
    Path(results).write_text(json.dumps(outcomes, indent=1))
