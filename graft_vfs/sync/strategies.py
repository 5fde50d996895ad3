"""Strategies for a diverged volume: where its local commits go when it follows the remote.

    reset   they stay as a kept branch
    fork    they become a new volume, on a log of its own, under a tag of its own

A strategy gets a volume that has diverged, under its writer lock, and returns a `Resolution`: the
branch that the volume goes on with, and where the local commits are. The pull then makes one
switch, which does nothing if the branch has changed or a push has begun. So a crash leaves the
volume diverged or resolved. `STRATEGIES` is the one registry; a name may be followed by `:` and a
policy, which the strategy reads.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass

from graft_vfs.errors import AlreadyExistsError, NotFoundError, PageSizeError, UsageError
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local.catalog import descriptor
from graft_vfs.local.catalog.rows import Departure, KeptBranch
from graft_vfs.local.files import storage_errors
from graft_vfs.pages import RemoteLsn
from graft_vfs.sqlite_format.header import COUNTER_MAX
from graft_vfs.suggestions import did_you_mean
from graft_vfs.sync.clone import NewVolume, make_volume
from graft_vfs.tags import TAG_CHARACTERS_MAX
from graft_vfs.volume import kept as keeping
from graft_vfs.volume.context import Context, Opened
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.switching import Candidate, prepare, switch
from graft_vfs.volume.volume import Volume

_logger = logging.getLogger(__name__)

_SHORT_CHARACTERS, _LONG_CHARACTERS = 6, 13


@dataclass(frozen=True, slots=True)
class Divergence:
    """A volume with local commits, `snapshot`, whose log `remote` has newer ones up to `newest`.

    The caller holds the writer lock since `snapshot`. No push is pending.
    """

    context: Context
    opened: Opened
    snapshot: Snapshot
    remote: LogId
    newest: RemoteLsn


@dataclass(frozen=True, slots=True)
class Resolution:
    """The branch to switch to, and where the local commits are then."""

    candidate: Candidate
    departure: Departure


Resolve = Callable[[Divergence], Resolution]
"""Prepares the resolution of a divergence; changes nothing that a user sees."""
Strategy = Callable[[str], Resolve]
"""Takes its policy, "" for none; raises UsageError for one that it does not have."""


def strategy(text: str) -> Resolve:
    """Return the strategy that `name[:policy]` says; raises UsageError."""
    name, _, policy = text.partition(":")
    found = STRATEGIES.get(name)
    if found is None:
        raise UsageError(
            f"there is no strategy {name!r} for a diverged volume",
            next_step=f"{did_you_mean(name, STRATEGIES)}use {' or '.join(STRATEGIES)}",
        )
    return found(policy)


def _without_policy(resolve: Resolve) -> Strategy:
    """Return a strategy that refuses every policy."""

    def take(policy: str) -> Resolve:
        if policy:
            raise UsageError(
                f"{policy!r} is no policy: this strategy has none", next_step="leave it out"
            )
        return resolve

    return take


def follow(context: Context, volume: Volume, log_id: LogId, lsn: RemoteLsn) -> Candidate:
    """Return an empty branch on LSN `lsn` of a log; the caller holds the writer lock.

    Raises PageSizeError.
    """
    snapshot = volume.begin()
    view = context.logs.log_view(log_id, lsn)
    if snapshot.page_count and snapshot.page_size != view.page_size:
        raise PageSizeError(
            f"log {log_id} has pages of {view.page_size} bytes, the volume of {snapshot.page_size}",
            next_step="clone the log under another tag",
        )
    return prepare(
        snapshot.branch.row,
        log_id=log_id,
        base=lsn,
        counter=(snapshot.counter + 1) & COUNTER_MAX,
        through=snapshot.lsn,
        end=snapshot.end,
        departs=snapshot.local_commits > 0,
    )


def _reset(divergence: Divergence) -> Resolution:
    """Keep the local commits as a branch, which takes no copy of them."""
    context, volume = divergence.context, divergence.opened.volume
    candidate = follow(context, volume, divergence.remote, divergence.newest)
    return Resolution(candidate, Departure(keeping.as_kept(volume, divergence.snapshot, "reset")))


# Fork -------------------------------------------------------------------------------------------


def _fork(divergence: Divergence) -> Resolution:
    """Copy the local commits to a new volume, which gets its tag by the switch.

    The new volume's id follows from the branch's, so after a crash the next attempt finds it, and
    fills it again. Nothing is fetched: it is based on what the branch is based on.
    """
    context, (tag, volume) = divergence.context, divergence.opened
    candidate = follow(context, volume, divergence.remote, divergence.newest)
    left = keeping.as_kept(volume, divergence.snapshot, "fork")
    if left is None:
        return Resolution(candidate, Departure(None))
    made = _volume_for(context, volume, left)
    target = context.volumes.use(made)
    with target.writing() as before:
        copy = prepare(
            before.branch.row,
            log_id=left.branch.log_id,
            base=left.branch.base,
            counter=(before.counter + 1) & COUNTER_MAX,
            through=before.lsn,
            end=before.end,
            departs=before.local_commits > 0,
        )
        copy = keeping.copied(target, copy, divergence.snapshot.branch.branch_log, left)
        switch(target, copy)
        keeping.copy_messages(volume, left, target, copy)
    name = _name_for(context, tag, left.id, made)
    return Resolution(candidate, Departure(None, tag=(name, made)))


def _volume_for(context: Context, volume: Volume, left: KeptBranch) -> VolumeId:
    """Return the volume for the commits of a branch; it is made if it does not exist."""
    prefix = bytes([VolumeId.PREFIX])
    made = VolumeId(prefix + left.id.raw[1:7] + prefix + left.id.raw[8:])
    try:
        context.catalog.volume(made)
    except NotFoundError:
        directory = context.directory_of(made)
        if directory.exists() and not descriptor.holds_volume(directory):
            with storage_errors(directory):  # What a crash left, before it was in the catalog.
                shutil.rmtree(directory)
        log_id = LogId.new()
        context.remotes.inherit(log_id, context.catalog.volume(volume.id).remote)
        base = (left.branch.log_id, left.branch.base) if left.branch.base else None
        make_volume(context, NewVolume(base, remote=log_id, volume=made))
    return made


def _name_for(context: Context, tag: str, branch: LogId, made: VolumeId) -> str:
    """Return the tag for the commits of a branch that `tag` left.

    It follows from both, so two machines choose different names; a longer one if that is taken.
    """
    text = str(branch)
    for characters in (_SHORT_CHARACTERS, _LONG_CHARACTERS):
        end = f"-fork-{text[-characters:]}"
        name = tag[: TAG_CHARACTERS_MAX - len(end)] + end
        if context.catalog.tag_volume(name) in {None, made}:
            return name
    raise AlreadyExistsError(
        f"the tag {name!r}, for the commits of branch {branch}, names another volume",
        next_step="remove that tag, or use the strategy reset",
    )


STRATEGIES: dict[str, Strategy] = {
    "reset": _without_policy(_reset),
    "fork": _without_policy(_fork),
}
"""By name, in the order in which they are listed."""
