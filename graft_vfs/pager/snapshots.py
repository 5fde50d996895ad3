"""Connections on snapshots: SQL over several states of a volume at once.

`connected` yields a read-only connection, `scratch_over` one whose first schema is writable.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping

import apsw

from graft_vfs.errors import CorruptObjectError, GraftError
from graft_vfs.pager.interrupts import end_on_interrupt
from graft_vfs.pager.scratch import BUILTIN_VFS, Scratch, ScratchFile, TemporaryFile
from graft_vfs.pager.snapshot_file import SnapshotFile
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume


class _SnapshotFiles(apsw.VFS):
    """A VFS for one connection; its files are snapshots, named by schema.

    Owner: the connection's opener. Thread rule: as its connection.
    """

    def __init__(self, name: str, volume: Volume, snapshots: Mapping[str, Snapshot]) -> None:
        self._volume = volume
        self._snapshots = snapshots
        self.name = name
        super().__init__(name, BUILTIN_VFS)

    def xFullPathname(self, name: str) -> str:
        """Return the name unchanged, because it is not a path."""
        return name

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: ARG002
        """Report that there is no journal: a snapshot has none, and other journals are unnamed."""
        return False

    def xDelete(self, filename: str, syncdir: bool) -> None:
        """Do nothing: an unnamed journal was deleted when it was closed."""

    def xOpen(  # type: ignore[override]
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> SnapshotFile | apsw.VFSFile:
        """Open a snapshot, or a temporary file of the built-in VFS."""
        if name is None:
            return apsw.VFSFile(BUILTIN_VFS, name, flags)
        flags[1] = flags[0]
        if flags[0] & apsw.SQLITE_OPEN_MAIN_JOURNAL:
            return TemporaryFile(apsw.SQLITE_OPEN_TEMP_JOURNAL)
        schema = name.filename() if isinstance(name, apsw.URIFilename) else name
        if not flags[0] & apsw.SQLITE_OPEN_MAIN_DB or schema not in self._snapshots:
            raise apsw.CantOpenError(f"there is no snapshot {schema!r} in this connection")
        return self._open(schema, flags)

    def _open(self, schema: str, flags: list[int]) -> SnapshotFile | apsw.VFSFile:
        flags[1] &= ~(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        flags[1] |= apsw.SQLITE_OPEN_READONLY
        return SnapshotFile(
            schema,
            self._volume,
            self._snapshots[schema],
            on_pragma=_answer,
            on_close=lambda _: None,
        )


class _ScratchFiles(_SnapshotFiles):
    """The same with a writable `main`."""

    scratch: ScratchFile

    def _open(self, schema: str, flags: list[int]) -> SnapshotFile | apsw.VFSFile:
        if schema != "main":
            return super()._open(schema, flags)
        self.scratch = ScratchFile(self._volume, self._snapshots[schema])
        return self.scratch


def _answer(file: SnapshotFile, name: str, _: str | None) -> str | None:
    """Answer the pragmas of each new connection, so that opening reads no page."""
    return file.prepare() if name == "graft_prepare" else None


@contextlib.contextmanager
def connected(volume: Volume, snapshots: Mapping[str, Snapshot]) -> Iterator[apsw.Connection]:
    """Yield a read-only connection with each snapshot as a schema of the given name.

    The first name must be `main`, and all snapshots must stay pinned. Pages that are not cached are
    fetched on demand. Ctrl-C ends a statement. Raises the errors of reading, and DamageError for a
    schema that SQLite cannot parse.
    """
    files = _SnapshotFiles(_new_name(), volume, snapshots)
    with _connection(files, snapshots, apsw.SQLITE_OPEN_READONLY) as connection:
        yield connection


@contextlib.contextmanager
def scratch_over(
    volume: Volume, snapshot: Snapshot, beside: Mapping[str, Snapshot] | None = None
) -> Iterator[Scratch]:
    """Yield a scratch database over a snapshot, with other snapshots `beside` it, read-only.

    Writes go to a temporary file, which is deleted when the block ends; the volume does not change.
    Otherwise as `connected`.
    """
    snapshots = {"main": snapshot, **(beside or {})}
    files = _ScratchFiles(_new_name(), volume, snapshots)
    with _connection(files, snapshots, apsw.SQLITE_OPEN_READWRITE) as connection:
        yield Scratch(connection, files.scratch)


def _new_name() -> str:
    return f"graft-snapshots-{secrets.token_hex(8)}"


@contextlib.contextmanager
def _connection(
    files: _SnapshotFiles, snapshots: Mapping[str, Snapshot], flags: int
) -> Iterator[apsw.Connection]:
    try:
        connection = apsw.Connection("main", flags=flags, vfs=files.name)
        try:
            end_on_interrupt(connection)
            try:
                for schema in list(snapshots)[1:]:
                    connection.execute("ATTACH ?1 AS " + schema, (schema,))
            except apsw.Error as error:
                raise unreadable(error) from error
            yield connection
        finally:
            connection.close()
    finally:
        files.unregister()


def unreadable(error: apsw.Error) -> GraftError:
    """Return the error to raise when SQLite fails on a snapshot: the VFS's error, or damage.

    Even without damaged bytes, SQLite may be unable to parse a schema.
    """
    if isinstance(error.__cause__, GraftError):
        return error.__cause__
    return CorruptObjectError(
        f"SQLite cannot read the snapshots: {error}",
        next_step="open each and run PRAGMA integrity_check; a malformed schema can be repaired "
        "with PRAGMA writable_schema",
    )
