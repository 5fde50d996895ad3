"""Standard streams that are closed, or whose reader has gone, as scripts and daemons have them.

A closed descriptor is a danger: the next file that is opened gets its number, and what anything
writes to standard output or to standard error then goes into that file, even if it is a branch log.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from graft_vfs.errors import LocalStorageError


def hold_closed() -> None:
    """Take the numbers of standard streams that are closed; errors are written to nowhere then.

    Each gets a handle that cannot be used the wrong way, so that nothing is read or written by
    mistake.
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
    """The reader of standard output has closed it, which ends a command silently.

    Not an OSError, for which click has an exit code of its own.
    """


@contextlib.contextmanager
def watching_reader() -> Iterator[None]:
    """Raise ReaderGone if the reader of standard output goes away inside the block."""
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGone from error


def discard_output() -> None:
    """Let what is still buffered for standard output go nowhere when the interpreter ends."""
    with Path(os.devnull).open("w", encoding="utf-8") as null:
        os.dup2(null.fileno(), 1)
