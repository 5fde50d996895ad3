"""Random changes of schema and rows: a merge is the same from both sides, and adds nothing."""

from __future__ import annotations

import os
import random
from collections import Counter

import apsw
import pytest

from graft_vfs.merge.conflicts import Choices, Merged, Resolution
from graft_vfs.merge.merge import merged
from graft_vfs.merge.sides import Snapshots
from tests.support.merging import Merging, Result

BASE = (
    "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b TEXT); CREATE TABLE u(k PRIMARY KEY, v);"
    "CREATE TABLE c(id INTEGER PRIMARY KEY AUTOINCREMENT, t REFERENCES t, x);"
    "CREATE TABLE n(a, b); CREATE TABLE w(k PRIMARY KEY, v) WITHOUT ROWID;"
    "CREATE VIRTUAL TABLE f USING fts5(text); CREATE VIRTUAL TABLE r USING rtree(id, x0, x1);"
    "CREATE INDEX ta ON t(a); CREATE VIEW tv AS SELECT id, a FROM t;"
    "CREATE TRIGGER tr AFTER DELETE ON t BEGIN DELETE FROM c WHERE t = old.id; END;"
    "INSERT INTO t VALUES(1, 1, 'one'), (2, 2, 'two'), (3, 3, 'three');"
    "INSERT INTO u VALUES('a', 1), ('b', 2); INSERT INTO c(t, x) VALUES(1, 1), (2, 2);"
    "INSERT INTO n VALUES(1, 1), (2, 2); INSERT INTO w VALUES('a', 1), ('b', 2);"
    "INSERT INTO f VALUES('alpha'), ('beta'); INSERT INTO r VALUES(1, 1, 2), (2, 3, 4);"
)
REBUILD = (
    "CREATE TABLE new(id INTEGER PRIMARY KEY, a, b TEXT, CHECK(a <> 77)); "
    "INSERT INTO new SELECT id, a, b FROM t; DROP TABLE t; ALTER TABLE new RENAME TO t; "
    "CREATE INDEX ta ON t(a); "
    "CREATE TRIGGER tr AFTER DELETE ON t BEGIN DELETE FROM c WHERE t = old.id; END;"
)
CHANGES = (
    "ALTER TABLE t ADD COLUMN z{n} DEFAULT {n};",
    "ALTER TABLE u ADD COLUMN same DEFAULT 1; UPDATE u SET same = {n} WHERE k = 'a';",
    "ALTER TABLE n ADD COLUMN y{n}; UPDATE n SET y{n} = {n};",
    "ALTER TABLE u RENAME COLUMN v TO v2;",
    "ALTER TABLE w DROP COLUMN v;",
    "DROP VIEW tv; " + REBUILD,
    "DROP INDEX ta; CREATE INDEX ta ON t(a, b);",
    "CREATE UNIQUE INDEX un ON u(v);",
    "CREATE VIEW v{n} AS SELECT * FROM u;",
    "CREATE TRIGGER g{n} AFTER INSERT ON u BEGIN SELECT 1; END;",
    "CREATE TABLE m{n}(a, b); INSERT INTO m{n} VALUES(1, 2), (NULL, x'00');",
    "CREATE VIRTUAL TABLE q{n} USING fts5(x); INSERT INTO q{n} VALUES('word');",
    "DROP TABLE n;",
    "DROP TABLE w;",
    "DROP VIEW tv;",
    "DROP TRIGGER tr;",
    "PRAGMA user_version = {n};",
    "INSERT INTO t(id, a, b) VALUES({n}0, {n}, 'new');",
    "UPDATE t SET a = {n}00 WHERE id = {i};",
    "UPDATE t SET b = 'b{n}' WHERE id = {i};",
    "DELETE FROM t WHERE id = {i};",
    "INSERT INTO u(k) VALUES('k{n}');",
    "INSERT INTO c(t, x) VALUES({i}, {n});",
    "INSERT INTO n(a) VALUES({n}); DELETE FROM n WHERE a = {i};",
    "INSERT OR REPLACE INTO w(k) VALUES('w{n}');",
    "INSERT INTO f VALUES('gamma {n}');",
    "UPDATE f SET text = 'delta {n}' WHERE rowid = {i};",
    "INSERT INTO r VALUES({n}1, 1, 2); DELETE FROM r WHERE id = {i};",
)


def changes(draw: random.Random, side: int) -> str:
    """Return a few changes that work one after another."""
    connection = apsw.Connection(":memory:")
    connection.execute(BASE)
    done = ""
    for _ in range(draw.choice((1, 3, 6, 10))):
        number = draw.choice((side, side, 5))
        change = draw.choice(CHANGES).format(n=number, i=draw.randrange(1, 4))
        try:
            connection.execute(f"BEGIN; {change}")
        except apsw.Error:
            connection.execute("ROLLBACK")
        else:
            connection.execute("COMMIT")
            done += change
    return done


def dump(connection: apsw.Connection) -> dict[object, object]:
    """Return the schema, and the rows of each table by the names of its columns."""
    found: dict[object, object] = {"version": connection.pragma("user_version")}
    schema = "SELECT type, name, sql, rootpage FROM main.sqlite_schema WHERE sql IS NOT NULL"
    for kind, name, sql, _ in connection.execute(schema).fetchall():
        if kind != "table":
            found[kind, name] = sql
            continue
        is_index = name.startswith(("f_", "r_", "q"))
        if name.startswith("sqlite_") or is_index:
            continue
        columns = sorted(
            column
            for column, hidden in connection.execute(
                "SELECT name, hidden FROM pragma_table_xinfo(?, 'main')", (name,)
            )
            if not hidden
        )
        listed = ", ".join(columns)
        values = ", ".join(f"typeof({column}) || quote({column})" for column in columns)
        rows = connection.execute(f"SELECT {values} FROM main.{name}").fetchall()
        found[kind, name] = listed, Counter(rows)
    return found


def check(merging: Merging, seed: int) -> set[str]:
    draw = random.Random(seed)
    ours, theirs = changes(draw, 3), changes(draw, 4)
    volume, snapshots = merging.story(BASE, ours, theirs)
    base, one, other = snapshots.base, snapshots.ours, snapshots.theirs
    for side, script in ((one, ours), (other, theirs)):
        plain = apsw.Connection(":memory:")
        plain.execute(BASE + script)
        for pair in ((base, side, base), (base, base, side)):
            with merged(volume, Snapshots(*pair), Choices()) as merge:
                assert isinstance(merge.report, Merged), (seed, str(merge.report))
                Result(merge)
                assert dump(merge.scratch.connection) == dump(plain), (seed, script)
    outcomes = set()
    for policy, mirrored in (
        (Resolution.ABORT, Resolution.ABORT),
        (Resolution.OURS, Resolution.THEIRS),
    ):
        found = []
        for each, *pair in ((policy, one, other), (mirrored, other, one)):
            with merged(volume, Snapshots(base, *pair), Choices(policy=each)) as merge:
                Result(merge)
                found.append(merge.scratch and dump(merge.scratch.connection))
                report = str(merge.report)
        first, second = found
        if first is None or second is None:
            assert first is second, (seed, policy, report)
            outcomes.add("conflicting")
            continue
        for key in first.keys() | second.keys():
            assert first[key] == second[key], (seed, policy, key)
        outcomes.add("merged")
    return outcomes


def test_a_merge_is_the_same_from_both_sides(merging):
    happened = Counter(each for seed in range(12) for each in check(merging, seed))
    assert min(happened["merged"], happened["conflicting"]) > 3, happened


@pytest.mark.deep
@pytest.mark.timeout(0)
def test_many_merges_are_the_same_from_both_sides(tmp_path_factory):
    cases = int(os.environ.get("GRAFT_TEST_MERGES", "100000")) // 50
    first = int(os.environ.get("GRAFT_TEST_SEED", "1000"))
    happened = Counter[str]()
    for start in range(0, cases, 200):
        made = Merging(tmp_path_factory.mktemp("merging"))
        for seed in range(first + start, first + min(start + 200, cases)):
            happened.update(check(made, seed))
        made.close()
    print(happened)
