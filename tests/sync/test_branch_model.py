"""The branch model of the design's section 3: what moves, what stays, and what costs how much."""

from __future__ import annotations

import apsw
import pytest

from graft_vfs.errors import DivergedError, NotFoundError
from tests.support.replicas import rows


def test_worked_example(replicas) -> None:
    """Local 1..5, push as remote 1, others push 2..5, pull, local 6..8, push as remote 6."""
    ours, theirs = replicas("ours"), replicas("theirs")
    a = ours.connect()
    a.execute("CREATE TABLE t(k PRIMARY KEY, v)")
    for number in range(4):
        a.execute("INSERT INTO t VALUES(?, 'ours')", (number,))
    assert ours.engine.status("main").local_lsn == 5
    first = ours.engine.push("main")
    assert (first.lsn, first.local_commits) == (1, 5)

    b = theirs.connect(remote="main")
    for number in range(2, 6):
        b.execute("INSERT INTO t VALUES(?, 'theirs')", (number * 10,))
        assert theirs.engine.push("main").lsn == number

    assert ours.engine.pull("main").lsn == 5
    status = ours.engine.status("main")
    assert (status.base_lsn, status.ahead, status.behind) == (5, 0, 0)
    for number in range(100, 103):
        a.execute("INSERT INTO t VALUES(?, 'ours again')", (number,))
    snapshot = ours.engine.open("main").begin()
    assert (snapshot.branch.row.first_lsn, snapshot.lsn, snapshot.branch.row.base) == (6, 8, 5)

    second = ours.engine.push("main")
    assert (second.lsn, second.local_commits) == (6, 3)
    snapshot = ours.engine.open("main").begin()
    assert (snapshot.local_commits, snapshot.branch.row.base) == (0, 6)
    theirs.engine.pull("main")
    assert rows(a) == rows(b)
    assert len(rows(a)) == 11
    assert a.pragma("integrity_check") == "ok"


def test_commits_made_while_a_push_runs_stay_local_with_their_lsns(replicas, monkeypatch) -> None:
    replica = replicas()
    connection = replica.connect()
    connection.execute("CREATE TABLE t(k)")
    store = replica.engine.store
    put = store.put_if_absent

    def put_while_somebody_writes(key: str, data: bytes):
        if "/commits/" in key:
            connection.execute("INSERT INTO t VALUES('during the push')")
        return put(key, data)

    monkeypatch.setattr(store, "put_if_absent", put_while_somebody_writes)
    assert replica.engine.push("main").local_commits == 1
    snapshot = replica.engine.open("main").begin()
    assert (snapshot.branch.row.base, snapshot.branch.row.first_lsn, snapshot.lsn) == (1, 2, 2)
    assert rows(connection) == [("during the push",)]
    monkeypatch.undo()
    assert replica.engine.push("main").lsn == 2
    assert rows(replica.connect("copy", remote="main")) == [("during the push",)]


def test_a_transaction_that_began_before_a_push_commits_after_it(replicas) -> None:
    replica = replicas()
    connection = replica.connect()
    connection.execute("CREATE TABLE t(k)")
    connection.execute("BEGIN IMMEDIATE; INSERT INTO t VALUES(1)")
    assert replica.engine.push("main").lsn == 1
    connection.execute("INSERT INTO t VALUES(2); COMMIT")
    assert rows(connection) == [(1,), (2,)]
    assert replica.engine.status("main").ahead == 1
    assert replica.engine.push("main").lsn == 2
    assert rows(replica.connect("copy", remote="main")) == [(1,), (2,)]


def test_a_reader_keeps_its_snapshot_while_a_push_and_a_pull_happen(replicas) -> None:
    ours, theirs = replicas("ours"), replicas("theirs")
    writer = ours.connect()
    writer.execute("CREATE TABLE t(k)")
    writer.executemany("INSERT INTO t VALUES(?)", ((number,) for number in range(1000)))
    reader = ours.connect()
    reader.execute("BEGIN")
    before = rows(reader, "SELECT count(*), sum(k) FROM t")
    writer.execute("UPDATE t SET k = k + 1")
    ours.engine.push("main")
    other = theirs.connect(remote="main")
    other.execute("DELETE FROM t WHERE k % 2")
    theirs.engine.push("main")
    ours.engine.pull("main")
    assert rows(reader, "SELECT count(*), sum(k) FROM t") == before
    reader.execute("COMMIT")
    assert rows(reader) == rows(other)


def test_pull_refuses_to_move_a_diverged_volume(replicas) -> None:
    ours, theirs = replicas("ours"), replicas("theirs")
    a = ours.connect()
    a.execute("CREATE TABLE t(k)")
    ours.engine.push("main")
    b = theirs.connect(remote="main")
    b.execute("INSERT INTO t VALUES('theirs')")
    theirs.engine.push("main")
    a.execute("INSERT INTO t VALUES('ours')")
    before = ours.engine.open("main").begin()
    for verb in (ours.engine.pull, ours.engine.push):
        with pytest.raises(DivergedError, match="diverged"):
            verb("main")
    assert ours.engine.open("main").begin() is before
    assert rows(a) == [("ours",)]
    status = ours.engine.status("main")
    assert status.diverged
    assert "diverged" in (status.last_error or "")


def test_fetch_moves_nothing(replicas) -> None:
    ours, theirs = replicas("ours"), replicas("theirs")
    a = ours.connect()
    a.execute("CREATE TABLE t(k)")
    ours.engine.push("main")
    b = theirs.connect(remote="main")
    b.execute("INSERT INTO t VALUES(1)")
    theirs.engine.push("main")
    assert ours.engine.fetch("main").commits == 1
    assert rows(a) == []
    assert ours.engine.status("main").behind == 1


def test_a_pull_is_seen_by_connections_that_had_read_before(replicas) -> None:
    ours, theirs = replicas("ours"), replicas("theirs")
    a = ours.connect()
    a.execute("CREATE TABLE t(k)")
    ours.engine.push("main")
    b = theirs.connect(remote="main")
    for number in range(20):
        b.execute("INSERT INTO t VALUES(?)", (number,))
        theirs.engine.push("main")
        ours.engine.pull("main")
        assert rows(a) == rows(b)


def test_requests_of_each_verb(replicas) -> None:
    ours, theirs = replicas("ours"), replicas("theirs")
    a = ours.connect()
    a.execute("CREATE TABLE t(k)")
    ours.engine.push("main")
    a.execute("INSERT INTO t VALUES(1)")
    before = ours.counts()
    ours.engine.push("main")
    used = ours.counts() - before
    assert (used.requests, used.put_if_absent) == (1, 1), "a small push is one request"
    before = ours.counts()
    ours.engine.fetch("main")
    ours.engine.pull("main")
    used = ours.counts() - before
    assert (used.requests, used.get_range) == (2, 2), "finding nothing new is one request"
    before = ours.counts()
    ours.engine.push("main")
    assert (ours.counts() - before).requests == 0, "nothing to push costs nothing"
    before = theirs.counts()
    theirs.engine.open("main", create=True, remote="main")
    used = theirs.counts() - before
    assert used.requests <= 2 + 2, "a clone: the ref, a listing and one read for each commit"


def test_a_fork_is_lazy_and_has_its_own_log(replicas) -> None:
    ours, theirs = replicas("ours"), replicas("theirs")
    a = ours.connect()
    a.execute("CREATE TABLE t(k, v)")
    a.executemany("INSERT INTO t VALUES(?, ?)", ((n, "x" * 500) for n in range(2000)))
    ours.engine.push("main")
    theirs.engine.open("main", create=True, remote="main")
    before = theirs.counts()
    theirs.engine.fork("main", new_tag="mine")
    assert (theirs.counts() - before).requests == 0
    b = theirs.connect("mine")
    b.execute("DELETE FROM t WHERE k >= 10")
    pushed = theirs.engine.push("mine")
    assert pushed.lsn == 1
    assert len(rows(a)) == 2000
    third = replicas("third")
    c = third.connect("mine", remote="mine")
    assert rows(c) == rows(b)
    assert c.pragma("integrity_check") == "ok"
    a.execute("INSERT INTO t VALUES(-1, 'main goes on')")
    assert ours.engine.push("main").lsn == 2
    b.execute("INSERT INTO t VALUES(-2, 'so does the fork')")
    assert theirs.engine.push("mine").lsn == 2
    third.engine.pull("mine")
    assert rows(c) == rows(b)


def test_status_counts_the_commits_of_a_fork_as_a_push_does(replicas) -> None:
    replica = replicas("data")
    connection = replica.connect()
    connection.execute("CREATE TABLE t(v)")
    replica.engine.push("main")
    for commits in (0, 1):
        tag = f"fork{commits}"
        replica.engine.fork("main", new_tag=tag)
        if commits:
            replica.connect(tag).execute("INSERT INTO t VALUES(1)")
        status = replica.engine.status(tag)
        assert (status.ahead, status.unpublished_fork, status.diverged) == (commits, True, False)
        assert "engine.push(" in str(status)
        assert replica.engine.push(tag).local_commits == commits
        status = replica.engine.status(tag)
        assert (status.ahead, status.unpublished_fork) == (0, False)
        assert "is up to date" in str(status)


def test_a_fork_includes_local_commits(replicas) -> None:
    replica = replicas()
    connection = replica.connect()
    connection.execute("CREATE TABLE t(k)")
    replica.engine.push("main")
    connection.execute("INSERT INTO t VALUES('local')")
    replica.engine.fork("main", new_tag="fork")
    forked = replica.connect("fork")
    assert rows(forked) == [("local",)]
    replica.engine.push("fork")
    assert rows(replica.connect("copy", remote="fork")) == [("local",)]
    assert replica.engine.status("main").ahead == 1


def test_checkout_shows_a_past_commit_and_keeps_the_volume(replicas) -> None:
    replica = replicas()
    connection = replica.connect()
    connection.execute("CREATE TABLE t(k)")
    for number in range(1, 4):
        connection.execute("INSERT INTO t VALUES(?)", (number,))
        replica.engine.push("main")
    before = replica.engine.open("main").id
    replica.engine.checkout("main", "2")
    assert rows(replica.connect()) == [(1,), (2,)]
    assert replica.engine.open("main").id != before
    assert replica.engine.status("main").behind == 1
    replica.engine.pull("main")
    assert rows(replica.connect()) == [(1,), (2,), (3,)]
    with pytest.raises(NotFoundError):
        replica.engine.checkout("main", "9")


def test_every_remote_lsn_opens_as_it_was(replicas) -> None:
    replica = replicas()
    connection = replica.connect()
    connection.execute("CREATE TABLE t(k, v)")
    connection.executemany("INSERT INTO t VALUES(?, 0)", ((number,) for number in range(500)))
    for version in range(1, 6):
        connection.execute("UPDATE t SET v = ?", (version,))
        assert replica.engine.push("main").lsn == version
    for version in range(1, 6):
        past = replica.connect("main", lsn=str(version))
        assert rows(past, "SELECT DISTINCT v FROM t") == [(version,)]
        with pytest.raises(apsw.ReadOnlyError):
            past.execute("DELETE FROM t")
    with pytest.raises(apsw.Error, match="no commit 6"):
        replica.connect("main", lsn="6")


def test_new_and_switch_move_the_tag_and_keep_the_volumes(replicas) -> None:
    replica = replicas()
    connection = replica.connect()
    connection.execute("CREATE TABLE t(k)")
    connection.execute("INSERT INTO t VALUES('old')")
    old = replica.engine.open("main").id
    connection.pragma("graft_new")
    connection.execute("CREATE TABLE t(k)")
    assert rows(connection) == []
    connection.pragma("graft_switch", str(old))
    assert rows(connection) == [("old",)]
    assert {report.volume for report in replica.engine.volumes()} >= {old}


def test_a_second_open_needs_no_network(replicas, tmp_path) -> None:
    ours, theirs = replicas("ours"), replicas("theirs")
    a = ours.connect()
    a.execute("CREATE TABLE t(k, v)")
    a.executemany("INSERT INTO t VALUES(?, ?)", ((n, "y" * 300) for n in range(3000)))
    ours.engine.push("main")
    b = theirs.connect(remote="main")
    theirs.engine.hydrate("main")
    expected = rows(b)
    theirs.close()
    theirs._connections.clear()
    again = replicas("theirs")
    assert rows(again.connect()) == expected
    assert again.counts().requests == 0
    # Closing twice is for the fixture.
    theirs.close = lambda: None


def test_reading_pushed_pages_needs_no_network(replicas) -> None:
    replica = replicas()
    connection = replica.connect()
    connection.execute("CREATE TABLE t(k, v)")
    connection.executemany("INSERT INTO t VALUES(?, ?)", ((n, "y" * 300) for n in range(3000)))
    replica.engine.push("main")
    before = replica.counts()
    other = replica.connect()
    assert len(rows(other)) == 3000
    assert (replica.counts() - before).requests == 0
