"""Two clones of one database that both commit, and the merge of what they have: cost and result."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import StoreUnavailableError
from graft_vfs.history.names import remote_snapshot
from graft_vfs.local.layout import CACHE
from graft_vfs.merge.conflicts import Choices, Merged
from graft_vfs.merge.merge import Merge, merged
from graft_vfs.merge.sides import Snapshots
from tests.support.faults import FaultyStore
from tests.support.replicas import Replica, machines_on, rows

CREATE = (
    "CREATE TABLE account(id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE, name, note);"
    "CREATE TABLE entry(id INTEGER PRIMARY KEY, account REFERENCES account, amount, text);"
    "CREATE INDEX by_account ON entry(account); CREATE INDEX by_name ON account(name);"
)


def fill(count: int, text_bytes: int) -> str:
    numbers = f"WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n LIMIT {count}) "
    return (
        f"{numbers} INSERT INTO account SELECT i, printf('%08d@example.org', i * 7919 % 1000003), "
        f"'name ' || i, hex(zeroblob({text_bytes})) FROM n;"
        f"{numbers} INSERT INTO entry SELECT i, i, i, hex(zeroblob({text_bytes})) FROM n;"
    )


def changes(side: str, count: int, changed: int) -> str:
    """Return changes of some rows each, far from each other."""
    step = count // changed
    column, at = ("name", 1) if side == "ours" else ("note", 2)
    statements = [
        f"UPDATE account SET {column} = '{side}' WHERE id = {at + number * step};"
        for number in range(changed // 2)
    ]
    statements += [
        f"INSERT INTO entry VALUES({count + 10 * at + number}, {at + number * step}, 1, '{side}');"
        for number in range(changed - changed // 2)
    ]
    return "BEGIN;" + "".join(statements) + "COMMIT"


@contextmanager
def merging(machine: Replica) -> Iterator[Merge]:
    """Merge the local commits of a machine with the newest commit that it fetched."""
    volume, logs = machine.engine.open("main"), machine.engine.context.logs
    with volume.pinned() as ours:
        row = ours.branch.row
        base, theirs = (
            remote_snapshot(volume, logs, row.log_id, lsn) for lsn in (row.base, row.base + 1)
        )
        with merged(volume, Snapshots(base, ours, theirs), Choices()) as merge:
            yield merge


def test_two_clones_merge_what_both_committed(ministack, tmp_path):
    with machines_on(ministack, tmp_path) as make:
        first, second = make("first"), make("second")
        first.connect().execute(CREATE + fill(2000, 50))
        first.engine.push("main")
        second.engine.clone("main", "main")
        second.connect().execute(changes("ours", 2000, 10))
        first.connect().execute(changes("theirs", 2000, 10))
        first.engine.push("main")
        second.engine.fetch("main")
        with merging(second) as merge:
            assert isinstance(merge.report, Merged)
            assert (merge.report.inserted, merge.report.updated) == (5, 5)
            # As a kept branch would: the merged pages over theirs are the newest commit.
            pages, count = list(merge.scratch.changed_pages()), merge.scratch.page_count
        third = make("third")
        third.engine.clone("main", "main")
        volume = third.engine.open("main")
        with volume.writing() as snapshot:
            volume.write_pages(snapshot, iter(pages), page_count=count)
        connection = third.connect()
        assert rows(connection, "PRAGMA integrity_check") == [("ok",)]
        assert rows(connection, "PRAGMA foreign_key_check") == []
        assert rows(connection, "SELECT count(*) FROM entry") == [(2010,)]
        counted = "SELECT sum(name = 'ours'), sum(note = 'theirs') FROM account"
        assert rows(connection, counted) == [(5, 5)]
        third.engine.push("main")


@contextmanager
def cold_clone(tmp_path, count: int, text_bytes: int) -> Iterator[Replica]:
    """Yield a machine with commits of its own that fetched those of another, without a cache."""
    remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))
    with Replica(tmp_path / "a", remote) as first:
        first.connect().execute(CREATE + fill(count, text_bytes))
        first.engine.push("main")
        with Replica(tmp_path / "b", remote) as second:
            second.engine.clone("main", "main")
            second.connect().execute(changes("ours", count, 10))
        first.connect().execute(changes("theirs", count, 10))
        first.engine.push("main")
    shutil.rmtree(tmp_path / "b" / CACHE)
    with Replica(tmp_path / "b", remote, store=FaultyStore(remote.open())) as second:
        second.engine.fetch("main")
        yield second


def cold_merge(tmp_path, count: int, text_bytes: int) -> tuple[int, int, int]:
    """Return pages of the database, and the requests and frames of a merge without a cache."""
    with cold_clone(tmp_path, count, text_bytes) as second:
        before, counters = second.counts(), second.engine.logs.counters
        frames = counters.snapshot().frames_fetched
        with merging(second) as merge:
            assert isinstance(merge.report, Merged), merge.report
            assert (merge.report.inserted, merge.report.updated) == (5, 5)
            pages = merge.scratch.page_count
        requests = (second.counts() - before).requests
        return pages, requests, counters.snapshot().frames_fetched - frames


def test_a_merge_of_few_rows_reads_little_of_a_large_database(tmp_path):
    pages, requests, frames = cold_merge(tmp_path, 30_000, 150)
    assert pages > 5000
    assert frames <= 64, (pages, requests, frames)
    print(pages, requests, frames)


def test_a_remote_that_fails_at_any_read_is_its_error_and_a_later_merge_succeeds(tmp_path):
    with cold_clone(tmp_path, 2000, 150) as second:
        failures = 0

        def fail_second(_: str) -> None:
            nonlocal reads
            reads += 1
            if reads > 1:
                raise StoreUnavailableError("a test cut the line")

        second.engine.store.before_read = fail_second
        while True:
            reads = 0
            try:
                with merging(second) as merge:
                    assert isinstance(merge.report, Merged)
                    break
            except StoreUnavailableError:
                failures += 1
        assert failures > 3


@pytest.mark.deep
def test_a_merge_of_few_rows_reads_little_of_a_gigabyte(tmp_path):
    pages, requests, frames = cold_merge(tmp_path, 320_000, 800)
    assert pages > 250_000
    assert frames <= 64, (pages, requests, frames)
    print(pages, requests, frames)
