"""Tests whether a store refuses to create a key twice, before anything relies on it.

Some S3 gateways accept the condition of a create-only write and silently ignore it: every writer
would win every claim, and commits would be lost. So before the first push to a remote, a client
creates a permanent key, shared by all clients, with the same kind of request as a commit:

    refused                    the store honours the condition; every client after the first
                               needs one request
    created, and then created  the store ignores it: nothing removes that key, and each response
                               proved that the store wrote these bytes
    anything else              retried: a lost response and a single creation prove nothing; a
                               silent store gets the same total timeout as for any verb
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable

from graft_vfs.backoff import backoff
from graft_vfs.errors import (
    CommitOutcomeUnknownError,
    StoreUnavailableError,
    UnsafeStoreError,
)
from graft_vfs.store.base import ObjectStore, PutOutcome

_logger = logging.getLogger(__name__)

PROBE_KEY = "probe/create-only"
_TRIES_MAX = 8
_PAUSE_SECONDS = 0.1
_PAUSE_SECONDS_MAX = 8.0


def check_conditional_writes(
    store: ObjectStore, *, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Return if the store refuses to create an existing key. One request, two for the first.

    Raises:
        UnsafeStoreError: the store created a key twice, or does not support conditions.
        StoreUnavailableError: the store gave no clear answer.
        StoreError: the store refused for another reason.
    """
    was_created = False
    problem: CommitOutcomeUnknownError | None = None
    tries, late = 0, 0.0
    for number in range(_TRIES_MAX):
        if number and not was_created:
            waits = (problem.retry_after_seconds or 0.0) if problem is not None else 0.0
            sleep(max(waits, backoff(_PAUSE_SECONDS, number, _PAUSE_SECONDS_MAX)))
        problem, tries = None, number + 1
        try:
            # The bytes differ each time, so that a delayed response to an earlier request does not
            # count, and a store that compares contents does not seem safe.
            outcome = store.put_if_absent(PROBE_KEY, b"graft-vfs probe %s" % _token())
        except CommitOutcomeUnknownError as error:
            _logger.debug("the probe of %s got no clear answer: %s", store.describe(), error)
            was_created, problem = False, error
            late += error.late_share
            if late >= 1.0:
                break
            continue
        if outcome is PutOutcome.EXISTS:
            return
        if outcome is PutOutcome.CREATED and was_created:
            raise UnsafeStoreError(
                f"{store.describe()} created {PROBE_KEY!r} twice in a row although it existed, so"
                " pushing to it could lose commits",
                next_step="use a store that honours 'If-None-Match: *' (Amazon S3 does)",
            )
        was_created = outcome is PutOutcome.CREATED
    # Nothing was claimed, so the error must not mention a claim.
    raise StoreUnavailableError(
        f"{store.describe()} gave no clear answer to {tries} test writes of {PROBE_KEY!r}"
        + (f", the last time: {problem.message}" if problem is not None else ""),
        next_step="try again later",
    ) from problem


def _token() -> bytes:
    return secrets.token_hex(16).encode()
