"""Transactions that write every page of a database, most of them as they were: VACUUM, backups."""

from __future__ import annotations

import random

import apsw
import pytest

import graft_vfs
from graft_vfs.errors import CorruptLogError
from graft_vfs.volume import transaction
from graft_vfs.volume.page_index import PageIndex
from tests.support.engines import reopened
from tests.support.sql import content, is_sound, rows, value


def filled(connection, count=3000):
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT, data BLOB)")
    with connection:
        for number in range(count):
            data = random.Random(number).randbytes(700)
            connection.execute("INSERT INTO t VALUES(?, ?, ?)", (number, f"row {number}", data))
    return connection


def written_last(engine):
    """How many pages the newest local commit wrote."""
    return engine.show("main").pages


@pytest.mark.parametrize("staged_max", [64 << 10, 16 << 20], ids=["spilled", "in memory"])
@pytest.mark.parametrize("pushed", [False, True])
def test_a_vacuum_of_a_database_without_holes_commits_page_1_alone(
    engine, connect, monkeypatch, staged_max, pushed
):
    monkeypatch.setattr(transaction, "STAGED_BYTES_MAX", staged_max)
    connection = filled(connect("main"))
    connection.execute("VACUUM")
    if pushed:
        engine.push("main")
    before = content(connection)
    connection.execute("VACUUM")
    assert written_last(engine) == 1
    assert engine.push("main").pages == (1 if pushed else connection.pragma("page_count"))
    assert content(connection) == content(connect("main")) == before
    assert is_sound(connection)


@pytest.mark.parametrize("staged_max", [64 << 10, 16 << 20], ids=["spilled", "in memory"])
def test_a_backup_into_a_volume_commits_the_pages_that_differ(
    config, engine, plain, monkeypatch, staged_max
):
    monkeypatch.setattr(transaction, "STAGED_BYTES_MAX", staged_max)
    source, target = filled(plain()), graft_vfs.connect("main")
    for change, expected in (
        ("SELECT 1", None),
        ("UPDATE t SET data = zeroblob(700) WHERE id IN (500, 2500)", 3),
        ("DELETE FROM t WHERE id = 1; INSERT INTO t VALUES(1, '', NULL)", 2),
    ):
        source.execute(change).fetchall()
        with target.backup("main", source, "main") as backup:
            backup.step(-1)
        if expected is not None:
            assert written_last(engine) == expected
        engine.push("main")
        assert content(target) == content(source)
        assert is_sound(target)
    expected = content(source)
    reopened(config)
    assert content(graft_vfs.connect("main")) == expected


def test_a_statement_that_writes_all_rows_as_they_were_makes_no_commit(engine, connect):
    connection = filled(connect("main"))
    before = engine.open("main").begin().lsn
    connection.execute("UPDATE t SET v = v || ''")
    assert engine.open("main").begin().lsn == before
    connection.execute("UPDATE t SET v = v || '.' WHERE id = 7")
    assert engine.open("main").begin().lsn == before + 1
    assert is_sound(connection)
    assert value(connect("main"), "SELECT v FROM t WHERE id = 7") == "row 7."


def test_a_page_that_was_spilled_and_then_written_as_it_was_is_committed_so(
    config, engine, connect, monkeypatch
):
    """What a transaction wrote to the log stays there, and a recovery reads it."""
    monkeypatch.setattr(transaction, "STAGED_BYTES_MAX", 64 << 10)
    connection = filled(connect("main"))
    connection.pragma("cache_size", 5)
    before = content(connection)
    with connection:
        connection.execute("UPDATE t SET data = zeroblob(700)")
        for number in range(3000):
            data = random.Random(number).randbytes(700)
            connection.execute("UPDATE t SET data = ? WHERE id = ?", (data, number))
        connection.execute("UPDATE t SET v = 'changed' WHERE id = 0")
        before["t"] = sorted(
            [(i, "changed" if not i else v, d) for i, v, d in before["t"]], key=repr
        )
    assert content(connection) == before
    reopened(config)
    again = graft_vfs.connect("main")
    assert content(again) == before
    assert is_sound(again)


def test_a_page_that_cannot_be_read_is_written_anew(engine, connect, monkeypatch):
    connection = filled(connect("main"))
    connection.execute("VACUUM")

    def damaged(*_):
        raise CorruptLogError("a test damaged it")

    volume = engine.open("main")
    with volume.writing() as snapshot:
        written = transaction.Transaction(volume, snapshot)
        written.staged.update({page: snapshot.stored(page) for page in range(2, 200)})
        assert not written.is_large
        with monkeypatch.context() as patch:
            patch.setattr(PageIndex, "offset_of", damaged)
            written.thin()
        assert len(written.staged) == 198
        written.thin()
        assert not written.staged
        written.abandon()
    assert is_sound(connection)


def test_a_spilled_page_that_was_cut_off_is_written_if_it_comes_back(engine, connect, config):
    """Recovery reads the spilled image of a page as soon as the database is long enough again."""
    filled(connect("main"))
    volume = engine.open("main")
    with volume.writing() as snapshot:
        pages = range(2, snapshot.page_count + 1)
        before = [snapshot.stored(page) for page in pages]
        written = transaction.Transaction(volume, snapshot)
        written.staged.update(dict.fromkeys(pages, b"x" * snapshot.page_size))
        written.spill()
        written.truncate(2)
        written.staged.update(zip(pages, before, strict=True))
        written.page_count = snapshot.page_count
        written.thin()
        written.commit(transaction.FULL)
    after = reopened(config).open("main").begin()
    assert [after.stored(page) for page in pages] == before


def test_pages_that_are_not_here_are_not_fetched_to_be_compared(machine, connect, engine):
    filled(connect("main"))
    engine.push("main")
    elsewhere = machine()
    connection = elsewhere.connect(remote="main")
    assert rows(connection, "SELECT count(*) FROM sqlite_schema") == [(1,)]
    volume = elsewhere.engine.open("main")
    before = elsewhere.counts()
    with volume.writing() as snapshot:
        written = transaction.Transaction(volume, snapshot)
        written.staged.update({page: bytes(4096) for page in range(50, 250)})
        written.thin()
        assert len(written.staged) == 200
        written.abandon()
    assert (elsewhere.counts() - before).requests == 0


def test_other_transactions_compare_a_few_pages_only(engine, connect, monkeypatch):
    connection = filled(connect("main"))
    compared: list[int] = []
    same_here = transaction.same_here

    def count(snapshot, images):
        compared.append(len(images))
        return same_here(snapshot, images)

    monkeypatch.setattr(transaction, "same_here", count)
    connection.execute("UPDATE t SET data = zeroblob(700)")
    written = written_last(engine)
    assert written > 500
    assert sum(compared) <= written // 8 + 2
    connection.execute("UPDATE t SET v = 'x' WHERE id = 1")
    assert len(compared) == 1


def test_a_failed_commit_after_pages_were_left_out_shows_what_was_there(connect, engine):
    connection = filled(connect("main"))
    before = content(connection)
    connection.execute("BEGIN; UPDATE t SET v = v || ''; UPDATE t SET v = 'x' WHERE id < 5")
    with pytest.raises(apsw.ConstraintError):
        connection.execute("INSERT OR ROLLBACK INTO t VALUES(1, '', NULL)")
    assert content(connection) == content(connect("main")) == before
