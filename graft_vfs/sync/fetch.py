"""Fetch: learn which commits a remote log has. Moves no branch."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from graft_vfs.errors import CorruptObjectError, NotFoundError
from graft_vfs.ids import LogId
from graft_vfs.local.catalog_rows import CommitRow
from graft_vfs.pages import RemoteLsn
from graft_vfs.remote_log import CommitRecord
from graft_vfs.reports import Progress, commits_text
from graft_vfs.volume.logs import Logs

_logger = logging.getLogger(__name__)

_FORKS_MAX = 128
"""A log and its parents are read one inside the other, so that the stack bounds how many."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch found: the newest LSN that was known `before`, and the `newest` now."""

    log: LogId
    before: RemoteLsn
    newest: RemoteLsn

    @property
    def commits(self) -> int:
        """How many commits became known."""
        return self.newest - self.before

    def __str__(self) -> str:
        if not self.commits:
            return f"Nothing new on remote log {self.log} (LSN {self.newest})."
        return (
            f"Fetched {commits_text(self.commits)} of remote log {self.log}, "
            f"now at LSN {self.newest}."
        )


def fetch_log(logs: Logs, log: LogId, *, progress: Progress | None = None) -> Fetched:
    """Make all commits of a log known, or none if that fails.

    One request if nothing is new. `progress` counts commits. Raises StoreError, and
    CorruptObjectError for a broken chain.
    """
    return _fetch(logs, log, (), progress)


def _fetch(logs: Logs, log: LogId, forks: tuple[LogId, ...], progress: Progress | None) -> Fetched:
    """Fetch a log that `forks` stand on, one on the other."""
    before, digest = logs.catalog.newest_commit(log)
    records = logs.log(log).probe_next(before, digest if before else None, progress=progress)
    for record in records[:1]:
        if record.header.parent_log is not None:
            _fetch_parent(logs, record, (*forks, log), progress)
    if records and not before:
        # Pages that stayed when the catalog was lost may be those of another history of this log.
        logs.cache(log).clear()
    if records:
        rows = [CommitRow(item.header.lsn, item.header.hash, item.encoded) for item in records]
        logs.catalog.add_commits(log, rows)
        _logger.info("log %s: %d new commits, now at LSN %d", log, len(rows), before + len(rows))
    return Fetched(log, before, RemoteLsn(before + len(records)))


def _fetch_parent(
    logs: Logs, record: CommitRecord, forks: tuple[LogId, ...], progress: Progress | None
) -> None:
    """Fetch the log that a forked log stands on, and check that it still is that log."""
    header = record.header
    assert header.parent_log is not None
    if header.parent_log in forks or len(forks) > _FORKS_MAX:
        raise CorruptObjectError(
            f"log {forks[0]} claims to be forked from itself, or through more than {_FORKS_MAX} "
            "logs",
            next_step="check who else writes to the remote, or clone another log",
        )
    if logs.header(header.parent_log, header.parent_lsn) is None:
        _fetch(logs, header.parent_log, forks, progress)
    parent = logs.header(header.parent_log, header.parent_lsn)
    if parent is None or parent.hash != header.previous_hash:
        raise CorruptObjectError(
            f"log {header.log} was forked from {header.parent_log}:{header.parent_lsn}, "
            "which the remote does not have as it was then",
            next_step="restore the objects of the parent log",
        )


def require_commits(
    logs: Logs, log: LogId, lsn: RemoteLsn | None, *, progress: Progress | None = None
) -> RemoteLsn:
    """Return `lsn`, or the newest one for None, once its commits are known.

    No request if they are. Raises NotFoundError if the log has no such commit.
    """
    known, _ = logs.catalog.newest_commit(log)
    if lsn is None or lsn > known:
        known = fetch_log(logs, log, progress=progress).newest
    wanted = known if lsn is None else lsn
    if not 1 <= wanted <= known:
        raise NotFoundError(
            f"log {log} has no commit {wanted}, its newest is {known}"
            if known
            else f"the remote has no log {log}",
            next_step="see `graft remote ls`, and graft_log for the LSNs",
        )
    return wanted
