"""Naming: the ref by which people clone a log, created just before the log gets its first commit.

The store gives a name to one log only, so a push under a name that another log has is refused
before anything of it is sent, as git refuses a push that is no fast-forward. Created first, the ref
costs no more requests than afterwards, and of two machines that push under one name at once, one is
refused.

A log is complete without a ref, and is cloned by its id then. So a ref that the store refuses to
create, or does not answer for, is a warning and does not keep the push from being settled. In the
second case each push tries again, and may find then that another log has the name.

The file `no-ref` of the volume's directory says why its log has no ref, for the status, until the
log gets one. The file `unnamed` has the name that the log is to get: it is written before the ref
is created and removed after the first commit.

After a crash in between, the ref names a log without commits, which the next push of this volume
completes. Until then, a clone by that name reports that the log has no commit yet, and a push of
another volume under it is refused.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import (
    AlreadyExistsError,
    CommitOutcomeUnknownError,
    DamageError,
    InvalidTagError,
    NotFoundError,
    StoreError,
    StoreUnavailableError,
)
from graft_vfs.ids import LogId
from graft_vfs.local import layout
from graft_vfs.local.files import fsync_directory, storage_errors
from graft_vfs.remote.refs import create_ref
from graft_vfs.tags import check_tag
from graft_vfs.volume.context import Context, Opened
from graft_vfs.volume.volume import Volume

_logger = logging.getLogger(__name__)


def reserve(context: Context, opened: Opened, log_id: LogId) -> str | None:
    """Create the ref of a log that is about to get its first commit; returns why it has none yet.

    The ref is `opened.tag`. One request, two if the ref exists. Raises AlreadyExistsError if
    another log has that name, and no StoreError.
    """
    name, volume = opened
    mark = _mark(volume)
    # Ordering: the name before the ref, so that after a crash the next push knows both.
    _note_name(mark, name)
    winner = _created(context, volume, log_id, name)
    if isinstance(winner, str):
        return winner
    if winner != log_id:
        _forget(mark)
        raise _taken(context, opened, log_id, winner)
    forget_warning(volume.directory)
    return None


def note_first_commit(context: Context, volume: Volume, log_id: LogId, name: str) -> None:
    """Note that the log whose ref `reserve` created has its first commit."""
    _forget(_mark(volume))
    context.catalog.keep_ref(context.logs.log(log_id).store.describe(), name, log_id)


def _taken(context: Context, opened: Opened, log_id: LogId, winner: LogId) -> AlreadyExistsError:
    name, volume = opened
    tags = context.catalog.volume_tags(volume.id)
    push = Advice.PUSH_AS(TAG=tags[0]) if tags else Advice.PUSH_AS
    where = context.logs.log(log_id).store.describe()
    return AlreadyExistsError(
        f"ref {name!r} of the remote ({where}) names log {winner}, and not this volume's log "
        f"{log_id}; nothing was pushed",
        next_step=Hint(
            "push under another name with ",
            push,
            ", or, to write to that log, clone it under another tag with ",
            Advice.CLONE(LOG=name),
        ),
    )


def _created(context: Context, volume: Volume, log_id: LogId, name: str) -> LogId | str:
    """Create a ref; returns the log that it names, or a warning if that is not known."""
    mark = _mark(volume)
    try:
        return create_ref(context.logs.log(log_id).store, name, log_id)
    except (CommitOutcomeUnknownError, StoreUnavailableError) as error:
        _note_name(mark, name)
        return _warned(
            volume,
            f"log {log_id} has no ref {name!r} yet; the next push tries again: {error.message}",
        )
    except (StoreError, DamageError) as error:
        _forget(mark)
        return _warned(
            volume, f"log {log_id} gets no ref {name!r} and is cloned by its id: {error.message}"
        )


def name_log(context: Context, opened: Opened, log_id: LogId) -> str | None:
    """Create the ref of a log that has commits; returns why that failed, or None.

    The ref is the name that an earlier push was to give, else `opened.tag`. One request, two if the
    ref exists. Raises no StoreError.
    """
    volume = opened.volume
    name = wanted_name(volume) or opened.tag
    winner = _created(context, volume, log_id, name)
    if isinstance(winner, str):
        return winner
    _forget(_mark(volume))
    if winner != log_id:
        return _warned(
            volume,
            f"ref {name!r} names log {winner} already, so that this volume's log {log_id} has no "
            "ref and is cloned by its id",
        )
    forget_warning(volume.directory)
    return None


def name_log_later(context: Context, opened: Opened) -> str | None:
    """Create a ref that an earlier push could not create; no request if there is none."""
    log_id = context.catalog.volume(opened.volume.id).remote
    has_commits = context.catalog.newest_commit(log_id)[0] > 0
    if not has_commits or not is_to_be_named(context, opened.volume):
        return None
    return name_log(context, opened, log_id)


def wanted_name(volume: Volume) -> str | None:
    """Return the name that an earlier push was to give its log, None if there is none. No request.

    Earlier versions left the file empty, and a power cut may leave a part of it or zeros; a whole
    name ends with a newline.
    """
    mark = _mark(volume)
    with storage_errors(mark):
        try:
            content = mark.read_bytes()
        except FileNotFoundError:
            return None
    try:
        return check_tag(content[:-1].decode()) if content.endswith(b"\n") else None
    except (UnicodeDecodeError, InvalidTagError):
        return None


def _note_name(mark: Path, name: str) -> None:
    """Write the name that a log is to get; durable on return."""
    with storage_errors(mark):
        with mark.open("wb") as file:
            file.write(f"{name}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        fsync_directory(mark.parent)


def is_to_be_named(context: Context, volume: Volume) -> bool:
    """Return True if an earlier push could not create the ref, and the next one tries. No request.

    An unsettled push will also name its log.
    """
    return _mark(volume).exists() or context.catalog.pending_push(volume.id) is not None


def name_by_hand(context: Context, log_id: LogId, name: str) -> None:
    """Create a ref for a log that has commits. Two requests, three if the name is taken.

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
    """Return why a volume's log has no ref; None if it has one or was not pushed. No request.

    `directory` is the volume's.
    """
    note = directory / layout.NO_REF
    with storage_errors(note):
        try:
            return note.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None


def forget_warning(directory: Path) -> None:
    """Record that the log of a volume has a ref."""
    _forget(directory / layout.NO_REF)
