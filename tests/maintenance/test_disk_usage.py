"""Where the bytes of a data directory are: each counts once, and together they are all of them."""

from __future__ import annotations

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import NotFoundError
from graft_vfs.ids import LogId
from graft_vfs.local.files import disk_bytes
from tests.support.replicas import Replica


@pytest.fixture
def machine(tmp_path):
    remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))
    with Replica(tmp_path / "data", remote) as made:
        yield made


def filled(machine: Replica, tag: str, updates: int = 0) -> None:
    connection = machine.connect(tag)
    connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(100000))")
    for number in range(updates):
        connection.execute("UPDATE t SET x = randomblob(100000)" if number else "SELECT 1")
    connection.close()


def test_everything_counts_once(machine) -> None:
    filled(machine, "main")
    machine.engine.push("main")
    filled(machine, "local", updates=5)
    machine.engine.fork("main", new_tag="side")
    cache = machine.engine.config.data_dir / "cache" / str(LogId.new())
    cache.mkdir()
    (cache / "0001.index").write_bytes(bytes(70_000))
    usage = machine.engine.disk_usage()
    local, main, side = usage.volumes
    assert [each.tags for each in usage.volumes] == [("local",), ("main",), ("side",)]
    assert usage.total_bytes == disk_bytes(machine.engine.config.data_dir)
    together = sum(each.total_bytes for each in usage.volumes)
    assert together + usage.catalog_bytes + usage.rest_bytes == usage.total_bytes
    assert usage.rest_bytes >= 70_000
    # Its five images of each page, of which one is alive.
    assert 100_000 < local.alive_bytes < 120_000
    assert local.dead_bytes > 4 * 100_000
    assert local.cache_bytes == 0
    # What was pushed is dead in the branch file, and the fork shares the cache of its parent.
    assert (main.alive_bytes, side.alive_bytes) == (0, 0)
    assert main.dead_bytes > 100_000
    assert main.cache_bytes > 100_000
    assert side.cache_bytes == 0


def test_a_tag_has_a_report_of_its_own(machine) -> None:
    filled(machine, "main")
    filled(machine, "other")

    usage = machine.engine.disk_usage("main")
    assert [each.tags for each in usage.volumes] == [("main",)]
    assert usage.total_bytes == usage.volumes[0].total_bytes
    assert (usage.catalog_bytes, usage.rest_bytes) == (None, None)
    assert str(usage).endswith(" on disk")
    with pytest.raises(NotFoundError, match="no tag 'none'"):
        machine.engine.disk_usage("none")


def test_a_volume_that_cannot_be_read_still_counts(machine) -> None:
    filled(machine, "main")
    directory = machine.engine.open("main").directory
    machine.close()
    (directory / "0001.log").write_bytes(b"no branch file" * 10_000)
    machine = Replica(machine.engine.config.data_dir, machine.engine.config.remote)
    (broken,) = machine.engine.disk_usage().volumes
    assert (broken.alive_bytes, broken.dead_bytes) == (None, None)
    assert broken.total_bytes >= 140_000
    assert "0001.log" in broken.problem
    machine.close()
