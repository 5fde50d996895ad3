"""Test functions that run in a separate process with its own limits and mounts.

A signal that kills the process, such as SIGBUS, fails only that test.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.support.children import Child

_ROOT = Path(__file__).parents[2]
_CALL = (
    "import importlib, sys;"
    "getattr(importlib.import_module(sys.argv[1]), sys.argv[2])(*sys.argv[3:])"
)


def run(function: Callable[..., None], *arguments: object, prefix: Sequence[str] = ()) -> str:
    """Call a module's function with texts as arguments; returns what it printed."""
    with running(function, *arguments, prefix=prefix) as child:
        assert child.process.stdin is not None
        assert child.process.stdout is not None
        child.process.stdin.close()
        said = child.process.stdout.read()
        code = child.process.wait()
    ended = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
    assert code == 0, f"{function.__name__} ended {ended} after saying:\n{said}"
    return said


@contextlib.contextmanager
def running(
    function: Callable[..., None], *arguments: object, prefix: Sequence[str] = ()
) -> Iterator[Child]:
    """Start a module's function with texts as arguments; the block's end kills it."""
    command = [*prefix, sys.executable, "-W", "error", "-c", _CALL]
    call = [function.__module__, function.__name__, *map(str, arguments)]
    environment: dict[str, Any] = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")},
        "PYTHONPATH": str(_ROOT),
    }
    with subprocess.Popen(
        [*command, *call],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield Child(process)
        finally:
            process.kill()


def say(*words: object) -> None:
    """Send the test one line."""
    print(*words, flush=True)


def hear() -> str:
    """Wait for a line from the test; empty at its end."""
    return sys.stdin.readline().strip()
