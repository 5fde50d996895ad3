"""Names: tags, URIs, the VFS as SQLite's default, and views that take no writes."""

from __future__ import annotations

import datetime as dt
import sqlite3

import apsw
import pytest

import graft_vfs
from tests.support.children import child
from tests.support.sql import content, is_sound, rows, stock, value

TAGS = [
    "main",
    "a b",
    "/srv/app/../x.db",
    "//srv/x.db",
    "../../etc/passwd",
    "ünï/☃",
    "x-journal",
    "q?a=1&b",
    "%41",
]


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_is_a_key_and_never_a_path(engine, connect, tmp_path, monkeypatch, tag):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    connection = connect(tag)
    connection.execute("CREATE TABLE t(x)")
    connection.execute("INSERT INTO t VALUES(?)", (tag,))
    assert [report.tag for report in engine.tags()] == [tag]
    assert rows(connect(tag), "SELECT x FROM t") == [(tag,)]
    assert rows(connect(graft_vfs.uri(tag)), "SELECT x FROM t") == [(tag,)]
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("tag", ["", "x" * 513, "x" * 1000])
def test_a_tag_that_is_too_short_or_long_is_refused_by_name(engine, connect, tag):
    with pytest.raises(graft_vfs.GraftError, match="is not a tag; use 1 to 512 characters"):
        connect(tag)
    if tag:
        with pytest.raises(apsw.Error, match="is not a tag; use 1 to 512 characters"):
            apsw.Connection(tag, vfs="graft")
    assert engine.tags() == []


def test_the_longest_tag_works(connect):
    tag = "☃" * 512
    connect(tag).execute("CREATE TABLE t(x)")
    assert rows(connect(tag), "SELECT name FROM sqlite_schema") == [("t",)]


def test_as_the_default_vfs_every_name_is_a_tag(config, tmp_path):
    program = """
        connection = apsw.Connection("x.db")
        connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
        say(connection.open_vfs, connection.pragma("journal_mode"))
        other = apsw.Connection("/srv/app/../x.db")
        other.execute("CREATE TABLE u(x)")
        other.execute("ATTACH 'x.db' AS x; INSERT INTO x.t VALUES(2)")
        say(*sorted(report.tag for report in engine.tags()))
        say(connection.execute("SELECT sum(x) FROM t").fetchall()[0][0])
        memory = apsw.Connection(":memory:")
        memory.execute("CREATE TABLE t(x)")
        temporary = apsw.Connection("")
        temporary.execute("PRAGMA cache_size=2; CREATE TABLE t(x)").fetchall()
        temporary.execute("INSERT INTO t VALUES(zeroblob(1000000))")
        connection.execute("VACUUM; REINDEX")
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        plain = apsw.Connection("file:plain.db?vfs=unix", flags=flags)
        plain.execute("CREATE TABLE p(x)")
        say(*sorted(report.tag for report in engine.tags()))
    """
    directory = tmp_path / "work"
    directory.mkdir()
    with child(config.data_dir, program, make_default=True, cwd=directory) as process:
        assert process.hear() == "graft truncate"
        assert process.hear() == "/srv/app/../x.db x.db"
        assert process.hear() == "3"
        assert process.hear() == "/srv/app/../x.db x.db"
        process.end()
    assert [path.name for path in directory.iterdir()] == ["plain.db"]


def test_without_make_default_other_connections_do_not_use_the_vfs(engine, tmp_path):
    connection = apsw.Connection(str(tmp_path / "x.db"))
    connection.execute("CREATE TABLE t(x)")
    assert (tmp_path / "x.db").exists()
    assert engine.tags() == []


@pytest.mark.parametrize("name", ["main", "file:main?vfs=graft"])
def test_each_way_to_open_a_volume_gets_the_cheapest_journal_mode(engine, name):
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
    vfs = None if name.startswith("file:") else "graft"
    connection = apsw.Connection(name, flags=flags, vfs=vfs)
    assert connection.pragma("journal_mode") == "truncate"


def test_a_plain_file_keeps_its_own_journal_mode(connect, tmp_path):
    connection = connect(f"file:{tmp_path}/x.db?vfs=unix")
    assert connection.pragma("journal_mode") == "delete"


# Read-only --------------------------------------------------------------------------------------


@pytest.fixture
def pushed(connect):
    """A volume of three remote LSNs, and the times between them."""
    connection = connect("main")
    connection.execute("CREATE TABLE t(x)")
    moments = []
    for n in (1, 2, 3):
        connection.execute("INSERT INTO t VALUES(?)", (n,))
        connection.pragma("graft_push")
        text = rows(connection, "PRAGMA graft_dump_commit=" + str(n))[0][0]
        facts = dict(line.split(": ") for line in text.splitlines())
        moments.append(int(facts["time_ms"]))
    return connection, moments


def refuses_writes(connection):
    """Tell that no way to write works, and that the content stays."""
    before = content(connection)
    for statement in (
        "INSERT INTO t VALUES(9)",
        "CREATE TABLE u(x)",
        "BEGIN; UPDATE t SET x = 0",
        "VACUUM",
        "PRAGMA user_version=7",
    ):
        with pytest.raises(apsw.ReadOnlyError):
            connection.execute(statement).fetchall()
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    for pragma in ("graft_new", "graft_fork", "graft_checkout=1"):
        with pytest.raises(apsw.SQLError, match="this connection is read-only"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    assert connection.readonly("main")
    assert content(connection) == before


def test_mode_ro_reads_what_is_committed_and_refuses_to_write(connect, pushed):
    writer, _ = pushed
    reader = connect("file:main?vfs=graft&mode=ro")
    refuses_writes(reader)
    writer.execute("INSERT INTO t VALUES(4)")
    assert value(reader, "SELECT count(*) FROM t") == 4


def test_mode_ro_does_not_make_a_tag(engine, connect):
    with pytest.raises(apsw.Error, match="there is no tag 'absent'"):
        connect("file:absent?vfs=graft&mode=ro")
    with pytest.raises(apsw.Error, match="there is no tag 'absent'"):
        connect("file:absent?vfs=graft&mode=rw")
    assert engine.tags() == []


@pytest.mark.parametrize("lsn", [1, 2, 3])
def test_lsn_opens_a_fixed_state_of_the_database(connect, pushed, lsn):
    writer, _ = pushed
    past = connect(f"file:main?vfs=graft&lsn={lsn}")
    wanted = [(n,) for n in range(1, lsn + 1)]
    assert rows(past, "SELECT x FROM t") == wanted
    refuses_writes(past)
    writer.execute("DELETE FROM t")
    writer.pragma("graft_push")
    assert rows(past, "SELECT x FROM t") == wanted


@pytest.mark.usefixtures("pushed")
def test_lsn_takes_any_ref_of_a_commit(connect, engine):
    writer = connect("main")
    writer.execute("INSERT INTO t VALUES(4); INSERT INTO t VALUES(5)")
    log, lsn = engine.status("main").remote, engine.open("main").begin().lsn
    for ref, newest in (
        ("HEAD", 5), ("HEAD~1", 4), ("HEAD~2", 3), ("base~2", 1), (f"local:{lsn - 1}", 4),
        (f"{log}:2", 2), ("0 seconds ago", 3), ("0 seconds ago~1", 2),
    ):  # fmt: skip
        for parameter in ("lsn", "as_of"):
            past = connect(graft_vfs.uri("main", **{parameter: ref}))
            assert value(past, "SELECT max(x) FROM t") == newest
            refuses_writes(past)


@pytest.mark.usefixtures("pushed")
def test_a_connection_to_a_local_commit_stays_there(connect):
    writer = connect("main")
    writer.execute("INSERT INTO t VALUES(4); INSERT INTO t VALUES(5)")
    past = connect(graft_vfs.uri("main", lsn="HEAD~1"))
    head = connect(graft_vfs.uri("main", lsn="HEAD"))
    for turn in range(6, 30):
        writer.execute("INSERT INTO t VALUES(?)", (turn,))
        if turn % 10 == 0:
            writer.pragma("graft_push")
        assert value(past, "SELECT max(x) FROM t") == 4
        assert value(head, "SELECT max(x) FROM t") == 5
        assert is_sound(past)


def test_several_lsns_are_open_at_once(connect, pushed):
    opened = {lsn: connect(f"file:main?vfs=graft&lsn={lsn}") for lsn in (3, 1, 2)}
    for lsn, connection in opened.items():
        assert value(connection, "SELECT max(x) FROM t") == lsn


def test_as_of_opens_the_newest_commit_that_is_not_later(connect, pushed):
    _, moments = pushed
    for lsn, moment in enumerate(moments, 1):
        if lsn < 3 and moments[lsn] == moment:
            continue
        at = dt.datetime.fromtimestamp(moment / 1000, dt.UTC)
        past = connect(graft_vfs.uri("main", as_of=at.isoformat()))
        assert value(past, "SELECT max(x) FROM t") == lsn
        refuses_writes(past)
    now = connect(graft_vfs.uri("main", as_of="0 seconds ago"))
    assert value(now, "SELECT max(x) FROM t") == 3


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lsn": "9"}, "LSN"),
        ({"lsn": "0"}, "LSN"),
        ({"lsn": "one"}, "'one' names no commit"),
        ({"lsn": "-1"}, "'-1' names no commit"),
        ({"as_of": "2 hours ago"}, "had no commit at that time"),
        ({"as_of": "yesterday-ish"}, "'yesterday-ish' names no commit"),
        ({"lsn": "HEAD~3"}, "past the first commit"),
        ({"lsn": "1..2"}, "names two commits"),
    ],
)
def test_an_absent_time_or_lsn_is_refused_by_name(connect, pushed, parameters, message):
    with pytest.raises(apsw.Error, match=message):
        connect(graft_vfs.uri("main", **parameters))


@pytest.mark.usefixtures("pushed")
def test_remote_clones_at_the_first_open_only(machine):
    elsewhere = machine()
    clone = elsewhere.connect("copy", remote="main")
    assert value(clone, "SELECT max(x) FROM t") == 3
    clone.execute("INSERT INTO t VALUES(10)")
    again = elsewhere.connect("copy", remote="main")
    assert value(again, "SELECT max(x) FROM t") == 10


def test_a_remote_that_is_absent_makes_no_tag(engine, connect):
    with pytest.raises(apsw.Error, match="has no ref 'nobody'"):
        connect("file:new?vfs=graft&remote=nobody")
    assert engine.tags() == []


def test_a_plain_file_of_the_tag_s_name_is_left_alone(connect, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = stock("main")
    plain.execute("CREATE TABLE here(x)")
    connection = connect("main")
    connection.execute("CREATE TABLE there(x)")
    assert rows(plain, "SELECT name FROM sqlite_schema") == [("here",)]
    assert rows(connection, "SELECT name FROM sqlite_schema") == [("there",)]


def test_a_connection_keeps_its_engine_when_another_is_registered(config, tmp_path, engine):
    first = graft_vfs.connect("main")
    first.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    other = graft_vfs.Config(data_dir=tmp_path / "other", remote=config.remote)
    newer = graft_vfs.register(other)
    second = graft_vfs.connect("main")
    assert rows(second, "SELECT * FROM sqlite_schema") == []
    first.execute("INSERT INTO t VALUES(2)")
    assert value(first, "SELECT sum(x) FROM t") == 3
    assert graft_vfs.register() is newer
    for connection in (first, second):
        connection.close()
    engine.close()


# Names that look like files ----------------------------------------------------------------------

PATHS = ["/backups/x.db", "./x", "../x", "~/x", "backup.db", "a/b.SQLite3", "here"]
STATEMENTS = ["ATTACH ? AS other", "VACUUM INTO ?"]


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working directory with one plain file, named `here`."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    plain = stock("here")
    plain.execute("CREATE TABLE plain(x)")
    plain.close()
    return tmp_path / "work"


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_statement_creates_no_volume_for_a_file_name(engine, connect, statement, path):
    connection = connect("main")
    connection.execute("CREATE TABLE t(x)")
    with pytest.raises(apsw.CantOpenError, match=r"looks like a file.*vfs=unix.*vfs=graft"):
        connection.execute(statement, (path,))
    assert [report.tag for report in engine.tags()] == ["main"]
    connection.execute("INSERT INTO t VALUES(1)")


@pytest.mark.parametrize("statement", STATEMENTS)
def test_sqlite3_gets_the_same_error(engine, work, caplog, statement):
    graft_vfs.enable_sqlite3()
    connection = sqlite3.connect("file:main?vfs=graft", uri=True, isolation_level=None)
    connection.execute("CREATE TABLE t(x)")
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        connection.execute(statement, (str(work / "x.db"),))
    assert "looks like a file" in caplog.text
    assert [report.tag for report in engine.tags()] == ["main"]
    connection.execute("VACUUM INTO ?", (f"file:{work}/x.db?vfs=unix",))
    connection.close()
    assert content(stock(work / "x.db"))["t"] == []


def test_the_name_determines_whether_a_file_or_a_volume_is_meant(engine, connect, work):
    connection = connect("main")
    connection.execute("CREATE TABLE t(x)")
    connection.execute(f"VACUUM INTO 'file:{work}/x.db?vfs=unix'")
    connection.execute(f"ATTACH 'file:{work}/here?vfs=unix' AS here; SELECT * FROM plain")
    connection.execute(f"VACUUM INTO 'file:{work}/x.db?vfs=graft'")
    assert (work / "x.db").exists()
    assert [report.tag for report in engine.tags()] == [f"{work}/x.db", "main"]
    # One that exists is opened under its plain name, too.
    connection.execute("ATTACH ? AS copy", (f"{work}/x.db",))
    assert rows(connection, "SELECT name FROM copy.sqlite_schema") == [("t",)]


def test_an_unparsed_uri_is_not_a_tag(engine, work):
    connection = apsw.Connection("main", vfs="graft")
    for statement in STATEMENTS:
        with pytest.raises(apsw.CantOpenError, match=r"is a URI.*SQLITE_OPEN_URI"):
            connection.execute(statement, (f"file:{work}/x.db?vfs=unix",))
    assert [report.tag for report in engine.tags()] == ["main"]


def test_names_that_do_not_look_like_files_create_volumes(engine, connect):
    connection = connect("main")
    connection.execute("CREATE TABLE t(x)")
    connection.execute("ATTACH 'two' AS two; VACUUM INTO 'customers/42'")
    assert [report.tag for report in engine.tags()] == ["customers/42", "main", "two"]
