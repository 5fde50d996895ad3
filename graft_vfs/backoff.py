"""How long to wait before something that failed is tried again.

`remote.log` and `local.locks` wait by a rule of their own: a ref that is being made is there within
a moment or never, and a lock is polled at an interval that hardly grows.
"""

from __future__ import annotations

_DOUBLINGS_MAX = 64


def backoff(first: float, failures: int, longest: float, jitter: float = 1.0) -> float:
    """Return a pause in the unit of `first`, which doubles with each failure, up to `longest`.

    `jitter` is from 0 to 1 and scales half of the pause: with random numbers, clients that failed
    together do not come back together.
    """
    pause = min(longest, first * 2.0 ** min(failures, _DOUBLINGS_MAX))
    return pause * (0.5 + jitter / 2)
