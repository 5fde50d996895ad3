"""The fields of page 1, as SQLite itself writes and reads them."""

from __future__ import annotations

import apsw
import pytest

from graft_vfs.pages import PAGE_SIZES
from graft_vfs.sqlite_format import header
from graft_vfs.sqlite_format.header import FirstPage


def first_page(tmp_path, *statements: str, page_size: int = 4096) -> bytes:
    path = tmp_path / "plain.db"
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA page_size={page_size}")
    for statement in statements:
        connection.execute(statement).fetchall()
    connection.close()
    return path.read_bytes()[:page_size]


def number(page: bytes, field: slice) -> int:
    return int.from_bytes(page[field], "big")


def test_fields_are_where_sqlite_writes_them(tmp_path):
    page = first_page(
        tmp_path,
        "PRAGMA auto_vacuum=INCREMENTAL",
        "PRAGMA encoding='UTF-16be'",
        "CREATE TABLE t(v)",
        "INSERT INTO t VALUES(zeroblob(20000))",
        "DELETE FROM t",
        "PRAGMA schema_version=77",
    )
    database = apsw.Connection(str(tmp_path / "plain.db"))
    assert page[header.MAGIC] == header.MAGIC_VALUE
    assert page[header.PAGE_FORMAT] == header.page_format(4096)
    assert page[header.JOURNAL_MODES] == header.ROLLBACK_JOURNAL
    assert page[header.RESERVED_BYTES] == database.reserve_bytes()
    assert page[header.PAYLOAD_FRACTIONS] == header.PAYLOAD_FRACTIONS_VALUE
    assert number(page, header.CHANGE_COUNTER) == number(page, header.VERSION_VALID_FOR)
    assert number(page, header.CHANGE_COUNTER) < 10
    assert number(page, header.PAGE_COUNT) == database.pragma("page_count")
    assert 2 < number(page, header.FIRST_FREELIST_TRUNK) <= database.pragma("page_count")
    assert number(page, header.SCHEMA_COOKIE) == database.pragma("schema_version") == 77
    assert number(page, header.SCHEMA_FORMAT) == 4
    assert number(page, header.LARGEST_ROOT) == 3
    assert number(page, header.TEXT_ENCODING) == 3
    database.close()


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_every_page_size_is_read_and_kept(tmp_path, page_size):
    page = first_page(tmp_path, "CREATE TABLE t(v)", page_size=page_size)
    assert header.claimed_page_size(page) == page_size
    assert header.with_page_format(page, page_size) == page
    wal = first_page(tmp_path, "PRAGMA journal_mode=WAL", page_size=page_size)
    assert wal[header.JOURNAL_MODES] == b"\2\2"
    kept = header.with_page_format(wal, page_size)
    assert kept[header.PAGE_FORMAT] == header.page_format(page_size)
    assert kept[:16] + kept[20:] == wal[:16] + wal[20:]


def test_sqlite_sees_another_counter_and_uses_the_page_count(tmp_path):
    page = first_page(tmp_path, "CREATE TABLE t(v)", "PRAGMA user_version=5")
    shown = header.with_counter(page, header.COUNTER_MAX)
    assert number(shown, header.CHANGE_COUNTER) == header.COUNTER_MAX
    path = tmp_path / "plain.db"
    data = path.read_bytes()
    path.write_bytes(shown + data[4096:] + bytes(4096))
    database = apsw.Connection(str(path))
    assert database.pragma("page_count") == 2
    assert database.pragma("user_version") == 5
    assert database.pragma("integrity_check") == "ok"
    database.close()


def test_page_1_is_equal_except_for_its_two_counters(tmp_path):
    page = first_page(tmp_path, "CREATE TABLE t(v)")
    known = FirstPage(page)
    assert page[header.PROBED] == page[header.CHANGE_COUNTER] + known.probed
    assert known.is_same(header.with_counter(page, 1_000_000))
    free = {*range(24, 28), *range(92, 96)}
    for at in range(len(page)):
        other = bytearray(page)
        other[at] ^= 1
        assert known.is_same(bytes(other)) == (at in free)
