"""The units for systemd and the container file of examples/ run commands that exist."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from graft_vfs.cli import main
from graft_vfs.engine.config import unknown_variables

EXAMPLES = Path(__file__).parents[2] / "examples"
SERVICES = sorted((EXAMPLES / "systemd").glob("*.service"))
UNITS = sorted((EXAMPLES / "systemd").iterdir())
CONTAINER = (EXAMPLES / "container" / "Containerfile").read_text("utf-8")


def check_call(words: list[str]) -> dict[str, object]:
    """Fail unless words are a call of `graft`; returns its arguments."""
    assert Path(words[0]).name == "graft"
    command = main.get_command(click.Context(main), words[1])
    return command.make_context(words[1], words[2:]).params


def settings(path: Path) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(path)
    return parser["Service"]


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_a_unit_calls_graft_with_valid_arguments(path):
    arguments = check_call(shlex.split(settings(path)["ExecStart"]))
    assert arguments["push_only"]
    variables = dict(re.findall(r"\b(GRAFT_\w+)=(\S+)", path.read_text("utf-8")))
    assert variables
    assert unknown_variables(variables) == {}


def test_systemd_waits_longer_than_the_daemon_waits_for_its_last_push():
    service = settings(EXAMPLES / "systemd" / "graft-sync.service")
    arguments = check_call(shlex.split(service["ExecStart"]))
    assert arguments["every"]
    assert arguments["grace"] < float(service["TimeoutStopSec"])


def test_systemd_accepts_the_units(tmp_path):
    verifier = shutil.which("systemd-analyze")
    if verifier is None:
        pytest.skip("systemd-analyze is not installed")
    for path in UNITS:
        text = path.read_text("utf-8")
        # It looks whether the program and the user exist.
        text = text.replace("/opt/graft/bin/graft", sys.executable).replace("User=shop", "")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [verifier, "verify", "--man=no", *map(str, tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )
    told = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "graft" in line]
    assert (done.returncode, told) == (0, [])


def test_the_container_runs_the_daemon_and_asks_it_for_metrics():
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", CONTAINER, re.MULTILINE)[1])
    arguments = check_call(entry)
    assert arguments["every"]
    host, _, port = str(arguments["metrics"]).rpartition(":")
    assert host == "0.0.0.0"
    assert f"http://127.0.0.1:{port}/metrics" in CONTAINER
    assert f"EXPOSE {port}" in CONTAINER
    assert unknown_variables(dict(re.findall(r"\b(GRAFT_\w+)=(\S+)", CONTAINER))) == {}
