"""Pull: fetch, then move an unchanged volume to the newest remote commit."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from graft_vfs.errors import (
    CommitOutcomeUnknownError,
    PageSizeError,
    StoreError,
    StoreUnavailableError,
)
from graft_vfs.ids import LogId
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.reports import Progress, Report, commits_text
from graft_vfs.sqlite_format.header import COUNTER_MAX
from graft_vfs.sync.fetch import fetch_log
from graft_vfs.sync.push import diverged
from graft_vfs.sync.recognise import recognise
from graft_vfs.sync.settle import WAIT_SECONDS, settle_pending
from graft_vfs.volume.context import Context, Opened
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.switching import prepare, switch
from graft_vfs.volume.volume import Volume

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class Pulled(Report):
    """What a pull did: the branch's base, as an LSN of the log, `before` and now."""

    log: LogId
    before: RemoteLsn
    lsn: RemoteLsn

    @property
    def commits(self) -> int:
        """How many remote commits became part of the view."""
        return self.lsn - self.before

    def __str__(self) -> str:
        if not self.commits:
            return f"Already up to date with remote log {self.log} (LSN {self.lsn})."
        return (
            f"Pulled {commits_text(self.commits)} of remote log {self.log}, now at LSN {self.lsn}."
        )


def pull(
    context: Context,
    opened: Opened,
    *,
    progress: Progress | None = None,
    wait_seconds: float = WAIT_SECONDS,
) -> Pulled:
    """Fast-forward the volume. One request if nothing is new.

    A push whose outcome is unknown is settled first, and the tag becomes the ref of its log if that
    has none. If another process or thread here is still pushing, this waits for it, and raises
    BusyError after `wait_seconds`. `progress` counts commits. Raises DivergedError, with nothing
    moved, if the volume has commits that the newest remote commit does not stand on; ReadOnlyError,
    also if nothing is new.
    """
    catalog, volume = context.catalog, opened.volume
    catalog.require_writable()
    while True:
        _settle_if_possible(context, opened, wait_seconds)
        remote = catalog.volume(volume.id).remote
        newest = fetch_log(context.logs, remote, progress=progress).newest
        # Another process here may be pushing, and its commit look foreign until it is settled.
        # Ordering: the record goes with the settling, so this is asked before the branch is.
        is_pushing = catalog.pending_push(volume.id) is not None
        base = _base(volume.begin(), remote)
        if newest <= base:
            # Nothing to move, so that no writer is waited for, and none has to wait.
            return Pulled(remote, base, base)
        with volume.writing() as snapshot:
            branch, base = snapshot.branch.row, _base(snapshot, remote)
            if newest <= base:
                return Pulled(remote, base, base)
            if snapshot.lsn < branch.first_lsn and (branch.log_id == remote or not branch.base):
                move(context, volume, remote, newest)
                pulled = Pulled(remote, base, newest)
                _logger.info("volume %s: %s", volume.id, pulled)
                return pulled
            if not is_pushing and not recognise(context, volume):
                raise diverged(remote, base, newest)


def _settle_if_possible(context: Context, opened: Opened, wait_seconds: float) -> None:
    """Settle an earlier push; one that is absent and that the store refuses to write stays open.

    A log has no gaps, so beyond an absent commit there is nothing to pull. A store that is not
    available may have a newer one.
    """
    try:
        settle_pending(context, opened, wait_seconds=wait_seconds)
    except CommitOutcomeUnknownError as error:
        cause = error.__cause__
        if not isinstance(cause, StoreError) or isinstance(cause, StoreUnavailableError):
            raise
        _logger.warning("an earlier push of volume %s stays open: %s", opened.volume.id, error)


def _base(snapshot: Snapshot, remote: LogId) -> RemoteLsn:
    """Return the LSN of the remote log that a snapshot stands on, 0 for none."""
    branch = snapshot.branch.row
    return branch.base if branch.log_id == remote else NO_LSN


def move(context: Context, volume: Volume, log_id: LogId, lsn: RemoteLsn) -> None:
    """Make a new empty branch on LSN `lsn` of a log current; the caller holds the writer lock."""
    snapshot = volume.begin()
    view = context.logs.log_view(log_id, lsn)
    if snapshot.page_count and snapshot.page_size != view.page_size:
        raise PageSizeError(
            f"log {log_id} has pages of {view.page_size} bytes, the volume of {snapshot.page_size}",
            next_step="clone the log under another tag",
        )
    candidate = prepare(
        snapshot.branch.row,
        log_id=log_id,
        base=lsn,
        counter=(snapshot.counter + 1) & COUNTER_MAX,
        through=snapshot.lsn,
        end=snapshot.end,
    )
    switch(volume, candidate, synced=True)
