"""What a commit costs does not depend on how many came before it. Counts, no times."""

from __future__ import annotations

from support.counting import counted_calls
from support.engines import reopened
from support.sql import is_sound, rows, value

import graft_vfs

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
