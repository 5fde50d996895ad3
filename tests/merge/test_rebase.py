"""Rebase of volumes that diverged: machines on one remote, and the branch that is kept."""

from __future__ import annotations

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import StoreUnavailableError, UsageError
from graft_vfs.merge.conflicts import Choices, Conflicting, Resolution
from graft_vfs.merge.rebase import Rebased, rebase
from graft_vfs.sync.pull import Pulled
from graft_vfs.volume.context import Opened
from tests.support.faults import FaultyStore
from tests.support.replicas import Replica, rows

TABLE = "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES(1, 1, 1), (2, 2, 2)"


class Pair:
    """Two machines whose volumes have diverged: ours was pushed by neither."""

    def __init__(self, root) -> None:
        remote = RemoteConfig(type="memory", root=str(root))
        self.theirs = Replica(root / "theirs", remote)
        self.ours = Replica(root / "ours", remote, store=FaultyStore(remote.open()))
        self.theirs.connect().execute(TABLE)
        self.theirs.engine.push("main")
        self.ours.engine.clone("main", "main")
        self.connection = self.ours.connect()

    def diverge(self, ours: str, theirs: str) -> None:
        self.connection.execute(ours)
        self.theirs.connect().execute(theirs)
        self.theirs.engine.push("main")

    def rebase(self, **choices):
        engine = self.ours.engine
        opened = Opened("main", engine.open("main"))
        return rebase(engine.context, opened, Choices(**choices))

    def close(self) -> None:
        self.theirs.close()
        self.ours.close()


@pytest.fixture
def pair(tmp_path):
    made = Pair(tmp_path)
    yield made
    made.close()


def test_both_keep_their_work_and_the_former_branch_is_kept(pair):
    pair.diverge("UPDATE t SET a = 10 WHERE id = 1", "UPDATE t SET b = 20 WHERE id = 1")
    pair.connection.execute("INSERT INTO t VALUES(3, 3, 3)")
    done = pair.rebase()
    assert isinstance(done, Rebased)
    assert (done.before, done.lsn, done.local_commits) == (1, 2, 2)
    merged = [(1, 10, 20), (2, 2, 2), (3, 3, 3)]
    assert rows(pair.connection) == rows(pair.ours.connect()) == merged
    status = pair.ours.engine.status("main")
    assert (status.ahead, status.behind, status.diverged) == (1, 0, False)
    (kept,) = pair.ours.engine.branches("main")[1:]
    assert (kept.branch, kept.reason, kept.commits) == (done.kept, "rebase", 2)
    with pair.ours.connect(lsn=f"branch:{done.kept}") as former:
        assert rows(former) == [(1, 10, 1), (2, 2, 2), (3, 3, 3)]
    assert pair.ours.engine.push("main").lsn == 3
    pair.theirs.engine.pull("main")
    assert rows(pair.theirs.connect()) == merged
    assert str(done).splitlines()[0].startswith("Rebased 2 commits from LSN 1 onto LSN 2 of log ")


def test_a_conflict_moves_nothing(pair):
    pair.diverge("UPDATE t SET a = 10 WHERE id = 1", "UPDATE t SET a = 20 WHERE id = 1")
    found = pair.rebase()
    assert isinstance(found, Conflicting)
    assert rows(pair.connection) == [(1, 10, 1), (2, 2, 2)]
    assert pair.ours.engine.status("main").diverged
    assert pair.ours.engine.branches("main")[1:] == []
    assert isinstance(pair.rebase(policy=Resolution.THEIRS), Rebased)
    assert rows(pair.connection) == [(1, 20, 1), (2, 2, 2)]
    status = pair.ours.engine.status("main")
    # Nothing of ours is left to push, and the former branch is kept.
    assert (status.ahead, status.behind) == (0, 0)
    assert len(pair.ours.engine.branches("main")) == 2


def test_without_divergence_it_is_a_pull(pair):
    assert isinstance(pair.rebase(), Pulled)
    pair.diverge("SELECT 1", "UPDATE t SET a = 5")
    done = pair.rebase()
    assert isinstance(done, Pulled)
    assert rows(pair.connection) == [(1, 5, 1), (2, 5, 2)]
    pair.connection.execute("UPDATE t SET a = 6")
    assert isinstance(pair.rebase(), Pulled)
    assert pair.ours.engine.status("main").ahead == 1


def test_one_may_rebase_again_and_again(pair):
    for number in range(3, 8):
        pair.diverge(f"INSERT INTO t VALUES({number}, 0, 'ours')", "UPDATE t SET a = a + 1")
        assert isinstance(pair.rebase(), Rebased)
    assert rows(pair.connection, "SELECT a FROM t WHERE id < 3") == [(6,), (7,)]
    assert rows(pair.connection, "SELECT count(*) FROM t WHERE b = 'ours'") == [(5,)]
    assert rows(pair.connection, "PRAGMA integrity_check") == [("ok",)]
    assert len(pair.ours.engine.branches("main")) == 6
    pair.ours.engine.push("main")
    pair.theirs.engine.pull("main")
    assert rows(pair.theirs.connect()) == rows(pair.connection)


def test_an_open_connection_sees_the_schema_of_theirs_at_once(pair):
    assert rows(pair.connection, "SELECT count(*) FROM t") == [(2,)]
    pair.diverge("CREATE TABLE ours(x)", "CREATE TABLE theirs(y, z)")
    assert isinstance(pair.rebase(), Rebased)
    pair.connection.execute("INSERT INTO theirs(y, z) VALUES(1, 2); INSERT INTO ours(x) VALUES(1)")
    assert rows(pair.connection, "SELECT * FROM theirs") == [(1, 2)]
    assert rows(pair.connection, "PRAGMA integrity_check") == [("ok",)]


def test_a_reader_keeps_its_snapshot_and_a_writer_is_waited_for(pair):
    pair.diverge("UPDATE t SET a = 10 WHERE id = 1", "UPDATE t SET b = 20 WHERE id = 2")
    reader = pair.ours.connect()
    reader.execute("BEGIN; SELECT * FROM t").fetchall()
    assert isinstance(pair.rebase(), Rebased)
    assert rows(reader) == [(1, 10, 1), (2, 2, 2)]
    reader.execute("COMMIT")
    assert rows(reader) == [(1, 10, 1), (2, 2, 20)]


def test_messages_go_with_the_merged_commit(pair):
    pair.connection.execute("UPDATE t SET a = 9")
    pair.ours.engine.restore("main", "1", force=True, message="as it was")
    pair.diverge("UPDATE t SET a = 11 WHERE id = 1", "UPDATE t SET b = 20 WHERE id = 2")
    assert isinstance(pair.rebase(), Rebased)
    pushed = pair.ours.engine.push("main")
    assert pair.ours.engine.show("main", str(pushed.lsn)).message == "as it was"


def test_a_remote_that_fails_leaves_everything_as_it_was(pair):
    pair.diverge("UPDATE t SET a = 10 WHERE id = 1", "UPDATE t SET b = 20 WHERE id = 1")

    def fail(_: str) -> None:
        raise StoreUnavailableError("a test cut the line")

    pair.ours.engine.store.before_read = fail
    with pytest.raises(StoreUnavailableError):
        pair.rebase()
    pair.ours.engine.store.before_read = None
    assert rows(pair.connection) == [(1, 10, 1), (2, 2, 2)]
    assert isinstance(pair.rebase(), Rebased)


def test_a_policy_that_fails_leaves_everything_as_it_was(pair):
    pair.diverge("UPDATE t SET a = 10 WHERE id = 1", "UPDATE t SET a = 20 WHERE id = 1")
    with pytest.raises(UsageError, match="returned 7"):
        pair.rebase(policy=lambda _: 7)
    with pytest.raises(ZeroDivisionError):
        pair.rebase(policy=lambda _: 1 / 0)
    pair.connection.execute("UPDATE t SET b = 5 WHERE id = 2")
    assert isinstance(pair.rebase(policy=Resolution.OURS), Rebased)
    assert rows(pair.connection) == [(1, 10, 1), (2, 2, 5)]


def test_nothing_can_be_written_while_it_decides(pair):
    pair.diverge("UPDATE t SET a = 10 WHERE id = 1", "UPDATE t SET a = 20 WHERE id = 1")
    locks = []

    def policy(_):
        locks.append(pair.ours.engine.open("main").try_writing())
        return Resolution.OURS

    assert isinstance(pair.rebase(policy=policy), Rebased)
    assert locks == [None]
    pair.connection.execute("UPDATE t SET a = 30 WHERE id = 1")


def test_a_large_result_is_written_in_runs(pair):
    pair.diverge(
        "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n LIMIT 3000) "
        "INSERT INTO t SELECT i, hex(zeroblob(100)), i FROM n",
        "UPDATE t SET a = 5",
    )
    assert isinstance(pair.rebase(), Rebased)
    assert rows(pair.connection, "SELECT count(*), max(id) FROM t") == [(3002, 3009)]
    assert rows(pair.connection, "PRAGMA integrity_check") == [("ok",)]
    pair.ours.engine.push("main")
    pair.theirs.engine.pull("main")
    assert rows(pair.theirs.connect()) == rows(pair.connection)


def test_the_engine_takes_choices_by_name_and_functions(pair):
    engine = pair.ours.engine
    pair.diverge("UPDATE t SET a = 10 WHERE id = 1", "UPDATE t SET a = 20 WHERE id = 1")
    assert isinstance(engine.rebase("main", dry_run=True), Conflicting)
    assert isinstance(engine.rebase("main"), Conflicting)
    for wrong in (
        {"policy": "mine"},
        {"policy": "values"},
        {"granularity": "x"},
        {"coincident": ""},
    ):
        with pytest.raises(UsageError, match="is none of"):
            engine.rebase("main", **wrong)
    done = engine.rebase("main", policy=lambda found: {"a": found.ours["a"] + found.theirs["a"]})
    assert isinstance(done, Rebased)
    assert rows(pair.connection, "SELECT a FROM t WHERE id = 1") == [(30,)]
    assert isinstance(engine.rebase("main"), Pulled)
    assert engine.rebase("main", dry_run=True).commits == 0
