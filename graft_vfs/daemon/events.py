"""The daemon's events as log lines: logfmt, or one JSON object per line.

Each line has `time` (ISO 8601, UTC), `level` (`info`, `warning`, `error`) and `event`, then the
fields of the event, which `docs/guides/daemon.md` lists. Fields without a value are omitted.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from typing import Literal

from graft_vfs.advice import Audience
from graft_vfs.engine.autosync import Clock
from graft_vfs.errors import GraftError
from graft_vfs.ids import Id
from graft_vfs.reports import commit_time_text

Level = Literal["info", "warning", "error"]
Value = str | int | float | Id | None

_PLAIN = re.compile(r"[!#-<>-~]+", re.ASCII)
"""Values that need no quotes in logfmt: visible characters except `"` and `=`."""


class EventLog:
    """Formats events and passes each to `write` as one line. Any thread; one line at a time."""

    def __init__(self, write: Callable[[str], None], *, as_json: bool, clock: Clock) -> None:
        self._write = write
        self._as_json = as_json
        self._clock = clock
        self._lock = threading.Lock()

    def note(self, event: str, level: Level = "info", **fields: Value) -> None:
        """Write one event."""
        found: dict[str, Value] = {
            "time": commit_time_text(self._clock.time_ms()),
            "level": level,
            "event": event,
            **fields,
        }
        shown = {
            name: str(value) if isinstance(value, Id) else value
            for name, value in found.items()
            if value is not None
        }
        line = json.dumps(shown) if self._as_json else logfmt(shown)
        with self._lock:
            self._write(line)


def logfmt(fields: Mapping[str, str | int | float]) -> str:
    """Return `name=value` for each field, with JSON quotes if needed."""
    return " ".join(f"{name}={_quoted(str(value))}" for name, value in fields.items())


def _quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def reasons(error: Exception) -> dict[str, Value]:
    """Return the fields of an error in an event."""
    if not isinstance(error, GraftError):
        return {"error": f"{type(error).__name__}: {error}"}
    return {"error": error.message, "hint": error.next_step_for(Audience.CLI)}
