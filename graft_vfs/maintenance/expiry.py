"""What the retention of a log keeps, closes and deletes, and why: a plan, which changes nothing.

    kept      the newest commit, what the policy keeps, and what has a name, a pin or a child
    closed    LSNs up to the floor: not to be used any more, but for those that are kept
    due       closed for as long as the grace period, and not kept; its object is deleted, unless
              images in it belong to a state that is kept

LSN S is the first commit with a grace period. It and those before it always stay; see decision 19.
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import CorruptObjectError, ExpiredError, UsageError
from graft_vfs.format.commit import GRACE_END, TIME_END, grace_seconds_of, time_ms_of
from graft_vfs.ids import LogId
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.remote.floor import Floor, read_floor
from graft_vfs.remote.names import list_names
from graft_vfs.remote.pins import read_child, read_pin
from graft_vfs.remote.policy import Policy, kept_by, read_policy
from graft_vfs.remote.rolls import COMMITS_MAX
from graft_vfs.remote.survey import Survey, survey
from graft_vfs.sync.fetch import fetch_log
from graft_vfs.sync.headers import require_header
from graft_vfs.view.logs import Logs


@dataclass(slots=True)
class Plan:
    """What is to happen to each LSN of a log that is there; `reasons` has those that stay."""

    log_id: LogId
    policy: Policy
    newest: RemoteLsn
    switched: RemoteLsn
    floor: Floor
    survey: Survey
    grace_seconds: int
    """The longest of the commits that may be closed, and of the one before them."""
    times: list[tuple[RemoteLsn, int]] = field(default_factory=list)
    """(LSN, milliseconds since 1970) of each commit that is there, newest first."""
    reasons: dict[RemoteLsn, list[str]] = field(default_factory=dict)
    closing: RemoteLsn = NO_LSN
    """To which LSN the floor may rise now; the floor's own if it may not."""

    @property
    def is_due(self) -> bool:
        """Whether all closed LSNs have been closed for as long as the grace period."""
        closed_ms = self.survey.floor_ms
        return closed_ms is not None and self._is_old(closed_ms)

    @property
    def due(self) -> list[RemoteLsn]:
        """The closed commits that nothing keeps, once they are due, ascending."""
        last = self.floor.lsn if self.is_due else self.switched
        return [
            lsn
            for lsn in sorted(self.survey.commits)
            if self.switched < lsn <= last and lsn not in self.reasons
        ]

    def kept_closed(self, last: RemoteLsn) -> list[RemoteLsn]:
        """Return the LSNs after S and up to `last` that stay, ascending."""
        return [lsn for lsn in sorted(self.reasons) if self.switched < lsn <= last]

    def is_old(self, lsn: RemoteLsn) -> bool:
        """Return True if a commit is as old as the grace period."""
        return self._is_old(self.survey.commits[lsn])

    def _is_old(self, since_ms: int) -> bool:
        return self.survey.now_ms - since_ms >= self.grace_seconds * 1000


def make_plan(logs: Logs, log_id: LogId) -> Plan:
    """Plan the retention of a log.

    One request to learn its newest commit, four more, 1 + n/1000 listings, one for each name, pin
    and child, and one for each commit whose header this machine does not know. Raises UsageError if
    the log has no retention, UnsafeStoreError if its store cannot have any.
    """
    newest = fetch_log(logs, log_id).newest
    store = logs.log(log_id).store
    policy = read_policy(store, log_id)
    # Ordering: the floor before the listing. If it rises in between, its date there is too young.
    floor = read_floor(store, log_id)
    found = survey(store, log_id)
    if policy is None or newest not in found.commits or not _grace(logs, log_id, newest):
        raise UsageError(
            f"log {log_id} has no retention",
            next_step=Hint(Advice.SET_RETENTION, " says what it is to keep"),
        )
    switched = _switched(logs, log_id, found)
    _require_whole(log_id, found, max(floor.lsn, switched), newest)
    plan = Plan(log_id, policy, newest, switched, floor, found, floor.grace_seconds)
    plan.times = [*_times(logs, plan)]
    plan.reasons = kept_by(policy, plan.times, found.now_ms)
    for lsn, reason in _held(logs, plan):
        plan.reasons.setdefault(lsn, []).append(reason)
    plan.closing = _closing(logs, plan)
    return plan


def _times(logs: Logs, plan: Plan) -> Iterator[tuple[RemoteLsn, int]]:
    """Yield (LSN, time) of the commits that are there, newest first."""
    for lsn in sorted(plan.survey.commits, reverse=True):
        # What a late claim has put at a closed LSN is none of them.
        with contextlib.suppress(ExpiredError):
            if lsn <= plan.newest:
                yield lsn, _time_ms(logs, plan.log_id, lsn)


def _switched(logs: Logs, log_id: LogId, found: Survey) -> RemoteLsn:
    """Return the first commit with a grace period; it is there, and so are all before it."""
    present = sorted(found.commits)
    at = bisect.bisect_left(present, True, key=lambda lsn: _grace(logs, log_id, lsn) > 0)
    return present[at]


def _require_whole(log_id: LogId, found: Survey, closed: RemoteLsn, newest: RemoteLsn) -> None:
    """Raise CorruptObjectError if an LSN that is not closed is missing."""
    lost = next((lsn for lsn in range(closed + 1, newest) if lsn not in found.commits), None)
    if lost is not None:
        raise CorruptObjectError(
            f"log {log_id} lacks LSN {lost}, which its floor, LSN {closed}, does not close: its "
            "floor fell, or a commit was lost",
            next_step="restore the floor or the commit from a replica or a backup",
        )


def _held(logs: Logs, plan: Plan) -> Iterable[tuple[RemoteLsn, str]]:
    """Yield what is kept whatever the policy says."""
    store, log_id, found = logs.log(plan.log_id).store, plan.log_id, plan.survey
    yield plan.newest, "the newest"
    for lsn in found.commits:
        if lsn < plan.switched:
            yield lsn, "from before its retention"
    yield plan.switched, "the first with retention"
    for name in list_names(store, log_id):
        yield name.lsn, f"named {name.name}"
    for key, written_ms in found.pins.items():
        pin = read_pin(store, log_id, key)
        if found.now_ms - written_ms <= pin.seconds * 1000:
            yield pin.lsn, f"pinned by {pin.id[:8]}"
    for key in found.children:
        child = read_child(store, log_id, key)
        yield child.lsn, f"log {child.log_id} was forked from it"


def _closing(logs: Logs, plan: Plan) -> RemoteLsn:
    """Return the last LSN that may be closed now and is to go, and set the grace period."""
    if plan.floor.lsn and not plan.is_due:
        # So that the floor's own date tells of all that it has closed.
        return plan.floor.lsn
    last = first = max(plan.floor.lsn, plan.switched)
    before = plan.grace_seconds
    plan.grace_seconds = max(before, _grace(logs, plan.log_id, first) if first else 0)
    for lsn in map(RemoteLsn, range(first + 1, min(plan.newest, first + COMMITS_MAX + 1))):
        plan.grace_seconds = max(plan.grace_seconds, _grace(logs, plan.log_id, lsn))
        if not plan.is_old(lsn):
            break
        if lsn not in plan.reasons:
            last = lsn
    return last if last > first else plan.floor.lsn


def _grace(logs: Logs, log_id: LogId, lsn: RemoteLsn) -> int:
    """Return the grace period in a commit, 0 for none."""
    known = logs.catalog.commit_beginnings(log_id, lsn, lsn, GRACE_END)
    if known:
        return grace_seconds_of(known[0][1])
    return require_header(logs, log_id, lsn).grace_seconds


def _time_ms(logs: Logs, log_id: LogId, lsn: RemoteLsn) -> int:
    known = logs.catalog.commit_beginnings(log_id, lsn, lsn, TIME_END)
    return time_ms_of(known[0][1]) if known else require_header(logs, log_id, lsn).time_ms
