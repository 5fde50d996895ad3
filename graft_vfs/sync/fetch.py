"""Fetch: reads the new commits of a remote log. Moves no branch."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import ExpiredError, NotFoundError
from graft_vfs.ids import LogId
from graft_vfs.local.cache.arena import FrameKey, commit_source
from graft_vfs.local.catalog.rows import CommitRow
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.remote.commit_reader import CommitRecord
from graft_vfs.remote.log import RemoteLog
from graft_vfs.reports import Progress, Report, commits_text
from graft_vfs.sync.headers import explained
from graft_vfs.sync.parents import read_parents
from graft_vfs.sync.proof import Standing, examine, mismatch, prove, told_from_damage
from graft_vfs.sync.tables import jump, make_table
from graft_vfs.view.logs import Logs

_logger = logging.getLogger(__name__)

_BATCH_COMMITS = 512
_BATCH_BYTES = 16 << 20
"""The number of headers in memory before they are written to the catalog."""


@dataclass(frozen=True, slots=True, repr=False)
class Fetched(Report):
    """The result of a fetch: the newest known LSN `before`, and the `newest` now."""

    log: LogId
    before: RemoteLsn
    newest: RemoteLsn

    @property
    def commits(self) -> int:
        """The number of fetched commits."""
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
    """Fetch all commits of a log and of its ancestors into the catalog.

    One request if nothing is new, and another the first time in an engine (see `proof`); two for
    one new commit, whose inline pages go into the page cache; for more, see `RemoteLog.probe_next`.
    If there are many, tables are read in place of most of them (see `tables`), and so it is with
    the parents of a fork. Old commits are then not in the catalog. With `lists`, a
    listing confirms the newest commit, so that a missing one after the known ones is detected.
    `progress` counts commits.

    Commits that were verified before a failure stay known. Raises StoreError, CorruptObjectError
    for a broken chain, HistoryMismatchError if the remote lacks the known history, ExpiredError if
    its retention has deleted the commits after the known ones. For a log with retention, there may
    be more requests, see `belief`.
    """
    before, digest = logs.catalog.newest_commit(log_id)
    remote, belief = logs.log(log_id), logs.belief(log_id, before)
    records = remote.probe_next(
        before,
        digest if before else None,
        lists=lists,
        jump=lambda known, last: belief.join(jump(logs, log_id, known, last)),
        progress=progress,
        believed=belief.believed,
    )
    if before and not lists:
        records = _keeping_frames(logs, remote, records)
    elif not before:
        records = _after_parents(logs, records, progress)
    with told_from_damage(logs, log_id) if before else contextlib.nullcontext():
        try:
            newest = _learn(logs, log_id, before, records)
        except ExpiredError as error:
            newest = _rejoin(logs, log_id, error)
    if newest > before and not remote.store.can_list:
        logs.belief(log_id, newest).require_newest()
    if newest > before:
        # The first new commit names the hash of the last known one.
        logs.note_proved(log_id)
        make_table(logs, log_id)
        _logger.info("log %s: %d new commits, now at LSN %d", log_id, newest - before, newest)
    elif before:
        prove(logs, log_id)
    if newest and not logs.can_view(log_id, newest):
        # A table that it needs is gone.
        require_view(logs, log_id, newest)
    logs.note_asked(log_id)
    return Fetched(log_id, before, newest)


def _rejoin(logs: Logs, log_id: LogId, error: ExpiredError) -> RemoteLsn:
    """Learn a log anew whose next commits were deleted, as a clone does; returns its newest LSN.

    What is known stays. Raises `error` if no table has what was deleted, HistoryMismatchError if
    the remote has another history.
    """
    known, _ = logs.catalog.newest_commit(log_id)
    state = examine(logs, log_id)
    if state.standing is not Standing.SAME:
        raise mismatch(state) from error
    remote, belief = logs.log(log_id), logs.belief(log_id, NO_LSN)
    last = remote.newest_lsn(known)
    records = remote.read_to(
        last,
        NO_LSN,
        None,
        jump=lambda first, last: belief.join(jump(logs, log_id, first, last, is_needed=True)),
        progress=lambda _: None,
        believed=belief.believed,
    )
    # Closed at once: threads that end when they are garbage can block the one that collects it.
    with contextlib.closing(records):
        first = next(records, None)
        if first is None or not known < first.header.lsn <= last:
            # No table is as new as that.
            raise error
        _logger.info("log %s has moved on: joined again at LSN %d", log_id, last)
        return _learn(logs, log_id, known, itertools.chain([first], records))


def _learn(
    logs: Logs, log_id: LogId, newest: RemoteLsn, records: Iterable[CommitRecord]
) -> RemoteLsn:
    """Write verified commits to the catalog as they arrive; returns the newest known LSN."""
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
        # Even if the next one fails: these are verified, and need not be fetched again.
        if rows:
            logs.catalog.add_commits(log_id, rows)
    return newest


def _keeping_frames(
    logs: Logs, remote: RemoteLog, records: Iterable[CommitRecord]
) -> Iterator[CommitRecord]:
    """Cache the frames that came with the headers: a replica usually reads them next."""
    for record in records:
        header = record.header
        first = FrameKey(commit_source(header.lsn, header.hash), 0)
        logs.cache(header.log_id).add_all(first, remote.frames_behind(record))
        yield record


def _after_parents(
    logs: Logs, records: Iterable[CommitRecord], progress: Progress | None
) -> Iterator[CommitRecord]:
    """Yield all commits of a log, after those of its ancestors are known."""
    for record in records:
        header = record.header
        if header.parent_log is not None:
            for parent, needed in read_parents(logs, record.header, progress):
                _learn(logs, parent.log.log_id, parent.known, needed)
                if logs.catalog.newest_commit(parent.log.log_id)[0] == parent.end:
                    # It was read to verify the fork.
                    logs.note_proved(parent.log.log_id)
                make_table(logs, parent.log.log_id)
            logs.catalog.tables.keep_parent(header.log_id, header.parent_log, header.parent_lsn)
        yield record


def require_commits(
    logs: Logs, log_id: LogId, lsn: RemoteLsn | None, *, progress: Progress | None = None
) -> RemoteLsn:
    """Return `lsn`, or the newest one for None, once its commits are known.

    Those before it may be known by tables only; see `headers` and `require_view`. No request if
    they are. Raises NotFoundError if the log has no such commit.
    """
    known, _ = logs.catalog.newest_commit(log_id)
    if lsn is None or lsn > known:
        # A failed clone keeps the commits it has read, and a retry must find the same damage.
        known = fetch_log(logs, log_id, lists=True, progress=progress).newest
    wanted = known if lsn is None else lsn
    if not 1 <= wanted <= known:
        raise NotFoundError(
            f"log {log_id} has no commit {wanted}; its newest is {known}"
            if known
            else f"the remote has no log {log_id}",
            next_step=Hint(
                "see ", Advice.LIST_LOGS, " for its logs, and ", Advice.LIST_COMMITS, " for LSNs"
            ),
        )
    return wanted


def require_view(
    logs: Logs, log_id: LogId, lsn: RemoteLsn, *, progress: Progress | None = None
) -> None:
    """Ensure that the commit at an LSN and the view at it are known, if the log has that commit.

    No request if they are. Otherwise as many as a clone at this LSN, without the listing of
    commits. `progress` counts commits.
    """
    if not lsn:
        return
    if logs.can_view(log_id, lsn) and not logs.catalog.lacks_commits(log_id, lsn, lsn):
        return
    logs.catalog.require_writable()
    try:
        _learn_view(logs, log_id, lsn, progress, is_needed=False)
    except ExpiredError:
        # What retention keeps of its deleted commits is in tables.
        try:
            _learn_view(logs, log_id, lsn, progress, is_needed=True)
        except ExpiredError as error:
            raise ExpiredError(
                f"LSN {lsn} of log {log_id} was deleted by the log's retention",
                next_step=error.hint,
            ) from error


def _learn_view(
    logs: Logs, log_id: LogId, lsn: RemoteLsn, progress: Progress | None, *, is_needed: bool
) -> None:
    records: Iterator[CommitRecord] = logs.log(log_id).read_to(
        lsn,
        NO_LSN,
        None,
        jump=functools.partial(jump, logs, log_id, is_needed=is_needed),
        progress=lambda found: None if progress is None else progress(found, lsn),
    )
    newest, _ = logs.catalog.newest_commit(log_id)
    records = logs.belief(log_id, newest).confirmed(RemoteLsn(1), records)
    with explained(logs, log_id, lsn), told_from_damage(logs, log_id):
        prove(logs, log_id)
        _learn(logs, log_id, NO_LSN, _after_parents(logs, records, progress))
