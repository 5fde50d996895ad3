"""A connection that reads snapshots, with no VFS registered for the volume."""

from __future__ import annotations

import apsw
import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.pager.snapshots import connected
from tests.support.replicas import Replica


@pytest.fixture
def machine(tmp_path):
    with Replica(tmp_path / "data", RemoteConfig(type="memory", root=str(tmp_path))) as replica:
        replica.connect().execute("CREATE TABLE t(a); INSERT INTO t VALUES(1)")
        yield replica


def test_each_schema_shows_its_own_snapshot(machine):
    volume = machine.engine.open("main")
    with volume.pinned() as older:
        machine.connect().execute("INSERT INTO t VALUES(2)")
        with (
            volume.pinned() as newer,
            connected(volume, {"main": newer, "older": older}) as connection,
        ):
            machine.connect().execute("DELETE FROM t")
            assert connection.execute("SELECT count(*) FROM main.t").get == 2
            assert connection.execute("SELECT count(*) FROM older.t").get == 1
            for schema in ("main", "older"):
                assert connection.readonly(schema)
                with pytest.raises(apsw.ReadOnlyError):
                    connection.execute(f"DELETE FROM {schema}.t")


def test_an_unknown_name_is_not_a_snapshot(machine):
    volume = machine.engine.open("main")
    with (
        volume.pinned() as snapshot,
        connected(volume, {"main": snapshot}) as connection,
        pytest.raises(apsw.CantOpenError, match="no snapshot 'other'"),
    ):
        connection.execute("ATTACH 'other' AS other")
