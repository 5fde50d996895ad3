"""Tables on the remote: keys, listings, reading with few requests, writing once."""

from __future__ import annotations

import dataclasses
import logging

import pytest

from graft_vfs.errors import (
    CorruptObjectError,
    FutureVersionError,
    ObjectMissingError,
    StoreUnavailableError,
)
from graft_vfs.format.table import HEAD_BYTES, Run, decode_block
from graft_vfs.pages import LSN_MAX, NO_LSN, RemoteLsn
from graft_vfs.remote.log import descending
from graft_vfs.remote.tables import (
    TableName,
    list_tables,
    parse_table_key,
    read_table,
    table_key,
    tables_prefix,
    write_table,
)
from graft_vfs.store.base import PutOutcome, is_key
from graft_vfs.store.memory import MemoryStore
from tests.format.commit_samples import LOG, OTHER_LOG
from tests.format.table_samples import FACTS, encoded, source

ID = "0123456789abcdef"
SMALL: list[Run] = [(1, 3, source(49), 0)]
# The checksums alone are longer than the first read.
LARGE: list[Run] = [(1, 90_001, source(1, slots=90_000), 0)]
NAME = TableName(LOG, RemoteLsn(50), NO_LSN)


def named(lsn: int, after: int, suffix: str = "") -> TableName:
    return TableName(LOG, RemoteLsn(lsn), RemoteLsn(after), suffix)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def put(store: MemoryStore, *names: TableName, data: bytes = b"") -> None:
    for name in names:
        store.put(name.key, [data])


def test_a_key_has_both_lsns_and_reads_back() -> None:
    assert table_key(LOG, RemoteLsn(50), RemoteLsn(24)) == (
        f"logs/{LOG}/tables/ffffffffffffffcd-0000000000000018"
    )
    for name in (named(50, 24), named(1, 0, ID), named(LSN_MAX, LSN_MAX - 1)):
        assert is_key(name.key)
        assert parse_table_key(LOG, name.key) == name


@pytest.mark.parametrize(
    "end",
    [
        "README", ".DS_Store", descending(RemoteLsn(5)), f"{descending(RemoteLsn(5))}-3",
        f"{descending(RemoteLsn(5))}-{5:016x}", f"{descending(RemoteLsn(5))}-{3:016X}A",
        f"{descending(RemoteLsn(5))}-{3:016x}-", f"{descending(RemoteLsn(5))}-{3:016x}-12",
        f"{descending(RemoteLsn(5))}-{3:016x}-{0:016x}", f"{2**64 - 1:016x}-{0:016x}",
        f"{descending(RemoteLsn(5))}-{3:016x}\n",
    ],
)  # fmt: skip
def test_a_foreign_key_is_refused(end: str) -> None:
    with pytest.raises(CorruptObjectError, match="foreign"):
        parse_table_key(LOG, tables_prefix(LOG) + end)


def test_tables_are_listed_from_the_newest_with_one_request(store: MemoryStore) -> None:
    names = [named(72, 0), named(72, 48), named(48, 24), named(48, 24, ID), named(24, 0)]
    put(store, *reversed(names))
    put(store, dataclasses.replace(names[0], log_id=OTHER_LOG))
    before = store.counters.snapshot().requests
    assert list_tables(store, LOG, limit=9) == names
    assert list_tables(store, LOG, limit=2) == names[:2]
    assert list_tables(store, LOG, upto=RemoteLsn(71), limit=9) == names[2:]
    assert list_tables(store, LOG, upto=RemoteLsn(48), limit=1) == names[2:3]
    assert list_tables(store, LOG, upto=RemoteLsn(23), limit=9) == []
    assert store.counters.snapshot().requests - before == 5


def test_foreign_objects_are_skipped_with_one_warning(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    names = [named(72, 48), named(48, 24), named(24, 0)]
    put(store, *names)
    for end in ("README", "0", "1", "ffffffffffffffcz"):
        store.put(tables_prefix(LOG) + end, [b"x"])
    with caplog.at_level(logging.WARNING):
        assert list_tables(store, LOG, limit=2) == names[:2]
        assert list_tables(store, LOG, limit=9) == names
    assert len(caplog.records) == 2
    assert "not a table" in caplog.text


def test_a_store_without_listings_has_no_listed_tables(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, NAME)
    monkeypatch.setattr(store, "can_list", False)
    assert list_tables(store, LOG, limit=9) == []


def test_a_small_table_is_read_whole_with_one_request(store: MemoryStore) -> None:
    data = encoded(SMALL)
    put(store, NAME, data=data)
    before = store.counters.snapshot().requests
    found = read_table(store, NAME, whole=0)
    assert (found.name, found.head.facts, found.data) == (NAME, FACTS, data)
    assert store.counters.snapshot().requests - before == 1


def test_a_large_table_is_read_whole_only_if_asked_for(store: MemoryStore) -> None:
    data = encoded(LARGE)
    assert len(data) > HEAD_BYTES
    put(store, NAME, data=data)
    before = store.counters.snapshot().requests
    assert read_table(store, NAME, whole=len(data) - 1).data == data[:HEAD_BYTES]
    assert store.counters.snapshot().requests - before == 1
    found = read_table(store, NAME, whole=len(data))
    assert found.data == data
    assert store.counters.snapshot().requests - before == 3
    block = found.head.root[-1]
    assert decode_block(data[block.offset :], block, key=NAME.key)


@pytest.mark.parametrize("name", [named(51, 0), named(50, 1)])
def test_a_table_under_another_key_is_refused(store: MemoryStore, name: TableName) -> None:
    put(store, name, data=encoded(SMALL))
    with pytest.raises(CorruptObjectError, match="contains the table of LSN 1 to 50"):
        read_table(store, name, whole=0)


def test_a_truncated_extended_later_or_missing_table_is_refused(store: MemoryStore) -> None:
    for runs in (SMALL, LARGE):
        data = encoded(runs)
        for changed in (data[:-1], data + b"x") if runs is SMALL else (data[:-1],):
            put(store, NAME, data=changed)
            with pytest.raises(CorruptObjectError, match="instead of"):
                read_table(store, NAME, whole=1 << 30)
    put(store, NAME, data=data[:8] + b"\2\0" + data[10:])
    with pytest.raises(FutureVersionError):
        read_table(store, NAME, whole=0)
    with pytest.raises(ObjectMissingError):
        read_table(store, named(50, 1), whole=0)


def test_a_table_is_written_once(store: MemoryStore) -> None:
    before = store.counters.snapshot().requests
    assert write_table(store, NAME, b"ours")
    assert not write_table(store, NAME, b"theirs")
    assert store.counters.snapshot().requests - before == 2
    assert store.get(NAME.key) == b"ours"


def test_a_race_is_an_error_that_a_later_push_mends(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "put_if_absent", lambda *_: PutOutcome.RACING)
    with pytest.raises(StoreUnavailableError, match=r"tables.*next push"):
        write_table(store, NAME, b"ours")
