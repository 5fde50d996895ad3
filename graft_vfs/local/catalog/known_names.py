"""Names of commits that were seen on the remote, as the objects that prove themselves.

What the remote has counts: a name that is known may have been removed there since.
"""

from __future__ import annotations

from collections.abc import Mapping

from graft_vfs.ids import LogId
from graft_vfs.local.catalog.file import CatalogFile
from graft_vfs.local.catalog.rows import bytes_of, text_of


class KnownNames:
    """Owner: the catalog. Thread rule: any thread."""

    def __init__(self, file: CatalogFile) -> None:
        self._file = file

    def all(self, log_id: LogId) -> list[bytes]:
        """Return the objects of all names of a log that were seen, in order of their text."""
        if not self._file.has_table("known_names"):
            return []
        sql = "SELECT object FROM known_names WHERE log = ? ORDER BY name"
        return [bytes_of(found) for (found,) in self._file.rows(sql, log_id.raw)]

    def texts(self, log_id: LogId) -> list[str]:
        """Return the texts of all names of a log that were seen, in order."""
        if not self._file.has_table("known_names"):
            return []
        sql = "SELECT name FROM known_names WHERE log = ? ORDER BY name"
        return [text_of(name) for (name,) in self._file.rows(sql, log_id.raw)]

    def keep(self, log_id: LogId, objects: Mapping[str, bytes], *, are_all: bool = False) -> None:
        """Remember names by their text, if the catalog can be written.

        If they `are_all` that the log has, the others are forgotten.
        """
        if not self._file.writable or not (objects or are_all):
            return
        with self._file.transaction() as connection:
            if are_all:
                connection.execute("DELETE FROM known_names WHERE log = ?", (log_id.raw,))
            connection.executemany(
                "INSERT OR REPLACE INTO known_names VALUES(?, ?, ?)",
                [(log_id.raw, name, found) for name, found in objects.items()],
            )

    def forget(self, log_id: LogId, name: str) -> None:
        """Forget a name that was removed."""
        if self._file.writable:
            self._file.write("DELETE FROM known_names WHERE log = ? AND name = ?", log_id.raw, name)
