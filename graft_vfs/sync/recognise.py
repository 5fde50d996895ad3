"""Recognises own commits: local commits that the log already has from an earlier push.

A data directory restored from a backup does not know later pushes. Its local commits seem to have
diverged from a log that has exactly these commits. They are the same if the remote commit has the
branch's base, was made at a change counter of this branch, and contains the branch's page images up
to that point. Then the branch can move to it, as after a push.

A remote commit that contains more than the branch proves nothing about the rest; the volume has
diverged.
"""

from __future__ import annotations

import logging

from graft_vfs.errors import ExpiredError
from graft_vfs.format.body import BodyBuilder
from graft_vfs.format.commit import CommitHeader
from graft_vfs.local.chunk import Chunk
from graft_vfs.pages import RemoteLsn
from graft_vfs.sync.build import frame_images, frames_of
from graft_vfs.sync.headers import require_header
from graft_vfs.sync.settle import keep_pages
from graft_vfs.view.log_view import LogView
from graft_vfs.volume.context import Context
from graft_vfs.volume.page_index import PageIndex
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.switching import prepare, switch
from graft_vfs.volume.volume import Volume

_logger = logging.getLogger(__name__)


def recognise(context: Context, volume: Volume) -> bool:
    """Move the branch to remote commits that have its content; True if it moved.

    The log's newest commit must be known. One request if the header of the next commit is not known
    here; if frames no longer compress to the same bytes, those that read the commit's frames.
    Idempotent, and safe with concurrent writers, because the content does not change. Durable on
    return.
    """
    has_moved = False
    while _recognise_next(context, volume):
        has_moved = True
    return has_moved


def _recognise_next(context: Context, volume: Volume) -> bool:
    """Recognise the commit after the branch's base; False if it is not this branch's."""
    snapshot = volume.begin()
    branch = snapshot.branch.row
    remote = context.catalog.volume(volume.id).remote
    lsn = RemoteLsn(branch.base + 1 if branch.log_id == remote else 1)
    if context.catalog.newest_commit(remote)[0] < lsn:
        return False
    try:
        header = require_header(context.logs, remote, lsn)
    except ExpiredError:
        return False  # It was deleted, so nothing tells what it had.
    if not _follows(header, snapshot):
        return False
    covered = _covered(volume, snapshot, header)
    if covered is None or not _is_same(context, covered, header):
        return False
    candidate = prepare(
        branch,
        log_id=remote,
        base=lsn,
        counter=header.change_counter,
        through=covered.lsn,
        end=covered.end,
    )
    keep_pages(context.logs, header, covered)
    moved = switch(volume, candidate, synced=True)
    if moved:
        _logger.info(
            "volume %s: recognised LSN %d of log %s as its own commit", volume.id, lsn, remote
        )
    return moved


def _follows(header: CommitHeader, snapshot: Snapshot) -> bool:
    """Return True if a commit has the branch's base, and may be made of its local commits."""
    base = snapshot.remote
    if isinstance(base, LogView) and header.previous_hash != base.hash:
        return False
    if not base.lsn and (header.parent_log is not None or header.lsn != 1):
        return False
    return header.local_commits > 0


def _covered(volume: Volume, snapshot: Snapshot, header: CommitHeader) -> Snapshot | None:
    """Return the branch as of the commit's change counter, None if it never had it."""
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
    return Snapshot.after(branch, snapshot.remote, last)


def _is_same(context: Context, covered: Snapshot, header: CommitHeader) -> bool:
    """Return True if the branch's images equal the commit's, by checksum or byte for byte."""
    if covered.local_pages() != list(header.pages):
        return False
    builder = BodyBuilder()
    for _ in frames_of(covered, builder):
        pass
    return builder.table == header.frames or _has_same_images(context, covered, header)


def _has_same_images(context: Context, covered: Snapshot, header: CommitHeader) -> bool:
    """Read the commit's frames, one request each, and compare them."""
    (row,) = context.catalog.commits(header.log_id, header.lsn, header.lsn)
    log = context.logs.log(header.log_id)
    for frame, own in enumerate(frame_images(covered, header.frames.frame_pages)):
        (images,) = log.read_frames(header, len(row.header), frame, frame + 1)
        if images != own:
            return False
    return True
