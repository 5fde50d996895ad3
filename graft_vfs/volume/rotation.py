"""Replacing the file of a branch: after a push, and when little of it is alive.

Settling a push leaves commits in the file that are on the remote. Without a push, each commit
supersedes images of earlier ones. Either way the file is replaced by a new one when enough of it is
dead: `rotated` copies the commits that were not pushed, `compact` writes the newest image of each
page as one run that stands for all commits so far.

Both need the writer lock. Readers keep the old file for as long as they have a snapshot in it.
Crash here: a file that no branch names is left, which the next of these or the next opening
removes.
"""

from __future__ import annotations

import dataclasses
import logging
import time

from graft_vfs.errors import GraftError
from graft_vfs.ids import LogId
from graft_vfs.local.branch_log import BranchLog
from graft_vfs.local.chunk import Position
from graft_vfs.local.files import storage_errors
from graft_vfs.pages import LocalLsn
from graft_vfs.volume.current_branch import CurrentBranch
from graft_vfs.volume.snapshot import Snapshot

_logger = logging.getLogger(__name__)

ROTATE_BYTES = 16 << 20
"""A push replaces the file once so much of it is on the remote."""
COMPACT_BYTES = 16 << 20
"""Less than this is never worth a compaction, however little of the file is alive."""
_RUN_BYTES = 256 << 10
_RUNS_RESIDENT_MAX = 128


def rotated(
    volume: CurrentBranch, file: str, start: Position, first_lsn: LocalLsn
) -> tuple[str, Position]:
    """Begin a new log file with what was committed after `start`; returns where a branch begins.

    The same place is returned if the rest is not much smaller than what is pushed, so that copying
    it would gain little, or if it is damaged: a copy would vouch for it. The caller holds the
    writer lock.
    """
    end = volume.begin().end
    if end.offset - start.offset > start.offset // 2:
        return file, start
    remove_unused_files(volume)
    log = volume.new_log_file()
    _logger.debug("volume %s: log file %s follows %s", volume.id, log.path.name, file)
    try:
        if log.copy_from(volume.log, start, first_lsn) != end:
            return file, start
        return log.path.name, log.start
    finally:
        log.close()


def remove_unused_files(volume: CurrentBranch) -> None:
    """Remove log files that no branch names: a process was killed before it switched to them.

    The caller holds the writer lock, without which none is made.
    """
    volume.description.require()
    named = {branch.file for branch in volume.catalog.branches(volume.id)}
    with storage_errors(volume.directory):
        for path in list(volume.directory.glob("[0-9]*.log")):
            if path.name not in named:
                path.unlink(missing_ok=True)


# Compaction -------------------------------------------------------------------------------------


def due_at(snapshot: Snapshot, pages: int) -> int:
    """Return the file size beyond which a branch with so many live pages is to be compacted.

    By then more than 16 MiB and four fifths of the file are dead, so that what compaction writes is
    at most a quarter of what was written since the last one.
    """
    live = pages * snapshot.page_size
    return live + max(COMPACT_BYTES, 4 * live)


def compact(volume: CurrentBranch) -> int:
    """Replace the branch file if little of it is alive; returns the size at which to ask again.

    The new file begins with the live pages; the local LSNs stay, and the commits up to the newest
    one are listed as one. Durable on return. The caller holds the writer lock and has written
    nothing. What goes wrong is logged and changes nothing: the old file is as good as before.
    """
    snapshot = volume.begin()
    end = snapshot.end.offset
    pages = snapshot.branch.pages_below(end, snapshot.page_count)
    due = due_at(snapshot, len(pages))
    if end <= due:
        return due
    try:
        if _replace(volume, snapshot, pages):
            return due
    except GraftError as error:
        _logger.warning("volume %s: the branch file cannot be compacted: %s", volume.id, error)
    return end + COMPACT_BYTES


def _replace(volume: CurrentBranch, snapshot: Snapshot, pages: list[int]) -> bool:
    """Write and switch to a new file; False if a push is under way, which names the old one."""
    row = snapshot.branch.row
    if volume.catalog.pending_push(volume.id) is not None:
        return False
    remove_unused_files(volume)
    # Without local commits there is nothing that a run could stand for.
    has_commits = snapshot.lsn >= row.first_lsn
    log = volume.new_log_file(folded=has_commits)
    try:
        if has_commits:
            _write_live(log, snapshot, pages)
        new = dataclasses.replace(
            row,
            id=LogId.new(),
            file=log.path.name,
            start=log.start,
            created_ms=time.time_ns() // 1_000_000,
        )
    except BaseException:
        log.path.unlink(missing_ok=True)
        raise
    finally:
        log.close()
    # An error from here on says nothing of which file the catalog names.
    is_current = volume.switch_branch(new, expected=row.id, synced=None, unless_pending=True)
    if not is_current:
        log.path.unlink(missing_ok=True)
    if is_current:
        _logger.info(
            "volume %s: compacted the branch file from %d to %d bytes",
            volume.id,
            snapshot.end.offset,
            volume.begin().end.offset,
        )
    return is_current


def _write_live(log: BranchLog, snapshot: Snapshot, pages: list[int]) -> None:
    """Write the newest image of each page, as chunks of the newest LSN, and be durable with them.

    The last chunk has no pages. It is written when the others are durable and says so, so that
    opening the file needs to read none of their images.
    """
    at, size = log.start, snapshot.page_size
    step = max(1, _RUN_BYTES // size)
    for number, first in enumerate(range(0, len(pages), step), 1):
        some = pages[first : first + step]
        _, at = log.append(at, snapshot.lsn, some, [*map(snapshot.stored, some)], size, None)
        if number % _RUNS_RESIDENT_MAX == 0:
            snapshot.forget_resident()
    log.sync(at.offset)
    log.append(at, snapshot.lsn, [], [], size, (snapshot.page_count, snapshot.counter), True)
