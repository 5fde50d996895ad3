"""Standard streams that are closed, full, or without a reader, in real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GRAFT = f"'{sys.executable}' -m graft_vfs.cli"


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash; its exit code is that of the first command of a pipe that failed."""
    line = f"set -o pipefail; {command}"
    return subprocess.run(["bash", "-c", line], check=False, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", ["--version", "tags", "new main", "--help", "config"])
def test_a_closed_standard_output_is_an_error_before_anything_is_done(cli, arguments):
    done = shell(f"{GRAFT} {arguments} >&-")
    assert done.returncode == 9
    assert done.stderr == (
        "error: standard output is closed\nhint: redirect it to a file or to /dev/null\n"
    )
    assert cli.json("tags") == []


def test_closed_streams_are_not_confused_with_files(cli):
    cli.ok("new", "main")
    assert shell(f"{GRAFT} tags <&- 2>&-").stdout == cli.ok("tags")
    assert shell(f"{GRAFT} bogus 2>&-").returncode == 2
    assert shell(f"{GRAFT} tags <&- >&- 2>&-").returncode == 9
    # The shell of a volume writes with all three closed but one; no byte goes into its files.
    statements = "CREATE TABLE t(x); INSERT INTO t VALUES(1); SELECT * FROM absent"
    assert shell(f"{GRAFT} shell main -c '{statements}' <&- 2>&-").returncode == 1
    assert cli.sql("main", "SELECT * FROM t") == [(1,)]


@pytest.mark.parametrize(
    "arguments",
    ["config --template", "--help", "--version", "shell main -c 'SELECT hex(zeroblob(1000000))'"],
)
def test_a_closed_pipe_ends_a_command_quietly(cli, arguments):
    cli.ok("new", "main")
    done = shell(f"{GRAFT} {arguments} | true")
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_standard_output_is_an_error(cli):
    done = shell(f"{GRAFT} config > /dev/full")
    assert done.returncode == 9
    assert done.stderr.startswith("error: No space left on device\n")
