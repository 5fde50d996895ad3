"""Runs peewee's own tests on volumes or on stock files; a program for a process of its own.

    python peewee_suite.py volume|file SOURCES RESULTS [MODULE...]

SOURCES are peewee's, of which the program imports peewee, too: the tests are of that version.
RESULTS becomes a JSON object of the outcome of each test. Without modules, all of them are run.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import unittest
from pathlib import Path

import graft_vfs
from graft_vfs import Config

outcomes: dict[str, str] = {}


class Results(unittest.TextTestResult):
    """The outcome of each test by its name; the end of its error is printed."""

    def addSuccess(self, test) -> None:
        super().addSuccess(test)
        outcomes[test.id()] = "passed"

    def addError(self, test, err) -> None:
        super().addError(test, err)
        outcomes[test.id()] = "failed"

    def addFailure(self, test, err) -> None:
        super().addFailure(test, err)
        outcomes[test.id()] = "failed"

    def addSkip(self, test, reason) -> None:
        super().addSkip(test, reason)
        outcomes[test.id()] = "skipped"


def main(kind: str, sources: str, results: str, *modules: str) -> None:
    """Run the tests of some modules, or all."""
    if kind == "volume":
        # Errors on purpose are part of the suite. It counts queries by the log, so that stays on.
        logging.getLogger("graft_vfs").setLevel(logging.CRITICAL)
        graft_vfs.register(Config(data_dir=Path("data").absolute()))
        graft_vfs.enable_sqlite3(make_default=True)
    sys.path.insert(0, sources)
    import tests

    loader = unittest.TestLoader()
    suite = (
        loader.loadTestsFromNames([f"tests.{module}" for module in modules])
        if modules
        else loader.loadTestsFromModule(tests)
    )
    unittest.TextTestRunner(resultclass=Results, verbosity=0).run(suite)
    Path(results).write_text(json.dumps(outcomes))


if __name__ == "__main__":
    os.chdir(Path(sys.argv[3]).parent)
    main(*sys.argv[1:])
