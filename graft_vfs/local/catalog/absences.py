"""When each log with retention was last proved to have no newer commit, by its store's clock.

This time is the T of decision 19. It belongs to the log's newest known commit, and stays true when
a newer one becomes known. A newer time may be lost, at the price of one request: so it is kept in
memory, and written only when the written one has become much older.
"""

from __future__ import annotations

from graft_vfs.ids import LogId
from graft_vfs.local.catalog.file import CatalogFile
from graft_vfs.local.catalog.rows import number_of

_TIME_MS_MAX = 253_402_300_799_999  # The end of the year 9999.


class Absences:
    """Owner: the catalog. Thread rule: any thread."""

    def __init__(self, file: CatalogFile) -> None:
        self._file = file
        self._noted: dict[tuple[LogId, str], int] = {}

    def proved_ms(self, log_id: LogId, store: str) -> int | None:
        """Return when `store`, by its name, had no commit after the newest known one of a log."""
        noted = self._noted.get((log_id, store))
        return self._written(log_id, store) if noted is None else noted

    def note(self, log_id: LogId, store: str, proved_ms: int, *, keeps_ms: int) -> None:
        """Note a proof; it is written, durably, if the written one is `keeps_ms` older."""
        self._noted[log_id, store] = proved_ms
        if not self._file.writable or not 0 <= proved_ms <= _TIME_MS_MAX:
            return
        written = self._written(log_id, store)
        if written is None or abs(proved_ms - written) > keeps_ms:
            sql = "INSERT OR REPLACE INTO log_absences VALUES(?, ?, ?)"
            self._file.write(sql, log_id.raw, store, proved_ms)

    def forget(self, log_id: LogId) -> None:
        """Forget what was proved of a log, whose history was replaced."""
        for key in [key for key in self._noted if key[0] == log_id]:
            self._noted.pop(key, None)
        self._file.write("DELETE FROM log_absences WHERE log = ?", log_id.raw)

    def _written(self, log_id: LogId, store: str) -> int | None:
        if not self._file.has_table("log_absences"):
            return None
        sql = "SELECT proved_ms FROM log_absences WHERE log = ? AND store = ?"
        rows = self._file.rows(sql, log_id.raw, store)
        return number_of(rows[0][0], last=_TIME_MS_MAX) if rows else None
