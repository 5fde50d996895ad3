"""A machine whose catalog lacks the headers of old commits, as tables let it."""

from __future__ import annotations

from graft_vfs.engine.graft import Graft
from graft_vfs.ids import LogId
from graft_vfs.local.catalog.file import CatalogFile


def forget_headers(engine: Graft, log_id: LogId, *lsns: int) -> None:
    """Delete from the catalog the headers of commits of a log."""
    file = engine.catalog._file
    assert isinstance(file, CatalogFile)
    for lsn in lsns:
        file.write("DELETE FROM commits WHERE log = ? AND lsn = ?", log_id.raw, lsn)


def known_lsns(engine: Graft, log_id: LogId) -> list[int]:
    """Return the commits of a log that the catalog has."""
    return [row.lsn for row in engine.catalog.commits(log_id, 1, 1 << 40)]
