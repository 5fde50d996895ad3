"""Kept branches: how a branch is left, read while it is not current, and made current again.

A branch is a range of a branch file, and its bytes never change. So to keep one takes no copy: the
catalog, and `volume.json`, say where it ends. Its file may go on with the commits of later
branches, and is removed when no branch names it any more. If it becomes current again, its commits
are copied to a new file: file numbers, local LSNs and change counters only ever grow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable

from graft_vfs.errors import (
    CorruptLogError,
    GraftError,
    HistoryMismatchError,
    LocalStorageError,
)
from graft_vfs.ids import LogId
from graft_vfs.local.branch_log import BranchLog
from graft_vfs.local.catalog.rows import BranchRow, KeptBranch
from graft_vfs.local.messages import Messages
from graft_vfs.pages import LocalLsn, RemoteLsn
from graft_vfs.sqlite_format.header import COUNTER_MAX
from graft_vfs.view.remote_view import RemoteView
from graft_vfs.volume.current_branch import CurrentBranch
from graft_vfs.volume.page_index import PageIndex
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.switching import Candidate, new_file, prepare, remove_unused_files

_logger = logging.getLogger(__name__)


def as_kept(volume: CurrentBranch, snapshot: Snapshot, reason: str) -> KeptBranch | None:
    """Return what is to be kept of the current branch, durable; None without local commits.

    The caller holds the writer lock since `snapshot`, the newest one. `reason` is the verb.
    """
    if not snapshot.local_commits:
        return None
    # A branch that begins where it ends may get commits that are durable at once.
    snapshot.branch.branch_log.sync(snapshot.end.offset)
    row = snapshot.branch.row
    return KeptBranch(
        branch=row,
        last_lsn=snapshot.lsn,
        end=snapshot.end,
        base_hash=_base_hash(volume, row),
        reason=reason,
        kept_ms=time.time_ns() // 1_000_000,
    )


def keep_copy(volume: CurrentBranch, snapshot: Snapshot, reason: str) -> LogId | None:
    """Keep what the current branch has now, and go on with it; returns the kept branch's id.

    None without local commits. Durable on return. The caller holds the writer lock since
    `snapshot`.
    """
    kept = as_kept(volume, snapshot, reason)
    if kept is None:
        return None
    branch = dataclasses.replace(kept.branch, id=LogId.new())
    volume.catalog.keep_branch(dataclasses.replace(kept, branch=branch))
    volume.description.follow()
    return branch.id


def kept_snapshot(
    volume: CurrentBranch, kept: KeptBranch, view: Callable[[LogId, RemoteLsn], RemoteView]
) -> Snapshot:
    """Return the newest commit of a kept branch as a snapshot of its volume. No request.

    The commit that it is based on is known. Images are verified when they are first read. Raises
    CorruptLogError, HistoryMismatchError if the base is another commit now, LocalStorageError.
    """
    row = kept.branch
    _require_base(volume, kept)
    branch_log = _log_of(volume, row)
    index = PageIndex(row, branch_log)
    for chunks in branch_log.transactions(row.start, row.first_lsn):
        for chunk in chunks:
            index.apply_unproved(chunk)
        if chunks[-1].after == kept.end:
            return Snapshot.after(index, view(row.log_id, row.base), chunks[-1])
    raise _damage(branch_log, kept)


def again(volume: CurrentBranch, snapshot: Snapshot, kept: KeptBranch) -> Candidate:
    """Return a kept branch as a candidate, with its commits in a new file, where they are durable.

    Its commits get the LSNs after those of `snapshot`, the newest, since which the caller holds the
    writer lock. Raises CorruptLogError, HistoryMismatchError, LocalStorageError.
    """
    _require_base(volume, kept)
    row, counter = kept.branch, (snapshot.counter + 1) & COUNTER_MAX
    candidate = prepare(
        snapshot.branch.row,
        log_id=row.log_id,
        base=row.base,
        counter=counter,
        through=snapshot.lsn,
        end=snapshot.end,
        departs=True,
    )
    return copied(volume, candidate, _log_of(volume, row), kept)


def copied(
    volume: CurrentBranch, candidate: Candidate, source: BranchLog, kept: KeptBranch
) -> Candidate:
    """Return a candidate that has copies of a kept branch's commits as its own, in a new file."""
    row, to = kept.branch, candidate.row
    later = to.first_lsn - row.first_lsn, to.counter - row.counter
    with new_file(volume, folded=source.begins_with_run(row.start)) as branch_log:
        end = branch_log.copy_from(source, row.start, row.first_lsn, until=kept.end, later=later)
        if end != kept.end:
            raise _damage(source, kept)
        return candidate.moved_to(branch_log)


def remove_kept(volume: CurrentBranch, branch: LogId) -> bool:
    """Remove a kept branch; False if there is none. Durable on return. Its file stays."""
    if not volume.catalog.remove_kept(volume.id, branch):
        return False
    volume.description.follow()
    return True


def release(volume: CurrentBranch, branch: LogId) -> bool:
    """Remove a kept branch with its commits; False if there is none. Durable on return.

    The disk space of its file is released now if no branch needs that and no process is writing;
    otherwise when the volume is next opened.
    """
    if not remove_kept(volume, branch):
        return False
    try:
        lock = volume.try_writing()
        if lock is not None:
            with contextlib.closing(lock):
                remove_unused_files(volume)
    except GraftError as error:
        _logger.warning("volume %s: no space could be released yet: %s", volume.id, error)
    return True


def copied_lsn(candidate: Candidate, kept: KeptBranch, lsn: LocalLsn) -> LocalLsn:
    """Return the LSN that a commit of a kept branch has as a commit of a copy."""
    return LocalLsn(lsn - kept.branch.first_lsn + candidate.row.first_lsn)


def copy_messages(
    source: CurrentBranch, kept: KeptBranch, target: CurrentBranch, candidate: Candidate
) -> None:
    """Give the copies of commits the messages of these; a failure loses only messages."""
    messages = Messages(target.directory)
    first = min(branch.first_lsn for branch in target.catalog.branches(target.id))
    found = Messages(source.directory).within(kept.branch.first_lsn, kept.last_lsn)
    try:
        for lsn, message in found:
            messages.add(copied_lsn(candidate, kept, lsn), message, first=first)
    except LocalStorageError as error:
        _logger.warning("messages of branch %s are not kept: %s", candidate.row.id, error)


def _log_of(volume: CurrentBranch, row: BranchRow) -> BranchLog:
    path = volume.directory / row.file
    return BranchLog(path, volume=volume.id, writable=False, maps=volume.maps)


def _base_hash(volume: CurrentBranch, row: BranchRow) -> bytes | None:
    found = volume.catalog.commits(row.log_id, row.base, row.base) if row.base else []
    return found[0].hash if found else None


def _require_base(volume: CurrentBranch, kept: KeptBranch) -> None:
    now = _base_hash(volume, kept.branch)
    if kept.base_hash is not None and now is not None and now != kept.base_hash:
        raise HistoryMismatchError(
            f"the kept branch {kept.id} is based on commit {kept.base_hash.hex()[:16]} as LSN "
            f"{kept.branch.base} of log {kept.branch.log_id}, which has {now.hex()[:16]} there now",
            next_step="check the [remote] table of graft.toml; if the remote's history was "
            "replaced, the base of these commits no longer exists",
        )


def _damage(branch_log: BranchLog, kept: KeptBranch) -> CorruptLogError:
    return CorruptLogError(
        f"{branch_log.path.name}: commits of the kept branch {kept.id} are damaged",
        next_step="restore the data directory from a backup, or remove the branch; the volume "
        "itself is not affected",
    )
