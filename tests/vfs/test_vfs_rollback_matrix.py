"""Rollbacks larger than the cache: the same steps on a volume and on stock SQLite.

The matrix is page sizes by locking modes by journal modes by change counters. SQLite's journal
holds a checksum of a few bytes of each page; in page 1 of 1024 bytes, the first byte of the change
counter is one of them.
"""

from __future__ import annotations

import itertools
import random

import apsw
import pytest

import graft_vfs
from graft_vfs.pager import journal
from graft_vfs.sync import clone
from tests.support.sql import content, is_sound, stock

PAGE_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
LOCKING_MODES = ("normal", "exclusive")
JOURNAL_MODES = ("delete", "truncate", "persist", "memory")
COUNTERS = (0, 2**24 - 3, 2**31, 2**32 - 3)
FULL = tuple(itertools.product(PAGE_SIZES, LOCKING_MODES, JOURNAL_MODES, COUNTERS))
SENSITIVE = tuple(case for case in FULL if case[:2] == (1024, "exclusive") and case[3])
SAMPLE = (*SENSITIVE, *random.Random(2).sample([case for case in FULL if case[0] != 1024], 8))

ROWS = 60
FILL = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"


def work(connection, page_size, locking_mode, journal_mode):
    """Yield what can be seen after each rollback, and after what is committed on top of it."""
    connection.pragma("page_size", page_size)
    connection.pragma("locking_mode", locking_mode)
    connection.pragma("journal_mode", journal_mode)
    connection.pragma("cache_size", 3)
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, data)")
    connection.execute(f"{FILL} INSERT INTO t SELECT i, zeroblob(?) FROM n", (ROWS, page_size // 2))
    for turn in range(5):
        connection.execute("BEGIN; CREATE TABLE gone(x); INSERT INTO gone VALUES(1)")
        connection.execute("UPDATE t SET data = randomblob(length(data)), id = -id")
        connection.execute("ROLLBACK")
        yield content(connection)
        connection.execute("BEGIN; UPDATE t SET data = x'00' WHERE id < 9; SAVEPOINT s")
        connection.execute("DELETE FROM t WHERE id > 5; CREATE TABLE gone(x); ROLLBACK TO s")
        connection.execute("UPDATE t SET data = zeroblob(?) WHERE id = ?; COMMIT", (turn, turn + 1))
        yield content(connection)
    with pytest.raises(apsw.ConstraintError):
        connection.execute("INSERT OR ROLLBACK INTO t SELECT iif(id = 50, 1, id + 900), x'' FROM t")
    connection.execute("CREATE INDEX i ON t(data)")
    yield content(connection)


def compare(tmp_path, monkeypatch, case):
    page_size, locking_mode, journal_mode, counter = case
    monkeypatch.setattr(clone.secrets, "randbits", lambda _: counter)
    # Short journals are kept whole; these are longer.
    monkeypatch.setattr(journal, "_RECENT_BYTES_MAX", 4000)
    modes = page_size, locking_mode, journal_mode
    found, expected = graft_vfs.connect("main"), stock(tmp_path / "plain.db")
    steps = zip(work(found, *modes), work(expected, *modes), strict=True)
    for number, (ours, theirs) in enumerate(steps):
        assert ours == theirs, f"step {number}"
    last = content(expected)
    found.close()
    again = graft_vfs.connect("main")
    assert content(again) == last
    assert is_sound(again)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("case", SAMPLE, ids=repr)
def test_a_rollback_restores_what_stock_sqlite_restores(tmp_path, monkeypatch, case):
    compare(tmp_path, monkeypatch, case)


@pytest.mark.deep
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("case", FULL, ids=repr)
def test_a_rollback_restores_what_stock_sqlite_restores_in_the_whole_matrix(
    tmp_path, monkeypatch, case
):
    compare(tmp_path, monkeypatch, case)
