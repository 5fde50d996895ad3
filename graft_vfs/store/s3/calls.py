"""Calls of boto3: run, timed, translated, and retried if that is safe.

An attempt is one request. boto3 itself never retries, so each attempt is counted, its exchange is
known, and a lost answer is reported as lost. Attempts without an answer, and those that failed or
were throttled, are retried; throttling is waited out within the verb's time limit.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
from collections.abc import Callable, Iterator
from typing import TypeVar

from graft_vfs.backoff import backoff
from graft_vfs.errors import (
    CommitOutcomeUnknownError,
    GraftError,
    StoreDeniedError,
    StoreUnavailableError,
)
from graft_vfs.reentry import occupied
from graft_vfs.store.base import StoreCounters, Verb
from graft_vfs.store.dates import note_headers
from graft_vfs.store.s3.answers import (
    Failure,
    Reply,
    answer_error,
    classify_failure,
    failure_error,
    unsigned_error,
)
from graft_vfs.store.s3.exchange import (
    Budget,
    Clock,
    Exchange,
    Group,
    InterruptedExchangeError,
    Limits,
    carried_out,
)

_logger = logging.getLogger("graft_vfs.store.s3")

_PAUSE_SECONDS = 0.1
_THROTTLED_PAUSE_SECONDS = 1.0
_PAUSE_SECONDS_MAX = 8.0

T = TypeVar("T")


class Caller:
    """Runs the attempts of one store. Owner: the store. Thread rule: any thread."""

    def __init__(
        self,
        store: str,
        limits: Limits,
        counters: StoreCounters,
        *,
        attempts_max: int,
        clock: Clock,
        is_unsigned: bool = False,
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.is_unsigned = is_unsigned
        self._store = store
        self._counters = counters
        self._attempts_max = attempts_max

    def once(self, verb: Verb, key: str, attempt: Callable[[], T]) -> T:
        """Run one attempt; boto3's exceptions become declared errors."""
        exchange = Exchange(self.limits, self._budget())
        with (
            occupied(),
            carried_out(exchange),
            _noted(key, exchange),
            self._translated(verb, key, exchange),
        ):
            return attempt()

    def repeat(
        self,
        verb: Verb,
        key: str,
        attempt: Callable[[], T],
        *,
        group: Group | None = None,
        budget: Budget | None = None,
    ) -> T:
        """Run attempts until one gets an answer; `group` can cancel them from another thread."""
        budget = budget or self._budget()
        for number in itertools.count(1):
            exchange = Exchange(self.limits, budget)
            try:
                with (
                    # urllib3's pool of connections has a lock, which the thread that fetches for a
                    # handler would wait for.
                    occupied(),
                    carried_out(exchange),
                    group.joined(exchange) if group is not None else contextlib.nullcontext(),
                    _noted(key, exchange),
                    self._translated(verb, key, exchange),
                ):
                    return attempt()
            except StoreUnavailableError as error:
                pause = self._pause_before(number + 1, error, budget)
                if pause is None or (group is not None and group.cancelled.is_set()):
                    raise
                _logger.debug("retrying %s of %r in %.1f s: %s", verb, key, pause, error)
            self.clock.pause(pause, group.cancelled if group is not None else None)
            self._counters.add_retry()
        raise AssertionError  # pragma: no cover - the loop has no end of its own

    def _budget(self) -> Budget:
        return Budget(self.clock, self.limits.total_seconds)

    def _pause_before(
        self, number: int, error: StoreUnavailableError, budget: Budget
    ) -> float | None:
        """Return how long to wait before attempt `number`, None to give up.

        Throttling is waited out for any number of attempts; half of each pause is random. A silent
        store is not asked again once the verb's time is over.
        """
        # Chance, not a secret.
        repeated, jitter = number - 2, random.random()  # noqa: S311
        if error.retry_after_seconds is not None:
            pause = backoff(_THROTTLED_PAUSE_SECONDS, repeated, _PAUSE_SECONDS_MAX, jitter)
            pause = max(error.retry_after_seconds, pause)
            return pause if budget.allows(pause) else None
        pause = backoff(_PAUSE_SECONDS, repeated, _PAUSE_SECONDS_MAX, jitter)
        if number > self._attempts_max:
            return None
        return pause if budget.allows(pause) or not error.was_late else None

    @contextlib.contextmanager
    def _translated(self, verb: Verb, key: str, exchange: Exchange) -> Iterator[None]:
        """Convert boto3's exceptions in the block to declared errors."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
        from botocore.parsers import ResponseParserError  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        try:
            yield
        except ClientError as error:
            reply = Reply.of(error.response)
            _logger.debug("%s of %r: %s", verb, key, reply.shown)
            declared = answer_error(self._store, reply, verb, key)
            if self.is_unsigned and isinstance(declared, StoreDeniedError):
                declared = unsigned_error(declared)
            # Without the cause, which contains the server's text.
            raise declared from None
        except (
            BotoCoreError,
            ResponseParserError,
            HTTPError,
            ValueError,
            TimeoutError,
            InterruptedExchangeError,
        ) as error:
            # boto3 also raises ValueError, for headers with malformed dates or numbers.
            _logger.debug("%s of %r: %s", verb, key, type(error).__name__)
            failure = classify_failure(error, is_unsent=exchange.is_provably_unsent)
            # A credential process's error is also hidden: its text may contain credentials.
            is_foreign = failure is Failure.DENIED or isinstance(error, ValueError)
            cause = None if is_foreign else _first_cause(error)
            declared = failure_error(self._store, error, failure, verb, key)
            if isinstance(declared, CommitOutcomeUnknownError) and failure is Failure.TIMED_OUT:
                declared.late_share = exchange.budget.spent_share()
            raise declared from cause


@contextlib.contextmanager
def _noted(key: str, exchange: Exchange) -> Iterator[None]:
    """Note when the store answered, whatever it did."""
    try:
        yield
    finally:
        note_headers(key, exchange.headers)


def _first_cause(error: BaseException) -> BaseException:
    """Return the error that `error` began with, without the lines of the libraries in between.

    boto3 wraps what urllib3 wraps: a refused connection would be shown as four errors in 148 lines.
    """
    while True:
        inner = error.__cause__ or error.__context__
        if inner is None or isinstance(inner, GraftError):
            return error.with_traceback(None)
        error = inner
