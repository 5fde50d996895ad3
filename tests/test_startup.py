"""What a process imports, which is most of the time that short commands take."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from graft_vfs import RemoteConfig, cli
from tests.support.replicas import Replica
from tests.support.servers import S3Endpoint

BOTO = {"boto3", "botocore", "s3transfer", "urllib3", "jmespath", "dateutil"}
FOREIGN = {*BOTO, "sqlalchemy", "django", "datasette", "sqlite_utils", "cffi"}

NOTE_MODULES = """
import atexit, os, sys
atexit.register(lambda: open(os.environ["MODULES"], "w").write("\\n".join(sys.modules)))
"""


def imported(program: str, directory: Path, **environment: str) -> set[str]:
    """Return the modules that a process of its own has imported when it ends."""
    noted = directory / "modules"
    subprocess.run(
        [sys.executable, "-c", NOTE_MODULES + program],
        cwd=directory,
        env={**os.environ, **environment, "MODULES": str(noted)},
        check=True,
        capture_output=True,
        timeout=60,
    )
    return set(noted.read_text().split())


def graft(*arguments: str) -> str:
    return f"sys.argv = {['graft', *arguments]!r}\nfrom graft_vfs.cli import main\nmain()"


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize("use", ["", "graft_vfs.connect", "graft_vfs.Graft"])
def test_the_package_imports_no_boto_no_shell_and_no_integration(tmp_path, use):
    found = imported(f"import graft_vfs\n{use}", tmp_path)
    assert not packages(found) & {*FOREIGN, "click"}
    assert "apsw.shell" not in found
    rooms = ("cli", "integrations", "django", "store.s3")
    assert not [name for name in found if name.startswith(tuple(f"graft_vfs.{at}" for at in rooms))]


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_need_no_engine(tmp_path, option):
    found = imported(graft(option), tmp_path)
    assert not packages(found) & FOREIGN
    assert not {"graft_vfs.engine.graft", "graft_vfs.vfs.registry"} & found


@pytest.fixture(scope="module")
def cached(ministack: S3Endpoint, tmp_path_factory) -> dict[str, str]:
    """Return the variables that configure a volume on S3 whose pages are all cached."""
    directory = tmp_path_factory.mktemp("startup") / "data"
    bucket = ministack.fresh_bucket()
    with ministack.identity():
        remote = RemoteConfig(type="s3_compatible", bucket=bucket, endpoint=ministack.url)
        machine = Replica(directory, remote)
        connection = machine.connect()
        for number in range(2):
            connection.execute("CREATE TABLE IF NOT EXISTS t(k)")
            connection.execute("INSERT INTO t VALUES(?)", (number,))
            machine.engine.push("main")
        connection.close()
        machine.close()
    return {
        "GRAFT_CONFIG": os.devnull,
        "GRAFT_DATA_DIR": str(directory),
        "GRAFT_REMOTE_TYPE": "s3_compatible",
        "GRAFT_REMOTE_BUCKET": bucket,
        # Where nothing listens, so that a request fails the command.
        "GRAFT_REMOTE_ENDPOINT": "http://127.0.0.1:9",
    }


@pytest.mark.parametrize(
    "command",
    [
        "status",
        "status main",
        "log main",
        "tags",
        "info main",
        "diff main 1 2",
        "volumes",
        "show main",
    ],
)
def test_a_command_about_what_is_cached_imports_no_boto(cached, tmp_path, command):
    found = imported(graft(*command.split()), tmp_path, **cached)
    assert "graft_vfs.store.s3.store" in found, "the remote was opened"
    assert not packages(found) & FOREIGN
    assert "apsw.shell" not in found


@pytest.mark.parametrize("module", sorted(cli._MODULES))
def test_every_command_is_found_in_its_module(module):
    commands = import_module(f"graft_vfs.cli.{module}").COMMANDS
    assert [command.name for command in commands] == cli._MODULES[module].split()
