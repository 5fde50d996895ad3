"""Replaces the file of a branch: after a push, and when most of it is dead.

Settling a push leaves commits in the file that are already on the remote. Without a push, or while
its outcome is unknown, each commit supersedes earlier images. In both cases, a new file replaces
the old one when enough of it is dead: `rotated` copies the unpushed commits; `compact` writes the
newest image of each page as one run, which replaces all commits so far.

Both need the writer lock. Readers keep the old file as long as they have a snapshot in it. A crash
leaves a file that no branch names; the next rotation, compaction or opening removes it.
"""

from __future__ import annotations

import logging

from graft_vfs.errors import GraftError
from graft_vfs.local.branch_log import LOG_HEADER_BYTES, BranchLog
from graft_vfs.pages import LocalLsn
from graft_vfs.volume.current_branch import CurrentBranch
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.switching import Candidate, new_file, prepare, switch

_logger = logging.getLogger(__name__)

ROTATE_BYTES = 16 << 20
"""A push replaces the file once this much of it is on the remote."""
COMPACT_BYTES = 16 << 20
"""A smaller file is never compacted, even if it is mostly dead."""
SPARE_BYTES = 1 << 20
"""A compaction on request must release more than this."""
_RUN_BYTES = 256 << 10
_RUNS_RESIDENT_MAX = 128


def rotated(volume: CurrentBranch, candidate: Candidate) -> Candidate:
    """Return a candidate with its commits copied to a new log file, where they are durable.

    The given candidate is returned if its commits are not much smaller than the data before them,
    so that a copy would gain little, or if they are damaged, because a copy would have valid
    checksums. The caller holds the writer lock.
    """
    end, start = volume.begin().end, candidate.row.start
    is_long = end.offset - start.offset > start.offset // 2
    if is_long or volume.branch_log.begins_with_run(start):
        return candidate
    with new_file(volume) as branch_log:
        _logger.debug("volume %s: switched to log file %s", volume.id, branch_log.path.name)
        is_whole = branch_log.copy_from(volume.branch_log, start, candidate.row.first_lsn) == end
        return candidate.moved_to(branch_log) if is_whole else candidate


# Compaction -------------------------------------------------------------------------------------


def due_at(snapshot: Snapshot, pages: int) -> int:
    """Return the file size above which a branch with this many live pages is compacted.

    At that size, more than 16 MiB and three quarters of the file are dead. So a compaction writes
    at most a third of what was written since the last one.
    """
    live = pages * snapshot.page_size
    return live + max(COMPACT_BYTES, 3 * live)


def spare_bytes(snapshot: Snapshot) -> int:
    """Return how much a compaction on request would release, 0 if it is not worth its writing."""
    live = len(snapshot.local_pages()) * snapshot.page_size
    dead = snapshot.end.offset - LOG_HEADER_BYTES - live
    return dead if dead > max(SPARE_BYTES, live // 4) else 0


def compact(volume: CurrentBranch, *, on_request: bool = False) -> int:
    """Replace the branch file if most of it is dead; returns the size at which to check again.

    `on_request`, a quarter is enough.

    The new file begins with the live pages; local LSNs do not change, and all commits so far are
    listed as one. Durable on return. The caller holds the writer lock and has written nothing. An
    error is logged and changes nothing: the old file stays in use.
    """
    snapshot = volume.begin()
    end = snapshot.end.offset
    pages = snapshot.local_pages()
    due = due_at(snapshot, len(pages))
    if end <= due and not (on_request and spare_bytes(snapshot)):
        return due
    try:
        if _replace(volume, snapshot, pages):
            return due
    except GraftError as error:
        title = volume.catalog.title(volume.id)
        _logger.warning("%s: the branch file cannot be compacted: %s", title, error)
    return end + COMPACT_BYTES


def _replace(volume: CurrentBranch, snapshot: Snapshot, pages: list[int]) -> bool:
    """Write and switch to a new file; False if a pending push is of all commits so far.

    A push of some of them is settled at the start of the new file: the run is then of the later
    commits, and the images in it that are on the remote by then are equal to those there.
    """
    row = snapshot.branch.row
    pending = volume.catalog.pending_push(volume.id)
    if pending is not None and pending.through_lsn >= snapshot.lsn:
        return False
    # Without local commits there is nothing to replace by a run.
    has_commits = snapshot.lsn >= row.first_lsn
    candidate = prepare(
        row,
        log_id=row.log_id,
        base=row.base,
        counter=row.counter,
        through=LocalLsn(row.first_lsn - 1),
        end=row.start,
    )
    with new_file(volume, folded=has_commits) as branch_log:
        if has_commits:
            _write_live(branch_log, snapshot, pages)
        candidate = candidate.moved_to(branch_log)
    is_current = switch(volume, candidate, folded=snapshot.lsn)
    if is_current:
        _logger.info(
            "volume %s: compacted the branch file from %d to %d bytes",
            volume.id,
            snapshot.end.offset,
            volume.begin().end.offset,
        )
    return is_current


def _write_live(branch_log: BranchLog, snapshot: Snapshot, pages: list[int]) -> None:
    """Write the newest image of each page, as chunks of the newest LSN; durable on return.

    The last chunk has no pages. It is written after the others are durable, with DURABLE_BEFORE, so
    that opening the file need not read their images.
    """
    at, size = branch_log.start, snapshot.page_size
    step = max(1, _RUN_BYTES // size)
    for number, first in enumerate(range(0, len(pages), step), 1):
        some = pages[first : first + step]
        _, at = branch_log.append(at, snapshot.lsn, some, [*map(snapshot.stored, some)], size, None)
        if number % _RUNS_RESIDENT_MAX == 0:
            snapshot.forget_resident()
    branch_log.sync(at.offset)
    branch_log.append(at, snapshot.lsn, [], [], size, (snapshot.page_count, snapshot.counter), True)
