"""Branches of a volume: the current one and kept ones, listed, switched to, removed."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from graft_vfs.advice import Advice, Audience, Worded
from graft_vfs.errors import BusyError, NotFoundError
from graft_vfs.history.names import find_kept
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local.catalog.rows import Departure, KeptBranch
from graft_vfs.pages import LocalLsn, RemoteLsn
from graft_vfs.reports import Report, age_text, commits_text, size_text
from graft_vfs.sync.fetch import require_view
from graft_vfs.sync.settle import settle_pending
from graft_vfs.volume import kept as keeping
from graft_vfs.volume.context import Context, Opened
from graft_vfs.volume.switching import remove_unused_files, switch
from graft_vfs.volume.volume import Volume

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class BranchReport(Report):
    """A branch of a volume, on LSN `base` of `log`: the current one, or a kept one.

    Its `commits` local commits, local `first_lsn` to `last_lsn`, take `bytes` of the branch file.
    `reason` is the verb that left it at `kept_ms`; both are None for the current one.
    """

    branch: LogId
    current: bool
    log: LogId
    base: RemoteLsn
    first_lsn: LocalLsn
    last_lsn: LocalLsn
    commits: int
    bytes: int
    reason: str | None = None
    kept_ms: int | None = None

    def __str__(self) -> str:
        on = f"on LSN {self.base} of log {self.log}" if self.base else "on no remote commit"
        text = f"{'*' if self.current else ' '} {self.branch}  {commits_text(self.commits)} {on}"
        if self.commits:
            ends = f"local:{self.first_lsn} to local:{self.last_lsn}"
            span = ends if self.commits > 1 else f"local:{self.last_lsn}"
            text += f" ({span}, {size_text(self.bytes)})"
        if self.kept_ms is not None:
            text += f", kept by {self.reason} {age_text(self.kept_ms)}"
        return text


@dataclass(frozen=True, slots=True, repr=False)
class SwitchedBranch(Report, Worded):
    """A volume whose current branch is a kept one again.

    `branch` is its new id, and its `commits` have new LSNs, the newest local `lsn`, over LSN `base`
    of `log`. What the volume had is kept as branch `kept`, None if it had no local commits.
    """

    tag: str
    volume: VolumeId
    branch: LogId
    log: LogId
    base: RemoteLsn
    commits: int
    lsn: LocalLsn
    kept: LogId | None

    def words(self, audience: Audience) -> str:
        """Return the report for one audience."""
        on = f"LSN {self.base} of log {self.log}" if self.base else "no remote commit"
        text = f"Switched {self.tag} to branch {self.branch}: {commits_text(self.commits)} on {on}."
        if self.kept is None:
            return text
        back = Advice.SWITCH_BRANCH(TAG=self.tag, BRANCH=str(self.kept)).words(audience)
        return f"{text}\nWhat it had is kept as branch {self.kept}.\n  (use {back} to go back)"


@dataclass(frozen=True, slots=True, repr=False)
class RemovedBranch(Report):
    """A kept branch that was removed, with its `commits`, which took `bytes` of its file."""

    tag: str
    branch: LogId
    commits: int
    bytes: int

    def __str__(self) -> str:
        return (
            f"Removed branch {self.branch} of {self.tag}: {commits_text(self.commits)}, "
            f"{size_text(self.bytes)}."
        )


def branches(volume: Volume) -> list[BranchReport]:
    """Return the current branch of a volume, then the kept ones, the last kept first."""
    snapshot = volume.begin()
    row = snapshot.branch.row
    size = snapshot.end.offset - row.start.offset
    current = BranchReport(
        row.id,
        True,
        row.log_id,
        row.base,
        row.first_lsn,
        snapshot.lsn,
        snapshot.local_commits,
        size,
    )
    return [current, *map(_report, reversed(volume.catalog.kept.all(volume.id)))]


def _report(kept: KeptBranch) -> BranchReport:
    row = kept.branch
    return BranchReport(
        kept.id,
        False,
        row.log_id,
        row.base,
        row.first_lsn,
        kept.last_lsn,
        kept.commits,
        kept.bytes,
        kept.reason,
        kept.kept_ms,
    )


def switch_to(context: Context, opened: Opened, text: str) -> SwitchedBranch:
    """Make a kept branch of a volume current; what that has not pushed is kept in turn.

    `text` is the id of the branch, or begins it. Durable on return. No request, unless a push has
    to be settled first, or commits that it is based on are not known. Raises NotFoundError,
    WriterBusyError, CorruptLogError; BusyError while another process pushes.
    """
    tag, volume = opened
    volume.catalog.require_writable()
    found = find_kept(volume, text)
    require_view(context.logs, found.branch.log_id, found.branch.base)
    if context.catalog.pending_push(volume.id) is not None:
        settle_pending(context, opened)
    with volume.writing() as snapshot:
        left = keeping.as_kept(volume, snapshot, "switch")
        candidate = keeping.again(volume, snapshot, found)
        if not switch(volume, candidate, departure=Departure(left, found.id)):
            find_kept(volume, text)  # Another process may have removed it.
            raise BusyError(
                f"another process has moved or is pushing volume {volume.id}", next_step="try again"
            )
        keeping.copy_messages(volume, found, volume, candidate)
        remove_unused_files(volume)
    row = candidate.row
    done = SwitchedBranch(
        tag,
        volume.id,
        row.id,
        row.log_id,
        row.base,
        found.commits,
        keeping.copied_lsn(candidate, found, found.last_lsn),
        None if left is None else left.id,
    )
    _logger.info("volume %s: %s", volume.id, done)
    return done


def remove(opened: Opened, text: str) -> RemovedBranch:
    """Remove a kept branch of a volume for good; durable on return. No request.

    `text` is the id of the branch, or begins it. Raises NotFoundError.
    """
    tag, volume = opened
    volume.catalog.require_writable()
    found = find_kept(volume, text)
    if not keeping.release(volume, found.id):
        raise NotFoundError(f"branch {found.id} was removed just now by another process")
    done = RemovedBranch(tag, found.id, found.commits, found.bytes)
    _logger.info("volume %s: %s", volume.id, done)
    return done
