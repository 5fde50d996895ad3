"""The retention of a volume's log: showing it, and switching it on or changing it.

It is switched on by a commit with a grace period, which programs that do not know retention refuse
to read; see decision 19. The policy is written before, so a crash in between leaves a policy
without effect. Retention cannot be switched off, but a policy may keep everything.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from graft_vfs.advice import Advice, Audience, Hint, Worded
from graft_vfs.errors import UsageError
from graft_vfs.format.commit import GRACE_SECONDS_MIN
from graft_vfs.ids import LogId
from graft_vfs.maintenance.expiry import make_plan
from graft_vfs.pages import RemoteLsn
from graft_vfs.remote.policy import Policy, read_policy, write_policy
from graft_vfs.remote.survey import survey
from graft_vfs.reports import Report, commit_time_text
from graft_vfs.sync.fetch import fetch_log
from graft_vfs.sync.headers import require_header
from graft_vfs.sync.push import push
from graft_vfs.times import duration_text
from graft_vfs.view.logs import Logs
from graft_vfs.volume.context import Context, Opened

GRACE_SECONDS = 86_400
"""The grace period unless one is given."""
_GRACE_SECONDS_MAX = 10 * 366 * 86_400


@dataclass(frozen=True, slots=True, repr=False)
class Retention(Report, Worded):
    """The retention of a log: its policy, None without one, and its grace period, 0 without."""

    log: LogId
    policy: Policy | None
    grace_seconds: int

    def words(self, audience: Audience) -> str:
        """Return the text for one audience."""
        if self.policy is None or not self.grace_seconds:
            step = Advice.SET_RETENTION.words(audience)
            return f"Log {self.log} keeps all of its commits; {step} says which to keep."
        kept = [f"{number} {name}" for name, number in asdict(self.policy).items() if number]
        if self.policy.within_seconds:
            kept = [each for each in kept if not each.endswith("within_seconds")]
            kept.append(f"those of the last {duration_text(self.policy.within_seconds)}")
        grace = duration_text(self.grace_seconds)
        return (
            f"Log {self.log} keeps {', '.join(kept)}, and commits with a name, a pin or a fork.\n"
            f"Others are closed when they are {grace} old, and deleted {grace} later."
        )


@dataclass(frozen=True, slots=True, repr=False)
class Expiry(Report):
    """What is to happen to a commit: its fate, and the reasons if it stays.

    The fate is `kept`, `open` until it is old enough, `closing` by the next collection, `closed`
    until the grace period is over, or `due`.
    """

    lsn: RemoteLsn
    time_ms: int
    fate: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        why = f": {', '.join(self.reasons)}" if self.reasons else ""
        return f"{self.lsn:>7}  {commit_time_text(self.time_ms)}  {self.fate}{why}"


def shown(logs: Logs, log_id: LogId) -> Retention:
    """Return the retention of a log that is known here. One request."""
    newest, _ = logs.catalog.newest_commit(log_id)
    grace_seconds = require_header(logs, log_id, newest).grace_seconds if newest else 0
    return Retention(log_id, read_policy(logs.log(log_id).store, log_id), grace_seconds)


def changed(
    context: Context, opened: Opened, policy: Policy, grace_seconds: int | None = None
) -> Retention:
    """Give the log of a volume a policy, and switch its retention on if it is off.

    The volume has to be at the newest commit, without local ones. The requests of a fetch, a
    listing of the log, three for the policy, and those of a push if the grace period changes.
    Raises UsageError, UnsafeStoreError if the store cannot have retention, DivergedError.
    """
    logs, log_id = context.logs, context.catalog.volume(opened.volume.id).remote
    newest = fetch_log(logs, log_id).newest
    snapshot = opened.volume.begin()
    has_local = snapshot.lsn >= snapshot.branch.row.first_lsn
    if has_local or not newest:
        what = "has commits that are not on the remote" if has_local else "has no commit yet"
        raise UsageError(
            f"tag {opened.tag!r} {what}",
            next_step=Hint("run ", Advice.PUSH(TAG=opened.tag), " first"),
        )
    before = shown(logs, log_id)
    grace = grace_seconds or before.grace_seconds or GRACE_SECONDS
    if not GRACE_SECONDS_MIN <= grace <= _GRACE_SECONDS_MAX:
        raise UsageError(
            f"a grace period cannot be {duration_text(grace)}",
            next_step="give at least 1h, and at most ten years",
        )
    survey(logs.log(log_id).store, log_id)
    if before.policy != policy:
        write_policy(logs.log(log_id).store, log_id, before.policy, policy)
    if grace != before.grace_seconds:
        push(context, opened, message="retention", grace_seconds=grace)
    return Retention(log_id, policy, grace)


def planned(logs: Logs, log_id: LogId) -> list[Expiry]:
    """Return what is to happen to each commit that is there, newest first; see `make_plan`."""
    plan = make_plan(logs, log_id)
    due = set(plan.due)
    found = []
    for lsn, time_ms in plan.times:
        if lsn in plan.reasons:
            fate = "kept"
        elif lsn in due:
            fate = "due"
        elif lsn <= plan.floor.lsn:
            fate = "closed"
        else:
            fate = "closing" if lsn <= plan.closing else "open"
        found.append(Expiry(lsn, time_ms, fate, tuple(plan.reasons.get(lsn, ()))))
    return found
