"""boto3's connections, extended to report their progress to their thread's exchange.

This module imports botocore, so it is imported when the first client is made.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)

from graft_vfs.store.s3.exchange import Stage, WatchedSocket, current, watched


class _WatchedTlsSocket(WatchedSocket, ssl.SSLSocket):
    """A watched TLS socket, created by an SSLContext through its `sslsocket_class`."""


class _Telling:
    """Mixin: `connect` and `send` report whether any byte of a request was sent.

    Bytes sent to a proxy while connecting are not part of the request.
    """

    _is_connecting = False

    def connect(self) -> None:
        """Connect, if needed through a proxy's tunnel; no byte of the request is sent."""
        this: Any = self
        exchange = current()
        if exchange is not None:
            this.timeout = exchange.connect_seconds()
            if exchange.stage is Stage.HANDED_OVER:
                exchange.stage = Stage.CONNECTING
        context = getattr(this, "ssl_context", None)
        if context is not None:
            context.sslsocket_class = _WatchedTlsSocket
        self._is_connecting = True
        try:
            super().connect()  # type: ignore[misc]
        finally:
            self._is_connecting = False

    def send(self, data: Any) -> None:
        """Send bytes of the request; after the first byte, its outcome is unknown."""
        this: Any = self
        if this.sock is None and this.auto_open:
            self.connect()
        exchange = current()
        if exchange is not None and not self._is_connecting:
            exchange.stage = Stage.SENT
        super().send(data)  # type: ignore[misc]

    def _new_conn(self) -> socket.socket:
        return watched(super()._new_conn())  # type: ignore[misc]


class _HttpConnection(_Telling, AWSHTTPConnection):  # type: ignore[misc]
    """A plain connection."""


class _HttpsConnection(_Telling, AWSHTTPSConnection):  # type: ignore[misc]
    """A connection over TLS."""


class _HttpPool(AWSHTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(AWSHTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


def watch(client: Any) -> None:
    """Make a client use this module's connections; call it before the first request."""
    session = client._endpoint.http_session  # noqa: SLF001 - no public name leads there
    pools = {"http": _HttpPool, "https": _HttpsPool}
    # The session passes this mapping to proxy managers, which it creates on demand; the manager
    # without a proxy already exists.
    session._pool_classes_by_scheme = pools  # noqa: SLF001 - botocore has no public way
    session._manager.pool_classes_by_scheme = pools  # noqa: SLF001
