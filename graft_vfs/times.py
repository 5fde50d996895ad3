"""Times as users write them."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import time
from collections.abc import Callable

from graft_vfs.errors import UsageError

CLOCK_TOLERANCE_SECONDS = 60.0
"""A machine's clock may date a commit if it differs from the store's clock by no more."""
_FRACTION = re.compile(r"[.,](\d+)")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])", re.ASCII)
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}


def parse_time(text: str, now: Callable[[], float] = time.time) -> int:
    """Return milliseconds since 1970 of an ISO time (UTC if it names no zone) or `2 hours ago`.

    An ISO time means the whole second that it names, or the whole tenth, hundredth or thousandth if
    it has a fraction; its last millisecond is returned. So a commit's time printed with reduced
    precision still includes that commit. Raises UsageError. `now` returns seconds since 1970.
    """
    words = text.split()
    if len(words) == 3 and words[2] == "ago" and words[1].rstrip("s") in _UNITS:
        with contextlib.suppress(ValueError, OverflowError):
            return int((now() - float(words[0]) * _UNITS[words[1].rstrip("s")]) * 1000)
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{text!r} is not a time", next_step='write 2026-01-31T12:00:00Z or "2 hours ago"'
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    fraction = _FRACTION.search(text)
    digits = min(3, len(fraction[1])) if fraction else 0
    start: int = (moment - _EPOCH) // dt.timedelta(milliseconds=1)
    return start + (0, 9, 99, 999)[3 - digits]


def parse_duration(text: str) -> int:
    """Return the seconds of a text such as `90s`, `30m`, `12h`, `7d` or `4w`; raises UsageError."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is not a duration", next_step="write 30m, 12h, 7d or 4w")
    return int(found[1]) * _SECONDS[found[2]]


def duration_text(seconds: int) -> str:
    """Return a duration as `parse_duration` reads it."""
    unit = next(unit for unit, each in reversed(_SECONDS.items()) if not seconds % each)
    return f"{seconds // _SECONDS[unit]}{unit}"


def parse_http_date(text: str) -> dt.datetime:
    """Return the time in an HTTP header; raises ValueError or TypeError."""
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - for start-up: few need it

    return parsedate_to_datetime(text)


def uptime_seconds() -> float:
    """Return monotonic seconds that include the time when the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def corrected_ms(now_ms: int, ahead_seconds: float | None) -> int:
    """Return the time for dating a commit: `now_ms`, or the store's if the two disagree.

    `ahead_seconds` is how far this machine's clock is ahead of the store's, None if that is not
    known.
    """
    if ahead_seconds is None or abs(ahead_seconds) <= CLOCK_TOLERANCE_SECONDS:
        return now_ms
    return max(0, now_ms - round(ahead_seconds * 1000))
