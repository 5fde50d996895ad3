"""A static file server on loopback that honours ranges, and ways in which others do not."""

from __future__ import annotations

import contextlib
import http.server
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]+)")


class StaticFiles(http.server.ThreadingHTTPServer):
    """Serves the files of a directory; `requests` has (method, path, Range) of each request.

    `change` may answer in place of the server: it gets the handler and the file's bytes, None for
    an absent file, and returns True if it has answered.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.requests: list[tuple[str, str, str | None]] = []
        self.connections = 0
        self._open: list[socket.socket] = []
        self.change: Callable[[_Handler, bytes | None], bool] = lambda *_: False

    def process_request(self, request: Any, client_address: Any) -> None:
        """Count a connection, and serve it."""
        self.connections += 1
        self._open.append(request)
        super().process_request(request, client_address)

    def close_connections(self) -> None:
        """End all connections, as a server does with idle ones."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    @property
    def url(self) -> str:
        """The URL of the directory."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StaticFiles

    def log_message(self, *_: object) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        """Answer with a file, or the part of it that was asked for."""
        asked = self.headers.get("Range")
        self.server.requests.append(("GET", self.path, asked))
        path = self.server.root / unquote(self.path.partition("?")[0]).lstrip("/")
        data = path.read_bytes() if path.is_file() else None
        if self.server.change(self, data):
            return
        if data is None:
            self.answer(404, b"not found", {"Content-Type": "text/plain"})
            return
        match = _RANGE.fullmatch(asked or "")
        if match is None:
            self.answer(200, data)
            return
        start, end = int(match[1]), min(int(match[2]) + 1, len(data))
        if start >= len(data):
            self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        shown = f"bytes {start}-{end - 1}/{len(data)}"
        self.answer(206, data[start:end], {"Content-Range": shown})

    def do_PUT(self) -> None:
        """Record a request to write."""
        self.server.requests.append(("PUT", self.path, None))
        self.answer(405, b"")

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def serving(root: Path) -> Iterator[StaticFiles]:
    """Serve a directory inside the block."""
    with StaticFiles(root) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
