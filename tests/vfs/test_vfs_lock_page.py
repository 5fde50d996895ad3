"""The page with the byte at 1 GiB, which SQLite never reads or writes."""

from __future__ import annotations

import pytest

import graft_vfs
from graft_vfs.pages import lock_page
from graft_vfs.plain import transfer
from graft_vfs.view import log_view
from graft_vfs.volume import snapshot, transaction
from tests.support.engines import reopened
from tests.support.sql import is_sound, rows, stock, value


@pytest.fixture
def early_lock_page(monkeypatch):
    """Let page 7 be the lock page, so that a small database reaches it."""
    for module in (log_view, snapshot, transaction, transfer):
        monkeypatch.setattr(module, "lock_page", lambda _: 7)
    return 7


def pages_in_log(volume):
    branch = volume.snapshot.branch.row
    return {
        page
        for chunks in volume.branch_log.transactions(branch.start, branch.first_lsn)
        for chunk in chunks
        for page in chunk.pages
    }


def written(engine, pages, page_count, page_size=512):
    volume = engine.open("main", create=True)
    with volume.writing() as snapshot:
        volume.write_pages(
            snapshot,
            ((page, bytes([page % 256]) * page_size) for page in pages),
            page_count=page_count,
        )
    return volume


def test_the_lock_page_is_left_out_of_log_and_remote(engine, early_lock_page):
    volume = written(engine, [1, 2, 3, 6, 8, 10], 10)
    assert pages_in_log(volume) == {1, 2, 3, 4, 5, 6, 8, 9, 10}
    pushed = engine.push("main")
    assert pushed.pages == 9
    header = engine.logs.header(pushed.log, pushed.lsn)
    assert 7 not in header.pages
    assert volume.begin().stored(7) == bytes(512)


def test_pages_that_a_growing_transaction_left_out_are_zeros(engine):
    volume = written(engine, [1, 5], 5)
    assert pages_in_log(volume) == {1, 2, 3, 4, 5}
    assert volume.begin().stored(3) == bytes(512)


def test_a_gap_larger_than_the_staging_limit_is_filled(engine, monkeypatch):
    monkeypatch.setattr(transaction, "STAGED_BYTES_MAX", 16 << 10)
    volume = written(engine, [1, 300], 300)
    assert pages_in_log(volume) == set(range(1, 301))


def test_an_import_leaves_the_lock_page_out(engine, connect, plain, tmp_path, early_lock_page):
    source = plain("source.db")
    source.execute("PRAGMA page_size=512; CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(9000))")
    engine.import_(tmp_path / "source.db", "main")
    assert early_lock_page not in pages_in_log(engine.open("main"))


@pytest.mark.deep
@pytest.mark.parametrize("page_size", [65536, 4096])
def test_a_database_larger_than_one_gibibyte(config, connect, tmp_path, page_size):
    connection = connect("main")
    connection.execute(f"PRAGMA page_size={page_size}; PRAGMA synchronous=normal")
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB)")
    with connection:
        for n in range(1, 71):
            connection.execute("INSERT INTO t VALUES(?, zeroblob(16000000))", (n,))
    connection.execute("INSERT INTO t VALUES(1000, 'behind the lock page')")
    omitted = lock_page(page_size)
    assert connection.pragma("page_count") > omitted
    engine = graft_vfs.register()
    assert omitted not in pages_in_log(engine.open("main"))
    pushed = engine.push("main")
    assert pushed.pages == connection.pragma("page_count") - 1
    assert omitted not in engine.logs.header(pushed.log, pushed.lsn).pages
    exported = tmp_path / "exported.db"
    engine.export("main", exported)
    for opened in (connection, stock(exported)):
        assert value(opened, "SELECT sum(length(data)) FROM t WHERE id < 1000") == 70 * 16_000_000
        assert is_sound(opened)
    connection.execute("DELETE FROM t WHERE id BETWEEN 60 AND 70; VACUUM")
    assert connection.pragma("page_count") < omitted
    reopened(config)
    again = graft_vfs.connect("main")
    assert rows(again, "SELECT data FROM t WHERE id = 1000") == [("behind the lock page",)]
    assert is_sound(again)
