"""Floors and rolls: written once or raised, read back, and refused by name if they are not ours."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft_vfs.errors import ConflictError, CorruptObjectError, DamageError, FutureVersionError
from graft_vfs.pages import LSN_MAX
from graft_vfs.remote import rolls
from graft_vfs.remote.floor import (
    Floor,
    decode_floor,
    floor_key,
    raise_floor,
    read_floor,
)
from graft_vfs.remote.rolls import Roll, create_roll, decode_roll, find_roll, roll_key, rolls_prefix
from graft_vfs.store.memory import MemoryStore
from tests.format.commit_samples import LOG, OTHER_LOG
from tests.support.mutations import mutate

KEY = floor_key(LOG)
GRACE = 86_400


def hashes(first: int, last: int) -> bytes:
    return b"".join(lsn.to_bytes(32, "big") for lsn in range(first, last + 1))


# Floors -------------------------------------------------------------------------------------------


def test_a_floor_is_raised_and_read_with_one_request() -> None:
    store = MemoryStore()
    assert read_floor(store, LOG) == Floor(LOG)
    low, high = Floor(LOG, 7, GRACE), Floor(LOG, 9, 3600)
    raise_floor(store, Floor(LOG), low)
    assert read_floor(store, LOG) == low
    raise_floor(store, low, high)
    assert read_floor(store, LOG) == high
    counts = store.counters.snapshot()
    assert (counts.get_range, counts.put_if_absent, counts.get, counts.put) == (3, 1, 1, 1)


def test_a_collector_that_was_overtaken_is_told_and_the_floor_does_not_fall() -> None:
    store = MemoryStore()
    raise_floor(store, Floor(LOG), Floor(LOG, 7, GRACE))
    for old, new in [
        (Floor(LOG), Floor(LOG, 5, GRACE)),
        (Floor(LOG, 4, GRACE), Floor(LOG, 6, GRACE)),
        (Floor(LOG, 4, 3600), Floor(LOG, 6, 3600)),
    ]:
        with pytest.raises(ConflictError, match="another collector"):
            raise_floor(store, old, new)
    assert read_floor(store, LOG).lsn == 7
    raise_floor(store, Floor(LOG, 4, GRACE), Floor(LOG, 7, GRACE))


@pytest.mark.parametrize("lsn", [1, 10, LSN_MAX])
def test_a_floor_reads_back(lsn: int) -> None:
    floor = Floor(LOG, lsn, 3600)
    assert decode_floor(floor.encode(), key=KEY, log_id=LOG) == floor


def test_what_is_no_floor_is_refused() -> None:
    content = Floor(LOG, 7, GRACE).encode()
    for data, error, text in [
        (b"GRAFTCMT", CorruptObjectError, "not a floor"),
        (content.replace(b"floor 1", b"floor 2"), FutureVersionError, "upgrade"),
        (content.replace(b"7", b"8", 1), CorruptObjectError, "checksum|log"),
        (content[:-1], CorruptObjectError, "lines"),
        (content + b"\n", CorruptObjectError, "lines"),
        (content + b" " * 1024, CorruptObjectError, "lines"),
    ]:
        with pytest.raises(error, match=text):
            decode_floor(data, key=KEY, log_id=LOG)
    with pytest.raises(CorruptObjectError, match="belongs to log"):
        decode_floor(content, key=KEY, log_id=OTHER_LOG)


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_bytes_are_a_floor_or_the_declared_error(source) -> None:
    data = mutate(source, Floor(LOG, 7, GRACE).encode())
    try:
        found = decode_floor(data, key=KEY, log_id=LOG)
    except DamageError:
        return
    assert found.encode() == data


# Rolls --------------------------------------------------------------------------------------------


def test_a_closed_lsn_is_found_in_its_roll() -> None:
    store = MemoryStore()
    for first, last in [(2, 2), (3, 9), (10, 300)]:
        roll = Roll(LOG, first, hashes(first, last))
        assert create_roll(store, roll) == roll
    store.put(rolls_prefix(LOG) + "README", [b"foreign"])
    before = store.counters.snapshot()
    for lsn in (2, 3, 9, 10, 300):
        found = find_roll(store, LOG, lsn)
        assert found is not None
        assert found.first <= lsn <= found.last
        assert found.hash_of(lsn) == lsn.to_bytes(32, "big")
    counts = store.counters.snapshot() - before
    assert (counts.list, counts.get) == (5, 5)
    assert find_roll(store, LOG, 1) is find_roll(store, LOG, 301) is find_roll(store, LOG, LSN_MAX)
    assert find_roll(store, OTHER_LOG, 3) is None
    store.can_list = False
    assert find_roll(store, LOG, 3) is None


def test_the_roll_that_is_there_stays() -> None:
    store = MemoryStore()
    first = create_roll(store, Roll(LOG, 2, hashes(2, 5)))
    assert create_roll(store, Roll(LOG, 2, hashes(2, 9))) == first
    assert find_roll(store, LOG, 9) is None


def test_a_roll_under_another_key_is_damage() -> None:
    store = MemoryStore()
    store.put(roll_key(LOG, 3), [Roll(LOG, 2, hashes(2, 5)).encode()])
    with pytest.raises(CorruptObjectError, match="is the roll of LSN 2"):
        find_roll(store, LOG, 4)


def test_what_is_no_roll_is_refused() -> None:
    content = Roll(LOG, 2, hashes(2, 3)).encode()
    for data, error, text in [
        (b"GRAFTCMT" * 9, CorruptObjectError, "not a roll"),
        (content[:8] + b"\2" + content[9:], FutureVersionError, "upgrade"),
        (content[:-1], CorruptObjectError, "checksum"),
        (content[:60] + b"\xff" + content[61:], CorruptObjectError, "checksum"),
    ]:
        with pytest.raises(error, match=text):
            decode_roll(data, key="roll")


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False), st.booleans())
def test_any_bytes_are_a_roll_or_the_declared_error(source, is_sealed: bool) -> None:
    data = mutate(source, Roll(LOG, 2, hashes(2, 3)).encode())
    if is_sealed:
        data = data[:-8] + rolls._CHECKSUM.pack(rolls.xxh3_64_intdigest(data[:-8]))
    try:
        found = decode_roll(data, key="roll")
    except DamageError:
        return
    assert found.encode() == data
    assert 1 <= found.first <= found.last <= LSN_MAX
