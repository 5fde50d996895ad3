"""Opens an existing tag with `remote=`.

A volume without commits becomes a clone: opening a tag before it was cloned creates an empty
volume, which must not stay empty forever. If the volume has commits on the same log, nothing
happens. If they are on another log, it is an error, because the caller would use a database other
than the named one. A ref that does not exist is also an error, unless the volume's first push will
create it.

A crash leaves an empty volume that pushes to the log; the next open turns it into a clone.
"""

from __future__ import annotations

import logging

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import AlreadyExistsError, NoRemoteError, NotFoundError, StoreError
from graft_vfs.ids import LogId
from graft_vfs.local.catalog import descriptor
from graft_vfs.sync import naming
from graft_vfs.sync.clone import clone_base
from graft_vfs.sync.sources import find_source, known_log, look_up, place, remote_url
from graft_vfs.sync.strategies import follow
from graft_vfs.volume.context import Context, Opened
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.switching import switch
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
                # Ordering: the volume's file names the log before its branch is on it.
                catalog.describe(
                    volume.id, lambda wanted: descriptor.write(volume.directory, wanted)
                )
                switch(volume, follow(context, volume, log_id, newest), synced=True)
                _logger.info("tag %r: empty volume %s is now a clone of %s", tag, volume.id, log_id)
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
            f"tag {tag!r} names volume {volume.id} on log {remote}, but remote={name} "
            f"means log {known}",
            next_step="open it without remote=, or choose another tag for that log",
        )
    url = remote_url(logs, name)
    if known is not None and url is not None:
        place(logs, remote, url)  # It lives there, or this says that it lives elsewhere.


def _is_empty(context: Context, snapshot: Snapshot) -> bool:
    """Return True if the volume never had a commit, local or remote."""
    return (
        not snapshot.page_count
        and not snapshot.lsn
        and not snapshot.branch.row.base
        and context.catalog.pending_push(snapshot.branch.row.volume) is None
    )


def _was_named(context: Context, volume: Volume, remote: LogId) -> bool:
    """Return True if a volume's log was pushed, and no later push will create its ref."""
    is_pushed = context.catalog.newest_commit(remote)[0] > 0
    return is_pushed and not naming.is_to_be_named(context, volume)


def _known_log(context: Context, name: str, tag: str) -> LogId | None:
    """Return the log that a name means; None if there is no answer. Raises NotFoundError.

    An existing volume opens without its remote, so an unreachable remote is not an error.
    """
    logs = context.logs
    try:
        return known_log(logs, name) or look_up(logs, find_source(logs, name))
    except (StoreError, NoRemoteError) as error:
        _logger.warning("tag %r is opened without checking ref %r: %s", tag, name, error)
        return None
