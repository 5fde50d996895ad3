"""The whole cycle of a volume over HTTP, on S3 servers."""

from __future__ import annotations

import functools
import random
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import botocore.session
import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import (
    BucketMissingError,
    DivergedError,
    GraftError,
    StoreDeniedError,
    StoreUnavailableError,
)
from graft_vfs.remote.log import RemoteLog, commit_key
from graft_vfs.store.base import StoreCounts
from graft_vfs.store.s3 import PART_BYTES
from tests.support.replicas import Replica, machines_on, rows
from tests.support.servers import S3Endpoint
from tests.sync.checks import sound_log


@pytest.fixture(autouse=True, scope="module")
def descriptions_of_services_are_read_once() -> Iterator[None]:
    """Save machines, which make clients each, most of the time that making them takes."""
    with pytest.MonkeyPatch.context() as patch:
        loader = functools.cache(botocore.session.create_loader)
        patch.setattr(botocore.session, "create_loader", loader)
        yield


@pytest.fixture(params=["seaweedfs", "ministack"])
def endpoint(request) -> S3Endpoint:
    return request.getfixturevalue(request.param)


@pytest.fixture
def machines(endpoint, tmp_path) -> Iterator[Callable[[str], Replica]]:
    with machines_on(endpoint, tmp_path) as make:
        yield make


def real_file(path: Path) -> Path:
    """Make a file of some megabytes with the standard library's SQLite."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, name TEXT, v BLOB)")
    for number in range(3000):
        data = random.Random(number).randbytes(3500)
        connection.execute("INSERT INTO t VALUES(?, ?, ?)", (number, f"name {number}", data))
    connection.execute("CREATE INDEX names ON t(name)")
    connection.execute("COMMIT")
    connection.close()
    return path


def used(machine: Replica, work: Callable[[], object]) -> StoreCounts:
    before = machine.counts()
    work()
    return machine.counts() - before


def test_the_whole_cycle(machines, tmp_path) -> None:
    source = real_file(tmp_path / "source.db")
    stock = sqlite3.connect(source)
    ours, theirs = machines("ours"), machines("theirs")

    # A large push: the probe, a segment in parts, the claim, the ref.
    ours.engine.import_(source, "main")
    pushed = ours.engine.push("main")
    assert pushed.lsn == 1
    assert pushed.bytes_sent > PART_BYTES
    counts = ours.counts()
    parts = -(-pushed.bytes_sent // PART_BYTES)
    assert parts >= 2
    assert (counts.put, counts.put_if_absent, counts.delete) == (2 + parts, 2 + 1 + 1, 0)
    assert counts.requests == counts.put + counts.put_if_absent + counts.get_range

    # A clone brings metadata, opening it page 1, a point query its frames.
    clone = used(theirs, lambda: theirs.engine.open("main", create=True, remote="main"))
    assert clone.requests <= 2 + 2
    assert clone.bytes_received < 100_000
    expected = stock.execute("SELECT * FROM t WHERE name = 'name 1234'").fetchall()
    counts = used(theirs, lambda: theirs.connect().pragma("schema_version"))
    assert (counts.requests, counts.get_range) == (1, 1)
    b = theirs.connect()
    found: list = []
    counts = used(theirs, lambda: found.extend(rows(b, "SELECT * FROM t WHERE name = 'name 1234'")))
    assert found == expected
    assert 1 <= counts.get_range == counts.requests <= 4
    again = used(theirs, lambda: rows(b, "SELECT * FROM t WHERE name = 'name 1234'"))
    assert again.requests == 0

    # All of it, and both sides agree.
    audit = theirs.engine.audit("main")
    assert audit.checksum is None
    assert audit.present < audit.total
    theirs.engine.hydrate("main")
    ours_audit, theirs_audit = ours.engine.audit("main"), theirs.engine.audit("main")
    assert theirs_audit.present == theirs_audit.total == audit.total
    assert theirs_audit.checksum == ours_audit.checksum is not None
    assert used(theirs, lambda: rows(b)).requests == 0
    assert b.pragma("integrity_check") == "ok"

    # Small pushes and pulls, there and back.
    a = ours.connect()
    a.execute("UPDATE t SET name = 'changed' WHERE k = 7")
    counts = used(ours, lambda: ours.engine.push("main"))
    assert (counts.requests, counts.put_if_absent) == (1, 1)
    counts = used(theirs, lambda: theirs.engine.pull("main"))
    assert counts.requests <= 2
    assert rows(b, "SELECT k FROM t WHERE name = 'changed'") == [(7,)]
    counts = used(theirs, lambda: theirs.engine.pull("main"))
    assert (counts.requests, counts.get_range) == (1, 1)
    b.execute("DELETE FROM t WHERE k >= 10")
    assert theirs.engine.push("main").lsn == 3
    assert ours.engine.pull("main").lsn == 3
    assert rows(a) == rows(b)

    # As it was.
    for lsn, count in ((1, 3000), (2, 3000), (3, 10)):
        past = theirs.connect("main", lsn=str(lsn))
        assert rows(past, "SELECT count(*) FROM t") == [(count,)]
    first = ours.connect("main", lsn="1")
    assert rows(first, "SELECT name FROM t WHERE k = 7") == [("name 7",)]

    # A fork goes its own way, and a third machine clones it.
    theirs.engine.fork("main", new_tag="mine/of all")
    c = theirs.connect("mine/of all")
    c.execute("INSERT INTO t VALUES(-1, 'fork', NULL)")
    assert theirs.engine.push("mine/of all").lsn == 1
    third = machines("third")
    d = third.connect("fork", remote="mine/of%20all")
    assert rows(d) == rows(c)
    assert rows(a, "SELECT count(*) FROM t WHERE k = -1") == [(0,)]

    # Both sides write.
    a.execute("INSERT INTO t VALUES(-2, 'ours', NULL)")
    b.execute("INSERT INTO t VALUES(-3, 'theirs', NULL)")
    assert ours.engine.push("main").lsn == 4
    with pytest.raises(DivergedError):
        theirs.engine.push("main")
    assert rows(b, "SELECT name FROM t WHERE k < 0") == [("theirs",)]

    log = ours.engine.status("main").remote
    assert {name for name, _ in ours.engine.refs()} == {"main", "mine/of all"}
    assert len(sound_log(ours.engine.store, log)) == 4
    assert RemoteLog(ours.engine.store, log).newest_lsn() == 4
    stock.close()


def test_a_second_machine_that_claims_the_same_lsn_gets_an_error(machines) -> None:
    ours, theirs = machines("ours"), machines("theirs")
    a = ours.connect()
    a.execute("CREATE TABLE t(k)")
    ours.engine.push("main")
    b = theirs.connect(remote="main")
    a.execute("INSERT INTO t VALUES('ours')")
    b.execute("INSERT INTO t VALUES('theirs')")
    assert theirs.engine.push("main").lsn == 2
    with pytest.raises(DivergedError):
        ours.engine.push("main")
    status = ours.engine.status("main")
    assert (status.ahead, status.behind, status.pending_push) == (1, 1, False)
    assert rows(a) == [("ours",)]


# What can be wrong with a remote ----------------------------------------------------------------


def failing(tmp_path: Path, remote: RemoteConfig, error: type[GraftError]) -> GraftError:
    """Try every verb on a remote that cannot be used; the volume stays writable and whole."""
    with Replica(tmp_path / "data", remote) as machine:
        connection = machine.connect()
        connection.execute("CREATE TABLE IF NOT EXISTS t(k)")
        connection.execute("INSERT INTO t VALUES(1)")
        before = rows(connection)
        for verb in (machine.engine.push, machine.engine.pull, machine.engine.fetch):
            with pytest.raises(error) as caught:
                verb("main")
        with pytest.raises(error):
            machine.engine.clone("main", "other")
        with pytest.raises(apsw.Error):
            connection.pragma("graft_push")
        assert rows(connection) == before
        status = machine.engine.status("main")
        assert status.last_error
        assert status.pending_push is False
        assert status.ahead == status.local_lsn
        return caught.value


def works(tmp_path: Path, remote: RemoteConfig) -> None:
    with Replica(tmp_path / "data", remote) as machine:
        connection = machine.connect()
        before = rows(connection)
        assert machine.engine.push("main").lsn == 1
        assert machine.engine.status("main").last_error is None
        with Replica(tmp_path / "clone", remote) as clone:
            assert rows(clone.connect(remote="main")) == before


def test_wrong_credentials_lose_nothing_and_correct_ones_continue(seaweedfs, tmp_path) -> None:
    bucket = seaweedfs.fresh_bucket()
    remote = RemoteConfig(type="s3_compatible", bucket=bucket, endpoint=seaweedfs.url)
    stranger = S3Endpoint(seaweedfs.url, secret_key="marker-of-a-wrong-secret")
    with stranger.identity():
        error = failing(tmp_path, remote, StoreDeniedError)
    assert "marker" not in str(error)
    assert error.next_step
    with seaweedfs.identity():
        works(tmp_path, remote)


def test_a_missing_bucket_loses_nothing_and_may_be_created_later(ministack, tmp_path) -> None:
    bucket = f"late-{secrets.token_hex(6)}"
    remote = RemoteConfig(type="s3_compatible", bucket=bucket, endpoint=ministack.url)
    with ministack.identity():
        assert bucket in str(failing(tmp_path, remote, BucketMissingError))
        with ministack.client() as client:
            client.create_bucket(Bucket=bucket)
        works(tmp_path, remote)


def test_an_endpoint_without_a_server_loses_nothing(ministack, tmp_path) -> None:
    bucket = ministack.fresh_bucket()
    # Port 1 of loopback: nothing listens there, and the kernel says so at once.
    dead = RemoteConfig(type="s3_compatible", bucket=bucket, endpoint="http://127.0.0.1:1")
    with ministack.identity():
        assert "127.0.0.1:1" in str(failing(tmp_path, dead, StoreUnavailableError))
        live = RemoteConfig(type="s3_compatible", bucket=bucket, endpoint=ministack.url)
        works(tmp_path, live)


@pytest.mark.parametrize("days", [400, -400])
def test_a_wrong_clock_does_not_date_the_commits_of_all_machines(
    machines, monkeypatch, caplog, days
) -> None:
    wrong, right = machines("wrong"), machines("right")
    wrong.connect().execute("CREATE TABLE t(k)")
    now, now_ns = time.time, time.time_ns
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now() + days * 86_400)
        patch.setattr(time, "time_ns", lambda: now_ns() + days * 86_400 * 10**9)
        wrong.engine.push("main")
        wrong.connect().execute("INSERT INTO t VALUES(1)")
        before = wrong.counts()
        wrong.engine.push("main")
        assert (wrong.counts() - before).requests == 1
    assert "the commit is dated by the remote's; set the clock" in caplog.text
    right.engine.clone("main", "main")
    right.connect().execute("INSERT INTO t VALUES(2)")
    right.engine.push("main")
    times = [entry.time_ms for entry in right.engine.log("main")]
    assert len(times) == 3
    assert all(abs(each / 1000 - now()) < 3600 for each in times)


def test_a_clock_set_after_an_answer_is_not_reported_as_wrong(machines, monkeypatch) -> None:
    ours = machines("ours")
    now = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now() + 86_400)
        list(ours.engine.store.keys("refs/"))
        assert abs(ours.engine.store.clock_ahead_seconds() - 86_400) < 3600
    assert abs(ours.engine.store.clock_ahead_seconds()) < 3600


def test_a_commit_from_the_future_does_not_date_those_after_it(
    machines, monkeypatch, caplog
) -> None:
    wrong, right = machines("wrong"), machines("right")
    wrong.connect().execute("CREATE TABLE t(k)")
    wrong.engine.push("main")
    now_ns = time.time_ns
    with monkeypatch.context() as patch:
        # As by a version that knows nothing of the server's time.
        patch.setattr(wrong.engine.store, "clock_ahead_seconds", lambda: None)
        patch.setattr(time, "time_ns", lambda: now_ns() + 400 * 86_400 * 10**9)
        wrong.connect().execute("INSERT INTO t VALUES(1)")
        wrong.engine.push("main")
    right.engine.clone("main", "main")
    right.connect().execute("INSERT INTO t VALUES(2)")
    right.engine.push("main")
    assert "some machine's clock is wrong" in caplog.text
    newest, future, first = right.engine.log("main")
    assert first.time_ms <= newest.time_ms < future.time_ms
    for entry in (newest, first):
        found = right.engine.snapshot_at("main", as_of=str(entry).split()[2])
        assert found.remote.lsn == entry.lsn


# Repairs ----------------------------------------------------------------------------------------


def test_a_damaged_commit_and_a_gap_are_repaired_over_http(machines) -> None:
    ours = machines("ours")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(v)")
    for value in range(3):
        connection.execute("INSERT INTO t VALUES(?)", (value,))
        log = ours.engine.push("main").log
    store = ours.engine.store
    keys = [commit_key(log, lsn) for lsn in (1, 2, 3)]
    true = [store.get(key) for key in keys]
    store.delete(keys[0])
    store.put(keys[1], [true[1][:100] + b"damaged" + true[1][107:]])
    before = ours.counts()
    found = ours.engine.fsck("main", repair=True)
    assert found.is_sound, str(found)
    counts = ours.counts() - before
    assert (counts.put, counts.put_if_absent) == (1, 1)
    assert [store.get(key) for key in keys] == true
    theirs = machines("theirs").connect(remote="main")
    assert rows(theirs) == [(0,), (1,), (2,)]


def test_the_next_version_of_a_file_sends_and_fetches_what_differs(machines, tmp_path) -> None:
    source = real_file(tmp_path / "source.db")
    ours, reader, cold = machines("ours"), machines("reader"), machines("cold")
    ours.engine.import_(source, "main")
    first = ours.engine.push("main")
    for machine in (reader, cold):
        machine.engine.clone("main", "main")
    reader.engine.hydrate("main")
    stock = sqlite3.connect(source)
    with stock:
        stock.execute("UPDATE t SET name = 'next' WHERE k IN (10, 1500, 2990)")
    expected = stock.execute("SELECT * FROM t ORDER BY 1").fetchall()

    # Nothing is read where the first version is; a cold clone reads a frame for each that differs.
    assert used(ours, lambda: ours.engine.import_(source, "main", update=True)).requests == 0
    counts = used(cold, lambda: cold.engine.import_(source, "main", update=True))
    differ = len(cold.engine.open("main").begin().branch.index)
    assert differ <= 16
    assert counts.requests == counts.get_range <= differ
    assert counts.bytes_received < 20 * 4096 * differ

    # One request pushes it, and a reader with all of the first version fetches that object.
    counts = used(ours, lambda: ours.engine.push("main"))
    assert counts.requests == 1
    assert counts.bytes_sent < first.bytes_sent // 50
    found: list = []

    def follow() -> None:
        reader.engine.pull("main")
        found.extend(rows(reader.connect()))

    counts = used(reader, follow)
    assert found == expected
    assert counts.requests <= 3 + differ
    assert counts.bytes_received < 2 * 20 * 4096 * differ


def test_a_restore_reads_what_it_needs_and_sends_what_differs(machines, tmp_path) -> None:
    source = real_file(tmp_path / "source.db")
    ours, fresh, cold = machines("ours"), machines("fresh"), machines("cold")
    ours.engine.import_(source, "main")
    first = ours.engine.push("main")
    connection = ours.connect()
    expected = rows(connection)
    connection.execute("DELETE FROM t WHERE k IN (10, 1500, 2990)")
    ours.engine.push("main")
    differ = ours.engine.show("main").pages

    # A machine that has never seen the log: its metadata, then ranges of many frames each.
    path = tmp_path / "restored.db"
    counts = used(fresh, lambda: fresh.engine.restore_file("main", path, "1"))
    assert sqlite3.connect(path).execute("SELECT * FROM t ORDER BY 1").fetchall() == expected
    frames = -(-path.stat().st_size // (16 * 4096))
    assert counts.requests <= 4 + frames // 8 + 6
    assert counts.bytes_received < first.bytes_sent + 200_000
    assert (counts.put, counts.put_if_absent, counts.delete) == (0, 0, 0)

    # In place, the pages that changed since are read, on top of a clone that has none of them.
    cold.engine.clone("main", "main")
    counts = used(cold, lambda: cold.engine.restore("main", "1"))
    assert cold.engine.show("main").pages <= differ + 1
    assert counts.requests == counts.get_range <= 2 * differ + 2
    assert counts.bytes_received < 2 * 20 * 4096 * differ
    counts = used(cold, lambda: cold.engine.push("main"))
    assert counts.requests <= 2
    assert counts.bytes_sent < first.bytes_sent // 50
    ours.engine.pull("main")
    assert rows(connection) == expected
