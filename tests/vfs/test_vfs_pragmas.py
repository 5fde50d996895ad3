"""Every pragma of the VFS: what it answers and what it does."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import apsw
import pytest

import graft_vfs
from graft_vfs.vfs import pragmas
from tests.support.sql import content, is_sound, rows, stock, value


@pytest.fixture
def main(connect):
    connection = connect("main")
    connection.execute("CREATE TABLE t(x)")
    connection.execute("INSERT INTO t VALUES(1)")
    return connection


@pytest.fixture
def pushed(main):
    ask(main, "graft_push")
    return main


def ask(connection, pragma):
    """Run a pragma through plain SQL; its answer is one text cell."""
    found = rows(connection, f"PRAGMA {pragma}")
    assert len(found) == 1
    (answer,) = found[0]
    assert isinstance(answer, str)
    return answer


def sums(connection):
    return value(connection, "SELECT sum(x) FROM t")


def only_volume(engine, tag="main"):
    return engine.open(tag).id


# About volumes ----------------------------------------------------------------------------------


def test_graft_tags(engine, main, connect):
    connect("other")
    main_line, other_line = ask(main, "graft_tags").splitlines()
    assert main_line == f"* main  {only_volume(engine)}"
    assert other_line == f"  other  {only_volume(engine, 'other')}"


def test_graft_volumes(engine, main):
    before = only_volume(engine)
    ask(main, "graft_new")
    first, second = ask(main, "graft_volumes").splitlines()
    assert first.startswith(str(before))
    assert first.endswith("(no tag)")
    assert second.startswith(str(only_volume(engine)))
    assert second.endswith("(main)")


def test_graft_info(engine, main):
    text = ask(main, "graft_info")
    facts = dict(re.split(r":\s+", line, maxsplit=1) for line in text.splitlines())
    assert facts["Volume"] == str(only_volume(engine))
    assert facts["Last sync"] == "never"
    assert facts["Snapshot pages"] == "2"
    assert facts["Snapshot size"] == "8.0 KiB"
    ask(main, "graft_push")
    assert "Last sync:      local LSN 2, remote LSN 1 (" in ask(main, "graft_info")


def test_graft_status(main, machine):
    assert ask(main, "graft_status").startswith("On tag main\nLocal branch ")
    assert "The Volume is ahead of the remote by 2 commits." in ask(main, "graft_status")
    ask(main, "graft_push")
    assert "The Volume is up to date with the remote." in ask(main, "graft_status")
    elsewhere = machine().connect(remote="main")
    elsewhere.execute("INSERT INTO t VALUES(2)")
    ask(elsewhere, "graft_push")
    ask(main, "graft_fetch")
    assert "The Volume is behind the remote by 1 commit." in ask(main, "graft_status")
    assert "PRAGMA graft_pull" in ask(main, "graft_status")
    main.execute("INSERT INTO t VALUES(3)")
    assert "have diverged" in ask(main, "graft_status")


def test_graft_status__names_the_error_of_the_last_sync(engine, main, monkeypatch):
    def refuse(*_):
        raise graft_vfs.errors.StoreUnavailableError("nobody answers")

    with monkeypatch.context() as patch:
        patch.setattr(type(engine.store), "put_if_absent", refuse)
        with pytest.raises(apsw.IOError, match="nobody answers"):
            ask(main, "graft_push")
    assert "The last sync failed: nobody answers" in ask(main, "graft_status")
    ask(main, "graft_push")
    assert "failed" not in ask(main, "graft_status")


def test_graft_snapshot(main):
    local = ask(main, "graft_snapshot")
    assert re.fullmatch(r"\S+\[1\.\.2\]", local)
    ask(main, "graft_push")
    assert re.fullmatch(r"\S+\[1\.\.1\]", ask(main, "graft_snapshot"))
    main.execute("INSERT INTO t VALUES(2)")
    assert re.fullmatch(r"\S+\[1\.\.1\] \+ \S+\[3\.\.3\]", ask(main, "graft_snapshot"))
    ask(main, "graft_new")
    assert ask(main, "graft_snapshot") == "empty"


def test_graft_version(main):
    assert ask(main, "graft_version") == (
        f"graft-vfs {graft_vfs.__version__}, format 3, apsw {apsw.apsw_version()}, "
        f"SQLite {apsw.sqlite_lib_version()}"
    )


def test_graft_log(main):
    ask(main, "graft_push")
    main.execute("INSERT INTO t VALUES(2)")
    local, remote = ask(main, "graft_log").splitlines()
    assert re.match(r"local +3 .* 1 of 2 pages", local)
    assert re.match(r"remote +1 .* 2 of 2 pages  \(2 commits\)", remote)


# That move the tag ------------------------------------------------------------------------------


def test_graft_new(main, connect):
    assert ask(main, "graft_new").startswith("Created volume ")
    assert rows(main, "SELECT * FROM sqlite_schema") == []
    main.execute("CREATE TABLE other(y)")
    assert content(connect("main")) == content(main)


def test_graft_switch(engine, main):
    before = only_volume(engine)
    ask(main, "graft_new")
    main.execute("CREATE TABLE other(y)")
    after = only_volume(engine)
    assert ask(main, f'graft_switch = "{before}"').startswith(f"Switched to volume {before}")
    assert sums(main) == 1
    ask(main, f'graft_switch = "{after}"')
    assert rows(main, "SELECT name FROM sqlite_schema") == [("other",)]


def test_graft_switch__makes_a_volume_on_a_remote_log(engine, pushed, machine):
    remote = engine.status("main").remote
    elsewhere = machine().connect("copy")
    volume, branch = graft_vfs.ids.VolumeId.new(), graft_vfs.ids.LogId.new()
    ask(elsewhere, f'graft_switch = "{volume}:{branch}:{remote}"')
    assert sums(elsewhere) == 1
    assert f"Local branch {branch} is grafted on remote log {remote}" in ask(
        elsewhere, "graft_status"
    )


def test_graft_clone(pushed, machine):
    elsewhere = machine().connect("copy")
    assert ask(elsewhere, 'graft_clone = "main"').startswith("Cloned to volume ")
    assert sums(elsewhere) == 1
    log = re.search(r"remote (\S+)", ask(elsewhere, "graft_clone"))[1]
    assert sums(elsewhere) == 1
    third = machine().connect("third")
    ask(third, f'graft_clone = "{log}"')
    assert sums(third) == 1


def test_graft_fork_and_graft_push_as(pushed, machine, connect):
    pushed.execute("INSERT INTO t VALUES(2)")
    before = content(pushed)
    assert ask(pushed, "graft_fork").startswith("Forked to volume ")
    assert content(pushed) == before
    pushed.execute("INSERT INTO t VALUES(10)")
    with pytest.raises(apsw.Error, match="push under another name with `PRAGMA graft_push_as"):
        ask(pushed, "graft_push")
    ask(pushed, "graft_push_as = side")
    elsewhere = machine()
    assert sums(elsewhere.connect("original", remote="main")) == 1
    assert sums(elsewhere.connect("side", remote="side")) == 13
    log = re.search(r"remote log (\S+)", ask(pushed, "graft_status"))[1]
    assert content(elsewhere.connect("fork", remote=log)) == content(pushed)
    assert is_sound(pushed)


def test_graft_checkout(pushed, connect):
    watcher = connect("watcher")
    pushed.execute("INSERT INTO t VALUES(2)")
    ask(pushed, "graft_push")
    log = re.search(r"remote log (\S+)", ask(pushed, "graft_status"))[1]
    assert ask(pushed, "graft_checkout = 1").startswith("Checked out volume ")
    assert sums(pushed) == 1
    assert "behind the remote by 1 commit" in ask(pushed, "graft_status")
    assert sums(connect("main")) == 1
    ask(watcher, f'graft_checkout = "{log}:2"')
    assert sums(watcher) == 3
    ask(pushed, "graft_pull")
    assert sums(pushed) == 3


@pytest.mark.parametrize("verb", ["graft_new", "graft_fork", "graft_checkout = 1"])
@pytest.mark.parametrize("begin", ["BEGIN; SELECT * FROM t", "BEGIN IMMEDIATE"])
def test_a_connection_is_not_moved_inside_a_transaction(pushed, verb, begin):
    pushed.execute(begin).fetchall()
    with pytest.raises(apsw.SQLError, match="is inside a transaction; COMMIT or ROLLBACK it"):
        ask(pushed, verb)
    pushed.execute("INSERT INTO t VALUES(2); COMMIT")
    assert sums(pushed) == 3


def test_a_moved_connection_drops_pages_and_schema(engine, main):
    # Equal in everything that SQLite compares but the change counter: size, free list, cookie.
    first = only_volume(engine)
    ask(main, "graft_new")
    main.execute("CREATE TABLE u(y)")
    main.execute("INSERT INTO u VALUES(2)")
    second = only_volume(engine)
    for _ in range(3):
        ask(main, f'graft_switch = "{first}"')
        assert rows(main, "SELECT x FROM t") == [(1,)]
        with pytest.raises(apsw.SQLError, match="no such table"):
            main.execute("SELECT y FROM u")
        ask(main, f'graft_switch = "{second}"')
        assert rows(main, "SELECT y FROM u") == [(2,)]
        with pytest.raises(apsw.SQLError, match="no such table"):
            main.execute("SELECT x FROM t")


# Sync -------------------------------------------------------------------------------------------


def test_graft_push(main, machine):
    assert re.match(
        r"Pushed 2 commits as remote LSN 1 of log \S+: 2 pages, ", ask(main, "graft_push")
    )
    assert ask(main, "graft_push") == "Nothing to push: there are no local commits."
    assert sums(machine().connect(remote="main")) == 1


def test_graft_fetch(pushed, machine):
    elsewhere = machine().connect(remote="main")
    assert ask(elsewhere, "graft_fetch").startswith("Nothing new on remote log ")
    pushed.execute("INSERT INTO t VALUES(2)")
    ask(pushed, "graft_push")
    assert ask(elsewhere, "graft_fetch").startswith("Fetched 1 commit of remote log ")
    assert sums(elsewhere) == 1


def test_graft_pull(pushed, machine):
    elsewhere = machine().connect(remote="main")
    assert ask(elsewhere, "graft_pull").startswith("Already up to date with remote log ")
    pushed.execute("INSERT INTO t VALUES(2)")
    ask(pushed, "graft_push")
    assert ask(elsewhere, "graft_pull").startswith("Pulled 1 commit of remote log ")
    assert sums(elsewhere) == 3


def test_graft_pull__of_a_diverged_volume_moves_nothing(pushed, machine):
    elsewhere = machine().connect(remote="main")
    elsewhere.execute("INSERT INTO t VALUES(5)")
    pushed.execute("INSERT INTO t VALUES(2)")
    ask(pushed, "graft_push")
    for verb in ("graft_pull", "graft_push"):
        with pytest.raises(apsw.SQLError, match="have diverged; nothing was moved"):
            ask(elsewhere, verb)
        assert sums(elsewhere) == 6


@pytest.mark.parametrize("verb", ["graft_pull", "graft_import = 'x.db'"])
@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "PRAGMA locking_mode=exclusive"])
def test_what_needs_the_writer_lock_is_refused_while_this_connection_has_it(pushed, verb, begin):
    pushed.execute(begin).fetchall()
    pushed.execute("INSERT INTO t VALUES(2)")
    with pytest.raises(apsw.SQLError, match="inside a write transaction; COMMIT or ROLLBACK"):
        ask(pushed, verb)


def test_graft_hydrate_and_graft_audit(pushed, machine):
    pushed.executemany("INSERT INTO t VALUES(zeroblob(?))", ((3000,) for _ in range(40)))
    ask(pushed, "graft_push")
    elsewhere = machine().connect(remote="main")
    first = ask(elsewhere, "graft_audit")
    assert re.match(r"Cached \d+ of \d+ pages \(\d+\.\d\d%\) from the remote Log\.\n", first)
    assert "graft_hydrate" in first
    assert re.fullmatch(r"Fetched [1-9]\d* pages\.", ask(elsewhere, "graft_hydrate"))
    assert ask(elsewhere, "graft_hydrate") == "Fetched 0 pages."
    done = ask(elsewhere, "graft_audit")
    assert "(100.00%)" in done
    assert re.search(r"\nChecksum: [0-9a-f]{32}$", done)
    assert done.split("Checksum")[1] == ask(pushed, "graft_audit").split("Checksum")[1]


# Files and bytes --------------------------------------------------------------------------------


def test_graft_export_and_graft_import(main, connect, tmp_path):
    path = tmp_path / "it's a file.db"
    quoted = str(path).replace("'", "''")
    assert ask(main, f"graft_export = '{quoted}'") == f"Exported to {path}: 2 pages, 8.0 KiB."
    assert content(stock(path)) == content(main)
    with pytest.raises(apsw.SQLError, match="exists already"):
        ask(main, f"graft_export = '{quoted}'")
    copy, watcher = connect("copy"), connect("copy")
    assert rows(watcher, "SELECT * FROM sqlite_schema") == []
    assert ask(copy, f"graft_import = '{quoted}'") == f"Imported {path}: 2 pages, 8.0 KiB."
    assert content(copy) == content(watcher) == content(main)
    with pytest.raises(apsw.SQLError, match="has 2 pages already"):
        ask(copy, f"graft_import = '{quoted}'")
    with pytest.raises(apsw.SQLError, match="is read-only"):
        ask(connect("file:copy?vfs=graft&mode=ro"), f"graft_import = '{quoted}'")


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_graft_import__of_a_wal_mode_file_is_no_wal_mode_volume(
    connect, plain, tmp_path, page_size
):
    source = plain("wal.db")
    source.pragma("page_size", page_size)
    source.pragma("journal_mode", "wal")
    source.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    connection = connect("main")
    ask(connection, f"graft_import = '{tmp_path / 'wal.db'}'")
    assert sums(connection) == 1
    connection.execute("INSERT INTO t VALUES(2)")
    assert sums(connect("main")) == 3
    assert connection.pragma("page_size") == page_size
    assert is_sound(connection)


def test_graft_dump_header(main):
    lines = ask(main, "graft_dump_header").splitlines()
    assert (
        bytes.fromhex("".join(line.split(": ")[1] for line in lines))
        == (main.serialize("main")[:100])
    )


def test_graft_branches(pushed, engine):
    pushed.execute("CREATE TABLE local(x)")
    kept = engine.restore("main", "BASE").kept
    current, left = ask(pushed, "graft_branches").splitlines()
    assert current.startswith("* ")
    assert left.startswith(f"  {kept}  1 commit on LSN 1 of log ")
    text = ask(pushed, f"graft_switch = '{kept}'")
    assert text.startswith("Switched main to branch ")
    assert "(use `PRAGMA graft_switch = '" in text
    assert ask(pushed, "graft_branches").count("kept by switch") == 1
    assert pushed.execute("SELECT count(*) FROM local").get == 0


def test_graft_name_and_graft_names(pushed, engine):
    assert ask(pushed, "graft_names") == ""
    assert ask(pushed, "graft_name = 'v1'").split()[:3] == ["v1", "LSN", "1"]
    assert ask(pushed, "graft_name = 'first HEAD'").startswith("first ")
    assert [line.split()[0] for line in ask(pushed, "graft_names").splitlines()] == ["first", "v1"]
    assert engine.resolve("main", "v1") == engine.resolve("main", "HEAD")
    for typed, match in (("'7'", "cannot name a commit"), ("'v1 2 3'", "names no commit")):
        with pytest.raises(apsw.SQLError, match=match):
            ask(pushed, f"graft_name = {typed}")
    with pytest.raises(apsw.SQLError, match="needs a value"):
        ask(pushed, "graft_name")


def test_graft_dump_commit(pushed):
    text = ask(pushed, "graft_dump_commit = 1")
    facts = dict(line.split(": ") for line in text.splitlines())
    assert facts["lsn"] == "1"
    assert facts["page_count"] == "2"
    assert facts["local_commits"] == "2"
    assert facts["body"] == "inline"
    assert ask(pushed, f'graft_dump_commit = "{facts["log"]}:1"') == text
    with pytest.raises(apsw.SQLError, match="LSN"):
        ask(pushed, "graft_dump_commit = 2")


# All of them ------------------------------------------------------------------------------------


def test_graft_prepare(engine, connect):
    graft_vfs.enable_sqlite3()
    with closing(sqlite3.connect(graft_vfs.uri("main"), uri=True)) as connection:
        told = connection.execute("PRAGMA graft_prepare").fetchall()
        assert told == [("The next read of the volume shows an empty database.",)]
    connection = connect("main")
    connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    with pytest.raises(apsw.SQLError, match="prepared before its first read"):
        connection.pragma("graft_prepare")


def test_every_pragma_has_a_test():
    names = [name.removeprefix("test_") for name in globals() if name.startswith("test_graft")]
    tested = {part for name in names for part in re.split("__|_and_", name)}
    assert set(pragmas.NAMES) <= tested


def test_an_unknown_graft_pragma_is_an_error_that_names_the_known_ones(main):
    with pytest.raises(apsw.SQLError) as caught:
        main.execute("PRAGMA graft_psuh")
    assert "there is no pragma graft_psuh; did you mean 'graft_push'" in str(caught.value)
    for name in pragmas.NAMES:
        assert name in str(caught.value)


def test_pragmas_of_sqlite_pass_through(main, plain):
    reference = plain()
    reference.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    for name in (
        "user_version",
        "page_count",
        "encoding",
        "foreign_keys",
        "nonsense",
        "cache_size",
    ):
        assert rows(main, f"PRAGMA {name}") == rows(reference, f"PRAGMA {name}")


@pytest.mark.parametrize("name", ["GRAFT_STATUS", "Graft_Status"])
def test_names_of_pragmas_ignore_case(main, name):
    assert ask(main, name).startswith("On tag main")


@pytest.mark.parametrize(
    "pragma",
    ["graft_switch", "graft_checkout", "graft_export", "graft_import", "graft_dump_commit"],
)
def test_a_pragma_without_its_value_says_which_it_needs(main, pragma):
    with pytest.raises(apsw.SQLError, match="the pragma needs a value: "):
        ask(main, pragma)


def test_a_failed_verb_leaves_the_connection_as_it_was(main):
    for pragma in ('graft_switch = "x"', 'graft_clone = "nobody"', "graft_checkout = 9"):
        with pytest.raises(apsw.SQLError):
            ask(main, pragma)
        assert sums(main) == 1
    main.execute("INSERT INTO t VALUES(2)")
    assert sums(main) == 3
