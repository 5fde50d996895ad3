"""Syncs of an engine: records how each one ended, and decides what a run of autosync does."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from graft_vfs.engine.autosync import FLUSH_SECONDS, Outcome
from graft_vfs.engine.status import status_of
from graft_vfs.errors import (
    CommitOutcomeUnknownError,
    DivergedError,
    GraftError,
    NoRemoteError,
    StoreError,
)
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local import head, layout
from graft_vfs.local.files import importing
from graft_vfs.maintenance import compaction
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.reports import Progress, Status
from graft_vfs.store.base import Sent
from graft_vfs.store.none import NoStore
from graft_vfs.sync import naming, strategies
from graft_vfs.sync import pull as pulling
from graft_vfs.sync import push as pushing
from graft_vfs.sync.fetch import Fetched, fetch_log
from graft_vfs.sync.recognise import recognise
from graft_vfs.sync.settle import settle_pending
from graft_vfs.view.table_policy import STEP
from graft_vfs.volume.context import Context, Opened
from graft_vfs.volume.volume import Volume

if TYPE_CHECKING:
    from graft_vfs.merge.conflicts import Choices, Conflicting, Merged
    from graft_vfs.merge.rebase import Rebased
    from graft_vfs.merge.sides import Prepare

_logger = logging.getLogger(__name__)


def require_remote(context: Context, log_id: LogId | None = None) -> None:
    """Raise NoRemoteError if a log lives on no remote; without a log, if there is none at all."""
    if log_id is None:
        is_none = isinstance(context.store, NoStore) and not context.catalog.remotes.all()
    else:
        is_none = not context.remotes.has(log_id)
    if is_none:
        raise NoRemoteError(
            "no remote is configured",
            next_step="add a [remote] table to graft.toml, or set GRAFT_REMOTE_TYPE and its "
            "companions",
        )


@contextlib.contextmanager
def syncing(context: Context, volume: Volume) -> Iterator[None]:
    """Store a sync's error for the volume's status; a successful sync clears it."""
    require_remote(context, context.catalog.volume(volume.id).remote)
    try:
        yield
    except GraftError as error:
        if isinstance(error, StoreError | CommitOutcomeUnknownError):
            context.logs.forget_proofs()
        # One that found a divergence has asked the remote.
        _note_checked(context, volume.id)
        _note_error(context, volume, error)
        raise
    _note_checked(context, volume.id)
    if context.catalog.volume(volume.id).last_error is not None:
        _note_error(context, volume, None)


def _note_checked(context: Context, volume: VolumeId) -> None:
    """Record when the remote was last checked, for the volume's status; not durable."""
    if not context.writable:
        return
    try:
        asked = context.logs.asked_ms(context.catalog.volume(volume).remote)
        if asked is not None:
            head.note_checked(context.directory_of(volume) / layout.HEAD, asked)
    except GraftError as failure:
        _logger.info("when volume %s was checked is not recorded: %s", volume, failure)


def _note_error(context: Context, volume: Volume, error: GraftError | None) -> None:
    """Record how a sync ended; on a full disk, only log that this failed."""
    if not context.writable:
        return
    try:
        context.catalog.note_sync_error(volume.id, error)
    except GraftError as failure:
        _logger.warning(
            "the result of the sync of volume %s could not be recorded: %s", volume.id, failure
        )


def pull(
    context: Context,
    opened: Opened,
    progress: Progress | None = None,
    strategy: str | None = None,
) -> pulling.Pulled:
    """Fetch and fast-forward, or resolve a divergence by a strategy; see `sync.pull`."""
    chosen = None if strategy is None else strategies.strategy(strategy)
    with syncing(context, opened.volume):
        done = pulling.pull(context, opened, progress=progress, strategy=chosen)
    context.volumes.hydrate(opened.volume)
    return done


def rebase(
    context: Context,
    opened: Opened,
    choices: Choices,
    *,
    dry_run: bool,
    prepare: Prepare | None,
    progress: Progress | None,
) -> pulling.Pulled | Rebased | Merged | Conflicting | Fetched:
    """Merge local commits onto the newest remote one, or try to; see `merge.rebase`."""
    with importing():
        from graft_vfs.merge import rebase as rebasing  # noqa: PLC0415 - for start-up
        from graft_vfs.merge.sides import no_preparation  # noqa: PLC0415

    prepared = prepare or no_preparation
    with syncing(context, opened.volume):
        if dry_run:
            return rebasing.try_rebase(
                context, opened, choices, prepared=prepared, progress=progress
            )
        done = rebasing.rebase(context, opened, choices, prepared=prepared, progress=progress)
    context.volumes.hydrate(opened.volume)
    return done


def push(
    context: Context,
    opened: Opened,
    *,
    name: str | None = None,
    message: str = "",
    progress: Progress | None = None,
    sent: Sent | None = None,
    wait_seconds: float,
) -> pushing.Pushed:
    """Push, after recognising local commits that the log already has. See `sync.push`.

    A log without commits gets `name`, by default that of an earlier attempt, else the tag; one with
    commits gets `name` as another ref.
    """
    with syncing(context, opened.volume):
        log_id = context.catalog.volume(opened.volume.id).remote
        if name is not None:
            # An earlier push has its own name; the log gets this one as another.
            settle_pending(context, opened, wait_seconds=wait_seconds)
            if context.catalog.newest_commit(log_id)[0]:
                # Before anything is sent, because another log may have the name.
                naming.name_by_hand(context, log_id, name)
        named = Opened(name or naming.wanted_name(opened.volume) or opened.tag, opened.volume)
        again = functools.partial(
            pushing.push,
            context,
            named,
            message=message,
            progress=progress,
            sent=sent,
            wait_seconds=wait_seconds,
        )
        try:
            return again()
        except DivergedError:
            if not recognise(context, opened.volume):
                raise
        return again()


def needs_push(status: Status) -> bool:
    """Return True if a push has something to do: commits, a fork, or an earlier push to settle."""
    return bool(status.ahead or status.unpublished_fork or status.pending_push)


def is_diverged(context: Context, opened: Opened, status: Status) -> bool:
    """Return True if neither a push nor a pull can move the volume. No request."""
    is_open_question = status.diverged and not status.pending_push
    return is_open_question and not recognise(context, opened.volume)


def sync_one(
    context: Context, volume_id: VolumeId, *, is_last: bool, strategy: str | None = None
) -> Outcome:
    """Do one run of autosync: push if there are local commits, else pull.

    One request for a small push, or if nothing is new. A closed volume is only pushed. A volume
    that is known to have diverged is pulled with `strategy`, if there is one, and else skipped.
    """
    tags = context.catalog.volume_tags(volume_id)
    if not tags:
        return Outcome.CLOSED
    is_open = context.volumes.is_open(volume_id)
    opened = Opened(tags[0], context.volumes.look(volume_id))
    status = status_of(context, opened)
    chosen = strategy if is_open and not is_last else None
    if is_diverged(context, opened, status):
        if chosen is None:
            return Outcome.DIVERGED if is_open else Outcome.CLOSED
        pull(context, opened, strategy=chosen)
    elif needs_push(status):
        _push_or_resolve(context, opened, chosen, is_last=is_last)
    elif is_open and not is_last:
        if _may_have_news(context, status.remote):
            pull(context, opened)
        else:
            _note_checked(context, volume_id)
    return Outcome.SYNCED if is_open else Outcome.CLOSED


def _compact_if_due(context: Context, opened: Opened) -> None:
    """Compact a log that was just pushed to; the push has succeeded whatever becomes of it."""
    try:
        compaction.maintain(context, opened, only_if_due=True)
    except GraftError as error:
        _logger.warning("the log of %s was not compacted: %s", opened.tag, error)


def _push_or_resolve(
    context: Context, opened: Opened, strategy: str | None, *, is_last: bool
) -> None:
    """Push; if this finds that the volume has diverged, pull with the strategy, if there is one.

    A push by another process is equivalent, except for commits that follow it.
    """
    try:
        pushed = push(context, opened, wait_seconds=FLUSH_SECONDS if is_last else 0.0)
    except DivergedError:
        if strategy is None:
            raise
        pull(context, opened, strategy=strategy)
    else:
        if pushed.claimed and not is_last and pushed.lsn % STEP == 0:
            _compact_if_due(context, opened)


def has_news(context: Context, volume_id: VolumeId) -> bool:
    """Return True if a pull may find something; the volume need not be open.

    One request if nothing is new, and a second the first time in an engine; see `fetch_log`.
    """
    row, branch = context.catalog.current(volume_id)
    if not context.catalog.newest_commit(row.remote)[0]:
        found = _may_have_news(context, row.remote)
        _note_checked(context, volume_id)
        return found
    base = branch.base if branch.log_id == row.remote else NO_LSN
    newest = fetch_log(context.logs, row.remote).newest
    _note_checked(context, volume_id)
    return newest > base


def _may_have_news(context: Context, log: LogId) -> bool:
    """Return True if a pull may find commits; a log without commits is not listed for that."""
    if context.catalog.newest_commit(log)[0]:
        return True
    has_commits = context.logs.log(log).read_header(RemoteLsn(1)) is not None
    context.logs.note_asked(log)
    return has_commits
