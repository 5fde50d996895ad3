"""`graft_vfs.connect`: its parameters, and what it raises."""

from __future__ import annotations

import pickle
import socket
import traceback
from pathlib import Path

import apsw
import pytest

import graft_vfs
from graft_vfs import errors
from graft_vfs.engine.config import Config, RemoteConfig
from tests.support import engines
from tests.support.sql import value

CASES = [
    ({"name": "file:absent?vfs=graft&mode=ro"}, errors.NotFoundError, apsw.CantOpenError),
    ({"name": "file:main?vfs=graft&lsn=one"}, errors.UsageError, apsw.CantOpenError),
    ({"name": "main", "as_of": "some day"}, errors.UsageError, apsw.CantOpenError),
    ({"name": "main", "lsn": 7}, errors.NotFoundError, apsw.CantOpenError),
    ({"name": "other", "remote": "absent"}, errors.NotFoundError, apsw.CantOpenError),
    ({"name": "file:main?vfs=absent"}, errors.UsageError, apsw.SQLError),
    ({"name": "file:main?vfs=graft&mode=wrong"}, errors.UsageError, apsw.SQLError),
    ({"name": "main", "flags": 0}, errors.UsageError, apsw.MisuseError),
    ({"name": "file:/absent/x.db?vfs=unix"}, errors.UsageError, apsw.CantOpenError),
]


@pytest.fixture
def two_commits(engine, connect) -> None:
    connection = connect("main")
    connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
    engine.push("main")
    connection.execute("INSERT INTO t VALUES(2)")
    engine.push("main")


@pytest.mark.usefixtures("two_commits")
@pytest.mark.parametrize("name", ["main", Path("main"), "file:main?vfs=graft", "file:main"])
def test_parameters_are_those_of_the_uri(connect, name):
    assert value(connect(name, lsn=1), "SELECT max(x) FROM t") == 1
    assert value(connect(name, as_of="0 seconds ago"), "SELECT max(x) FROM t") == 2
    assert value(connect(name), "SELECT max(x) FROM t") == 2


@pytest.mark.usefixtures("two_commits")
def test_a_reader_clones_at_its_first_start_and_refuses_writes(engine, connect):
    reader = connect("reader", remote="main", mode="ro")
    assert value(reader, "SELECT max(x) FROM t") == 2
    with pytest.raises(apsw.ReadOnlyError):
        reader.execute("INSERT INTO t VALUES(3)")
    connect("main").execute("INSERT INTO t VALUES(3)")
    engine.push("main")
    engine.pull("reader")
    assert value(reader, "SELECT max(x) FROM t") == 3
    for absent in (
        {"remote": "absent", "mode": "ro"},
        {"mode": "ro"},
        {"remote": "main", "mode": "rw"},
    ):
        with pytest.raises(errors.NotFoundError):
            connect("other", **absent)
    assert [report.tag for report in engine.tags()] == ["main", "reader"]


@pytest.mark.usefixtures("two_commits")
@pytest.mark.parametrize(("arguments", "declared", "kind"), CASES)
def test_an_error_is_both_declared_and_sqlite_s(connect, arguments, declared, kind):
    with pytest.raises(graft_vfs.GraftError) as raised:
        connect(**arguments)
    error = raised.value
    assert isinstance(error, declared)
    assert isinstance(error, kind)
    assert error.__cause__ is None
    assert isinstance(error.result, int)
    assert error.extendedresult & 0xFF == error.result
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, declared)
    assert isinstance(again, kind)
    assert (str(again), again.result) == (str(error), error.result)


def test_a_damaged_branch_file_is_both(config):
    with engines.registered(config) as engine:
        graft_vfs.connect("main").execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
        (path,) = engine.open("main").directory.glob("*.log")
    path.write_bytes(b"x" * path.stat().st_size)
    with engines.registered(config), pytest.raises(errors.CorruptLogError) as raised:
        graft_vfs.connect("main")
    assert isinstance(raised.value, apsw.CorruptError)


@pytest.fixture
def closed_port():
    """Return a port that refuses connections: it is bound, but does not listen."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_an_endpoint_that_refuses_connections_is_one_error_with_one_cause(
    tmp_path, monkeypatch, closed_port
):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    endpoint = f"http://127.0.0.1:{closed_port}"
    remote = RemoteConfig(type="s3_compatible", bucket="bucket", endpoint=endpoint)
    engine = graft_vfs.register(Config(data_dir=tmp_path, remote=remote))
    try:
        for call in (
            lambda: graft_vfs.connect("main", remote="main"),
            lambda: engine.clone("main", "copy"),
            engine.refs,
        ):
            with pytest.raises(errors.StoreUnavailableError) as raised:
                call()
            cause = raised.value.__cause__
            assert isinstance(cause, ConnectionRefusedError)
            assert (cause.__cause__, cause.__context__, cause.__traceback__) == (None, None, None)
            text = "".join(traceback.format_exception(raised.value))
            assert "site-packages" not in text
            assert endpoint in text
    finally:
        graft_vfs.unregister()
