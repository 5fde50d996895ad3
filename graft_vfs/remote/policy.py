"""The policy of a log with retention: which commits its collector keeps.

    logs/<log>/retention    one object; replaced if it still has the bytes that were read

The object has the lines of `format.lines`, of the kind `retention` and version 1. Its lines are the
log id, then the numbers of `Policy` in their order.

A commit is kept if any rule keeps it: one of the newest, one that is young enough, or the newest
one of its hour, day, week, month or year, for as many of these as have a commit. Their borders are
those of UTC. The newest commit, those with a name, with a pin and with a child are always kept.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields

from graft_vfs.errors import (
    ConflictError,
    CorruptObjectError,
    ObjectMissingError,
    UsageError,
)
from graft_vfs.format.lines import (
    LINES_BYTES_MAX,
    decode_lines,
    encode_lines,
    number,
    require_log,
)
from graft_vfs.ids import LogId
from graft_vfs.pages import RemoteLsn
from graft_vfs.remote.entries import create_once, replace_as_read
from graft_vfs.remote.log import LOGS_PREFIX
from graft_vfs.store.base import ObjectStore

_KIND, _VERSION = "retention", 1
_NUMBER_MAX = (1 << 53) - 1
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How many commits of each kind are kept; 0 for none."""

    last: int = 0
    within_seconds: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0

    def __post_init__(self) -> None:
        numbers = astuple(self)
        if not any(numbers):
            raise UsageError(
                "a policy that keeps nothing would let a log have only its newest commit",
                next_step="say what to keep, for example the last commit: --keep-last 1",
            )
        if not all(0 <= each <= _NUMBER_MAX for each in numbers):
            raise UsageError("a policy counts from 0", next_step="correct its numbers")


_RULES: tuple[tuple[str, str, Callable[[dt.datetime], object]], ...] = (
    ("hourly", "hour", lambda at: (at.date(), at.hour)),
    ("daily", "day", lambda at: at.date()),
    ("weekly", "week", lambda at: at.isocalendar()[:2]),
    ("monthly", "month", lambda at: (at.year, at.month)),
    ("yearly", "year", lambda at: at.year),
)


def kept_by(
    policy: Policy, commits: Sequence[tuple[RemoteLsn, int]], now_ms: int
) -> dict[RemoteLsn, list[str]]:
    """Return why a policy keeps commits, by LSN.

    `commits` are (LSN, milliseconds since 1970), newest first.
    """
    kept: dict[RemoteLsn, list[str]] = {}
    for lsn, reason in _reasons(policy, commits, now_ms):
        kept.setdefault(lsn, []).append(reason)
    return kept


def _reasons(
    policy: Policy, commits: Sequence[tuple[RemoteLsn, int]], now_ms: int
) -> Iterator[tuple[RemoteLsn, str]]:
    for at, (lsn, _) in enumerate(commits[: policy.last], 1):
        yield lsn, f"{at} of the last {policy.last}"
    if policy.within_seconds:
        for lsn, time_ms in commits:
            if now_ms - time_ms <= policy.within_seconds * 1000:
                yield lsn, "young enough"
    for name, period, of in _RULES:
        left, seen = getattr(policy, name), None
        for lsn, time_ms in commits:
            if not left:
                break
            found = of(_EPOCH + dt.timedelta(milliseconds=time_ms))
            if found != seen:
                left, seen = left - 1, found
                yield lsn, f"the last of its {period}"


# The object ---------------------------------------------------------------------------------------


def policy_key(log_id: LogId) -> str:
    """Return the key of a log's policy."""
    return f"{LOGS_PREFIX}{log_id}/retention"


def read_policy(store: ObjectStore, log_id: LogId) -> Policy | None:
    """Return the policy of a log, None if it has none. One request.

    Raises CorruptObjectError, FutureVersionError, StoreError.
    """
    key = policy_key(log_id)
    try:
        content = store.get_range(key, 0, LINES_BYTES_MAX + 1)
    except ObjectMissingError:
        return None
    return decode_policy(content, key=key, log_id=log_id)


def write_policy(store: ObjectStore, log_id: LogId, old: Policy | None, new: Policy) -> None:
    """Give a log a policy in place of the one that was read; durable on return.

    Two requests, one for the first policy. Raises ConflictError if it is another one by now.
    """
    key, content = policy_key(log_id), encode_policy(log_id, new)
    if old is None:
        found = create_once(store, key, content, lambda: read_policy(store, log_id))
        is_ours = found in {None, new}
    else:
        is_ours = replace_as_read(store, key, encode_policy(log_id, old), content)
    if not is_ours:
        raise ConflictError(
            f"{key} was changed meanwhile", next_step="look at the policy, and set it again"
        )


def encode_policy(log_id: LogId, policy: Policy) -> bytes:
    """Return the bytes of the object."""
    return encode_lines(_KIND, _VERSION, (log_id, *astuple(policy)))


def decode_policy(content: bytes, *, key: str, log_id: LogId) -> Policy:
    """Return a policy; raises CorruptObjectError or FutureVersionError, and nothing else."""
    names = [field.name for field in fields(Policy)]
    log, *lines = decode_lines(content, kind=_KIND, version=_VERSION, count=len(names) + 1, key=key)
    require_log(log, log_id, key=key)
    numbers = [number(line, key=key, last=_NUMBER_MAX) for line in lines]
    try:
        return Policy(**dict(zip(names, numbers, strict=True)))
    except UsageError as error:
        raise CorruptObjectError(f"{key}: {error}") from error
