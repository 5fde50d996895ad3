"""An engine with a directory as its remote, and programs that use it in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import graft_vfs
from graft_vfs import Config, RemoteConfig
from tests.support import engines

_PACKAGE_PARENT = str(Path(graft_vfs.__file__).parents[1])


@pytest.fixture
def config(tmp_path):
    remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))
    return Config(data_dir=tmp_path / "data", remote=remote)


@pytest.fixture
def engine(config):
    with engines.registered(config) as engine:
        yield engine


@pytest.fixture
def elsewhere(config, tmp_path):
    """Go on as another machine with the same remote."""

    def go(name="elsewhere"):
        return engines.reopened(Config(data_dir=tmp_path / name, remote=config.remote))

    return go


@pytest.fixture
def environment(config):
    """Variables of a process with the same settings as the engine."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GRAFT_", "PYTEST_", "PYTHON"))
    }
    return {
        **kept,
        "PYTHONPATH": _PACKAGE_PARENT,
        "PYTHONWARNINGS": "error",
        "GRAFT_DATA_DIR": str(config.data_dir),
        "GRAFT_REMOTE_TYPE": "fs",
        "GRAFT_REMOTE_ROOT": str(config.remote.root),
    }


@pytest.fixture
def run(environment, tmp_path):
    """Run a Python program; `arguments` are the interpreter's, `text` its standard input."""

    def run(*arguments, code=0, text=""):
        done = subprocess.run(
            [sys.executable, *arguments],
            env=environment,
            cwd=tmp_path,
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run
