"""Naming: the ref by which people clone a log, made when the log gets its first commit.

A ref is a convenience: a log is whole without it, and is cloned by its id then. So a ref that
cannot be made is a warning of the push and never keeps it from being settled. If nothing tells how
the attempt ended, the volume remembers that its log wants a name, and each push tries again.

Why a log has no ref stays in the file `no-ref` of the volume's directory, for its status, until the
log gets one.

Crash here: before the push is settled its record makes the next sync name the log; after that, the
file `unnamed` in the volume's directory does.
"""

from __future__ import annotations

import logging
from pathlib import Path

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import (
    AlreadyExistsError,
    CommitOutcomeUnknownError,
    DamageError,
    NotFoundError,
    StoreError,
    StoreUnavailableError,
)
from graft_vfs.ids import LogId
from graft_vfs.local import layout
from graft_vfs.local.files import storage_errors
from graft_vfs.remote.log import create_ref
from graft_vfs.tags import check_tag
from graft_vfs.volume.context import Context, Opened
from graft_vfs.volume.volume import Volume

_logger = logging.getLogger(__name__)


def name_log(context: Context, opened: Opened, log_id: LogId) -> str | None:
    """Create the ref of a volume's log, which is its tag; returns why that could not be, or None.

    One request, two if the ref exists. Raises no StoreError.
    """
    name, volume = opened
    mark = _mark(volume)
    try:
        winner = create_ref(context.logs.log(log_id).store, name, log_id)
    except (CommitOutcomeUnknownError, StoreUnavailableError) as error:
        with storage_errors(mark):
            mark.touch()
        return _warned(
            volume,
            f"log {log_id} has no ref {name!r} yet, the next push tries again: {error.message}",
        )
    except (StoreError, DamageError) as error:
        _forget(mark)
        return _warned(
            volume, f"log {log_id} gets no ref {name!r} and is cloned by its id: {error.message}"
        )
    _forget(mark)
    if winner != log_id:
        return _warned(
            volume,
            f"ref {name!r} names log {winner} already, so that this volume's log {log_id} has no "
            "ref and is cloned by its id",
        )
    forget_warning(volume.directory)
    return None


def name_log_later(context: Context, opened: Opened) -> str | None:
    """Create the ref that an earlier push could not; no request if none is to be created."""
    if not is_to_be_named(context, opened.volume):
        return None
    return name_log(context, opened, context.catalog.volume(opened.volume.id).remote)


def is_to_be_named(context: Context, volume: Volume) -> bool:
    """Return True if an earlier push could not create the ref, and the next one tries. No request.

    A push that is not settled yet names its log, too.
    """
    return _mark(volume).exists() or context.catalog.pending_push(volume.id) is not None


def name_by_hand(context: Context, log_id: LogId, name: str) -> None:
    """Make a ref for a log that has commits. Two requests, three if the name is taken.

    Raises NotFoundError if the remote has no such log, AlreadyExistsError if the ref names another.
    """
    check_tag(name)
    remote = context.logs.log(log_id)
    if not remote.newest_lsn():
        raise NotFoundError(
            f"the remote ({remote.store.describe()}) has no log {log_id}",
            next_step=Hint("see ", Advice.LIST_LOGS),
        )
    winner = create_ref(remote.store, name, log_id)
    if winner != log_id:
        raise AlreadyExistsError(
            f"ref {name!r} names log {winner}", next_step="choose another name"
        )
    for row in context.catalog.volumes():
        if row.remote == log_id:
            forget_warning(context.directory_of(row.id))


def _mark(volume: Volume) -> Path:
    return volume.directory / layout.UNNAMED


def _forget(mark: Path) -> None:
    with storage_errors(mark):
        mark.unlink(missing_ok=True)


def _warned(volume: Volume, text: str) -> str:
    note = volume.directory / layout.NO_REF
    with storage_errors(note):
        note.write_text(text, encoding="utf-8")
    _logger.warning("%s", text)
    return text


def warning_of(directory: Path) -> str | None:
    """Return why the log of a volume has no ref, None if it has one or was not pushed. No request.

    `directory` is the volume's.
    """
    note = directory / layout.NO_REF
    with storage_errors(note):
        try:
            return note.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None


def forget_warning(directory: Path) -> None:
    """Note that the log of a volume has a ref."""
    _forget(directory / layout.NO_REF)
