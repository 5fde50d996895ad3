"""Recognising own commits: local commits that the log holds already, pushed from here earlier.

A data directory that was restored from a backup knows nothing of the pushes made since. Its local
commits look as if they had diverged from a log that holds the very same. They are the same if the
remote commit stands on the branch's own base, was made at a change counter of this branch, and
holds the page images that the branch has up to there: then the branch can stand on it, as after a
push.

A remote commit that holds more than the branch has proves nothing about the rest; it diverges.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from graft_vfs.format.body import BodyBuilder
from graft_vfs.format.commit import CommitHeader
from graft_vfs.local.catalog.rows import BranchRow
from graft_vfs.local.chunk import Chunk
from graft_vfs.pages import RemoteLsn
from graft_vfs.sync.push import keep_pages
from graft_vfs.view.logs import Logs
from graft_vfs.volume.page_index import PageIndex
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.switching import prepare, switch
from graft_vfs.volume.volume import Volume

_logger = logging.getLogger(__name__)


def recognise(volume: Volume, logs: Logs) -> bool:
    """Let the branch stand on remote commits that hold what it has; True if it moved.

    The log's commits are known already. No request, unless frames do not compress to the same bytes
    any more: then those of the commit are read. Safe to repeat, and safe beside writers, because
    the content stays the same. Durable on return.
    """
    has_moved = False
    while _recognise_next(volume, logs):
        has_moved = True
    return has_moved


def _recognise_next(volume: Volume, logs: Logs) -> bool:
    """Recognise the commit that follows the branch's base; False if it is not this branch's."""
    snapshot = volume.begin()
    branch = snapshot.branch.row
    remote = volume.catalog.volume(volume.id).remote
    lsn = RemoteLsn(branch.base + 1 if branch.log_id == remote else 1)
    header = logs.header(remote, lsn)
    if header is None or not _follows(header, branch, logs):
        return False
    covered = _covered(volume, snapshot, header)
    if covered is None or not _is_same(covered, header, logs):
        return False
    candidate = prepare(
        branch,
        log_id=remote,
        base=lsn,
        counter=header.change_counter,
        through=covered.lsn,
        end=covered.end,
    )
    keep_pages(logs, header, covered)
    moved = switch(volume, candidate, synced=True)
    if moved:
        _logger.info("volume %s: LSN %d of log %s is its own commit", volume.id, lsn, remote)
    return moved


def _follows(header: CommitHeader, branch: BranchRow, logs: Logs) -> bool:
    """Return True if a commit was made from local ones, on what the branch stands on."""
    base = logs.header(branch.log_id, branch.base) if branch.base else None
    if branch.base and (base is None or header.previous_hash != base.hash):
        return False
    if not branch.base and (header.parent_log is not None or header.lsn != 1):
        return False
    return header.local_commits > 0


def _covered(volume: Volume, snapshot: Snapshot, header: CommitHeader) -> Snapshot | None:
    """Return the branch as it was at the commit's change counter, None if it never was there."""
    row = snapshot.branch.row
    through = row.first_lsn + header.local_commits - 1
    if not row.first_lsn <= through <= snapshot.lsn:
        return None
    branch = PageIndex(row, volume.branch_log)
    last: Chunk | None = None
    for chunks in volume.branch_log.transactions(row.start, row.first_lsn):
        for chunk in chunks:
            branch.apply_unproved(chunk)
        last = chunks[-1]
        if last.lsn == through:
            break
    if last is None or last.lsn != through:
        return None
    found = (last.change_counter, last.page_count, last.page_size)
    if found != (header.change_counter, header.page_count, header.page_size):
        return None
    return Snapshot(
        branch,
        snapshot.remote,
        last.after,
        last.lsn,
        last.page_size,
        last.page_count,
        last.change_counter,
    )


def _is_same(covered: Snapshot, header: CommitHeader, logs: Logs) -> bool:
    """Return True if the branch's images are those of the commit, by checksum or byte for byte."""
    pages = covered.branch.pages_below(covered.end.offset, covered.page_count)
    if pages != list(header.pages):
        return False
    builder = BodyBuilder()
    for page in pages:
        builder.add(page, covered.read(page))
    builder.finish()
    return builder.table == header.frames or _has_same_images(covered, header, pages, logs)


def _has_same_images(
    covered: Snapshot, header: CommitHeader, pages: Sequence[int], logs: Logs
) -> bool:
    """Read the commit's frames, one request each, and compare them."""
    (row,) = logs.catalog.commits(header.log_id, header.lsn, header.lsn)
    step = header.frames.frame_pages
    for frame in range(len(header.frames)):
        (images,) = logs.log(header.log_id).read_frames(header, len(row.header), frame, frame + 1)
        own = b"".join(map(covered.read, pages[frame * step : (frame + 1) * step]))
        if images != own:
            return False
    return True
