"""What one commit changed is undone on top of later ones, or nothing is."""

from __future__ import annotations

import random

import apsw
import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import (
    NotFoundError,
    RevertConflictError,
    StoreUnavailableError,
    UsageError,
)
from graft_vfs.history.revert import Reverted
from graft_vfs.pager.scratch import Scratch
from tests.support.replicas import Replica, rows
from tests.support.sql import content, is_sound


@pytest.fixture
def ours(replicas) -> Replica:
    return replicas("ours")


def push_each(replica: Replica, *statements: str, tag: str = "main") -> list[dict]:
    """Push a commit for each, and return the content after each."""
    connection, found = replica.connect(tag), []
    for statement in statements:
        connection.execute(statement)
        replica.engine.push(tag)
        found.append(content(connection))
    connection.close()
    return found


def conflicts(replica: Replica, ref: str, tag: str = "main") -> list[tuple[str, str | None, str]]:
    """Return the conflicts of a revert that is refused, of which a dry run says the same."""
    connection = replica.connect(tag)
    before = content(connection)
    lsn = replica.engine.open(tag).begin().lsn
    with pytest.raises(RevertConflictError) as caught:
        replica.engine.revert(tag, ref)
    found = replica.engine.revert(tag, ref, dry_run=True)
    assert found.lsn is None
    assert found.conflict_count == len(found.conflicts) > 0
    assert all(str(each) in str(caught.value) for each in found.conflicts[:3])
    assert f"revert({tag!r}, {ref!r}, dry_run=True)" in str(caught.value.next_step)
    assert (content(connection), replica.engine.open(tag).begin().lsn) == (before, lsn)
    return [(each.table, each.key, each.reason) for each in found.conflicts]


def undo(replica: Replica, ref: str, tag: str = "main", **options) -> Reverted:
    """Revert, compare it with its dry run, and check the database."""
    would = replica.engine.revert(tag, ref, dry_run=True)
    done = replica.engine.revert(tag, ref, **options)
    assert is_sound(replica.connect(tag))
    assert (would.lsn, would.conflicts, would.before) == (None, (), done.before)
    if done.schema or done.tables:
        assert (would.schema, would.tables, would.pages) == (done.schema, done.tables, done.pages)
    return done


THREE = "CREATE TABLE t(k INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1,'a'),(2,'b'),(3,'c')"


def test_a_commit_in_the_middle_is_undone_and_later_ones_stay(ours) -> None:
    push_each(
        ours,
        THREE,
        "UPDATE t SET v = 'wrong' WHERE k = 1; DELETE FROM t WHERE k = 2;INSERT INTO t VALUES(9,9)",
        "UPDATE t SET v = 'later' WHERE k = 3; INSERT INTO t VALUES(4, 'd')",
    )
    done = undo(ours, "2")
    assert rows(ours.connect()) == [(1, "a"), (2, "b"), (3, "later"), (4, "d")]
    assert [str(each) for each in done.tables] == ["rows of t: 1 inserted, 1 deleted, 1 updated"]
    assert str(done) == (
        f"Reverted 2 of main as local:{done.lsn}: 1 page, 4.0 KiB.\n"
        "  rows of t: 1 inserted, 1 deleted, 1 updated\n"
        "  (use `engine.restore('main', '3')` to go back to what it had)"
    )
    assert ours.engine.log("main")[0].message == "revert 2"
    assert ours.engine.push("main").lsn == 4
    ours.engine.restore("main", done.before)
    assert rows(ours.connect())[:3] == [(1, "wrong"), (3, "later"), (4, "d")]


def test_the_newest_commit_is_undone_whatever_it_did(ours) -> None:
    contents = push_each(
        ours,
        THREE,
        "DROP TABLE t; CREATE TABLE u(x); VACUUM; PRAGMA user_version = 7",
        "CREATE VIRTUAL TABLE f USING fts5(x); INSERT INTO f VALUES('some words')",
        "ALTER TABLE u ADD COLUMN y; INSERT INTO u VALUES(1, 2); CREATE TRIGGER r AFTER INSERT ON u"
        " BEGIN DELETE FROM f; END",
    )
    for lsn in (4, 6, 8):
        done = undo(ours, "HEAD")
        assert (done.before, content(ours.connect())) == (str(lsn), contents[2])
        assert ours.engine.push("main").lsn == lsn + 1
        assert undo(ours, "HEAD", message="again").lsn
        assert content(ours.connect()) == contents[3]
        assert ours.engine.push("main").lsn == lsn + 2
    ours.engine.restore("main", "2")
    ours.engine.push("main")
    assert ours.engine.revert("main", "HEAD").lsn
    assert content(ours.connect()) == contents[3]


def test_the_first_commit_is_undone_to_an_empty_database(ours) -> None:
    push_each(ours, THREE + "; CREATE VIEW w AS SELECT * FROM t; PRAGMA user_version = 3")
    done = undo(ours, "1")
    assert [str(each) for each in done.schema] == ["table t: dropped", "view w: dropped"]
    assert rows(ours.connect(), "SELECT * FROM sqlite_schema") == []
    assert ours.connect().pragma("user_version") == 0


def test_a_range_is_undone_as_one_commit(ours) -> None:
    contents = push_each(
        ours,
        THREE,
        "UPDATE t SET v = 'x' WHERE k = 1",
        "UPDATE t SET v = 'y' WHERE k IN (1, 2)",
        "INSERT INTO t VALUES(5, 'later')",
    )
    done = undo(ours, "1..3")
    assert (done.commit, ours.engine.log("main")[0].message) == ("1..3", "revert 1..3")
    assert rows(ours.connect()) == [(1, "a"), (2, "b"), (3, "c"), (5, "later")]
    ours.engine.push("main")
    ours.engine.restore("main", "4")
    ours.engine.push("main")
    assert content(ours.connect()) == contents[3]
    # What was done and undone is nothing.
    assert undo(ours, "4..").lsn is None


def test_rows_that_later_commits_changed_are_conflicts(ours) -> None:
    push_each(
        ours,
        THREE,
        "UPDATE t SET v = 'x' WHERE k < 3; DELETE FROM t WHERE k = 3; INSERT INTO t VALUES(4, 4)",
        "UPDATE t SET v = 'y' WHERE k = 1; DELETE FROM t WHERE k = 2;"
        "INSERT INTO t VALUES(3, 'new'); UPDATE t SET v = '4' WHERE k = 4",
    )
    assert conflicts(ours, "2") == [
        ("t", '"k" = 1', "a later commit changed it"),
        ("t", '"k" = 2', "a later commit deleted it"),
        ("t", '"k" = 3', "a later commit inserted a row"),
        ("t", '"k" = 4', "a later commit changed it"),
    ]


def test_what_later_commits_have_undone_already_is_left(ours) -> None:
    push_each(
        ours,
        THREE,
        "UPDATE t SET v = 'x' WHERE k < 3; DELETE FROM t WHERE k = 3; CREATE TABLE u(x);"
        "CREATE INDEX i ON t(v)",
        "UPDATE t SET v = 'a' WHERE k = 1; INSERT INTO t VALUES(3, 'c'); DROP TABLE u",
    )
    done = undo(ours, "2")
    assert rows(ours.connect()) == [(1, "a"), (2, "b"), (3, "c")]
    assert [str(each) for each in (*done.schema, *done.tables)] == [
        "index i: dropped",
        "rows of t: 0 inserted, 0 deleted, 1 updated",
    ]
    ours.engine.push("main")
    again = ours.engine.revert("main", "2")
    assert str(again) == "Nothing to revert: main has nothing left of 2."
    assert ours.engine.open("main").begin().local_commits == 0


@pytest.mark.parametrize(
    ("change", "later", "reasons"),
    [
        ("CREATE TABLE u(x)", "INSERT INTO u VALUES(1)", ["u: later commits changed its rows"]),
        (
            "CREATE TABLE u(x)",
            "CREATE INDEX ui ON u(x)",
            ["ui: a later commit made this index on u"],
        ),
        (
            "CREATE TABLE u(x)",
            "CREATE TRIGGER r AFTER INSERT ON u BEGIN SELECT 1; END",
            ["r: a later commit made this trigger on u"],
        ),
        (
            "CREATE TABLE u(x)",
            "ALTER TABLE u ADD COLUMN y",
            ["u: a later commit changed or dropped this table"],
        ),
        (
            "ALTER TABLE t ADD COLUMN w",
            "UPDATE t SET w = 1",
            ["t: later commits changed its rows"],
        ),
        ("DROP TABLE t", "CREATE TABLE t(other)", ["t: a later commit made another table"]),
        (
            "CREATE INDEX i ON t(v)",
            "DROP INDEX i; CREATE INDEX i ON t(k)",
            ["i: a later commit changed or dropped this index"],
        ),
        (
            "UPDATE t SET v = 'x' WHERE k = 1",
            "ALTER TABLE t ADD COLUMN w",
            ["t: a later commit changed or dropped this table"],
        ),
        (
            "DELETE FROM t",
            "DROP TABLE t",
            ["t: a later commit changed or dropped this table"],
        ),
        (
            "CREATE TABLE u(x INTEGER PRIMARY KEY)",
            "CREATE TABLE c(p REFERENCES u(x))",
            ["c: its foreign key is to u, which is gone"],
        ),
        (
            "PRAGMA user_version = 5",
            "PRAGMA user_version = 6",
            ["PRAGMA user_version: a later commit set it again"],
        ),
        (
            "CREATE TABLE u(x)",
            "CREATE VIEW w AS SELECT x FROM u",
            ["the schema: error in view w: no such table: main.u"],
        ),
        (
            "CREATE TABLE u(x)",
            "CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO u VALUES(1); END",
            ["the schema: error in trigger r: no such table: main.u"],
        ),
        (
            "CREATE TABLE u(x INTEGER PRIMARY KEY); INSERT INTO u VALUES(8)",
            "CREATE TABLE c(p REFERENCES u(x)); INSERT INTO c VALUES(NULL), (8)",
            [
                "c: its foreign key is to u, which is gone",
                "c where rowid = 2: its foreign key to u finds no row",
            ],
        ),
        (
            "INSERT INTO t VALUES(5, 'parent')",
            "CREATE TABLE c(p REFERENCES t(k)); INSERT INTO c VALUES(1), (5)",
            ["c where rowid = 2: its foreign key to t finds no row"],
        ),
        (
            "UPDATE t SET v = 'u' WHERE k = 1",
            "INSERT INTO t VALUES(7, 'a'); CREATE UNIQUE INDEX tu ON t(v)",
            ["the result: UNIQUE constraint failed: t.v"],
        ),
        (
            "DROP INDEX old",
            "INSERT INTO t VALUES(7, 'a')",
            ["the result: UNIQUE constraint failed: t.v"],
        ),
        (
            "INSERT INTO f VALUES('two')",
            "INSERT INTO f VALUES('three')",
            ["f_data: it belongs to f, which later commits changed"],
        ),
        (
            "CREATE VIRTUAL TABLE g USING fts5(x)",
            "INSERT INTO g VALUES('three')",
            ["g_content: it belongs to g, which later commits changed"],
        ),
    ],
)
def test_what_later_commits_depend_on_is_refused_by_name(ours, change, later, reasons) -> None:
    first = f"{THREE}; CREATE UNIQUE INDEX old ON t(v); CREATE VIRTUAL TABLE f USING fts5(x)"
    push_each(ours, first, change, later)
    conflicts(ours, "2")
    found = ours.engine.revert("main", "2", dry_run=True)
    texts = list(map(str, found.conflicts))
    assert set(reasons) <= set(texts)
    assert len(texts) == len(reasons) or "belongs to" in reasons[0]


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE u(x UNIQUE, y); INSERT INTO u VALUES(1, 2); CREATE INDEX ui ON u(y)",
        "DROP TABLE t",
        "ALTER TABLE t RENAME COLUMN v TO w",
        "ALTER TABLE t RENAME TO t2",
        "ALTER TABLE a ADD COLUMN more DEFAULT 5",
        "DROP VIEW w; CREATE VIEW w AS SELECT 1; DROP TRIGGER r; DROP INDEX i",
        "DELETE FROM a WHERE id < 3; INSERT INTO a VALUES(NULL, 'n'); INSERT INTO b VALUES('z', 1)",
        "UPDATE b SET v = v + 1; DELETE FROM b WHERE k = 'y'; UPDATE s SET v = v + 1 WHERE v = 2",
        "UPDATE s SET v = -v; UPDATE s SET v = 3 + v",
        "CREATE VIRTUAL TABLE g USING fts5(x); INSERT INTO g VALUES('words here')",
        "INSERT INTO f(x) VALUES('more words'); DROP TABLE s",
        "PRAGMA user_version = 9; PRAGMA application_id = 5",
        "UPDATE a SET x = x'ff00' WHERE id = 1; UPDATE a SET x = 1e308 WHERE id = 2",
    ],
)
def test_every_kind_of_change_is_undone_below_others(ours, change) -> None:
    """The content is that of the same history without the commit."""
    first = (
        f"{THREE}; CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT, x);"
        "INSERT INTO a(x) VALUES('p'), ('q'), ('r'); CREATE INDEX i ON a(x);"
        "CREATE TABLE b(k TEXT PRIMARY KEY COLLATE NOCASE, v) WITHOUT ROWID;"
        "INSERT INTO b VALUES('x', 1), ('y', 2); CREATE TABLE s(v UNIQUE);"
        "INSERT INTO s VALUES(1), (2); CREATE VIEW w AS SELECT 2;"
        "CREATE VIRTUAL TABLE f USING fts5(x); INSERT INTO f VALUES('old words');"
        "CREATE TABLE audit(x); CREATE TRIGGER r AFTER DELETE ON a BEGIN"
        " INSERT INTO audit VALUES(old.id); END"
    )
    later = (
        "CREATE TABLE n(x); INSERT INTO n VALUES(1), (2); INSERT INTO audit VALUES('later');"
        "CREATE TRIGGER rr AFTER INSERT ON audit BEGIN DELETE FROM n; END"
    )
    push_each(ours, first, change, later)
    (_, expected) = push_each(ours, first, later, tag="other")
    done = undo(ours, "2")
    assert done.lsn is not None
    found = content(ours.connect())
    if "DELETE FROM a" in change:
        # What the trigger did is undone, and rowids are not given again.
        ours.connect("other").execute("UPDATE sqlite_sequence SET seq = 4 WHERE name = 'a'")
        expected = content(ours.connect("other"))
    assert found == expected


def test_an_autoincrement_never_gives_a_rowid_again(ours) -> None:
    push_each(
        ours,
        "CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT, x); INSERT INTO a VALUES(40, 'x')",
        "DELETE FROM a; ALTER TABLE a ADD COLUMN y",
        "CREATE TABLE later(x)",
    )
    undo(ours, "2")
    connection = ours.connect()
    connection.execute("INSERT INTO a(x) VALUES('next')")
    assert rows(connection, "SELECT * FROM a") == [(40, "x"), (41, "next")]


def test_local_commits_are_reverted_before_a_push_if_a_way_back_stays(ours) -> None:
    push_each(ours, THREE)
    connection = ours.connect()
    connection.execute("INSERT INTO t VALUES(8, 'h')")
    connection.execute("INSERT INTO t VALUES(9, 'i')")
    with pytest.raises(UsageError, match=r"2 commits not pushed .* with the revert") as caught:
        ours.engine.revert("main", "HEAD~1")
    assert "push" in str(caught.value.next_step)
    done = ours.engine.revert("main", "HEAD~1", force=True)
    assert [key for key, _ in rows(connection)] == [1, 2, 3, 9]
    assert done.before.startswith("local:")
    push_each(ours, "DELETE FROM t WHERE k = 1")
    connection.execute("INSERT INTO t VALUES(10, 'j')")
    # A remote commit stays where it is, so that nothing is lost.
    assert ours.engine.revert("main", "BASE").lsn is not None
    assert [key for key, _ in rows(connection)] == [1, 2, 3, 10]


def test_commits_that_are_not_of_the_volume_are_refused(ours) -> None:
    push_each(ours, THREE, "INSERT INTO t VALUES(4, 4)")
    push_each(ours, THREE, tag="other")
    log = ours.engine.status("other").remote
    for ref, error, text in (
        (f"{log}:1", UsageError, "is not in the history of main"),
        ("2..1", UsageError, "names no commit"),
        ("1..1", UsageError, "names no commit"),
        ("7", NotFoundError, "no commit 7"),
        ("1...2", UsageError, "three dots"),
    ):
        with pytest.raises(error, match=text):
            ours.engine.revert("main", ref)
    ours.engine.checkout("main", "1")
    with pytest.raises(UsageError, match="is not in the history of main"):
        ours.engine.revert("main", "2")


def test_a_commit_of_the_log_that_a_fork_was_made_from_is_undone(ours) -> None:
    push_each(ours, THREE, "UPDATE t SET v = 'x' WHERE k = 1", "INSERT INTO t VALUES(4, 4)")
    ours.engine.fork("main", new_tag="side")
    push_each(ours, "INSERT INTO t VALUES(5, 5)", tag="side")
    parent = ours.engine.status("main").remote
    done = undo(ours, f"{parent}:2", tag="side")
    assert done.commit == f"{parent}:2"
    assert rows(ours.connect("side")) == [(1, "a"), (2, "b"), (3, "c"), (4, 4), (5, 5)]


def test_a_cold_machine_fetches_only_what_it_compares(ours, replicas) -> None:
    fill = random.Random(5).randbytes
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v BLOB)")
    with connection:
        connection.executemany("INSERT INTO t VALUES(?, ?)", [(k, fill(600)) for k in range(5000)])
    ours.engine.push("main")
    push_each(ours, "UPDATE t SET v = 'x' WHERE k = 77", "UPDATE t SET v = 'y' WHERE k = 4000")
    cold = replicas("cold")
    cold.engine.clone("main", "main")
    before = cold.counts()
    done = cold.engine.revert("main", "2")
    counts = cold.counts() - before
    assert done.pages <= 3
    assert counts.bytes_received < 500_000
    assert rows(cold.connect(), "SELECT count(*) FROM t WHERE v IN ('x', 'y')") == [(1,)]


def test_connections_see_the_reverted_schema_and_readers_keep_theirs(ours) -> None:
    push_each(ours, THREE, "CREATE TABLE u(x)", "INSERT INTO t VALUES(4, 4)")
    connection, reader = ours.connect(), ours.connect()
    reader.execute("BEGIN")
    assert rows(reader, "SELECT * FROM u") == []
    assert rows(connection, "SELECT * FROM u") == []
    ours.engine.revert("main", "2")
    with pytest.raises(apsw.SQLError, match="no such table: u"):
        connection.execute("SELECT * FROM u")
    assert rows(reader, "SELECT * FROM u") == []


def test_a_table_whose_rows_cannot_be_named_is_refused_by_name(ours) -> None:
    push_each(
        ours,
        "CREATE TABLE h(rowid, oid, _rowid_); INSERT INTO h VALUES(1, 2, 3)",
        "INSERT INTO h VALUES(4, 5, 6)",
        "CREATE TABLE later(x)",
    )
    ((table, key, reason),) = conflicts(ours, "2")
    assert (table, key) == ("h", None)
    assert "cannot be compared" in reason


@pytest.mark.parametrize("error", [KeyboardInterrupt, StoreUnavailableError])
def test_an_interrupted_revert_leaves_the_newest_state(ours, monkeypatch, error) -> None:
    contents = push_each(ours, THREE, "DELETE FROM t WHERE k = 1", "INSERT INTO t VALUES(4, 4)")

    def fail(_: Scratch):
        raise error("in the middle")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(Scratch, "changed_pages", fail)
        with pytest.raises(error):
            ours.engine.revert("main", "2")
    assert content(ours.connect()) == contents[2]
    assert ours.engine.open("main").begin().local_commits == 0
    undo(ours, "2")
    assert [key for key, _ in rows(ours.connect())] == [1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(6))
def test_a_random_commit_is_undone_as_a_model_says(tmp_path, seed) -> None:
    """The model: a dictionary after each commit, and the rule for each key on its own."""
    draw = random.Random(seed)
    with Replica(tmp_path / "alone", RemoteConfig(type="none")) as alone:
        connection = alone.connect()
        connection.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v)")
        states: list[dict[int, int]] = [{}]
        first = alone.engine.open("main").begin().lsn
        for _ in range(20):
            state = dict(states[-1])
            with connection:
                for key in draw.sample(range(40), draw.randrange(1, 6)):
                    value = draw.choice((None, draw.randrange(3)))
                    connection.execute("DELETE FROM t WHERE k = ?", (key,))
                    state.pop(key, None)
                    if value is not None:
                        connection.execute("INSERT INTO t VALUES(?, ?)", (key, value))
                        state[key] = value
                # So that each makes a commit.
                connection.execute("INSERT INTO t VALUES(?, 0)", (1000 + len(states),))
                state[1000 + len(states)] = 0
            states.append(state)
        outcomes = set()
        for number in range(1, 21):
            before, after, now = states[number - 1], states[number], states[-1]
            keys = [key for key in before | after if before.get(key) != after.get(key)]
            bad = {key for key in keys if now.get(key) not in (before.get(key), after.get(key))}
            bad |= {
                key for key in keys if (key in now) not in {key in each for each in (before, after)}
            }
            expected = dict(now)
            for key in keys:
                expected.pop(key, None)
                if key in before:
                    expected[key] = before[key]
            found = alone.engine.revert("main", f"local:{first + number}", dry_run=True)
            outcomes.add(bool(bad))
            assert {each.key for each in found.conflicts} == {f'"k" = {key}' for key in bad}
            if not bad and number < 20:
                done = alone.engine.revert("main", f"local:{first + number}")
                assert dict(rows(connection)) == expected
                alone.engine.restore("main", done.before)
                assert dict(rows(connection)) == now
        assert outcomes == {True, False}
