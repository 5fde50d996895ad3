"""Creates volumes, and points tags at them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from graft_vfs.errors import GraftError, UsageError
from graft_vfs.format.commit import MESSAGE_BYTES_MAX
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local.catalog import descriptor
from graft_vfs.local.catalog.catalog import Announce
from graft_vfs.local.files import importing
from graft_vfs.local.messages import Messages
from graft_vfs.local.tag_moves import move_tag
from graft_vfs.maintenance import collect
from graft_vfs.pages import NO_LSN
from graft_vfs.reports import Moved, Progress
from graft_vfs.sync.clone import NewVolume, make_volume
from graft_vfs.sync.fetch import fetch_log
from graft_vfs.tags import check_tag
from graft_vfs.volume.context import Context, Opened
from graft_vfs.volume.replacement import Replaced, keep_message

if TYPE_CHECKING:
    from graft_vfs.plain.transfer import Imported

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")


def change_tag(
    context: Context, tag: str, change: Callable[[Announce], _T], *, to: VolumeId | None = None
) -> _T:
    """Move a tag by `change`; raises WriterBusyError if its volume is being written to."""
    context.catalog.require_writable()
    return move_tag(context.catalog, context.volumes.directory, check_tag(tag), change, to=to)


def point(context: Context, tag: str, volume: VolumeId) -> None:
    """Point a tag at an existing volume."""
    set_tag = functools.partial(context.catalog.set_tag, tag, volume)
    change_tag(context, tag, set_tag, to=volume)
    note_tags = functools.partial(descriptor.note_tags, context.directory_of(volume))
    try:
        context.catalog.describe(volume, note_tags)
    except GraftError as error:
        # The file has the tags only for the case that the catalog is lost.
        _logger.info("tag %r is not in the file of volume %s: %s", tag, volume, error)


def replace(context: Context, tag: str, new: NewVolume) -> VolumeId:
    """Create a volume, and point a new or existing tag at it."""
    make = functools.partial(make_volume, context, new, tag)
    return change_tag(context, tag, lambda replacing: make(replacing=replacing))


def moved(context: Context, tag: str, volume: VolumeId, verb: str) -> Moved:
    """Report that a verb has pointed the tag at a volume."""
    row, branch = context.catalog.current(volume)
    lsn = branch.base if branch.log_id == row.remote else NO_LSN
    _logger.info("tag %r: %s %s on log %s at LSN %d", tag, verb, volume, row.remote, lsn)
    return Moved(tag, volume, row.remote, lsn, verb)


def switch(context: Context, tag: str, spec: str) -> VolumeId:
    """Point the tag at `volume[:local[:remote]]`, which is created if absent."""
    parts = spec.split(":")
    if not 1 <= len(parts) <= 3:
        raise UsageError(f"{spec!r} is not volume[:local[:remote]]")
    rows = {row.id: row for row in context.catalog.volumes()}
    volume = VolumeId.find(parts[0], rows)
    branch = LogId.parse(parts[1]) if len(parts) > 1 and parts[1] else None
    remote = None
    if len(parts) > 2 and parts[2]:
        remote = LogId.find(parts[2], context.catalog.log_ids())
    if volume in rows:
        if remote is not None and rows[volume].remote != remote:
            raise UsageError(
                f"volume {volume} is attached to remote log {rows[volume].remote}",
                next_step="leave the remote out, or clone that log",
            )
        point(context, tag, volume)
    else:
        newest = fetch_log(context.logs, remote).newest if remote else NO_LSN
        base = (remote, newest) if remote and newest else None
        replace(context, tag, NewVolume(base=base, remote=remote, volume=volume, branch=branch))
    return volume


def is_branch(context: Context, tag: str | Opened, spec: str) -> bool:
    """Return True if `spec` is an id of a log, or begins that of a branch that the volume keeps."""
    if isinstance(tag, Opened):
        volume: VolumeId | None = tag.volume.id
    else:
        volume = context.catalog.tag_volume(check_tag(tag))
    kept = () if volume is None else context.catalog.kept.all(volume)
    return LogId.looks_like(spec) or any(str(each.id).startswith(spec) for each in kept if spec)


def fork(context: Context, source: Opened) -> VolumeId:
    """Create a volume with the same content and a new log; it has no tag yet."""
    with source.volume.pinned() as snapshot:
        row = snapshot.branch.row
        base = (row.log_id, row.base) if row.base else None
        log_id = LogId.new()
        context.remotes.inherit(log_id, context.catalog.volume(source.volume.id).remote)
        made = make_volume(context, NewVolume(base=base, remote=log_id))
        if snapshot.local_commits:
            target = context.volumes.use(made)
            messages = Messages(source.volume.directory)
            message = messages.joined(row.first_lsn, snapshot.lsn, MESSAGE_BYTES_MAX)
            with target.writing() as empty:
                pages, count = snapshot.changed_pages(), snapshot.page_count
                after = target.write_pages(empty, pages, page_count=count)
                keep_message(target, Replaced(empty, after, count), message)
    return made


def import_new(
    context: Context, path: Path, tag: str, message: str, progress: Progress | None
) -> tuple[VolumeId, Imported]:
    """Create a volume from a plain SQLite file, and its tag once the import is complete.

    A failure leaves no volume.
    """
    with importing():
        from graft_vfs.plain import source, transfer  # noqa: PLC0415 - for start-up

    source.require_file(path)
    check_tag(tag)
    made = make_volume(context, NewVolume())
    directory = context.directory_of(made)
    try:
        done = transfer.import_file(
            context.volumes.use(made), path, message=message, progress=progress
        )
        context.catalog.add_tag(tag, made)
        # Again, now with the tag.
        context.catalog.describe(made, lambda wanted: descriptor.write(directory, wanted))
    except BaseException:
        # A volume without a tag; everything in it is also in the file.
        context.volumes.let_go(made)
        collect.delete(context.catalog, directory, made)
        raise
    return made, done
