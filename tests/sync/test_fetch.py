"""Fetch: what a remote log may claim about itself and about the log it was forked from."""

from __future__ import annotations

import contextlib
import shutil

import apsw
import pytest

from graft_vfs.errors import (
    CorruptCatalogError,
    CorruptObjectError,
    GraftError,
    NotFoundError,
)
from graft_vfs.format.commit import CommitHeader
from graft_vfs.ids import LogId
from graft_vfs.local.catalog.rows import CommitRow
from graft_vfs.pages import LSN_MAX
from graft_vfs.remote.log import commit_key
from graft_vfs.sync import fetch as fetch_module
from graft_vfs.sync import parents as parents_module
from graft_vfs.sync import pull as pull_module
from graft_vfs.sync import push as push_module
from graft_vfs.sync import settle as settle_module
from graft_vfs.sync.fetch import fetch_log
from graft_vfs.view import logs as logs_module
from graft_vfs.view.logs import Logs
from tests.format.commit_samples import LOG, OTHER_LOG, commit, image
from tests.support.replicas import Replica, rows


def put(replica: Replica, log: LogId, lsn: int, data: bytes) -> None:
    replica.engine.store.put(commit_key(log, lsn), [data])


def clone(replica: Replica, log: LogId) -> None:
    replica.engine.open("main", create=True, remote=str(log))


def test_a_fork_is_fetched_with_its_parent_log(replicas) -> None:
    replica = replicas()
    first, data = commit(range(1, 20), salt=1)
    put(replica, LOG, 1, data)
    put(replica, LOG, 2, commit([5], lsn=2, previous_hash=first.hash, salt=2, page_count=19)[1])
    fork = {"log_id": OTHER_LOG, "parent_log": LOG, "parent_lsn": 1, "page_count": 19}
    put(replica, OTHER_LOG, 1, commit([7], previous_hash=first.hash, salt=3, **fork)[1])
    clone(replica, OTHER_LOG)
    snapshot = replica.engine.open("main").begin()
    assert snapshot.stored(5) == image(5, salt=1), "what the parent did later is not part of it"
    assert snapshot.stored(7) == image(7, salt=3)


@pytest.mark.parametrize("parent_lsn", [1, 2])
def test_a_fork_that_does_not_match_its_parent_is_damage(replicas, parent_lsn) -> None:
    replica = replicas()
    put(replica, LOG, 1, commit(salt=1)[1])
    fork = {"log_id": OTHER_LOG, "parent_log": LOG, "parent_lsn": parent_lsn}
    put(replica, OTHER_LOG, 1, commit(previous_hash=b"x" * 32, **fork)[1])
    with pytest.raises(CorruptObjectError, match="was forked from"):
        clone(replica, OTHER_LOG)
    assert replica.engine.tags() == []


def test_logs_that_claim_to_be_forks_of_each_other_are_damage(replicas) -> None:
    replica = replicas()
    for log, parent in ((LOG, OTHER_LOG), (OTHER_LOG, LOG)):
        data = commit(log_id=log, parent_log=parent, parent_lsn=1, previous_hash=b"x" * 32)[1]
        put(replica, log, 1, data)
    before = replica.counts()
    with pytest.raises(CorruptObjectError, match="forked from itself"):
        clone(replica, LOG)
    assert (replica.counts() - before).requests <= 8


def put_forks(replica: Replica, generations: int) -> list[LogId]:
    """Put a log, a fork of it, a fork of that, and so on; returns their ids, the oldest first."""
    header, data = commit(salt=0)
    put(replica, LOG, 1, data)
    logs = [LOG]
    for number in range(1, generations):
        header, data = commit(
            [number % 19 + 1],
            salt=number,
            log_id=LogId.new(),
            parent_log=header.log_id,
            parent_lsn=1,
            previous_hash=header.hash,
            page_count=19,
        )
        put(replica, header.log_id, 1, data)
        logs.append(header.log_id)
    return logs


def test_a_long_chain_of_forks_is_fetched_with_one_request_each(replicas) -> None:
    replica = replicas()
    logs = put_forks(replica, 300)
    before = replica.counts()
    clone(replica, logs[-1])
    used = replica.counts() - before
    assert (used.requests, used.list) == (1 + 300, 1)
    snapshot = replica.engine.open("main").begin()
    assert snapshot.stored(299 % 19 + 1) == image(299 % 19 + 1, salt=299)
    before = replica.counts()
    replica.engine.clone(str(logs[200]), "older")
    assert (replica.counts() - before).requests == 2, "its parents are known"


def test_an_endless_chain_of_forks_is_refused(replicas, monkeypatch) -> None:
    replica = replicas()
    logs = put_forks(replica, 9)
    monkeypatch.setattr(parents_module, "GENERATIONS_MAX", 7)
    with pytest.raises(CorruptObjectError, match="more than 7 logs"):
        clone(replica, logs[-1])
    clone(replica, logs[-2])


def put_line(replica: Replica, lengths: list[int], fork_points: list[int]) -> list[LogId]:
    """Put logs of so many commits, each forked from the one before at the LSN given for it."""
    logs: list[LogId] = []
    start: CommitHeader | None = None
    for length, fork_point in zip(lengths, [*fork_points, 1], strict=True):
        log, previous = LogId.new(), start
        for lsn in range(1, length + 1):
            facts: dict[str, object] = {"log_id": log, "lsn": lsn, "page_count": 19}
            if previous is not None:
                facts["previous_hash"] = previous.hash
            if lsn == 1 and previous is not None:
                facts |= {"parent_log": previous.log_id, "parent_lsn": previous.lsn}
            pages = range(1, 20) if not logs and lsn == 1 else [lsn % 19 + 1]
            previous, data = commit(pages, salt=1000 * len(logs) + lsn, **facts)
            put(replica, log, lsn, data)
            if lsn == fork_point:
                start = previous
        logs.append(log)
    return logs


def test_a_clone_of_a_fork_reads_its_parents_up_to_where_the_forks_begin(replicas) -> None:
    replica = replicas()
    oldest, middle, youngest = put_line(replica, [50, 40, 3], [20, 7])
    for log, lsn in ((oldest, 21), (oldest, 50), (middle, 8), (middle, 30)):
        replica.engine.store.put(commit_key(log, lsn), [b"damage"])
    before = replica.counts()
    clone(replica, youngest)
    used = replica.counts() - before
    assert (used.get_range, used.list) == (20 + 7 + 3, 1)
    assert [replica.engine.catalog.newest_commit(log)[0] for log in (oldest, middle)] == [20, 7]
    snapshot = replica.engine.open("main").begin()
    assert snapshot.stored(9) == image(9, salt=8)
    assert snapshot.stored(5) == image(5, salt=1004)
    assert snapshot.stored(3) == image(3, salt=2002)


def test_a_partly_known_parent_is_read_from_its_last_known_commit(replicas) -> None:
    replica = replicas()
    oldest, middle, youngest = put_line(replica, [5, 12, 1], [5, 12])
    clone(replica, middle)
    replica.engine.catalog._file.connection.execute(
        "DELETE FROM commits WHERE log = ? AND lsn > 4", (middle.raw,)
    )
    before = replica.counts()
    replica.engine.clone(str(youngest), "youngest")
    assert (replica.counts() - before).get_range == 8 + 1
    assert replica.engine.catalog.newest_commit(oldest)[0] == 5


def test_a_gap_in_a_parent_is_damage_and_what_was_read_before_it_is_kept(replicas) -> None:
    replica = replicas()
    oldest, middle, youngest = put_line(replica, [5, 12, 1], [5, 12])
    data = replica.engine.store.get(commit_key(middle, 6))
    replica.engine.store.delete(commit_key(middle, 6))
    with pytest.raises(CorruptObjectError, match=r"gap.*LSN 6"):
        clone(replica, youngest)
    catalog = replica.engine.catalog
    assert [catalog.newest_commit(log)[0] for log in (oldest, middle, youngest)] == [5, 5, 0]
    put(replica, middle, 6, data)
    before = replica.counts()
    clone(replica, youngest)
    assert (replica.counts() - before).get_range == 1 + 7


def test_a_broken_chain_moves_nothing_and_keeps_the_commits_before_it(replicas) -> None:
    replica = replicas()
    first, data = commit(salt=1)
    put(replica, LOG, 1, data)
    clone(replica, LOG)
    second, data = commit(lsn=2, previous_hash=first.hash, salt=2)
    put(replica, LOG, 2, data)
    put(replica, LOG, 3, commit(lsn=3, previous_hash=b"x" * 32, salt=3)[1])
    before = replica.engine.open("main").begin()
    for verb in (replica.engine.fetch, replica.engine.pull):
        with pytest.raises(CorruptObjectError, match="does not follow"):
            verb("main")
    assert replica.engine.catalog.newest_commit(LOG) == (2, second.hash)
    assert replica.engine.open("main").begin() is before
    put(replica, LOG, 3, commit(lsn=3, previous_hash=second.hash, salt=3)[1])
    assert replica.engine.pull("main").lsn == 3


def test_a_gap_is_reported_as_damage(replicas) -> None:
    replica = replicas()
    first, data = commit(salt=1)
    put(replica, LOG, 1, data)
    second, data = commit(lsn=2, previous_hash=first.hash)
    put(replica, LOG, 2, data)
    put(replica, LOG, 4, commit(lsn=4, previous_hash=second.hash)[1])
    with pytest.raises(CorruptObjectError, match="has a gap"):
        clone(replica, LOG)


def test_a_log_without_commits_is_not_found(replicas) -> None:
    with pytest.raises(NotFoundError, match="no log"):
        clone(replicas(), LOG)


def test_a_remote_restored_from_a_backup_moves_nothing(replicas) -> None:
    """Somebody restored the remote from an older backup: what is known here stays."""
    replica = replicas()
    connection = replica.connect()
    connection.execute("CREATE TABLE t(k)")
    for number in range(3):
        connection.execute("INSERT INTO t VALUES(?)", (number,))
        replica.engine.push("main")
    log = replica.engine.status("main").remote
    replica.engine.store.delete(commit_key(log, 3))
    before = replica.engine.open("main").begin()
    assert replica.engine.pull("main").lsn == 3
    assert replica.engine.open("main").begin() is before


def test_a_pull_never_undoes_a_push_of_another_process(replicas, monkeypatch) -> None:
    first, second = replicas("ours"), replicas("ours")
    other = replicas("theirs")
    a = first.connect()
    a.execute("CREATE TABLE t(k)")
    first.engine.push("main")
    b = other.connect(remote="main")
    b.execute("INSERT INTO t VALUES('theirs')")
    other.engine.push("main")

    fetch = pull_module.fetch_log
    overtaken: list[int] = []

    def fetch_and_be_overtaken(logs, log, **arguments):
        fetched = fetch(logs, log, **arguments)
        if not overtaken:
            overtaken.append(fetched.newest)
            second.engine.pull("main")
            second.connect().execute("INSERT INTO t VALUES('ours')")
            second.engine.push("main")
        return fetched

    monkeypatch.setattr(pull_module, "fetch_log", fetch_and_be_overtaken)
    assert first.engine.pull("main").lsn == 3
    assert overtaken == [2]
    status = first.engine.status("main")
    assert (status.base_lsn, status.ahead, status.behind) == (3, 0, 0)
    assert a.execute("SELECT * FROM t").fetchall() == [("theirs",), ("ours",)]


def without_push_lock(monkeypatch) -> None:
    for module in (push_module, settle_module):
        monkeypatch.setattr(module, "alone", lambda *_: contextlib.nullcontext())


def test_a_push_in_flight_in_another_process_is_not_a_conflict(replicas, monkeypatch) -> None:
    first, second = replicas("ours"), replicas("ours")
    connection = first.connect()
    connection.execute("CREATE TABLE t(k)")

    settle = settle_module.finish
    inner: list[object] = []

    def settle_late(*arguments):
        """The commit has landed, and is not settled while the other process looks."""
        if not inner:
            inner.append(None)
            inner[0] = second.engine.pull("main").lsn
        settle(*arguments)

    # The second process looks for a record before the first one makes it.
    settle_pending = pull_module.settle_pending
    skipped: list[int] = []

    def settle_pending_late(*arguments, **keywords):
        if not skipped:
            skipped.append(1)
            return
        settle_pending(*arguments, **keywords)

    without_push_lock(monkeypatch)
    monkeypatch.setattr(push_module, "finish", settle_late)
    monkeypatch.setattr(pull_module, "settle_pending", settle_pending_late)
    assert first.engine.push("main").lsn == 1
    assert inner == [1]
    for replica in (first, second):
        status = replica.engine.status("main")
        assert (status.base_lsn, status.ahead, status.last_error) == (1, 0, None)


def test_two_processes_that_push_the_same_commits_do_not_diverge(replicas, monkeypatch) -> None:
    """The lock is out of the way, as when it was removed: the catalog's record is enough."""
    first, second = replicas("ours"), replicas("ours")
    connection = first.connect()
    connection.execute("CREATE TABLE t(k)")
    without_push_lock(monkeypatch)

    build = push_module.build
    overtaken: list[int] = []

    def build_and_be_overtaken(*arguments, **keywords):
        built = build(*arguments, **keywords)
        if not overtaken:
            overtaken.append(1)
            overtaken.append(second.engine.push("main").lsn)
        return built

    monkeypatch.setattr(push_module, "build", build_and_be_overtaken)
    pushed = first.engine.push("main")
    assert overtaken == [1, 1]
    assert (pushed.lsn, pushed.claimed) == (1, False)
    connection.execute("INSERT INTO t VALUES(1)")
    assert first.engine.push("main").lsn == 2
    assert first.engine.status("main").last_error is None


def test_a_concurrent_push_is_busy_and_keeps_the_other_record(replicas, monkeypatch) -> None:
    first, second = replicas("ours"), replicas("ours")
    first.connect().execute("CREATE TABLE t(k)")

    monkeypatch.setattr(settle_module, "claim", None)
    with pytest.raises(TypeError):
        first.engine.push("main")
    monkeypatch.undo()
    monkeypatch.setattr(push_module, "settle_alone", lambda *_: None)
    with pytest.raises(GraftError, match="another push of this volume is running"):
        second.engine.push("main")
    assert second.engine.status("main").pending_push
    monkeypatch.undo()
    assert second.engine.push("main").claimed is False
    assert second.engine.status("main").base_lsn == 1


def test_cached_pages_of_another_history_are_not_shown_after_losing_the_catalog(replicas) -> None:
    replica = replicas()
    for salt in (1, 2):
        put(replica, LOG, 1, commit(range(1, 5), salt=salt)[1])
        clone(replica, LOG)
        replica.engine.hydrate("main")
        assert replica.engine.open("main").begin().stored(3) == image(3, salt=salt)
        replica.close()
        for path in replica.engine.config.data_dir.glob("catalog.db*"):
            path.unlink()
        shutil.rmtree(replica.engine.config.data_dir / "volumes")
        replica = replicas()


# Requests ---------------------------------------------------------------------------------------


def test_a_failed_clone_keeps_the_commits_it_has_read(replicas) -> None:
    replica = replicas()
    (log,) = put_line(replica, [60], [])
    data = replica.engine.store.get(commit_key(log, 50))
    replica.engine.store.put(commit_key(log, 50), [b"damage"])
    with pytest.raises(CorruptObjectError, match="not a commit"):
        clone(replica, log)
    assert replica.engine.tags() == []
    assert replica.engine.catalog.newest_commit(log)[0] == 49
    put(replica, log, 50, data)
    before = replica.counts()
    clone(replica, log)
    assert (replica.counts() - before).get_range == 11


def test_a_clone_that_fails_at_a_gap_fails_again(replicas) -> None:
    replica = replicas()
    (log,) = put_line(replica, [12], [])
    replica.engine.store.delete(commit_key(log, 5))
    for _ in range(2):
        with pytest.raises(CorruptObjectError, match=r"gap.*LSN 5"):
            clone(replica, log)
        assert replica.engine.catalog.newest_commit(log)[0] == 4


def test_a_log_is_fetched_in_batches(replicas, monkeypatch) -> None:
    replica = replicas()
    (log,) = put_line(replica, [10], [])
    batches: list[int] = []
    add = replica.engine.catalog.add_commits

    def noted(log: LogId, rows: list[CommitRow]) -> None:
        batches.append(len(rows))
        add(log, rows)

    monkeypatch.setattr(replica.engine.catalog, "add_commits", noted)
    monkeypatch.setattr(fetch_module, "_BATCH_COMMITS", 4)
    clone(replica, log)
    assert batches == [4, 4, 2]


def test_a_replica_reads_a_new_commit_with_the_requests_of_its_pull(replicas) -> None:
    ours, theirs = replicas("ours"), replicas("theirs")
    a = ours.connect()
    a.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v)")
    ours.engine.push("main")
    b = theirs.connect(remote="main")
    assert rows(b) == []
    for number in range(3):
        a.execute("INSERT INTO t VALUES(?, 'x')", (number,))
        ours.engine.push("main")
        before = theirs.counts()
        assert theirs.engine.pull("main").commits == 1
        used = theirs.counts() - before
        assert (used.requests, used.get_range) == (2, 2)
        assert rows(b) == rows(a)
        assert (theirs.counts() - before).requests == 2, "its pages came with the commit"
    before = theirs.counts()
    theirs.engine.pull("main")
    assert (theirs.counts() - before).requests == 1


# What the catalog remembers ---------------------------------------------------------------------


def two_commits(replica: Replica) -> None:
    first, data = commit(range(1, 5), salt=1)
    put(replica, LOG, 1, data)
    put(replica, LOG, 2, commit(range(1, 5), lsn=2, previous_hash=first.hash, salt=2)[1])
    clone(replica, LOG)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "UPDATE commits SET lsn = -lsn; UPDATE commits SET lsn = 3 + lsn",
            "another commit as LSN 1",
        ),
        ("UPDATE commits SET hash = zeroblob(32)", "another commit as LSN 1"),
        ("DELETE FROM commits WHERE lsn = 1", "lacks commits"),
    ],
)
def test_a_catalog_with_other_commits_never_gives_a_wrong_page(replicas, change, message) -> None:
    with contextlib.closing(replicas()) as replica:
        two_commits(replica)
        directory = replica.engine.config.data_dir
    with contextlib.closing(apsw.Connection(str(directory / "catalog.db"))) as connection:
        connection.execute(change)
    with pytest.raises(CorruptCatalogError, match=message):
        replicas().engine.open("main")


def test_a_view_is_built_in_steps_of_bounded_bytes(replicas, monkeypatch) -> None:
    replica = replicas()
    (log,) = put_line(replica, [30], [])
    logs = replica.engine.logs
    fetch_log(logs, log)
    logs.catalog.tables.forget(log)
    size = len(logs.catalog.commits(log, 1, 1)[0].header)
    steps: list[int] = []
    commits = Logs._commits

    def noted(self, *arguments):
        found = commits(self, *arguments)
        steps.append(len(found))
        return found

    monkeypatch.setattr(Logs, "_commits", noted)
    monkeypatch.setattr(logs_module, "_BUILD_STEP_BYTES", 3 * size)
    located = logs.log_view(log, 30).locate(9)
    assert bytes(located[0][located[1] :][:512]) == image(9, salt=27)
    assert sum(steps) == 30
    assert max(steps) <= 4
    steps.clear()
    monkeypatch.setattr(logs_module, "_BUILD_STEP_BYTES", 1)
    logs.log_view(log, 29)
    assert steps == [1] * 29


def test_commits_of_two_histories_are_not_combined(replicas) -> None:
    replica = replicas()
    two_commits(replica)
    other, data = commit(range(1, 5), lsn=2, previous_hash=b"x" * 32, salt=3)
    replica.engine.catalog._file.connection.execute(
        "UPDATE commits SET hash = ?, header = ? WHERE lsn = 2", (other.hash, data)
    )
    replica.engine.logs._views.clear()
    with pytest.raises(CorruptCatalogError, match="two histories"):
        replica.engine.logs.log_view(LOG, 2)


def test_any_number_of_nested_forks_can_be_opened(replicas) -> None:
    replica = replicas()
    parent, data = commit(range(1, 5))
    put(replica, LOG, 1, data)
    fetch_log(replica.engine.logs, LOG)
    for _ in range(1200):
        fork = {"parent_log": parent.log_id, "parent_lsn": 1, "page_count": 4}
        parent, data = commit([1], log_id=LogId.new(), previous_hash=parent.hash, **fork)
        replica.engine.catalog.add_commits(parent.log_id, [CommitRow(1, parent.hash, data)])
    replica.engine.logs.note_proved(parent.log_id)  # As if it had come from there.
    clone(replica, parent.log_id)
    assert replica.engine.open("main").begin().stored(4) == image(4)


def test_a_log_that_is_forked_from_itself_in_the_catalog_is_damage(replicas) -> None:
    replica = replicas()
    for log, parent in ((LOG, OTHER_LOG), (OTHER_LOG, LOG)):
        header, data = commit(log_id=log, parent_log=parent, parent_lsn=1, previous_hash=b"x" * 32)
        replica.engine.catalog.add_commits(log, [CommitRow(1, header.hash, data)])
    with pytest.raises(CorruptCatalogError, match="a fork of itself"):
        replica.engine.logs.log_view(LOG, 1)


def test_a_parent_at_an_lsn_that_sqlite_cannot_hold_is_damage(replicas) -> None:
    replica = replicas()
    fork = {"log_id": OTHER_LOG, "parent_log": LOG, "parent_lsn": LSN_MAX}
    put(replica, OTHER_LOG, 1, commit(previous_hash=b"x" * 32, **fork)[1])
    with pytest.raises(CorruptObjectError, match="was forked from"):
        clone(replica, OTHER_LOG)
