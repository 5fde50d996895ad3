"""Creates volumes: empty, cloned, forked, checked out. The old volume is kept.

A new volume starts with a random change counter, so that a connection that is moved to it never
uses cached pages of its previous volume.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import (
    AlreadyExistsError,
    GraftError,
    LocalStorageError,
    NotFoundError,
)
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local import layout
from graft_vfs.local.branch_log import BranchLog
from graft_vfs.local.catalog import descriptor
from graft_vfs.local.catalog.catalog import Announce
from graft_vfs.local.catalog.rows import BranchRow, VolumeRow
from graft_vfs.local.files import fsync_directory, make_directories, storage_errors
from graft_vfs.local.head import new_epoch
from graft_vfs.local.locks import using
from graft_vfs.local.tag_moves import NamesAnotherError
from graft_vfs.pages import NO_LSN, LocalLsn, RemoteLsn
from graft_vfs.remote.refs import ref_key
from graft_vfs.reports import Progress
from graft_vfs.sync.fetch import require_commits
from graft_vfs.sync.headers import know_descent
from graft_vfs.sync.proof import LogMismatchError, Standing, forget_history
from graft_vfs.sync.sources import Source, is_in_use, look_up, place
from graft_vfs.tags import check_tag
from graft_vfs.view.logs import Logs
from graft_vfs.volume.context import Context

_logger = logging.getLogger(__name__)

_FIRST_FILE = layout.branch_file(1)
_ATTEMPTS_MAX = 8


@dataclass(frozen=True, slots=True)
class NewVolume:
    """A volume to create on `base` (log, LSN); it pushes to `remote`, by default the base's log.

    Missing ids are generated. `synced` records the creation as a sync with the remote: true for a
    clone, false for a fork.
    """

    base: tuple[LogId, RemoteLsn] | None = None
    remote: LogId | None = None
    volume: VolumeId | None = None
    branch: LogId | None = None
    synced: bool = False


def make_volume(
    context: Context, new: NewVolume, tag: str | None = None, *, replacing: Announce | None = None
) -> VolumeId:
    """Create a volume, and point `tag` at it.

    Returns the volume that the tag names afterwards. If the tag is used and `replacing` is None,
    nothing is created and the tag's existing volume is returned; for `replacing` see `tag_moves`.
    Durable on return. Raises AlreadyExistsError if the volume's directory already has files of a
    volume, InvalidTagError. A crash leaves a directory without commits that no catalog row names.
    """
    context.catalog.require_writable()
    if tag is not None:
        check_tag(tag)
    volume = new.volume or VolumeId.new()
    directory = context.directory_of(volume)
    with _new_directory(volume, directory):
        named = _make(context, new, tag, volume, directory, replacing)
    if new.base is not None:
        # They were known a moment ago, but no volume needed them, so they may be forgotten again.
        require_commits(context.logs, *new.base)
    return named


@contextlib.contextmanager
def _new_directory(volume: VolumeId, directory: Path) -> Iterator[None]:
    """Create the directory of a volume, and keep others from removing it inside the block.

    A collector removes one that it finds empty and not yet locked; it is then created again.
    """
    with contextlib.ExitStack() as stack:
        for attempt in itertools.count(1):
            try:
                _create_empty(volume, directory)
                with contextlib.ExitStack() as held:
                    held.enter_context(using(directory))
                    if directory.exists():
                        stack.push(held.pop_all())
                        break
            except LocalStorageError:
                if directory.exists() or attempt == _ATTEMPTS_MAX:
                    raise
        yield


def _create_empty(volume: VolumeId, directory: Path) -> None:
    with storage_errors(directory):
        make_directories(directory)
        if any(directory.iterdir()):
            raise _is_in_use(volume, directory)
        # Ordering: the names of the directories, then their content, then the catalog's row.
        fsync_directory(directory.parent.parent)
        fsync_directory(directory.parent)


def _make(  # noqa: PLR0917 - see `make_volume`
    context: Context,
    new: NewVolume,
    tag: str | None,
    volume: VolumeId,
    directory: Path,
    replacing: Announce | None,
) -> VolumeId:
    """Create a volume in its empty directory; see `make_volume`."""
    log_id, lsn = new.base or (new.remote or LogId.new(), NO_LSN)
    branch_log = BranchLog.create(directory / _FIRST_FILE, volume=volume)
    branch_log.close()
    branch, now = new.branch or LogId.new(), time.time_ns() // 1_000_000
    row = VolumeRow(
        id=volume,
        created_ms=now,
        remote=new.remote or log_id,
        attached=lsn > 0,
        branch=branch,
        epoch=new_epoch(),
        synced_local=LocalLsn(0) if new.synced else None,
        synced_remote=lsn if new.synced else None,
        synced_ms=now if new.synced else None,
        last_error=None,
    )
    first = BranchRow(
        id=branch,
        volume=volume,
        log_id=log_id,
        base=lsn,
        counter=secrets.randbits(32),
        first_lsn=LocalLsn(1),
        file=_FIRST_FILE,
        start=branch_log.start,
        created_ms=now,
    )
    try:
        named = context.catalog.add_volume(row, first, tag=tag, replacing=replacing)
    except NamesAnotherError:  # It was not added, and will be created again.
        (directory / _FIRST_FILE).unlink()
        raise
    try:
        context.catalog.describe(volume, lambda wanted: descriptor.keep(directory, wanted))
    except NotFoundError:
        pass  # The tag is used, so this volume was not added.
    except LocalStorageError as error:
        # The volume exists; it is described when it is opened or first written to.
        _logger.info("volume %s is not described yet: %s", volume, error)
    return named


def _is_in_use(volume: VolumeId, directory: Path) -> AlreadyExistsError:
    """Return the error for a directory that may hold the only copy of commits."""
    return AlreadyExistsError(
        f"{directory} has files of volume {volume}, which the catalog lacks",
        next_step=Hint("run ", Advice.ADOPT_AS(VOLUME=volume), ", which adopts its files"),
    )


def clone_base(
    logs: Logs, source: Source, *, progress: Progress | None = None
) -> tuple[LogId, RemoteLsn]:
    """Return (log, LSN) for a clone, with all commits known. Metadata only, no pages.

    If the history of the log or of an ancestor was replaced on the remote, the locally known
    history is dropped, unless a volume is based on it: that raises HistoryMismatchError. So does a
    log that lacks locally known commits, because this machine may have the only copy of them.
    """
    log_id = look_up(logs, source, suggests=True)
    former = logs.catalog.remotes.of_log(log_id)
    # An id without a URL means the log wherever it lives; a ref was read on one remote.
    if source.url is not None or not str(log_id).startswith(source.name):
        place(logs, log_id, source.url)
    try:
        return _newest(logs, source, log_id, progress)
    except GraftError:
        # What nothing is known of may be cloned from elsewhere, and lives where it did before.
        if not logs.catalog.newest_commit(log_id)[0] and not is_in_use(logs, log_id):
            logs.catalog.remotes.place([log_id], None if former is None else former[0])
        raise


def _newest(
    logs: Logs, source: Source, log_id: LogId, progress: Progress | None
) -> tuple[LogId, RemoteLsn]:
    """Return (log, newest LSN), with what a clone needs of it known; see `clone_base`."""
    while True:
        try:
            return log_id, require_commits(logs, log_id, None, progress=progress)
        except NotFoundError as error:
            if logs.catalog.newest_commit(log_id)[0]:
                raise
            raise _has_no_commit(logs, source, log_id) or error from None
        except LogMismatchError as error:
            if error.standing is not Standing.REPLACED:
                raise
            # Each dropped history cannot differ again, so this ends.
            know_descent(logs, error.log_id)
            forget_history(logs, error.log_id)


def _has_no_commit(logs: Logs, source: Source, log_id: LogId) -> NotFoundError | None:
    """Return the error for a ref that a push created before it was interrupted; None for an id."""
    if LogId.looks_like(source.name):
        return None
    store = logs.log(log_id).store
    return NotFoundError(
        f"ref {source.name!r} of the remote ({store.describe()}) names log {log_id}, which has no "
        "commit yet: its first push is running or was interrupted",
        next_step="push again where it was pushed from; if that volume is lost, delete the object "
        f"{ref_key(source.name)} of the remote, which frees the name",
    )
