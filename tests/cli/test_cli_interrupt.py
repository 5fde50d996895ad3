"""Ctrl-C in a real process that is waiting for the writer lock."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

import graft_vfs


def _waits_for_lock(process: subprocess.Popen[str]) -> bool:
    descriptors = Path(f"/proc/{process.pid}/fd")
    for descriptor in descriptors.iterdir():
        try:
            if descriptor.readlink().name == "writer.lock":
                return True
        except FileNotFoundError:
            continue
    return False


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_ctrl_c_is_130_and_the_next_command_works(cli, plain):
    cli.ok("new", "main")
    graft_vfs.register(graft_vfs.Config.load())
    with closing(graft_vfs.connect("main")) as connection:
        connection.execute("BEGIN IMMEDIATE")
        process = subprocess.Popen(
            [sys.executable, "-m", "graft_vfs.cli", "import", str(plain), "main"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 30
        while not _waits_for_lock(process) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        connection.execute("ROLLBACK")
    graft_vfs.unregister()
    assert (process.returncode, output) == (130, "")
    assert errors == "error: interrupted; what was committed before is safe\n"
    cli.ok("import", str(plain), "main")
    assert cli.sql("main", "SELECT count(*) FROM t") == [(2000,)]
