"""Removes local volumes that no tag names, and nothing else.

A volume is kept if a process has it open, if it has unpushed commits, or if it cannot be read, so
that its content is unknown. In the last two cases it is removed if named explicitly.

Ordering: first the volume is examined. Then its directory is locked exclusively, which is
impossible while a process has it open, and the volume must be unchanged. Then the catalog removes
the volume, unless a tag has been pointed at it. Then its files are deleted. A crash leaves a
directory that the catalog does not have.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import GraftError, NotFoundError, UsageError
from graft_vfs.ids import VolumeId
from graft_vfs.local import layout
from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.local.files import storage_errors
from graft_vfs.reports import Report, commits_text, size_text
from graft_vfs.volume.context import Context

_BLOCK_BYTES = 512
_HEAD_BYTES = 64


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


def _collect_one(
    context: Context, volume: VolumeId, *, dry_run: bool, forced: bool
) -> CollectedVolume:
    directory = context.directory_of(volume)
    size = _disk_bytes(directory)
    reason, seen = (None, None) if forced else _look(context, volume)
    if reason is None:
        context.volumes.keep_no_longer(volume)
        with _alone(directory) as is_alone:
            if not is_alone:
                reason = "a process has it open"
            elif seen is not None and _head(directory) != seen:
                reason = "a process wrote to it just now"
            elif not dry_run and not delete(context.catalog, directory, volume):
                reason = "a tag names it now"
    return CollectedVolume(volume, reason is None and not dry_run, dry_run, size, reason)


def delete(catalog: Catalog, directory: Path, volume: VolumeId) -> bool:
    """Remove a volume and its files; False, with nothing done, if a tag names it.

    The caller ensures that no process has it open.
    """
    if not catalog.delete_volume(volume):
        return False
    if directory.exists():
        with storage_errors(directory):
            shutil.rmtree(directory)
    return True


def _look(context: Context, volume: VolumeId) -> tuple[str | None, bytes | None]:
    """Return why to keep a volume, or None if its remote has all of it; and its head words."""
    try:
        opened = context.volumes.look(volume)
        # Ordering: the head first, so that a later commit changes it, or is included.
        seen = _head(opened.directory)
        snapshot = opened.begin()
        if snapshot.local_commits:
            return f"it has {commits_text(snapshot.local_commits)} never pushed", seen
        if context.catalog.pending_push(volume) is not None:
            return "its last push has not been settled", seen
    except GraftError as error:
        return f"it cannot be read ({error.message})", None
    return None, seen


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[bool]:
    """Lock a volume's directory inside the block; yields False if another process has it open."""
    if not directory.exists():
        yield True
        return
    with storage_errors(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_alone = True
        except BlockingIOError:
            is_alone = False
        yield is_alone
    finally:
        os.close(descriptor)


def _head(directory: Path) -> bytes:
    """Return the words that every commit and every change of branch modify."""
    try:
        return (directory / layout.HEAD).read_bytes()[:_HEAD_BYTES]
    except FileNotFoundError:
        return b""


def _disk_bytes(directory: Path) -> int:
    files = directory.rglob("*") if directory.exists() else ()
    return sum(file.lstat().st_blocks * _BLOCK_BYTES for file in files)
