"""An engine's reports on its volumes, from local data; they send no requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from graft_vfs.advice import Advice, Hint
from graft_vfs.engine.autosync import Autosync
from graft_vfs.errors import GraftError
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local.catalog.rows import BranchRow, PendingPush, VolumeRow
from graft_vfs.metrics import Metrics, VolumeMetrics
from graft_vfs.pages import NO_LSN, LocalLsn, RemoteLsn
from graft_vfs.reports import Info, Report, Status, VolumeReport
from graft_vfs.standing import Standing
from graft_vfs.sync.naming import warning_of
from graft_vfs.volume.context import Context, Opened
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume


@dataclass(frozen=True, slots=True, repr=False)
class VolumeStatus(Report):
    """How one volume stands to its remote log, as a row of a table.

    `ahead` and `behind` count local and remote commits, as in `Status`; both are None for a volume
    that cannot be read, whose `problem` says why. The remote was last asked, with an answer, at
    `last_checked_ms`, and a sync last moved the volume at `last_moved_ms`: milliseconds since 1970,
    None for never or not recorded. `last_error` is that of the last sync, if that failed.
    """

    tags: tuple[str, ...]
    volume: VolumeId
    state: Standing
    ahead: int | None = None
    behind: int | None = None
    pending_push: bool = False
    last_checked_ms: int | None = None
    last_moved_ms: int | None = None
    last_error: str | None = None
    problem: str | None = None

    def __str__(self) -> str:
        name = ", ".join(self.tags) or str(self.volume)
        return f"{name}: {self.state.text(ahead=self.ahead or 0, behind=self.behind or 0)}"


def status_of(context: Context, opened: Opened, autosync: Autosync | None = None) -> Status:
    """Return the state of a volume relative to its remote."""
    tag, volume = opened
    row = context.catalog.volume(volume.id)
    known = _known(context, row)
    snapshot = volume.begin()
    branch = snapshot.branch.row
    sides = _sides(row, known, branch, snapshot.lsn)
    warning, advice = _warning(context, tag, volume, row.remote)
    return Status(
        tag=tag,
        volume=volume.id,
        branch=branch.id,
        remote=row.remote,
        local_lsn=snapshot.lsn,
        base_lsn=sides.base,
        ahead=sides.ahead,
        behind=sides.behind,
        attached=sides.base > 0,
        pending_push=sides.has_pending,
        last_checked_ms=_last_checked(row, context.volumes.checked_ms(volume.id)),
        last_moved_ms=row.synced_ms,
        last_error=row.last_error,
        behind_since_ms=_behind_since(context, row.remote, sides.claimed),
        autosync=None if autosync is None else autosync.report(volume.id),
        warning=warning,
        advice=advice,
        unpublished_fork=sides.is_fork,
        has_remote=context.remotes.has(row.remote),
        kept_branches=len(context.catalog.kept.all(volume.id)),
    )


class _Sides(NamedTuple):
    """What a volume and its remote log have, each without the other.

    `base` is the LSN of the log that the branch stands on, `claimed` that of the newest commit
    which is its own.
    """

    base: RemoteLsn
    claimed: RemoteLsn
    ahead: int
    behind: int
    is_fork: bool
    has_pending: bool


class _Known(NamedTuple):
    """The newest known LSN of a volume's log, and its pending push; does this have its LSN?"""

    newest: RemoteLsn
    pending: PendingPush | None
    has_landed: bool


def _known(context: Context, row: VolumeRow) -> _Known:
    """Read what `_sides` needs of the catalog.

    Ordering: the newest commit, then the pending push, then the volume's branch. A push by another
    process makes its commit known, moves the branch, and forgets the record, in this order; read in
    another one, the commit would look like another client's, and the volume diverged.
    """
    newest = context.catalog.newest_commit(row.remote)[0]
    pending = context.catalog.pending_push(row.id)
    return _Known(newest, pending, pending is not None and _is_known(context, pending))


def _sides(row: VolumeRow, known: _Known, branch: BranchRow, local_lsn: LocalLsn) -> _Sides:
    base = branch.base if branch.log_id == row.remote else NO_LSN
    ahead = local_lsn - branch.first_lsn + 1
    is_fork, claimed = branch.log_id != row.remote and branch.base > 0, base
    pending = known.pending
    if pending is not None and known.has_landed:
        # Our own commit must not look like another client's until the next sync settles it.
        claimed, is_fork = pending.lsn, False
        ahead = local_lsn - pending.through_lsn
    behind = max(0, known.newest - claimed)
    return _Sides(base, claimed, ahead, behind, is_fork, pending is not None)


def _last_checked(row: VolumeRow, checked_ms: int | None) -> int | None:
    """Return when the remote was last asked: what moved a volume has asked it, too."""
    return max(checked_ms or 0, row.synced_ms or 0) or None


def statuses(context: Context) -> list[VolumeStatus]:
    """Return how each volume stands, those with tags first, in order of their tags. No request.

    A volume that has no local commits, by its head file, is not opened; for the others see
    `OpenVolumes.look`. One that cannot be read is a row that says why.
    """
    tags: dict[VolumeId, list[str]] = {}
    for tag, volume in context.catalog.tags():
        tags.setdefault(volume, []).append(tag)
    branches = context.catalog.current_branches()
    found = [
        _volume_status(context, row, branches.get(row.branch), tuple(tags.get(row.id, ())))
        for row in context.catalog.volumes()
    ]
    return sorted(found, key=lambda each: (not each.tags, each.tags, each.volume))


def _volume_status(
    context: Context, row: VolumeRow, branch: BranchRow | None, tags: tuple[str, ...]
) -> VolumeStatus:
    try:
        known = _known(context, row)
        seen = context.volumes.glance(row.id)
        if branch and seen and (seen.epoch, seen.end) == (row.epoch, branch.start.offset):
            local_lsn = LocalLsn(branch.first_lsn - 1)
        else:
            volume = context.volumes.look(row.id)
            snapshot = volume.begin()
            branch, local_lsn = snapshot.branch.row, snapshot.lsn
        sides = _sides(row, known, branch, local_lsn)
    except GraftError as error:
        return VolumeStatus(tags, row.id, Standing.UNREADABLE, problem=str(error))
    state = Standing.of(
        has_remote=context.remotes.has(row.remote),
        ahead=sides.ahead,
        behind=sides.behind,
        unpublished=sides.is_fork,
        attached=sides.base > 0,
    )
    return VolumeStatus(
        tags,
        row.id,
        state,
        ahead=sides.ahead,
        behind=sides.behind,
        pending_push=sides.has_pending,
        last_checked_ms=_last_checked(row, context.volumes.checked_ms(row.id)),
        last_moved_ms=row.synced_ms,
        last_error=row.last_error,
    )


def _warning(
    context: Context, tag: str, volume: Volume, log_id: LogId
) -> tuple[str | None, Hint | None]:
    """Return the warning about a volume without its tag or a ref, and the advice."""
    named = context.catalog.tag_volume(tag)
    if named is None:
        return (
            f"the tag was removed, and this connection can only read volume {volume.id}",
            Hint("use ", Advice.SWITCH(TAG=tag, VOLUME=str(volume.id)), " to name it again"),
        )
    if named != volume.id:
        return f"the tag names volume {named} now, where the next transaction will be", None
    no_ref = warning_of(volume.directory)
    return no_ref, Hint("use ", Advice.NAME_LOG(LOG=log_id), " to give it one") if no_ref else None


def _is_known(context: Context, push: PendingPush) -> bool:
    """Return True if a push is known to have its LSN."""
    found = context.catalog.commits(push.log_id, push.lsn, push.lsn)
    return bool(found) and found[0].hash == push.hash


def _behind_since(context: Context, log_id: LogId, base: RemoteLsn) -> int | None:
    """Return the time of the oldest known commit above `base`."""
    header = context.logs.header(log_id, RemoteLsn(base + 1))
    return None if header is None else header.time_ms


def info_of(context: Context, opened: Opened) -> Info:
    """Describe a volume and its newest snapshot."""
    snapshot = opened.volume.begin()
    row = context.catalog.volume(opened.volume.id)
    return Info(
        tag=opened.tag,
        volume=opened.volume.id,
        branch=snapshot.branch.row.id,
        remote=row.remote,
        synced_local=row.synced_local,
        synced_remote=row.synced_remote,
        synced_ms=row.synced_ms,
        snapshot=_snapshot_text(snapshot),
        pages=snapshot.page_count,
        page_size=snapshot.page_size,
        remote_url=context.remotes.url_of_ref(row.remote),
    )


def _snapshot_text(snapshot: Snapshot) -> str:
    """Return a snapshot as `log[1..base] + branch[first..lsn]`, without empty parts."""
    branch = snapshot.branch.row
    parts = []
    if branch.base:
        parts.append(f"{branch.log_id}[1..{branch.base}]")
    if snapshot.local_commits:
        parts.append(f"{branch.id}[{branch.first_lsn}..{snapshot.lsn}]")
    return " + ".join(parts) or "empty"


def examined(context: Context) -> Iterator[tuple[VolumeRow, Snapshot | GraftError]]:
    """Open each volume, oldest first, and yield its newest snapshot, or the error.

    A volume stays open only as long as its snapshot.
    """
    for row in context.catalog.volumes():
        try:
            yield row, context.volumes.look(row.id).begin()
        except GraftError as error:
            yield row, error


def volume_reports(context: Context) -> list[VolumeReport]:
    """Return all volumes, oldest first; one that cannot be opened has a row with the reason."""
    tags: dict[VolumeId, list[str]] = {}
    for tag, volume in context.catalog.tags():
        tags.setdefault(volume, []).append(tag)
    reports = []
    for row, found in examined(context):
        names = tuple(tags.get(row.id, ()))
        if isinstance(found, GraftError):
            reports.append(
                VolumeReport(row.id, row.branch, row.remote, None, None, names, str(found))
            )
            continue
        branch = found.branch.row
        base = branch.base if branch.log_id == row.remote else NO_LSN
        reports.append(VolumeReport(row.id, branch.id, row.remote, found.lsn, base, names))
    return reports


def metrics_of(context: Context, autosync: Autosync | None) -> Metrics:
    """Return counts since an engine was opened, and the state of its volumes."""
    counts = context.volumes.commit_counts()
    return Metrics(
        store=context.store.counters.snapshot(),
        latencies=context.store.counters.latencies(),
        counts=context.logs.counters.snapshot(),
        commits=sum(each.commits for each in counts),
        spilled_transactions=sum(each.spilled for each in counts),
        cache_bytes=context.logs.cache_bytes(),
        volumes=tuple(
            VolumeMetrics.of(
                context.catalog.volume_tags(volume.id),
                status_of(context, Opened("", volume), autosync),
            )
            for volume in context.volumes.all()
        ),
    )
