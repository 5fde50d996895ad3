"""An HTTP proxy in front of a real S3 server that simulates a faulty network.

It is a reverse proxy at `endpoint`, with TLS if it gets a context, or a forward proxy that clients
find through `HTTP_PROXY`: then a request names its server, and the proxy removes that name.
`Tunnel` is a CONNECT proxy for servers with TLS.

A *fault* is a function of one exchange: it decides whether the request reaches the server, and what
the client receives. The proxy calls `choose` for the fault of each request; a test replaces it. A
request is forwarded unchanged, including `Host`, so that its signature stays valid.

Invariant: a fault's claim about the server is true. Only `forward` sends a request to the server,
so without that call the request has not reached it.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Self
from urllib.parse import unquote, urlsplit, urlunsplit

from tests.support.servers import S3Endpoint

_PATIENCE_SECONDS = 60.0
"""How long a thread waits for another one; only a broken test waits that long."""
_OF_ONE_HOP = frozenset({"connection", "content-length", "expect", "transfer-encoding"})
_NO_CONTENT = 204


@dataclass(frozen=True)
class Request:
    """A request as it arrived; `number` counts those of its proxy from 1."""

    number: int
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """Return a header's value, empty if there is none."""
        return dict(self.headers).get(name, "")

    @property
    def key(self) -> str:
        """The path after the bucket; empty for a request about the bucket, such as a listing."""
        return unquote(urlsplit(self.target).path).lstrip("/").partition("/")[2]

    @property
    def kind(self) -> str:
        """The kind of request: claim, ref, probe, put, part, upload, get, list or delete."""
        query = urlsplit(self.target).query
        if self.method == "PUT" and self.header("if-none-match"):
            return {"refs": "ref", "probe": "probe"}.get(self.key.split("/")[0], "claim")
        if self.method == "PUT":
            return "part" if "partNumber=" in query else "put"
        if self.method == "GET":
            return "get" if self.key else "list"
        # The other requests begin, complete or abort a multipart upload.
        return "delete" if self.method == "DELETE" and not query else "upload"


@dataclass(frozen=True)
class Answer:
    """A complete answer of the server."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def message(self) -> bytes:
        """Return the answer as sent to the client."""
        lines = [f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, 'Answer')}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.status != _NO_CONTENT:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


class Exchange:
    """One request and its outcome. Owner: the thread of its connection."""

    def __init__(self, proxy: Proxy, request: Request, connection: socket.socket) -> None:
        self.request = request
        self.is_ended = False
        self._proxy = proxy
        self._connection = connection

    def forward(self) -> Answer:
        """Send the request to the server, again if called again; returns the answer."""
        return self._proxy.forward(self.request)

    def send(self, message: bytes) -> None:
        """Send bytes to the client."""
        self._connection.sendall(message)

    def end(self, *, reset: bool = False) -> None:
        """End the connection after the sent bytes; a TCP reset discards even these."""
        if reset:
            no_lingering = struct.pack("ii", 1, 0)
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
        self.is_ended = True

    def wait(self, event: threading.Event) -> None:
        """Wait for a test's event; closing the proxy also sets it."""
        self._proxy.wait(event)

    def delay(self, seconds: float) -> None:
        """Wait for some time; less if the proxy closes."""
        self._proxy.ending.wait(seconds)


Fault = Callable[[Exchange], None]


class Proxy:
    """A proxy before one server. Owner: a test, as a context manager.

    Clients connect to `endpoint`. Each connection has a thread, and each request its own connection
    to the server. A test may set `choose` at any time.
    """

    def __init__(self, server: S3Endpoint, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.choose: Callable[[Request], Fault] = lambda _: passed
        self.requests: list[Request] = []
        self._server = urlsplit(server.url)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        scheme = "http" if tls is None else "https"
        url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self.endpoint = S3Endpoint(url, server.access_key, server.secret_key)
        self._lock = threading.Lock()
        self.ending = threading.Event()
        self._connections: set[socket.socket] = set()
        self._awaited: list[threading.Event] = []
        self._threads = [threading.Thread(target=self._accept, name="proxy")]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.ending.set()
            for event in self._awaited:
                event.set()
        # Closing a listener does not wake its waiting thread, but a connection does.
        socket.create_connection(self._listener.getsockname()).close()
        self._threads[0].join()
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                _shut(connection)
        for thread in self._threads[1:]:
            thread.join()

    def counts(self) -> Counter[str]:
        """Return how many requests of each kind arrived."""
        return Counter(request.kind for request in list(self.requests))

    def forward(self, request: Request) -> Answer:
        """Send a request to the server; returns its answer."""
        host, port = self._server.hostname, self._server.port
        assert host is not None
        server = http.client.HTTPConnection(host, port, timeout=_PATIENCE_SECONDS)
        try:
            server.putrequest(
                request.method, request.target, skip_host=True, skip_accept_encoding=True
            )
            for name, value in _of_both_hops(request.headers):
                server.putheader(name, value)
            if request.method in {"PUT", "POST"}:
                server.putheader("Content-Length", str(len(request.body)))
            server.endheaders(request.body)
            with server.getresponse() as response:
                headers = _of_both_hops(response.getheaders())
                return Answer(response.status, headers, response.read())
        except (OSError, http.client.HTTPException) as error:
            # Not a simulated fault, so it must not look like one.
            raise AssertionError("the server behind the proxy does not answer") from error
        finally:
            server.close()

    def wait(self, event: threading.Event) -> None:
        """Wait for an event; closing the proxy also sets it."""
        with self._lock:
            self._awaited.append(event)
            if self.ending.is_set():
                return
        assert event.wait(_PATIENCE_SECONDS), "a test never set the event that the proxy waits for"

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                if self.ending.is_set():
                    connection.close()
                    return
                self._connections.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), name="proxied")
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        """Handle the requests of a connection, one after the other, until either side ends it."""
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection.makefile("rb") as stream:
                while (request := self._read(connection, stream)) is not None:
                    exchange = Exchange(self, request, connection)
                    self.choose(request)(exchange)
                    if exchange.is_ended:
                        break
        except OSError:
            pass  # The client may give up at any time.
        finally:
            with self._lock:
                self._connections.discard(connection)
                connection.close()

    def _read(self, connection: socket.socket, stream: BinaryIO) -> Request | None:
        """Read one request; None at the end of the connection."""
        line = stream.readline().decode("latin-1").split()
        if not line:
            return None
        message = http.client.parse_headers(stream)
        if message.get("Expect") is not None:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = int(message.get("Content-Length", 0))
        body = stream.read(length)
        if len(body) < length:
            return None
        headers = tuple((name.lower(), value) for name, value in message.items())
        with self._lock:
            target = line[1]
            if target.startswith("http://"):
                target = urlunsplit(("", "", *urlsplit(target)[2:]))
            request = Request(len(self.requests) + 1, line[0], target, headers, body)
            self.requests.append(request)
        return request


def _of_both_hops(headers: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in headers if name.lower() not in _OF_ONE_HOP)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # The client may have ended it already.
        connection.shutdown(socket.SHUT_RDWR)


class Tunnel:
    """A forward proxy for TLS: it forwards bytes, or refuses with `status`. Owner: a test.

    It propagates resets. `url` is for `HTTPS_PROXY`; `asked` are the servers that clients
    requested.
    """

    def __init__(self, status: int = 200) -> None:
        self.asked: list[str] = []
        self._status = status
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._is_ending = False
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="tunnel")]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_ending = True
        socket.create_connection(self._listener.getsockname()).close()
        self._threads[0].join()
        self._listener.close()
        for each in self._sockets:
            _shut(each)
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
            self._sockets.append(client)
            with client.makefile("rb") as stream:
                line = stream.readline().decode("latin-1").split()
                while stream.readline().strip():
                    pass
            if not line:
                continue
            self.asked.append(line[1])
            client.sendall(f"HTTP/1.1 {self._status} Answer\r\n\r\n".encode())
            if self._status != 200:
                _shut(client)
                continue
            host, _, port = line[1].rpartition(":")
            server = socket.create_connection((host, int(port)))
            self._sockets.append(server)
            for source, target in ((client, server), (server, client)):
                thread = threading.Thread(target=_pump, args=(source, target), name="tunnelled")
                self._threads.append(thread)
                thread.start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Forward bytes up to and including the end of the stream."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    _shut(target)


# Faults ------------------------------------------------------------------------------------------


def passed(exchange: Exchange) -> None:
    """No fault."""
    exchange.send(exchange.forward().message())


def request_lost(exchange: Exchange) -> None:
    """The connection ends, and the server got nothing."""
    exchange.end()


def answer_lost(exchange: Exchange) -> None:
    """The connection ends after the server handled the request."""
    exchange.forward()
    exchange.end()


def reset_before(exchange: Exchange) -> None:
    """The connection is reset, and the server got nothing."""
    exchange.end(reset=True)


def reset_after(exchange: Exchange) -> None:
    """The connection is reset after the server handled the request."""
    exchange.forward()
    exchange.end(reset=True)


def sent_twice(exchange: Exchange) -> None:
    """The server gets the request twice; the client gets its second answer."""
    exchange.forward()
    exchange.send(exchange.forward().message())


def body_cut(exchange: Exchange) -> None:
    """The answer ends inside its body, or after its headers if it has none."""
    answer = exchange.forward()
    message = answer.message()
    missing = _chance(exchange).randint(1, max(1, len(answer.body)))
    exchange.send(message[: len(message) - min(missing, len(answer.body))])
    exchange.end()


def head_cut(exchange: Exchange) -> None:
    """The answer ends after one of its header lines."""
    head, _, _ = exchange.forward().message().partition(b"\r\n\r\n")
    lines = [line + b"\r\n" for line in head.split(b"\r\n")]
    exchange.send(b"".join(lines[: _chance(exchange).randrange(len(lines))]))
    exchange.end()


def bit_flipped(exchange: Exchange) -> None:
    """One bit of a successful answer's body is flipped."""
    answer = exchange.forward()
    body = bytearray(answer.body)
    if body and answer.status in {200, 206}:
        place = _chance(exchange).randrange(len(body) * 8)
        body[place // 8] ^= 1 << place % 8
    exchange.send(Answer(answer.status, answer.headers, bytes(body)).message())


def slowed(seconds: float) -> Fault:
    """Return a fault that delays an answer; less if the test ends."""

    def fault(exchange: Exchange) -> None:
        answer = exchange.forward()
        exchange.delay(seconds)
        exchange.send(answer.message())

    return fault


def refused(status: int, code: str) -> Fault:
    """Return a fault that answers with an error, and the server gets nothing."""

    def fault(exchange: Exchange) -> None:
        exchange.send(_error(exchange.request, status, code).message())

    return fault


def failed(status: int, code: str) -> Fault:
    """Return a fault that answers with an error after the server handled the request."""

    def fault(exchange: Exchange) -> None:
        exchange.forward()
        exchange.send(_error(exchange.request, status, code).message())

    return fault


def _error(request: Request, status: int, code: str) -> Answer:
    """Return an error answer that repeats the client's credentials, as some servers do."""
    message = (
        f"The request was {request.method} {request.target}, {request.header('authorization')}"
    )
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Answer(status, (("Content-Type", "application/xml"),), text.encode())


def _chance(exchange: Exchange) -> random.Random:
    """Return the random source of one exchange, equal in each run for the same request."""
    return random.Random(exchange.request.number)


class Stalled:
    """The connection stays open and nothing comes, after half of the answer with `half`."""

    def __init__(self, *, half: bool = False) -> None:
        self._half = half
        self.ended = threading.Event()

    def __call__(self, exchange: Exchange) -> None:
        if self._half:
            message = exchange.forward().message()
            exchange.send(message[: len(message) // 2])
        exchange.wait(self.ended)
        exchange.end()


class Late:
    """The connection ends at once; the server gets the requests when the test decides."""

    def __init__(self) -> None:
        self._kept: list[Exchange] = []

    def __call__(self, exchange: Exchange) -> None:
        self._kept.append(exchange)
        exchange.end()

    def deliver(self) -> list[Answer]:
        """Send all of them to the server, in order; returns the answers, which no client gets."""
        kept, self._kept = self._kept, []
        return [exchange.forward() for exchange in kept]


class Held:
    """A request, or with `answer` its answer, that waits at the proxy until the test releases it.

    The client may give up while it waits. Each object is for one request.
    """

    def __init__(self, *, answer: bool = False) -> None:
        self._answer = answer
        self._arrived = threading.Event()
        self._released = threading.Event()
        self._done = threading.Event()
        self._result: Answer | None = None

    def __call__(self, exchange: Exchange) -> None:
        if self._answer:
            self._result = exchange.forward()
        self._arrived.set()
        exchange.wait(self._released)
        if not self._answer:
            self._result = exchange.forward()
        self._done.set()
        exchange.send(self._result.message())

    def wait_until_it_is_here(self) -> None:
        """Return when the request has arrived or, with `answer`, was handled by the server."""
        assert self._arrived.wait(_PATIENCE_SECONDS), "no request came"

    def let_go(self) -> Answer:
        """Release it; returns the server's answer."""
        self._released.set()
        assert self._done.wait(_PATIENCE_SECONDS), "the request did not reach the server"
        assert self._result is not None
        return self._result


# Choices -----------------------------------------------------------------------------------------


class Script:
    """Consecutive faults for requests of some kinds; all other requests pass."""

    def __init__(self, **faults: Sequence[Fault]) -> None:
        self._faults = {kind: list(sequence) for kind, sequence in faults.items()}
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Fault:
        with self._lock:
            left = self._faults.get(request.kind)
            return left.pop(0) if left else passed

    @property
    def is_over(self) -> bool:
        """Whether every fault has happened."""
        return not any(self._faults.values())


class RandomFaults:
    """Faults drawn from a seed. `kinds` lists the possible faults for each kind of request.

    The fault of the n-th request of a kind depends only on `seed`, the kind and n, so that a run
    can be repeated even if threads race. `drawn` counts the faults.
    """

    def __init__(self, seed: str, kinds: Mapping[str, Mapping[str, Fault]], *, rate: float) -> None:
        self.is_calm = False
        self.drawn: Counter[str] = Counter()
        self._seed = seed
        self._kinds = kinds
        self._rate = rate
        self._numbers: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Fault:
        kind = request.kind
        with self._lock:
            if self.is_calm or kind not in self._kinds:
                return passed
            self._numbers[kind] += 1
            chance = random.Random(f"{self._seed} {kind} {self._numbers[kind]}")
            if chance.random() >= self._rate:
                return passed
            name = chance.choice(sorted(self._kinds[kind]))
            self.drawn[f"{kind}: {name}"] += 1
            return self._kinds[kind][name]
