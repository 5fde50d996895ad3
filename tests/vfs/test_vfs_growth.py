"""What a commit costs, and what is kept of it, does not depend on how many came before it.

Counts, no times.
"""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

import graft_vfs
from graft_vfs.local import locks
from graft_vfs.volume import rotation
from graft_vfs.volume.open_volumes import VOLUMES_KEPT_MAX
from graft_vfs.volume.page_index import HISTORY_MIN
from tests.support.children import child
from tests.support.counting import counted_calls, counted_syncs
from tests.support.engines import reopened
from tests.support.sql import is_sound, rows, value

FEW, MANY, MEASURED = 100, 20_000, 50


def cost(connection):
    """Return (calls, bytes of log) of some one-row commits that change two pages each."""
    volume = graft_vfs.register().open("main")
    begin = volume.snapshot.end.offset
    with counted_calls() as calls:
        for n in range(MEASURED):
            connection.execute("UPDATE t SET n = ? WHERE id = 1", (-1 - n - begin,))
    return dict(calls), volume.snapshot.end.offset - begin


def test_twenty_thousand_commits_later_a_commit_costs_the_same(config, connect):
    connection = connect("main")
    connection.pragma("synchronous", "off")
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n)")
    connection.executemany("INSERT INTO t VALUES(?, 0)", ((n,) for n in range(1, 500)))
    for n in range(FEW):
        connection.execute("UPDATE t SET n = ? WHERE id = ?", (n, n % 499 + 1))
    early = cost(connection)
    for n in range(FEW, MANY):
        connection.execute("UPDATE t SET n = ? WHERE id = ?", (n, n % 499 + 1))
    late = cost(connection)
    assert late == early
    calls, log_bytes = late
    assert calls.get("pages", 0) == 0
    # One page and one chunk header a commit: page 1 is written by SQLite and kept by nobody.
    assert log_bytes == MEASURED * (56 + 4 + 8 + 4096)

    wanted = rows(connection, "SELECT id, n FROM t ORDER BY id")
    reopened(config)
    again = graft_vfs.connect("main")
    assert rows(again, "SELECT id, n FROM t ORDER BY id") == wanted
    assert is_sound(again)
    again.execute("INSERT INTO t VALUES(1000, 1)")
    assert value(again, "SELECT count(*) FROM t") == 500


def test_a_reader_that_stays_open_costs_the_writer_memory_only_for_what_changed(connect):
    writer, reader = connect("main"), connect("main")
    writer.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n); INSERT INTO t VALUES(1, 0)")
    reader.execute("BEGIN; SELECT * FROM t").fetchall()
    for n in range(200):
        writer.execute("UPDATE t SET n = ?", (n,))
    branch = graft_vfs.register().open("main").snapshot.branch
    assert set(branch.history) == {2}
    assert rows(reader, "SELECT n FROM t") == [(0,)]
    reader.execute("COMMIT")
    writer.execute("UPDATE t SET n = -1")
    assert not branch.history


def test_statements_that_change_nothing_make_no_commit_and_keep_the_cache(connect):
    writer, reader = connect("main"), connect("main")
    writer.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n); INSERT INTO t VALUES(1, 0)")
    before = graft_vfs.register().info("main").snapshot
    value(reader, "SELECT n FROM t")
    with counted_calls() as calls:
        writer.execute("UPDATE t SET n = n; DELETE FROM t WHERE id = 2; BEGIN IMMEDIATE; COMMIT")
        writer.execute("BEGIN EXCLUSIVE; UPDATE t SET n = 0 WHERE id = 1; COMMIT")
        value(reader, "SELECT n FROM t")
    assert graft_vfs.register().info("main").snapshot == before
    assert calls["pages"] == 0


def kept_images(engine):
    history = engine.open("main").snapshot.branch.history
    return sum(map(len, history.values()))


def test_endlessly_overlapping_readers_keep_no_invisible_images(engine, connect):
    writer, one, other = (connect("main") for _ in range(3))
    writer.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n); INSERT INTO t VALUES(1, 0)")
    writer.execute("CREATE TABLE other(n); INSERT INTO other VALUES(0)")
    writer.pragma("synchronous", "off")
    slow = connect("main")
    value(slow, "BEGIN; SELECT n FROM other")
    value(one, "BEGIN; SELECT n FROM t")
    for n in range(1, 4 * HISTORY_MIN):
        writer.execute("UPDATE t SET n = ?", (n,))
        # At every instant one of the two has a snapshot open.
        assert value(other, "BEGIN; SELECT n FROM t") == n
        one.execute("COMMIT")
        one, other = other, one
        if n == 2 * HISTORY_MIN:
            # It has not read this page before, so the answer is the volume's and not its cache's.
            assert value(slow, "SELECT n FROM t") == 0
            slow.execute("COMMIT")
    assert kept_images(engine) <= 2 * HISTORY_MIN
    assert value(one, "SELECT n FROM t") == n


def test_a_process_that_only_reads_keeps_no_images_of_what_others_write(config, engine, connect):
    reader = connect("main")
    reader.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n); INSERT INTO t VALUES(1, 0)")
    program = """
        connection = graft_vfs.connect("main")
        connection.pragma("synchronous", "off")
        while line := hear():
            for n in range(int(line)):
                connection.execute("UPDATE t SET n = n + 1")
            say("done")
    """
    with child(config.data_dir, program) as writer:
        for turn in range(1, 9):
            writer.say(str(HISTORY_MIN))
            assert writer.hear() == "done"
            assert value(reader, "SELECT n FROM t") == turn * HISTORY_MIN
            # One turn is what may have come since the reader's last snapshot.
            assert kept_images(engine) <= 2 * HISTORY_MIN


def descriptors():
    """Return how many descriptors this process has open."""
    return sum(1 for _ in Path("/dev/fd").iterdir())


def test_replaced_log_files_are_released(engine, connect, monkeypatch):
    monkeypatch.setattr(rotation, "ROTATE_BYTES", 0)
    writer, reader = connect("main"), connect("main")
    writer.execute("CREATE TABLE t(n); INSERT INTO t VALUES(0)")
    open_descriptors = []
    for n in range(1, 6):
        value(reader, "BEGIN; SELECT n FROM t")
        writer.execute("UPDATE t SET n = ?", (n,))
        writer.pragma("graft_push")
        # The reader has the old file mapped until its transaction ends.
        assert value(reader, "SELECT n FROM t") == n - 1
        reader.execute("COMMIT")
        assert value(reader, "SELECT n FROM t") == value(writer, "SELECT n FROM t") == n
        open_descriptors.append(descriptors())
    assert len(set(open_descriptors[1:])) == 1
    assert [path.name for path in engine.open("main").directory.glob("*.log")] == ["0006.log"]


def commit_during_each_push(engine, monkeypatch, connection):
    """Have a connection commit whenever a push claims an LSN, so that no push finds it idle."""
    put = engine.store.put_if_absent

    def put_while_somebody_writes(key, data):
        if "/commits/" in key:
            connection.execute("UPDATE t SET n = n + 1; INSERT INTO t VALUES(0)")
        return put(key, data)

    monkeypatch.setattr(engine.store, "put_if_absent", put_while_somebody_writes)


def test_a_log_file_is_replaced_despite_constant_writers(config, engine, connect, monkeypatch):
    writer, reader = connect("main"), connect("main")
    writer.execute("CREATE TABLE t(n); INSERT INTO t VALUES(0)")
    writer.execute("UPDATE t SET n = zeroblob(10000)")
    writer.execute("UPDATE t SET n = 0")
    monkeypatch.setattr(rotation, "ROTATE_BYTES", 0)
    commit_during_each_push(engine, monkeypatch, writer)
    value(reader, "BEGIN; SELECT count(*) FROM t")
    lsn = engine.open("main").snapshot.lsn
    writer.pragma("graft_push")
    snapshot = engine.open("main").snapshot
    assert snapshot.branch.row.file == "0002.log"
    assert (snapshot.lsn, snapshot.local_commits) == (lsn + 2, 2)
    # A process that knew the old file follows to the new one, and writes there.
    assert value(reader, "SELECT count(*) FROM t") == 1
    reader.execute("COMMIT")
    assert rows(reader, "SELECT n FROM t") == [(1,), (0,)]
    writer.execute("INSERT INTO t VALUES(7)")
    reopened(config)
    again = graft_vfs.connect("main")
    assert rows(again, "SELECT n FROM t") == [(1,), (0,), (7,)]
    assert is_sound(again)


def test_damage_after_pushed_commits_is_not_copied_to_a_new_log_file(engine, connect, monkeypatch):
    writer = connect("main")
    writer.execute("CREATE TABLE t(n); INSERT INTO t VALUES(zeroblob(90000))")
    monkeypatch.setattr(rotation, "ROTATE_BYTES", 0)
    put, log = engine.store.put_if_absent, engine.open("main").branch_log

    def put_beside_damage(key, data):
        if "/commits/" in key:
            writer.execute("UPDATE t SET n = 1")
            with log.path.open("r+b") as file:
                file.seek(engine.open("main").snapshot.end.offset - 1)
                file.write(b"!")
        return put(key, data)

    monkeypatch.setattr(engine.store, "put_if_absent", put_beside_damage)
    writer.pragma("graft_push")
    assert log.path.exists()
    with pytest.raises(apsw.CorruptError, match=r"committed transaction .* is damaged"):
        value(writer, "SELECT n FROM t")


def test_pushes_and_pulls_do_not_accumulate_branches(engine, connect, machine):
    ours, theirs = connect("main"), machine()
    ours.execute("CREATE TABLE t(n)")
    ours.pragma("graft_push")
    follower = theirs.connect(remote="main")
    for n in range(5):
        ours.execute("INSERT INTO t VALUES(?)", (n,))
        ours.pragma("graft_push")
        follower.pragma("graft_pull")
    assert rows(follower, "SELECT count(*) FROM t") == [(5,)]
    for each in (engine, theirs.engine):
        volume = each.open("main")
        assert each.catalog.branches(volume.id) == [volume.snapshot.branch.row]


def test_unused_tags_keep_no_descriptors_open(config, engine, connect):
    pushed = [f"tag-{number}" for number in range(2 * VOLUMES_KEPT_MAX)]
    open_descriptors = []
    for tag in pushed:
        connection = connect(tag)
        connection.pragma("synchronous", "normal")
        connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
        connection.pragma("graft_push")
        connection.execute("INSERT INTO t VALUES(2)")
        connection.close()
        open_descriptors.append(descriptors())
    assert max(open_descriptors[VOLUMES_KEPT_MAX:]) == open_descriptors[VOLUMES_KEPT_MAX]
    for tag in pushed:
        connection = connect(tag)
        assert rows(connection, "SELECT x FROM t") == [(1,), (2,)]
        connection.close()


def test_a_volume_stays_open_while_a_connection_uses_it(engine, connect):
    connection = connect("main")
    connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    value(connection, "BEGIN; SELECT x FROM t")
    for number in range(VOLUMES_KEPT_MAX + 1):
        connect(f"tag-{number}").close()
    other = connect("main")
    other.execute("UPDATE t SET x = 2")
    assert value(connection, "SELECT x FROM t") == 1
    connection.execute("COMMIT")
    assert value(connection, "SELECT x FROM t") == 2


def test_a_released_volume_is_durable(engine, connect):
    with counted_syncs() as syncs:
        connection = connect("main")
        connection.pragma("synchronous", "normal")
        connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
        connection.close()
        assert syncs["data_sync"] == 0
        for number in range(VOLUMES_KEPT_MAX):
            connect(f"tag-{number}").close()
        assert syncs["data_sync"] == 1


def test_a_push_waits_for_a_writer_to_replace_a_log_file_that_is_long(engine, connect, monkeypatch):
    monkeypatch.setattr(rotation, "ROTATE_BYTES", 0)
    writer = connect("main")
    writer.execute("CREATE TABLE t(n); INSERT INTO t VALUES(0)")
    writer.execute("BEGIN IMMEDIATE; UPDATE t SET n = 1")
    monkeypatch.setattr(locks.time, "sleep", lambda _: writer.execute("COMMIT"))
    engine.push("main")
    assert engine.open("main").branch_log.path.name == "0002.log"
    assert value(writer, "SELECT n FROM t") == 1
    assert engine.status("main").ahead == 1


def test_a_push_does_not_wait_forever_for_a_writer(engine, connect, monkeypatch):
    monkeypatch.setattr(rotation, "ROTATE_BYTES", 0)
    writer = connect("main")
    writer.execute("CREATE TABLE t(n); INSERT INTO t VALUES(0)")
    writer.execute("BEGIN IMMEDIATE; UPDATE t SET n = 1")
    writer.pragma("graft_push")
    writer.execute("COMMIT")
    assert engine.open("main").branch_log.path.name == "0001.log"
    assert engine.status("main").ahead == 1
