"""Pauses before retries.

`remote.log` and `local.locks` have their own rules: a ref that another client is creating appears
within a moment or never, and a lock is polled at an almost constant interval.
"""

from __future__ import annotations

_DOUBLINGS_MAX = 64


def backoff(first: float, failures: int, longest: float, jitter: float = 1.0) -> float:
    """Return a pause in the unit of `first`; it doubles with each failure, up to `longest`.

    `jitter`, from 0 to 1, scales half of the pause: with random numbers, clients that failed
    together do not retry together.
    """
    pause = min(longest, first * 2.0 ** min(failures, _DOUBLINGS_MAX))
    return pause * (0.5 + jitter / 2)
