"""A slow line in real time: what makes progress is sent once, and nothing of it twice."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Self
from urllib.parse import urlsplit

import pytest

from tests.support.servers import S3Endpoint

MIB = 1024 * 1024


class SlowLine:
    """Passes bytes on to a server, no more than so many a second in all. Owner: a test."""

    def __init__(self, server: S3Endpoint, bytes_per_second: int) -> None:
        self.passed_bytes = 0
        self._server = urlsplit(server.url)
        self._rate = bytes_per_second
        self._listener = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.endpoint = S3Endpoint(url, server.access_key, server.secret_key)
        self._lock = threading.Lock()
        self._is_ending = False
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_ending = True
        socket.create_connection(self._listener.getsockname()).close()
        self._threads[0].join()
        self._listener.close()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._is_ending:
                client.close()
                return
            server = socket.create_connection((self._server.hostname, self._server.port))
            self._sockets += [client, server]
            for pump, ends in ((self._up, (client, server)), (self._down, (server, client))):
                self._threads.append(threading.Thread(target=pump, args=ends))
                self._threads[-1].start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(8192):
                with self._lock:  # One line for all connections.
                    time.sleep(len(data) / self._rate)
                    self.passed_bytes += len(data)
                server.sendall(data)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)


@pytest.mark.deep
@pytest.mark.parametrize("megabits", [3, 1])
def test_thirty_megabytes_over_a_slow_connection_are_sent_once(ministack, megabits) -> None:
    """Takes 85 seconds and 4 minutes."""
    with SlowLine(ministack, megabits * 1_000_000 // 8) as line:
        with line.endpoint.store(ministack.fresh_bucket()) as store:
            store.put("k", [bytes([number]) * MIB for number in range(30)])
            counts = store.counters.snapshot()
        assert counts.retries == 0
        assert counts.bytes_sent == 30 * MIB
        assert line.passed_bytes < 30 * MIB + 64 * 1024
