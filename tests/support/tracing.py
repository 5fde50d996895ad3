"""Work that is done under a trace function, which may raise at a line or a call of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def outcome_under(trace: Callable[..., Any], work: Callable[[], object]) -> BaseException | None:
    """Do the work under a trace function; returns what it raised, or None."""
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - it is what is looked at
        return error
    finally:
        sys.settrace(before)
    return None
