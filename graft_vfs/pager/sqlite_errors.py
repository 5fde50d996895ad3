"""One table from declared errors to SQLite's result codes."""

from __future__ import annotations

import functools
import types
from typing import Any, cast

import apsw

from graft_vfs import errors
from graft_vfs.advice import Audience, words

CODES: dict[type[errors.GraftError], tuple[type[apsw.Error], int]] = {
    errors.StaleSnapshotError: (apsw.BusyError, apsw.SQLITE_BUSY_SNAPSHOT),
    # SQLite then calls no busy handler: waiting would block the only thread that can continue.
    errors.ReentryError: (apsw.LockedError, apsw.SQLITE_LOCKED),
    errors.BusyError: (apsw.BusyError, apsw.SQLITE_BUSY),
    errors.ReadOnlyError: (apsw.ReadOnlyError, apsw.SQLITE_READONLY),
    errors.DamageError: (apsw.CorruptError, apsw.SQLITE_CORRUPT),
    errors.DiskFullError: (apsw.FullError, apsw.SQLITE_FULL),
    # Like a full disk, any I/O error makes SQLite drop uncommitted pages.
    errors.AccessDeniedError: (apsw.IOError, apsw.SQLITE_IOERR_ACCESS),
    errors.MovedError: (apsw.IOError, apsw.SQLITE_IOERR_VNODE),
    errors.LocalStorageError: (apsw.IOError, apsw.SQLITE_IOERR),
    errors.StoreError: (apsw.IOError, apsw.SQLITE_IOERR_READ),
    errors.GraftError: (apsw.SQLError, apsw.SQLITE_ERROR),
}


def to_sqlite(error: errors.GraftError, *, at_open: bool = False) -> apsw.Error:
    """Return the APSW exception that makes SQLite report the right result code.

    If a file cannot be opened for a reason without a specific code, the code is SQLITE_CANTOPEN.
    Its text names commands, because there is no connection yet to run a pragma on.
    """
    for declared in type(error).__mro__:
        if declared in CODES:
            kind, code = CODES[declared]
            if at_open and code == apsw.SQLITE_ERROR:
                kind, code = apsw.CantOpenError, apsw.SQLITE_CANTOPEN
            translated: Any = kind(error.words(Audience.CLI if at_open else Audience.SQL))
            translated.result = code & 0xFF
            translated.extendedresult = code
            return cast("apsw.Error", translated)
    raise AssertionError("GraftError is in the table")


def to_python(error: apsw.Error) -> errors.GraftError:
    """Return what SQLite reported as an error that both `GraftError` and `apsw.Error` catch.

    Its class is the declared error that made SQLite fail, or, if there is none, the one whose
    result code SQLite gave. It can be pickled.
    """
    cause = error.__cause__
    declared = cause if isinstance(cause, errors.GraftError) else _declared_for(error)
    combined = _combined(type(declared), type(error), declared.args, declared.__dict__)
    codes: Any = error
    combined.__dict__.update(result=codes.result, extendedresult=codes.extendedresult)
    return combined.with_traceback(None)


def _declared_for(error: apsw.Error) -> errors.GraftError:
    """Return the declared error for a failure of SQLite's own, such as an unknown VFS."""
    if isinstance(error, (apsw.SQLError, apsw.CantOpenError, apsw.MisuseError)):
        return errors.UsageError(str(error))
    # The last row of a kind is the most general one.
    kinds: list[Any] = [declared for declared, (kind, _) in CODES.items() if type(error) is kind]
    return cast("errors.GraftError", (kinds or [errors.GraftError])[-1](str(error)))


def _combined(
    declared: type[errors.GraftError],
    kind: Any,
    arguments: tuple[Any, ...],
    state: dict[str, Any],
) -> errors.GraftError:
    made = _class_of_both(declared, kind)(*arguments)
    made.__dict__.update(state)
    return made


@functools.cache
def _class_of_both(declared: type[errors.GraftError], kind: Any) -> type[errors.GraftError]:
    def reduced(self: errors.GraftError) -> tuple[Any, ...]:
        return _combined, (declared, kind, self.args, self.__dict__)

    namespace = {"__module__": declared.__module__, "__reduce__": reduced}
    made: Any = types.new_class(
        declared.__name__, (declared, kind), {}, lambda body: body.update(namespace)
    )
    return cast("type[errors.GraftError]", made)


class Interrupted(apsw.IOError):
    """An exception that ended a callback: an I/O error to SQLite, and the original to Python.

    Its class also inherits from the class of `original`, so that code can catch Ctrl-C, an alarm's
    TimeoutError or a task queue's time limit by its own class.
    """

    original: BaseException


@functools.cache
def _interrupted_as(kind: Any) -> type[Interrupted]:
    try:
        return type(kind.__name__, (Interrupted, kind), {})
    except TypeError:  # The class has an incompatible layout, or is final.
        return Interrupted


def as_io_error(error: BaseException) -> apsw.IOError:
    """Return an error that makes SQLite drop its cached pages, for any failure to read a page.

    Other Python exceptions become SQLITE_ERROR. After that, a failed rollback leaves uncommitted
    pages in SQLite's cache, and SQLite continues to return and use them.
    """
    text = words(error, Audience.SQL) or type(error).__name__
    if isinstance(error, (errors.GraftError, apsw.Error)):
        return apsw.IOError(text)
    kind = _interrupted_as(cast("Any", type(error)))
    # Created without its constructor, which may need other arguments.
    interrupted: Interrupted = kind.__new__(kind, text)
    interrupted.args = (text,)
    interrupted.__dict__.update(error.__dict__)
    interrupted.original = error
    return interrupted
