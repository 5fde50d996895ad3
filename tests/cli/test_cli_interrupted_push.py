"""Ctrl-C ends a push, whatever its requests wait for."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading

import pytest

from graft_vfs.cli.exit_codes import INTERRUPTED
from graft_vfs.engine.config import RemoteConfig
from tests.support.network import Network
from tests.support.proxy import Exchange, Proxy, Stalled, passed
from tests.support.replicas import Replica, rows

PATIENCE_SECONDS = 60
FOR_EVER = "3600"


@pytest.mark.parametrize(("megabytes", "kind"), [(17, "part"), (17, "upload"), (0, "claim")])
def test_ctrl_c_ends_a_push_whose_server_is_silent(ministack, tmp_path, megabytes, kind) -> None:
    with Network(ministack, tmp_path / "network") as network, Proxy(ministack) as proxy:
        data_dir = tmp_path / "data"
        nowhere = RemoteConfig(type="memory", root=str(tmp_path))
        with Replica(data_dir, nowhere) as machine:
            connection = machine.connect()
            connection.execute("CREATE TABLE t(v)")
            blob = random.Random(1).randbytes((megabytes << 20) + 1)
            connection.execute("INSERT INTO t VALUES(?)", (blob,))
        stalled, waits = Stalled(), threading.Event()

        def stall(exchange: Exchange) -> None:
            waits.set()
            stalled(exchange)

        proxy.choose = lambda request: stall if request.kind == kind else passed
        environment = {
            **os.environ,
            **proxy.endpoint.environment(),
            "GRAFT_DATA_DIR": str(data_dir),
            "GRAFT_REMOTE_TYPE": "s3_compatible",
            "GRAFT_REMOTE_BUCKET": network.bucket,
            "GRAFT_REMOTE_ENDPOINT": proxy.endpoint.url,
            "GRAFT_REMOTE_READ_TIMEOUT": FOR_EVER,
            "GRAFT_REMOTE_TOTAL_TIMEOUT": FOR_EVER,
        }
        child = subprocess.Popen(
            [sys.executable, "-m", "graft_vfs.cli", "push", "main"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            assert waits.wait(PATIENCE_SECONDS)
            child.send_signal(signal.SIGINT)
            # Nothing else ends it: the server stays silent, and the timeouts are an hour.
            assert child.wait(PATIENCE_SECONDS) == INTERRUPTED
            assert not stalled.ended.is_set()
        finally:
            child.kill()
            child.communicate()
            stalled.ended.set()
        proxy.choose = lambda _: passed
        with network.server.identity():
            remote = RemoteConfig("s3_compatible", None, network.bucket, "", ministack.url)
            with Replica(data_dir, remote) as machine:
                assert rows(machine.connect()) == [(blob,)]
                assert machine.engine.push("main").lsn == 1
