"""Tables: a machine that is far behind reads a few of them instead of all commits."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from random import Random

import pytest

from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import CorruptObjectError, ReentryError, StoreError
from graft_vfs.format.table import encode_table
from graft_vfs.ids import LogId
from graft_vfs.pages import RemoteLsn
from graft_vfs.reentry import occupied
from graft_vfs.remote import tables as remote_tables
from graft_vfs.remote.log import commit_key
from graft_vfs.remote.tables import TableName, list_tables
from graft_vfs.sync import tables as tables_module
from graft_vfs.sync.fetch import fetch_log
from graft_vfs.sync.tables import write_tables
from graft_vfs.view import logs as logs_module
from graft_vfs.view import table_policy
from graft_vfs.view.table_policy import STEP
from tests.format.commit_samples import LOG, commit
from tests.support.replicas import Replica, rows


def grow(replica: Replica, pushes: int, tag: str = "main") -> None:
    """Push one commit after another, each of one row."""
    connection = replica.connect(tag)
    connection.execute("CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b)")
    for _ in range(pushes):
        connection.execute("INSERT INTO t(b) VALUES(randomblob(900))")
        replica.engine.push(tag)
    connection.close()


def log_of(replica: Replica, tag: str = "main") -> LogId:
    return replica.engine.open(tag).begin().branch.row.log_id


def known_lsns(replica: Replica, log_id: LogId) -> list[int]:
    """The LSNs of the commits whose headers a machine has."""
    catalog = replica.engine.context.catalog
    newest = catalog.newest_commit(log_id)[0]
    return [row.lsn for row in catalog.commits(log_id, RemoteLsn(1), newest)]


def requests(replica: Replica, act) -> int:
    before = replica.counts()
    act()
    return (replica.counts() - before).requests


def tables_of(replica: Replica, log_id: LogId) -> list[TableName]:
    return list_tables(replica.engine.store, log_id, limit=100)


def test_a_clone_reads_tables_instead_of_commits(replicas) -> None:
    writer = replicas()
    grow(writer, 5 * STEP + 3)
    log_id = log_of(writer)
    assert [each.lsn for each in tables_of(writer, log_id)] == [STEP * n for n in (5, 4, 3, 2, 1)]
    reader = replicas("b")
    sent = requests(reader, lambda: reader.engine.clone("main", "main"))
    assert known_lsns(reader, log_id) == [5 * STEP + n for n in (1, 2, 3)]
    # The ref, a listing of commits and one of tables, the tables, three commits.
    assert sent <= 3 + 5 + 3
    assert rows(reader.connect()) == rows(writer.connect())
    reader.engine.hydrate("main")
    assert reader.engine.audit("main").checksum == writer.engine.audit("main").checksum


def test_a_clone_at_the_lsn_of_a_table_needs_one_commit(replicas) -> None:
    writer = replicas()
    grow(writer, 2 * STEP)
    reader = replicas("b")
    reader.engine.clone("main", "main")
    assert known_lsns(reader, log_of(writer)) == [2 * STEP]
    assert rows(reader.connect()) == rows(writer.connect())


def test_a_volume_opens_without_the_remote_and_without_old_commits(replicas) -> None:
    writer, reader = replicas(), replicas("b")
    grow(writer, 3 * STEP + 1)
    reader.engine.clone("main", "main")
    reader.engine.hydrate("main")
    reader.close()
    again = replicas("b")
    sent = requests(again, lambda: rows(again.connect()))
    assert sent == 0
    assert rows(again.connect()) == rows(writer.connect())


def test_a_follower_that_is_far_behind_reads_tables(replicas) -> None:
    writer, reader = replicas(), replicas("b")
    grow(writer, 10)
    reader.engine.clone("main", "main")
    grow(writer, 6 * STEP)
    sent = requests(reader, lambda: reader.engine.pull("main"))
    # Nine commits are read before it is known how many there are.
    assert sent <= 9 + 2 + 8 + STEP
    assert len(known_lsns(reader, log_of(writer))) < 10 + 10 + STEP
    assert rows(reader.connect()) == rows(writer.connect())


def test_a_follower_makes_tables_of_its_own(replicas) -> None:
    writer, reader = replicas(), replicas("b")
    grow(writer, 1)
    reader.engine.clone("main", "main")
    for _ in range(6 * STEP):
        grow(writer, 1)
        reader.engine.pull("main")
    known = reader.engine.context.catalog.tables.all(log_of(writer))
    assert known[-1].lsn == 6 * STEP
    assert len(known) <= 4, "those that newer ones cover are forgotten"
    assert rows(reader.connect()) == rows(writer.connect())


@pytest.mark.parametrize("pushes", [3, STEP + 2])
def test_a_fork_of_a_log_with_tables(replicas, pushes) -> None:
    writer = replicas()
    grow(writer, 2 * STEP + 2)
    writer.engine.fork("main", new_tag="branch")
    grow(writer, pushes, "branch")
    reader = replicas("b")
    sent = requests(reader, lambda: reader.engine.clone("branch", "branch"))
    assert sent <= 20
    assert rows(reader.connect("branch")) == rows(writer.connect("branch"))
    parent = log_of(writer)
    assert len(known_lsns(reader, parent)) <= 3


def test_damaged_tables_are_passed_over(replicas) -> None:
    writer = replicas()
    grow(writer, 3 * STEP + 1)
    log_id = log_of(writer)
    names = tables_of(writer, log_id)
    for bad, expected in ((names[:1], 2 * STEP), (names, 0)):
        for name in bad:
            writer.engine.store.put(name.key, [b"damaged"])
        reader = replicas(f"after-{expected}")
        reader.engine.clone("main", "main")
        assert known_lsns(reader, log_id)[0] == expected + 1
        assert rows(reader.connect()) == rows(writer.connect())


def test_a_table_with_a_damaged_block_is_passed_over(replicas) -> None:
    writer = replicas()
    grow(writer, STEP + 1)
    (name,) = tables_of(writer, log_of(writer))
    whole = writer.engine.store.get(name.key)
    writer.engine.store.put(name.key, [whole[:-3], b"???"])
    reader = replicas("b")
    reader.engine.clone("main", "main")
    assert rows(reader.connect()) == rows(writer.connect())


def test_a_table_of_another_history_is_not_used(replicas) -> None:
    writer = replicas()
    grow(writer, STEP + 2)
    log_id = log_of(writer)
    logs = writer.engine.context.logs
    [row] = writer.engine.context.catalog.tables.all(log_id)
    layer = logs.layer(row)
    facts = replace(layer.head.facts, hash=b"x" * 32)
    runs = [(first, end, source.origin, slot) for first, end, source, slot in layer.runs()]
    frames = {source.origin: source.body.frames for _, _, source, _ in layer.runs()}
    forged = encode_table(facts, runs, frames.__getitem__)
    writer.engine.store.put(tables_of(writer, log_id)[0].key, forged)
    reader = replicas("reader")
    reader.engine.clone("main", "main")
    assert known_lsns(reader, log_id)[0] == 1
    assert rows(reader.connect()) == rows(writer.connect())


def test_an_old_lsn_is_opened_by_an_older_table(replicas) -> None:
    writer = replicas()
    grow(writer, 3 * STEP)
    reader = replicas("b")
    reader.engine.clone("main", "main")
    for lsn in (1, 5, STEP, STEP + 1, 2 * STEP - 1):
        found = rows(reader.connect(lsn=str(lsn)), "SELECT count(*) FROM t")
        assert found == rows(writer.connect(lsn=str(lsn)), "SELECT count(*) FROM t")


def test_a_push_succeeds_although_its_table_does_not(replicas, monkeypatch) -> None:
    writer = replicas()
    grow(writer, STEP - 1)
    put = writer.engine.store.put_if_absent

    def failing(key: str, data: bytes):
        if "/tables/" in key:
            raise StoreError("the store refuses tables")
        return put(key, data)

    monkeypatch.setattr(writer.engine.store, "put_if_absent", failing)
    grow(writer, 1)
    log_id = log_of(writer)
    assert not tables_of(writer, log_id)
    monkeypatch.undo()
    grow(writer, STEP)
    assert tables_of(writer, log_id)[0].lsn == 2 * STEP
    reader = replicas("b")
    reader.engine.clone("main", "main")
    assert known_lsns(reader, log_id) == [2 * STEP]


def test_a_lost_catalog_is_made_again(replicas, tmp_path) -> None:
    writer = replicas()
    grow(writer, 2 * STEP + 2)
    connection = writer.connect()
    connection.execute("INSERT INTO t(b) VALUES('not pushed')")
    expected = rows(connection)
    writer.close()
    (tmp_path / "a" / "catalog.db").unlink()
    (tmp_path / "a" / "catalog.db-wal").unlink(missing_ok=True)
    remote = RemoteConfig(type="memory", root=str(tmp_path))
    config = Config(data_dir=tmp_path / "a", remote=remote)
    with contextlib.closing(Graft(config, recovering=True)) as engine:
        [lost] = engine.lost_volumes()
        engine.adopt(lost.volume, "main")
    assert rows(replicas("a").connect()) == expected


def test_a_view_outlives_the_tables_that_it_was_built_from(replicas, monkeypatch) -> None:
    """A replica replaces its tables, while the views of its volumes are built on each other."""
    monkeypatch.setattr(logs_module, "_DECODED_BYTES_MAX", 0)
    monkeypatch.setattr(table_policy, "RATIO", 1000)
    writer, reader = replicas(), replicas("b")
    grow(writer, 1)
    reader.engine.clone("main", "main")
    grow(writer, 2 * STEP)
    reader.engine.pull("main")
    reader.close()
    again = replicas("b")
    log_id = log_of(writer)
    with again.engine.open("main").pinned():
        for _ in range(2):
            grow(writer, STEP)
            again.engine.pull("main")
        # The remote need not have what this machine has made for itself.
        for name in tables_of(writer, log_id):
            writer.engine.store.delete(name.key)
        # The older one is that of the branch's LSN when the newer one was made.
        assert [each.lsn for each in again.engine.catalog.tables.all(log_id)] == [72, 96]
        assert rows(again.connect()) == rows(writer.connect())


# Tables that are not read whole -------------------------------------------------------------------

PAGES = 12_000


@pytest.fixture
def scattered(replicas, monkeypatch) -> tuple[Replica, LogId]:
    """A log whose table has several leaves and is longer than what is read at once."""
    monkeypatch.setattr(tables_module, "_READ_WHOLE_BYTES", 0)
    monkeypatch.setattr(remote_tables, "HEAD_BYTES", 4096)
    writer = replicas("writer")
    previous, data = commit(range(1, PAGES + 1), salt=1)
    writer.engine.store.put(commit_key(LOG, 1), [data])
    random = Random(7)
    for lsn in range(2, STEP + 1):
        pages = sorted(random.sample(range(1, PAGES + 1), 700))
        facts = {"lsn": lsn, "previous_hash": previous.hash, "page_count": PAGES}
        previous, data = commit(pages, salt=lsn, **facts)
        writer.engine.store.put(commit_key(LOG, lsn), [data])
    fetch_log(writer.engine.logs, LOG)
    write_tables(writer.engine.logs, LOG)
    return writer, LOG


def test_a_page_of_a_large_table_costs_its_block_and_its_frame(scattered, replicas) -> None:
    writer, log_id = scattered
    [row] = writer.engine.context.catalog.tables.all(log_id)
    assert row.is_whole
    assert row.length > 2 * 4096
    reader = replicas("reader")
    logs = reader.engine.logs
    assert requests(reader, lambda: fetch_log(logs, log_id)) == 4
    [known] = logs.catalog.tables.all(log_id)
    assert not known.is_whole
    view = logs.log_view(log_id, STEP)
    expected = writer.engine.logs.log_view(log_id, STEP)
    assert requests(reader, lambda: view.table.find(5000)) == 1
    assert requests(reader, lambda: view.table.find(5001)) == 0
    assert not view.table.is_near(9000)
    for page in Random(3).sample(range(1, PAGES + 1), 300):
        found, there = view.table.find(page), expected.table.find(page)
        assert (found[0].id, found[1]) == (there[0].id, there[1])
    # Another engine on this machine has the blocks in the page cache.
    again = replicas("reader")
    kept = again.engine.logs.log_view(log_id, STEP)
    assert requests(again, lambda: kept.table.find(5000)) == 0


def test_a_scan_reads_on_across_the_blocks_of_a_large_table(scattered, replicas) -> None:
    writer, log_id = scattered
    reader = replicas("reader")
    fetch_log(reader.engine.logs, log_id)
    view, expected = (each.engine.logs.log_view(log_id, STEP) for each in (reader, writer))
    for page in range(1, PAGES + 1):
        (one, at), (other, there) = view.locate(page), expected.locate(page)
        assert bytes(one[at : at + 512]) == bytes(other[there : there + 512])
    assert view.pages_present() == (PAGES, PAGES)


def test_a_hydrated_volume_has_the_blocks_of_its_tables(scattered, replicas) -> None:
    _, log_id = scattered
    reader = replicas("reader")
    fetch_log(reader.engine.logs, log_id)
    reader.engine.logs.log_view(log_id, STEP).hydrate()
    again = replicas("reader")
    view = again.engine.logs.log_view(log_id, STEP)
    before = again.counts().requests
    for page in range(1, PAGES, 97):
        view.locate(page)
    assert again.counts().requests == before


def test_a_block_that_cannot_be_read_is_an_error_and_read_again(scattered, replicas) -> None:
    _, log_id = scattered
    reader = replicas("reader")
    fetch_log(reader.engine.logs, log_id)
    view = reader.engine.logs.log_view(log_id, STEP)
    get_range = reader.engine.store.get_range
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader.engine.store, "get_range", refused)
        with pytest.raises(StoreError, match="not now"):
            view.locate(9000)
    assert view.locate(9000) is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            reader.engine.store, "get_range", lambda *place: bytes(len(get_range(*place)))
        )
        with pytest.raises(CorruptObjectError, match="checksum"):
            view.locate(50)
    assert view.locate(50) is not None


def test_a_table_that_the_remote_lost_is_learnt_in_another_way(scattered, replicas) -> None:
    writer, log_id = scattered
    reader = replicas("reader")
    fetch_log(reader.engine.logs, log_id)
    view = reader.engine.logs.log_view(log_id, STEP)
    [name] = tables_of(writer, log_id)
    writer.engine.store.delete(name.key)
    with pytest.raises(CorruptObjectError, match=r"is gone.*fetch"):
        view.locate(9000)
    fetch_log(reader.engine.logs, log_id)
    assert known_lsns(reader, log_id) == list(range(1, STEP + 1))
    again, expected = (each.engine.logs.log_view(log_id, STEP) for each in (reader, writer))
    for page in (1, 9000, PAGES):
        (one, at), (other, there) = again.locate(page), expected.locate(page)
        assert bytes(one[at : at + 512]) == bytes(other[there : there + 512])


def test_all_blocks_of_a_large_table_are_fetched_together(scattered, replicas) -> None:
    _, log_id = scattered
    reader = replicas("reader")
    fetch_log(reader.engine.logs, log_id)
    view = reader.engine.logs.log_view(log_id, STEP)
    assert requests(reader, view.frames) == 1
    assert requests(reader, view.frames) == 0


def test_a_signal_handler_is_refused_a_page_that_needs_a_block(scattered, replicas) -> None:
    _, log_id = scattered
    reader = replicas("reader")
    fetch_log(reader.engine.logs, log_id)
    view = reader.engine.logs.log_view(log_id, STEP)
    before = reader.counts().requests
    # As inside a request of its own thread.
    with occupied(), pytest.raises(ReentryError):
        view.locate(9000)
    assert reader.counts().requests == before
    assert view.locate(9000) is not None


def refused(key: str, start: int, length: int) -> bytes:
    raise StoreError(f"not now: {key} at {start}, {length} bytes")
