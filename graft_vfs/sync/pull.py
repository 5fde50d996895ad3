"""Pull: fetch, then move a volume to the newest remote commit.

A volume with local commits that the log lacks has diverged if the log has new ones. It is moved
only with a strategy, which says where the local commits go; see `strategies`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from graft_vfs.errors import CommitOutcomeUnknownError, StoreError, StoreUnavailableError
from graft_vfs.ids import LogId
from graft_vfs.local.catalog import descriptor
from graft_vfs.local.catalog.rows import Departure
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.reports import Progress, Report, commits_text
from graft_vfs.sync.fetch import fetch_log
from graft_vfs.sync.push import diverged
from graft_vfs.sync.recognise import recognise
from graft_vfs.sync.settle import WAIT_SECONDS, settle_pending
from graft_vfs.sync.strategies import Divergence, Resolve, follow
from graft_vfs.volume.context import Context, Opened
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.switching import switch

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class Pulled(Report):
    """The result of a pull: the branch's base as an LSN, `before` and now.

    If a strategy has resolved a divergence, `local_commits` are on the kept branch `kept`, or in a
    new volume under the tag `forked`.
    """

    log: LogId
    before: RemoteLsn
    lsn: RemoteLsn
    local_commits: int = 0
    kept: LogId | None = None
    forked: str | None = None

    @property
    def commits(self) -> int:
        """The number of remote commits that were added to the volume."""
        return self.lsn - self.before

    def __str__(self) -> str:
        if not self.commits:
            return f"Already up to date with remote log {self.log} (LSN {self.lsn})."
        text = (
            f"Pulled {commits_text(self.commits)} of remote log {self.log}, now at LSN {self.lsn}."
        )
        if self.kept is not None:
            text += f"\n{commits_text(self.local_commits)} kept as branch {self.kept}."
        if self.forked is not None:
            text += f"\n{commits_text(self.local_commits)} moved to the new volume {self.forked}."
        return text


def pull(
    context: Context,
    opened: Opened,
    *,
    progress: Progress | None = None,
    wait_seconds: float = WAIT_SECONDS,
    strategy: Resolve | None = None,
) -> Pulled:
    """Fast-forward the volume. One request if nothing is new.

    A push of unknown outcome is settled first, and the tag becomes the ref of its log if that has
    none. If another local process or thread is still pushing, this waits for it, and raises
    BusyError after `wait_seconds`. `progress` counts commits. Raises DivergedError, and moves
    nothing, if the volume has local commits and the log has new ones, unless a `strategy` says
    what becomes of them, which sends no request; ReadOnlyError, even if nothing is new.
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
                switch(volume, follow(context, volume, remote, newest), synced=True)
                pulled = Pulled(remote, base, newest)
                _logger.info("volume %s: %s", volume.id, pulled)
                return pulled
            if is_pushing or recognise(context, volume):
                continue
            if strategy is None:
                raise diverged(remote, base, newest)
            found = strategy(Divergence(context, opened, snapshot, remote, newest))
            # Not if another process has settled or begun a push meanwhile.
            if switch(volume, found.candidate, synced=True, departure=found.departure):
                pulled = _resolved(context, snapshot, Pulled(remote, base, newest), found.departure)
                _logger.info("volume %s: %s", volume.id, pulled)
                return pulled


def _resolved(context: Context, snapshot: Snapshot, pulled: Pulled, departure: Departure) -> Pulled:
    """Return the report on a divergence that is resolved; describe the volume that was made."""
    if departure.tag is not None:
        made = departure.tag[1]
        directory = context.directory_of(made)
        context.catalog.describe(made, lambda wanted: descriptor.write(directory, wanted))
    return replace(
        pulled,
        local_commits=snapshot.local_commits,
        kept=None if departure.kept is None else departure.kept.id,
        forked=None if departure.tag is None else departure.tag[0],
    )


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
