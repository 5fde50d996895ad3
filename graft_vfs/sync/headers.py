"""Headers of commits that are asked for: those that the catalog lacks are read from the remote.

A table says where pages are, so a machine needs no header of a commit that a table covers, until a
user asks about that commit.

Such a header is verified by its own hash, its place, and the hashes of the commits beside it, if
these are known. The remote has also been found to have the newest known commit of the log, whose
history has one commit at each LSN. fsck verifies the whole chain.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import CorruptObjectError, ExpiredError, NoRemoteError, StoreError
from graft_vfs.format.commit import CommitHeader
from graft_vfs.ids import LogId
from graft_vfs.local.catalog.rows import CommitRow
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.remote.commit_reader import CommitRecord
from graft_vfs.remote.floor import read_floor
from graft_vfs.remote.log import RemoteLog, check_chain, commit_key
from graft_vfs.sync.proof import prove, told_from_damage
from graft_vfs.view.logs import Logs

_PAGE_COMMITS_MIN = 32
_PAGE_COMMITS_MAX = 512


def require_headers(
    logs: Logs, log_id: LogId, first: RemoteLsn, last: RemoteLsn
) -> list[CommitRecord]:
    """Return the commits first..last (inclusive) of a log that has them, ascending.

    No request for those that the catalog has; else one for each, 32 at a time, and one more in an
    engine's first call for the log. They are in the catalog afterwards, unless that is read-only,
    and all in memory: ask for some hundred at most. A log with retention is asked for its floor,
    too. Raises ExpiredError if it has deleted one, CorruptObjectError if the remote lacks
    one or has another one, HistoryMismatchError, and StoreError or NoRemoteError with the LSN up to
    which the history is unknown here.
    """
    found = {each.header.lsn: each for each in logs.records(log_id, first, last)}
    # Ordering: the newest first, so that each is verified by the one after it.
    for start, end in reversed(_gaps(found, first, last)):
        found.update((each.header.lsn, each) for each in _fetched(logs, log_id, start, end))
    return [found[lsn] for lsn in sorted(found)]


def require_header(logs: Logs, log_id: LogId, lsn: RemoteLsn) -> CommitHeader:
    """Return the header of one commit; requests and errors of `require_headers`."""
    return require_headers(logs, log_id, lsn, lsn)[0].header


def headers_down(
    logs: Logs, log_id: LogId, newest: RemoteLsn, limit: int, *, until: RemoteLsn = NO_LSN
) -> Iterator[CommitRecord]:
    """Yield the commits of a log from `newest` down to the one after `until`, at most `limit`.

    They are required when their turn comes: those that are known, then others in steps that grow
    from 32 to 512. What the log's retention has deleted is left out: then, one listing of the log,
    and some requests for each commit from there on that is not known.
    """
    step, last, end = _PAGE_COMMITS_MIN, int(newest), max(until, newest - limit)
    while last > end:
        first = max(end + 1, last - step + 1)
        known = reversed(logs.records(log_id, RemoteLsn(first), RemoteLsn(last)))
        # What is known comes first: without the remote, it is all that can be shown.
        lsns = range(last, 0, -1)
        found = [each for lsn, each in zip(lsns, known, strict=False) if each.header.lsn == lsn]
        if not found:
            step = min(_PAGE_COMMITS_MAX, 2 * step)
            try:
                found = require_headers(logs, log_id, RemoteLsn(first), RemoteLsn(last))[::-1]
            except ExpiredError:
                yield from islice(_left_down(logs, log_id, last, until), last - end)
                return
        yield from found
        last -= len(found)


def _left_down(logs: Logs, log_id: LogId, last: int, end: int) -> Iterator[CommitRecord]:
    """Yield the commits from `last` to before `end` that retention has left, newest first."""
    for lsn in logs.log(log_id).lsns():
        if end < lsn <= last:
            # A late claim may stand in the place of one that was deleted.
            with contextlib.suppress(ExpiredError):
                yield from require_headers(logs, log_id, lsn, lsn)


def parent_of(logs: Logs, log_id: LogId) -> tuple[LogId, RemoteLsn] | None:
    """Return the commit that a log was forked from, as (log, LSN), which LSN 1 of the fork says.

    None for a log without known commits, too.
    """
    is_known = logs.catalog.tables.knows_parent(log_id)
    if is_known or not logs.catalog.newest_commit(log_id)[0]:
        return logs.parent(log_id)
    first = require_header(logs, log_id, RemoteLsn(1))
    return None if first.parent_log is None else (first.parent_log, first.parent_lsn)


def lineage(logs: Logs, log_id: LogId, *, until: LogId | None = None) -> set[LogId]:
    """Return a log and all its ancestors, or those up to one of them.

    One request for each log whose LSN 1 is not known here; afterwards `Logs.lineage` has it, too.
    """
    found, at = set[LogId](), log_id
    while at not in found:
        found.add(at)
        parent = None if at == until else parent_of(logs, at)
        at = at if parent is None else parent[0]
    return found


def know_descent(logs: Logs, log_id: LogId) -> None:
    """Have the catalog know which volumes descend from a log, for `forget_history`."""
    for _, base in logs.catalog.bases():
        lineage(logs, base, until=log_id)


def _gaps(found: dict[RemoteLsn, CommitRecord], first: int, last: int) -> list[tuple[int, int]]:
    """Return the runs of LSNs first..last that were not found, ascending."""
    gaps = []
    start = first
    for lsn in [*sorted(found), last + 1]:
        if start < lsn:
            gaps.append((start, lsn - 1))
        start = lsn + 1
    return gaps


def _fetched(logs: Logs, log_id: LogId, first: int, last: int) -> list[CommitRecord]:
    """Read commits that the catalog lacks, and keep them there."""
    log = logs.log(log_id)
    before = logs.header(log_id, RemoteLsn(first - 1))
    after = logs.header(log_id, RemoteLsn(last + 1))
    with explained(logs, log_id, last), told_from_damage(logs, log_id):
        prove(logs, log_id)
        read = log.read_headers(
            RemoteLsn(first),
            RemoteLsn(last),
            previous_hash=None if before is None else before.hash,
        )
        newest, _ = logs.catalog.newest_commit(log_id)
        read = logs.belief(log_id, newest).confirmed(RemoteLsn(first), read)
        try:
            # Without the frames that came with them, which were not asked for.
            found = [replace(each, behind=b"") for each in read]
        except CorruptObjectError:
            _require_open(log, first)
            raise
        if after is not None:
            check_chain(after, found[-1].header.hash, key=commit_key(log_id, after.lsn))
    if logs.catalog.writable:
        rows = [CommitRow(each.header.lsn, each.header.hash, each.encoded) for each in found]
        logs.catalog.add_commits(log_id, rows)
    return found


def _require_open(log: RemoteLog, lsn: int) -> None:
    """Raise ExpiredError if the retention of a log may have deleted a commit. One request."""
    floor = read_floor(log.store, log.log_id)
    if lsn <= floor.lsn:
        raise ExpiredError(
            f"log {log.log_id} does not keep LSN {lsn}: its retention may have deleted each commit "
            f"up to LSN {floor.lsn}",
            next_step=Hint("name a later commit; see ", Advice.LIST_COMMITS),
        )


@contextlib.contextmanager
def explained(logs: Logs, log_id: LogId, last: int) -> Iterator[None]:
    """Add to the error of a remote that cannot be read why it had to be."""
    try:
        yield
    except (StoreError, NoRemoteError) as error:
        known = logs.catalog.known_after(log_id, RemoteLsn(last)) or last + 1
        raise type(error)(
            f"the history of log {log_id} before LSN {known} is not on this machine, and the "
            f"remote cannot be read: {error.message}",
            next_step=Hint(
                *(() if error.hint is None else (error.hint, "; ")),
                "when the remote can be read, ",
                Advice.LIST_COMMITS,
                " fetches the history that it lists",
            ),
        ) from error
