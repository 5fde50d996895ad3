"""The child process that reads a plain SQLite file, through SQLite alone.

It is a separate process, because closing any descriptor of a file releases all POSIX locks that the
process holds on it. Otherwise a program that imports a file that it has open, through any SQLite
library, would lose its locks, and the last close of one library could delete the WAL of another.

It imports only the standard library and apsw, so that it starts quickly. Arguments: the file,
a name for a temporary copy, the busy timeout in milliseconds. Standard output: one line of JSON
with `page_size` and `pages`, then the images of pages 1…pages. A failure is one line of JSON on
standard error with `kind` and `text`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import apsw

_BATCH_BYTES = 1 << 18


class ReadError(Exception):
    """The reason why the file cannot be read; `kind` selects the error that the parent raises."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def run(path: str, scratch: str, busy_ms: int) -> None:
    """Write the header and all pages of the database to standard output."""
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE, vfs="unix")
    try:
        connection.set_busy_timeout(busy_ms)
        _send(connection, path, scratch)
        # Writers wait until the parent has committed and closes its end of the pipe, or has exited.
        sys.stdin.buffer.read()
    finally:
        connection.close()


def _send(connection: apsw.Connection, path: str, scratch: str) -> None:
    if _wal_bytes(connection):
        # The last connection to a file checkpoints its WAL, which an import must not do.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    # The first read also rolls back a hot journal, and parses the schema.
    connection.execute("BEGIN; SELECT count(*) FROM sqlite_schema").fetchall()
    page_size, pages = connection.pragma("page_size"), connection.pragma("page_count")
    if not pages:
        raise ReadError("usage", "it is empty, and not a SQLite database")
    has_wal = _wal_bytes(connection) > 0
    _check_last_page(Path(path).stat().st_size, page_size, pages, has_wal=has_wal)
    source = _copied(connection, scratch) if has_wal else connection
    output = sys.stdout.buffer
    output.write(json.dumps({"page_size": page_size, "pages": pages}).encode() + b"\n")
    step = _BATCH_BYTES // page_size
    for first in range(0, pages, step):
        offset, amount = first * page_size, min(step, pages - first) * page_size
        is_whole, data = source.read("main", 0, offset, amount)
        if not is_whole:
            raise ReadError("damage", f"the file ends before page {pages}")
        output.write(data)
    output.flush()


def _wal_bytes(connection: apsw.Connection) -> int:
    """Return the size of the database's WAL, which is beside the target of a symbolic link."""
    try:
        return Path(connection.filename_wal).stat().st_size
    except FileNotFoundError:
        return 0


def _check_last_page(size: int, page_size: int, pages: int, *, has_wal: bool) -> None:
    """Refuse a file that ends inside a page: SQLite would fill the rest with zeros."""
    whole, rest = divmod(size, page_size)
    if rest and whole < pages:
        kind = "short beside a WAL" if has_wal else "damage"
        raise ReadError(kind, f"the file ends inside page {whole + 1} of {pages}")


def _copied(connection: apsw.Connection, scratch: str) -> apsw.Connection:
    """Return a private, unnamed copy of a database whose newest pages are in its WAL."""
    target = apsw.Connection(scratch, vfs="unix")
    target.execute("PRAGMA journal_mode=off").fetchall()
    target.execute("PRAGMA synchronous=off")
    with target.backup("main", connection, "main") as backup:
        backup.step(-1)
    Path(scratch).unlink()
    return target


def main() -> None:
    """Run, and report a failure on standard error; never returns."""
    # Ctrl-C is for the parent, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    path, scratch, busy_ms = sys.argv[1:4]
    failure = None
    try:
        run(path, scratch, int(busy_ms))
    except ReadError as error:
        failure = error.kind, str(error)
    except apsw.NotADBError as error:
        failure = "not a database", str(error)
    except apsw.CorruptError as error:
        failure = "damage", str(error)
    except apsw.BusyError as error:
        failure = "busy", str(error)
    except BrokenPipeError:
        failure = "storage", "no process reads"
    except (apsw.Error, OSError) as error:
        failure = "storage", str(error)
    if failure is not None:
        sys.stderr.write(json.dumps({"kind": failure[0], "text": failure[1]}) + "\n")
        sys.stderr.flush()
    # Not a normal exit, which would flush a pipe that no process reads.
    os._exit(0 if failure is None else 1)


if __name__ == "__main__":
    main()
