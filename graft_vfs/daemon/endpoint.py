"""An HTTP server for metrics: `GET /metrics`, in its own threads."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from graft_vfs.errors import ConfigError, GraftError, UsageError
from graft_vfs.metrics import CONTENT_TYPE

_LOOPBACK = "127.0.0.1"
_ADDRESS = re.compile(r"(?:(\[[0-9A-Fa-f:.]+\]|[^\[\]:]*):)?([0-9]{1,5})", re.ASCII)
_CLIENT_SECONDS = 10.0
"""How long a client may be silent."""


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `host:port`, `[IPv6]:port`, `:port` or `port`; raises UsageError.

    The default host is loopback, so that nothing is exposed to the network by mistake.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found[2]) > 65535:
        raise UsageError(
            f"{text!r} is not an address for metrics",
            next_step="write host:port, or :port for this machine only, as in :9090",
        )
    return (found[1] or "").strip("[]") or _LOOPBACK, int(found[2])


class Endpoint:
    """Serves metrics until it is closed. Owner: the daemon's command."""

    def __init__(self, address: tuple[str, int], metrics: Callable[[], str]) -> None:
        """Listen, and serve what `metrics` returns at each request; raises ConfigError."""

        class Handler(_Handler):
            text = staticmethod(metrics)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Ignore clients that disconnected."""

        host, port = address
        try:
            self._server = Server(address, Handler)
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no host name"
            raise ConfigError(
                f"metrics cannot be served at {host}:{port}: {reason}",
                next_step="choose another address, or end the program that listens there",
            ) from error
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.server_port}/metrics"
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="graft-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    timeout = _CLIENT_SECONDS
    text: Callable[[], str]

    def do_GET(self) -> None:
        """Answer with the metrics."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(HTTPStatus.NOT_FOUND, explain="metrics are at /metrics")
            return
        try:
            body = type(self).text().encode()
        except GraftError as error:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain=error.message)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name it has there
        """Log no request."""
