"""Recovery: reads a branch from its part of the log, up to the last complete transaction.

Recovery verifies the images after the last chunk with DURABLE_BEFORE; earlier images are verified
when they are first read. An incomplete transaction that was never durable is dropped; a durable one
that cannot be read is damage.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator

from graft_vfs.errors import CorruptLogError
from graft_vfs.local.branch_log import BranchLog
from graft_vfs.local.catalog.rows import BranchRow
from graft_vfs.local.chunk import DURABLE_BEFORE, Chunk, Position
from graft_vfs.pages import LocalLsn
from graft_vfs.view.remote_view import RemoteView
from graft_vfs.volume.page_index import PageIndex
from graft_vfs.volume.snapshot import Snapshot

_logger = logging.getLogger(__name__)

DAMAGE_STEP = "restore the data directory from a backup, or clone the volume again from its remote"


def read_branch(
    row: BranchRow,
    branch_log: BranchLog,
    remote: RemoteView,
    mutex: contextlib.AbstractContextManager[object],
) -> tuple[Snapshot, Position | None]:
    """Return the newest snapshot of a branch, and the start of its last chunk, if any.

    `mutex` is that of its volume. Raises CorruptLogError, LocalStorageError.
    """
    branch = PageIndex(row, branch_log, mutex)
    before, end, lsn = None, row.start, LocalLsn(row.first_lsn - 1)
    page_size, page_count, counter = remote.page_size, remote.page_count, row.counter
    for chunks, proved_from in _by_durability(branch_log.transactions(row.start, row.first_lsn)):
        late = [chunk for chunk in chunks if chunk.images >= proved_from]
        if not all(map(branch_log.images_are_sound, late)):
            _logger.info(
                "volume %s: dropped LSN %d, which is incomplete and was never durable",
                row.volume,
                lsn + 1,
            )
            break
        for chunk in chunks:
            if chunk.images < proved_from:
                branch.apply_unproved(chunk)
            else:
                branch.apply(chunk.pages, chunk.images, chunk.page_size)
        last = chunks[-1]
        before, end, lsn, page_size = last.before, last.after, last.lsn, last.page_size
        page_count, counter = last.page_count, last.change_counter
    following = LocalLsn(lsn + 1)
    is_run_missing = branch_log.begins_with_run(row.start) and lsn < row.first_lsn
    if is_run_missing or (
        branch_log.damaged_before(end, following) and not _follows(branch_log, end, following)
    ):
        raise damage(branch_log, end.offset)
    _logger.debug("volume %s: branch %s read up to LSN %d", row.volume, row.id, lsn)
    return Snapshot(branch, remote, end, lsn, page_size, page_count, counter), before


def damage(branch_log: BranchLog, offset: int) -> CorruptLogError:
    """Return the error for a committed transaction that cannot be read."""
    return CorruptLogError(
        f"{branch_log.path.name}: a committed transaction at byte {offset} is damaged",
        next_step=DAMAGE_STEP,
    )


def _by_durability(transactions: Iterable[list[Chunk]]) -> Iterator[tuple[list[Chunk], int]]:
    """Yield each transaction with an offset below which all images were durable.

    Only the transactions since the last such chunk are in memory at a time.
    """
    waiting: list[list[Chunk]] = []
    proved_from = 0
    for chunks in transactions:
        marks = [chunk.images for chunk in chunks if chunk.flags & DURABLE_BEFORE]
        if marks:
            proved_from = marks[-1]
            yield from ((each, proved_from) for each in waiting)
            waiting = []
        waiting.append(chunks)
    yield from ((each, proved_from) for each in waiting)


def _follows(branch_log: BranchLog, position: Position, lsn: LocalLsn) -> bool:
    """Return True if a valid transaction is at `position` now: another process wrote it."""
    chunks = next(branch_log.transactions(position, lsn), None)
    return chunks is not None and all(branch_log.images_are_sound(chunk) for chunk in chunks)
