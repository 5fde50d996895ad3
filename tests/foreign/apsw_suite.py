"""Runs tests of `apsw.tests` with graft as the default VFS; a program for a process of its own.

    python apsw_suite.py DATA_DIRECTORY RESULTS only|without [TEST...]

Every file name that a test opens is a tag then. RESULTS becomes a JSON object of what each test
did, by its name (`APSW.testBackup`). Three habits of the suite need help, because it takes
databases for files:

- It closes every connection of the process before each test; the catalog's is not its to close.
- It deletes its files after each test; the tags are deleted with them, and before that each
  database that it leaves is checked, also where the test itself looks at none.
- It forgets all connection hooks, so its connections have SQLite's own default journal mode.
"""

from __future__ import annotations

import importlib
import json
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import apsw

import graft_vfs
from graft_vfs import Config, Graft


class Databases:
    """The databases of the test that runs: counted, checked, removed."""

    def __init__(self, engine: Graft) -> None:
        self._engine = engine
        self.start()

    def start(self) -> None:
        """Forget what the test before did."""
        self.opened = 0
        self.sound = 0
        self.unsound: list[str] = []
        self.unchecked: list[str] = []

    def remove(self) -> None:
        """Check each database and remove its tag."""
        for report in self._engine.tags():
            self.opened += 1
            try:
                self._check(report.tag)
            finally:
                self._engine.remove_tag(report.tag)

    def _check(self, tag: str) -> None:
        connection = apsw.Connection(tag, vfs="graft")
        try:
            if not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall():
                return
            found = connection.execute("PRAGMA integrity_check").fetchall()
        except apsw.SQLError as error:
            # An index over a function of the test, or a virtual table, needs what the test had.
            self.unchecked.append(f"{tag}: {error}")
        else:
            if found == [("ok",)]:
                self.sound += 1
            else:
                self.unsound.append(f"{tag}: {found}")
        finally:
            connection.close()


class Results(unittest.TextTestResult):
    """What each test did, as plain data."""

    databases: Databases
    outcomes: dict[str, dict[str, Any]]

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.databases.start()
        self._note(test)["outcome"] = "passed"

    def stopTest(self, test: unittest.TestCase) -> None:
        note = self._note(test)
        databases = self.databases
        note.update(opened=databases.opened, sound=databases.sound, unchecked=databases.unchecked)
        if databases.unsound:
            note.update(outcome="unsound", detail="\n".join(databases.unsound))
        super().stopTest(test)

    def addError(self, test, err) -> None:
        super().addError(test, err)
        self._failed(test, err)

    def addFailure(self, test, err) -> None:
        super().addFailure(test, err)
        self._failed(test, err)

    def addSubTest(self, test, subtest, err) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._failed(test, err)

    def addSkip(self, test, reason) -> None:
        super().addSkip(test, reason)
        self._note(test).update(outcome="skipped", detail=reason)

    def _failed(self, test, err) -> None:
        note = self._note(test)
        detail = note.get("detail", "") + self._exc_info_to_string(err, test)
        note.update(outcome="failed", detail=detail)

    def _note(self, test) -> dict[str, Any]:
        return self.outcomes.setdefault(name_of(test), {})


def name_of(test: unittest.TestCase) -> str:
    """Return a test's name in the suite: class and method."""
    return ".".join(test.id().split(".")[-2:])


def adapt(suite: ModuleType, engine: Graft) -> Databases:
    """Make the suite leave the catalog alone and remove tags where it deletes its files."""
    connections, delete_files = apsw.connections, suite.deltempfiles
    own = connections()
    apsw.connections = lambda: [each for each in connections() if each not in own]
    databases = Databases(engine)

    def delete_files_and_tags() -> None:
        delete_files()
        databases.remove()

    suite.deltempfiles = delete_files_and_tags
    return databases


def all_tests(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """Return the tests of a suite that holds suites."""
    for each in suite:
        if isinstance(each, unittest.TestSuite):
            yield from all_tests(each)
        else:
            yield each


def chosen(module: ModuleType, choice: str, names: list[str]) -> unittest.TestSuite:
    """Return the tests that are `only` these or all `without` these."""
    loader = unittest.TestLoader()
    if choice == "only":
        return loader.loadTestsFromNames(names, module)
    tests = all_tests(loader.loadTestsFromModule(module))
    return unittest.TestSuite(test for test in tests if name_of(test) not in names)


def run(data_directory: Path, choice: str, names: list[str]) -> dict[str, dict[str, Any]]:
    """Run tests and return what each did."""
    engine = graft_vfs.register(Config(data_dir=data_directory, make_default=True))
    module = importlib.import_module("apsw.tests.__main__")
    module.setup()
    Results.databases = adapt(module, engine)
    Results.outcomes = {}
    runner = unittest.TextTestRunner(verbosity=2, resultclass=Results)
    runner.run(chosen(module, choice, names))
    return Results.outcomes


if __name__ == "__main__":
    data_directory, results, choice, *names = sys.argv[1:]
    outcomes = run(Path(data_directory), choice, names)
    Path(results).write_text(json.dumps(outcomes, indent=1))
