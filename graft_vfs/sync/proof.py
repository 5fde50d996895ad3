"""Verifies that a remote has the known history of a log.

A wrong bucket or prefix, an unmounted disk and a bucket restored from a backup all look like a log
without new commits. A push would then claim an LSN on the wrong remote and leave a gap on the right
one. So an engine's first sync of a log, and the first after a failed one, reads the newest known
commit; only its hash proves that the store has this history.

This module writes nothing, and concludes nothing from a store's name.
"""

from __future__ import annotations

import contextlib
import enum
import functools
from collections.abc import Iterator
from dataclasses import dataclass

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import CorruptObjectError, HistoryMismatchError
from graft_vfs.ids import LogId
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.remote.log import RemoteLog
from graft_vfs.store.base import ObjectStore
from graft_vfs.view.logs import Logs


class Standing(enum.Enum):
    """A remote log compared with the locally known history."""

    SAME = "the remote has the known history"
    ABSENT = "the remote has nothing of the log"
    SHORTER = "the remote has an earlier state of the log"
    REPLACED = "the remote has another history of the log"
    HOLE = "the remote has newer commits of the log, but lacks a known one"


class LogMismatchError(HistoryMismatchError):
    """The error with its log: a fork may fail because of an ancestor."""

    def __init__(self, state: LogState, message: str, *, next_step: Hint) -> None:
        super().__init__(message, next_step=next_step)
        self.log_id = state.log_id
        self.standing = state.standing


@dataclass(frozen=True, slots=True)
class LogState:
    """What was found: the newest LSN `known` here, and the `newest` LSN in `store`, 0 for none."""

    log_id: LogId
    standing: Standing
    known: RemoteLsn
    newest: RemoteLsn
    store: ObjectStore


def examine(logs: Logs, log_id: LogId, store: ObjectStore | None = None) -> LogState:
    """Compare a log with what is known of it, where it lives or in another store.

    One request if it is the same; else a listing and at most one more, and those that find out if
    the retention of the log has closed what is known. Raises StoreError, and
    CorruptObjectError if a commit there is damaged.
    """
    known, digest = logs.catalog.newest_commit(log_id)
    remote = logs.log(log_id) if store is None else RemoteLog(store, log_id)
    found = functools.partial(_state, remote, known)
    record = remote.read_header(known) if known else None
    is_same = not known or (record is not None and record.header.hash == digest)
    # One that retention has deleted may be claimed late since.
    if is_same or logs.belief(log_id, known, remote).has_closed(known, digest):
        return found(Standing.SAME, known)
    if record is not None:
        return found(Standing.REPLACED, known)
    newest = remote.newest_lsn()
    if not newest:
        return found(Standing.ABSENT, NO_LSN)
    if newest > known:
        return found(Standing.HOLE, newest)
    is_ours = _is_known_history(logs, remote, newest)
    return found(Standing.SHORTER if is_ours else Standing.REPLACED, newest)


def _is_known_history(logs: Logs, remote: RemoteLog, newest: RemoteLsn) -> bool:
    """Return False if the remote has, up to its newest commit, another one than is known here.

    The headers of older commits may be unknown: then the newest known one of them tells it, and
    without any nothing shows that the history was replaced.
    """
    after = logs.header(remote.log_id, RemoteLsn(newest + 1))
    at = newest if after is not None else logs.catalog.known_before(remote.log_id, newest)
    if not at:
        return True
    known = after.previous_hash if after else logs.catalog.commits(remote.log_id, at, at)[0].hash
    record = remote.read_header(at)
    return record is not None and record.header.hash == known


def _state(remote: RemoteLog, known: RemoteLsn, standing: Standing, newest: RemoteLsn) -> LogState:
    return LogState(remote.log_id, standing, known, newest, remote.store)


def prove(logs: Logs, log_id: LogId) -> None:
    """Raise HistoryMismatchError unless the remote has the newest known commit of a log.

    One request the first time, none once this engine has verified it in this store.
    """
    if logs.is_proved(log_id):
        return
    state = examine(logs, log_id)
    if state.standing is not Standing.SAME:
        raise mismatch(state)
    logs.note_proved(log_id)


def mismatch(state: LogState) -> LogMismatchError:
    """Return the error for a remote that lacks the known history, with the next step."""
    where = f"the remote ({state.store.describe()})"
    known = f"this machine knows LSN {state.known} of log {state.log_id}"
    check = "check the [remote] table of graft.toml, and that its disk is mounted"
    repair = Hint(
        Advice.REPAIR(LOG=str(state.log_id)), " restores the commits that this machine has"
    )
    if state.standing is Standing.ABSENT:
        text = f"{where} has nothing of it"
        step = Hint(f"{check}; if the remote was lost, ", repair)
    elif state.standing is Standing.SHORTER:
        text = f"{where} is at LSN {state.newest}, as if restored from a backup"
        step = Hint(
            f"{check}; ",
            repair,
            "; to accept the remote as it is, use another data directory (GRAFT_DATA_DIR)",
        )
    elif state.standing is Standing.HOLE:
        text = f"{where} lacks that commit, although it has LSN {state.newest}"
        step = Hint(f"{check}; ", repair)
    else:
        text = f"{where} has another commit at LSN {state.newest}: its history was replaced"
        step = Hint(
            f"{check}; to use the new history, clone it again: ",
            Advice.CLONE(LOG=str(state.log_id)),
        )
    return LogMismatchError(state, f"{known}, but {text}", next_step=step)


@contextlib.contextmanager
def told_from_damage(logs: Logs, log_id: LogId) -> Iterator[None]:
    """Convert a CorruptObjectError in the block to HistoryMismatchError if that is its cause.

    A broken chain may be damage, or the intact history of a remote whose history of `log` differs
    from the known one. One or more requests distinguish the two.
    """
    try:
        yield
    except CorruptObjectError as error:
        state = examine(logs, log_id)
        if state.standing is not Standing.SAME:
            raise mismatch(state) from error
        raise


def forget_history(logs: Logs, log_id: LogId) -> None:
    """Drop the known history of a log, so that the remote's current history can be fetched.

    No request. Raises HistoryMismatchError if a volume is based on it, and would lose its base.
    """
    standing = [volume for volume, base in logs.catalog.bases() if log_id in logs.lineage(base)]
    if standing:
        volume = standing[0]
        tags = logs.catalog.volume_tags(volume)
        keep, remove = Hint(), Hint()
        if tags:
            keep = Hint("keep its content with ", Advice.EXPORT(TAG=tags[0]), ", ")
            remove = Hint(Advice.REMOVE_TAG(TAG=tags[0]), " and ")
        raise HistoryMismatchError(
            f"volume {volume} is based on a history of log {log_id} that the remote no longer has; "
            f"the remote's history cannot be cloned while that volume exists",
            next_step=Hint(
                "if commits of the remote were lost, ",
                Advice.REPAIR(LOG=str(log_id)),
                " restores them; to use its new history, ",
                keep,
                "remove the volume with ",
                remove,
                Advice.COLLECT(VOLUME=volume),
                ", and clone again",
            ),
        )
    logs.forget(log_id)
