"""An HTTP server that answers each request with what a test wrote down for it, byte by byte."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from tests.support.clocks import SkippingClock
from tests.support.servers import S3Endpoint

REASONS = {200: "OK", 206: "Partial Content"}


@dataclass(frozen=True)
class Request:
    """What the server received."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Reply = bytes | Iterator[bytes] | None
"""Bytes to send, at once or one after the other, before the connection is closed; None closes it in
silence."""


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    """Make a whole answer; `content_length` in `headers` replaces the true one."""
    headers = {"content_length": str(len(body)), "connection": "close", **headers}
    head = f"HTTP/1.1 {status} {REASONS.get(status, 'Error')}\r\n"
    for name, value in headers.items():
        head += f"{name.replace('_', '-')}: {value}\r\n"
    return head.encode() + b"\r\n" + body


def error(status: int, code: str, message: str = "a message") -> bytes:
    """Make an error answer as S3 writes them."""
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return answer(status, text.encode(), content_type="application/xml")


def held(body: bytes, status: int = 200, **headers: str) -> bytes:
    """Answer a read as a store does that has exactly these bytes."""
    return answer(status, body, etag=f'"{hashlib.md5(body).hexdigest()}"', **headers)


def landed(request: Request) -> bytes:
    """Answer a write as a store does that has exactly these bytes."""
    return answer(200, etag=f'"{hashlib.md5(request.body).hexdigest()}"')


class ScriptedServer:
    """Answers the first requests with the script, and all later ones with its last reply."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.script: list[Reply | Callable[[Request], Reply]] = [None]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = S3Endpoint(f"http://127.0.0.1:{self._listener.getsockname()[1]}")
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing a listener does not wake the thread that waits for it; a connection does.
        self._closing = True
        socket.create_connection(self._listener.getsockname()).close()
        self._thread.join()
        self._listener.close()

    _closing = False

    def store(self, **settings):
        """Return a store on this server, impatient, so that tests are quick."""
        settings = {
            "read_timeout_seconds": 5.0,
            "attempts_max": 2,
            "clock": SkippingClock(),
            **settings,
        }
        return self.endpoint.store("bucket", **settings)

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._closing:
                connection.close()
                return
            # A client may give up, which is its right.
            with (
                contextlib.suppress(BrokenPipeError, ConnectionResetError),
                connection,
                connection.makefile("rb") as stream,
            ):
                self._handle(connection, stream)

    def _handle(self, connection: socket.socket, stream) -> None:
        line = stream.readline().decode().split()
        if not line:
            return
        headers = {}
        while (field := stream.readline().decode().strip()) != "":
            name, _, value = field.partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("expect") == "100-continue":
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = stream.read(int(headers.get("content-length", 0)))
        if len(body) < int(headers.get("content-length", 0)):
            return
        request = Request(line[0], line[1], headers, body)
        reply = self.script[min(len(self.requests), len(self.script) - 1)]
        self.requests.append(request)
        data = reply(request) if callable(reply) else reply
        if data is None:
            return
        for part in [data] if isinstance(data, (bytes, memoryview)) else data:
            connection.sendall(part)
