"""Giving names to commits, on the remote, where every machine finds them.

A name is created once and never moved: of two machines that give one name at once, one wins and the
other learns who was first. It names a commit that the remote has; a local one is pushed before. A
name that is removed is gone for machines that never saw it; others know it until they list names.

Requests are sent only by these verbs, and by `names` for a name that is not known here: what is
known is kept in the catalog, and neither a fetch nor a pull asks for names.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, replace

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import AlreadyExistsError, NotFoundError
from graft_vfs.format.commit import check_message
from graft_vfs.format.name import CommitName
from graft_vfs.history import names
from graft_vfs.history.refs import check_name, shown
from graft_vfs.ids import LogId
from graft_vfs.pages import RemoteLsn
from graft_vfs.remote.names import create_name, delete_name, list_names, name_key, read_name
from graft_vfs.remote.pins import require_open
from graft_vfs.reports import Report, commit_time_text, first_line
from graft_vfs.suggestions import did_you_mean
from graft_vfs.sync.headers import require_header
from graft_vfs.sync.proof import prove
from graft_vfs.sync.push import ensure_safe_store
from graft_vfs.times import corrected_ms
from graft_vfs.volume.context import Context, Opened


@dataclass(frozen=True, slots=True, repr=False)
class NameReport(Report):
    """A name of a commit: LSN `lsn` of `log`. It was given at `time_ms` by `author`."""

    name: str
    log: LogId
    lsn: RemoteLsn
    time_ms: int
    author: str
    message: str

    @classmethod
    def of(cls, found: CommitName) -> NameReport:
        """Return the report of a name."""
        return cls(found.name, found.log, found.lsn, found.time_ms, found.author, found.message)

    def __str__(self) -> str:
        said = f"  {first_line(self.message)}" if self.message else ""
        when = commit_time_text(self.time_ms)
        return f"{self.name:<20}  LSN {self.lsn:<6}  {when}  {self.author}{said}"


def give(context: Context, opened: Opened, name: str, ref: str, *, message: str = "") -> NameReport:
    """Give a name to the commit that a ref means; durable on the remote on return.

    One request, and those of `resolve` if the commit is not known here; one more in the first call
    of an engine, one or two at a data directory's first write to the remote, and one in a log with
    retention. Raises ExpiredError if that has closed the commit, UsageError
    for a local commit and for what cannot be a name, AlreadyExistsError if the name is taken.
    It may be taken by the same author for the same commit and with the same message.
    """
    check_name(name)
    message = check_message(message)
    logs = context.logs
    commit = names.resolve_remote(logs, ref, opened.volume)
    header = require_header(logs, commit.log, commit.lsn)
    prove(logs, commit.log)
    ensure_safe_store(context, commit.log)
    store = logs.log(commit.log).store
    wanted = CommitName(
        log=commit.log,
        lsn=commit.lsn,
        hash=header.hash,
        name=name,
        time_ms=corrected_ms(time.time_ns() // 1_000_000, store.clock_ahead_seconds()),
        author=context.author.name,
        message=message,
        attempt=secrets.token_bytes(16),
    )
    found = create_name(store, wanted)
    context.catalog.names.keep(commit.log, {name: found.encode()})
    # The answer to an earlier try may have been lost; that one is as good.
    if replace(found, attempt=wanted.attempt, time_ms=wanted.time_ms) != wanted:
        raise AlreadyExistsError(
            f"{shown(name)} names LSN {found.lsn} of log {found.log} already; {found.author} named "
            f"it at {commit_time_text(found.time_ms)}",
            next_step=Hint(
                "choose another name, or remove that one with ",
                Advice.REMOVE_NAME(TAG=opened.tag, NAME=name),
            ),
        )
    if header.grace_seconds and found.attempt == wanted.attempt:
        require_open(store, name_key(commit.log, name), commit.log, commit.lsn)
    return NameReport.of(found)


def listed(context: Context, opened: Opened) -> list[NameReport]:
    """Return the names of a volume's log and of those that it was forked from, newest LSN first.

    One listing a log, and one request a name, 32 at a time. What was removed is forgotten here. Of
    a log on a remote without listings, only the names that are known here; no request.
    """
    found: list[NameReport] = []
    for log_id in names.lineage(context.logs, opened.volume):
        store = context.logs.log(log_id).store
        if store.can_list:
            given = list(list_names(store, log_id))
            objects = {each.name: each.encode() for each in given}
            context.catalog.names.keep(log_id, objects, are_all=True)
        else:
            given = list(names.known_names(context.logs, log_id))
        found += sorted(map(NameReport.of, given), key=lambda each: (-each.lsn, each.name))
    return found


def remove(context: Context, opened: Opened, name: str) -> NameReport:
    """Remove a name from the remote; the commit stays. Returns what it was.

    One request a log that does not have it, and two for the one that has. Raises NotFoundError.
    """
    lineage = names.lineage(context.logs, opened.volume)
    for log_id in lineage:
        store = context.logs.log(log_id).store
        found = read_name(store, log_id, check_name(name))
        context.catalog.names.forget(log_id, name)
        if found is not None:
            delete_name(store, log_id, name)
            return NameReport.of(found)
    known = {each.name for log_id in lineage for each in names.known_names(context.logs, log_id)}
    raise NotFoundError(
        f"log {lineage[0]} has no name {shown(name)}",
        next_step=Hint(did_you_mean(name, known), Advice.LIST_NAMES(TAG=opened.tag), " lists them"),
    )
