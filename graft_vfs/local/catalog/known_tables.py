"""Tables of remote logs that this machine has: all of an object, or its beginning.

A row says of LSNs (after, lsn] of a log where their pages are; see `format.table`. Its bytes are
kept in chunks, so that a reader of a large table reads only the blocks that it needs. A table that
this machine made and one that it read from the remote are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import apsw

from graft_vfs.errors import CorruptCatalogError
from graft_vfs.ids import LogId
from graft_vfs.local.catalog.file import CatalogFile
from graft_vfs.local.catalog.rows import (
    DAMAGE_STEP,
    HASH_BYTES,
    bytes_of,
    id_of,
    number_of,
    remote_lsn_of,
    text_of,
)
from graft_vfs.pages import RemoteLsn

CHUNK_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class TableRow:
    """A table for LSNs (after, lsn] of a log; `hash` is that of commit `lsn`.

    `suffix` is the end of its key, `length` that of the object in bytes. `is_remote` is true if the
    remote is known to have it, `is_whole` if all of its bytes are here.
    """

    log_id: LogId
    after: RemoteLsn
    lsn: RemoteLsn
    suffix: str
    hash: bytes
    length: int
    is_remote: bool
    is_whole: bool = True


class KnownTables:
    """Owner: the catalog. Thread rule: any thread."""

    def __init__(self, file: CatalogFile) -> None:
        self._file = file

    def all(self, log_id: LogId) -> list[TableRow]:
        """Return the tables of a log, oldest first."""
        if not self._file.has_table("page_tables"):
            return []
        sql = (
            "SELECT after, lsn, suffix, hash, length, is_remote, (SELECT sum(length(data)) FROM "
            "page_table_chunks WHERE page_table = id) FROM page_tables WHERE log = ? "
            "ORDER BY lsn, after DESC"
        )
        return [
            TableRow(
                log_id,
                remote_lsn_of(after),
                remote_lsn_of(lsn, 1),
                text_of(suffix),
                bytes_of(digest, HASH_BYTES),
                number_of(length, 1),
                bool(is_remote),
                kept == length,
            )
            for after, lsn, suffix, digest, length, is_remote, kept in self._file.rows(
                sql, log_id.raw
            )
        ]

    def read(self, row: TableRow, offset: int, length: int) -> bytes | None:
        """Return a part of a table's object; None if that part is not here."""
        first, last = offset // CHUNK_BYTES, (offset + length - 1) // CHUNK_BYTES
        data = b"".join(self._chunks(row, first, last))[offset - first * CHUNK_BYTES :][:length]
        return data if len(data) == length else None

    def beginning(self, row: TableRow) -> bytes:
        """Return the first chunk, which has the head."""
        chunks = self._chunks(row, 0, 0)
        if not chunks:
            raise CorruptCatalogError(
                f"the catalog lacks the table of log {row.log_id} at LSN {row.lsn}",
                next_step=DAMAGE_STEP,
            )
        return chunks[0]

    def _chunks(self, row: TableRow, first: int, last: int) -> list[bytes]:
        """Return the chunks first..last, both inclusive; those up to a gap.

        None of another object for the same LSNs, such as a compacted table, that has replaced it.
        """
        chunks = self._file.rows(
            "SELECT number, data FROM page_table_chunks WHERE number BETWEEN ? AND ? AND "
            "page_table = (SELECT id FROM page_tables WHERE log = ? AND lsn = ? AND after = ? "
            "AND suffix = ? AND length = ?) ORDER BY number",
            first,
            last,
            row.log_id.raw,
            row.lsn,
            row.after,
            row.suffix,
            row.length,
        )
        return [bytes_of(data) for at, (number, data) in enumerate(chunks, first) if at == number]

    def keep(self, row: TableRow, data: bytes) -> None:
        """Keep a table, all of it or its beginning; forget those that it makes needless.

        These are the tables whose LSNs it covers, but for those that the LSN of a branch or of a
        fork needs, because what covers them goes further. Atomic and durable on return; does
        nothing if the catalog cannot be written.
        """
        if not self._file.writable:
            return
        with self._file.transaction() as connection:
            connection.execute(
                "INSERT INTO page_tables(log, lsn, after, suffix, hash, length, is_remote) "
                "VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO UPDATE SET suffix = ?4, "
                "hash = ?5, length = ?6, is_remote = ?7 OR (is_remote AND suffix = ?4)",
                (
                    row.log_id.raw,
                    row.lsn,
                    row.after,
                    row.suffix,
                    row.hash,
                    row.length,
                    int(row.is_remote),
                ),
            )
            _add_chunks(connection, row, data)
            connection.execute(_FORGET_NEEDLESS, (row.log_id.raw, row.after, row.lsn))

    def note_remote(self, row: TableRow) -> None:
        """Note that the remote has a table."""
        self._file.write(
            "UPDATE page_tables SET is_remote = 1 WHERE log = ? AND lsn = ? AND after = ?",
            row.log_id.raw,
            row.lsn,
            row.after,
        )

    def forget_one(self, row: TableRow) -> None:
        """Forget a table, which the remote has lost."""
        if self._file.writable:
            sql = "DELETE FROM page_tables WHERE log = ? AND lsn = ? AND after = ? AND suffix = ?"
            self._file.write(sql, row.log_id.raw, row.lsn, row.after, row.suffix)

    def forget(self, log_id: LogId) -> None:
        """Forget all tables of a log."""
        self._file.write("DELETE FROM page_tables WHERE log = ?", log_id.raw)

    # Parents ----------------------------------------------------------------------------------

    def knows_parent(self, log_id: LogId) -> bool:
        """Return True if it was noted what a log was forked from, or that it is no fork."""
        if not self._file.has_table("parents"):
            return False
        return bool(self._file.rows("SELECT 1 FROM parents WHERE log = ?", log_id.raw))

    def parent(self, log_id: LogId) -> tuple[LogId, RemoteLsn] | None:
        """Return the (log, LSN) that a log was forked from, if that was noted."""
        if not self.knows_parent(log_id):
            return None
        rows = self._file.rows(
            "SELECT parent, lsn FROM parents WHERE log = ? AND lsn > 0", log_id.raw
        )
        return (id_of(LogId, rows[0][0]), remote_lsn_of(rows[0][1], 1)) if rows else None

    def keep_parent(self, log_id: LogId, parent: LogId | None, lsn: RemoteLsn) -> None:
        """Note what a log was forked from; this never changes."""
        if self._file.writable and not self.knows_parent(log_id):
            raw = None if parent is None else parent.raw
            self._file.write("INSERT OR IGNORE INTO parents VALUES(?, ?, ?)", log_id.raw, raw, lsn)


_COVERS = """
t.log = old.log AND t.after <= old.after AND t.lsn >= old.lsn AND t.id <> old.id
"""
_FORGET_NEEDLESS = f"""
DELETE FROM page_tables AS old WHERE log = ?1 AND after >= ?2 AND lsn <= ?3
AND (lsn < ?3 OR after > ?2)
AND NOT EXISTS(
    SELECT 1 FROM (
        SELECT base AS lsn FROM branches WHERE log = ?1
        UNION SELECT lsn FROM parents WHERE parent = ?1
    ) needed
    WHERE needed.lsn >= old.lsn AND needed.lsn < ?3
    AND NOT EXISTS(SELECT 1 FROM page_tables t WHERE {_COVERS} AND t.lsn <= needed.lsn)
)
"""  # noqa: S608 - a text of ours


def _add_chunks(connection: apsw.Connection, row: TableRow, data: bytes) -> None:
    ((number,),) = connection.execute(
        "SELECT id FROM page_tables WHERE log = ? AND lsn = ? AND after = ?",
        (row.log_id.raw, row.lsn, row.after),
    ).fetchall()
    connection.execute("DELETE FROM page_table_chunks WHERE page_table = ?", (number,))
    connection.executemany(
        "INSERT INTO page_table_chunks VALUES(?, ?, ?)",
        (
            (number, at // CHUNK_BYTES, data[at : at + CHUNK_BYTES])
            for at in range(0, len(data), CHUNK_BYTES)
        ),
    )
