"""The catalog's file: a small SQLite database on the built-in VFS, synchronous=FULL.

It uses WAL mode if the WAL index can be mapped safely, and a rollback journal otherwise.

`write` and `transaction` are atomic, and durable when they return. A read-only file is read with
SQLite's locks if another process has it open, and without locks otherwise. Every SQLite error
becomes a declared error.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import quote

import apsw

from graft_vfs.errors import (
    BusyError,
    CorruptCatalogError,
    FutureVersionError,
    LocalStorageError,
    MovedError,
    ReadOnlyError,
    ReentryError,
    UsageError,
)
from graft_vfs.local import ownership
from graft_vfs.local.catalog.rows import DAMAGE_STEP
from graft_vfs.local.files import storage_errors
from graft_vfs.local.fork import Step, at_fork
from graft_vfs.local.mapping import mapped_writes_are_safe

_logger = logging.getLogger(__name__)

APPLICATION_ID = 0x67726674
SCHEMA_VERSION = 4
_BUSY_TIMEOUT_MS = 10_000
_DAMAGE_ERRORS = (apsw.NotADBError, apsw.CorruptError, apsw.FormatError, apsw.SQLError)

SCHEMA = """
CREATE TABLE volumes(
    id BLOB PRIMARY KEY, created_ms INTEGER NOT NULL, remote BLOB NOT NULL,
    attached INTEGER NOT NULL, branch BLOB NOT NULL, epoch INTEGER NOT NULL,
    synced_local INTEGER, synced_remote INTEGER, synced_ms INTEGER, last_error TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE tags(tag TEXT PRIMARY KEY, volume BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX tags_by_volume ON tags(volume);
CREATE TABLE branches(
    id BLOB PRIMARY KEY, volume BLOB NOT NULL, log BLOB NOT NULL, base INTEGER NOT NULL,
    counter INTEGER NOT NULL, first_lsn INTEGER NOT NULL, file TEXT NOT NULL,
    offset INTEGER NOT NULL, checksum TEXT NOT NULL, created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX branches_by_volume ON branches(volume);
CREATE TABLE commits(
    log BLOB NOT NULL, lsn INTEGER NOT NULL, hash BLOB NOT NULL, header BLOB NOT NULL,
    PRIMARY KEY(log, lsn)
) STRICT;
CREATE TABLE pending_pushes(
    volume BLOB PRIMARY KEY, log BLOB NOT NULL, lsn INTEGER NOT NULL, hash BLOB NOT NULL,
    data BLOB NOT NULL, through_lsn INTEGER NOT NULL, counter INTEGER NOT NULL,
    offset INTEGER NOT NULL, checksum TEXT NOT NULL, is_taken_up INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE probed_stores(store TEXT PRIMARY KEY, time_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""
_VERSION_3 = """
CREATE TABLE remotes(name TEXT PRIMARY KEY, url TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE log_remotes(log BLOB PRIMARY KEY, remote TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS known_refs(
    store TEXT, name TEXT, log BLOB NOT NULL, PRIMARY KEY(store, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE known_names(
    log BLOB, name TEXT, object BLOB NOT NULL, PRIMARY KEY(log, name)
) STRICT, WITHOUT ROWID;
"""
"""Earlier versions may have made `known_refs` already."""
_VERSION_4 = """
CREATE TABLE log_absences(
    log BLOB, store TEXT, proved_ms INTEGER NOT NULL, PRIMARY KEY(log, store)
) STRICT, WITHOUT ROWID;
CREATE TABLE page_tables(
    id INTEGER PRIMARY KEY, log BLOB NOT NULL, lsn INTEGER NOT NULL, after INTEGER NOT NULL,
    suffix TEXT NOT NULL, hash BLOB NOT NULL, length INTEGER NOT NULL, is_remote INTEGER NOT NULL,
    UNIQUE(log, lsn, after)
) STRICT;
CREATE TABLE page_table_chunks(
    page_table INTEGER, number INTEGER, data BLOB NOT NULL, PRIMARY KEY(page_table, number)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER page_table_is_gone AFTER DELETE ON page_tables BEGIN
    DELETE FROM page_table_chunks WHERE page_table = old.id;
END;
CREATE TABLE parents(
    log BLOB PRIMARY KEY, parent BLOB, lsn INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
ALTER TABLE branches ADD COLUMN lineage INTEGER NOT NULL DEFAULT 0;
CREATE TABLE kept_branches(
    branch BLOB PRIMARY KEY, volume BLOB NOT NULL, last_lsn INTEGER NOT NULL,
    offset INTEGER NOT NULL, checksum TEXT NOT NULL, base_hash BLOB, reason TEXT NOT NULL,
    kept_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""
SCHEMA += _VERSION_3 + _VERSION_4

_STEPS = {
    1: "ALTER TABLE pending_pushes ADD COLUMN is_taken_up INTEGER NOT NULL DEFAULT 0",
    2: _VERSION_3,
    3: _VERSION_4,
}
"""What makes of a catalog of each earlier version one of the next."""


class _State(NamedTuple):
    """The facts of a file, and of the files beside it, that change with its content."""

    inode: int
    size_bytes: int
    modified_ns: int
    wal_bytes: int


class CatalogFile:
    """The file of one data directory's catalog.

    Owner: the catalog. Thread rule: any thread; one statement runs at a time. Processes share it.
    """

    def __init__(self, path: Path, *, writable: bool = True, maps: bool = True) -> None:
        """Open, creating it if absent; raises CorruptCatalogError, FutureVersionError.

        Without `maps`, SQLite maps no file beside it.
        """
        self.path = path
        self._maps = maps
        self._lock = threading.RLock()
        self._writable = writable
        self._is_closed = False
        self._known_tables: set[str] = set()
        self._open_connection: apsw.Connection | None = None
        self._at_rest: _State | None = None
        self._identity: tuple[int, int] | None = None
        _files.add(self)
        with self._errors():
            try:
                self._prepare(self.connection)
            except BaseException:
                self._disconnect()
                raise

    # Statements -------------------------------------------------------------------------------

    def rows(self, sql: str, *bindings: Any) -> list[tuple[Any, ...]]:
        """Return all rows of a query; inside a transaction, in its state."""
        with self._errors():
            return cast("list[tuple[Any, ...]]", self.connection.execute(sql, bindings).fetchall())

    def has_table(self, name: str) -> bool:
        """Return False for a table that a catalog of an earlier version, opened to read, lacks."""
        if name not in self._known_tables:
            # A table that is there stays: only upgrades change the schema.
            if not self.rows("SELECT 1 FROM sqlite_schema WHERE name = ?", name):
                return False
            self._known_tables.add(name)
        return True

    @contextlib.contextmanager
    def transaction(self) -> Iterator[apsw.Connection]:
        """Hold SQLite's write lock inside the block; its changes are then durable, or undone."""
        self.require_writable()
        with self._errors():
            connection = self.connection
            if connection.in_transaction:
                # This thread holds the lock, so only this thread can be inside a transaction.
                raise ReentryError(
                    "a signal handler or finalizer writes to the catalog while its thread "
                    "is already writing to it",
                    next_step="run it again outside the handler",
                )
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # On a full disk, SQLite has already rolled back.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def write(self, sql: str, *bindings: Any) -> None:
        """Run one statement as a transaction; durable on return."""
        with self.transaction() as connection:
            connection.execute(sql, bindings)

    def spare_bytes(self) -> int:
        """Return the size of unused pages, 0 if they are less than a quarter of the file."""
        (((free,), (pages,), (size,))) = (
            self.rows(f"PRAGMA {name}")[0] for name in ("freelist_count", "page_count", "page_size")
        )
        return int(free * size) if 4 * free >= pages else 0

    def shrink(self) -> None:
        """Rewrite the file without its unused pages, and empty its WAL. Atomic; writers wait."""
        self.require_writable()
        with self._errors():
            self.connection.execute("VACUUM")
            if self.connection.pragma("journal_mode") == "wal":
                self.connection.pragma("wal_checkpoint", "truncate")

    @property
    def writable(self) -> bool:
        """Whether the catalog, and so the data directory, is writable."""
        return self._writable

    def require_writable(self) -> None:
        """Raise ReadOnlyError if the data directory is not writable."""
        if not self._writable:
            raise ReadOnlyError(
                f"the data directory {self.path.parent} is read-only",
                next_step="make it writable, or set data_dir to a writable copy of it",
            )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with self._lock:
                self._forget_changed()
                self._forget_moved()
                yield
                if self._forget_changed():
                    raise BusyError(
                        f"another process is writing to the catalog {self.path}",
                        next_step="try again",
                    )
        except (
            *_DAMAGE_ERRORS,
            UnicodeDecodeError,
        ) as error:  # The last one is an error in a text's encoding.
            raise CorruptCatalogError(
                f"the catalog {self.path} is damaged: {error}",
                next_step=DAMAGE_STEP,
            ) from error
        except apsw.BusyError as error:
            raise BusyError(
                f"another process holds the catalog {self.path}", next_step="try again"
            ) from error
        except apsw.Error as error:
            raise LocalStorageError(
                f"the catalog {self.path}: {error}",
                next_step="check that the data directory exists, is writable and has free space",
            ) from error

    # Opening ----------------------------------------------------------------------------------

    @property
    def connection(self) -> apsw.Connection:
        """The connection, reopened after a fork; the caller holds the lock."""
        if self._open_connection is None:
            if self._is_closed:
                raise UsageError("the catalog was closed", next_step="open the engine again")
            self._open_connection = self._connect()
        return self._open_connection

    def _connect(self) -> apsw.Connection:
        if not self._writable:
            return self._connect_read_only()
        with storage_errors(self.path):
            # SQLite gives the WAL this file's owner.
            os.close(ownership.create(self.path, os.O_RDWR))
        connection = self._opened(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        connection.pragma("synchronous", "full")
        self._identity = self._identity_at_path()
        return connection

    def _identity_at_path(self) -> tuple[int, int] | None:
        """Return device and inode of the file at the path; None if there is none."""
        with storage_errors(self.path):
            try:
                found = self.path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return found.st_dev, found.st_ino

    def _forget_moved(self) -> None:
        """Close a file that was moved or replaced, so that the file at the path is opened."""
        connection = self._open_connection
        if connection is None or self._identity is None or connection.in_transaction:
            return
        found = self._identity_at_path()
        if found == self._identity:
            return
        self._disconnect()
        if found is None:
            raise MovedError(
                f"the catalog {self.path} was moved or removed while it was open",
                next_step="restore the data directory, or set data_dir to its new path",
            )

    def _opened(self, flags: int, parameters: str = "") -> apsw.Connection:
        # The built-in VFS by name, because ours may be the default.
        name = f"file:{quote(str(self.path))}{parameters}"
        connection = apsw.Connection(name, flags=flags | apsw.SQLITE_OPEN_URI, vfs=_builtin_vfs())
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        return connection

    def _connect_read_only(self) -> apsw.Connection:
        """Open a read-only file, even if no process has it open.

        In WAL mode SQLite needs the files beside it, which it cannot create in a read-only
        directory. Without a WAL, everything is in the file itself, which is then read without
        locks until it changes.
        """
        self._at_rest = None
        connection = self._opened(apsw.SQLITE_OPEN_READONLY)
        try:
            connection.pragma("user_version")
        except apsw.CantOpenError:
            connection.close()
            self._at_rest = self._state()
            if self._at_rest.wal_bytes:
                raise
            return self._opened(apsw.SQLITE_OPEN_READONLY, "?immutable=1")
        return connection

    def _state(self) -> _State:
        """Return the facts by which a change of a file that is read without locks is detected."""
        wal = self.path.with_name(self.path.name + "-wal")
        with storage_errors(self.path):
            file = self.path.stat()
            wal_bytes = wal.stat().st_size if wal.exists() else 0
        return _State(file.st_ino, file.st_size, file.st_mtime_ns, wal_bytes)

    def _forget_changed(self) -> bool:
        """Close a file that was read without locks if it has changed."""
        has_changed = self._at_rest is not None and self._at_rest != self._state()
        if has_changed:
            self._disconnect()
        return has_changed

    def _disconnect(self) -> None:
        connection, self._open_connection = self._open_connection, None
        if connection is not None:
            # Before SQLite deletes a WAL by name, it checks whether the file was moved.
            connection.close()

    def _prepare(self, connection: apsw.Connection) -> None:
        if self._writable:
            self._choose_journal(connection)
        version = connection.pragma("user_version")
        _require_known(version)
        if version == 0 and self._writable:
            self._create(connection)
        if connection.pragma("application_id") != APPLICATION_ID:
            raise CorruptCatalogError(
                f"{self.path} is a SQLite database, but not a catalog of graft-vfs",
                next_step="set data_dir to another directory",
            )
        if version < SCHEMA_VERSION and self._writable:
            self._migrate(connection)

    def _choose_journal(self, connection: apsw.Connection) -> None:
        """Use a WAL if its index can be mapped, else a rollback journal.

        SQLite stores to the mapped index at each write and checkpoint; on a full copy-on-write file
        system, this would kill the process; see `mapping`.
        """
        with storage_errors(self.path):
            is_safe = self._maps and mapped_writes_are_safe(self.path)
        wanted = "wal" if is_safe else "truncate"
        if connection.pragma("journal_mode") == wanted:
            return
        try:
            connection.set_busy_timeout(0)
            connection.pragma("journal_mode", wanted)
        except apsw.BusyError:
            # Other processes have it open in the other mode.
            _logger.debug("%s keeps its journal mode", self.path)
        finally:
            connection.set_busy_timeout(_BUSY_TIMEOUT_MS)

    def _create(self, connection: apsw.Connection) -> None:
        with self.transaction():
            # Another process may have been first.
            if connection.pragma("user_version") == 0:
                connection.execute(SCHEMA)
                connection.pragma("application_id", APPLICATION_ID)
                connection.pragma("user_version", SCHEMA_VERSION)

    def _migrate(self, connection: apsw.Connection) -> None:
        with self.transaction():
            # Another process may have been first, and of a later version.
            found = connection.pragma("user_version")
            _require_known(found)
            for version in range(found, SCHEMA_VERSION):
                connection.execute(_STEPS[version])
            connection.pragma("user_version", SCHEMA_VERSION)

    def close(self) -> None:
        """Close the database for good."""
        with self._lock:
            self._is_closed = True
            self._disconnect()

    def before_fork(self) -> None:
        """Close the file and hold the lock until `after_fork`.

        SQLite tracks a process's open files by inode, and locks each once per process. A child
        would inherit this state without the locks: the parent's last close would delete the WAL
        while the child uses it, and the child's writes would be lost.
        """
        self._lock.acquire()
        _held.files.append(self)
        self._disconnect()

    def after_fork(self) -> None:
        """Release the lock in parent and child; each reopens the file when needed."""
        self._lock.release()


def _require_known(version: int) -> None:
    if version > SCHEMA_VERSION:
        raise FutureVersionError(
            f"the catalog has version {version}; this program reads {SCHEMA_VERSION}",
            next_step="upgrade graft-vfs",
        )


# Forking --------------------------------------------------------------------------------------


class _Held(threading.local):
    """The files whose lock a thread holds while it forks."""

    def __init__(self) -> None:
        self.files: list[CatalogFile] = []


_files: weakref.WeakSet[CatalogFile] = weakref.WeakSet()
_held = _Held()


def _before_fork() -> None:
    for file in list(_files):
        file.before_fork()


def _after_fork() -> None:
    while _held.files:
        _held.files.pop().after_fork()


at_fork(Step.CATALOG, before=_before_fork, in_parent=_after_fork, in_child=_after_fork)


def _builtin_vfs() -> str:
    """Return the name of SQLite's default VFS on this platform."""
    return "unix"
