"""Opening a data directory and its remote: all of it or nothing, and the threads that it gets."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import ConfigError
from tests.support.replicas import Replica, rows


def open_files(directory: Path) -> list[str]:
    """Return the files below a directory that this process has open."""
    paths = [path.resolve() for path in Path("/proc/self/fd").iterdir() if path.exists()]
    return [str(path) for path in paths if path.is_relative_to(directory)]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_an_engine_whose_remote_cannot_be_opened_leaves_no_file_open(tmp_path) -> None:
    (tmp_path / "file").write_text("no directory")
    remote = RemoteConfig(type="fs", root=str(tmp_path / "file"))
    with pytest.raises(ConfigError) as failure:
        Graft(Config(data_dir=tmp_path / "data", remote=remote))
    # The failure holds the frames that opened the catalog: no garbage collection helps here.
    assert failure.traceback
    assert open_files(tmp_path / "data") == []


def test_one_thread_is_enough_because_no_task_waits_for_another(tmp_path) -> None:
    remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))
    with Replica(tmp_path / "ours", remote) as ours:
        connection = ours.connect()
        connection.execute("CREATE TABLE t(v)")
        connection.executemany(
            "INSERT INTO t VALUES(randomblob(?))", ((2000,) for _ in range(1000))
        )
        ours.engine.push("main")
    with Replica(tmp_path / "theirs", remote, executor=ThreadPoolExecutor(1)) as theirs:
        connection = theirs.connect(remote="main")
        hydrating = threading.Thread(target=theirs.engine.hydrate, args=("main",))
        hydrating.start()
        assert rows(connection, "SELECT count(*), sum(length(v)) FROM t") == [(1000, 2_000_000)]
        hydrating.join()
