"""When the next table of a log is due, and which tables it takes in.

Any policy is right for readers; this one keeps both costs low, see decision 20. A table ends at a
multiple of 24, so that all machines make the same ones. It takes in the table before it while that
is at most three times as long as what it has already, so a log has few tables, each more than three
times as long as the next.
"""

from __future__ import annotations

from collections.abc import Sequence

from graft_vfs.pages import RemoteLsn

STEP = 24
"""Commits from one table to the next: 1/24 of a request a push; a clone reads up to 23 headers."""
RATIO = 3


def due(newest: RemoteLsn) -> RemoteLsn:
    """Return the LSN that the newest table should end with; NO_LSN for none."""
    return RemoteLsn(newest - newest % STEP)


def taken_in(lengths: Sequence[int], length: int) -> int:
    """Return how many of the newest tables the next one takes in.

    `lengths` are those of the tables in bytes, oldest first, `length` that of a table of only the
    commits after them.
    """
    taken = 0
    for each in reversed(lengths):
        if each > RATIO * length:
            break
        length += each
        taken += 1
    return taken
