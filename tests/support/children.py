"""Python programs in child processes that share a data directory with the test."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import graft_vfs

_PREAMBLE = """
import sys
import apsw
import graft_vfs
from pathlib import Path

remote = graft_vfs.RemoteConfig(**{remote!r})
config = graft_vfs.Config(
    data_dir=Path({data_dir!r}), remote=remote, make_default={make_default!r}
)
engine = graft_vfs.register(config)


def say(*words):
    print(*words, flush=True)


def hear():
    return sys.stdin.readline().strip()

"""
_PACKAGE_PARENT = str(Path(graft_vfs.__file__).parents[1])


class Child:
    """A running program; `say` and `hear` use the pipe between it and the test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def say(self, line: str) -> None:
        """Send one line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """Wait for one line; empty at the program's end."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> list[str]:
        """Kill with SIGKILL and return the remaining output."""
        self.process.kill()
        return self._rest()

    def end(self) -> list[str]:
        """Wait for a successful exit and return the remaining output."""
        lines = self._rest()
        assert self.process.returncode == 0, lines
        return lines

    def _rest(self) -> list[str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        out = self.process.stdout.read()
        self.process.wait()
        whole, _, _ = out.rpartition("\n")  # A line truncated by the kill does not count.
        return whole.splitlines()


@contextlib.contextmanager
def child(
    data_dir: Path,
    program: str,
    *,
    remote: Path | None = None,
    make_default: bool = False,
    cwd: Path | None = None,
) -> Iterator[Child]:
    """Run a program with `config`, `engine`, `say` and `hear` defined; the block's end kills it.

    `remote` is a directory.
    """
    fields = {} if remote is None else {"type": "fs", "root": str(remote)}
    preamble = _PREAMBLE.format(data_dir=str(data_dir), remote=fields, make_default=make_default)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")},
        "PYTHONPATH": _PACKAGE_PARENT,
    }
    with subprocess.Popen(
        [sys.executable, "-c", preamble + textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=cwd,
    ) as process:
        try:
            yield Child(process)
        finally:
            process.kill()
