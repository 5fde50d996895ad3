"""A tag that is moved or removed while connections of other processes are open under it.

No commit may be acknowledged into a volume that the tag does not name.
"""

from __future__ import annotations

import contextlib
from ast import literal_eval

import apsw
import pytest

import graft_vfs
from graft_vfs import Config
from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import WriterBusyError
from graft_vfs.local import branch_file, tag_moves
from tests.support import engines
from tests.support.children import child
from tests.support.sql import rows, value

CLIENT = """
    import sqlite3

    if {binding!r} == "apsw":
        connect = graft_vfs.connect
    else:
        graft_vfs.enable_sqlite3()
        connect = lambda name: sqlite3.connect(
            f"file:{{name}}?vfs=graft", uri=True, isolation_level=None, timeout=0
        )
    connections = {{}}
    say("ready")
    while line := hear():
        tag, _, statement = line.partition(" ")
        try:
            if tag not in connections:
                connections[tag] = connect(tag)
            say(repr(connections[tag].execute(statement).fetchall()))
        except Exception as error:
            say(repr(f"{{type(error).__name__}}: {{error}}"))
"""


class Client:
    """A process that runs statements under tags, one connection for each."""

    def __init__(self, process) -> None:
        self._process = process
        assert process.hear() == "ready"

    def run(self, statement: str, tag: str = "main"):
        """Return the rows, or the error's class and text."""
        self._process.say(f"{tag} {statement}")
        return literal_eval(self._process.hear())


@pytest.fixture
def config(tmp_path):
    return Config(data_dir=tmp_path / "data")


@pytest.fixture
def former(connect, engine):
    """The volume that the tags `main` and `kept` name, with the table `former`."""
    connection = connect("main")
    connection.execute("CREATE TABLE former(x); INSERT INTO former VALUES(1)")
    connection.close()
    volume = engine.catalog.tag_volume("main")
    engine.switch("kept", str(volume))
    return volume


@pytest.fixture(params=["apsw", "sqlite3"])
def client(request, config, former):
    with child(config.data_dir, CLIENT.format(binding=request.param)) as process:
        client = Client(process)
        assert client.run("INSERT INTO former VALUES(2)") == []
        yield client


def move(engine) -> None:
    """Point `main` at a new volume, with the table `latter`."""
    engine.new("main")
    connection = graft_vfs.connect("main")
    connection.execute("CREATE TABLE latter(x)")
    connection.close()


def test_the_next_transaction_is_in_the_volume_that_the_tag_names(client, engine):
    move(engine)
    answer = client.run("INSERT INTO former VALUES(3)")
    assert "no such table: former" in answer
    assert client.run("INSERT INTO latter VALUES(3)") == []
    assert rows(graft_vfs.connect("kept"), "SELECT x FROM former") == [(1,), (2,)]
    assert rows(graft_vfs.connect("main"), "SELECT x FROM latter") == [(3,)]


def test_status_is_of_the_volume_that_the_tag_names(client, engine, former):
    move(engine)
    ((info,),) = client.run("PRAGMA graft_info")
    assert str(former) not in info
    assert str(engine.catalog.tag_volume("main")) in info
    assert client.run("SELECT count(*) FROM latter") == [(0,)]


def test_a_read_transaction_keeps_its_volume_and_cannot_write(client, engine, former):
    client.run("BEGIN")
    assert client.run("SELECT x FROM former") == [(1,), (2,)]
    move(engine)
    assert client.run("SELECT x FROM former") == [(1,), (2,)]
    latter = engine.catalog.tag_volume("main")
    assert f"the tag names volume {latter} now" in client.run("PRAGMA graft_status")[0][0]
    assert client.run("INSERT INTO former VALUES(3)").startswith(("Busy", "OperationalError"))
    client.run("ROLLBACK")
    assert client.run("INSERT INTO latter VALUES(3)") == []
    assert rows(graft_vfs.connect("kept"), "SELECT x FROM former") == [(1,), (2,)]


def test_a_tag_is_not_moved_under_a_write_transaction(client, engine, former, monkeypatch):
    monkeypatch.setattr(tag_moves, "WAIT_SECONDS", 0.0)
    client.run("BEGIN IMMEDIATE")
    client.run("INSERT INTO former VALUES(3)")
    for verb in (engine.new, engine.fork, engine.remove_tag):
        with pytest.raises(WriterBusyError, match="another connection is writing"):
            verb("main")
    assert engine.catalog.tag_volume("main") == former
    assert client.run("COMMIT") == []
    move(engine)
    assert client.run("INSERT INTO latter VALUES(3)") == []
    assert value(graft_vfs.connect("kept"), "SELECT max(x) FROM former") == 3


def test_a_connection_whose_tag_was_removed_reads_and_does_not_write(client, engine, former):
    engine.remove_tag("main")
    assert client.run("SELECT x FROM former") == [(1,), (2,)]
    answer = client.run("INSERT INTO former VALUES(3)")
    if answer.startswith("ReadOnlyError"):
        assert "tag 'main' was removed while this connection was open" in answer
        assert f"`PRAGMA graft_switch = '{former}'`" in answer
    else:  # Python's sqlite3 has SQLite's text for the code; ours goes to the standard error.
        assert answer == "OperationalError: attempt to write a readonly database"
    status = client.run("PRAGMA graft_status")[0][0]
    assert "the tag was removed" in status
    assert client.run("SELECT x FROM former") == [(1,), (2,)]
    client.run(f"PRAGMA graft_switch = '{former}'")
    assert f"(use `PRAGMA graft_switch = '{former}'` to name it again)" in status
    assert client.run("INSERT INTO former VALUES(3)") == []
    engine.remove_tag("main")
    assert client.run("SELECT count(*) FROM former") == [(3,)]
    move(engine)
    assert client.run("INSERT INTO latter VALUES(3)") == []
    assert value(graft_vfs.connect("kept"), "SELECT max(x) FROM former") == 3


def test_another_tag_of_the_volume_keeps_working(client, engine):
    assert client.run("INSERT INTO former VALUES(3)", "kept") == []
    client.run("BEGIN", "kept")
    assert client.run("SELECT count(*) FROM former", "kept") == [(3,)]
    move(engine)
    assert client.run("INSERT INTO former VALUES(4)", "kept") == []
    assert client.run("COMMIT", "kept") == []
    assert rows(graft_vfs.connect("kept"), "SELECT max(x) FROM former") == [(4,)]


def test_an_exclusive_connection_is_exclusive_in_the_tags_volume(
    client, engine, former, monkeypatch
):
    monkeypatch.setattr(tag_moves, "WAIT_SECONDS", 0.0)
    client.run("PRAGMA locking_mode=EXCLUSIVE")
    move(engine)
    assert client.run("SELECT count(*) FROM latter") == [(0,)]
    assert client.run("INSERT INTO latter VALUES(1)") == []
    with pytest.raises(WriterBusyError):
        engine.switch("main", str(former))
    graft_vfs.connect("kept").execute("INSERT INTO former VALUES(3)")
    with pytest.raises(apsw.BusyError):
        graft_vfs.connect("main").execute("INSERT INTO latter VALUES(2)")


def test_a_damaged_volume_is_left_for_the_one_that_replaced_it(client, engine, config, former):
    with (config.data_dir / "volumes" / str(former) / "0001.log").open("r+b") as log:
        log.truncate(100)
    move(engine)
    assert client.run("INSERT INTO latter VALUES(3)") == []
    assert "Error" in client.run("SELECT count(*) FROM former", "kept")


# In one process --------------------------------------------------------------------------------


def test_all_connections_of_a_process_follow_a_pragma_of_one(connect, former):
    one, other, reader = connect("main"), connect("main"), connect("file:main?mode=ro")
    for connection in (one, other, reader):
        assert value(connection, "SELECT count(*) FROM former") == 1
    one.pragma("graft_new")
    one.execute("CREATE TABLE latter(x)")
    other.execute("INSERT INTO latter VALUES(1)")
    assert rows(reader, "SELECT x FROM latter") == [(1,)]
    assert value(connect("kept"), "SELECT count(*) FROM former") == 1


def test_a_connection_that_opens_while_the_tag_moves_is_in_the_new_volume(
    connect, engine, former, monkeypatch
):
    opened = engine.open

    def open_and_move(*arguments, **options):
        volume = opened(*arguments, **options)
        monkeypatch.undo()
        move(engine)
        return volume

    monkeypatch.setattr(engine, "open", open_and_move)
    connect("main").execute("INSERT INTO latter VALUES(1)")
    assert value(connect("main"), "SELECT x FROM latter") == 1


def test_a_concurrently_moved_tag_is_moved_from_its_new_volume(engine, former, monkeypatch):
    held = branch_file.held
    moved = []

    @contextlib.contextmanager
    def held_late(directory, **options):
        if not moved:
            moved.append(directory.name)
            engine.new("main")
        moved.append(directory.name)
        with held(directory, **options):
            yield

    monkeypatch.setattr(branch_file, "held", held_late)
    made = engine.new("main").volume
    monkeypatch.undo()
    between = {row.id for row in engine.catalog.volumes()} - {former, made}
    assert len(between) == 1
    assert [str(former), *map(str, [former, former, *between])] == moved
    assert engine.catalog.tag_volume("main") == made


# Connections with lsn= or as_of= ---------------------------------------------------------------


WITH_REMOTE = """
    from dataclasses import replace

    from graft_vfs.engine.config import RemoteConfig

    root = str(config.data_dir.parent / "remote")
    graft_vfs.register(replace(config, remote=RemoteConfig(type="fs", root=root)))
"""


@pytest.fixture(params=["lsn=1", "as_of=2099-01-01"])
def fixed(request, tmp_path, connect):
    """A process, the name under which it reads LSN 1 of `main`, the engine that moves the tag."""
    config = Config(
        data_dir=tmp_path / "fixed", remote=RemoteConfig(type="fs", root=str(tmp_path / "remote"))
    )
    with engines.registered(config) as engine:
        graft_vfs.connect("main").execute("CREATE TABLE former(x); INSERT INTO former VALUES(1)")
        engine.push("main")
        with child(config.data_dir, WITH_REMOTE + CLIENT.format(binding="apsw")) as process:
            yield Client(process), f"file:main?{request.param}", engine


def test_a_view_of_the_past_stays_when_its_tag_moves(fixed):
    client, view, engine = fixed
    former = engine.catalog.tag_volume("main")
    assert client.run("SELECT x FROM former", view) == [(1,)]
    move(engine)
    engine.push("main", name="latter")
    assert client.run("SELECT x FROM former", view) == [(1,)]
    assert "no such table: latter" in client.run("SELECT * FROM latter", view)
    assert client.run("INSERT INTO former VALUES(2)", view).startswith("ReadOnlyError")
    assert str(former) in client.run("PRAGMA graft_info", view)[0][0]
    engine.remove_tag("main")
    for statement in ("BEGIN", "SELECT x FROM former", "COMMIT", "SELECT x FROM former"):
        assert client.run(statement, view) in ([], [(1,)])
    ((collected),) = [each for each in engine.collect_local() if each.volume == former]
    assert not collected.removed, "a connection of another process reads it"
    assert client.run("SELECT x FROM former", view) == [(1,)]


def test_a_view_of_the_past_is_of_the_volume_that_the_tag_names_when_it_is_opened(fixed):
    client, view, engine = fixed
    move(engine)
    engine.push("main", name="latter")
    assert client.run("SELECT count(*) FROM latter", view) == [(0,)]


def test_a_view_of_the_past_that_opens_while_its_tag_moves_is_of_one_volume(fixed, monkeypatch):
    _, view, engine = fixed
    former = engine.catalog.tag_volume("main")
    snapshot_at = engine.snapshot_at

    def late(*arguments, **options):
        monkeypatch.undo()
        move(engine)
        engine.push("main", name="latter")
        return snapshot_at(*arguments, **options)

    monkeypatch.setattr(engine, "snapshot_at", late)
    connection = graft_vfs.connect(view)
    assert str(former) in value(connection, "PRAGMA graft_info")
    assert value(connection, "SELECT x FROM former") == 1
