"""Claiming a remote LSN: one conditional write, and what to do with each answer.

    CREATED             it is ours
    EXISTS, RACING      read the commit at the key
      the same hash     it is ours: this or an earlier write of these bytes landed
      another hash      it is lost
      nothing           write the same bytes again
      not readable      read again
    no answer           write the same bytes again; their answer is the one that was lost
    surely not sent     as no answer if a write before may have landed, else an error

The rules are `next_step`, a function of one event; `claim` only carries out what it says.

Invariants:
 1. A claim is reported won only after a CREATED of its own or the same hash read at the key.
 2. A claim is reported lost only after another hash was read at the key. A key that is absent
    proves nothing: a write that is on its way may still arrive.
 3. Once a write may have landed, only 1 or 2 ends in anything else than CommitOutcomeUnknownError.

Crash here: the caller's pending record has the same bytes and hash; calling `claim` with them again
ends as this call would have. Before the first call the caller makes that record durable; it removes
the record when `claim` returned, or raised another StoreError than CommitOutcomeUnknownError at the
first call for that record.
"""

from __future__ import annotations

import enum
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from graft_vfs.commit_reader import CommitRecord
from graft_vfs.counters import Counters
from graft_vfs.errors import CommitOutcomeUnknownError, DamageError, StoreError
from graft_vfs.pages import RemoteLsn
from graft_vfs.remote_log import RemoteLog, commit_key
from graft_vfs.store.base import PutOutcome

_logger = logging.getLogger(__name__)

ATTEMPTS = 6
_PAUSE_SECONDS = 0.1
_PAUSE_SECONDS_MAX = 5.0


class Event(enum.Enum):
    """What one request showed."""

    CREATED = "the write made the key"
    EXISTS = "the write was refused because the key exists"
    RACING = "the write was refused because another one was in progress"
    UNKNOWN = "the write got no answer"
    NOT_SENT = "the write was surely not carried out, but an earlier one may have been"
    FOUND_SAME = "the key holds a commit with our hash"
    FOUND_OTHER = "the key holds a commit with another hash"
    FOUND_NOTHING = "the key is absent"
    UNREADABLE = "the key could not be read"


class Action(enum.Enum):
    """What to do next."""

    REPORT_WON = "report the claim as won"
    REPORT_LOST = "report the claim as lost"
    READ_BACK = "read the key now"
    READ_AGAIN = "wait, then read the key"
    PUT_AGAIN = "wait, then write the same bytes"
    GIVE_UP_UNKNOWN = "report that the outcome is unknown"


_NEXT_STEPS = {
    Event.CREATED: Action.REPORT_WON,
    Event.FOUND_SAME: Action.REPORT_WON,
    Event.FOUND_OTHER: Action.REPORT_LOST,
    Event.EXISTS: Action.READ_BACK,
    Event.RACING: Action.READ_BACK,
    Event.UNKNOWN: Action.PUT_AGAIN,
    Event.NOT_SENT: Action.PUT_AGAIN,
    Event.FOUND_NOTHING: Action.PUT_AGAIN,
    Event.UNREADABLE: Action.READ_AGAIN,
}
_REPEATING = frozenset({Action.PUT_AGAIN, Action.READ_AGAIN})


def next_step(event: Event, *, attempts_left: int) -> Action:
    """Return what follows an event; a step that repeats a request needs an attempt for it."""
    action = _NEXT_STEPS[event]
    if action in _REPEATING and attempts_left == 0:
        return Action.GIVE_UP_UNKNOWN
    return action


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """How a claim ended. `winner` is the commit that has the LSN, None if that is our own."""

    winner: CommitRecord | None

    @property
    def won(self) -> bool:
        """Tell whether the LSN is ours."""
        return self.winner is None


def claim(
    log: RemoteLog,
    lsn: RemoteLsn,
    data: bytes,
    commit_hash: bytes,
    *,
    attempts: int = ATTEMPTS,
    in_doubt: bool = False,
    counters: Counters | None = None,
    sleep: Callable[[float], None] = time.sleep,
    jitter: Callable[[], float] = random.random,
) -> ClaimResult:
    """Claim `lsn` for the commit object `data`, whose header has `commit_hash`.

    One request if nothing goes wrong, two if somebody else was first; at most `attempts` requests
    that are not answered. The result is durable in the store. `in_doubt` says that an earlier call
    with these bytes may have written them. `counters` learns what happened. `jitter` gives numbers
    from 0 to 1.

    Raises CommitOutcomeUnknownError if a write may have landed and nothing tells; another
    StoreError only if no write of this call has landed or will.
    """
    run = _Claim(log, lsn, data, commit_hash, counters or Counters(), in_doubt=in_doubt)
    return run.run(attempts, sleep, jitter)


class _Claim:
    """One run of the protocol. Owner: `claim`; one thread."""

    def __init__(
        self,
        log: RemoteLog,
        lsn: RemoteLsn,
        data: bytes,
        commit_hash: bytes,
        counters: Counters,
        *,
        in_doubt: bool,
    ) -> None:
        self._log = log
        self._lsn = lsn
        self._data = data
        self._hash = commit_hash
        self._counters = counters
        self._in_doubt = in_doubt
        self._winner: CommitRecord | None = None
        self._problem: Exception | None = None

    def run(
        self, attempts: int, sleep: Callable[[float], None], jitter: Callable[[], float]
    ) -> ClaimResult:
        """Carry out steps until one of them ends the claim."""
        assert attempts >= 1
        failures = 0
        event = self._put()
        while True:
            action = next_step(event, attempts_left=max(0, attempts - 1 - failures))
            _logger.debug("claim of LSN %d of log %s: %s", self._lsn, self._log.log_id, event.value)
            if action is Action.REPORT_WON:
                self._counters.add("claims_won")
                return ClaimResult(None)
            if action is Action.REPORT_LOST:
                assert self._winner is not None
                self._counters.add("claims_lost")
                return ClaimResult(self._winner)
            if action is Action.GIVE_UP_UNKNOWN:
                self._counters.add("claims_unknown")
                raise self._unknown() from self._problem
            if action in _REPEATING:
                sleep(_pause_seconds(failures, jitter()))
                failures += 1
                self._counters.add("claim_retries")
            event = self._put() if action is Action.PUT_AGAIN else self._read()

    def _put(self) -> Event:
        """Write once. Raises StoreError if that did nothing and nothing is in doubt."""
        self._counters.add("claim_requests")
        try:
            outcome = self._log.store.put_if_absent(
                commit_key(self._log.log_id, self._lsn), self._data
            )
        except CommitOutcomeUnknownError as error:
            self._in_doubt, self._problem = True, error
            return Event.UNKNOWN
        except StoreError as error:
            if not self._in_doubt:
                raise
            self._problem = error
            return Event.NOT_SENT
        # A refusal may be the echo of our own write that something on the way sent twice, so from
        # here on only a commit that was read can tell.
        self._in_doubt = True
        return _EVENTS[outcome]

    def _read(self) -> Event:
        """Read what the key holds."""
        try:
            record = self._log.read_header(self._lsn)
        except (StoreError, DamageError) as error:
            # Damage can be a bit that flipped on the way here, and the commit our own.
            self._problem = error
            return Event.UNREADABLE
        if record is None:
            return Event.FOUND_NOTHING
        if record.header.hash == self._hash:
            return Event.FOUND_SAME
        self._winner = record
        return Event.FOUND_OTHER

    def _unknown(self) -> CommitOutcomeUnknownError:
        cause = f": {self._problem}" if self._problem is not None else ""
        return CommitOutcomeUnknownError(
            f"no answer tells whether this push has LSN {self._lsn} of log {self._log.log_id}"
            f"{cause}",
            next_step="push again; the attempt is kept and is asked for first",
        )


_EVENTS = {
    PutOutcome.CREATED: Event.CREATED,
    PutOutcome.EXISTS: Event.EXISTS,
    PutOutcome.RACING: Event.RACING,
}


def _pause_seconds(failures: int, jitter: float) -> float:
    """Return how long to wait: doubling, with half of it random so that rivals spread out."""
    pause: float = min(_PAUSE_SECONDS_MAX, _PAUSE_SECONDS * 2**failures)
    return pause * (0.5 + jitter / 2)
