"""The next version of a plain file on a volume that has the last: one commit of what differs."""

from __future__ import annotations

import itertools
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from graft_vfs.errors import (
    BusyError,
    CorruptObjectError,
    DamageError,
    NotFoundError,
    StoreUnavailableError,
    UsageError,
    WriterBusyError,
)
from graft_vfs.local import layout
from graft_vfs.local.branch_log import BranchLog
from graft_vfs.local.messages import Messages
from graft_vfs.pages import lock_page
from graft_vfs.plain import transfer
from graft_vfs.view import log_view
from graft_vfs.view.source import FrameSource
from graft_vfs.volume import comparison, snapshot, transaction
from tests.plain.files import KINDS, dump, leftovers, make, process, stock_dump
from tests.support.faults import FaultyStore
from tests.support.replicas import Replica, rows
from tests.support.sql import is_sound

COOKIE = slice(40, 44)


def change(path: Path, *statements: str) -> Path:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()
    return path


def images_of(path: Path, page_size: int) -> list[bytes]:
    data = path.read_bytes()
    return [data[at : at + page_size] for at in range(0, len(data), page_size)]


def differing_pages(before: Path, after: Path, page_size: int) -> set[int]:
    """The pages of one file that the other has not, or not so; page 1 counts if any differs."""
    old, new = images_of(before, page_size), images_of(after, page_size)
    found = {page for page, image in enumerate(new, 1) if page > len(old) or old[page - 1] != image}
    return found | {1}


def local_pages(replica: Replica, tag: str = "main") -> list[set[int]]:
    """The pages of each local commit."""
    volume = replica.engine.open(tag)
    branch = volume.begin().branch.row
    return [
        {page for chunk in chunks for page in chunk.pages}
        for chunks in volume.branch_log.transactions(branch.start, branch.first_lsn)
    ]


CHANGES = {
    "a row": ["UPDATE t SET v = randomblob(300) WHERE k = 250"],
    "more rows": ["INSERT INTO t SELECT k + 1000, word, randomblob(300) FROM t"],
    "fewer rows": ["DELETE FROM t WHERE k > 100", "VACUUM"],
    "another schema": ["CREATE TABLE s AS SELECT * FROM t", "DROP INDEX words"],
    "all rows": ["UPDATE t SET v = randomblob(299)"],
}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *(("plain", changes) for changes in CHANGES),
        *zip(list(KINDS)[1:], itertools.cycle(CHANGES), strict=False),
    ],
)
def test_an_update_commits_exactly_the_pages_that_differ(replicas, tmp_path, kind, changes) -> None:
    source, before = make(tmp_path / "source.db", *KINDS[kind]), tmp_path / "before.db"
    replica = replicas()
    replica.engine.import_(source, "main")
    replica.engine.push("main")
    connection = replica.connect()
    dump(connection)
    before.write_bytes(source.read_bytes())
    change(source, *CHANGES[changes])
    done = replica.engine.import_(source, "main", update=True)
    expected = differing_pages(before, source, done.page_size)
    assert local_pages(replica) == [expected]
    assert (done.differ, done.lsn, done.bytes) == (len(expected), 2, source.stat().st_size)
    assert dump(connection) == dump(replica.connect()) == stock_dump(source)
    assert is_sound(connection)
    assert replica.engine.push("main").pages == len(expected)
    assert leftovers(replica) == []
    clone = replicas("other").connect(remote="main")
    assert dump(clone) == stock_dump(source)


def test_a_file_that_did_not_change_makes_no_commit(replicas, tmp_path) -> None:
    source, replica = make(tmp_path / "source.db"), replicas()
    replica.engine.import_(source, "main")
    before = replica.engine.open("main").begin()
    done = replica.engine.import_(source, "main", update=True)
    assert (done.differ, done.lsn) == (0, None)
    assert str(done) == f"Nothing to import: the volume has the content of {source} already."
    assert repr(done) == f"<Imported: {done}>"
    assert replica.engine.open("main").begin() is before
    # Nor does one whose counters, cookie and library only differ: they are no content.
    change(source, "PRAGMA user_version = 1", "PRAGMA user_version = 0", "PRAGMA schema_version=99")
    assert replica.engine.import_(source, "main", update=True).lsn is None
    change(source, "PRAGMA user_version = 1")
    done = replica.engine.import_(source, "main", update=True)
    assert (done.differ, done.lsn) == (1, 2)
    assert replica.connect().pragma("user_version") == 1
    assert replica.engine.import_(source, "main", update=True).lsn is None


def test_content_that_is_there_already_is_durable_when_an_import_says_so(
    replicas, tmp_path
) -> None:
    """The file may be deleted after the import; a commit with synchronous=OFF was not durable."""
    ours = replicas()
    connection = ours.connect()
    connection.execute("PRAGMA synchronous = OFF; CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    source = tmp_path / "same.db"
    ours.engine.export("main", source)
    volume = ours.engine.open("main")
    assert volume.branch_log.durable < volume.begin().end.offset
    assert ours.engine.import_(source, "main", update=True).lsn is None
    assert volume.branch_log.durable >= volume.begin().end.offset


def test_a_volume_grows_again_over_pages_that_it_once_had(replicas, tmp_path) -> None:
    large, small = make(tmp_path / "large.db"), make(tmp_path / "small.db", rows_count=50)
    replica = replicas()
    replica.engine.import_(large, "main")
    replica.engine.push("main")
    for path in (small, large, small, large):
        replica.engine.import_(path, "main", update=True)
        assert dump(replica.connect()) == stock_dump(path)
        assert is_sound(replica.connect())
        replica.engine.push("main")
        assert dump(replicas(f"{path.name}{random.random()}").connect(remote="main")) == stock_dump(
            path
        )


def test_unpushed_commits_stay_below_an_update_and_one_push_sends_both(replicas, tmp_path) -> None:
    source, replica = make(tmp_path / "source.db"), replicas()
    replica.engine.import_(source, "main")
    replica.engine.push("main")
    connection = replica.connect()
    connection.execute("INSERT INTO t VALUES(-1, 'mine', NULL)")
    change(source, "UPDATE t SET word = 'theirs' WHERE k = 400")
    assert replica.engine.import_(source, "main", update=True).lsn == 3
    assert [entry.lsn for entry in replica.engine.log("main") if entry.where == "local"] == [3, 2]
    # The file is what is shown now; what it lacks is in the commit below.
    assert dump(connection) == stock_dump(source)
    pushed = replica.engine.push("main")
    assert (pushed.lsn, pushed.local_commits) == (2, 2)
    assert dump(replicas("other").connect(remote="main")) == stock_dump(source)


def test_an_update_of_an_empty_volume_is_its_first_version(replicas, tmp_path) -> None:
    source, replica = make(tmp_path / "source.db"), replicas()
    with pytest.raises(NotFoundError, match="there is no tag 'main'"):
        replica.engine.import_(source, "main", update=True)
    assert replica.engine.tags() == []
    replica.engine.new("main")
    done = replica.engine.import_(source, "main", update=True)
    assert (done.differ, done.lsn) == (done.pages, 1)
    assert dump(replica.connect()) == stock_dump(source)


def test_a_message_is_shown_here_until_the_push_publishes_it(replicas, tmp_path) -> None:
    source, replica = make(tmp_path / "source.db"), replicas()
    replica.engine.import_(source, "main", message="first version")
    assert replica.engine.log("main")[0].message == "first version"
    replica.engine.push("main")
    change(source, "DELETE FROM t WHERE k = 7")
    replica.engine.import_(source, "main", update=True, message="  November\nwithout 7\n")
    assert replica.engine.show("main").message == "November\nwithout 7"
    replica.engine.import_(source, "main", update=True, message="nothing changed")
    replica.connect().execute("INSERT INTO t VALUES(-1, 'mine', NULL)")
    change(source, "DELETE FROM t WHERE k = 8")
    replica.engine.import_(source, "main", update=True, message="and 8")
    assert [entry.message for entry in replica.engine.log("main")] == [
        *("and 8", "", "November\nwithout 7"),
        "first version",
    ]
    replica.engine.push("main")
    replica.connect().execute("INSERT INTO t VALUES(-2, 'later', NULL)")
    replica.engine.push("main")
    change(source, "DELETE FROM t WHERE k = 9")
    replica.engine.import_(source, "main", update=True, message="kept here")
    replica.engine.push("main", message="said by the push")
    other = replicas("other")
    other.engine.clone("main", "main")
    assert [entry.message for entry in other.engine.log("main")] == [
        *("said by the push", "", "November\nwithout 7\nand 8", "first version")
    ]
    with pytest.raises(UsageError, match="at most 4096 bytes"):
        replica.engine.import_(source, "main", update=True, message="x" * 5000)


def test_a_push_that_is_faster_than_a_message_is_told(
    replicas, tmp_path, caplog, monkeypatch
) -> None:
    """A push waits for no writer, so it may take the commit before its message is there."""
    source, replica = make(tmp_path / "source.db"), replicas()
    replica.engine.import_(source, "main")
    add = Messages.add

    def pushed_first(messages: Messages, *arguments, **named) -> None:
        assert replicas().engine.push("main").claimed
        add(messages, *arguments, **named)

    monkeypatch.setattr(Messages, "add", pushed_first)
    change(source, "DELETE FROM t WHERE k = 7")
    replica.engine.import_(source, "main", update=True, message="November")
    assert "local:2 was pushed meanwhile, without its message" in caplog.text
    assert replica.engine.show("main").message == ""


def test_a_fork_takes_the_messages_of_its_commits_along(replicas, tmp_path) -> None:
    source, replica = make(tmp_path / "source.db"), replicas()
    replica.engine.import_(source, "main", message="first version")
    change(source, "DELETE FROM t WHERE k = 7")
    replica.engine.import_(source, "main", update=True, message="without 7")
    replica.engine.fork("main", new_tag="copy")
    replica.engine.push("copy")
    assert replica.engine.show("copy").message == "first version\nwithout 7"
    assert [entry.message for entry in replica.engine.log("main")] == ["without 7", "first version"]


def test_a_message_that_cannot_be_kept_does_not_undo_the_commit(replicas, tmp_path, caplog) -> None:
    source, replica = make(tmp_path / "source.db"), replicas()
    replica.engine.import_(source, "main")
    (replica.engine.open("main").directory / layout.NEW_MESSAGES).mkdir()
    change(source, "DELETE FROM t WHERE k = 7")
    assert replica.engine.import_(source, "main", update=True, message="lost").lsn == 2
    assert "the message of local:2 is not kept" in caplog.text
    assert dump(replica.connect()) == stock_dump(source)


# Connections that are open ------------------------------------------------------------------------


def test_a_reader_keeps_its_snapshot_and_then_sees_the_new_version(replicas, tmp_path) -> None:
    source, replica = make(tmp_path / "source.db"), replicas()
    replica.engine.import_(source, "main")
    reader = replica.connect()
    old = stock_dump(source)
    change(source, "UPDATE t SET word = 'new ' || k", "DELETE FROM t WHERE k % 2")
    reader.execute("BEGIN")
    assert rows(reader, "SELECT count(*) FROM t") == [(500,)]
    replica.engine.import_(source, "main", update=True)
    assert dump(reader) == old
    reader.execute("COMMIT")
    assert dump(reader) == stock_dump(source)
    assert is_sound(reader)


@pytest.mark.parametrize("versions", [("a", "b"), ("b", "a")])
def test_a_connection_never_keeps_its_old_schema_after_an_update(
    replicas, tmp_path, versions
) -> None:
    """SQLite believes in a parsed schema while the cookie in page 1 is the same."""
    tables = {
        "a": ["CREATE TABLE one(x)", "CREATE TABLE two(x)"],
        "b": ["CREATE TABLE two(x)", "CREATE TABLE one(x)"],
    }
    paths = []
    for name in versions:
        path = change(tmp_path / f"{name}.db", *tables[name])
        paths.append(
            change(path, "INSERT INTO one VALUES('in one')", "INSERT INTO two VALUES('in two')")
        )
    assert len({path.read_bytes()[COOKIE] for path in paths}) == 1
    replica = replicas()
    replica.engine.import_(paths[0], "main")
    connection = replica.connect()
    assert rows(connection, "SELECT x FROM one") == [("in one",)]
    replica.engine.import_(paths[1], "main", update=True)
    assert rows(connection, "SELECT x FROM one") == [("in one",)]
    connection.execute("INSERT INTO two VALUES('more')")
    assert rows(connection, "SELECT x FROM two") == [("in two",), ("more",)]
    assert is_sound(connection)


def test_a_writer_makes_an_update_wait_and_a_stale_one_is_refused(
    replicas, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("graft_vfs.volume.current_branch._WRITER_TIMEOUT_SECONDS", 0.0)
    source, replica = make(tmp_path / "source.db"), replicas()
    replica.engine.import_(source, "main")
    change(source, "DELETE FROM t WHERE k = 7")
    writer, other = replica.connect(), replica.connect()
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(WriterBusyError):
        replica.engine.import_(source, "main", update=True)
    writer.execute("ROLLBACK")
    other.execute("BEGIN")
    rows(other, "SELECT count(*) FROM t")
    replica.engine.import_(source, "main", update=True)
    with pytest.raises(apsw.BusyError):
        other.execute("INSERT INTO t VALUES(-1, '', NULL)")
    other.execute("ROLLBACK")
    assert dump(other) == stock_dump(source)


# What is refused, and what fails half way ---------------------------------------------------------


REFUSED = {
    "page size": (["page_size=1024"], "has pages of 1024 bytes, and the volume pages of 4096"),
    "encoding": (["encoding='UTF-16le'"], "has text as UTF-16le, and the volume text as UTF-8"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_file_of_another_format_is_refused_and_changes_nothing(replicas, tmp_path, what) -> None:
    pragmas, message = REFUSED[what]
    source, replica = make(tmp_path / "source.db"), replicas()
    other = make(tmp_path / "other.db", *pragmas)
    replica.engine.import_(source, "main")
    before = replica.engine.open("main").begin()
    with pytest.raises(UsageError, match=message) as caught:
        replica.engine.import_(other, "main", update=True)
    assert "import it into a new tag" in str(caught.value.next_step)
    assert replica.engine.open("main").begin() is before
    assert dump(replica.connect()) == stock_dump(source)


def test_a_file_with_reserved_bytes_is_refused(replicas, tmp_path) -> None:
    source, replica = make(tmp_path / "source.db"), replicas()
    other = apsw.Connection(str(tmp_path / "other.db"), vfs="unix")
    other.reserve_bytes("main", 8)
    other.execute("CREATE TABLE t(k)")
    other.close()
    replica.engine.import_(source, "main")
    with pytest.raises(UsageError, match="8 reserved bytes a page, and the volume 0 reserved"):
        replica.engine.import_(tmp_path / "other.db", "main", update=True)
    assert dump(replica.connect()) == stock_dump(source)


def test_a_file_being_written_is_busy_and_a_wal_mode_file_is_read_whole(replicas, tmp_path) -> None:
    source, replica = make(tmp_path / "source.db"), replicas()
    replica.engine.import_(source, "main")
    with process(source, "BEGIN EXCLUSIVE"), pytest.raises(BusyError):
        replica.engine.import_(source, "main", update=True)
    with process(
        source,
        "PRAGMA journal_mode=wal",
        "PRAGMA wal_autocheckpoint=0",
        "INSERT INTO t VALUES(9999, 'in the wal', zeroblob(50000))",
    ):
        assert replica.engine.import_(source, "main", update=True).differ < 30
    connection = replica.connect()
    assert rows(connection, "SELECT word FROM t WHERE k = 9999") == [("in the wal",)]
    assert connection.pragma("journal_mode") != "wal"


@pytest.mark.parametrize("error", [KeyboardInterrupt, DamageError])
def test_an_interrupted_update_leaves_the_volume_unchanged(
    replicas, tmp_path, monkeypatch, error
) -> None:
    monkeypatch.setattr(transaction, "STAGED_BYTES_MAX", 64 << 10)
    monkeypatch.setattr(comparison, "BATCH_BYTES", 64 << 10)
    source, replica = make(tmp_path / "source.db", rows_count=3000, row_bytes=4000), replicas()
    replica.engine.import_(source, "main")
    old, before = stock_dump(source), replica.engine.open("main").begin()
    change(source, "UPDATE t SET v = randomblob(4000)")
    spilled: list[int] = []
    append = BranchLog.append

    def count(log, *arguments):
        spilled.append(1)
        return append(log, *arguments)

    def fail(page: int, _: int) -> None:
        if page > 2000:
            raise error("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(BranchLog, "append", count)
        with pytest.raises(error):
            replica.engine.import_(source, "main", update=True, progress=fail)
    assert spilled
    volume = replica.engine.open("main")
    assert volume.begin() is before
    assert not volume.branch_log.is_longer_than_needed(before.end.offset)
    assert leftovers(replica) == []
    connection = replica.connect()
    assert dump(connection) == old
    connection.execute("INSERT INTO t VALUES(-1, 'goes on', NULL)")
    replica.engine.import_(source, "main", update=True)
    assert dump(connection) == stock_dump(source)
    assert dump(replicas().connect()) == stock_dump(source)


def test_the_lock_page_is_left_alone(replicas, tmp_path, monkeypatch) -> None:
    source, replica = make(tmp_path / "source.db"), replicas()
    for module in (log_view, snapshot, transaction, transfer):
        monkeypatch.setattr(module, "lock_page", lambda _: 7)
    assert lock_page(4096) != 7
    replica.engine.import_(source, "main")
    data = bytearray(source.read_bytes())
    data[6 * 4096 : 8 * 4096] = bytes(8192)
    source.write_bytes(data)
    replica.engine.import_(source, "main", update=True)
    assert local_pages(replica)[1] == {1, 8}


# Where the pages are not on this machine ----------------------------------------------------------


@pytest.fixture
def published(replicas, tmp_path) -> tuple[Replica, Path]:
    """A machine that pushed a file of some hundred frames, and the file."""
    source, ours = make(tmp_path / "source.db", rows_count=4000, row_bytes=2000), replicas("ours")
    ours.engine.import_(source, "main")
    ours.engine.push("main")
    return ours, source


def used(machine: Replica, work: Callable[[], object]):
    before = machine.counts()
    work()
    return machine.counts() - before


def test_a_cold_clone_fetches_only_frames_that_differ(published, replicas) -> None:
    ours, source = published
    cold = replicas("cold")
    cold.engine.clone("main", "main")
    change(source, "UPDATE t SET v = randomblob(2000) WHERE k IN (1000, 2000, 3000)")
    counts = used(cold, lambda: cold.engine.import_(source, "main", update=True))
    (pages,) = local_pages(cold)
    frames = {(page - 1) // 16 for page in pages} | {0}
    assert len(pages) <= 8
    assert counts.requests == counts.get_range <= len(frames)
    assert counts.bytes_received < 17 * 4096 * len(frames)
    cold.engine.push("main")
    # Readers have cached all of the first version, and fetch nothing but what changed.
    reader = replicas("reader")
    reader.engine.clone("main", "main")
    reader.engine.hydrate("main")
    ours.engine.pull("main")
    assert dump(ours.connect()) == stock_dump(source)
    reader.engine.pull("main")
    missing = reader.engine.audit("main")
    assert missing.total - missing.present <= len(pages)


def test_frames_that_another_zstd_compressed_are_fetched_and_compared(
    published, replicas, monkeypatch
) -> None:
    _, source = published
    cold = replicas("cold")
    cold.engine.clone("main", "main")
    monkeypatch.setattr(comparison, "BATCH_BYTES", 1 << 20)
    monkeypatch.setattr(FrameSource, "is_frame", lambda *_: False)
    counts = used(cold, lambda: cold.engine.import_(source, "main", update=True))
    assert cold.engine.open("main").begin().local_commits == 0
    # Each batch of 256 pages in one request of 16 frames.
    pages = source.stat().st_size // 4096
    assert counts.requests <= pages // 256 + 2
    change(source, "UPDATE t SET v = randomblob(2000) WHERE k = 1000")
    assert used(cold, lambda: cold.engine.import_(source, "main", update=True)).requests == 0
    assert dump(cold.connect()) == stock_dump(source)


def test_a_cache_too_small_for_a_batch_costs_requests_and_no_wrong_page(
    published, replicas, monkeypatch
) -> None:
    _, source = published
    cold = replicas("cold")
    cold.engine.logs._cache_bytes_max = 1 << 18
    cold.engine.clone("main", "main")
    change(source, "UPDATE t SET v = randomblob(2000) WHERE k % 500 = 0")
    with monkeypatch.context() as patch:
        patch.setattr(FrameSource, "is_frame", lambda *_: False)
        done = cold.engine.import_(source, "main", update=True)
    assert done.differ < 60
    assert dump(cold.connect()) == stock_dump(source)


def test_an_unreachable_remote_ends_an_update_and_changes_nothing(
    published, replicas, monkeypatch
) -> None:
    ours, source = published
    store = FaultyStore(ours.engine.store)
    cold = replicas("cold", store=store)
    cold.engine.clone("main", "main")
    change(source, "UPDATE t SET v = randomblob(2000) WHERE k IN (1000, 2000, 3000)")
    store.is_cut = True
    with pytest.raises(StoreUnavailableError):
        cold.engine.import_(source, "main", update=True)
    snapshot_after = cold.engine.open("main").begin()
    assert (snapshot_after.lsn, snapshot_after.local_commits) == (0, 0)
    store.is_cut = False
    cold.engine.import_(source, "main", update=True)
    assert dump(cold.connect()) == stock_dump(source)


def test_damage_on_the_remote_ends_an_update_by_name(published, replicas, monkeypatch) -> None:
    ours, source = published
    cold = replicas("cold")
    cold.engine.clone("main", "main")
    monkeypatch.setattr(FrameSource, "is_frame", lambda *_: False)
    objects = ours.engine.store._objects.by_key
    (key,) = [key for key in objects if "/commits/" in key]
    objects[key] = objects[key][:-1] + bytes([objects[key][-1] ^ 1])
    with pytest.raises(CorruptObjectError, match="checksum mismatch"):
        cold.engine.import_(source, "main", update=True)
    assert cold.engine.open("main").begin().local_commits == 0
