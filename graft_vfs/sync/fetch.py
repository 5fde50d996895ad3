"""Fetch: learn which commits a remote log has. Moves no branch."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import NotFoundError
from graft_vfs.ids import LogId
from graft_vfs.local.cache.arena import FrameKey, commit_source
from graft_vfs.local.catalog.rows import CommitRow
from graft_vfs.pages import RemoteLsn
from graft_vfs.remote.commit_reader import CommitRecord
from graft_vfs.remote.log import RemoteLog
from graft_vfs.reports import Progress, Report, commits_text
from graft_vfs.sync.parents import read_parents
from graft_vfs.sync.proof import prove, told_from_damage
from graft_vfs.view.logs import Logs

_logger = logging.getLogger(__name__)

_BATCH_COMMITS = 512
_BATCH_BYTES = 16 << 20
"""Headers that are in memory before they go into the catalog."""


@dataclass(frozen=True, slots=True, repr=False)
class Fetched(Report):
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


def fetch_log(
    logs: Logs, log_id: LogId, *, lists: bool = False, progress: Progress | None = None
) -> Fetched:
    """Make all commits of a log known, and those of the logs that it was forked from.

    One request if nothing is new, and another the first time in an engine (see `proof`); two for
    one new commit, whose pages that came with them go into the page cache; more as
    `RemoteLog.probe_next` says. A fork costs one request for each commit
    that its parents have up to where it begins. With `lists` a listing confirms which commit is the
    newest, so that a missing one after the known ones is found. `progress` counts commits.

    What was verified before a failure stays known. Raises StoreError, CorruptObjectError for a
    broken chain, and HistoryMismatchError if the remote does not have what is known.
    """
    before, digest = logs.catalog.newest_commit(log_id)
    remote = logs.log(log_id)
    records = remote.probe_next(before, digest if before else None, lists=lists, progress=progress)
    if before and not lists:
        records = _keeping_frames(logs, remote, records)
    elif not before:
        records = _after_parents(logs, records, progress)
    with told_from_damage(logs, log_id) if before else contextlib.nullcontext():
        newest = _learn(logs, log_id, before, records)
    if newest > before:
        # What is new names the hash of what was known.
        logs.note_proved(log_id)
        _logger.info("log %s: %d new commits, now at LSN %d", log_id, newest - before, newest)
    elif before:
        prove(logs, log_id)
    logs.note_asked(log_id)
    return Fetched(log_id, before, newest)


def _learn(
    logs: Logs, log_id: LogId, newest: RemoteLsn, records: Iterable[CommitRecord]
) -> RemoteLsn:
    """Put verified commits into the catalog as they come; returns the newest known LSN."""
    rows: list[CommitRow] = []
    size = 0
    try:
        for record in records:
            header = record.header
            rows.append(CommitRow(header.lsn, header.hash, record.encoded))
            size += len(record.encoded)
            newest = header.lsn
            if len(rows) >= _BATCH_COMMITS or size >= _BATCH_BYTES:
                logs.catalog.add_commits(log_id, rows)
                rows, size = [], 0
    finally:
        # Also if the next one fails: these are verified, and need not be fetched again.
        if rows:
            logs.catalog.add_commits(log_id, rows)
    return newest


def _keeping_frames(
    logs: Logs, remote: RemoteLog, records: Iterable[CommitRecord]
) -> Iterator[CommitRecord]:
    """Put the frames that came with the headers into the page cache: a follower reads them next."""
    for record in records:
        header = record.header
        first = FrameKey(commit_source(header.lsn, header.hash), 0)
        logs.cache(header.log_id).add_all(first, remote.frames_behind(record))
        yield record


def _after_parents(
    logs: Logs, records: Iterable[CommitRecord], progress: Progress | None
) -> Iterator[CommitRecord]:
    """Yield the commits of a log from its first on, once the logs that it stands on are known."""
    for record in records:
        if record.header.parent_log is not None:
            for parent, needed in read_parents(logs, record.header, progress):
                _learn(logs, parent.log.log_id, parent.known, needed)
                if logs.catalog.newest_commit(parent.log.log_id)[0] == parent.end:
                    # It was read to see that the fork stands on it.
                    logs.note_proved(parent.log.log_id)
        yield record


def require_commits(
    logs: Logs, log_id: LogId, lsn: RemoteLsn | None, *, progress: Progress | None = None
) -> RemoteLsn:
    """Return `lsn`, or the newest one for None, once its commits are known.

    No request if they are. Raises NotFoundError if the log has no such commit.
    """
    known, _ = logs.catalog.newest_commit(log_id)
    if lsn is None or lsn > known:
        # A clone that failed before keeps what it read, and must find the same damage again.
        known = fetch_log(logs, log_id, lists=True, progress=progress).newest
    wanted = known if lsn is None else lsn
    if not 1 <= wanted <= known:
        raise NotFoundError(
            f"log {log_id} has no commit {wanted}, its newest is {known}"
            if known
            else f"the remote has no log {log_id}",
            next_step=Hint(
                "see ", Advice.LIST_LOGS, " for its logs, and ", Advice.LIST_COMMITS, " for LSNs"
            ),
        )
    return wanted
