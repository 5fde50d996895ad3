"""The first commit for which a query is false is found, whatever and wherever it is."""

from __future__ import annotations

import math

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import NotFoundError, StoreUnavailableError, UsageError
from graft_vfs.history.bisect import Bisected, check_query
from graft_vfs.history.line import Line
from graft_vfs.history.names import LocalCommit, RemoteCommit
from graft_vfs.store.directory import DirectoryStore
from graft_vfs.testing import WrapperStore
from tests.support.headers import forget_headers
from tests.support.replicas import Replica

COMMITS = 24
LOCAL = 4


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """A remote with a log of 24 commits, and a fork of LSN 16 with four of its own."""
    root = tmp_path_factory.mktemp("bisect")
    with Replica(root / "data", RemoteConfig(type="fs", root=str(root / "remote"))) as replica:
        connection = replica.connect()
        for number in range(1, COMMITS + 1):
            sql = "CREATE TABLE t(n)" if number == 1 else f"INSERT INTO t VALUES({number})"
            connection.execute(sql)
            replica.engine.push("main", message=f"commit {number}")
            if number == 16:
                replica.engine.fork("main", new_tag="side")
        side = replica.connect("side")
        for number in range(17, 21):
            side.execute(f"INSERT INTO t VALUES({number})")
            replica.engine.push("side")
    return root


@pytest.fixture
def ours(pushed, tmp_path):
    """A clone with four local commits, the numbers 25 to 28."""
    remote = RemoteConfig(type="fs", root=str(pushed / "remote"))
    with Replica(tmp_path / "ours", remote) as replica:
        replica.engine.clone("main", "main")
        replica.engine.clone("side", "side")
        connection = replica.connect()
        for number in range(COMMITS + 1, COMMITS + LOCAL + 1):
            connection.execute(f"INSERT INTO t VALUES({number})")
        connection.close()
        yield replica


def below(number: int) -> str:
    """Return a query that is false from the commit that inserts a number."""
    return f"SELECT count(*) = 0 FROM t WHERE n = {number}"


def names_of(replica: Replica) -> dict[int, str]:
    """Return the ref of each number's commit."""
    first = replica.engine.open("main").begin().lsn - LOCAL + 1
    return {
        **{number: str(number) for number in range(1, COMMITS + 1)},
        **{COMMITS + 1 + at: f"local:{first + at}" for at in range(LOCAL)},
    }


def test_each_commit_is_found_in_about_log2_steps(ours) -> None:
    refs, total = names_of(ours), COMMITS + LOCAL
    for number in range(2, total + 1):
        found = ours.engine.bisect("main", below(number))
        assert (found.commit, found.last_true) == (refs[number], refs[number - 1])
        assert len(found.steps) <= 2 * math.ceil(math.log2(total)) + 1
        found = ours.engine.bisect("main", below(number), good="1")
        assert (found.commit, found.last_true) == (refs[number], refs[number - 1])
        assert len(found.steps) <= math.ceil(math.log2(total)) + 2
        assert [step.is_true for step in found.steps[:2]] == [False, True]
        for good, bad in ((number - 1, total), (1, number), (number - 1, number)):
            found = ours.engine.bisect("main", below(number), good=refs[good], bad=refs[bad])
            assert (found.commit, found.last_true) == (refs[number], refs[number - 1])


def test_the_report_says_who_and_what_and_what_to_do(ours) -> None:
    told = []
    found = ours.engine.bisect("main", below(9), bad="12", good="8", step=told.append)
    assert told == list(found.steps)
    assert list(map(str, told)) == ["false  12", "true   8", "false  10", "false  9"]
    assert (found.found.message, found.found.lsn) == ("commit 9", 9)
    lines = str(found).splitlines()
    assert lines[0] == (
        "9 is the first commit for which it is false; 8, before it, is the last for which it is "
        "true."
    )
    assert lines[1].endswith(f"  {found.found.author}  commit 9")
    assert lines[2] == "  snapshots looked at: 4"
    assert lines[3] == (
        "  (use `engine.diff_rows('main', '8..9')` to see what changed, "
        "`engine.revert('main', '9')` to undo it)"
    )
    assert isinstance(found, Bisected)


def test_a_query_that_fails_is_false(ours) -> None:
    connection = ours.connect()
    connection.execute("ALTER TABLE t RENAME TO u")
    found = ours.engine.bisect("main", "SELECT 1 FROM t")
    assert found.commit == f"local:{ours.engine.open('main').begin().lsn}"
    assert found.steps[0].failure == "no such table: t"
    assert str(found.steps[0]).endswith("(no such table: t)")


@pytest.mark.parametrize(
    ("query", "is_true"),
    [
        ("SELECT 1 WHERE 0", False),
        ("SELECT NULL", False),
        ("SELECT 0.0", False),
        ("SELECT 'text'", False),
        ("SELECT '1'", True),
        ("SELECT 0.5, 0", True),
        ("VALUES(1), (0)", True),
        ("-- a comment; and\nWITH a(x) AS (SELECT 3) SELECT x FROM a /* ; */ ;", True),
        ("SELECT integrity_check = 'ok' FROM pragma_integrity_check", True),
    ],
)
def test_truth_is_that_of_sqlite(ours, query, is_true) -> None:
    with pytest.raises(UsageError) as caught:
        ours.engine.bisect("main", query)
    assert ("it is true for local:" in str(caught.value)) is is_true
    assert ("it is false for each of the" in str(caught.value)) is not is_true


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM t",
        "PRAGMA user_version",
        "ATTACH 'x' AS y",
        "EXPLAIN SELECT 1",
        "",
        "-- SELECT",
        "BEGIN",
        "SELECT 1; SELECT 2",
        "SELECT ';'; DELETE FROM t",
        "WITH a AS (SELECT 1) DELETE FROM t",
        "SELECT ?",
        "SELECT :name",
        "SELECT 1; -- more",
    ],
)
def test_what_is_not_one_query_is_refused(ours, query) -> None:
    before = ours.engine.open("main").begin().counter
    with pytest.raises(UsageError, match="SQL"):
        ours.engine.bisect("main", query, good="3")
    assert ours.engine.open("main").begin().counter == before


def test_a_query_is_told_from_other_statements() -> None:
    for query in ("select 1", "  \n/* a */ -- b\n SELECT 1;", "SELECT ';' ;  ", "values(1)"):
        check_query(query)


def test_ends_that_do_not_fit_are_refused(ours) -> None:
    cases = (
        (below(9), {"bad": "8"}, UsageError, "it is true for 8"),
        (below(9), {"good": "10"}, UsageError, "it is not true for 10 either"),
        (below(9), {"good": "12", "bad": "12"}, UsageError, "12 is not before 12"),
        (below(9), {"good": "14", "bad": "12"}, UsageError, "14 is not before 12"),
        (below(9), {"good": "77"}, NotFoundError, "no commit 77"),
        (below(9), {"bad": f"{log_of(ours, 'side')}:2"}, UsageError, "not in the history of main"),
        ("SELECT 0", {}, UsageError, "it is false for each of the 6 commits"),
        ("SELECT 0", {"bad": "1"}, UsageError, "it is false for the first commit, 1"),
        ("SELECT 1 FROM none", {}, UsageError, "no such table: none"),
    )
    for query, ends, error, text in cases:
        with pytest.raises(error, match=text):
            ours.engine.bisect("main", query, **ends)
    ours.engine.new("empty")
    with pytest.raises(NotFoundError, match="no commit yet"):
        ours.engine.bisect("empty", "SELECT 1")


def log_of(replica: Replica, tag: str = "main"):
    return replica.engine.status(tag).remote


def test_the_line_goes_on_in_the_log_that_a_fork_was_made_from(ours) -> None:
    main, side = log_of(ours), log_of(ours, "side")
    connection = ours.connect("side")
    connection.execute("INSERT INTO t VALUES(21)")
    for number in range(2, 17):
        found = ours.engine.bisect("side", below(number))
        assert found.commit == f"{main}:{number}"
    for number in range(17, 21):
        assert ours.engine.bisect("side", below(number)).commit == str(number - 16)
    volume = ours.engine.open("side")
    line = Line(ours.engine.logs, volume.begin())
    expected = [
        LocalCommit(volume.begin().branch.row.id, volume.begin().lsn),
        *(RemoteCommit(side, lsn) for lsn in range(4, 0, -1)),
        *(RemoteCommit(main, lsn) for lsn in range(16, 0, -1)),
    ]
    assert len(line) == len(expected)
    for place, commit in enumerate(expected):
        assert (line.at(place), line.place_of(commit)) == (commit, place)
    assert line.at(len(expected)) is None
    assert line.place_of(RemoteCommit(main, 17)) is None


def test_a_machine_that_knows_only_new_headers_finds_the_same(ours) -> None:
    log = log_of(ours)
    with ours.engine.open("main").pinned():
        for number in (3, 12, 20):
            forget_headers(ours.engine, log, *range(1, COMMITS))
            assert ours.engine.bisect("main", below(number)).commit == str(number)


def test_requests_are_for_the_pages_of_the_snapshots_that_were_read(ours) -> None:
    before = ours.counts()
    found = ours.engine.bisect("main", below(7), good="1")
    counts = ours.counts() - before
    assert counts.requests == counts.get_range <= 2 * len(found.steps)


def test_a_store_that_fails_is_not_taken_for_a_false_query(pushed, tmp_path) -> None:
    class Store(WrapperStore):
        is_cut = False

        def request(self, verb, key, send):  # noqa: ARG002
            if self.is_cut:
                raise StoreUnavailableError("a test cut the line")
            return send()

    store = Store(DirectoryStore(pushed / "remote"))
    remote = RemoteConfig(type="fs", root=str(pushed / "remote"))
    with Replica(tmp_path / "cut", remote, store=store) as replica:
        replica.engine.clone("main", "main")
        store.is_cut = True
        with pytest.raises(StoreUnavailableError, match="cut the line"):
            replica.engine.bisect("main", below(7))
        store.is_cut = False
        assert replica.engine.bisect("main", below(7)).commit == "7"
