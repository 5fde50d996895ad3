"""Changed leaves that are found from changed pages, against a walk through all trees."""

from __future__ import annotations

import random

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.history import key_ranges, tables
from graft_vfs.history.names import remote_snapshot
from graft_vfs.pager.snapshots import connected
from tests.support.replicas import Replica

TABLES = ("big", "wide", "small")
CREATE = (
    "CREATE TABLE big(id INTEGER PRIMARY KEY, v); CREATE TABLE wide(v); CREATE TABLE small(v);"
    "CREATE INDEX i ON big(v); CREATE TABLE other(k PRIMARY KEY, v) WITHOUT ROWID;"
)


@pytest.fixture
def machine(tmp_path):
    with Replica(tmp_path / "data", RemoteConfig(type="memory", root=str(tmp_path))) as replica:
        yield replica


def _rows(table: str, first: int, count: int, value: str) -> str:
    return (
        f"WITH RECURSIVE n(i) AS (VALUES({first}) UNION ALL SELECT i + 1 FROM n LIMIT {count}) "
        f"INSERT OR IGNORE INTO {table}(rowid, v) SELECT i, {value} FROM n;"
    )


def _change(draw: random.Random) -> str:
    table, at = draw.choice(TABLES), draw.randrange(4000)
    kind = draw.randrange(6)
    if kind == 0:
        return f"DELETE FROM {table} WHERE rowid BETWEEN {at} AND {at + draw.choice((1, 900))};"
    if kind == 1:
        return _rows(table, at, draw.choice((1, 500)), "'new'")
    if kind == 2:
        return f"UPDATE {table} SET v = zeroblob(700) WHERE rowid = {at};"
    if kind == 3:
        return f"INSERT OR IGNORE INTO other VALUES({at}, 1);"
    return f"UPDATE {table} SET v = {draw.randrange(9)} WHERE rowid = {at};"


def _covers(ranges, others) -> bool:
    return all(any(a <= first and last <= b for a, b in ranges) for first, last in others)


@pytest.mark.parametrize("auto_vacuum", ["none", "full"])
def test_both_ways_find_the_same_ranges(machine, auto_vacuum, monkeypatch):
    draw = random.Random(auto_vacuum)
    connection = machine.connect()
    connection.execute(f"PRAGMA page_size=512; PRAGMA auto_vacuum={auto_vacuum}; {CREATE}")
    connection.execute(_rows("big", 1, 3000, "hex(i)") + _rows("wide", 1, 2000, "i"))
    connection.execute(_rows("small", 1, 5, "i"))
    machine.engine.push("main")
    for _ in range(30):
        connection.execute("BEGIN; " + "".join(_change(draw) for _ in range(3)) + "COMMIT")
        newest = machine.engine.push("main")
    volume, logs = machine.engine.open("main"), machine.engine.context.logs
    found_by_pages = equal = 0
    for older in range(1, newest.lsn):
        for newer in (older + 1, min(older + 3, newest.lsn)):
            pair = [remote_snapshot(volume, logs, newest.log, lsn) for lsn in (older, newer)]
            found = {}
            for per_change in (1 << 30, 0):
                monkeypatch.setattr(key_ranges, "PAGES_PER_CHANGE", per_change)
                with connected(volume, {"main": pair[1], "older": pair[0]}) as both:
                    side = tables.Tables(both, *pair)
                    found[per_change] = {each.name: each.ranges for each in side.all()}
                    has_leaves = side.keys._leaves is not None
            found_by_pages += has_leaves
            if has_leaves:
                for name in TABLES:
                    assert _covers(found[0][name], found[1 << 30][name]), (older, newer, name)
                    equal += found[0][name] == found[1 << 30][name]
                assert bool(found[0]["other"]) == bool(found[1 << 30]["other"])
    assert found_by_pages > 20
    assert equal > 0.9 * len(TABLES) * found_by_pages


def test_a_change_of_few_pages_reads_few(machine):
    connection = machine.connect()
    connection.execute(f"PRAGMA page_size=512; {CREATE}" + _rows("big", 1, 40_000, "hex(i)"))
    machine.engine.push("main")
    connection.execute("UPDATE big SET v = 'x' WHERE id IN (5, 20000); INSERT INTO small VALUES(1)")
    newest = machine.engine.push("main")
    volume, logs = machine.engine.open("main"), machine.engine.context.logs
    pair = [remote_snapshot(volume, logs, newest.log, lsn) for lsn in (1, 2)]
    with connected(volume, {"main": pair[1], "older": pair[0]}) as both:
        side = tables.Tables(both, *pair)
        found = {each.name: each.ranges for each in side.all()}
    assert side.keys._leaves is not None
    (first, second), third = found["big"], found["small"]
    assert first[0] <= 5 <= first[1] < second[0] <= 20000 <= second[1] < 20100
    assert third == [(key_ranges.KEY_MIN, key_ranges.KEY_MAX)]
    assert found["wide"] == found["other"] == []


def test_a_value_that_was_overwritten_in_place_has_all_trees_walked(machine):
    connection = machine.connect()
    connection.execute(f"PRAGMA page_size=512; {CREATE}" + _rows("big", 1, 9000, "i"))
    connection.execute("INSERT INTO wide VALUES(zeroblob(5000))")
    machine.engine.push("main")
    with connection.blob_open("main", "wide", "v", 1, True) as blob:
        blob.seek(3000)
        blob.write(b"new")
    newest = machine.engine.push("main")
    volume, logs = machine.engine.open("main"), machine.engine.context.logs
    pair = [remote_snapshot(volume, logs, newest.log, lsn) for lsn in (1, 2)]
    with connected(volume, {"main": pair[1], "older": pair[0]}) as both:
        side = tables.Tables(both, *pair)
        assert not side.keys.is_known
        assert len(side.all()[-1].ranges) == 1
