"""The catalog: this machine's volumes, tags, branches, known remote commits and pushes.

Every method that writes is atomic, and durable when it returns. Only sync verbs write to the
catalog; application transactions never do. `file` has the file and its schema, `rows` the rows.

Invariants:
 1. A branch row's base never changes.
 2. A volume's current branch and its epoch change in one transaction. A tag that is removed or
    moved also changes in one transaction with the epoch of its previous volume.
 3. A pending push is written before its claim is sent, and deleted when that LSN is settled. It is
    deleted earlier only if another push is known to have its LSN, or if the process that wrote it
    did not send it and no other process has adopted it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import apsw

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import AlreadyExistsError, GraftError, NotFoundError, summary
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local.catalog.absences import Absences
from graft_vfs.local.catalog.descriptor import Descriptor
from graft_vfs.local.catalog.file import CatalogFile
from graft_vfs.local.catalog.kept import KeptBranches
from graft_vfs.local.catalog.known_names import KnownNames
from graft_vfs.local.catalog.known_tables import KnownTables
from graft_vfs.local.catalog.remotes import RemoteRows
from graft_vfs.local.catalog.rows import (
    HASH_BYTES,
    INTEGER_MAX,
    U32_MAX,
    BranchRow,
    CommitRow,
    Departure,
    KeptBranch,
    PendingPush,
    VolumeRow,
    branch_row,
    bytes_of,
    id_of,
    local_lsn_of,
    number_of,
    position_of,
    remote_lsn_of,
    text_of,
    volume_row,
)
from graft_vfs.local.head import new_epoch
from graft_vfs.pages import NO_LSN, LocalLsn, RemoteLsn
from graft_vfs.suggestions import did_you_mean

Announce = Callable[[VolumeId, int], None]
"""Called with a volume that loses a tag, and its new epoch, in that transaction; see
`tag_moves`."""


class Catalog:
    """The catalog of one data directory.

    Owner: the engine. Thread rule: any thread; one statement runs at a time. Processes share it.
    """

    def __init__(self, path: Path, *, writable: bool = True, maps: bool = True) -> None:
        """Open, creating it if absent; raises CorruptCatalogError, FutureVersionError."""
        self.path = path
        self._file = CatalogFile(path, writable=writable, maps=maps)
        self.kept = KeptBranches(self._file)
        self.names = KnownNames(self._file)
        self.tables = KnownTables(self._file)
        self.remotes = RemoteRows(self._file)
        self.absences = Absences(self._file)

    @property
    def writable(self) -> bool:
        """Whether the data directory is writable."""
        return self._file.writable

    def require_writable(self) -> None:
        """Raise ReadOnlyError if the data directory is not writable."""
        self._file.require_writable()

    def close(self) -> None:
        """Close the database."""
        self._file.close()

    # Tags -------------------------------------------------------------------------------------

    def tags(self) -> list[tuple[str, VolumeId]]:
        """Return all tags, sorted."""
        return [
            (text_of(tag), id_of(VolumeId, volume))
            for tag, volume in self._file.rows("SELECT tag, volume FROM tags ORDER BY tag")
        ]

    def volume_tags(self, volume: VolumeId) -> list[str]:
        """Return the tags that name a volume, sorted."""
        rows = self._file.rows("SELECT tag FROM tags WHERE volume = ? ORDER BY tag", volume.raw)
        return [text_of(tag) for (tag,) in rows]

    def title(self, volume: VolumeId) -> str:
        """Return what users call a volume, such as `volume 'main' (5rMK…)`; without errors."""
        try:
            tags = self.volume_tags(volume)
        except GraftError:
            tags = []
        return f"volume {tags[0]!r} ({volume})" if tags else f"volume {volume}"

    def tag_volume(self, tag: str) -> VolumeId | None:
        """Return the tag's current volume."""
        rows = self._file.rows("SELECT volume FROM tags WHERE tag = ?", tag)
        return id_of(VolumeId, rows[0][0]) if rows else None

    def no_tag(self, tag: str) -> NotFoundError:
        """Return the error for a tag that names nothing."""
        known = [each for each, _ in self.tags()]
        step = Hint(did_you_mean(tag, known), "see ", Advice.LIST_TAGS)
        if not known:
            clone = Advice.CLONE(LOG=tag, TAG=tag)
            step = Hint("this machine has no tag yet; if a remote has that ref, run ", clone)
        return NotFoundError(f"there is no tag {tag!r}", next_step=step)

    def set_tag(self, tag: str, volume: VolumeId, announce: Announce) -> None:
        """Point a new or existing tag at a volume; raises NotFoundError."""
        with self._file.transaction() as connection:
            self._leave(connection, tag, volume, announce)
            connection.execute(
                "INSERT OR REPLACE INTO tags SELECT ?1, id FROM volumes WHERE id = ?2",
                (tag, volume.raw),
            )
            if not connection.changes():
                raise NotFoundError(
                    f"there is no volume {volume}", next_step=Hint("see ", Advice.LIST_VOLUMES)
                )

    def add_tag(self, tag: str, volume: VolumeId) -> None:
        """Point a new tag at a volume; raises AlreadyExistsError if it names another one."""
        with self._file.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO tags VALUES(?, ?)", (tag, volume.raw))
            named = self.tag_volume(tag)
        if named != volume:
            raise AlreadyExistsError(
                f"tag {tag!r} exists already and names volume {named}",
                next_step="choose another tag",
            )

    def delete_tag(self, tag: str, announce: Announce) -> None:
        """Remove a tag; its volume stays. Raises NotFoundError."""
        with self._file.transaction() as connection:
            if self.tag_volume(tag) is None:
                raise self.no_tag(tag)
            self._leave(connection, tag, None, announce)
            connection.execute("DELETE FROM tags WHERE tag = ?", (tag,))

    def _leave(
        self, connection: apsw.Connection, tag: str, to: VolumeId | None, announce: Announce
    ) -> None:
        """Give the tag's volume, unless it is `to`, a new epoch, and announce it.

        Ordering: the head file first, as at each change of branch. The new epoch makes every
        process with the volume open check whether its tag was moved.
        """
        former = self.tag_volume(tag)
        if former is None or former == to:
            return
        epoch = new_epoch()
        connection.execute("UPDATE volumes SET epoch = ? WHERE id = ?", (epoch, former.raw))
        announce(former, epoch)

    # Volumes and branches ---------------------------------------------------------------------

    def volumes(self) -> list[VolumeRow]:
        """Return all volumes, oldest first."""
        return [volume_row(row) for row in self._file.rows("SELECT * FROM volumes ORDER BY id")]

    def volume(self, volume: VolumeId) -> VolumeRow:
        """Return one volume; raises NotFoundError."""
        rows = self._file.rows("SELECT * FROM volumes WHERE id = ?", volume.raw)
        if not rows:
            raise NotFoundError(
                f"there is no volume {volume}", next_step=Hint("see ", Advice.LIST_VOLUMES)
            )
        return volume_row(rows[0])

    def add_volume(
        self,
        row: VolumeRow,
        branch: BranchRow,
        *,
        tag: str | None,
        replacing: Announce | None = None,
    ) -> VolumeId:
        """Add a volume, its first branch and its tag in one transaction; returns the tag's volume.

        If the tag exists and `replacing` is None, nothing is written and the tag's volume is
        returned: two threads that open the same new tag get the same volume.
        """
        with self._file.transaction() as connection:
            if tag is not None and replacing is None:
                found = self._file.rows("SELECT volume FROM tags WHERE tag = ?", tag)
                if found:
                    return id_of(VolumeId, found[0][0])
            taken = connection.execute(
                "SELECT 1 FROM volumes WHERE id = ?1 UNION SELECT 1 FROM branches WHERE id = ?2",
                (row.id.raw, branch.id.raw),
            ).fetchall()
            if taken:
                raise AlreadyExistsError(f"volume {row.id} or branch {branch.id} exists already")
            _insert_volume(connection, row)
            _insert_branch(connection, branch)
            if tag is not None:
                if replacing is not None:
                    self._leave(connection, tag, row.id, replacing)
                connection.execute("INSERT OR REPLACE INTO tags VALUES(?, ?)", (tag, row.id.raw))
        return row.id

    def branches(self, volume: VolumeId) -> list[BranchRow]:
        """Return the branches of a volume, the current one and kept ones, oldest first."""
        rows = self._file.rows(
            "SELECT * FROM branches WHERE volume = ? ORDER BY created_ms, id", volume.raw
        )
        return [branch_row(row) for row in rows]

    def current(self, volume: VolumeId) -> tuple[VolumeRow, BranchRow]:
        """Return a volume and its current branch as of one instant; raises NotFoundError."""
        rows = self._file.rows(
            "SELECT v.*, b.* FROM volumes v JOIN branches b ON b.id = v.branch WHERE v.id = ?",
            volume.raw,
        )
        if not rows:
            raise NotFoundError(
                f"there is no volume {volume}", next_step=Hint("see ", Advice.LIST_VOLUMES)
            )
        row = rows[0]
        return volume_row(row[:10]), branch_row(row[10:])

    def current_branches(self) -> dict[LogId, BranchRow]:
        """Return the current branch of each volume, by the branch's id."""
        rows = self._file.rows("SELECT b.* FROM volumes v JOIN branches b ON b.id = v.branch")
        return {branch.id: branch for branch in map(branch_row, rows)}

    def delete_volume(self, volume: VolumeId, removed: Callable[[], None]) -> bool:
        """Remove a volume, its branches and its push, unless a tag names it; returns if removed.

        `removed` is called just before the commit.
        """
        with self._file.transaction() as connection:
            if self.volume_tags(volume):
                return False
            for table, column in (
                ("pending_pushes", "volume"),
                ("kept_branches", "volume"),
                ("branches", "volume"),
                ("volumes", "id"),
            ):
                sql = f"DELETE FROM {table} WHERE {column} = ?"  # noqa: S608 - names of ours
                connection.execute(sql, (volume.raw,))
            removed()
        return True

    @contextlib.contextmanager
    def settled(self) -> Iterator[list[VolumeId]]:
        """Yield the volumes while no process adds or removes one."""
        with self._file.transaction():
            yield [row.id for row in self.volumes()]

    def set_remote(self, volume: VolumeId, log_id: LogId) -> None:
        """Change the log that a volume without commits pushes to."""
        self._file.write("UPDATE volumes SET remote = ? WHERE id = ?", log_id.raw, volume.raw)

    def announce_epoch(self, volume: VolumeId, announce: Callable[[int], None]) -> None:
        """Call `announce` with the volume's epoch while no process can switch its branch."""
        with self._file.transaction():
            announce(self.volume(volume).epoch)

    def descriptor(self, volume: VolumeId) -> Descriptor:
        """Return the base of a volume's current branch; raises NotFoundError."""
        row, branch = self.current(volume)
        base = self.commits(branch.log_id, branch.base, branch.base) if branch.base else []
        lives = self.remotes.of_log(row.remote)
        return Descriptor(
            row.remote,
            branch,
            base[0].hash if base else None,
            tuple(self.volume_tags(volume)),
            None if lives is None else lives[1],
            self.kept.all(volume),
        )

    def describe(self, volume: VolumeId, use: Callable[[Descriptor], None]) -> None:
        """Call `use` with a volume's descriptor while no process can switch its branch."""
        with self._file.transaction():
            use(self.descriptor(volume))

    def adopt_volume(
        self,
        row: VolumeRow,
        branch: BranchRow,
        kept: Sequence[KeptBranch],
        *,
        tag: str | None,
        replacing: Announce,
    ) -> None:
        """Adopt a volume as its files describe it, replacing what the catalog has; durable.

        A pending push is removed: it is found on the log if it landed.
        """
        with self._file.transaction() as connection:
            connection.execute("DELETE FROM volumes WHERE id = ?", (row.id.raw,))
            for table in ("branches", "kept_branches", "pending_pushes"):
                sql = f"DELETE FROM {table} WHERE volume = ?"  # noqa: S608 - names of ours
                connection.execute(sql, (row.id.raw,))
            _insert_volume(connection, row)
            _insert_branch(connection, branch)
            for each in kept:
                _insert_branch(connection, each.branch)
                self.kept.add(connection, each)
            if tag is not None:
                self._leave(connection, tag, row.id, replacing)
                connection.execute("INSERT OR REPLACE INTO tags VALUES(?, ?)", (tag, row.id.raw))

    def has_bases(self) -> bool:
        """Return True if a volume is based on a commit of a remote log, or has pushed one."""
        sql = "SELECT 1 FROM branches WHERE base > 0 UNION ALL SELECT 1 FROM commits LIMIT 1"
        return bool(self._file.rows(sql))

    def switch_branch(
        self,
        volume: VolumeId,
        branch: BranchRow,
        *,
        expected: LogId,
        epoch: int,
        synced: tuple[int, int] | None,
        settled_push: bool = False,
        folded: LocalLsn | None = None,
        departure: Departure | None = None,
        announce: Callable[[], None] = lambda: None,
    ) -> bool:
        """Replace the current branch `expected` by `branch`, if still current; atomic, durable.

        `synced` is (local LSN, remote LSN) of the sync that caused it. With `settled_push`, the
        pending push is removed in the same transaction. `folded` is the LSN of the run that
        replaces all commits at the start of a new file: a pending push of some of them is based on
        its start from then on, and nothing is done if it is a push of all of them. All local
        commits of the former branch are on the remote or on the new one, unless there is a
        `departure`; nothing is done then if there is a pending push, of which they may be.
        `announce` is called just before the commit, under SQLite's write lock, so that calls have
        the same order as the switches.
        """
        now = time.time_ns() // 1_000_000
        with self._file.transaction() as connection:
            found = connection.execute(
                "SELECT branch FROM volumes WHERE id = ?", (volume.raw,)
            ).fetchall()
            if not found or found[0][0] != expected.raw:
                return False
            if folded is not None:
                pending = self.pending_push(volume)
                if pending is not None and pending.through_lsn >= folded:
                    return False
                connection.execute(
                    "UPDATE pending_pushes SET offset = ?, checksum = ? WHERE volume = ?",
                    (branch.start.offset, str(branch.start.checksum), volume.raw),
                )
            if departure is not None and not self._depart(connection, volume, departure):
                return False
            if departure is None or departure.kept is None:
                connection.execute("DELETE FROM branches WHERE id = ?", (expected.raw,))
            _insert_branch(connection, branch)
            connection.execute(
                "UPDATE volumes SET branch = ?, epoch = ?, attached = 1 WHERE id = ?",
                (branch.id.raw, epoch, volume.raw),
            )
            if synced is not None:
                connection.execute(
                    "UPDATE volumes SET synced_local = ?, synced_remote = ?, synced_ms = ?, "
                    "last_error = NULL WHERE id = ?",
                    (*synced, now, volume.raw),
                )
            if settled_push:
                connection.execute("DELETE FROM pending_pushes WHERE volume = ?", (volume.raw,))
            announce()
        return True

    def _depart(self, connection: apsw.Connection, volume: VolumeId, departure: Departure) -> bool:
        """Do what a departure says, inside a transaction; False if it is not possible now."""
        released, kept, tag = departure.released, departure.kept, departure.tag
        if self.pending_push(volume) is not None:
            return False
        if tag is not None:
            if self.tag_volume(tag[0]) not in {None, tag[1]}:
                return False
            connection.execute("INSERT OR REPLACE INTO tags VALUES(?, ?)", (tag[0], tag[1].raw))
        if released is not None and not self.kept.remove(connection, volume, released):
            return False
        if kept is not None:
            self.kept.add(connection, kept)
        return True

    def keep_branch(self, kept: KeptBranch) -> None:
        """Keep what the current branch has now, with an id of its own; no branch is switched."""
        with self._file.transaction() as connection:
            _insert_branch(connection, kept.branch)
            self.kept.add(connection, kept)

    def remove_kept(self, volume: VolumeId, branch: LogId) -> bool:
        """Remove a kept branch; False if the volume keeps none of that id. Its file stays."""
        with self._file.transaction() as connection:
            return self.kept.remove(connection, volume, branch)

    def note_sync_error(self, volume: VolumeId, error: GraftError | None) -> None:
        """Store the text of the last sync error for `graft_status`; None clears it."""
        text = None if error is None else summary(error)
        self._file.write("UPDATE volumes SET last_error = ? WHERE id = ?", text, volume.raw)

    # Remote commits ---------------------------------------------------------------------------

    def add_commits(self, log_id: LogId, commits: Sequence[CommitRow]) -> None:
        """Add commits of a remote log; known commits are not changed."""
        with self._file.transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO commits VALUES(?, ?, ?, ?)",
                [(log_id.raw, row.lsn, row.hash, row.header) for row in commits],
            )

    def logs_with_facts(self) -> set[LogId]:
        """Return the logs of which something is known."""
        found = set(self.known_logs())
        for table in filter(self._file.has_table, _OF_LOGS):
            if table != "commits":
                rows = self._file.rows(f"SELECT DISTINCT log FROM {table}")  # noqa: S608 - ours
                found |= {id_of(LogId, raw) for (raw,) in rows}
        return found

    def facts_bytes(self, log_id: LogId) -> int:
        """Return about how many bytes are taken by what is known of a log."""
        tables = filter(self._file.has_table, _OF_LOGS)
        sqls = (f"SELECT total({_OF_LOGS[each]}) FROM {each} WHERE log = ?" for each in tables)  # noqa: S608 - names of ours
        return sum(int(self._file.rows(sql, log_id.raw)[0][0]) for sql in sqls)

    def forget_logs(self, chosen: Callable[[], dict[LogId, int]]) -> dict[LogId, int]:
        """Forget all that is known of logs which no volume needs, as if they were never seen.

        `chosen` returns them while no process adds a volume.
        """
        with self._file.transaction() as connection:
            found = chosen()
            for table in _OF_LOGS:
                connection.executemany(
                    f"DELETE FROM {table} WHERE log = ?",  # noqa: S608 - names of ours
                    [(log_id.raw,) for log_id in found],
                )
        return found

    def spare_bytes(self) -> int:
        """Return the size of unused pages, 0 if they are less than a quarter of the file."""
        return self._file.spare_bytes()

    def shrink(self) -> None:
        """Return unused pages to the file system. Writers of other processes wait meanwhile."""
        self._file.shrink()

    def forget_commits(self, log_id: LogId) -> None:
        """Forget all commits of a remote log; the caller ensures that no volume needs them."""
        self._file.write("DELETE FROM commits WHERE log = ?", log_id.raw)

    def known_logs(self) -> list[LogId]:
        """Return the remote logs with known commits. Cost: one look-up for each."""
        sql = (
            "WITH RECURSIVE known(log) AS (SELECT min(log) FROM commits UNION ALL SELECT "
            "(SELECT min(log) FROM commits c WHERE c.log > known.log) FROM known WHERE log NOTNULL)"
            "SELECT log FROM known WHERE log NOTNULL"
        )
        return [id_of(LogId, log) for (log,) in self._file.rows(sql)]

    def log_ids(self) -> set[LogId]:
        """Return the ids of all known remote logs and local branches."""
        rows = self._file.rows(
            "SELECT remote FROM volumes UNION SELECT id FROM branches "
            "UNION SELECT log FROM branches UNION SELECT log FROM commits"
        )
        return {id_of(LogId, raw) for (raw,) in rows}

    def bases(self) -> list[tuple[VolumeId, LogId]]:
        """Return (volume, log) of the base of each branch, kept ones too; base 0 is left out."""
        rows = self._file.rows("SELECT DISTINCT volume, log FROM branches WHERE base > 0")
        return [(id_of(VolumeId, volume), id_of(LogId, log)) for volume, log in rows]

    def newest_commit(self, log_id: LogId) -> tuple[RemoteLsn, bytes]:
        """Return (LSN, hash) of the newest known commit; (0, zeros) if none is known."""
        rows = self._file.rows(
            "SELECT lsn, hash FROM commits WHERE log = ? ORDER BY lsn DESC LIMIT 1", log_id.raw
        )
        return (
            (remote_lsn_of(rows[0][0]), bytes_of(rows[0][1], HASH_BYTES))
            if rows
            else (NO_LSN, bytes(HASH_BYTES))
        )

    def commits(self, log_id: LogId, first: RemoteLsn, last: RemoteLsn) -> list[CommitRow]:
        """Return the known commits with LSN first..last, both inclusive, ascending."""
        rows = self._file.rows(
            "SELECT lsn, hash, header FROM commits WHERE log = ? AND lsn BETWEEN ? AND ? "
            "ORDER BY lsn",
            log_id.raw,
            min(first, INTEGER_MAX),
            min(last, INTEGER_MAX),
        )
        return [
            CommitRow(remote_lsn_of(lsn, first), bytes_of(digest, HASH_BYTES), bytes_of(header))
            for lsn, digest, header in rows
        ]

    def lacks_commits(self, log_id: LogId, first: RemoteLsn, last: RemoteLsn) -> bool:
        """Return True if a commit with LSN first..last, both inclusive, is not known."""
        sql = "SELECT count(*) FROM commits WHERE log = ? AND lsn BETWEEN ? AND ?"
        rows = self._file.rows(sql, log_id.raw, min(first, INTEGER_MAX), min(last, INTEGER_MAX))
        return number_of(rows[0][0]) < last - first + 1

    def commit_beginnings(
        self, log_id: LogId, first: RemoteLsn, last: RemoteLsn, length: int
    ) -> list[tuple[RemoteLsn, bytes]]:
        """Return (LSN, first `length` bytes of the header) of known commits, newest first."""
        rows = self._file.rows(
            "SELECT lsn, substr(header, 1, ?) FROM commits WHERE log = ? AND lsn BETWEEN ? AND ? "
            "ORDER BY lsn DESC",
            length,
            log_id.raw,
            first,
            min(last, INTEGER_MAX),
        )
        return [(remote_lsn_of(lsn, first), bytes_of(head, length)) for lsn, head in rows]

    def known_after(self, log_id: LogId, lsn: RemoteLsn) -> RemoteLsn:
        """Return the LSN of the oldest known commit after `lsn`; 0 for none."""
        rows = self._file.rows(
            "SELECT min(lsn) FROM commits WHERE log = ? AND lsn > ?",
            log_id.raw,
            min(lsn, INTEGER_MAX),
        )
        return NO_LSN if rows[0][0] is None else remote_lsn_of(rows[0][0])

    def known_before(self, log_id: LogId, lsn: RemoteLsn) -> RemoteLsn:
        """Return the LSN of the newest known commit up to `lsn`; 0 for none."""
        rows = self._file.rows(
            "SELECT max(lsn) FROM commits WHERE log = ? AND lsn <= ?",
            log_id.raw,
            min(lsn, INTEGER_MAX),
        )
        return NO_LSN if rows[0][0] is None else remote_lsn_of(rows[0][0])

    def last_within(
        self, log_id: LogId, first: RemoteLsn, last: RemoteLsn, bytes_max: int
    ) -> RemoteLsn:
        """Return the last LSN such that the known headers from `first` to it fit in the bytes.

        At least `first`, and at most `last`, which is close to it.
        """
        rows = self._file.rows(
            "SELECT max(lsn) FROM (SELECT lsn, sum(length(header)) OVER (ORDER BY lsn) AS total "
            "FROM commits WHERE log = ? AND lsn BETWEEN ? AND ?) WHERE total <= ?",
            log_id.raw,
            min(first, INTEGER_MAX),
            min(last, INTEGER_MAX),
            bytes_max,
        )
        return first if rows[0][0] is None else max(first, remote_lsn_of(rows[0][0]))

    # Pushes -----------------------------------------------------------------------------------

    def add_pending_push(self, push: PendingPush, *, branch: LogId) -> bool:
        """Store a push before its claim is sent; raises AlreadyExistsError if one is pending.

        Returns False, and stores nothing, if `branch` is no longer current: `push.through` is an
        offset in its file.
        """
        with self._file.transaction() as connection:
            if self.volume(push.volume).branch != branch:
                return False
            found = connection.execute(
                "SELECT 1 FROM pending_pushes WHERE volume = ?", (push.volume.raw,)
            ).fetchall()
            if found:
                raise AlreadyExistsError(
                    "an earlier push of this volume has not been settled",
                    next_step="try again: the next sync settles it first",
                )
            connection.execute(
                f"INSERT INTO pending_pushes VALUES({_marks(9)}, 0)",
                (
                    push.volume.raw,
                    push.log_id.raw,
                    push.lsn,
                    push.hash,
                    push.data,
                    push.through_lsn,
                    push.counter,
                    push.through.offset,
                    str(push.through.checksum),
                ),
            )
        return True

    def pending_push(self, volume: VolumeId) -> PendingPush | None:
        """Return the unsettled push."""
        rows = self._file.rows(
            "SELECT log, lsn, hash, data, through_lsn, counter, offset, checksum "
            "FROM pending_pushes WHERE volume = ?",
            volume.raw,
        )
        if not rows:
            return None
        log, lsn, digest, data, through, counter, offset, checksum = rows[0]
        return PendingPush(
            volume=volume,
            log_id=id_of(LogId, log),
            lsn=remote_lsn_of(lsn, 1),
            hash=bytes_of(digest, HASH_BYTES),
            data=bytes_of(data),
            through_lsn=local_lsn_of(through),
            counter=number_of(counter, last=U32_MAX),
            through=position_of(offset, checksum),
        )

    def take_up_pending_push(self, push: PendingPush) -> bool:
        """Record that another process adopts the push; False if it no longer exists."""
        with self._file.transaction() as connection:
            connection.execute(
                "UPDATE pending_pushes SET is_taken_up = 1 WHERE volume = ? AND hash = ?",
                (push.volume.raw, push.hash),
            )
            return connection.changes() > 0

    def withdraw_pending_push(self, push: PendingPush) -> None:
        """Remove a push that was not sent, unless another process has adopted it."""
        self._file.write(
            "DELETE FROM pending_pushes WHERE volume = ? AND hash = ? AND NOT is_taken_up",
            push.volume.raw,
            push.hash,
        )

    def delete_pending_push(self, push: PendingPush) -> None:
        """Remove a push whose LSN belongs to another push."""
        self._file.write(
            "DELETE FROM pending_pushes WHERE volume = ? AND hash = ?", push.volume.raw, push.hash
        )

    # Soundness --------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Return a readable list of faults in the file and its rows; reads all of it."""
        found = [text_of(text) for (text,) in self._file.rows("PRAGMA integrity_check")]
        found = [] if found == ["ok"] else found
        known = {row.id: row for row in self.volumes()}
        found += [
            f"tag {tag!r} names volume {volume}, which does not exist"
            for tag, volume in self.tags()
            if volume not in known
        ]
        found += [
            f"volume {row.id} names branch {row.branch}, which does not exist"
            for row in known.values()
            if row.branch not in {branch.id for branch in self.branches(row.id)}
        ]
        found += [
            f"the kept branch {branch} of volume {volume} does not exist"
            for volume, branch in self.kept.lost()
        ]
        return found

    def knows_log(self, log_id: LogId) -> bool:
        """Return True if a commit of a remote log is known, or a volume pushes to it."""
        sql = "SELECT 1 FROM commits WHERE log = ?1 UNION SELECT 1 FROM volumes WHERE remote = ?1"
        return bool(self._file.rows(sql, log_id.raw))

    # Refs -------------------------------------------------------------------------------------

    def known_ref(self, store: str, name: str) -> LogId | None:
        """Return the log of a known ref of a store; a ref never changes its log."""
        if not self._file.has_table("known_refs"):
            return None
        rows = self._file.rows(
            "SELECT log FROM known_refs WHERE store = ? AND name = ?", store, name
        )
        return id_of(LogId, rows[0][0]) if rows else None

    def known_refs(self, store: str) -> list[tuple[str, LogId]]:
        """Return (name, log) of the known refs of a store."""
        if not self._file.has_table("known_refs"):
            return []
        rows = self._file.rows("SELECT name, log FROM known_refs WHERE store = ?", store)
        return [(name, id_of(LogId, log)) for name, log in rows]

    def all_known_refs(self) -> list[tuple[str, LogId]]:
        """Return the (name, log) of the refs of all stores that were seen."""
        if not self._file.has_table("known_refs"):
            return []
        rows = self._file.rows("SELECT name, log FROM known_refs")
        return [(text_of(name), id_of(LogId, log)) for name, log in rows]

    def keep_ref(self, store: str, name: str, log_id: LogId) -> None:
        """Store a ref, if the catalog is writable, so that opening a tag requests it only once."""
        if not self._file.writable or self.known_ref(store, name) == log_id:
            return
        self._file.write(
            "INSERT OR REPLACE INTO known_refs VALUES(?, ?, ?)", store, name, log_id.raw
        )

    # Probes -----------------------------------------------------------------------------------

    def is_probed(self, store: str) -> bool:
        """Return True if this store is known to honour create-only conditions."""
        return bool(self._file.rows("SELECT 1 FROM probed_stores WHERE store = ?", store))

    def set_probed(self, store: str) -> None:
        """Record that this store honours create-only conditions."""
        now = time.time_ns() // 1_000_000
        self._file.write("INSERT OR REPLACE INTO probed_stores VALUES(?, ?)", store, now)


_OF_LOGS = {
    "commits": "length(header) + 64",
    "known_names": "length(object) + 64",
    "known_refs": "64",
    "log_absences": "64",
    "log_remotes": "64",
    "page_tables": "length",
    "parents": "64",
}
"""The tables of what is known of logs, and about how many bytes a row takes."""


def _insert_volume(connection: apsw.Connection, row: VolumeRow) -> None:
    connection.execute(
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


def _insert_branch(connection: apsw.Connection, branch: BranchRow) -> None:
    connection.execute(
        f"INSERT INTO branches VALUES({_marks(11)})",
        (
            branch.id.raw,
            branch.volume.raw,
            branch.log_id.raw,
            branch.base,
            branch.counter,
            branch.first_lsn,
            branch.file,
            branch.start.offset,
            str(branch.start.checksum),
            branch.created_ms,
            branch.lineage,
        ),
    )


def _marks(count: int) -> str:
    return ", ".join("?" * count)
