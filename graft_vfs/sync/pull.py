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
    """The result of a pull: the branch's base as an LSN, `before` and now."""

    log: LogId
    before: RemoteLsn
    lsn: RemoteLsn

    @property
    def commits(self) -> int:
        """The number of remote commits that were added to the volume."""
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

    A push of unknown outcome is settled first, and the tag becomes the ref of its log if that has
    none. If another local process or thread is still pushing, this waits for it, and raises
    BusyError after `wait_seconds`. `progress` counts commits. Raises DivergedError, and moves
    nothing, if the volume has local commits and the log has new ones; ReadOnlyError, even if
    nothing is new.
    """
    catalog, volume = context.catalog, opened.volume
    catalog.require_writable()
    while True:
        _settle_if_possible(context, opened, wait_seconds)
        remote = catalog.volume(volume.id).remote
        newest = fetch_log(context.logs, remote, progress=progress).newest
        # Another local process may be pushing, and its commit looks foreign until it is settled.
        # Ordering: settling removes the record, so the record is checked before the branch.
        is_pushing = catalog.pending_push(volume.id) is not None
        base = _base(volume.begin(), remote)
        if newest <= base:
            # Nothing to move, so neither this nor a writer has to wait.
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
    """Settle an earlier push; if it is absent and the store refuses the write, it stays open.

    A log has no gaps, so after an absent commit there is nothing to pull. If the store is
    unavailable, there may be newer commits.
    """
    try:
        settle_pending(context, opened, wait_seconds=wait_seconds)
    except CommitOutcomeUnknownError as error:
        cause = error.__cause__
        if not isinstance(cause, StoreError) or isinstance(cause, StoreUnavailableError):
            raise
        _logger.warning("an earlier push of volume %s stays open: %s", opened.volume.id, error)


def _base(snapshot: Snapshot, remote: LogId) -> RemoteLsn:
    """Return the remote LSN that a snapshot is based on, 0 for none."""
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
