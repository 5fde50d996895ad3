"""What a person who operates this reads in the log, and what nobody may."""

from __future__ import annotations

import logging

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import StoreError
from graft_vfs.store.s3 import S3Store
from tests.support.children import child
from tests.support.replicas import Replica


@pytest.fixture
def logged(caplog):
    """Messages of the package at INFO and above, by what wrote them."""
    caplog.set_level(logging.INFO, "graft_vfs")

    def take() -> list[str]:
        lines = [f"{each.name.partition('.')[2]}: {each.getMessage()}" for each in caplog.records]
        caplog.clear()
        return lines

    return take


@pytest.fixture
def machines(tmp_path):
    remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))
    made = [Replica(tmp_path / name, remote) for name in ("one", "two")]
    yield made
    for machine in made:
        machine.close()


def test_everything_that_moves_commits_is_logged(logged, machines):
    one, two = machines
    connection = one.connect()
    connection.execute("CREATE TABLE t(k); INSERT INTO t VALUES(1)")
    assert logged() == []
    volume = one.engine.open("main").id
    one.engine.push("main")
    (line,) = logged()
    assert line.startswith(f"sync.push: volume {volume}: Pushed 2 commits as remote LSN 1")
    two.engine.clone("main", "copy")
    fetched, cloned = logged()
    assert fetched.endswith(": 1 new commits, now at LSN 1")
    assert cloned.startswith("engine.moving: tag 'copy': Cloned to volume")
    connection.execute("INSERT INTO t VALUES(2)")
    one.engine.push("main")
    logged()
    two.engine.pull("copy")
    fetched, pulled = logged()
    assert fetched.startswith("sync.fetch: log ")
    assert "Pulled 1 commit of remote log" in pulled
    two.engine.pull("copy")
    assert logged() == []
    two.engine.remove_tag("copy")
    assert logged() == ["engine.graft: tag 'copy': removed"]
    connection.close()


def test_the_data_directory_and_its_remote_are_logged(tmp_path, logged):
    Replica(tmp_path / "data", RemoteConfig(type="fs", root=str(tmp_path / "remote"))).close()
    assert logged() == [f"engine.context: opened {tmp_path}/data with file://{tmp_path}/remote"]


def test_commits_and_reads_log_nothing_at_any_level(machines, caplog):
    connection = machines[0].connect()
    connection.execute("CREATE TABLE t(k)")
    caplog.set_level(logging.DEBUG, "graft_vfs")
    caplog.clear()
    for number in range(10):
        connection.execute("INSERT INTO t VALUES(?)", (number,))
    assert len(connection.execute("SELECT k FROM t").fetchall()) == 10
    connection.close()
    assert caplog.records == []


def test_the_recovery_of_a_killed_process_s_commit_is_logged(tmp_path, logged):
    program = """
        import os, signal
        from graft_vfs.local.branch_log import BranchLog
        connection = graft_vfs.connect("main")
        connection.execute("CREATE TABLE t(k)")
        append = BranchLog.append
        def append_and_die(*arguments):
            append(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        BranchLog.append = append_and_die
        connection.execute("INSERT INTO t VALUES(1)")
    """
    with child(tmp_path / "data", program) as killed:
        killed.process.wait(60)
    machine = Replica(tmp_path / "data", RemoteConfig())
    connection = machine.connect()
    connection.execute("INSERT INTO t VALUES(2)")
    assert any("recovered up to LSN 2" in line for line in logged())
    assert connection.execute("SELECT count(*) FROM t").get == 2
    connection.close()
    machine.close()


def test_no_credential_is_logged_at_any_level(monkeypatch, caplog, ministack):
    secret, token = "S3cretS3cretS3cretS3cretS3cretS3cretS3cr", "T0kenT0kenT0kenT0ken"
    for name, value in ministack.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    caplog.set_level(logging.DEBUG, "graft_vfs")
    with S3Store(ministack.fresh_bucket(), endpoint=ministack.url) as store:
        store.put_if_absent("k", b"1")
        store.put_if_absent("k", b"1")
        with pytest.raises(StoreError):
            store.get("absent")
    assert caplog.records
    assert secret not in caplog.text
    assert token not in caplog.text
    assert "Signature" not in caplog.text
