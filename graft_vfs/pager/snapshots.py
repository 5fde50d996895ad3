"""Connections on snapshots: SQL over a volume as it was at several moments at once.

`connected` gives one that only reads, `scratch_over` one whose first schema may be written to.
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
    """A file system for one connection, whose files are snapshots by their schema's name.

    Owner: the connection's opener. Thread rule: as its connection.
    """

    def __init__(self, name: str, volume: Volume, snapshots: Mapping[str, Snapshot]) -> None:
        self._volume = volume
        self._snapshots = snapshots
        self.name = name
        super().__init__(name, BUILTIN_VFS)

    def xFullPathname(self, name: str) -> str:
        """Return the name as it is: it is no path."""
        return name

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: ARG002
        """Say that there is no journal: a snapshot needs none, and others have no name."""
        return False

    def xDelete(self, filename: str, syncdir: bool) -> None:
        """Nothing: a journal without a name went when it was closed."""

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
    """The same, but that `main` may be written to."""

    scratch: ScratchFile

    def _open(self, schema: str, flags: list[int]) -> SnapshotFile | apsw.VFSFile:
        if schema != "main":
            return super()._open(schema, flags)
        self.scratch = ScratchFile(self._volume, self._snapshots[schema])
        return self.scratch


def _answer(file: SnapshotFile, name: str, _: str | None) -> str | None:
    """Answer what each new connection asks for, so that opening reads no page here either."""
    return file.prepare() if name == "graft_prepare" else None


@contextlib.contextmanager
def connected(volume: Volume, snapshots: Mapping[str, Snapshot]) -> Iterator[apsw.Connection]:
    """Yield a read-only connection that has each snapshot as a schema of the name given for it.

    The first must be called `main`, and all must stay pinned. Pages that are not here are fetched
    when they are read. Ctrl-C ends a statement of it. Raises what reading raises, DamageError for a
    schema that SQLite cannot parse.
    """
    files = _SnapshotFiles(_new_name(), volume, snapshots)
    with _connection(files, snapshots, apsw.SQLITE_OPEN_READONLY) as connection:
        yield connection


@contextlib.contextmanager
def scratch_over(
    volume: Volume, snapshot: Snapshot, beside: Mapping[str, Snapshot] | None = None
) -> Iterator[Scratch]:
    """Yield a scratch database over a snapshot, with others `beside` it to read, by schema.

    What is written goes to a temporary file, and is gone when the block ends; the volume stays as
    it is. For the rest see `connected`.
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
    """Return what is to be raised when SQLite fails on a snapshot: the cause in the VFS, or damage.

    The schema of either may be one that SQLite cannot parse, with no byte damaged here.
    """
    if isinstance(error.__cause__, GraftError):
        return error.__cause__
    return CorruptObjectError(
        f"SQLite cannot read the snapshots: {error}",
        next_step="open each and run PRAGMA integrity_check; a malformed schema can be repaired "
        "with PRAGMA writable_schema",
    )
