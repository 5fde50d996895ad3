"""Push: plan, build, upload, prepare, claim, settle.

All local commits of the branch become one remote commit with the newest image of each page. What is
committed while the push runs stays local, with its LSNs, on the branch that follows.

    plan     which pages, on which base; refuse if the remote has moved, or has another history
    probe    once a remote: does it honour create-only writes?
    build    frames; with more than 1 MiB of them, upload a segment
    prepare  make the commits durable here, and keep the exact commit object in the catalog
    claim    one conditional write
    name     give a log with its first commit a ref, if the name is free (`naming`)
    settle   keep the pushed pages as cached remote pages, switch the branch, forget the record

Crash here: before `prepare` at most an unnamed segment is left over. From there to the end the
record makes the next sync find out how the claim ended: from what is known, else by reading the
key, and only if that is absent by writing the same bytes again.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import (
    AlreadyExistsError,
    BusyError,
    ConfigError,
    DivergedError,
    StoreError,
)
from graft_vfs.format.body import BodyBuilder
from graft_vfs.format.commit import NO_HASH, CommitHeader, decode_header, header_length
from graft_vfs.ids import LogId, SegmentId
from graft_vfs.local import layout
from graft_vfs.local.cache.arena import FrameKey, commit_source
from graft_vfs.local.catalog.rows import CommitRow, PendingPush
from graft_vfs.local.locks import FileLock
from graft_vfs.local.mapping import spooled
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.remote.claim import claim
from graft_vfs.reports import Progress, Report, commits_text, pages_text, size_text, time_text
from graft_vfs.store.base import ObjectStore
from graft_vfs.store.probe import check_conditional_writes
from graft_vfs.sync.fetch import fetch_log
from graft_vfs.sync.naming import name_log, name_log_later
from graft_vfs.sync.proof import prove
from graft_vfs.times import CLOCK_TOLERANCE_SECONDS, corrected_ms
from graft_vfs.view.logs import Logs
from graft_vfs.volume import rotation
from graft_vfs.volume.context import Author
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.switching import prepare, switch
from graft_vfs.volume.volume import Volume

_logger = logging.getLogger(__name__)

WAIT_SECONDS = 600.0
"""So long a push waits for another one of the same volume on this machine."""
INLINE_BYTES_MAX = 1 << 20
_ROTATE_PATIENCE_SECONDS = 0.5
_PAGES_RESIDENT_MAX = 8192
_FRAMES_RESIDENT_MAX = 512


@dataclass(frozen=True, slots=True, repr=False)
class Pushed(Report):
    """What a push did. With nothing to push, `claimed` is false and no request was made.

    `local_commits` became the remote commit `lsn`, which holds `pages`. `bytes_sent` are those of
    the objects, without what HTTP adds.
    """

    log: LogId
    lsn: RemoteLsn
    claimed: bool
    local_commits: int
    pages: int
    bytes_sent: int
    warning: str | None = None
    """What went wrong without keeping the push from its end: the log has no ref."""

    def __str__(self) -> str:
        if not self.claimed:
            return "Nothing to push: there are no local commits."
        return (
            f"Pushed {commits_text(self.local_commits)} as remote LSN {self.lsn} of log "
            f"{self.log}: {pages_text(self.pages)}, {size_text(self.bytes_sent)}."
        )


@dataclass(frozen=True, slots=True)
class _Plan:
    """The remote commit to be made: on top of what, and from which view."""

    snapshot: Snapshot
    log_id: LogId
    lsn: RemoteLsn
    previous_hash: bytes
    parent_log: LogId | None
    parent_lsn: RemoteLsn
    previous_ms: int


def push(
    volume: Volume,
    logs: Logs,
    author: Author,
    *,
    name: str,
    progress: Progress | None = None,
    wait_seconds: float = WAIT_SECONDS,
) -> Pushed:
    """Push all local commits. One request if they are small and nothing goes wrong.

    The first push of a log makes the ref `name` for it, if that is free. On return the remote
    commit is durable and the branch stands on it. If another process or thread here pushes the
    volume, this waits for its end, and pushes what is left then. Raises DivergedError if somebody
    else was first, BusyError if the other push has not ended after `wait_seconds`,
    CommitOutcomeUnknownError if no answer came: the push is settled by the next sync then.
    """
    with _alone(volume, wait_seconds):
        return _push_all(volume, logs, author, name=name, progress=progress)


@contextlib.contextmanager
def _alone(volume: Volume, wait_seconds: float) -> Iterator[None]:
    """Be the only one on this machine that pushes the volume, from the plan to the settling."""
    volume.catalog.require_writable()
    lock = FileLock(volume.directory / layout.PUSH_LOCK)
    try:
        if not lock.acquire_within(wait_seconds):
            raise BusyError(
                f"another push of volume {volume.id} is running and has not ended in "
                f"{wait_seconds:.0f} s",
                next_step="try again when it has ended, or end its process; what it sends counts "
                "once",
            )
        yield
    finally:
        lock.close()


def _push_all(
    volume: Volume, logs: Logs, author: Author, *, name: str, progress: Progress | None
) -> Pushed:
    while True:
        warning = _settle_pending(volume, logs, name) or name_log_later(
            volume, logs, volume.catalog.volume(volume.id).remote, name
        )
        with volume.pinned() as snapshot:
            try:
                pushed = _push(volume, logs, author, snapshot, name=name, progress=progress)
                if pushed is not None:
                    return replace(pushed, warning=pushed.warning or warning)
            except DivergedError:
                # The rival may be another process here that pushes the same commits: then they are
                # settled, or will be in the next turn. Ordering: the record goes with the settling.
                is_own = volume.catalog.pending_push(volume.id) is not None
                is_own |= volume.begin().branch is not snapshot.branch
                if not is_own:
                    raise


def _push(
    volume: Volume,
    logs: Logs,
    author: Author,
    snapshot: Snapshot,
    *,
    name: str,
    progress: Progress | None,
) -> Pushed | None:
    """Push what `snapshot` has; None if its branch was replaced before the claim was prepared."""
    row = volume.catalog.volume(volume.id)
    branch = snapshot.branch.row
    forked = branch.log_id != row.remote and branch.base > 0
    if snapshot.lsn < branch.first_lsn and not forked:
        return Pushed(row.remote, branch.base, False, 0, 0, 0)
    plan = _plan(snapshot, logs, row.remote)
    ensure_safe_store(logs)
    pending, header = _build(plan, volume, logs, author, progress)
    # Ordering: the log before the record. The branch that follows begins where the pushed commits
    # end; were they lost at a power cut, new ones would be written before that place and not read.
    snapshot.branch.branch_log.sync(snapshot.end.offset)
    try:
        if not volume.catalog.add_pending_push(pending, branch=branch.id):
            return None
    except AlreadyExistsError as error:
        raise BusyError("another push of this volume is running", next_step="try again") from error
    warning = _claim_and_settle(volume, logs, pending, header, snapshot, name=name)
    pushed = Pushed(
        pending.log_id,
        pending.lsn,
        True,
        header.local_commits,
        len(header.pages),
        len(pending.data) + (header.frames.body_bytes if header.segment else 0),
        warning,
    )
    _logger.info("volume %s: %s", volume.id, pushed)
    return pushed


def ensure_safe_store(logs: Logs) -> None:
    """Find out once for each remote that it honours create-only writes; raises UnsafeStoreError.

    No request if that is known, else one, or two for the first client of the remote.
    """
    name = logs.store.describe()
    if not logs.catalog.is_probed(name):
        check_conditional_writes(logs.store)
        logs.catalog.set_probed(name)


def _plan(snapshot: Snapshot, logs: Logs, remote: LogId) -> _Plan:
    branch = snapshot.branch.row
    newest, digest = logs.catalog.newest_commit(remote)
    forked = branch.log_id != remote and branch.base > 0
    base = NO_LSN if branch.log_id != remote else branch.base
    if newest > base:
        raise diverged(remote, base, newest)
    if branch.base:
        prove(logs, branch.log_id)
    parent = logs.header(branch.log_id, branch.base) if branch.base else None
    return _Plan(
        snapshot=snapshot,
        log_id=remote,
        lsn=RemoteLsn(base + 1),
        previous_hash=parent.hash if parent else (digest if base else NO_HASH),
        parent_log=branch.log_id if forked else None,
        parent_lsn=branch.base if forked else NO_LSN,
        previous_ms=parent.time_ms if parent else 0,
    )


def diverged(log_id: LogId, base: RemoteLsn, newest: RemoteLsn) -> DivergedError:
    """Return the error for a volume whose base is no longer the newest remote commit."""
    return DivergedError(
        f"the volume has local commits on remote LSN {base}, but log {log_id} is at {newest}: "
        "they have diverged; nothing was moved and nothing is lost",
        next_step=Hint(
            "run ",
            Advice.FORK_AS,
            " to keep the local commits on a log of their own, or ",
            Advice.EXPORT,
            " to keep the content; then ",
            Advice.CLONE_OVER(LOG=log_id),
            " follows the remote",
        ),
    )


# Build ------------------------------------------------------------------------------------------


def _build(
    plan: _Plan, volume: Volume, logs: Logs, author: Author, progress: Progress | None
) -> tuple[PendingPush, CommitHeader]:
    snapshot = plan.snapshot
    builder = BodyBuilder()
    frames = _frames(snapshot, builder, progress)
    small, rest = _split(frames)
    segment = None
    if rest is not None:
        segment = SegmentId.new()
        with spooled(volume.directory, itertools.chain(small, rest)) as parts:
            logs.log(plan.log_id).write_segment(segment, parts)
        small = []
    header = CommitHeader(
        log_id=plan.log_id,
        lsn=plan.lsn,
        previous_hash=plan.previous_hash,
        parent_log=plan.parent_log,
        parent_lsn=plan.parent_lsn,
        page_size=snapshot.page_size,
        page_count=snapshot.page_count,
        change_counter=snapshot.counter,
        local_commits=min(snapshot.local_commits, 0xFFFF_FFFF),
        segment=segment,
        writer=author.writer,
        attempt=secrets.token_bytes(16),
        time_ms=_time_ms(logs.store, plan.previous_ms),
        author=author.name,
        pages=builder.pages,
        frames=builder.table,
    ).sealed()
    encoded = header.encode()
    pending = PendingPush(
        volume=volume.id,
        log_id=plan.log_id,
        lsn=plan.lsn,
        hash=header.hash,
        data=b"".join((encoded, *small)),
        through_lsn=snapshot.lsn,
        counter=snapshot.counter,
        through=snapshot.end,
    )
    return pending, header


def _time_ms(store: ObjectStore, previous_ms: int) -> int:
    """Return the time to date a commit with; the store's if this machine's clock is wrong.

    No commit is dated before the one that it stands on, at `previous_ms`, unless that is in the
    future by the store's time: one wrong clock must not date the commits of all machines. The
    store's time is known from answers that came before: no request.
    """
    here = time.time_ns() // 1_000_000
    ahead = store.clock_ahead_seconds()
    found = corrected_ms(here, ahead)
    if found != here:
        _logger.warning(
            "this machine's clock says %s and the remote's %s: the commit is dated by the remote's;"
            " set the clock, best by NTP",
            time_text(here),
            time_text(found),
        )
    if ahead is not None and previous_ms > found + CLOCK_TOLERANCE_SECONDS * 1000:
        _logger.warning(
            "the commit before is dated %s, in the future by the remote's clock, so that this one, "
            "of %s, is dated before it; some machine's clock is wrong",
            time_text(previous_ms),
            time_text(found),
        )
        return found
    return max(previous_ms, found)


def _frames(snapshot: Snapshot, builder: BodyBuilder, progress: Progress | None) -> Iterator[bytes]:
    """Yield the compressed frames of all local pages, ascending."""
    pages = snapshot.branch.pages_below(snapshot.end.offset, snapshot.page_count)
    for number, page in enumerate(pages, 1):
        if number % _PAGES_RESIDENT_MAX == 0:
            snapshot.forget_resident()
        frame = builder.add(page, snapshot.read(page))
        if frame is not None:
            yield frame
            if progress is not None:
                progress(number, len(pages))
    last = builder.finish()
    if last is not None:
        yield last


def _split(frames: Iterator[bytes]) -> tuple[list[bytes], Iterator[bytes] | None]:
    """Take frames up to the inline limit; the rest is None if that was all."""
    taken: list[bytes] = []
    total = 0
    for frame in frames:
        taken.append(frame)
        total += len(frame)
        if total > INLINE_BYTES_MAX:
            return taken, frames
    return taken, None


# Claim and settle -------------------------------------------------------------------------------


def settle_pending(
    volume: Volume, logs: Logs, name: str, *, wait_seconds: float = WAIT_SECONDS
) -> str | None:
    """Finish a push whose end is not known, once no other process or thread is at it.

    No request if there is none. Returns a warning if the log has no ref now. Raises BusyError as
    `push`.
    """
    if volume.catalog.pending_push(volume.id) is None:
        return None
    with _alone(volume, wait_seconds):
        return _settle_pending(volume, logs, name)


def _settle_pending(volume: Volume, logs: Logs, name: str) -> str | None:
    """Finish a push whose end is not known: find out how it ended, name, then settle.

    Nothing to do costs no request, and so does a commit that is known by now; else the key is
    read, and written only if it is absent. A push that lost its race is forgotten; the volume has
    diverged then, which the caller finds by itself, because the winner is known. Returns a warning
    if the log has no ref now.
    """
    pending = volume.catalog.pending_push(volume.id)
    if pending is None:
        return None
    if not volume.catalog.take_up_pending_push(pending):
        return None
    header, _ = decode_header(pending.data, key=f"pending push {pending.log_id}:{pending.lsn}")
    if not _has_landed(logs, pending, header):
        _forget_lost(volume, logs, pending)
        return None
    warning = _name_log(volume, logs, header, name)
    _settle(volume, logs, pending, header, None)
    _logger.info("volume %s: an earlier push has LSN %d, settled", volume.id, pending.lsn)
    return warning


def _has_landed(logs: Logs, pending: PendingPush, header: CommitHeader) -> bool:
    """Return True if an earlier claim is ours, False if another commit has its LSN."""
    known = logs.catalog.commits(pending.log_id, pending.lsn, pending.lsn)
    if known:
        return known[0].hash == pending.hash
    if header.lsn > 1 or header.parent_log is not None:
        # Else the same bytes might be written where they leave a hole at the right place.
        prove(logs, header.parent_log or pending.log_id)
    log, data, counters = logs.log(pending.log_id), pending.data, logs.counters
    return claim(log, pending.lsn, data, pending.hash, in_doubt=True, counters=counters).won


def _forget_lost(volume: Volume, logs: Logs, pending: PendingPush) -> RemoteLsn:
    """Forget a push that lost its LSN; returns the newest LSN of its log.

    Ordering: the winner becomes known first, so that no push sends another commit, or its segment,
    for an LSN that is taken.
    """
    newest = fetch_log(logs, pending.log_id).newest
    volume.catalog.delete_pending_push(pending)
    _logger.info("volume %s: somebody else has LSN %d", volume.id, pending.lsn)
    return newest


def _claim_and_settle(
    volume: Volume,
    logs: Logs,
    pending: PendingPush,
    header: CommitHeader,
    snapshot: Snapshot,
    *,
    name: str,
) -> str | None:
    try:
        log, data = logs.log(pending.log_id), pending.data
        won = claim(log, pending.lsn, data, pending.hash, counters=logs.counters).won
    except (StoreError, ConfigError):
        # The store surely did not take the write, so there is nothing to settle later; unless
        # another process is sending the same bytes, whose end only the record tells.
        volume.catalog.withdraw_pending_push(pending)
        raise
    if not won:
        newest = _forget_lost(volume, logs, pending)
        raise diverged(pending.log_id, RemoteLsn(pending.lsn - 1), newest)
    warning = _name_log(volume, logs, header, name)
    _settle(volume, logs, pending, header, snapshot)
    return warning


def _name_log(volume: Volume, logs: Logs, header: CommitHeader, name: str) -> str | None:
    """Make a ref for a log that has its first commit now; returns a warning if it has none.

    Ordering: before the push is settled, so that one that ends here is named by the next sync.
    """
    return name_log(volume, logs, header.log_id, name) if header.lsn == 1 else None


def _settle(
    volume: Volume,
    logs: Logs,
    pending: PendingPush,
    header: CommitHeader,
    snapshot: Snapshot | None,
) -> None:
    """Make the branch stand on the commit that was claimed; safe to repeat."""
    encoded = pending.data[: header_length(pending.data, key="the pushed commit")]
    row = CommitRow(header.lsn, header.hash, encoded)
    logs.catalog.add_commits(pending.log_id, [row])
    logs.note_proved(pending.log_id)
    logs.note_asked(pending.log_id)
    if snapshot is not None:
        keep_pages(logs, header, snapshot)
    # Where somebody always writes, a chance look never finds the lock free.
    is_long = pending.through.offset > 4 * rotation.ROTATE_BYTES
    lock = volume.try_writing(timeout_seconds=_ROTATE_PATIENCE_SECONDS if is_long else 0.0)
    try:
        current = volume.catalog.current(volume.id)[1]
        if current.log_id == pending.log_id and current.base >= pending.lsn:
            # Another process found the record and settled it while the claim was under way.
            return
        candidate = prepare(
            current,
            log_id=pending.log_id,
            base=pending.lsn,
            counter=pending.counter,
            through=pending.through_lsn,
            end=pending.through,
        )
        if lock is not None and pending.through.offset > rotation.ROTATE_BYTES:
            candidate = rotation.rotated(volume, candidate)
        switch(volume, candidate, synced=True, settled_push=True)
    finally:
        if lock is not None:
            lock.close()


def keep_pages(logs: Logs, header: CommitHeader, snapshot: Snapshot) -> None:
    """Put the pushed pages into the page cache, so that reading them needs no request."""
    cache = logs.cache(header.log_id)
    ordered = header.pages.to_array()
    step = header.frames.frame_pages
    for first in range(0, len(header.frames), _FRAMES_RESIDENT_MAX):
        end = min(first + _FRAMES_RESIDENT_MAX, len(header.frames))
        cache.add_all(
            FrameKey(commit_source(header.lsn, header.hash), first),
            (
                b"".join(map(snapshot.read, ordered[frame * step : (frame + 1) * step]))
                for frame in range(first, end)
            ),
        )
        snapshot.forget_resident()
