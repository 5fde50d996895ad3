"""The one table from errors to the exit codes of the command line.

0    done
1    any other failure; a problem found by `graft doctor`
2    the call is wrong
3    the configuration is wrong
4    busy, try again
5    another client was first, the volume has diverged, or later commits prevent a revert
6    a push whose outcome is unknown; push again
7    the remote store failed
8    damaged bytes
9    the local disk failed or refused
130  interrupted by Ctrl-C, or `graft sync` by a second signal
141  the pipe of standard output was closed, as in `graft log main | head -1`
"""

from __future__ import annotations

from graft_vfs.errors import (
    BusyError,
    CommitOutcomeUnknownError,
    ConfigError,
    ConflictError,
    DamageError,
    ForkedProcessError,
    GraftError,
    LocalStorageError,
    StoreError,
    UsageError,
)

OTHER = 1
USAGE = 2
INTERRUPTED = 130
READER_GONE = 141

EXIT_CODES: dict[type[GraftError], int] = {
    UsageError: USAGE,
    ConfigError: 3,
    BusyError: 4,
    ConflictError: 5,
    CommitOutcomeUnknownError: 6,
    StoreError: 7,
    DamageError: 8,
    LocalStorageError: 9,
    ForkedProcessError: OTHER,
}


def exit_code(error: GraftError) -> int:
    """Return the code of the nearest class in the table, `OTHER` if none is there."""
    for kind in type(error).__mro__:
        if kind in EXIT_CODES:
            return EXIT_CODES[kind]
    return OTHER
