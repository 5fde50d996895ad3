"""The catalog: what this machine knows of volumes, tags, branches, remote commits and pushes.

A small SQLite database on the built-in VFS, in WAL mode with synchronous=FULL: what a method says
it wrote is durable when it returns, whole or not at all. Only sync verbs write here; transactions
of applications never do.

Invariants:
 1. A branch row's base never changes.
 2. A volume's current branch and epoch change together, in one transaction.
 3. A pending push is written before its claim is sent and deleted with the settling of that LSN.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import apsw

from graft_vfs.errors import (
    AlreadyExistsError,
    BusyError,
    CorruptCatalogError,
    FutureVersionError,
    GraftError,
    LocalStorageError,
    NotFoundError,
)
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local.branch_log import Position

_APPLICATION_ID = 0x67726674
_SCHEMA_VERSION = 1
_BUSY_TIMEOUT_MS = 10_000

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
    offset INTEGER NOT NULL, checksum TEXT NOT NULL
) STRICT;
CREATE TABLE probed_stores(store TEXT PRIMARY KEY, time_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;
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


class Catalog:
    """The catalog of one data directory.

    Owner: the engine. Thread rule: any thread; one statement runs at a time. Processes share it.
    """

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        """Open, making it if absent; raises CorruptCatalogError, FutureVersionError."""
        self.path = path
        self._lock = threading.RLock()
        self._writable = writable
        flags = apsw.SQLITE_OPEN_READONLY
        if writable:
            flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        with self._errors():
            # Naming the built-in VFS keeps the catalog out of ours when that is the default.
            self._connection = apsw.Connection(str(path), flags=flags, vfs=_builtin_vfs())
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        connection = self._connection
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        if self._writable:
            connection.pragma("journal_mode", "wal")
            connection.pragma("synchronous", "full")
        version = connection.pragma("user_version")
        if version > _SCHEMA_VERSION:
            raise FutureVersionError(
                f"the catalog has version {version}, this program reads {_SCHEMA_VERSION}",
                next_step="upgrade graft-vfs",
            )
        if version == 0 and self._writable:
            with self._transaction():
                if connection.pragma("user_version") == 0:
                    connection.execute(_SCHEMA)
                    connection.pragma("application_id", _APPLICATION_ID)
                    connection.pragma("user_version", _SCHEMA_VERSION)
        if connection.pragma("application_id") != _APPLICATION_ID:
            raise CorruptCatalogError(
                f"{self.path} is a SQLite database, but not a catalog of graft-vfs",
                next_step="set data_dir to another directory",
            )

    # Plumbing ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except (apsw.NotADBError, apsw.CorruptError, apsw.FormatError, apsw.SQLError) as error:
            raise CorruptCatalogError(
                f"the catalog {self.path} is damaged: {error}",
                next_step="move it away, then clone each volume again by its ref; commits that "
                "were not pushed stay in the branch logs under volumes/",
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
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

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
            self._connection.close()

    # Tags -------------------------------------------------------------------------------------

    def tags(self) -> list[tuple[str, VolumeId]]:
        """Return all tags in order of their text."""
        return [
            (tag, VolumeId(volume))
            for tag, volume in self._rows("SELECT tag, volume FROM tags ORDER BY tag")
        ]

    def tag_volume(self, tag: str) -> VolumeId | None:
        """Return the volume that a tag names now."""
        rows = self._rows("SELECT volume FROM tags WHERE tag = ?", tag)
        return VolumeId(rows[0][0]) if rows else None

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
        return VolumeId(rows[0][0]) if rows else None

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
                    return VolumeId(found[0][0])
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

    def switch_branch(
        self,
        volume: VolumeId,
        branch: BranchRow,
        *,
        expected: LogId,
        epoch: int,
        synced: tuple[int, int] | None,
        settled_push: bool = False,
    ) -> bool:
        """Make `branch` current if `expected` still is; all or nothing, durable on return.

        `synced` is (local LSN, remote LSN) of the sync that caused it. With `settled_push` the
        pending push goes in the same transaction.
        """
        now = time.time_ns() // 1_000_000
        with self._errors(), self._transaction():
            found = self._connection.execute(
                "SELECT branch FROM volumes WHERE id = ?", (volume.raw,)
            ).fetchall()
            if not found or found[0][0] != expected.raw:
                return False
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
        return (rows[0][0], rows[0][1]) if rows else (0, bytes(32))

    def commits(self, log: LogId, first: int, last: int) -> list[CommitRow]:
        """Return the known commits with LSN first..last, both inclusive, ascending."""
        rows = self._rows(
            "SELECT lsn, hash, header FROM commits WHERE log = ? AND lsn BETWEEN ? AND ? "
            "ORDER BY lsn",
            log.raw,
            first,
            last,
        )
        return [CommitRow(*row) for row in rows]

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
                f"INSERT INTO pending_pushes VALUES({_marks(9)})",
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
        rows = self._rows("SELECT * FROM pending_pushes WHERE volume = ?", volume.raw)
        if not rows:
            return None
        _, log, lsn, digest, data, through, counter, offset, checksum = rows[0]
        return PendingPush(
            volume, LogId(log), lsn, digest, data, through, counter, Position(offset, int(checksum))
        )

    def delete_pending_push(self, push: PendingPush) -> None:
        """Forget a push whose LSN is known to belong to somebody else."""
        self._write(
            (
                "DELETE FROM pending_pushes WHERE volume = ? AND hash = ?",
                (push.volume.raw, push.hash),
            )
        )

    # Probes -----------------------------------------------------------------------------------

    def is_probed(self, store: str) -> bool:
        """Tell whether this store was seen to honour create-only conditions."""
        return bool(self._rows("SELECT 1 FROM probed_stores WHERE store = ?", store))

    def set_probed(self, store: str) -> None:
        """Note that this store honours create-only conditions."""
        now = time.time_ns() // 1_000_000
        self._write(("INSERT OR REPLACE INTO probed_stores VALUES(?, ?)", (store, now)))


def _builtin_vfs() -> str:
    """Return the name of SQLite's own VFS for this platform."""
    return "unix"


def _marks(count: int) -> str:
    return ", ".join("?" * count)


def _volume_row(row: Sequence[Any]) -> VolumeRow:
    volume, created, remote, attached, branch, *rest = row
    return VolumeRow(VolumeId(volume), created, LogId(remote), bool(attached), LogId(branch), *rest)


def _branch_row(row: Sequence[Any]) -> BranchRow:
    branch, volume, log, base, counter, first, file, offset, checksum, created = row
    return BranchRow(
        LogId(branch),
        VolumeId(volume),
        LogId(log),
        base,
        counter,
        first,
        file,
        Position(offset, int(checksum)),
        created,
    )
