"""Push: plan, build, upload, prepare, claim, settle.

All local commits of the branch become one remote commit with the newest image of each page. Commits
made during the push stay local, with their LSNs, on the next branch.

    plan     choose pages and base; refuse if the remote has moved, or has another history
    probe    once per remote: verify that it honours create-only writes
    name     create the ref of a log without commits; refuse a name that another log has (`naming`)
    build    frames; with more than 1 MiB of them, upload a segment (`build`)
    prepare  make the local commits durable, and store the exact commit object in the catalog
    claim    one conditional write (`remote.claim`)
    settle   cache the pushed pages as remote pages, switch the branch, delete the record
             (`settle`)

A crash before `prepare` leaves at most an unnamed segment. After that, the record makes the next
sync find the outcome of the claim.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import AlreadyExistsError, BusyError, DivergedError
from graft_vfs.format.commit import MESSAGE_BYTES_MAX, NO_HASH, check_message
from graft_vfs.ids import LogId
from graft_vfs.local.catalog.rows import PendingPush
from graft_vfs.local.messages import Messages
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.remote.pins import Child, register_child
from graft_vfs.reports import Progress, Report, commits_text, pages_text, size_text
from graft_vfs.store.base import Sent
from graft_vfs.store.probe import check_conditional_writes
from graft_vfs.sync.build import BuiltCommit, Target, build
from graft_vfs.sync.headers import require_header
from graft_vfs.sync.naming import name_log_later, note_first_commit, reserve
from graft_vfs.sync.proof import prove
from graft_vfs.sync.settle import (
    WAIT_SECONDS,
    alone,
    claim_recorded,
    finish,
    forget_lost,
    settle_alone,
)
from graft_vfs.sync.tables import write_tables
from graft_vfs.view.log_view import LogView
from graft_vfs.view.table_policy import due
from graft_vfs.volume.context import Context, Opened
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class Pushed(Report):
    """The result of a push. With nothing to push, `claimed` is false and no request was sent.

    `local_commits` became the remote commit `lsn` with `pages` pages. `bytes_sent` is the size of
    the objects, without HTTP headers.
    """

    log: LogId
    lsn: RemoteLsn
    claimed: bool
    local_commits: int
    pages: int
    bytes_sent: int
    warning: str | None = None
    """A warning that did not stop the push: the log has no ref, or a message came too late."""
    url: str | None = None
    """What other machines can clone the log by."""

    def __str__(self) -> str:
        if not self.claimed:
            return "Nothing to push: there are no local commits."
        return (
            f"Pushed {commits_text(self.local_commits)} as remote LSN {self.lsn} of log "
            f"{self.log}: {pages_text(self.pages)}, {size_text(self.bytes_sent)}."
        )


def push(
    context: Context,
    opened: Opened,
    *,
    message: str = "",
    progress: Progress | None = None,
    sent: Sent | None = None,
    wait_seconds: float = WAIT_SECONDS,
    grace_seconds: int | None = None,
) -> Pushed:
    """Push all local commits. One request if they are small and nothing goes wrong.

    The first push of a log creates the ref `opened.tag` for it, and raises AlreadyExistsError, with
    nothing sent, if another log has that name. On return the remote commit is durable and is the
    branch's base. If another local process or thread is pushing the volume, this waits for it, and
    then pushes the remaining commits. `progress` counts compressed pages, `sent` bytes that the
    remote has acknowledged of a large commit. `message` goes into the commit that is made, in place
    of the messages of its local commits, and not into one that an earlier push left to be settled.
    `grace_seconds` switches the retention of the log on, or changes its grace period, if need be
    by a commit without pages: from then on, programs that do not know retention refuse the log.
    Raises UsageError if it is too long, DivergedError if another client was first, BusyError if the
    other push has not ended after `wait_seconds`, CommitOutcomeUnknownError without an answer: the
    next sync settles the push.
    """
    asked = _Asked(check_message(message), progress, sent, grace_seconds)
    with alone(context, opened.volume, wait_seconds):
        return _push_all(context, opened, asked)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the caller of a push asks for."""

    message: str
    progress: Progress | None
    sent: Sent | None
    grace_seconds: int | None


def _push_all(context: Context, opened: Opened, asked: _Asked) -> Pushed:
    catalog, volume = context.catalog, opened.volume
    while True:
        warning = settle_alone(context, opened) or name_log_later(context, opened)
        with volume.pinned() as snapshot:
            try:
                pushed = _push(context, opened, snapshot, asked)
                if pushed is not None:
                    return replace(pushed, warning=pushed.warning or warning)
            except DivergedError:
                # The other client may be a local process that pushes the same commits: then they
                # are settled, or will be in the next turn. Ordering: settling removes the record.
                is_own = catalog.pending_push(volume.id) is not None
                is_own |= volume.begin().branch is not snapshot.branch
                if not is_own:
                    raise


def _push(context: Context, opened: Opened, snapshot: Snapshot, asked: _Asked) -> Pushed | None:
    """Push a snapshot; None if its branch was replaced before the claim was prepared."""
    catalog, volume = context.catalog, opened.volume
    remote, branch = catalog.volume(volume.id).remote, snapshot.branch.row
    forked = branch.log_id != remote and branch.base > 0
    grace_seconds = asked.grace_seconds
    if snapshot.lsn < branch.first_lsn and not forked and not (grace_seconds and branch.base):
        return Pushed(remote, branch.base, False, 0, 0, 0)
    message = asked.message or _local_messages(snapshot, volume)
    target = replace(_plan(context, snapshot, remote), message=message)
    if grace_seconds:
        target = replace(target, grace_seconds=grace_seconds)
    ensure_safe_store(context, remote)
    _register(context, target)
    # Before anything else is sent, because another log may have the name.
    unnamed = reserve(context, opened, remote) if target.lsn == 1 else None
    counted = _counted(asked.progress, snapshot)
    spool = volume.directory
    built = build(context, snapshot, target, spool=spool, progress=counted, sent=asked.sent)
    # Ordering: the log before the record. The next branch begins where the pushed commits end. If a
    # power cut lost them, new commits would be written before that offset and never be read.
    snapshot.branch.branch_log.sync(snapshot.end.offset)
    if not asked.message and _local_messages(snapshot, volume) != message:
        # Another process has added one since: its commit is durable before its message is.
        return None
    pending = _record(built, snapshot)
    try:
        if not catalog.add_pending_push(pending, branch=branch.id):
            return None
    except AlreadyExistsError as error:
        raise BusyError("another push of this volume is running", next_step="try again") from error
    if not claim_recorded(context, pending):
        newest = forget_lost(context, pending)
        raise diverged(pending.log_id, RemoteLsn(pending.lsn - 1), newest)
    header = built.header
    if target.lsn == 1 and unnamed is None:
        note_first_commit(context, volume, header.log_id, opened.tag)
    warning = unnamed
    if not asked.message and _local_messages(snapshot, volume) != message:
        # One that is added after this is found to be late by its process; see `keep_message`.
        late = "a message of a local commit came during the push, too late for it"
        _logger.warning("%s: %s", catalog.title(volume.id), late)
        warning = unnamed or late
    finish(context, volume, pending, header, snapshot)
    if due(header.lsn) == header.lsn:
        write_tables(context.logs, remote)
    pushed = Pushed(
        header.log_id,
        header.lsn,
        True,
        header.local_commits,
        len(header.pages),
        built.stored_bytes,
        warning,
        context.remotes.url_of_ref(header.log_id),
    )
    _logger.info("volume %s: %s", volume.id, pushed)
    return pushed


def _local_messages(snapshot: Snapshot, volume: Volume) -> str:
    """Return the messages of a snapshot's local commits as one text."""
    first = snapshot.branch.row.first_lsn
    return Messages(volume.directory).joined(first, snapshot.lsn, MESSAGE_BYTES_MAX)


def _register(context: Context, target: Target) -> None:
    """Have the parent of a fork keep its fork point, if its retention might delete that.

    No request without retention, else three. Raises ExpiredError, ReadOnlyError, StoreError.
    """
    parent, lsn = target.parent_log, target.parent_lsn
    if parent is not None and require_header(context.logs, parent, lsn).grace_seconds:
        register_child(context.logs.log(parent).store, Child(parent, lsn, target.log_id))


def ensure_safe_store(context: Context, log_id: LogId) -> None:
    """Verify that the store of a log honours create-only writes; raises UnsafeStoreError.

    No request once this is known of the store, else one, or two for the store's first client.
    """
    store = context.logs.log(log_id).store
    name = store.describe()
    if not context.catalog.is_probed(name):
        check_conditional_writes(store)
        context.catalog.set_probed(name)


def _plan(context: Context, snapshot: Snapshot, remote: LogId) -> Target:
    """Return the target of the local commits; raises DivergedError if their LSN is used."""
    branch = snapshot.branch.row
    newest, digest = context.catalog.newest_commit(remote)
    forked = branch.log_id != remote and branch.base > 0
    base = NO_LSN if branch.log_id != remote else branch.base
    if newest > base:
        raise diverged(remote, base, newest)
    if branch.base:
        prove(context.logs, branch.log_id)
    parent = snapshot.remote if isinstance(snapshot.remote, LogView) else None
    return Target(
        log_id=remote,
        lsn=RemoteLsn(base + 1),
        previous_hash=parent.hash if parent else (digest if base else NO_HASH),
        parent_log=branch.log_id if forked else None,
        parent_lsn=branch.base if forked else NO_LSN,
        previous_ms=parent.time_ms if parent else 0,
        grace_seconds=require_header(context.logs, remote, base).grace_seconds if base else 0,
    )


def _counted(progress: Progress | None, snapshot: Snapshot) -> Callable[[int], None] | None:
    """Return a callback that reports a number of pages to `progress`, with their total."""
    if progress is None:
        return None
    tell, total = progress, len(snapshot.local_pages())
    return lambda done: tell(done, total)


def _record(built: BuiltCommit, snapshot: Snapshot) -> PendingPush:
    """Return the catalog's record of a commit that was built from a snapshot."""
    return PendingPush(
        volume=snapshot.branch.row.volume,
        log_id=built.header.log_id,
        lsn=built.header.lsn,
        hash=built.header.hash,
        data=built.data,
        through_lsn=snapshot.lsn,
        counter=snapshot.counter,
        through=snapshot.end,
    )


def diverged(log_id: LogId, base: RemoteLsn, newest: RemoteLsn) -> DivergedError:
    """Return the error for a volume whose base is no longer the newest remote commit."""
    return DivergedError(
        f"the volume has local commits on remote LSN {base}, but log {log_id} is at {newest}: "
        "they have diverged; nothing was moved and nothing is lost",
        next_step=Hint(
            "merge both with ",
            Advice.REBASE,
            "; or follow the remote, and keep the local commits as a branch with ",
            Advice.PULL_RESET,
            ", or as a new volume with ",
            Advice.PULL_FORK,
        ),
    )
