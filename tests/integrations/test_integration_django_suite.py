"""Django's own tests of databases pass with `graft_vfs.django`, but for those of files on disk.

They are in Django's source distribution and not in what pip installs (see `foreign/suites.py`). Or
DJANGO_TESTS names the directory `tests` in a copy that has the version of the installed Django.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import graft_vfs
from tests.foreign.suites import suite

_SETTINGS = """
DATABASES = {
    alias: {"ENGINE": "graft_vfs.django", "NAME": alias} for alias in ("default", "other")
}
SECRET_KEY = "of no use"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
"""
_OPTIONS = ["--settings=graft_settings", "--noinput", "--parallel=1"]
_APPLICATIONS = (
    "aggregation backends bulk_create constraints dbshell delete expressions get_or_create indexes"
    " inspectdb introspection migrations model_fields queries schema transaction_hooks transactions"
)
_EXCLUDED = {
    # The shell runs in this process and not as the program `sqlite3`.
    "dbshell.tests.DbshellCommandTestCase.test_command_missing",
    "dbshell.test_sqlite.SqliteDbshellCommandTestCase.test_non_zero_exit_status_when_path_to_db_is_path",
}


def run_suite(directory: Path, *applications: str) -> tuple[int, set[str]]:
    """Run the tests of some applications; returns how many there were, and which failed."""
    tests = os.environ.get("DJANGO_TESTS") or suite("django") / "tests"
    (directory / "graft_settings.py").write_text(_SETTINGS)
    done = subprocess.run(
        [sys.executable, "runtests.py", *_OPTIONS, *applications],
        cwd=tests,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(directory), str(Path(graft_vfs.__file__).parents[1])]
            ),
            "GRAFT_DATA_DIR": str(directory / "data"),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    found = re.search(r"^Ran (\d+) tests", done.stdout, re.MULTILINE)
    assert found, done.stdout[-5000:]
    failed = re.findall(r"^(?:FAIL|ERROR): \w+ \(([\w.]+)\)", done.stdout, re.MULTILINE)
    return int(found[1]), set(failed)


def test_the_tests_of_transactions_pass(tmp_path):
    count, failed = run_suite(tmp_path, "transactions", "transaction_hooks")
    assert not failed
    assert count > 70


@pytest.mark.deep
def test_the_tests_of_django_pass_but_for_those_of_files(tmp_path):
    count, failed = run_suite(tmp_path, *_APPLICATIONS.split())
    assert failed == _EXCLUDED
    assert count > 2000
