"""One table from declared errors to SQLite's result codes."""

from __future__ import annotations

from typing import Any, cast

import apsw

from graft_vfs import errors

CODES: dict[type[errors.GraftError], tuple[type[apsw.Error], int]] = {
    errors.StaleSnapshotError: (apsw.BusyError, apsw.SQLITE_BUSY_SNAPSHOT),
    # SQLite calls no busy handler then: waiting in the only thread that could go on helps nobody.
    errors.ReentryError: (apsw.LockedError, apsw.SQLITE_LOCKED),
    errors.BusyError: (apsw.BusyError, apsw.SQLITE_BUSY),
    errors.ReadOnlyError: (apsw.ReadOnlyError, apsw.SQLITE_READONLY),
    errors.DamageError: (apsw.CorruptError, apsw.SQLITE_CORRUPT),
    errors.LocalStorageError: (apsw.FullError, apsw.SQLITE_FULL),
    errors.StoreError: (apsw.IOError, apsw.SQLITE_IOERR_READ),
    errors.GraftError: (apsw.SQLError, apsw.SQLITE_ERROR),
}


def to_sqlite(error: errors.GraftError, *, at_open: bool = False) -> apsw.Error:
    """Return the APSW exception that makes SQLite report the right result code.

    A file that cannot be opened for a reason without a code of its own gives SQLITE_CANTOPEN.
    """
    for declared in type(error).__mro__:
        if declared in CODES:
            kind, code = CODES[declared]
            if at_open and code == apsw.SQLITE_ERROR:
                kind, code = apsw.CantOpenError, apsw.SQLITE_CANTOPEN
            translated: Any = kind(str(error))
            translated.result = code & 0xFF
            translated.extendedresult = code
            return cast("apsw.Error", translated)
    raise AssertionError("GraftError is in the table")


class Interrupted(apsw.IOError, KeyboardInterrupt):
    """Ctrl-C, which SQLite hears of as an I/O error and Python as what it is."""


def as_io_error(error: BaseException) -> apsw.IOError:
    """Return what makes SQLite forget its cached pages, whatever kept a page from it.

    Behind SQLITE_ERROR, which any other exception of Python becomes, a rollback that failed leaves
    pages in the cache that were never committed; SQLite goes on to show them and to build on them.
    """
    kind = Interrupted if isinstance(error, KeyboardInterrupt) else apsw.IOError
    return kind(str(error) or type(error).__name__)
