"""Space on disk: what was rolled back, superseded or deleted is given back; opening is short."""

from __future__ import annotations

import dataclasses
import errno
import os
import threading

import apsw
import pytest

import graft_vfs
from graft_vfs.errors import (
    CommitOutcomeUnknownError,
    DivergedError,
    LocalStorageError,
    NotFoundError,
)
from graft_vfs.local import branch_log
from graft_vfs.local.branch_log import BranchLog
from graft_vfs.sync import push
from graft_vfs.volume import rotation, transaction
from graft_vfs.volume.volume import Volume
from tests.support.children import child
from tests.support.engines import reopened
from tests.support.sql import is_sound, rows, value

SMALL = 2 << 20
"""What a volume of a few pages may take: the log keeps some space zeroed past its tail."""


@pytest.fixture
def small_spills(monkeypatch):
    monkeypatch.setattr(transaction, "STAGED_BYTES_MAX", 64 << 10)


@pytest.fixture
def early_compaction(monkeypatch):
    monkeypatch.setattr(rotation, "COMPACT_BYTES", 256 << 10)


def log_bytes(engine):
    """Return (allocated bytes, apparent bytes) of the branch files of `main`."""
    files = [path.stat() for path in engine.open("main").directory.glob("*.log")]
    return sum(file.st_blocks * 512 for file in files), sum(file.st_size for file in files)


def insert_much(connection, megabytes=8):
    connection.execute(
        "WITH c(n) AS (VALUES(1) UNION ALL SELECT n + 1 FROM c WHERE n < ?) "
        "INSERT INTO t SELECT randomblob(4000) FROM c",
        (megabytes * 256,),
    )


# Transactions that come to nothing ----------------------------------------------------------------


@pytest.mark.usefixtures("small_spills")
def test_a_rolled_back_transaction_leaves_no_space_taken(engine, connect):
    connection = connect("main")
    connection.pragma("cache_size", 10)
    connection.execute("CREATE TABLE t(v)")
    connection.execute("BEGIN")
    insert_much(connection)
    assert max(log_bytes(engine)) > 8 << 20
    connection.execute("ROLLBACK")
    assert max(log_bytes(engine)) < SMALL
    connection.execute("INSERT INTO t VALUES(1)")
    assert rows(connection, "SELECT v FROM t") == [(1,)]


@pytest.mark.usefixtures("small_spills")
def test_a_rollback_leaves_no_space_taken_at_the_end_of_a_large_file(engine, connect):
    """A file may be longer by a quarter than it needs to be, but not with space in it."""
    connection = connect("main")
    connection.pragma("cache_size", 10)
    connection.execute("CREATE TABLE t(v)")
    insert_much(connection, 20)
    before, _ = log_bytes(engine)
    connection.execute("BEGIN")
    insert_much(connection, 4)
    assert log_bytes(engine)[0] > before + (3 << 20)
    connection.execute("ROLLBACK")
    assert log_bytes(engine)[0] < before + (2 << 20)
    assert rows(connection, "SELECT count(*) FROM t") == [(20 * 256,)]


@pytest.mark.usefixtures("small_spills")
@pytest.mark.parametrize("fails_at", ["write", "commit"])
def test_a_failed_transaction_leaves_no_space_taken(engine, connect, monkeypatch, fails_at):
    connection = connect("main")
    connection.pragma("cache_size", 10)
    connection.execute("CREATE TABLE t(v)")
    append = BranchLog.append
    calls = []

    def append_until_full(log, position, lsn, pages, images, page_size, commit, *sync):  # noqa: PLR0917
        calls.append(commit)
        if commit if fails_at == "commit" else len(calls) > 100:
            raise LocalStorageError("a test took the disk away")
        return append(log, position, lsn, pages, images, page_size, commit, *sync)

    with monkeypatch.context() as patch:
        patch.setattr(BranchLog, "append", append_until_full)
        with pytest.raises(apsw.Error):
            insert_much(connection)
    assert len(calls) > 100
    assert max(log_bytes(engine)) < SMALL
    assert rows(connection, "SELECT count(*) FROM t") == [(0,)]
    connection.execute("INSERT INTO t VALUES(1)")
    assert is_sound(connection)


@pytest.mark.parametrize("next_step", ["open", "write"])
def test_space_spilled_by_a_killed_process_is_released(config, connect, engine, next_step):
    connection = connect("main")
    connection.execute("CREATE TABLE t(v)")
    program = """
        from graft_vfs.volume import transaction
        transaction.STAGED_BYTES_MAX = 64 << 10
        connection = graft_vfs.connect("main")
        connection.pragma("cache_size", 10)
        connection.execute("BEGIN")
        connection.execute(
            "WITH c(n) AS (VALUES(1) UNION ALL SELECT n + 1 FROM c WHERE n < 2000) "
            "INSERT INTO t SELECT randomblob(4000) FROM c")
        say("written")
        hear()
    """
    with child(config.data_dir, program) as writer:
        assert writer.hear() == "written"
        writer.kill()
    assert max(log_bytes(engine)) > 7 << 20
    if next_step == "open":
        engine = reopened(config)
        connection = graft_vfs.connect("main")
    else:
        connection.execute("INSERT INTO t VALUES(1)")
    assert max(log_bytes(engine)) < SMALL
    assert rows(connection, "SELECT count(*) FROM t") == [(int(next_step == "write"),)]


@pytest.mark.usefixtures("small_spills")
def test_another_process_reuses_released_space(config, connect, engine):
    """It copies into mapped space that it zeroed, which must still be there."""
    connection = connect("main")
    connection.pragma("cache_size", 10)
    connection.execute("CREATE TABLE t(v)")
    program = """
        connection = graft_vfs.connect("main")
        connection.pragma("synchronous", "normal")
        while hear():
            connection.execute("INSERT INTO t VALUES(1)")
            say("done")
    """
    with child(config.data_dir, program) as writer:
        for turn in range(1, 30):
            writer.say("go")
            assert writer.hear() == "done"
            if turn % 3 == 0:
                connection.execute("BEGIN")
                insert_much(connection, megabytes=2)
                connection.execute("ROLLBACK")
            assert value(connection, "SELECT count(*) FROM t") == turn


# Images that were superseded ----------------------------------------------------------------------


def update_often(connection, times):
    connection.pragma("synchronous", "normal")
    for _ in range(times):
        connection.execute("UPDATE t SET n = n + 1")


@pytest.mark.usefixtures("early_compaction")
def test_a_row_that_is_updated_often_takes_bounded_space_and_opens_in_few_reads(
    config, engine, connect, monkeypatch
):
    connection = connect("main")
    connection.execute("CREATE TABLE t(n); INSERT INTO t VALUES(0)")
    lsn = engine.open("main").snapshot.lsn
    update_often(connection, 1500)  # 6 MB of images.
    assert max(log_bytes(engine)) < SMALL
    assert engine.open("main").snapshot.lsn == lsn + 1500
    assert engine.status("main").ahead == lsn + 1500
    reads = []
    read_chunk = BranchLog.read_chunk

    def counted(log, position):
        reads.append(position)
        return read_chunk(log, position)

    monkeypatch.setattr(BranchLog, "read_chunk", counted)
    engine = reopened(config)
    connection = graft_vfs.connect("main")
    assert rows(connection, "SELECT n FROM t") == [(1500,)]
    assert len(reads) < 200
    assert is_sound(connection)
    assert engine.push("main").local_commits == lsn + 1500
    assert engine.status("main").ahead == 0


@pytest.mark.usefixtures("early_compaction")
@pytest.mark.parametrize("pushes", [False, True])
def test_a_connection_that_keeps_the_writer_lock_compacts_as_well(engine, connect, pushes):
    connection = connect("main")
    connection.pragma("locking_mode", "exclusive")
    connection.execute("CREATE TABLE t(n); INSERT INTO t VALUES(0)")
    for _ in range(3):
        update_often(connection, 300)
        if pushes:
            connection.pragma("graft_push")
        assert max(log_bytes(engine)) < SMALL
    assert rows(connection, "SELECT n FROM t") == [(900,)]
    connection.pragma("locking_mode", "normal")
    assert rows(connect("main"), "SELECT n FROM t") == [(900,)]
    assert is_sound(connection)


@pytest.mark.usefixtures("early_compaction")
def test_readers_keep_their_snapshot_while_the_branch_file_is_compacted(config, engine, connect):
    writer, reader = connect("main"), connect("main")
    writer.execute("CREATE TABLE t(n); INSERT INTO t VALUES(0)")
    program = """
        connection = graft_vfs.connect("main")
        say(connection.execute("BEGIN; SELECT n FROM t").get)
        while hear():
            say(connection.execute("SELECT n FROM t").get)
    """
    with child(config.data_dir, program) as other:
        assert other.hear() == "0"
        value(reader, "BEGIN; SELECT n FROM t")
        file = engine.open("main").branch_log.path
        update_often(writer, 300)
        assert engine.open("main").branch_log.path != file
        assert not file.exists()
        other.say("again")
        assert other.hear() == "0"
        assert value(reader, "SELECT n FROM t") == 0
        reader.execute("COMMIT")
        assert value(reader, "SELECT n FROM t") == 300


@pytest.mark.usefixtures("early_compaction")
def test_a_process_that_knew_the_old_file_writes_to_the_new_one(config, engine, connect):
    ours = connect("main")
    ours.execute("CREATE TABLE t(n); INSERT INTO t VALUES(0)")
    program = """
        connection = graft_vfs.connect("main")
        connection.pragma("synchronous", "normal")
        while line := hear():
            for _ in range(int(line)):
                connection.execute("UPDATE t SET n = n + 1")
            say("done")
    """
    with child(config.data_dir, program) as other:
        for turn in range(1, 6):
            other.say("150")
            assert other.hear() == "done"
            update_often(ours, 150)
            assert value(ours, "SELECT n FROM t") == turn * 300
    assert is_sound(ours)
    assert engine.status("main").ahead == 5 * 300 + 2


def test_a_process_follows_a_volume_that_switches_repeatedly(config, engine, connect, monkeypatch):
    """The file that the catalog named a moment ago is gone already: the next one is looked for."""
    ours = connect("main")
    ours.execute("CREATE TABLE t(n); INSERT INTO t VALUES(0)")
    volume = engine.open("main")
    program = """
        from graft_vfs.volume import rotation
        rotation.COMPACT_BYTES = 256 << 10
        connection = graft_vfs.connect("main")
        connection.pragma("synchronous", "normal")
        while line := hear():
            for _ in range(int(line)):
                connection.execute("UPDATE t SET n = n + 1")
            say("done")
    """
    current = volume.catalog.current
    with child(config.data_dir, program) as other:
        other.say("400")
        assert other.hear() == "done"
        stale = current(volume.id)
        other.say("400")
        assert other.hear() == "done"
    assert stale[1].file != current(volume.id)[1].file
    assert not (volume.directory / stale[1].file).exists()
    answers = iter([stale])
    monkeypatch.setattr(
        volume.catalog, "current", lambda volume_id: next(answers, None) or current(volume_id)
    )
    assert value(ours, "SELECT n FROM t") == 800


@pytest.mark.usefixtures("early_compaction")
def test_the_log_shows_how_many_commits_were_compacted(engine, connect):
    connection = connect("main")
    connection.execute("CREATE TABLE t(n); INSERT INTO t VALUES(0)")
    update_often(connection, 200)
    entries = engine.log("main")
    assert sum(entry.local_commits for entry in entries) == 202
    folded = entries[-1]
    assert folded.local_commits > 50
    assert f"({folded.local_commits} commits)" in str(folded)
    report = engine.show("main", f"local:{folded.lsn}")
    assert report.local_commits == folded.local_commits
    with pytest.raises(NotFoundError, match=f"rolled into one .*; use local:{folded.lsn}"):
        engine.show("main", f"local:{folded.lsn - 1}")


@pytest.mark.usefixtures("early_compaction")
def test_a_push_planned_before_a_compaction_is_planned_again(engine, connect, monkeypatch):
    writer = connect("main")
    writer.execute("CREATE TABLE t(n); INSERT INTO t VALUES(0)")
    build, compacted = push.build, []

    def build_beside_a_writer(*arguments, **keywords):
        result = build(*arguments, **keywords)
        if not compacted:
            file = engine.open("main").branch_log.path
            update_often(writer, 300)
            compacted.append(engine.open("main").branch_log.path != file)
        return result

    monkeypatch.setattr(push, "build", build_beside_a_writer)
    assert engine.push("main").local_commits == 302
    assert compacted == [True]
    update_often(writer, 1)
    assert value(writer, "SELECT n FROM t") == 301


@pytest.mark.usefixtures("early_compaction")
@pytest.mark.parametrize("rotate_bytes", [0, rotation.ROTATE_BYTES])
def test_a_compaction_during_a_claim_keeps_what_the_push_settles(
    config, engine, connect, monkeypatch, rotate_bytes
):
    monkeypatch.setattr(rotation, "ROTATE_BYTES", rotate_bytes)
    writer = connect("main")
    writer.execute("CREATE TABLE t(n); INSERT INTO t VALUES(0); CREATE TABLE other(n)")
    put = engine.store.put_if_absent

    def put_beside_a_writer(key, data):
        if "/commits/" in key:
            file = engine.open("main").branch_log.path
            update_often(writer, 300)
            assert engine.open("main").branch_log.path != file
            assert max(log_bytes(engine)) < SMALL
        return put(key, data)

    monkeypatch.setattr(engine.store, "put_if_absent", put_beside_a_writer)
    engine.push("main")
    assert engine.status("main").ahead == 300
    assert value(writer, "SELECT n FROM t") == 300
    engine = reopened(config)
    writer = graft_vfs.connect("main")
    assert value(writer, "SELECT n FROM t") == 300
    update_often(writer, 300)
    assert max(log_bytes(engine)) < SMALL
    assert is_sound(writer)


@pytest.mark.usefixtures("early_compaction")
@pytest.mark.parametrize("ended", ["won", "unsent", "lost"])
def test_a_push_of_unknown_outcome_does_not_let_the_branch_file_grow(  # noqa: PLR0917
    config, engine, connect, machine, monkeypatch, ended
):
    writer, theirs = connect("main"), machine()
    writer.execute("CREATE TABLE t(n); INSERT INTO t VALUES(0)")
    engine.push("main")
    other = theirs.connect(remote="main")
    update_often(writer, 3)
    claim = push.claim_recorded

    def claim_without_an_answer(context, pending):
        if ended == "won":
            claim(context, pending)
        raise CommitOutcomeUnknownError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(push, "claim_recorded", claim_without_an_answer)
        with pytest.raises(CommitOutcomeUnknownError):
            engine.push("main")
    if ended == "lost":
        update_often(other, 1)
        theirs.engine.push("main")
    for turn in (1, 2, 3):
        update_often(writer, 300)
        assert max(log_bytes(engine)) < SMALL
        status = engine.status("main")
        assert (status.pending_push, status.ahead) == (True, 3 + 300 * turn)
    engine = reopened(config)
    writer = graft_vfs.connect("main")
    assert value(writer, "SELECT n FROM t") == 903
    if ended == "lost":
        with pytest.raises(DivergedError):
            engine.push("main")
    else:
        pushed = engine.push("main")
        assert (pushed.lsn, pushed.local_commits) == (3, 900)
        assert value(machine().connect(remote="main"), "SELECT n FROM t") == 903
    update_often(writer, 300)
    assert max(log_bytes(engine)) < SMALL
    assert value(writer, "SELECT n FROM t") == 1203
    assert is_sound(writer)


@pytest.mark.usefixtures("early_compaction")
@pytest.mark.parametrize("next_step", ["write", "reopen"])
def test_space_of_a_push_during_a_write_is_released_by_the_next_writer(
    config, engine, connect, monkeypatch, next_step
):
    """A push replaces the file only if it gets the writer lock; then all in it is dead."""
    writer = connect("main")
    writer.execute("CREATE TABLE t(n); INSERT INTO t VALUES(0)")
    monkeypatch.setattr(rotation, "COMPACT_BYTES", 1 << 30)
    update_often(writer, 300)
    writer.execute("BEGIN IMMEDIATE")
    engine.push("main")
    writer.execute("ROLLBACK")
    monkeypatch.setattr(rotation, "COMPACT_BYTES", 256 << 10)
    assert max(log_bytes(engine)) > 1 << 20
    if next_step == "write":
        engine.open("main").expect_dead_pages()  # As a volume that was opened just now.
        update_often(writer, 1)
    else:
        engine = reopened(config)
        writer = graft_vfs.connect("main")
    assert max(log_bytes(engine)) < 1 << 20
    update_often(writer, 2)
    assert engine.status("main").ahead == 2 + (next_step == "write")
    assert is_sound(writer)
    assert engine.push("main").local_commits == engine.open("main").snapshot.lsn - 302


@pytest.mark.usefixtures("early_compaction")
@pytest.mark.parametrize("next_step", ["write", "reopen"])
def test_vacuum_returns_the_space_of_what_was_deleted(config, engine, connect, next_step):
    connection = connect("main")
    connection.execute("CREATE TABLE t(v)")
    insert_much(connection)
    connection.execute("DELETE FROM t WHERE rowid > 10")
    connection.execute("VACUUM")
    if next_step == "reopen":
        engine = reopened(config)
        connection = graft_vfs.connect("main")
    else:
        connection.execute("UPDATE t SET v = v WHERE rowid = 1")
    assert max(log_bytes(engine)) < SMALL
    assert value(connection, "SELECT count(*) FROM t") == 10
    assert is_sound(connection)


@pytest.mark.usefixtures("early_compaction")
def test_damage_is_not_copied_and_other_pages_stay_readable(config, engine, connect):
    connection = connect("main")
    connection.execute("CREATE TABLE t(n); CREATE TABLE u(v)")
    connection.execute("INSERT INTO t VALUES(0); INSERT INTO u VALUES(randomblob(3000))")
    update_often(connection, 10)
    snapshot = engine.open("main").snapshot
    root = value(connection, "SELECT rootpage FROM sqlite_schema WHERE name = 'u'")
    _, offset = snapshot.locate(root)
    log = snapshot.branch.branch_log.path
    reopened(config)
    with log.open("r+b") as file:
        file.seek(offset + 2000)
        file.write(b"!!!!")
    connection = graft_vfs.connect("main")
    update_often(connection, 300)
    assert log.exists()
    assert value(connection, "SELECT n FROM t") == 310
    with pytest.raises(apsw.Error, match="damaged"):
        value(connection, "SELECT v FROM u")


def test_a_slowly_opening_volume_does_not_delay_others(config, engine, connect, monkeypatch):
    for tag in ("slow", "quick"):
        connect(tag).execute("CREATE TABLE t(n)")
    slow = engine.status("slow").volume
    engine = reopened(config)
    load, is_loading, may_go_on = Volume._load, threading.Event(), threading.Event()

    def load_slowly(volume):
        if volume.id == slow:
            is_loading.set()
            assert may_go_on.wait(60)
        load(volume)

    monkeypatch.setattr(Volume, "_load", load_slowly)
    threads = [threading.Thread(target=engine.open, args=("slow",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert is_loading.wait(60)
    assert rows(graft_vfs.connect("quick"), "SELECT n FROM t") == []
    may_go_on.set()
    for thread in threads:
        thread.join()
    assert engine.open("slow") is engine.open("slow")


# Small volumes ------------------------------------------------------------------------------------


def test_a_small_volume_has_a_small_apparent_size(engine, connect):
    connection = connect("main")
    connection.execute("CREATE TABLE t(n); INSERT INTO t VALUES(1)")
    connection.pragma("graft_push")
    allocated, apparent = log_bytes(engine)
    assert allocated <= apparent <= 256 << 10


# A file that another program changes --------------------------------------------------------------


def test_a_truncated_branch_file_is_a_named_error_and_no_signal(config, engine, connect):
    connect("main").execute("CREATE TABLE t(v); INSERT INTO t VALUES(zeroblob(100000))")
    path = engine.open("main").branch_log.path
    program = """
        from graft_vfs.volume import current_branch
        current_branch.LOOK_SECONDS = 0
        connection = graft_vfs.connect("main")
        say(connection.execute("SELECT length(v) FROM t").get)
        hear()
        # The next transaction looks, and the one after it only if that found something.
        current_branch.LOOK_SECONDS = 3600
        read = "SELECT length(v) FROM t"
        for sql in (read, read, "INSERT INTO t VALUES(1)"):
            try:
                connection.execute(sql).get
                say("no error")
            except apsw.Error as error:
                say(error)
    """
    with child(config.data_dir, program) as other:
        assert other.hear() == "100000"
        with path.open("r+b") as file:
            file.truncate(4096)
        other.say("go on")
        for _ in range(3):
            assert "another program has truncated it; restore the data directory" in other.hear()
        other.end()


@pytest.mark.parametrize("mmap", ["auto", "off"])
def test_a_sector_that_cannot_be_read_is_a_named_error(config, engine, connect, monkeypatch, mmap):
    first = connect("main")
    first.execute("CREATE TABLE t(v); INSERT INTO t VALUES(zeroblob(100000))")
    first.execute("CREATE TABLE u(v)")  # What is durable before it is read when it is asked for.
    reopened(dataclasses.replace(config, mmap=mmap))
    connection = graft_vfs.connect("main")
    assert rows(connection, "SELECT count(*) FROM sqlite_schema") == [(2,)]

    def refuse(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(branch_log, "read_exactly", refuse)
        patch.setattr(os, "pread", refuse)
        with pytest.raises(apsw.Error, match="the disk reported an error; check"):
            value(connection, "SELECT v FROM t")
    assert value(connection, "SELECT length(v) FROM t") == 100_000
