"""One line on the terminal while work is long: how much is done, how fast, and how long it takes.

Where standard error is no terminal nothing is shown, so that logs of cron and CI stay short. On a
terminal without control sequences (TERM=dumb) there is a whole line every few seconds instead.
Colours are not used.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TextIO

import graft_vfs
from graft_vfs.reports import Progress, size_text

_FIRST_AFTER_SECONDS = 0.3
_EVERY_SECONDS = 0.2
_EVERY_SECONDS_DUMB = 5.0
_WINDOW_SECONDS = 10.0
"""What the rate is measured over: long enough to be steady, short enough to show a stall."""
_STALLED_SECONDS = 5.0
_GUESS_SHARE = 0.02
"""With less done, the time left would be a guess."""
_COLUMNS_DEFAULT = 80
_ERASE_LINE = "\r\x1b[2K"


class ProgressLine:
    """The line of one verb. Short work does not show it; it is erased when the work ends.

    Owner: `progress`. Thread rule: any thread may report; a thread of its own repaints, so that a
    stall shows.
    """

    def __init__(
        self,
        what: str,
        stream: TextIO,
        *,
        received: Callable[[], int] | None = None,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """`received` counts the bytes that came from the remote, beside what the verb counts."""
        self._title = self._what = what
        self._stream = stream
        self._received = received
        self._seconds = seconds
        self._is_dumb = os.environ.get("TERM") == "dumb"
        self._every = _EVERY_SECONDS_DUMB if self._is_dumb else _EVERY_SECONDS
        self._lock = threading.Lock()
        self._began = seconds()
        self._next = self._began + max(_FIRST_AFTER_SECONDS, self._every if self._is_dumb else 0)
        self._received_before = 0 if received is None else received()
        self._is_in_bytes = False
        self._done = self._total = 0
        self._changed = self._began
        # (time, done, bytes moved); the first before anything was done, so that the rate is of all.
        self._samples = deque([(self._began, 0, 0)])
        self._is_shown = False
        self._ended = threading.Event()
        self._painter: threading.Thread | None = None

    def show(self, done: int, total: int) -> None:
        """Report how much is done, as the verb counts it."""
        self._note(self._title, done, total, in_bytes=False)

    def show_sent(self, done: int, total: int) -> None:
        """Report how many bytes the remote has acknowledged."""
        self._note("Sending", done, total, in_bytes=True)

    def show_received(self, done: int, total: int) -> None:
        """Report how many bytes have come from the remote."""
        self._note(self._title, done, total, in_bytes=True)

    def _note(self, what: str, done: int, total: int, *, in_bytes: bool) -> None:
        now = self._seconds()
        with self._lock:
            if in_bytes != self._is_in_bytes or what != self._what:
                self._samples.clear()
                self._is_in_bytes, self._what = in_bytes, what
            if done != self._done or not self._samples:
                self._changed = now
            if not self._samples:
                self._samples.append((now, done, done if in_bytes else 0))
            self._done, self._total = done, total
            self._paint(now)
            if self._painter is None:
                self._painter = threading.Thread(target=self._repaint, daemon=True)
                with contextlib.suppress(RuntimeError):  # Without a thread it only shows no stall.
                    self._painter.start()

    def _repaint(self) -> None:
        while not self._ended.wait(self._every):
            with self._lock:
                if not self._ended.is_set():
                    self._paint(self._seconds())

    def _paint(self, now: float) -> None:
        """Write the line if it is time; the caller holds the lock."""
        moved = self._done if self._is_in_bytes else 0
        if not self._is_in_bytes and self._received is not None:
            moved = self._received() - self._received_before
        if now - self._samples[-1][0] >= _EVERY_SECONDS:
            self._samples.append((now, self._done, moved))
        while now - self._samples[0][0] > _WINDOW_SECONDS and len(self._samples) > 2:
            self._samples.popleft()
        if now < self._next:
            return
        self._next = now + self._every
        self._is_shown = True
        text = self.text(now, moved, self._columns() - 1)
        self._stream.write(f"{text}\n" if self._is_dumb else f"{_ERASE_LINE}{text}")
        self._stream.flush()

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or _COLUMNS_DEFAULT
        except (OSError, ValueError):
            return _COLUMNS_DEFAULT

    def text(self, now: float, moved: int, width: int) -> str:
        """Return the line: as many of its parts, the most important first, as have room."""
        done, total = self._done, self._total
        shown = size_text if self._is_in_bytes else str
        share = f" ({100 * done // total}%)" if total else ""
        parts = [f"{self._what}: {shown(done)} of {shown(total)}{share}"]
        first, first_done, first_moved = self._samples[0]
        elapsed = now - first
        is_stalled = now - self._changed >= _STALLED_SECONDS
        if moved and not self._is_in_bytes:
            parts.append(f"{size_text(moved)} received")
        if elapsed > 0 and moved > first_moved:
            parts.append(f"{size_text(int((moved - first_moved) / elapsed))}/s")
        if is_stalled and moved == first_moved:
            parts.append(f"nothing for {duration_text(now - self._changed)}")
        elif elapsed > 0 and done > first_done and total > done >= total * _GUESS_SHARE:
            left = (total - done) * elapsed / (done - first_done)
            parts.append(f"{duration_text(left)} left")
        text = parts[0][:width]
        for part in parts[1:]:
            if len(text) + len(part) + 2 <= width:
                text += f", {part}"
        return text

    def clear(self) -> None:
        """Erase the line before the result or the error."""
        self._ended.set()
        with self._lock:
            if self._is_shown and not self._is_dumb:
                self._stream.write(_ERASE_LINE)
                self._stream.flush()
            self._is_shown = False


def duration_text(seconds: float) -> str:
    """Return a duration such as `8 s`, `2 min 5 s` or `3 h 20 min`."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes and hours < 24 else f"{hours} h"


@contextlib.contextmanager
def progress_line(
    what: str, engine: graft_vfs.Graft | None = None, *, stream: TextIO | None = None
) -> Iterator[ProgressLine | None]:
    """Yield the line for a verb of `engine`, None if standard error is no terminal."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield None
        return
    received = None if engine is None else functools.partial(_received, engine)
    line = ProgressLine(what, stream, received=received)
    try:
        yield line
    finally:
        line.clear()


def _received(engine: graft_vfs.Graft) -> int:
    return engine.store.counters.snapshot().bytes_received


@contextlib.contextmanager
def progress(
    what: str, engine: graft_vfs.Graft | None = None, *, stream: TextIO | None = None
) -> Iterator[Progress | None]:
    """Yield a `progress` argument for a verb; None if standard error is not a terminal.

    What the verb of `engine` receives from the remote meanwhile is shown beside what it counts.
    """
    with progress_line(what, engine, stream=stream) as line:
        yield None if line is None else line.show
