"""Kept branches: those that a volume was switched away from, until a user removes them.

The row of such a branch stays in `branches`, so its file is in use and the log that it is based on
is needed. `kept_branches` says where it ends, and why it is kept.
"""

from __future__ import annotations

import apsw

from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local.catalog.file import CatalogFile
from graft_vfs.local.catalog.rows import KeptBranch, branch_row, id_of, kept_row


class KeptBranches:
    """Owner: the catalog. Thread rule: any thread."""

    def __init__(self, file: CatalogFile) -> None:
        self._file = file

    def all(self, volume: VolumeId) -> tuple[KeptBranch, ...]:
        """Return the kept branches of a volume, in the order in which they were kept."""
        if not self._file.has_table("kept_branches"):
            return ()
        rows = self._file.rows(
            "SELECT b.*, k.last_lsn, k.offset, k.checksum, k.base_hash, k.reason, k.kept_ms "
            "FROM kept_branches k JOIN branches b ON b.id = k.branch WHERE k.volume = ? "
            "ORDER BY k.kept_ms, k.branch",
            volume.raw,
        )
        return tuple(kept_row(branch_row(row[:-6]), row[-6:]) for row in rows)

    def lost(self) -> list[tuple[VolumeId, LogId]]:
        """Return (volume, branch) of each that has no row in `branches`; there should be none."""
        if not self._file.has_table("kept_branches"):
            return []
        rows = self._file.rows(
            "SELECT volume, branch FROM kept_branches WHERE branch NOT IN (SELECT id FROM branches)"
        )
        return [(id_of(VolumeId, volume), id_of(LogId, branch)) for volume, branch in rows]

    def add(self, connection: apsw.Connection, kept: KeptBranch) -> None:
        """Keep a branch whose row exists, inside a transaction."""
        connection.execute(
            "INSERT INTO kept_branches VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
            (
                kept.id.raw,
                kept.branch.volume.raw,
                kept.last_lsn,
                kept.end.offset,
                str(kept.end.checksum),
                kept.base_hash,
                kept.reason,
                kept.kept_ms,
            ),
        )

    def remove(self, connection: apsw.Connection, volume: VolumeId, branch: LogId) -> bool:
        """Remove one inside a transaction; False if the volume keeps no such branch."""
        connection.execute(
            "DELETE FROM kept_branches WHERE branch = ? AND volume = ?", (branch.raw, volume.raw)
        )
        if not connection.changes():
            return False
        connection.execute("DELETE FROM branches WHERE id = ?", (branch.raw,))
        return True
