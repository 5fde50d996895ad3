"""Finds out whether a store refuses to create a key twice, before anything relies on it.

Some S3 gateways take the condition of a create-only write and ignore it, in silence: every writer
would win every claim, and commits would be lost. So the first push to a remote creates a probe key
twice; the second must be refused.

A crash or Ctrl-C between the steps leaves one small object under `probe/`, which nothing reads.
"""

from __future__ import annotations

import logging
import secrets
import time

from graft_vfs.errors import (
    CommitOutcomeUnknownError,
    GraftError,
    StoreError,
    StoreUnavailableError,
    UnsafeStoreError,
)
from graft_vfs.store.base import ObjectStore, PutOutcome

_log = logging.getLogger(__name__)

PROBE_PREFIX = "probe/"
_TRIES_MAX = 5
_PAUSE_SECONDS = 0.1


def check_conditional_writes(store: ObjectStore) -> None:
    """Return if the store refuses to create a key that exists. Three requests.

    Raises:
        UnsafeStoreError: the store created one key twice, or knows no conditions.
        StoreUnavailableError: the store gave no clear answer.
        StoreError: the store refused for another reason.
    """
    key = f"{PROBE_PREFIX}{secrets.token_hex(16)}"
    try:
        # The bytes differ: a store that compares contents must not look safe.
        first = _settled(store, key, b"first")
        second = _settled(store, key, b"second")
    except GraftError:
        _remove(store, key)
        raise
    _remove(store, key)
    if first is not PutOutcome.CREATED or second is not PutOutcome.EXISTS:
        raise UnsafeStoreError(
            f"{store.describe()} answered '{first.value}' and then '{second.value}' when one key"
            " was created twice, so pushing to it could lose commits",
            next_step="use a store that honours 'If-None-Match: *' (Amazon S3 does)",
        )


def _settled(store: ObjectStore, key: str, data: bytes) -> PutOutcome:
    """Create the key, trying again while the store reports a race."""
    for number in range(_TRIES_MAX):
        try:
            outcome = store.put_if_absent(key, data)
        except CommitOutcomeUnknownError as error:
            # Nothing was claimed here, so the declared error must not speak of a claim.
            raise StoreUnavailableError(
                f"{store.describe()} did not answer a test write", next_step="try again later"
            ) from error
        if outcome is not PutOutcome.RACING:
            return outcome
        time.sleep(_PAUSE_SECONDS * number)
    raise StoreUnavailableError(
        f"{store.describe()} reports a race for a key that nobody else knows",
        next_step="try again later",
    )


def _remove(store: ObjectStore, key: str) -> None:
    """Delete the probe key if the store lets us."""
    try:
        store.delete(key)
    except StoreError as error:
        # A writer needs no permission to delete, and the leftover harms nobody, so that this must
        # neither fail the probe nor hide its result.
        _log.debug("the probe key %s stays in %s: %s", key, store.describe(), error)
