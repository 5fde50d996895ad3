"""Policies, pins and children as objects, and what a policy keeps."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_hexdigest

from graft_vfs.errors import ConflictError, CorruptObjectError, DamageError, UsageError
from graft_vfs.remote.pins import (
    Child,
    Pin,
    children_prefix,
    pins_prefix,
    read_child,
    read_pin,
    register_child,
    write_pin,
)
from graft_vfs.remote.policy import (
    Policy,
    decode_policy,
    encode_policy,
    kept_by,
    policy_key,
    read_policy,
    write_policy,
)
from graft_vfs.store.memory import MemoryStore
from tests.format.commit_samples import LOG, OTHER_LOG
from tests.support.mutations import mutate

POLICY = Policy(last=3, within_seconds=86_400, hourly=1, daily=7, weekly=4, monthly=12, yearly=10)
HOUR_MS = 3_600_000
NOON = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)
NOON_MS = int(NOON.timestamp()) * 1000


def hours(*ages: float) -> list[tuple[int, int]]:
    """Commits of so many hours before noon, newest first."""
    return [(len(ages) - number, round(NOON_MS - age * HOUR_MS)) for number, age in enumerate(ages)]


def kept(policy: Policy, *ages: float) -> list[int]:
    return sorted(kept_by(policy, hours(*ages), NOON_MS))


def test_the_last_are_kept() -> None:
    assert kept(Policy(last=2), 1, 2, 3, 4) == [3, 4]
    assert kept(Policy(last=9), 1, 2) == [1, 2]


def test_what_is_young_enough_is_kept() -> None:
    assert kept(Policy(within_seconds=7200), 1, 2, 2.001) == [2, 3]


def test_of_each_period_the_newest_is_kept_for_as_many_as_have_a_commit() -> None:
    # 11:30, 11:10, 10:50, 7:00: of three hours.
    assert kept(Policy(hourly=2), 0.5, 0.9, 1.2, 5) == [2, 4]
    assert kept(Policy(hourly=3), 0.5, 0.9, 1.2, 5) == [1, 2, 4]
    # Sunday, Saturday, and a day without commits between.
    assert kept(Policy(daily=2), 1, 5, 13, 50) == [2, 4]
    assert kept(Policy(daily=3), 1, 5, 13, 50) == [1, 2, 4]
    assert kept(Policy(weekly=2), 24, 6 * 24, 7 * 24 + 11.9) == [1, 3]
    assert kept(Policy(monthly=2), 24, 28 * 24, 29 * 24) == [1, 3]
    assert kept(Policy(yearly=2), 24, 300 * 24, 340 * 24, 800 * 24) == [2, 4]


def test_each_reason_is_given() -> None:
    assert kept_by(Policy(last=1, daily=1), hours(1), NOON_MS) == {
        1: ["1 of the last 1", "the last of its day"]
    }


def test_a_policy_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="keeps nothing"):
        Policy()
    with pytest.raises(UsageError, match="counts from 0"):
        Policy(last=-1, daily=1)


def test_a_policy_is_written_and_replaced_as_it_was_read() -> None:
    store = MemoryStore()
    assert read_policy(store, LOG) is None
    write_policy(store, LOG, None, POLICY)
    assert read_policy(store, LOG) == POLICY
    other = Policy(last=1)
    with pytest.raises(ConflictError, match="changed meanwhile"):
        write_policy(store, LOG, other, Policy(last=2))
    with pytest.raises(ConflictError, match="changed meanwhile"):
        write_policy(store, LOG, None, other)
    write_policy(store, LOG, POLICY, other)
    assert read_policy(store, LOG) == other


def test_objects_of_another_log_and_copies_are_damage() -> None:
    store = MemoryStore()
    with pytest.raises(CorruptObjectError, match="belongs to log"):
        decode_policy(encode_policy(OTHER_LOG, POLICY), key="policy", log_id=LOG)
    pin, child = write_pin(store, LOG, 7), Child(LOG, 7, OTHER_LOG)
    register_child(store, child)
    assert read_pin(store, LOG, pin.key) == Pin(LOG, 7, pin.id)
    assert read_child(store, LOG, child.key) == replace(child, is_held=True)
    copies = {
        pins_prefix(LOG) + "copy": store.get(pin.key),
        children_prefix(LOG) + str(LOG): store.get(child.key),
    }
    for (key, content), read in zip(copies.items(), (read_pin, read_child), strict=True):
        store.put(key, [content])
        with pytest.raises(CorruptObjectError, match="copy"):
            read(store, LOG, key)


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False), st.booleans())
def test_any_bytes_are_a_policy_a_pin_and_a_child_or_the_declared_error(source, is_sealed) -> None:
    store = MemoryStore()
    pin, child = write_pin(store, LOG, 7), Child(LOG, 7, OTHER_LOG)
    register_child(store, child)
    for key, content, read in [
        (policy_key(LOG), encode_policy(LOG, POLICY), lambda _: read_policy(store, LOG)),
        (pin.key, store.get(pin.key), lambda key: read_pin(store, LOG, key)),
        (child.key, store.get(child.key), lambda key: read_child(store, LOG, key)),
    ]:
        changed = mutate(source, content)
        if is_sealed:
            body = mutate(source, content[:-17])
            changed = body + xxh3_64_hexdigest(body).encode() + b"\n"
        store.put(key, [changed])
        try:
            assert read(key) is not None
        except DamageError:
            continue
