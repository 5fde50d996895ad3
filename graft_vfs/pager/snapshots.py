"""A read-only connection on snapshots: SQL over a volume as it was at several moments at once."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping

import apsw

from graft_vfs.errors import CorruptObjectError, GraftError
from graft_vfs.pager.interrupts import end_on_interrupt
from graft_vfs.pager.volume_file import VolumeFile
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

BUILTIN_VFS = "unix"


class _SnapshotFiles(apsw.VFS):
    """A file system for one connection, whose files are snapshots by their schema's name.

    Owner: the connection's opener. Thread rule: as its connection.
    """

    def __init__(self, name: str, volume: Volume, snapshots: Mapping[str, Snapshot]) -> None:
        self._volume = volume
        self._snapshots = snapshots
        super().__init__(name, BUILTIN_VFS)

    def xFullPathname(self, name: str) -> str:
        """Return the name as it is: it is no path."""
        return name

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: ARG002
        """Say that there is no journal: a snapshot needs none."""
        return False

    def xOpen(  # type: ignore[override]
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> VolumeFile | apsw.VFSFile:
        """Open a snapshot, or a temporary file of the built-in VFS."""
        if not flags[0] & apsw.SQLITE_OPEN_MAIN_DB or name is None:
            return apsw.VFSFile(BUILTIN_VFS, name, flags)
        schema = name.filename() if isinstance(name, apsw.URIFilename) else name
        flags[1] = flags[0]
        return VolumeFile(
            schema,
            self._volume,
            fixed=self._snapshots[schema],
            on_pragma=_answer,
            on_close=lambda _: None,
        )


def _answer(file: VolumeFile, name: str, _: str | None) -> str | None:
    """Answer what each new connection asks for, so that opening reads no page here either."""
    return file.prepare() if name == "graft_prepare" else None


@contextlib.contextmanager
def connected(volume: Volume, snapshots: Mapping[str, Snapshot]) -> Iterator[apsw.Connection]:
    """Yield a read-only connection that has each snapshot as a schema of the name given for it.

    The first must be called `main`. Pages that are not here are fetched when they are read. Ctrl-C
    ends a statement of it. Raises what reading raises, DamageError for a schema that SQLite cannot
    parse.
    """
    vfs = f"graft-snapshots-{secrets.token_hex(8)}"
    files = _SnapshotFiles(vfs, volume, snapshots)
    try:
        connection = apsw.Connection("main", flags=apsw.SQLITE_OPEN_READONLY, vfs=vfs)
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
