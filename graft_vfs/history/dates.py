"""Which commit of a log a time means, by bisection where its commits are not known here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graft_vfs.errors import ExpiredError
from graft_vfs.format.commit import TIME_END, TIME_MS_MAX, time_ms_of
from graft_vfs.ids import LogId
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.sync.headers import require_header
from graft_vfs.view.logs import Logs

_COMMITS_AT_ONCE = 1024


def newest_no_later(logs: Logs, log_id: LogId, newest: RemoteLsn, time_ms: int) -> RemoteLsn:
    """Return the newest commit up to LSN `newest` that is dated no later than a time; 0 for none.

    No request for commits that are known; else log2(n) headers. Times do not decrease along a log,
    but for one case: what follows a commit from the future, by the clock of the store, is dated
    before it. Known commits are therefore looked at one after another. Among others, such a
    commit misleads only for times between its own and the true one.
    """
    above, above_ms = newest + 1, TIME_MS_MAX
    for lsn, found_ms in _known_down(logs, log_id, newest):
        if found_ms <= time_ms:
            return lsn
        above, above_ms = lsn, found_ms
    return RemoteLsn(_Times(logs, log_id, time_ms).newest(NO_LSN, above, above_ms))


def _known_down(logs: Logs, log_id: LogId, newest: RemoteLsn) -> Iterator[tuple[RemoteLsn, int]]:
    """Yield (LSN, time) of the commits from `newest` down to the first that is not known."""
    expected = int(newest)
    while expected:
        first = RemoteLsn(max(1, expected - _COMMITS_AT_ONCE + 1))
        heads = logs.catalog.commit_beginnings(log_id, first, RemoteLsn(expected), TIME_END)
        for lsn, head in heads:
            if lsn != expected:
                return
            yield lsn, time_ms_of(head)
            expected -= 1
        if expected >= first:
            return


@dataclass(frozen=True, slots=True)
class _Times:
    """The times of a log's commits, compared with a given time."""

    logs: Logs
    log_id: LogId
    time_ms: int

    def newest(self, low: int, high: int, high_ms: int) -> int:
        """Return the newest LSN from `low` to below `high` that is dated no later.

        `low` is taken to be, and `high`, of time `high_ms`, is not. Raises ExpiredError if it is
        one that the log's retention has deleted.
        """
        expired: ExpiredError | None = None
        while high - low > 1:
            middle = (low + high) // 2
            try:
                found_ms = require_header(self.logs, self.log_id, RemoteLsn(middle)).time_ms
            except ExpiredError as error:
                low, expired = middle, error
                continue
            if found_ms <= self.time_ms:
                low, expired = middle, None
                continue
            if found_ms > high_ms:
                # It is from the future, so that it says nothing about those after it.
                found = self.newest(middle, high, high_ms)
                if found > middle:
                    return found
            high, high_ms = middle, min(found_ms, high_ms)
        if expired is not None:
            raise expired
        return low
