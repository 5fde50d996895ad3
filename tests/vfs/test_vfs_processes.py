"""Several processes on one volume, and processes that are killed while they write."""

from __future__ import annotations

import contextlib
from textwrap import dedent

import apsw
import pytest

import graft_vfs
from tests.support.children import child
from tests.support.counting import counted_calls
from tests.support.engines import reopened
from tests.support.sql import is_sound, rows, value

COUNTER = """
    connection = graft_vfs.connect("main")
    connection.set_busy_timeout(60_000)
    say("ready")
    hear()
    for _ in range({rounds}):
        connection.execute("BEGIN IMMEDIATE")
        ((n,),) = connection.execute("SELECT n FROM counter").fetchall()
        connection.execute("UPDATE counter SET n = ?", (n + 1,))
        connection.execute("INSERT INTO history(n, data) VALUES(?, zeroblob(300))", (n + 1,))
        connection.execute("COMMIT")
    connection.close()
    graft_vfs.unregister()
"""

WRITER = """
    connection = graft_vfs.connect("main")
    connection.pragma("synchronous", "{synchronous}")
    connection.pragma("cache_size", 10)
    say("ready")
    n = 0
    while True:
        n += 1
        with connection:
            connection.execute("UPDATE counter SET n = ?", (n,))
            connection.execute("INSERT INTO history(n, data) VALUES(?, zeroblob({size}))", (n,))
            connection.execute("DELETE FROM history WHERE id % 3 = 0 AND n < ?", (n - 5,))
        say(n)
"""


@pytest.fixture
def counter(connect):
    connection = connect("main")
    connection.execute(
        "CREATE TABLE counter(n); INSERT INTO counter VALUES(0);"
        "CREATE TABLE history(id INTEGER PRIMARY KEY, n UNIQUE, data)"
    )
    return connection


def test_no_increment_of_two_processes_and_this_one_is_lost(config, counter):
    rounds = 150
    with contextlib.ExitStack() as stack:
        program = COUNTER.format(rounds=rounds)
        children = [stack.enter_context(child(config.data_dir, program)) for _ in range(2)]
        for each in children:
            assert each.hear() == "ready"
        for each in children:
            each.say("go")
        counter.set_busy_timeout(60_000)
        for _ in range(rounds):
            counter.execute("BEGIN IMMEDIATE")
            n = value(counter, "SELECT n FROM counter")
            counter.execute("UPDATE counter SET n = ?", (n + 1,))
            counter.execute("COMMIT")
        for each in children:
            each.end()
    assert value(counter, "SELECT n FROM counter") == 3 * rounds
    assert value(counter, "SELECT count(DISTINCT n) FROM history") == 2 * rounds
    assert is_sound(counter)


def test_a_commit_of_another_process_is_seen_by_the_next_statement(config, counter):
    program = """
        connection = graft_vfs.connect("main")
        say("ready")
        while line := hear():
            connection.execute("UPDATE counter SET n = ?", (int(line),))
            say(connection.execute("SELECT n FROM counter").fetchall()[0][0])
    """
    with child(config.data_dir, program) as other:
        other.hear()
        for turn in range(1, 50):
            other.say(str(turn))
            assert other.hear() == str(turn)
            assert value(counter, "SELECT n FROM counter") == turn
        with counted_calls() as calls:
            assert value(counter, "SELECT n FROM counter") == 49
        assert calls["pages"] == 0


def test_a_snapshot_lasts_while_another_process_commits(config, connect, counter):
    with counter:
        counter.executemany(
            "INSERT INTO history(n, data) VALUES(?, zeroblob(900))", ((n,) for n in range(300))
        )
    counter.pragma("cache_size", 3)
    program = """
        connection = graft_vfs.connect("main")
        for turn in range(20):
            connection.execute("UPDATE history SET data = zeroblob(800); UPDATE counter SET n = 1")
        connection.execute("DELETE FROM history")
        say("done")
        hear()
    """
    counter.execute("BEGIN; SELECT n FROM counter").fetchall()
    with child(config.data_dir, program) as other:
        assert other.hear() == "done"
        # Another connection of this process takes in what the other process did.
        assert value(connect("main"), "SELECT count(*) FROM history") == 0
        assert rows(counter, "SELECT count(*), sum(length(data)) FROM history") == [(300, 270_000)]
        assert is_sound(counter)
        counter.execute("COMMIT")
        assert value(counter, "SELECT count(*) FROM history") == 0


def test_a_volume_that_another_process_creates_is_seen(config, connect):
    empty = connect("main")
    assert rows(empty, "SELECT * FROM sqlite_schema") == []
    program = """
        connection = graft_vfs.connect("main")
        connection.pragma("page_size", 8192)
        connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(5)")
        say("done")
    """
    with child(config.data_dir, program) as other:
        other.hear()
    assert rows(empty, "SELECT x FROM t") == [(5,)]
    assert empty.pragma("page_size") == 8192


def test_a_writer_in_another_process_makes_this_one_busy(config, counter):
    program = """
        connection = graft_vfs.connect("main")
        connection.execute("BEGIN IMMEDIATE")
        say("holds")
        hear()
    """
    with child(config.data_dir, program) as other:
        assert other.hear() == "holds"
        with pytest.raises(apsw.BusyError):
            counter.execute("UPDATE counter SET n = 1")
        other.kill()
        counter.execute("UPDATE counter SET n = 1")
    assert value(counter, "SELECT n FROM counter") == 1


@pytest.mark.parametrize("size", [100, 30_000])
@pytest.mark.parametrize("synchronous", ["off", "normal", "full"])
@pytest.mark.parametrize("commits", [1, 40])
def test_a_killed_writer_loses_no_commit_that_it_reported(
    config, counter, synchronous, size, commits
):
    program = WRITER.format(synchronous=synchronous, size=size)
    with child(config.data_dir, program) as writer:
        assert writer.hear() == "ready"
        for _ in range(commits):
            said = writer.hear()
        reported = int([said, *writer.kill()][-1])
    # This process had the volume open all the time.
    found = value(counter, "SELECT n FROM counter")
    assert found in (reported, reported + 1)
    assert value(counter, "SELECT max(n) FROM history") == found
    assert is_sound(counter)
    counter.execute("UPDATE counter SET n = -1")  # The lock is free.
    reopened(config)
    again = graft_vfs.connect("main")
    assert value(again, "SELECT n FROM counter") == -1
    assert value(again, "SELECT max(n) FROM history") == found
    assert is_sound(again)


def test_a_writer_killed_inside_a_large_transaction_leaves_no_trace(config, counter):
    program = """
        from graft_vfs.volume import transaction
        transaction.STAGED_BYTES_MAX = 1 << 16
        connection = graft_vfs.connect("main")
        connection.pragma("cache_size", 10)
        connection.execute("BEGIN; UPDATE counter SET n = 77")
        connection.executemany(
            "INSERT INTO history(n, data) VALUES(?, zeroblob(2000))", ((n,) for n in range(500))
        )
        say("inside")
        hear()
    """
    counter.execute("INSERT INTO history(n) VALUES(-1)")
    with child(config.data_dir, program) as writer:
        assert writer.hear() == "inside"
        writer.kill()
    assert value(counter, "SELECT n FROM counter") == 0
    counter.execute("UPDATE counter SET n = 1")
    reopened(config)
    again = graft_vfs.connect("main")
    assert value(again, "SELECT n FROM counter") == 1
    assert rows(again, "SELECT n FROM history") == [(-1,)]
    assert is_sound(again)


def test_an_unannounced_commit_of_a_dead_writer_is_not_overwritten(config, counter):
    program = """
        import os, signal
        from graft_vfs.local.branch_log import BranchLog
        connection = graft_vfs.connect("main")
        append = BranchLog.append

        def append_and_die(self, *arguments):
            append(self, *arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        say("ready")
        hear()
        BranchLog.append = append_and_die
        connection.execute("UPDATE counter SET n = 77")
    """
    with child(config.data_dir, program) as writer:
        assert writer.hear() == "ready"
        writer.say("go")
        assert writer.hear() == ""
    look = """
        connection = graft_vfs.connect("main")
        say(connection.execute("SELECT n FROM counter").fetchall()[0][0])
    """
    with child(config.data_dir, look) as reader:
        assert reader.hear() == "77"
    counter.set_busy_timeout(60_000)
    counter.execute("UPDATE counter SET n = n + 1")
    assert value(counter, "SELECT n FROM counter") == 78
    reopened(config)
    assert value(graft_vfs.connect("main"), "SELECT n FROM counter") == 78


FORKING = """
    import os

    def forked(*acts):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            for act in acts:
                try:
                    act()
                    os.write(writer, b"allowed\\n")
                except Exception as error:
                    os.write(writer, f"{type(error).__name__}: {error}\\n".encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as file:
            answers = file.read().splitlines()
        os.waitpid(child, 0)
        return answers

    connection = graft_vfs.connect("main")
    run = lambda *statements: [connection.execute(each).fetchall() for each in statements][-1]
"""


def test_a_connection_carried_across_fork_is_refused_everything(config, counter):
    program = """
        answers = forked(
            lambda: graft_vfs.connect("other"),
            lambda: run("PRAGMA graft_status"),
            lambda: run("SELECT n FROM counter"),
            lambda: run("UPDATE counter SET n = 666"),
            connection.close,
        )
        for answer in answers:
            say(answer)
        run("UPDATE counter SET n = n + 1")
    """
    with child(config.data_dir, dedent(FORKING) + dedent(program)) as process:
        opened, *refused, closed = process.end()
    assert opened == "allowed"  # A new connection has an engine of the child's own.
    assert len(refused) == 3
    for answer in refused:
        assert "belongs to the parent process; open " in answer
        assert " after os.fork()" in answer
    assert closed == "allowed"
    assert value(counter, "SELECT n FROM counter") == 1


@pytest.mark.parametrize("act", ["COMMIT", "ROLLBACK", "INSERT INTO history(n) VALUES(1)", ""])
def test_a_fork_inside_a_write_transaction_leaves_it_to_the_parent(config, counter, act):
    program = f"""
        run("BEGIN IMMEDIATE", "UPDATE counter SET n = 5")
        forked(lambda: run({act!r}), lambda: run("COMMIT"), connection.close)
        say("forked")
        hear()
        run("INSERT INTO history(n) VALUES(2)", "COMMIT")
        say("committed")
    """
    with child(config.data_dir, dedent(FORKING) + dedent(program)) as process:
        assert process.hear() == "forked"
        assert value(counter, "SELECT n FROM counter") == 0
        with pytest.raises(apsw.BusyError):
            counter.execute("UPDATE counter SET n = 1")
        process.say("go")
        assert process.hear() == "committed"
    assert rows(counter, "SELECT counter.n, history.n FROM counter, history") == [(5, 2)]
    assert is_sound(counter)
