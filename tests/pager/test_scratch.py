"""A scratch database over a snapshot: SQL as on stock SQLite, and the pages that came of it."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import apsw
import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import PageSizeError, StoreError, UsageError
from graft_vfs.pager.scratch import Scratch
from graft_vfs.pager.snapshots import scratch_over
from tests.support.replicas import Replica

CREATE = (
    "CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE INDEX by_b ON t(b);"
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) "
    "INSERT INTO t SELECT i, printf('%0200d', i) FROM n"
)


@pytest.fixture
def remote(tmp_path):
    return RemoteConfig(type="memory", root=str(tmp_path))


@pytest.fixture
def machine(tmp_path, remote):
    with Replica(tmp_path / "data", remote) as replica:
        replica.connect().execute(CREATE)
        yield replica


@contextlib.contextmanager
def scratch_of(machine: Replica, tag: str = "main"):
    volume = machine.engine.open(tag)
    with volume.pinned() as snapshot, scratch_over(volume, snapshot) as scratch:
        yield scratch


def commit_to(machine: Replica, tag: str, scratch: Scratch) -> None:
    """Make the scratch database the newest commit of a volume that has its snapshot."""
    volume = machine.engine.open(tag)
    with volume.writing() as snapshot:
        volume.write_pages(snapshot, scratch.changed_pages(), page_count=scratch.page_count)


def dump(connection: apsw.Connection) -> list[object]:
    schema = connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY 2").fetchall()
    tables = [name for kind, name, _ in schema if kind == "table"]
    rows = [
        connection.execute(f'SELECT * FROM "{name}" ORDER BY 1, 2').fetchall() for name in tables
    ]
    return [schema, rows, connection.execute("PRAGMA integrity_check").get]


def files_below(directory: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.startswith("catalog.db")
    }


def test_writes_are_visible_in_the_scratch_and_never_in_the_volume(machine, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before, stood = files_below(tmp_path), dump(machine.connect())
    with scratch_of(machine) as scratch:
        scratch.connection.execute(
            "UPDATE t SET b = 'new' WHERE a % 7 = 0; DELETE FROM t WHERE a > 280"
        )
        scratch.connection.execute("ALTER TABLE t ADD COLUMN c DEFAULT 5; CREATE TABLE u(x, y)")
        assert scratch.connection.execute("SELECT count(*), sum(c) FROM t").get == (280, 1400)
        scratch.connection.execute("BEGIN; INSERT INTO u VALUES(1, 2)")
        assert files_below(tmp_path) == before
    assert files_below(tmp_path) == before
    assert dump(machine.connect()) == stood


def test_changed_pages_give_the_same_database_in_a_volume(machine):
    machine.engine.fork("main", new_tag="other")
    with scratch_of(machine) as scratch:
        scratch.connection.execute(
            "UPDATE t SET b = 'new' WHERE a = 3; CREATE TABLE u(x, y); INSERT INTO u VALUES(1, 2)"
        )
        pages = [page for page, _ in scratch.changed_pages()]
        assert pages == sorted(set(pages))
        assert len(pages) < scratch.page_count / 2
        expected = dump(scratch.connection)
        commit_to(machine, "other", scratch)
    assert expected[-1] == "ok"
    assert dump(machine.connect("other")) == expected


def test_a_rollback_changes_nothing(machine):
    with scratch_of(machine) as scratch:
        expected = dump(scratch.connection)
        scratch.connection.execute("BEGIN; DELETE FROM t; DROP TABLE t; ROLLBACK")
        assert dump(scratch.connection) == expected
        assert list(scratch.changed_pages()) == []
        scratch.connection.execute("PRAGMA user_version=0")  # Only the counters of page 1 change.
        assert list(scratch.changed_pages()) == []


def test_a_transaction_may_be_larger_than_the_cache(machine):
    fill = (
        "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) "
        "INSERT INTO t SELECT i, randomblob(1500) FROM n"
    )
    with scratch_of(machine) as scratch:
        scratch.connection.execute("PRAGMA cache_size=10")
        before = scratch.page_count
        scratch.connection.execute(f"BEGIN; {fill}; UPDATE t SET b = 1; ROLLBACK")
        assert (scratch.page_count, list(scratch.changed_pages())) == (before, [])
        scratch.connection.execute(
            f"BEGIN; {fill}; SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; COMMIT"
        )
        assert scratch.connection.execute("SELECT count(*) FROM t").get == 4301
        assert dump(scratch.connection)[-1] == "ok"
        assert scratch.page_count > before + 1000


def test_other_snapshots_beside_it_are_read_only(machine):
    volume = machine.engine.open("main")
    with volume.pinned() as older:
        machine.connect().execute("UPDATE t SET b = 'newer' WHERE a <= 10")
        with volume.pinned() as newer, scratch_over(volume, older, {"theirs": newer}) as scratch:
            take = "UPDATE main.t SET b = (SELECT b FROM theirs.t AS o WHERE o.a = t.a) WHERE a < 5"
            scratch.connection.execute(take)
            assert scratch.connection.execute("SELECT count(*) FROM t WHERE b = 'newer'").get == 4
            with pytest.raises(apsw.ReadOnlyError):
                scratch.connection.execute("DELETE FROM theirs.t")


def test_pages_that_are_not_cached_are_fetched_as_they_are_read(machine, tmp_path, remote):
    machine.engine.push("main")
    with Replica(tmp_path / "clone", remote) as other:
        other.engine.clone("main", "main")
        with scratch_of(other) as scratch:
            scratch.connection.execute("UPDATE t SET b = 'new' WHERE a = 3")
            commit_to(other, "main", scratch)
        assert other.connect().execute("SELECT b FROM t WHERE a = 3").get == "new"
        assert other.connect().execute("PRAGMA integrity_check").get == "ok"


def test_an_unreachable_page_is_an_error_that_leaves_the_scratch_usable(machine, tmp_path, remote):
    machine.engine.push("main")
    with Replica(tmp_path / "clone", remote) as other:
        other.engine.clone("main", "main")
        with scratch_of(other) as scratch:
            reads = other.engine.store.get_range

            def refuse(*_: object, **__: object) -> bytes:
                raise StoreError("the store is away", next_step="wait")

            other.engine.store.get_range = refuse
            with pytest.raises(apsw.IOError) as raised:
                scratch.connection.execute("DELETE FROM t")
            assert isinstance(raised.value.__cause__, StoreError)
            other.engine.store.get_range = reads
            scratch.connection.execute("DELETE FROM t")
            assert dump(scratch.connection)[1:] == [[[]], "ok"]


def test_over_an_empty_snapshot_it_may_choose_its_page_size(machine):
    machine.engine.new("empty")
    with scratch_of(machine, "empty") as scratch:
        assert list(scratch.changed_pages()) == []
        scratch.connection.execute("PRAGMA page_size=1024")
        scratch.connection.execute(CREATE)
        assert scratch.page_size == 1024
        expected = dump(scratch.connection)
        commit_to(machine, "empty", scratch)
    assert dump(machine.connect("empty")) == expected


def test_another_page_size_is_refused_and_changes_nothing(machine):
    with scratch_of(machine) as scratch:
        expected = dump(scratch.connection)
        with pytest.raises(apsw.SQLError) as raised:
            scratch.connection.execute("PRAGMA page_size=8192; VACUUM")
        assert isinstance(raised.value.__cause__, PageSizeError)
        assert dump(scratch.connection) == expected
        scratch.connection.execute("PRAGMA page_size=4096; VACUUM")
        assert dump(scratch.connection) == expected


def test_wal_mode_is_refused_and_changes_nothing(machine, tmp_path):
    plain = apsw.Connection(str(tmp_path / "plain.db"))
    plain.execute("PRAGMA journal_mode=WAL; CREATE TABLE other(x)")
    with scratch_of(machine) as scratch:
        expected = dump(scratch.connection)
        assert scratch.connection.execute("PRAGMA journal_mode=WAL").get == "delete"
        with (
            pytest.raises(apsw.SQLError) as raised,
            scratch.connection.backup("main", plain, "main") as backup,
        ):
            backup.step()
        assert isinstance(raised.value.__cause__, UsageError)
        assert dump(scratch.connection) == expected
        assert list(scratch.changed_pages()) == []
    plain.close()


def test_changed_pages_are_refused_inside_a_transaction(machine):
    with scratch_of(machine) as scratch:
        scratch.connection.execute("BEGIN; DELETE FROM t")
        for ask in (lambda: list(scratch.changed_pages()), lambda: scratch.page_count):
            with pytest.raises(UsageError, match="inside a transaction"):
                ask()


@pytest.mark.parametrize("seed", range(8))
def test_any_statements_behave_as_on_stock_sqlite(tmp_path, remote, seed):
    rng = random.Random(seed)
    # The size first: setting auto_vacuum makes the file.
    setting = (
        f"PRAGMA page_size={rng.choice((512, 4096))}; PRAGMA auto_vacuum={rng.choice((0, 1, 2))}"
    )
    stock = apsw.Connection(str(tmp_path / "stock.db"))
    with Replica(tmp_path / "data", remote) as machine:
        for connection in (stock, machine.connect()):
            connection.execute(f"{setting}; {CREATE}")
        machine.engine.fork("main", new_tag="other")
        with scratch_of(machine) as scratch:
            for connection in (stock, scratch.connection):
                connection.execute("PRAGMA cache_size=8")
            for _ in range(40):
                statement = _statement(rng)
                results = [_run(each, statement) for each in (stock, scratch.connection)]
                assert results[0] == results[1], statement
            for connection in (stock, scratch.connection):
                if connection.in_transaction:
                    connection.execute("COMMIT")
            assert dump(scratch.connection) == dump(stock)
            commit_to(machine, "other", scratch)
        assert dump(machine.connect("other")) == dump(stock)
    stock.close()


def _statement(rng: random.Random) -> str:
    low, high = sorted(rng.sample(range(400), 2))
    size = rng.choice((5, 300, 2000))
    return rng.choice(
        (
            f"UPDATE t SET b = printf('%0{size}d', a) WHERE a BETWEEN {low} AND {high}",
            f"DELETE FROM t WHERE a BETWEEN {low} AND {high}",
            f"INSERT OR IGNORE INTO t VALUES({high}, printf('%0{size}d', {low}))",
            f"INSERT INTO t SELECT NULL, b FROM t WHERE a BETWEEN {low} AND {high}",
            f"CREATE TABLE u{low}(x, y); INSERT INTO u{low} SELECT a, b FROM t WHERE a < {high}",
            "DELETE FROM t",
            "BEGIN IMMEDIATE",
            "ROLLBACK",
            "COMMIT",
            "SAVEPOINT s",
            "ROLLBACK TO s",
            "RELEASE s",
            "VACUUM",
            "PRAGMA incremental_vacuum",
            "REINDEX",
        )
    )


def _run(connection: apsw.Connection, statement: str) -> object:
    try:
        return connection.execute(statement).fetchall()
    except apsw.Error as error:
        return str(error)
