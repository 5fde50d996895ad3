"""Rebase: the local commits of a volume that diverged, merged onto the newest remote commit.

The merged database is written to a new branch file, which no other process can see; then one
catalog transaction makes it current and keeps the former branch. So a crash leaves the one or the
other, and nothing that was committed is lost.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from graft_vfs.errors import BusyError, DivergedError, LocalStorageError, PageSizeError
from graft_vfs.format.commit import MESSAGE_BYTES_MAX
from graft_vfs.history.names import remote_snapshot
from graft_vfs.ids import LogId
from graft_vfs.local.catalog.rows import Departure
from graft_vfs.local.messages import Messages
from graft_vfs.merge.conflicts import Choices, Conflicting, Merged
from graft_vfs.merge.merge import merged
from graft_vfs.merge.sides import Prepare, Snapshots, no_preparation
from graft_vfs.pager.scratch import Scratch
from graft_vfs.pages import NO_LSN, LocalLsn, RemoteLsn
from graft_vfs.reports import Progress, Report, commits_text
from graft_vfs.sqlite_format.header import COUNTER_MAX
from graft_vfs.sync.fetch import Fetched, fetch_log, require_view
from graft_vfs.sync.pull import Pulled, pull
from graft_vfs.sync.settle import WAIT_SECONDS
from graft_vfs.volume.context import Context, Opened
from graft_vfs.volume.kept import as_kept
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.switching import Candidate, new_file, prepare, remove_unused_files, switch
from graft_vfs.volume.volume import Volume

_logger = logging.getLogger(__name__)

_RUN_BYTES = 256 << 10


@dataclass(frozen=True, slots=True, repr=False)
class Rebased(Report):
    """Local commits on LSN `before` of `log` that were merged onto LSN `lsn`.

    `local_commits` became one, local `local_lsn`; 0 if theirs had all of it already. They are kept
    as branch `kept`, None if there were none.
    """

    log: LogId
    before: RemoteLsn
    lsn: RemoteLsn
    local_commits: int
    local_lsn: LocalLsn
    kept: LogId | None
    merged: Merged

    def __str__(self) -> str:
        commits = commits_text(self.local_commits)
        text = f"Rebased {commits} from LSN {self.before} onto LSN {self.lsn} of log {self.log}."
        kept = f"\nThe former commits are kept as branch {self.kept}." if self.kept else ""
        return f"{text}\n{self.merged}{kept}"


def rebase(
    context: Context,
    opened: Opened,
    choices: Choices,
    *,
    prepared: Prepare = no_preparation,
    progress: Progress | None = None,
    wait_seconds: float = WAIT_SECONDS,
) -> Pulled | Rebased | Conflicting:
    """Pull, and merge the local commits of a volume that diverged onto the newest remote commit.

    Without divergence it is a pull. With conflicts that `choices` do not resolve, nothing is moved
    and they are returned. Other connections cannot write until it returns. Durable on return.
    Requests and errors are those of a pull and of `merge.merged`. `prepared` registers the
    application's functions and collations.
    """
    while True:
        try:
            return pull(context, opened, progress=progress, wait_seconds=wait_seconds)
        except DivergedError:
            done = _rebase_diverged(context, opened.volume, choices, prepared)
        if done is not None:
            _logger.info("volume %s: %s", opened.volume.id, done)
            return done


def try_rebase(
    context: Context,
    opened: Opened,
    choices: Choices,
    *,
    prepared: Prepare = no_preparation,
    progress: Progress | None = None,
) -> Fetched | Merged | Conflicting:
    """Fetch, and return what a rebase would do, or Fetched without divergence; moves nothing.

    Commits that a push may have published are taken for local ones.
    """
    volume, remote = opened.volume, context.catalog.volume(opened.volume.id).remote
    fetched = fetch_log(context.logs, remote, progress=progress)
    with volume.pinned() as ours:
        snapshots = _snapshots(context, volume, ours, remote, fetched.newest)
        if snapshots is None:
            return fetched
        with merged(volume, snapshots, choices, prepared) as merge:
            return merge.report


def _snapshots(
    context: Context, volume: Volume, ours: Snapshot, remote: LogId, newest: RemoteLsn
) -> Snapshots | None:
    """Return base, ours and theirs; None if the volume has not diverged from the newest commit."""
    row, logs = ours.branch.row, context.logs
    base = row.base if row.log_id == remote else NO_LSN
    if newest <= base or (row.log_id == remote and not ours.local_commits):
        return None
    require_view(logs, row.log_id, row.base)
    theirs = remote_snapshot(volume, logs, remote, newest)
    if ours.page_size != theirs.page_size:
        raise PageSizeError(
            f"the remote log has pages of {theirs.page_size} bytes, the volume of {ours.page_size}",
            next_step="clone the log under another tag, and copy the rows",
        )
    return Snapshots(remote_snapshot(volume, logs, row.log_id, row.base), ours, theirs)


def _rebase_diverged(
    context: Context, volume: Volume, choices: Choices, prepared: Prepare
) -> Rebased | Conflicting | None:
    """Merge onto the newest known commit; None if the volume has not diverged from it any more."""
    remote = context.catalog.volume(volume.id).remote
    newest, _ = context.catalog.newest_commit(remote)
    with volume.writing() as ours:
        row = ours.branch.row
        snapshots = _snapshots(context, volume, ours, remote, newest)
        if snapshots is None:
            return None
        with volume.pinned(), merged(volume, snapshots, choices, prepared) as merge:
            if merge.scratch is None:
                assert isinstance(merge.report, Conflicting)
                return merge.report
            assert isinstance(merge.report, Merged)
            candidate = _candidate(volume, ours, remote, newest, merge.scratch)
            left = as_kept(volume, ours, "rebase")
            if not switch(volume, candidate, synced=True, departure=Departure(left)):
                raise BusyError(
                    f"another process has moved or is pushing volume {volume.id}",
                    next_step="try again",
                )
        is_commit = volume.begin().local_commits > 0
        if is_commit:
            _keep_messages(volume, ours, candidate)
        remove_unused_files(volume)
        left_id = None if left is None else left.id
        local_lsn = candidate.row.first_lsn if is_commit else LocalLsn(0)
        return Rebased(
            remote, row.base, newest, ours.local_commits, local_lsn, left_id, merge.report
        )


def _candidate(
    volume: Volume, ours: Snapshot, log_id: LogId, base: RemoteLsn, scratch: Scratch
) -> Candidate:
    """Return a branch on the base with the scratch database as its only commit, durable."""
    candidate = prepare(
        ours.branch.row,
        log_id=log_id,
        base=base,
        counter=(ours.counter + 1) & COUNTER_MAX,
        through=ours.lsn,
        end=ours.end,
        departs=True,
    )
    pages = scratch.changed_pages()
    first = next(pages, None)
    if first is None:
        return candidate
    row, size = candidate.row, scratch.page_size
    run = max(1, _RUN_BYTES // size)
    with new_file(volume) as branch_log:
        at = branch_log.start
        for some in _runs(itertools.chain([first], pages), run):
            numbers, images = zip(*some, strict=True)
            _, at = branch_log.append(at, row.first_lsn, numbers, images, size, None)
        branch_log.sync(at.offset)
        commit = scratch.page_count, (row.counter + 1) & COUNTER_MAX
        branch_log.append(at, row.first_lsn, [], [], size, commit, True)
        return candidate.moved_to(branch_log)


def _runs(pages: Iterator[tuple[int, bytes]], length: int) -> Iterator[list[tuple[int, bytes]]]:
    while some := list(itertools.islice(pages, length)):
        yield some


def _keep_messages(volume: Volume, ours: Snapshot, candidate: Candidate) -> None:
    """Give the merged commit the messages of the former ones; a failure loses only these."""
    messages, row = Messages(volume.directory), ours.branch.row
    text = messages.joined(row.first_lsn, ours.lsn, MESSAGE_BYTES_MAX)
    if not text:
        return
    first = min(branch.first_lsn for branch in volume.catalog.branches(volume.id))
    try:
        messages.add(candidate.row.first_lsn, text, first=first)
    except LocalStorageError as error:
        _logger.warning("messages of volume %s are not kept: %s", volume.id, error)
