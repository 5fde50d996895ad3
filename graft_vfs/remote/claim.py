"""Claims a remote LSN: one conditional write, and a rule for each answer.

    CREATED             it is ours
    EXISTS, RACING      read the commit at the key
      the same hash     it is ours: this or an earlier write of these bytes landed
      another hash      it is lost
      nothing           write the same bytes again
      not readable      read again
    no answer           write the same bytes again; the new answer replaces the lost one
    an answer without   read the commit at the key
      a proof
    certainly not sent  like no answer if an earlier write may have landed, else an error
    refused for good    read the key if an earlier write may have landed, else an error; if the key
                        is absent, the outcome stays unknown

If an earlier call may have sent the claim, this call begins by reading, so that a machine that may
no longer write can still find the outcome. Throttling is waited out for about a minute. A store
that does not answer is retried until the time limit of a verb.

The rules are in `next_step`, a function of one event; `claim` only carries them out.

In a log with retention, the outcome is what the key says, and not always the truth: the caller has
`belief` judge it.

Invariants:
 1. A claim is reported won only after its own CREATED, or after the same hash was read at the key.
 2. A claim is reported lost only after another hash was read at the key. An absent key proves
    nothing: a write in flight may still arrive.
 3. Once a write may have landed, anything but 1 or 2 is a CommitOutcomeUnknownError.

After a crash, the caller's pending record has the same bytes and hash, and calling `claim` with
them again gives the result that this call would have given. The caller makes the record durable
before the first call. It removes the record when `claim` returns, or when the first call for this
record raises a StoreError other than CommitOutcomeUnknownError.
"""

from __future__ import annotations

import enum
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from graft_vfs.backoff import backoff
from graft_vfs.counters import Counters
from graft_vfs.errors import (
    CommitOutcomeUnknownError,
    DamageError,
    StoreError,
    StoreUnavailableError,
)
from graft_vfs.pages import RemoteLsn
from graft_vfs.remote.commit_reader import CommitRecord, read_answer
from graft_vfs.remote.log import RemoteLog, commit_key
from graft_vfs.store.base import PutOutcome
from graft_vfs.store.dates import Answered, answered

_logger = logging.getLogger(__name__)

ATTEMPTS = 6
_PAUSE_SECONDS = 0.1
_PAUSE_SECONDS_MAX = 5.0
_THROTTLED_SECONDS_MAX = 60.0
"""How long a claim waits for throttling in total."""


class Event(enum.Enum):
    """The result of one request."""

    CREATED = "the write created the key"
    EXISTS = "the write was refused because the key exists"
    RACING = "the write was refused because another one was in progress"
    UNKNOWN = "the write got no answer"
    UNPROVEN = "the write got an answer that does not prove that it landed"
    NOT_SENT = "the write certainly did not land, but an earlier one may have"
    REFUSED = "the write was refused for good, but an earlier one may have landed"
    FOUND_SAME = "the key has a commit with our hash"
    FOUND_OTHER = "the key has a commit with another hash"
    FOUND_NOTHING = "the key is absent"
    STUCK = "the key is absent and we may not write it, or the store throttles the read"
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
    Event.UNPROVEN: Action.READ_BACK,
    Event.NOT_SENT: Action.PUT_AGAIN,
    Event.REFUSED: Action.READ_BACK,
    Event.STUCK: Action.GIVE_UP_UNKNOWN,
    Event.FOUND_NOTHING: Action.PUT_AGAIN,
    Event.UNREADABLE: Action.READ_AGAIN,
}
_REPEATING = frozenset({Action.PUT_AGAIN, Action.READ_AGAIN})


def next_step(event: Event, *, attempts_left: int) -> Action:
    """Return the next step after an event; repeating a request needs a remaining attempt."""
    action = _NEXT_STEPS[event]
    if action in _REPEATING and attempts_left == 0:
        return Action.GIVE_UP_UNKNOWN
    return action


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """The outcome of a claim. `winner` is the commit that has the LSN, None if it is ours.

    `answered` is when the store gave the answer that decided, `is_created` whether that was the
    answer to a write.
    """

    winner: CommitRecord | None
    answered: Answered
    is_created: bool = False

    @property
    def won(self) -> bool:
        """Return True if the LSN is ours."""
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

    One request in the normal case, two if another client was first; at most `attempts` unanswered
    requests, and more while the store throttles. The result is durable in the store. `in_doubt`
    means that an earlier call may have written these bytes: then the key is read first, and written
    only if it is absent. `counters` counts the events. `jitter` returns numbers from 0 to 1.

    Raises CommitOutcomeUnknownError if a write may have landed and nothing proves the outcome;
    another StoreError only if no write of this call has landed or will land.
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
        self._key = commit_key(log.log_id, lsn)
        self._answered = Answered(self._key)
        self._winner: CommitRecord | None = None
        self._problem: Exception | None = None
        self._is_refused = False
        self._throttled: float | None = None
        self._late_share = 0.0

    def run(
        self, attempts: int, sleep: Callable[[float], None], jitter: Callable[[], float]
    ) -> ClaimResult:
        """Run steps until one of them ends the claim."""
        assert attempts >= 1
        failures, throttles, waited = 0, 0, 0.0
        event = self._read() if self._in_doubt else Event.FOUND_NOTHING
        if event is Event.FOUND_NOTHING:
            event = self._put()
        while True:
            action = next_step(event, attempts_left=max(0, attempts - 1 - failures))
            # Half of it random, so that rivals spread out.
            pause = backoff(_PAUSE_SECONDS, failures, _PAUSE_SECONDS_MAX, jitter())
            if action in _REPEATING and self._late_share >= 1.0:
                action = Action.GIVE_UP_UNKNOWN
            is_throttled = self._throttled is not None and action in _REPEATING
            if is_throttled:
                pause = max(self._throttled or 0.0, backoff(1.0, throttles, 8.0, jitter()))
                if waited + pause > _THROTTLED_SECONDS_MAX:
                    action = Action.GIVE_UP_UNKNOWN
            _logger.debug("claim of LSN %d of log %s: %s", self._lsn, self._log.log_id, event.value)
            if action is Action.REPORT_WON:
                self._counters.add("claims_won")
                return ClaimResult(None, self._answered, event is Event.CREATED)
            if action is Action.REPORT_LOST:
                assert self._winner is not None
                self._counters.add("claims_lost")
                return ClaimResult(self._winner, self._answered)
            if action is Action.GIVE_UP_UNKNOWN:
                self._counters.add("claims_unknown")
                raise self._unknown() from self._problem
            if action in _REPEATING:
                sleep(pause)
                failures, throttles = failures + (not is_throttled), throttles + is_throttled
                waited += pause if is_throttled else 0.0
                self._counters.add("claim_retries")
            event = self._put() if action is Action.PUT_AGAIN else self._read()

    def _put(self) -> Event:
        """Write once. Raises StoreError if it had no effect and nothing is in doubt."""
        self._counters.add("claim_requests")
        self._throttled = None
        try:
            with answered(self._key) as self._answered:
                outcome = self._log.store.put_if_absent(self._key, self._data)
        except CommitOutcomeUnknownError as error:
            self._in_doubt, self._problem = True, error
            self._throttled = error.retry_after_seconds
            self._late_share += error.late_share
            return Event.UNPROVEN if error.was_answered else Event.UNKNOWN
        except StoreError as error:
            if not self._in_doubt:
                raise
            self._problem = error
            if isinstance(error, StoreUnavailableError):
                return Event.NOT_SENT
            self._is_refused = True
            return Event.REFUSED
        # The refusal may be caused by our own write, which a proxy sent twice. From now on, only
        # reading the key decides.
        self._in_doubt = True
        return _EVENTS[outcome]

    def _read(self) -> Event:
        """Read the key; the store waits out throttling itself."""
        self._throttled = None
        try:
            _, record, self._answered = read_answer(self._log.store, self._log.place(self._lsn))
        except (StoreError, DamageError) as error:
            # The damage may have happened in transit, and the commit may be ours.
            self._problem = error
            if isinstance(error, StoreUnavailableError) and error.retry_after_seconds is not None:
                return Event.STUCK  # The store has waited out throttling up to its limit.
            if isinstance(error, StoreUnavailableError) and error.was_late:
                self._late_share = 1.0  # The store was retried up to a verb's time limit.
            return Event.UNREADABLE
        if record is None:
            return Event.STUCK if self._is_refused else Event.FOUND_NOTHING
        if record.header.hash == self._hash:
            return Event.FOUND_SAME
        self._winner = record
        return Event.FOUND_OTHER

    def _unknown(self) -> CommitOutcomeUnknownError:
        cause = f": {self._problem}" if self._problem is not None else ""
        return CommitOutcomeUnknownError(
            f"no answer proves whether this push has LSN {self._lsn} of log {self._log.log_id}"
            f"{cause}",
            next_step="push again; this push is recorded and is settled first",
        )


_EVENTS = {
    PutOutcome.CREATED: Event.CREATED,
    PutOutcome.EXISTS: Event.EXISTS,
    PutOutcome.RACING: Event.RACING,
}
