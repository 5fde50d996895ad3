"""Ctrl-C that ends a statement, also one that computes for long and reads no page."""

from __future__ import annotations

import apsw

_STEPS_BETWEEN_CALLS = 50_000


def end_on_interrupt(connection: apsw.Connection) -> None:
    """Have Ctrl-C end each later statement of a connection with KeyboardInterrupt.

    Python sees a signal only when it is called, so SQLite calls it every 50 000 steps of its
    machine (some milliseconds).
    """
    connection.set_progress_handler(lambda: False, _STEPS_BETWEEN_CALLS, id=end_on_interrupt)
