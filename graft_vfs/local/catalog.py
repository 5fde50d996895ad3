"""The catalog: what this machine knows of volumes, tags, branches, remote commits and pushes.

A small SQLite database on the built-in VFS, in WAL mode with synchronous=FULL: what a method says
it wrote is durable when it returns, whole or not at all. Only sync verbs write here; transactions
of applications never do.

Invariants:
 1. A branch row's base never changes.
 2. A volume's current branch and epoch change together, in one transaction.
 3. A pending push is written before its claim is sent and deleted with the settling of that LSN. It
    is deleted earlier only if its LSN is known to be somebody else's, or if its maker did not send
    it and nobody has taken it up.
 4. A row that is handed out has values that its readers can use: whatever the file holds, an id is
    one, a number is in its range, and the name of a log file is no path. All else is damage.
"""

from __future__ import annotations

import contextlib
import os
import re
import reprlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import quote

import apsw

from graft_vfs.errors import (
    AlreadyExistsError,
    BusyError,
    CorruptCatalogError,
    FutureVersionError,
    GraftError,
    InvalidIdError,
    LocalStorageError,
    NotFoundError,
    ReadOnlyError,
    UsageError,
)
from graft_vfs.ids import Id, LogId, VolumeId
from graft_vfs.local.branch_log import LOG_HEADER_BYTES, Position
from graft_vfs.local.files import storage_errors

_APPLICATION_ID = 0x67726674
_SCHEMA_VERSION = 2
_BUSY_TIMEOUT_MS = 10_000
_DAMAGE_ERRORS = (apsw.NotADBError, apsw.CorruptError, apsw.FormatError, apsw.SQLError)
_HASH_BYTES = 32
_INTEGER_MAX = (1 << 63) - 1
"""SQLite knows no larger integers, so no larger LSN is ever known here."""
_U32_MAX = 0xFFFF_FFFF
_U64_MAX = 0xFFFF_FFFF_FFFF_FFFF
_TIME_MS_MAX = 253_402_300_799_999  # The end of the year 9999.
_LOG_FILE = re.compile(r"[0-9]{4,9}\.log", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,20}", re.ASCII)
_DAMAGE_STEP = (
    "move it away, then clone each volume again by its ref; commits that were not pushed stay in "
    "the branch logs under volumes/"
)

_SCHEMA = """
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


_FROM_VERSION_1 = """
ALTER TABLE pending_pushes ADD COLUMN is_taken_up INTEGER NOT NULL DEFAULT 0
"""


@dataclass(frozen=True, slots=True)
class BranchRow:
    """A local branch: everything in `file` from `start` on, over `log` 1..base."""

    id: LogId
    volume: VolumeId
    log: LogId
    base: int
    counter: int
    first_lsn: int
    file: str
    start: Position
    created_ms: int


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """A volume, its current branch, and how its last sync ended."""

    id: VolumeId
    created_ms: int
    remote: LogId
    attached: bool
    branch: LogId
    epoch: int
    synced_local: int | None
    synced_remote: int | None
    synced_ms: int | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class CommitRow:
    """A known commit of a remote log, as the encoded header that proves itself."""

    lsn: int
    hash: bytes
    header: bytes


@dataclass(frozen=True, slots=True)
class PendingPush:
    """A push whose claim was or may have been sent: exact bytes, and what it covers locally."""

    volume: VolumeId
    log: LogId
    lsn: int
    hash: bytes
    data: bytes
    through_lsn: int
    counter: int
    through: Position


class _State(NamedTuple):
    """What changes of a file, or beside it, when its content does."""

    inode: int
    size_bytes: int
    modified_ns: int
    wal_bytes: int


class Catalog:
    """The catalog of one data directory.

    Owner: the engine. Thread rule: any thread; one statement runs at a time. Processes share it.
    """

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        """Open, making it if absent; raises CorruptCatalogError, FutureVersionError."""
        self.path = path
        self._lock = threading.RLock()
        self._writable = writable
        self._is_closed = False
        self._open_connection: apsw.Connection | None = None
        self._at_rest: _State | None = None
        _catalogs.add(self)
        with self._errors():
            try:
                self._prepare(self._connection)
            except BaseException:
                self._disconnect()
                raise

    @property
    def _connection(self) -> apsw.Connection:
        """The connection, opened anew after a fork; the caller holds the lock."""
        if self._open_connection is None:
            if self._is_closed:
                raise UsageError("the catalog was closed", next_step="open the engine again")
            self._open_connection = self._connect()
        return self._open_connection

    def _connect(self) -> apsw.Connection:
        if not self._writable:
            return self._connect_read_only()
        connection = self._opened(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        connection.pragma("synchronous", "full")
        return connection

    def _opened(self, flags: int, parameters: str = "") -> apsw.Connection:
        # Naming the built-in VFS keeps the catalog out of ours when that is the default.
        name = f"file:{quote(str(self.path))}{parameters}"
        connection = apsw.Connection(name, flags=flags | apsw.SQLITE_OPEN_URI, vfs=_builtin_vfs())
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        return connection

    def _connect_read_only(self) -> apsw.Connection:
        """Open a file that cannot be written, also if nobody has it open.

        SQLite reads a database in WAL mode only with the files beside it, which it cannot make
        here. Without a WAL all is in the file itself, which is read then as long as it stays so.
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
        """Return by what a change of a file that is read without locks is noticed."""
        wal = self.path.with_name(self.path.name + "-wal")
        with storage_errors(self.path):
            file = self.path.stat()
            wal_bytes = wal.stat().st_size if wal.exists() else 0
        return _State(file.st_ino, file.st_size, file.st_mtime_ns, wal_bytes)

    def _forget_changed(self) -> bool:
        """Close a file that was read without locks if somebody has written to it."""
        has_changed = self._at_rest is not None and self._at_rest != self._state()
        if has_changed:
            self._disconnect()
        return has_changed

    def _disconnect(self) -> None:
        connection, self._open_connection = self._open_connection, None
        if connection is not None:
            connection.close()

    def before_fork(self) -> None:
        """Close the file and hold the lock, until `after_fork`.

        SQLite knows the files that a process has open by their inode and locks each once a process.
        A child would inherit that knowledge without the locks: its parent's last close would remove
        the WAL under it, and what it wrote there would be lost.
        """
        self._lock.acquire()
        _held.catalogs.append(self)
        self._disconnect()

    def after_fork(self) -> None:
        """Let parent and child go on, each of which opens the file when it needs it."""
        self._lock.release()

    def _prepare(self, connection: apsw.Connection) -> None:
        if self._writable:
            connection.pragma("journal_mode", "wal")
        version = connection.pragma("user_version")
        if version > _SCHEMA_VERSION:
            raise FutureVersionError(
                f"the catalog has version {version}, this program reads {_SCHEMA_VERSION}",
                next_step="upgrade graft-vfs",
            )
        if version == 0 and self._writable:
            self._create(connection)
        if connection.pragma("application_id") != _APPLICATION_ID:
            raise CorruptCatalogError(
                f"{self.path} is a SQLite database, but not a catalog of graft-vfs",
                next_step="set data_dir to another directory",
            )
        if version == 1 and self._writable:
            self._migrate(connection)

    def _create(self, connection: apsw.Connection) -> None:
        with self._transaction():
            # Another process may have been first.
            if connection.pragma("user_version") == 0:
                connection.execute(_SCHEMA)
                connection.pragma("application_id", _APPLICATION_ID)
                connection.pragma("user_version", _SCHEMA_VERSION)

    def _migrate(self, connection: apsw.Connection) -> None:
        with self._transaction():
            if connection.pragma("user_version") == 1:
                connection.execute(_FROM_VERSION_1)
                connection.pragma("user_version", _SCHEMA_VERSION)

    def require_writable(self) -> None:
        """Raise ReadOnlyError if the data directory cannot be written."""
        if not self._writable:
            raise ReadOnlyError(
                f"the data directory {self.path.parent} is read-only",
                next_step="do this where it can be written, or set data_dir to a copy of it",
            )

    # Plumbing ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with self._lock:
                self._forget_changed()
                yield
                if self._forget_changed():
                    raise BusyError(
                        f"another process is writing to the catalog {self.path}",
                        next_step="try again",
                    )
        except (*_DAMAGE_ERRORS, UnicodeDecodeError) as error:  # The last is of a text's bytes.
            raise CorruptCatalogError(
                f"the catalog {self.path} is damaged: {error}",
                next_step=_DAMAGE_STEP,
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

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self.require_writable()
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            # On a full disk SQLite has rolled back already.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _rows(self, sql: str, *bindings: Any) -> list[tuple[Any, ...]]:
        with self._errors():
            return cast("list[tuple[Any, ...]]", self._connection.execute(sql, bindings).fetchall())

    def _write(self, *statements: tuple[str, Sequence[Any]]) -> None:
        """Run statements in one transaction; durable on return."""
        with self._errors(), self._transaction():
            for sql, bindings in statements:
                self._connection.execute(sql, bindings)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._is_closed = True
            self._disconnect()

    # Tags -------------------------------------------------------------------------------------

    def tags(self) -> list[tuple[str, VolumeId]]:
        """Return all tags in order of their text."""
        return [
            (_text(tag), _id(VolumeId, volume))
            for tag, volume in self._rows("SELECT tag, volume FROM tags ORDER BY tag")
        ]

    def volume_tags(self, volume: VolumeId) -> list[str]:
        """Return the tags that name a volume, in order of their text."""
        rows = self._rows("SELECT tag FROM tags WHERE volume = ? ORDER BY tag", volume.raw)
        return [_text(tag) for (tag,) in rows]

    def tag_volume(self, tag: str) -> VolumeId | None:
        """Return the volume that a tag names now."""
        rows = self._rows("SELECT volume FROM tags WHERE tag = ?", tag)
        return _id(VolumeId, rows[0][0]) if rows else None

    def set_tag(self, tag: str, volume: VolumeId) -> None:
        """Point a tag at a volume, whatever it named before."""
        self._write(("INSERT OR REPLACE INTO tags VALUES(?, ?)", (tag, volume.raw)))

    def delete_tag(self, tag: str) -> None:
        """Remove a tag; its volume stays. Raises NotFoundError."""
        if self.tag_volume(tag) is None:
            raise NotFoundError(f"there is no tag {tag!r}", next_step="see `graft tags`")
        self._write(("DELETE FROM tags WHERE tag = ?", (tag,)))

    # Volumes and branches ---------------------------------------------------------------------

    def volumes(self) -> list[VolumeRow]:
        """Return all volumes, oldest first."""
        return [_volume_row(row) for row in self._rows("SELECT * FROM volumes ORDER BY id")]

    def volume(self, volume: VolumeId) -> VolumeRow:
        """Return one volume; raises NotFoundError."""
        rows = self._rows("SELECT * FROM volumes WHERE id = ?", volume.raw)
        if not rows:
            raise NotFoundError(f"there is no volume {volume}", next_step="see `graft volumes`")
        return _volume_row(rows[0])

    def volume_with_branch(self, branch: LogId) -> VolumeId | None:
        """Return the volume that has a branch of this id."""
        rows = self._rows("SELECT volume FROM branches WHERE id = ?", branch.raw)
        return _id(VolumeId, rows[0][0]) if rows else None

    def add_volume(
        self, row: VolumeRow, branch: BranchRow, *, tag: str | None, replace_tag: bool = False
    ) -> VolumeId:
        """Add a volume, its first branch and its tag at once; returns the tag's volume.

        If the tag exists and `replace_tag` is false, nothing is written and the volume that it
        names is returned: of two threads that open a new tag, both get the winner's.
        """
        with self._errors(), self._transaction():
            if tag is not None and not replace_tag:
                found = self._rows("SELECT volume FROM tags WHERE tag = ?", tag)
                if found:
                    return _id(VolumeId, found[0][0])
            taken = self._connection.execute(
                "SELECT 1 FROM volumes WHERE id = ?1 UNION SELECT 1 FROM branches WHERE id = ?2",
                (row.id.raw, branch.id.raw),
            ).fetchall()
            if taken:
                raise AlreadyExistsError(f"volume {row.id} or branch {branch.id} exists already")
            self._connection.execute(
                f"INSERT INTO volumes VALUES({_marks(10)})",
                (
                    row.id.raw,
                    row.created_ms,
                    row.remote.raw,
                    int(row.attached),
                    row.branch.raw,
                    row.epoch,
                    row.synced_local,
                    row.synced_remote,
                    row.synced_ms,
                    row.last_error,
                ),
            )
            self._insert_branch(branch)
            if tag is not None:
                self._connection.execute(
                    "INSERT OR REPLACE INTO tags VALUES(?, ?)", (tag, row.id.raw)
                )
        return row.id

    def _insert_branch(self, branch: BranchRow) -> None:
        self._connection.execute(
            f"INSERT INTO branches VALUES({_marks(10)})",
            (
                branch.id.raw,
                branch.volume.raw,
                branch.log.raw,
                branch.base,
                branch.counter,
                branch.first_lsn,
                branch.file,
                branch.start.offset,
                str(branch.start.checksum),
                branch.created_ms,
            ),
        )

    def branches(self, volume: VolumeId) -> list[BranchRow]:
        """Return the branches of a volume, oldest first."""
        rows = self._rows(
            "SELECT * FROM branches WHERE volume = ? ORDER BY created_ms, id", volume.raw
        )
        return [_branch_row(row) for row in rows]

    def current(self, volume: VolumeId) -> tuple[VolumeRow, BranchRow]:
        """Return a volume and its current branch as of one instant; raises NotFoundError."""
        with self._errors():
            rows = self._connection.execute(
                "SELECT v.*, b.* FROM volumes v JOIN branches b ON b.id = v.branch WHERE v.id = ?",
                (volume.raw,),
            ).fetchall()
        if not rows:
            raise NotFoundError(f"there is no volume {volume}", next_step="see `graft volumes`")
        row = cast("tuple[Any, ...]", rows[0])
        return _volume_row(row[:10]), _branch_row(row[10:])

    def announce_epoch(self, volume: VolumeId, announce: Callable[[int], None]) -> None:
        """Call `announce` with the volume's epoch while nobody can switch its branch."""
        with self._errors(), self._transaction():
            announce(self.volume(volume).epoch)

    def switch_branch(
        self,
        volume: VolumeId,
        branch: BranchRow,
        *,
        expected: LogId,
        epoch: int,
        synced: tuple[int, int] | None,
        settled_push: bool = False,
        announce: Callable[[], None] = lambda: None,
    ) -> bool:
        """Make `branch` current if `expected` still is, whose row goes; all or nothing, durable.

        `synced` is (local LSN, remote LSN) of the sync that caused it. With `settled_push` the
        pending push goes in the same transaction. `announce` is called before it commits, if it
        will: in the order in which switches commit, because they hold SQLite's write lock then.
        """
        now = time.time_ns() // 1_000_000
        with self._errors(), self._transaction():
            found = self._connection.execute(
                "SELECT branch FROM volumes WHERE id = ?", (volume.raw,)
            ).fetchall()
            if not found or found[0][0] != expected.raw:
                return False
            # All commits of the former branch are on the remote or on this one.
            self._connection.execute("DELETE FROM branches WHERE id = ?", (expected.raw,))
            self._insert_branch(branch)
            self._connection.execute(
                "UPDATE volumes SET branch = ?, epoch = ?, attached = 1 WHERE id = ?",
                (branch.id.raw, epoch, volume.raw),
            )
            if synced is not None:
                self._connection.execute(
                    "UPDATE volumes SET synced_local = ?, synced_remote = ?, synced_ms = ?, "
                    "last_error = NULL WHERE id = ?",
                    (*synced, now, volume.raw),
                )
            if settled_push:
                self._connection.execute(
                    "DELETE FROM pending_pushes WHERE volume = ?", (volume.raw,)
                )
            announce()
        return True

    def note_sync_error(self, volume: VolumeId, error: GraftError | None) -> None:
        """Keep the text of the last sync error for `graft_status`; None clears it."""
        text = None if error is None else str(error)
        self._write(("UPDATE volumes SET last_error = ? WHERE id = ?", (text, volume.raw)))

    # Remote commits ---------------------------------------------------------------------------

    def add_commits(self, log: LogId, commits: Sequence[CommitRow]) -> None:
        """Add commits of a remote log; one that is known already stays as it is."""
        with self._errors(), self._transaction():
            self._connection.executemany(
                "INSERT OR IGNORE INTO commits VALUES(?, ?, ?, ?)",
                [(log.raw, row.lsn, row.hash, row.header) for row in commits],
            )

    def newest_commit(self, log: LogId) -> tuple[int, bytes]:
        """Return (LSN, hash) of the newest known commit; (0, zeros) if none is known."""
        rows = self._rows(
            "SELECT lsn, hash FROM commits WHERE log = ? ORDER BY lsn DESC LIMIT 1", log.raw
        )
        return (
            (_number(rows[0][0]), _bytes(rows[0][1], _HASH_BYTES))
            if rows
            else (0, bytes(_HASH_BYTES))
        )

    def commits(self, log: LogId, first: int, last: int) -> list[CommitRow]:
        """Return the known commits with LSN first..last, both inclusive, ascending."""
        rows = self._rows(
            "SELECT lsn, hash, header FROM commits WHERE log = ? AND lsn BETWEEN ? AND ? "
            "ORDER BY lsn",
            log.raw,
            min(first, _INTEGER_MAX),
            min(last, _INTEGER_MAX),
        )
        return [
            CommitRow(_number(lsn, first), _bytes(digest, _HASH_BYTES), _bytes(header))
            for lsn, digest, header in rows
        ]

    # Pushes -----------------------------------------------------------------------------------

    def add_pending_push(self, push: PendingPush) -> None:
        """Keep a push before its claim is sent; raises AlreadyExistsError if one is pending."""
        with self._errors(), self._transaction():
            found = self._connection.execute(
                "SELECT 1 FROM pending_pushes WHERE volume = ?", (push.volume.raw,)
            ).fetchall()
            if found:
                raise AlreadyExistsError(
                    "an earlier push of this volume has not been settled",
                    next_step="try again: the next sync settles it first",
                )
            self._connection.execute(
                f"INSERT INTO pending_pushes VALUES({_marks(9)}, 0)",
                (
                    push.volume.raw,
                    push.log.raw,
                    push.lsn,
                    push.hash,
                    push.data,
                    push.through_lsn,
                    push.counter,
                    push.through.offset,
                    str(push.through.checksum),
                ),
            )

    def pending_push(self, volume: VolumeId) -> PendingPush | None:
        """Return the push that waits to be settled."""
        rows = self._rows(
            "SELECT log, lsn, hash, data, through_lsn, counter, offset, checksum "
            "FROM pending_pushes WHERE volume = ?",
            volume.raw,
        )
        if not rows:
            return None
        log, lsn, digest, data, through, counter, offset, checksum = rows[0]
        return PendingPush(
            volume=volume,
            log=_id(LogId, log),
            lsn=_number(lsn, 1),
            hash=_bytes(digest, _HASH_BYTES),
            data=_bytes(data),
            through_lsn=_number(through),
            counter=_number(counter, last=_U32_MAX),
            through=_position(offset, checksum),
        )

    def take_up_pending_push(self, push: PendingPush) -> bool:
        """Note that somebody else than its maker will send the push; False if it is gone."""
        with self._errors(), self._transaction():
            self._connection.execute(
                "UPDATE pending_pushes SET is_taken_up = 1 WHERE volume = ? AND hash = ?",
                (push.volume.raw, push.hash),
            )
            return self._connection.changes() > 0

    def withdraw_pending_push(self, push: PendingPush) -> None:
        """Forget a push that its maker did not send, unless somebody has taken it up."""
        self._write(
            (
                "DELETE FROM pending_pushes WHERE volume = ? AND hash = ? AND NOT is_taken_up",
                (push.volume.raw, push.hash),
            )
        )

    def delete_pending_push(self, push: PendingPush) -> None:
        """Forget a push whose LSN is known to belong to somebody else."""
        self._write(
            (
                "DELETE FROM pending_pushes WHERE volume = ? AND hash = ?",
                (push.volume.raw, push.hash),
            )
        )

    # Soundness --------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Return what is wrong with the file or its rows, in plain words; reads all of it."""
        found = [_text(text) for (text,) in self._rows("PRAGMA integrity_check")]
        found = [] if found == ["ok"] else found
        known = {row.id: row for row in self.volumes()}
        found += [
            f"tag {tag!r} names volume {volume}, which is not there"
            for tag, volume in self.tags()
            if volume not in known
        ]
        found += [
            f"volume {row.id} stands on branch {row.branch}, which is not there"
            for row in known.values()
            if row.branch not in {branch.id for branch in self.branches(row.id)}
        ]
        return found

    def knows_log(self, log: LogId) -> bool:
        """Tell whether a commit of a remote log is known, or a volume pushes to it."""
        sql = "SELECT 1 FROM commits WHERE log = ?1 UNION SELECT 1 FROM volumes WHERE remote = ?1"
        return bool(self._rows(sql, log.raw))

    # Probes -----------------------------------------------------------------------------------

    def is_probed(self, store: str) -> bool:
        """Tell whether this store was seen to honour create-only conditions."""
        return bool(self._rows("SELECT 1 FROM probed_stores WHERE store = ?", store))

    def set_probed(self, store: str) -> None:
        """Note that this store honours create-only conditions."""
        now = time.time_ns() // 1_000_000
        self._write(("INSERT OR REPLACE INTO probed_stores VALUES(?, ?)", (store, now)))


# Forking --------------------------------------------------------------------------------------


class _Held(threading.local):
    """The catalogs that a thread holds while it forks."""

    def __init__(self) -> None:
        self.catalogs: list[Catalog] = []


_catalogs: weakref.WeakSet[Catalog] = weakref.WeakSet()
_held = _Held()


def _before_fork() -> None:
    for catalog in list(_catalogs):
        catalog.before_fork()


def _after_fork() -> None:
    while _held.catalogs:
        _held.catalogs.pop().after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _builtin_vfs() -> str:
    """Return the name of SQLite's own VFS for this platform."""
    return "unix"


def _marks(count: int) -> str:
    return ", ".join("?" * count)


# Reading rows ---------------------------------------------------------------------------------

_AnyId = TypeVar("_AnyId", bound=Id)


def _volume_row(row: Sequence[Any]) -> VolumeRow:
    volume, created, remote, attached, branch, epoch, local, lsn, synced, last_error = row
    return VolumeRow(
        id=_id(VolumeId, volume),
        created_ms=_number(created, last=_TIME_MS_MAX),
        remote=_id(LogId, remote),
        attached=bool(_number(attached, last=1)),
        branch=_id(LogId, branch),
        epoch=_number(epoch),
        synced_local=None if local is None else _number(local),
        synced_remote=None if lsn is None else _number(lsn),
        synced_ms=None if synced is None else _number(synced, last=_TIME_MS_MAX),
        last_error=None if last_error is None else _text(last_error),
    )


def _branch_row(row: Sequence[Any]) -> BranchRow:
    branch, volume, log, base, counter, first, file, offset, checksum, created = row
    return BranchRow(
        id=_id(LogId, branch),
        volume=_id(VolumeId, volume),
        log=_id(LogId, log),
        base=_number(base),
        counter=_number(counter, last=_U32_MAX),
        first_lsn=_number(first, 1),
        file=_log_file(file),
        start=_position(offset, checksum),
        created_ms=_number(created, last=_TIME_MS_MAX),
    )


def _impossible(value: object, wanted: str) -> CorruptCatalogError:
    return CorruptCatalogError(
        f"the catalog holds {reprlib.repr(value)} where {wanted} must be", next_step=_DAMAGE_STEP
    )


def _id(kind: type[_AnyId], value: object) -> _AnyId:
    try:
        if isinstance(value, bytes):
            return kind(value)
    except InvalidIdError as error:
        raise _impossible(value, f"a {kind.KIND} id") from error
    raise _impossible(value, f"a {kind.KIND} id")


def _number(value: object, first: int = 0, last: int = _INTEGER_MAX) -> int:
    if not isinstance(value, int) or not first <= value <= last:
        raise _impossible(value, f"a number from {first} to {last}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _impossible(value, "a text")
    return value


def _bytes(value: object, length: int | None = None) -> bytes:
    if not isinstance(value, bytes) or (length is not None and len(value) != length):
        raise _impossible(value, "bytes" if length is None else f"{length} bytes")
    return value


def _log_file(value: object) -> str:
    if not isinstance(value, str) or _LOG_FILE.fullmatch(value) is None:
        raise _impossible(value, "the name of a log file")
    return value


def _position(offset: object, checksum: object) -> Position:
    # A checksum is a text because SQLite has no unsigned 64-bit integers.
    is_sound = isinstance(checksum, str) and _DIGITS.fullmatch(checksum) is not None
    if not is_sound or int(cast("str", checksum)) > _U64_MAX:
        raise _impossible(checksum, "a checksum")
    return Position(_number(offset, LOG_HEADER_BYTES), int(cast("str", checksum)))
