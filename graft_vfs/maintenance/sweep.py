"""Collects a log with retention: deletes what is due, then closes what may go next.

    delete   segments, then commits, of the due LSNs that no kept state has images in
    roll     the hashes of the LSNs to close; one that is there is used
    tables   a complete table for the new floor, and for each kept LSN that it closes
    floor    rises to the end of the roll, with If-Match

Nothing is locked. Two collectors at once delete the same, and only one raises the floor. A crash
between any two steps leaves a log that the next collector goes on with: objects that are due stay
due, and a roll or a table without its floor is used again. The floor rises at most once in a grace
period, so its own date tells that all it has closed was closed at least so long ago.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from pyroaring import BitMap

from graft_vfs.errors import ExpiredError
from graft_vfs.ids import LogId
from graft_vfs.maintenance.expiry import Plan, make_plan
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.remote.floor import Floor, raise_floor
from graft_vfs.remote.log import RemoteLog, commit_key, segment_key
from graft_vfs.remote.rolls import Roll, create_roll
from graft_vfs.remote.tables import TableName, list_tables, write_table
from graft_vfs.reports import Report, commits_text
from graft_vfs.sync.fetch import require_view
from graft_vfs.sync.headers import require_header, require_headers
from graft_vfs.view.logs import Logs
from graft_vfs.view.new_table import complete_table

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class Collected(Report):
    """What a collection did, or would do: the deleted commits and objects, and the floor then.

    `shared` are due commits that stay, because a kept state has images in them.
    """

    log: LogId
    deleted: int
    objects: int
    shared: int
    floor: RemoteLsn
    is_dry: bool

    def __str__(self) -> str:
        would = "would be " if self.is_dry else ""
        stay = f"; {commits_text(self.shared)} stay, with pages in use" if self.shared else ""
        closed = f"Those up to LSN {self.floor} {would or 'are '}closed."
        if not self.floor:
            closed = "None is old enough to be closed."
        return f"{commits_text(self.deleted)} of log {self.log} {would}deleted{stay}. {closed}"


def sweep(logs: Logs, log_id: LogId, *, dry_run: bool = False) -> Collected:
    """Delete what is due of a log, and close what may go next.

    The requests of `make_plan`, one for each 1000 objects that are deleted, one for each table, and
    three for a new floor. Raises its errors, and ConflictError if another collector was first.
    """
    plan = make_plan(logs, log_id)
    commits, objects, shared = _due_objects(logs, plan)
    if not dry_run:
        logs.log(log_id).store.delete_many(objects)
    floor = plan.closing if dry_run else _close(logs, plan)
    done = Collected(log_id, commits, len(objects), shared, floor, dry_run)
    _logger.info("%s", done)
    return done


def _due_objects(logs: Logs, plan: Plan) -> tuple[int, list[str], int]:
    """Return how many commits go, the keys to delete in their order, and how many stay."""
    due = plan.due
    needed = _needed(logs, plan) if due else set[RemoteLsn]()
    remote = logs.log(plan.log_id)
    commits, segments, shared = [], [], 0
    for lsn in due:
        if lsn in needed:
            shared += 1
        else:
            commit, *segment = _keys(logs, remote, lsn)
            commits.append(commit)
            segments += segment
    # Ordering: a segment before the commit that names it, so that none is left without a name.
    return len(commits), [*segments, *commits], shared


def _keys(logs: Logs, remote: RemoteLog, lsn: RemoteLsn) -> Iterable[str]:
    """Yield the keys of a commit and of its segment, as the object that is there says."""
    yield commit_key(remote.log_id, lsn)
    header = logs.header(remote.log_id, lsn)
    if header is None:
        record = remote.read_header(lsn)
        header = None if record is None else record.header
    if header is not None and header.segment is not None:
        yield segment_key(header.segment)


def _needed(logs: Logs, plan: Plan) -> set[RemoteLsn]:
    """Return the closed commits that have the newest image of a page in an open or kept state.

    They stay even if a compaction has moved these images: a reader may have opened its LSN before.
    """
    floor, needed = plan.floor.lsn, set[RemoteLsn]()
    pages: dict[RemoteLsn, BitMap] = {}
    for lsn in sorted(plan.survey.commits):
        if plan.switched < lsn <= floor:
            # What a late claim has put there has nothing of these states.
            with contextlib.suppress(ExpiredError):
                pages[lsn] = require_header(logs, plan.log_id, lsn).pages
    for state in {floor, *plan.kept_closed(floor)}:
        newer = BitMap()
        for lsn in sorted(pages, reverse=True):
            if lsn <= state and pages[lsn] - newer:
                needed.add(lsn)
                newer |= pages[lsn]
    return needed


def _write_complete_table(logs: Logs, log_id: LogId, lsn: RemoteLsn) -> None:
    """Have the remote have a table by which an LSN is opened without the commits before it."""
    store = logs.log(log_id).store
    newest = list_tables(store, log_id, upto=lsn, limit=1)
    if newest and (newest[0].lsn, newest[0].after) == (lsn, NO_LSN):
        return
    require_view(logs, log_id, lsn)
    view = logs.log_view(log_id, lsn)
    row, data = complete_table(logs, view, view.table, suffix="")
    write_table(store, TableName(log_id, row.lsn, row.after, row.suffix), data)


def _close(logs: Logs, plan: Plan) -> RemoteLsn:
    """Raise the floor as planned; returns it."""
    old, log_id = plan.floor, plan.log_id
    if plan.closing <= old.lsn:
        return old.lsn
    store = logs.log(log_id).store
    first = RemoteLsn(max(old.lsn, plan.switched) + 1)
    records = require_headers(logs, log_id, first, plan.closing)
    roll = Roll(log_id, first, b"".join(record.header.hash for record in records))
    # Another collector may have closed more or less, and been ended before its floor rose.
    roll = create_roll(store, roll)
    last = require_headers(logs, log_id, roll.last, roll.last)[0].header
    for lsn in sorted({roll.last, *plan.kept_closed(roll.last)}):
        if lsn >= first:
            _write_complete_table(logs, log_id, lsn)
    raise_floor(store, old, Floor(log_id, roll.last, last.grace_seconds))
    return roll.last
