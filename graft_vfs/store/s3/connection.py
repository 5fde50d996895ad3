"""boto3's connections, made to tell the exchange of their thread what they do.

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
    """A watched socket over TLS; made by an SSLContext whose `sslsocket_class` it is."""


class _Telling:
    """Mixin: `connect` and `send` say what of a request can have left.

    What is sent while connecting, to a proxy, is not the request itself.
    """

    _is_connecting = False

    def connect(self) -> None:
        """Make the connection, and the tunnel through a proxy; nothing of the request leaves."""
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
        """Send bytes of the request; from the first one on, its outcome is unknown."""
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
    """Let a client make connections of this module; before its first request."""
    session = client._endpoint.http_session  # noqa: SLF001 - no public name leads there
    pools = {"http": _HttpPool, "https": _HttpsPool}
    # The session hands this mapping to the managers of proxies, which it makes when they are asked
    # for; the manager without a proxy exists already.
    session._pool_classes_by_scheme = pools  # noqa: SLF001 - botocore has no public way
    session._manager.pool_classes_by_scheme = pools  # noqa: SLF001
