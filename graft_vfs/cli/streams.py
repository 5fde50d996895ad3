"""Closed standard streams and closed pipes, as in scripts and daemons.

A closed descriptor is dangerous: the next opened file gets its number, and writes to standard
output or standard error then go to that file, even if it is a branch log.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from graft_vfs.errors import LocalStorageError


def hold_closed() -> None:
    """Occupy the descriptors of closed standard streams; errors are then discarded.

    Each gets a handle with the wrong direction, so that nothing is read or written by mistake.
    Raises LocalStorageError if standard output is closed, before anything is done: no result could
    be shown.
    """
    for descriptor, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # It gets the lowest number that is free: this one.
    null = Path(os.devnull)
    if sys.stdin is None:
        sys.stdin = null.open(encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = null.open("w", encoding="utf-8")
    if sys.stdout is None:
        raise LocalStorageError(
            "standard output is closed", next_step="redirect it to a file or to /dev/null"
        )


class ReaderGone(Exception):  # noqa: N818 - it is no error, the reader has seen enough
    """The pipe of standard output was closed, which ends a command silently.

    Not an OSError, for which click has an exit code of its own.
    """


@contextlib.contextmanager
def watching_reader() -> Iterator[None]:
    """Raise ReaderGone if the pipe of standard output is closed inside the block."""
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGone from error


def discard_output() -> None:
    """Discard buffered standard output at interpreter exit."""
    with Path(os.devnull).open("w", encoding="utf-8") as null:
        os.dup2(null.fileno(), 1)
