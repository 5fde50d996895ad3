"""Settling: find out how a claim ended and, if it was won, base the branch on the commit.

A push whose claim was sent, or may have been, has a record in the catalog with the exact bytes of
the commit object. The record is deleted in the transaction that settles the push, or once the claim
is known to be lost or not sent. Until then, every sync first finds out how the claim ended: from
the commits that are known, otherwise by reading the key. Only if the key is absent, it writes the
same bytes again.

One process or thread at a time does this for a volume; see `alone`. If that lock is lost, the
record is still authoritative.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from graft_vfs.errors import BusyError, ConfigError, ExpiredError, StoreError
from graft_vfs.format.commit import CommitHeader, decode_header, header_length
from graft_vfs.local import layout
from graft_vfs.local.cache.arena import FrameKey, commit_source
from graft_vfs.local.catalog.rows import CommitRow, PendingPush
from graft_vfs.local.locks import FileLock
from graft_vfs.pages import RemoteLsn
from graft_vfs.remote.claim import claim
from graft_vfs.sync.build import PageSource, frame_images
from graft_vfs.sync.fetch import fetch_log
from graft_vfs.sync.naming import name_log
from graft_vfs.sync.proof import prove
from graft_vfs.view.logs import Logs
from graft_vfs.volume import rotation
from graft_vfs.volume.context import Context, Opened
from graft_vfs.volume.switching import prepare, switch
from graft_vfs.volume.volume import Volume

_logger = logging.getLogger(__name__)

WAIT_SECONDS = 600.0
"""How long a sync waits for a push of the same volume by another local process or thread."""
_ROTATE_PATIENCE_SECONDS = 0.5


@contextlib.contextmanager
def alone(context: Context, volume: Volume, wait_seconds: float) -> Iterator[None]:
    """Hold the volume's push lock, as every push on this machine does from plan to settle.

    Raises BusyError if another push has not ended after `wait_seconds`.
    """
    context.catalog.require_writable()
    lock = FileLock(volume.directory / layout.PUSH_LOCK)
    try:
        if not lock.acquire_within(wait_seconds):
            raise BusyError(
                f"another push of {context.catalog.title(volume.id)} has not ended within "
                f"{wait_seconds:.0f} s",
                next_step="try again when it has ended, or end its process; its commits land only "
                "once",
            )
        yield
    finally:
        lock.close()


# Pending pushes -----------------------------------------------------------------------------------


def settle_pending(
    context: Context, opened: Opened, *, wait_seconds: float = WAIT_SECONDS
) -> str | None:
    """Settle a push of unknown outcome, once no other process or thread is working on it.

    No request if there is none. Returns a warning if the log still has no ref. Raises BusyError if
    another push has not ended after `wait_seconds`, CommitOutcomeUnknownError if the outcome stays
    unknown, HistoryMismatchError, StoreError.
    """
    if context.catalog.pending_push(opened.volume.id) is None:
        return None
    with alone(context, opened.volume, wait_seconds):
        return settle_alone(context, opened)


def settle_alone(context: Context, opened: Opened) -> str | None:
    """Finish a push whose outcome is unknown: find out how it ended, name the log, then settle.

    The caller is `alone`. No request if there is nothing to settle, or if the commit of that LSN is
    known; otherwise the key is read, and written only if it is absent. A push that lost is
    forgotten: the volume has diverged, which the caller finds out, because the winner is known.
    Returns a warning if the log has no ref then.
    """
    pending = context.catalog.pending_push(opened.volume.id)
    if pending is None:
        return None
    if not context.catalog.take_up_pending_push(pending):
        return None
    header, _ = decode_header(pending.data, key=f"pending push {pending.log_id}:{pending.lsn}")
    if not _has_landed(context, pending, header):
        forget_lost(context, pending)
        return None
    # Ordering: the ref before the push is settled, so that one that ends here is named by the next
    # sync.
    warning = name_log(context, opened, header.log_id) if header.lsn == 1 else None
    finish(context, opened.volume, pending, header, None)
    _logger.info("volume %s: an earlier push has LSN %d, settled", pending.volume, pending.lsn)
    return warning


def claim_recorded(context: Context, pending: PendingPush) -> bool:
    """Claim the LSN of a new record; False if another commit has it.

    Requests and errors of `claim`.
    """
    try:
        return _claim(context, pending, in_doubt=False)
    except (StoreError, ConfigError):
        # The store did not accept the write, so nothing is left to settle. But if another process
        # is sending the same bytes, the record stays, because that claim's outcome is unknown.
        context.catalog.withdraw_pending_push(pending)
        raise


def _claim(context: Context, pending: PendingPush, *, in_doubt: bool) -> bool:
    logs, lsn, digest = context.logs, pending.lsn, pending.hash
    log, counters = logs.log(pending.log_id), logs.counters
    result = claim(log, lsn, pending.data, digest, in_doubt=in_doubt, counters=counters)
    belief = logs.belief(pending.log_id, RemoteLsn(lsn - 1))
    return belief.outcome(
        lsn, digest, result.answered, is_won=result.won, is_created=result.is_created
    )


def _has_landed(context: Context, pending: PendingPush, header: CommitHeader) -> bool:
    """Return True if an earlier claim is ours, False if another commit has its LSN."""
    known = context.catalog.commits(pending.log_id, pending.lsn, pending.lsn)
    if known:
        return known[0].hash == pending.hash
    if header.lsn > 1 or header.parent_log is not None:
        # On a wrong remote, the same bytes would be written, and be missing on the right one.
        prove(context.logs, header.parent_log or pending.log_id)
    return _claim(context, pending, in_doubt=True)


def forget_lost(context: Context, pending: PendingPush) -> RemoteLsn:
    """Delete the record of a push that lost its LSN; returns the newest LSN of its log.

    Ordering: the winner is recorded first, so that no push sends another commit, or its segment,
    for a used LSN.
    """
    try:
        newest = fetch_log(context.logs, pending.log_id).newest
    except ExpiredError:
        # The winner was deleted since; no claim of this LSN can be won any more.
        context.catalog.delete_pending_push(pending)
        raise
    context.catalog.delete_pending_push(pending)
    _logger.info("volume %s: another client has LSN %d", pending.volume, pending.lsn)
    return newest


# Settle -------------------------------------------------------------------------------------------


def finish(
    context: Context,
    volume: Volume,
    pending: PendingPush,
    header: CommitHeader,
    source: PageSource | None,
) -> None:
    """Move the branch to the claimed commit; idempotent. Durable on return.

    The volume's content does not change: the commit has the local commits up to
    `pending.through_lsn`, of which the record says where they end now: a compaction during the
    claim moves them. `source` has the pages of the commit, or is None.
    """
    encoded = pending.data[: header_length(pending.data, key="the pushed commit")]
    row = CommitRow(header.lsn, header.hash, encoded)
    context.catalog.add_commits(pending.log_id, [row])
    if header.parent_log is not None:
        context.catalog.tables.keep_parent(header.log_id, header.parent_log, header.parent_lsn)
    context.logs.note_proved(pending.log_id)
    context.logs.note_asked(pending.log_id)
    if source is not None:
        keep_pages(context.logs, header, source)
    lock = None
    # Only to replace a large file: a writer without a busy timeout would fail at every push.
    if pending.through.offset > rotation.ROTATE_BYTES:
        # With constant writers, a single attempt rarely finds the lock free.
        is_long = pending.through.offset > 4 * rotation.ROTATE_BYTES
        lock = volume.try_writing(timeout_seconds=_ROTATE_PATIENCE_SECONDS if is_long else 0.0)
    try:
        has_switched = False
        while not has_switched:
            # Ordering: the branch first. If it is still current at the switch, so is the record.
            current = context.catalog.current(volume.id)[1]
            record = context.catalog.pending_push(volume.id)
            is_based = current.log_id == pending.log_id and current.base >= pending.lsn
            if is_based or record is None or record.hash != pending.hash:
                # Another process found the record and settled it during the claim.
                return
            candidate = prepare(
                current,
                log_id=pending.log_id,
                base=pending.lsn,
                counter=pending.counter,
                through=pending.through_lsn,
                end=record.through,
            )
            if lock is not None:
                candidate = rotation.rotated(volume, candidate)
            has_switched = switch(volume, candidate, synced=True, settled_push=True)
    finally:
        if lock is not None:
            lock.close()


def keep_pages(logs: Logs, header: CommitHeader, source: PageSource) -> None:
    """Put the pages of a commit into the page cache, so that reading them needs no request.

    The commit was built from `source`, or has been verified to hold the same images.
    """
    first = FrameKey(commit_source(header.lsn, header.hash), 0)
    logs.cache(header.log_id).add_all(first, frame_images(source, header.frames.frame_pages))
