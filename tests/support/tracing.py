"""Work that is done under a trace function, which may raise at a line or a call of it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any


def outcome_under(trace: Callable[..., Any], work: Callable[[], object]) -> BaseException | None:
    """Do the work under a trace function; returns what it raised, or None.

    The garbage collector rests meanwhile. It would run finalizers of other tests' objects inside
    the work, where Python ignores an exception, so which lines raise would depend on chance.
    """
    before, collects = sys.gettrace(), gc.isenabled()
    gc.disable()
    sys.settrace(trace)
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - it is what is looked at
        return error
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()
    return None
