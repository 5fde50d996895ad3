"""Compaction: a database that many pushes have spread over objects is read like one of one push."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from types import SimpleNamespace

import pytest

from graft_vfs.engine import syncing
from graft_vfs.errors import StoreError
from graft_vfs.maintenance import compaction
from graft_vfs.maintenance.page_order import ordered
from graft_vfs.remote.tables import list_tables
from graft_vfs.sqlite_format import btree
from graft_vfs.volume.context import Opened
from tests.support.replicas import Replica, rows


def spread(replica: Replica, pushes: int, *, rows_of: int = 3000, changed: int = 10) -> None:
    """Make a database with a table and an index, and push random changes of its rows."""
    connection = replica.connect()
    connection.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t(b)")
    with connection:
        connection.executemany(
            "INSERT INTO t(b) VALUES(hex(randomblob(60)))", [() for _ in range(rows_of)]
        )
    replica.engine.push("main")
    random = Random(11)
    for _ in range(pushes):
        keys = random.sample(range(1, rows_of + 1), changed)
        with connection:
            connection.executemany(
                "UPDATE t SET b = hex(randomblob(60)) WHERE a = ?", [(key,) for key in keys]
            )
        replica.engine.push("main")
    connection.close()


def scan(replica: Replica) -> int:
    """Read all rows of a clone, and return the number of requests after the clone."""
    replica.engine.clone("main", "main")
    before = replica.counts().requests
    rows(replica.connect(), "SELECT sum(length(b)), count(*) FROM t NOT INDEXED")
    return replica.counts().requests - before


def test_a_cold_scan_after_many_pushes_and_one_compaction(replicas, tmp_path) -> None:
    writer = replicas()
    spread(writer, 60)
    before = scan(replicas("before"))
    done = writer.engine.maintain("main")
    assert done.objects_after < done.objects_before / 5
    after = scan(replicas("after"))
    once = replicas("once")
    copy = tmp_path / "copy.sqlite"
    writer.engine.export("main", copy)
    once.engine.import_(copy, "copy")
    once.engine.push("copy")
    fresh = replicas("fresh")
    fresh.engine.clone("copy", "copy")
    counted = fresh.counts().requests
    rows(fresh.connect("copy"), "SELECT sum(length(b)), count(*) FROM t NOT INDEXED")
    pushed_once = fresh.counts().requests - counted
    assert after <= 1.25 * pushed_once + 1
    assert after < before / 3


def test_the_content_stays_the_same_for_all(replicas) -> None:
    writer, follower, reader = replicas(), replicas("follower"), replicas("reader")
    spread(writer, 30)
    follower.engine.clone("main", "main")
    expected = rows(writer.connect())
    checksum = writer.engine.audit("main").checksum
    writer.engine.maintain("main")
    assert rows(writer.connect()) == rows(follower.connect()) == expected
    reader.engine.clone("main", "main")
    reader.engine.hydrate("main")
    assert rows(reader.connect()) == expected
    assert rows(reader.connect(), "PRAGMA integrity_check") == [("ok",)]
    assert reader.engine.audit("main").checksum == checksum
    # Pushes, tables and fetches go on above it.
    connection = writer.connect()
    for number in range(50):
        connection.execute("UPDATE t SET b = 'changed' WHERE a = ?", (number + 1,))
        writer.engine.push("main")
    for each in (follower, reader):
        each.engine.pull("main")
        assert rows(each.connect()) == rows(connection)
    again = replicas("again")
    again.engine.clone("main", "main")
    assert rows(again.connect()) == rows(connection)


def test_a_second_compaction_has_nothing_to_do(replicas) -> None:
    writer = replicas()
    spread(writer, 30)
    assert writer.engine.maintain("main").objects
    second = writer.engine.maintain("main")
    assert second.objects == 0
    assert "Nothing to do" in str(second)


def test_a_dry_run_writes_nothing(replicas) -> None:
    writer = replicas()
    spread(writer, 30)
    keys = {info.key for info in writer.engine.store.list("")}
    planned = writer.engine.maintain("main", dry_run=True)
    assert {info.key for info in writer.engine.store.list("")} == keys
    done = writer.engine.maintain("main")
    assert (planned.objects, planned.pages) == (done.objects, done.pages)
    assert planned.objects_after == done.objects_after


@pytest.mark.parametrize("failing", ["segments/", "/tables/"])
def test_a_compaction_that_fails_changes_nothing_for_readers(
    replicas, monkeypatch, failing
) -> None:
    writer = replicas()
    spread(writer, 30)
    log_id = writer.engine.status("main").remote
    known = list_tables(writer.engine.store, log_id, limit=100)
    store = writer.engine.store
    put, put_if_absent = store.put, store.put_if_absent

    def refused(key, *arguments, **more):
        if failing in key:
            raise StoreError("no room")
        return (put if "segments/" in key else put_if_absent)(key, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(store, "put", refused)
        patch.setattr(store, "put_if_absent", refused)
        with pytest.raises(StoreError, match="no room"):
            writer.engine.maintain("main")
    assert list_tables(store, log_id, limit=100) == known
    reader = replicas("reader")
    reader.engine.clone("main", "main")
    assert rows(reader.connect()) == rows(writer.connect())
    assert writer.engine.maintain("main").objects


def test_large_databases_get_several_segments(replicas, monkeypatch) -> None:
    monkeypatch.setattr(compaction, "SEGMENT_BYTES_MAX", 100_000)
    monkeypatch.setattr(compaction, "_BATCH_PAGES", 64)
    writer = replicas()
    spread(writer, 30, rows_of=2000)
    writer.engine.maintain("main")
    reader = replicas("reader")
    reader.engine.clone("main", "main")
    assert rows(reader.connect()) == rows(writer.connect())


def test_interior_pages_are_one_run(replicas) -> None:
    writer = replicas()
    spread(writer, 30)
    writer.engine.maintain("main")
    log_id = writer.engine.status("main").remote
    lsn = writer.engine.catalog.newest_commit(log_id)[0]
    view = writer.engine.logs.log_view(log_id, lsn)
    interior = []
    for page in range(1, view.page_count + 1):
        data, offset = view.locate(page)
        if btree.kind(bytes(data[offset : offset + view.page_size]), page) in (2, 5):
            interior.append(view.table.find(page))
    assert len(interior) >= 2
    assert len({source.id for source, _ in interior}) == 1
    slots = sorted(slot for _, slot in interior)
    assert slots == list(range(len(interior)))


def test_a_malformed_tree_is_ordered_by_number() -> None:
    images = {page: bytes([5]) + bytes(511) for page in range(1, 9)}
    found = ordered(compaction.BitMap(range(1, 9)), (2, 99), images.__getitem__, page_count=8)
    assert sorted(found) == list(range(1, 9))


def test_autosync_compacts_when_many_objects_hold_the_pages(replicas) -> None:
    replica = replicas()
    connection = replica.connect()
    connection.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
    volume = replica.engine.open("main").id
    sources = []
    for number in range(4 * 24):
        with connection:
            # Each commit has pages of its own, which no later one supersedes.
            connection.execute("INSERT INTO t VALUES(?, randomblob(9000))", (number,))
        syncing.sync_one(replica.engine.context, volume, is_last=False)
        log_id = replica.engine.status("main").remote
        lsn = replica.engine.catalog.newest_commit(log_id)[0]
        view = replica.engine.logs.log_view(log_id, lsn)
        sources.append(len({source for source, _ in view.frames()}))
    assert lsn == 4 * 24
    assert max(sources) > compaction.SOURCES_MAX
    assert sources[-1] < max(sources) / 2
    reader = replicas("reader")
    reader.engine.clone("main", "main")
    assert rows(reader.connect()) == rows(connection)


def test_a_compaction_that_fails_does_not_fail_autosync(replicas, monkeypatch) -> None:
    replica = replicas()
    connection = replica.connect()
    connection.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
    volume = replica.engine.open("main").id

    def refused(*_, **__):
        raise StoreError("no room")

    monkeypatch.setattr(replica.engine.store, "put", refused)
    for number in range(3 * 24):
        with connection:
            connection.execute("INSERT INTO t VALUES(?, randomblob(9000))", (number,))
        syncing.sync_one(replica.engine.context, volume, is_last=False)
    status = replica.engine.status("main")
    assert (status.ahead, status.last_error) == (0, None)


@pytest.mark.parametrize(
    ("sizes", "taken"),
    [
        ([], 0),
        ([5], 0),
        ([5, 5], 2),
        ([1, 5], 0),
        ([1, 30, 30, 30], 4),
        ([10, 10, 10, 1000], 3),
        ([10, 10, 10, 100, 600], 4),
        ([10, 10, 10, 100, 600, 900], 6),
        ([10, compaction.SEGMENT_BYTES_MAX, compaction.SEGMENT_BYTES_MAX], 0),
    ],
)
def test_small_sources_are_taken_up_to_the_last_that_is_not_much_larger(sizes, taken) -> None:
    source = SimpleNamespace(origin=SimpleNamespace(slots=10))
    shares = [compaction._Share(source, size, 10) for size in sizes]
    assert compaction._chosen(shares) == shares[:taken]
    mostly_dead = [replace(share, pages=4) for share in shares]
    assert compaction._chosen(mostly_dead) == mostly_dead


def _shares(*sizes: int, dead: int = 0) -> list[compaction._Share]:
    """Sources of 16 pages with these stored bytes, sorted, of which so many pages are dead."""
    source = SimpleNamespace(origin=SimpleNamespace(slots=16))
    return [compaction._Share(source, size, 16 - dead) for size in sorted(sizes)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sizes", "limit", "expected"),
    [
        ([1] * 5 + [10], 100, 6),
        ([1] * 5 + [10], 14, 5),
        # One that is much larger than all before it waits for more.
        ([1, 10, 10, 10], 20, 0),
        ([1, 10, 10, 10], 100, 4),
    ],
)
def test_a_limit_leaves_out_the_largest(sizes, limit, expected) -> None:
    assert len(compaction._chosen(_shares(*sizes), limit)) == expected


def test_autosync_begins_when_it_makes_a_difference() -> None:
    mebibyte = 1 << 20
    assert compaction._helps(_shares(*[1000] * 65))
    assert not compaction._helps(_shares(*[1000] * 64))
    # Large sources beside them are more than autosync takes at once, and do not stop it.
    assert compaction._helps(_shares(*[1000] * 65, *[60 * mebibyte] * 40))
    assert not compaction._helps(_shares(*[1000] * 20, *[60 * mebibyte] * 100))
    assert compaction._helps(_shares(*[1000] * 10, dead=9))
    # What is dead is in a source that autosync leaves alone.
    large = _shares(100 * mebibyte, dead=9)
    assert not compaction._helps([*_shares(*[1000] * 3), *large])


def test_autosync_goes_on_when_what_it_wrote_has_grown(replicas, monkeypatch) -> None:
    """The limit of one compaction does not end all later ones."""
    monkeypatch.setattr(compaction, "_BY_ITSELF_BYTES_MAX", 150_000)
    monkeypatch.setattr(compaction, "SOURCES_MAX", 8)
    writer = replicas()
    spread(writer, 0)
    connection = writer.connect()
    context = writer.engine.context
    opened = Opened("main", writer.engine.open("main"))
    random, most = Random(5), 0
    for _ in range(90):
        with connection:
            for key in random.sample(range(1, 3001), 4):
                connection.execute("UPDATE t SET b = hex(randomblob(60)) WHERE a = ?", (key,))
        writer.engine.push("main")
        compaction.maintain(context, opened, only_if_due=True)
        log_id = writer.engine.status("main").remote
        lsn, _ = context.catalog.newest_commit(log_id)
        view = context.logs.log_view(log_id, lsn)
        most = max(most, len({source for source, _ in view.frames()}))
    assert most <= 30
    assert rows(connection, "PRAGMA integrity_check") == [("ok",)]


def test_a_compaction_at_the_lsn_of_a_complete_table_is_what_a_clone_gets(replicas) -> None:
    writer = replicas()
    spread(writer, 23)
    log_id = writer.engine.status("main").remote
    (plain,) = list_tables(writer.engine.store, log_id, limit=100)
    assert (plain.lsn, plain.after) == (24, 0)
    before = scan(replicas("before"))
    done = writer.engine.maintain("main")
    assert done.lsn == 24
    assert scan(replicas("after")) < before / 2
    assert rows(replicas("after").connect()) == rows(writer.connect())
