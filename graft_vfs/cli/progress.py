"""One line on the terminal that counts while work is long; nothing where there is no terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TextIO

from graft_vfs.reports import Progress

_FIRST_AFTER_SECONDS = 0.3
_EVERY_SECONDS = 0.1
_ERASE_LINE = "\r\x1b[2K"


@contextlib.contextmanager
def progress(what: str, stream: TextIO | None = None) -> Iterator[Progress | None]:
    """Yield a `progress` argument for a verb, None if standard error is no terminal."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield None
        return
    line = _Line(what, stream)
    try:
        yield line.show
    finally:
        line.clear()


class _Line:
    """The line of one verb. Short work never shows it; it is gone when the work ends."""

    def __init__(self, what: str, stream: TextIO) -> None:
        self._what = what
        self._stream = stream
        self._next = time.monotonic() + _FIRST_AFTER_SECONDS
        self._shown = False

    def show(self, done: int, total: int) -> None:
        """Write how much is done, at most ten times a second."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY_SECONDS
        self._shown = True
        share = f" ({100 * done // total}%)" if total else ""
        self._stream.write(f"{_ERASE_LINE}{self._what}: {done} of {total}{share}")
        self._stream.flush()

    def clear(self) -> None:
        """Take the line away, so that the result or the error stands alone."""
        if self._shown:
            self._stream.write(_ERASE_LINE)
            self._stream.flush()
