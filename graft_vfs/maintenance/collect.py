"""Removes local volumes that no tag names, and nothing else.

A volume is kept if a process has it open, if it has unpushed commits or kept branches, or if it
cannot be read, so that its content is unknown. Unless it is open, it is removed if it is named
explicitly, and never by itself: `collect_idle`, which the daemon calls, removes less than
`collect`.

Ordering: first the volume is examined. Then its directory is locked exclusively, which is
impossible while a process has it open, and the volume must be unchanged. Then the catalog removes
the volume, unless a tag has been pointed at it. Then its files are deleted. A crash leaves a
directory that is named as one to be removed.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import GraftError, NotFoundError, UsageError
from graft_vfs.ids import VolumeId
from graft_vfs.local import layout
from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.local.files import disk_bytes, fsync_directory, storage_errors
from graft_vfs.local.locks import alone_in
from graft_vfs.reports import Report, commits_text, size_text
from graft_vfs.sync.proof import prove
from graft_vfs.volume.context import Context

_HEAD_BYTES = 64
_IDLE_MS = 7 * 86_400_000


@dataclass(frozen=True, slots=True, repr=False)
class CollectedVolume(Report):
    """A volume without a tag: whether it was, or would be, `removed`; if not, the reason.

    `disk_bytes` is the disk usage of its files.
    """

    volume: VolumeId
    removed: bool
    dry_run: bool
    disk_bytes: int
    kept_because: str | None

    def __str__(self) -> str:
        if self.kept_because is not None:
            return f"Kept volume {self.volume}: {self.kept_because}."
        verb = "Would remove" if self.dry_run else "Removed"
        return f"{verb} volume {self.volume} ({size_text(self.disk_bytes)})."


def collect(
    context: Context, *, dry_run: bool = False, force: Collection[VolumeId] = ()
) -> list[CollectedVolume]:
    """Remove the volumes that no tag names; returns each of them, oldest first. No request.

    `force` names volumes to remove even if they have unpushed commits or cannot be read. With
    `dry_run`, nothing is removed. Raises NotFoundError if a volume does not exist, UsageError if a
    tag names it.
    """
    catalog = context.catalog
    if not dry_run:
        catalog.require_writable()
    tagged = {volume for _, volume in catalog.tags()}
    known = [row.id for row in catalog.volumes()]
    for volume in force:
        if volume not in known:
            raise NotFoundError(
                f"there is no volume {volume}", next_step=Hint("see ", Advice.LIST_VOLUMES)
            )
        if volume in tagged:
            tag = catalog.volume_tags(volume)[0]
            raise UsageError(
                f"tag {tag!r} names volume {volume}",
                next_step=Hint("first run ", Advice.REMOVE_TAG(TAG=tag)),
            )
    return [
        _collect_one(context, volume, dry_run=dry_run, forced=volume in force)
        for volume in known
        if volume not in tagged
    ]


def collect_idle(context: Context, now_ms: int) -> list[CollectedVolume]:
    """Remove the volumes that no tag names and nothing has used for a week; returns these.

    Only if the remote has everything: one request for each of their logs in an engine, and none for
    a volume without commits. A volume that `collect` would keep is kept.
    """
    context.catalog.require_writable()
    tagged = {volume for _, volume in context.catalog.tags()}
    idle = [
        row.id
        for row in context.catalog.volumes()
        if row.id not in tagged and _used_ms(context.directory_of(row.id)) < now_ms - _IDLE_MS
    ]
    found = [
        _collect_one(context, volume, dry_run=False, forced=False, proves=True) for volume in idle
    ]
    return [each for each in found if each.removed]


def _used_ms(directory: Path) -> float:
    """Return when a file of a volume, or its directory, was last written to."""
    with storage_errors(directory):
        found = [directory, *directory.iterdir()] if directory.exists() else []
        return max((path.stat().st_mtime_ns for path in found), default=0) / 1_000_000


def _collect_one(
    context: Context, volume: VolumeId, *, dry_run: bool, forced: bool, proves: bool = False
) -> CollectedVolume:
    directory = context.directory_of(volume)
    size = disk_bytes(directory)
    reason, seen = (None, None) if forced else _look(context, volume, proves=proves)
    if reason is None:
        context.volumes.keep_no_longer(volume)
        with alone_in(directory) as is_alone:
            if not is_alone:
                reason = "a process has it open"
            elif seen is not None and _head(directory) != seen:
                reason = "a process wrote to it just now"
            elif not dry_run and not delete(context.catalog, directory, volume):
                reason = "a tag names it now"
    return CollectedVolume(volume, reason is None and not dry_run, dry_run, size, reason)


def delete(catalog: Catalog, directory: Path, volume: VolumeId) -> bool:
    """Remove a volume and its files; False, with nothing done, if a tag names it.

    The caller ensures that no process has it open. Ordering: the directory gets another name before
    the catalog removes the volume, so that after a crash no files without a row look like a lost
    volume; `put_back` undoes that for a volume that still has its row.
    """
    moved = layout.removed(directory)

    def rename() -> None:
        with storage_errors(directory):
            if directory.exists():
                directory.rename(moved)
                fsync_directory(directory.parent)

    try:
        is_removed = catalog.delete_volume(volume, rename)
    except BaseException:
        if moved.exists():
            with contextlib.suppress(GraftError):  # The next opening does it otherwise.
                put_back(catalog, directory.parent)
        raise
    if is_removed and moved.exists():
        with storage_errors(moved):
            shutil.rmtree(moved)
    return is_removed


def put_back(catalog: Catalog, volumes: Path) -> None:
    """Give the directories of volumes that the catalog did not remove their names again.

    The others are what an interrupted removal has left; see `leftovers`. Raises LocalStorageError.
    """
    with storage_errors(volumes):
        moved = [path for path in volumes.glob("*") if layout.volume_of(path.name) != path.name]
    for path in moved:
        former = path.with_name(layout.volume_of(path.name))
        with catalog.settled() as known, storage_errors(path):
            if former.name in set(map(str, known)) and not former.exists():
                path.rename(former)


def _look(context: Context, volume: VolumeId, *, proves: bool) -> tuple[str | None, bytes | None]:
    """Return why to keep a volume, or None if its remote has all of it; and its head words.

    With `proves` the remote is asked.
    """
    try:
        opened = context.volumes.look(volume)
        # Ordering: the head first, so that a later commit changes it, or is included.
        seen = _head(opened.directory)
        snapshot = opened.begin()
        if snapshot.local_commits:
            return f"it has {commits_text(snapshot.local_commits)} never pushed", seen
        kept = context.catalog.kept.all(volume)
        if kept:
            return f"it keeps {len(kept)} branch{'es' * (len(kept) > 1)}", seen
        if context.catalog.pending_push(volume) is not None:
            return "its last push has not been settled", seen
        branch = snapshot.branch.row
        for log_id in context.logs.lineage(branch.log_id) if proves and branch.base else ():
            prove(context.logs, log_id)
    except GraftError as error:
        return f"it cannot be read ({error.message})", None
    return None, seen


def _head(directory: Path) -> bytes:
    """Return the words that every commit and every change of branch modify."""
    try:
        return (directory / layout.HEAD).read_bytes()[:_HEAD_BYTES]
    except FileNotFoundError:
        return b""
