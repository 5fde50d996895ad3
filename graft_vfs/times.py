"""Times as people write them."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Callable

from graft_vfs.errors import UsageError

_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}


def parse_time(text: str, now: Callable[[], float] = time.time) -> int:
    """Return milliseconds since 1970 of an ISO time (UTC if it names no zone) or `2 hours ago`.

    Raises UsageError. `now` gives seconds since 1970.
    """
    words = text.split()
    if len(words) == 3 and words[2] == "ago" and words[1].rstrip("s") in _UNITS:
        with contextlib.suppress(ValueError, OverflowError):
            return int((now() - float(words[0]) * _UNITS[words[1].rstrip("s")]) * 1000)
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{text!r} is no time", next_step='write 2026-01-31T12:00:00Z or "2 hours ago"'
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return int(moment.timestamp() * 1000)
