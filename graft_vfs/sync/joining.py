"""A tag that exists and is opened with `remote=`: what becomes of its volume.

Without commits it becomes a clone: opening a tag before it was cloned makes an empty volume, and
must not keep it empty for ever. With commits on the same log nothing happens, and on another log it
is an error, because the caller would read and write another database than the one that it names. So
is a ref that does not exist, unless it is the one that the first push of the volume makes.

Crash here: an empty volume that pushes to the log, which the next open makes a clone.
"""

from __future__ import annotations

import logging

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import AlreadyExistsError, NoRemoteError, NotFoundError, StoreError
from graft_vfs.ids import LogId
from graft_vfs.local.catalog import descriptor
from graft_vfs.sync import naming
from graft_vfs.sync.clone import clone_base
from graft_vfs.sync.pull import move
from graft_vfs.sync.sources import find_source, known_log, look_up
from graft_vfs.volume.context import Context, Opened
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

_logger = logging.getLogger(__name__)


def join(context: Context, opened: Opened, *, name: str) -> None:
    """Make an empty volume a clone of a ref, log id or URL; refuse one that is on another log.

    Requests: those of a clone for an empty volume; for another none, or one for a ref that this
    machine does not know yet. Raises AlreadyExistsError for another log, NotFoundError for a ref
    that does not exist, and for an empty volume NoRemoteError, StoreError.
    """
    catalog, (tag, volume) = context.catalog, opened
    logs = context.logs
    if _is_empty(context, volume.begin()):
        catalog.require_writable()
        log_id, newest = clone_base(logs, find_source(logs, name))
        with volume.writing() as snapshot:
            if _is_empty(context, snapshot):
                catalog.set_remote(volume.id, log_id)
                # Ordering: the volume's own file names its log before its branch is on that.
                catalog.describe(
                    volume.id, lambda wanted: descriptor.write(volume.directory, wanted)
                )
                move(context, volume, log_id, newest)
                _logger.info("tag %r: empty volume %s is a clone of %s now", tag, volume.id, log_id)
                return
    remote = catalog.volume(volume.id).remote
    try:
        known = _known_log(context, name, tag)
    except NotFoundError as error:
        if name == tag and not _was_named(context, volume, remote):
            return
        raise NotFoundError(
            f"tag {tag!r} names volume {volume.id} on log {remote}, and {error.message}",
            next_step=Hint(
                "see ",
                Advice.LIST_REFS,
                " for its refs, open it without remote=, or run ",
                Advice.NAME_LOG(REF=name, LOG=remote),
                " if that is its log",
            ),
        ) from None
    if known is not None and known != remote:
        raise AlreadyExistsError(
            f"tag {tag!r} names volume {volume.id} on log {remote}, and not on log {known}, which "
            f"remote={name} means",
            next_step="open it without remote=, or choose another tag for that log",
        )


def _is_empty(context: Context, snapshot: Snapshot) -> bool:
    """Return True if nothing was ever committed to the volume, here or before a clone."""
    return (
        not snapshot.page_count
        and not snapshot.lsn
        and not snapshot.branch.row.base
        and context.catalog.pending_push(snapshot.branch.row.volume) is None
    )


def _was_named(context: Context, volume: Volume, remote: LogId) -> bool:
    """Return True if the log of a volume was pushed, and its push does not name it any more."""
    is_pushed = context.catalog.newest_commit(remote)[0] > 0
    return is_pushed and not naming.is_to_be_named(context, volume)


def _known_log(context: Context, name: str, tag: str) -> LogId | None:
    """Return the log that a name means; None if there is no answer. Raises NotFoundError.

    A volume that exists opens without its remote, so a remote that does not answer is no error.
    """
    logs = context.logs
    try:
        return known_log(logs, name) or look_up(logs, find_source(logs, name))
    except (StoreError, NoRemoteError) as error:
        _logger.warning("tag %r is opened without a look at ref %r: %s", tag, name, error)
        return None
