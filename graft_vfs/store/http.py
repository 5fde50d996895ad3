"""A store on a plain HTTP server that knows range requests: it can be read, and nothing else.

Such a server has no listings and no conditions, and its files often no strong ETag. So:

    present    200 or 206 and a length; for a range the Content-Range of what was asked for, or 200
               from byte 0. A page in HTML is never an object: those have no names that end in
               .html. Whose bytes they are, checksums tell, as for every store
    absent     404 or 410. That cannot be proved here: who believes it learns of new commits later
    refused    401 and 403, which servers of buckets also give for what is absent
    moved      redirects are followed, from https only to https

What comes with another encoding, without a length, or from a server that ignores ranges, is an
error. No text that a server sends reaches an error or a log.

Crash here: nothing, because nothing is written.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import logging
import random
import re
import socket
import ssl
import threading
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, NoReturn, TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from graft_vfs.advice import Advice, Hint
from graft_vfs.backoff import backoff
from graft_vfs.errors import (
    ConfigError,
    GraftError,
    ObjectMissingError,
    ReadOnlyError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
)
from graft_vfs.reentry import occupied
from graft_vfs.store.base import (
    GET_LIMIT_BYTES,
    STREAM_PIECE_BYTES,
    Buffer,
    ObjectInfo,
    ObjectStore,
    PutOutcome,
    Sent,
    Take,
    Verb,
    check_key,
    check_range,
    oversized,
    repeat_while_moving,
)
from graft_vfs.store.dates import note_headers
from graft_vfs.store.s3.answers import LOST_NEXT_STEP, PAGE_NEXT_STEP
from graft_vfs.store.s3.exchange import (
    Budget,
    Clock,
    Exchange,
    Limits,
    Stage,
    WatchedSocket,
    carried_out,
    current,
    watched,
)
from graft_vfs.version import __version__

_logger = logging.getLogger(__name__)

_IDLE_CONNECTIONS_MAX = 32
_ATTEMPTS_MAX = 4
_REDIRECTS_MAX = 5
_PAUSE_SECONDS = 0.1
_PAUSE_SECONDS_MAX = 8.0
_READ_CHUNK_BYTES = 4 * 1024 * 1024
_DISCARDED_BYTES_MAX = 16 * 1024
"""How much of an unwanted body is read, so that its connection can be used again."""
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.ASCII)
_BEYOND_END = re.compile(r"bytes \*/([0-9]{1,19})", re.ASCII)
_MOVED = frozenset({301, 302, 303, 307, 308})
_PAGES = ("text/html", "application/xhtml")

T = TypeVar("T")


class HttpStore(ObjectStore):
    """A handle on the objects below a URL. Owned by its creator; any thread may use it.

    Making one sends no request. A verb that writes raises ReadOnlyError, a listing StoreError.
    """

    can_list = False
    can_write = False

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_seconds: float = 5.0,
        read_timeout_seconds: float = 15.0,
        total_timeout_seconds: float = 60.0,
        clock: Clock | None = None,
    ) -> None:
        """`url` is what comes before the keys; for the limits see S3Store."""
        super().__init__()
        self._url = url.rstrip("/")
        self._limits = Limits(connect_timeout_seconds, read_timeout_seconds, total_timeout_seconds)
        self._clock = clock or Clock()
        self._connections = _Connections()

    def get(self, key: str, *, limit_bytes: int = GET_LIMIT_BYTES) -> bytes:
        """Return the whole object; see ObjectStore.get."""
        return self._fetch("get", key, None, limit_bytes)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return part of an object; see ObjectStore.get_range."""
        check_range(start, length)
        return self._fetch("get_range", key, start, length)

    def stream_range(self, key: str, start: int, length: int, take: Take) -> int:
        """Give a range piece by piece; see ObjectStore.stream_range."""
        check_range(start, length)
        got = 0

        def attempt() -> None:
            nonlocal got
            at, wanted = start + got, length - got
            if not wanted:
                return
            with self._asked("get_range", key, at, wanted) as response:
                for piece in self._pieces(key, at, wanted, response, STREAM_PIECE_BYTES):
                    got += len(piece)
                    self.counters.add("get_range", requests=0, bytes_received=len(piece))
                    take(piece)

        repeat_while_moving(lambda: got, lambda: self._repeat("get_range", key, attempt))
        return got

    def put_if_absent(self, key: str, data: bytes) -> PutOutcome:  # noqa: ARG002
        """Refuse."""
        self._refuse()

    def put(self, key: str, data: Sequence[Buffer], *, sent: Sent | None = None) -> None:  # noqa: ARG002
        """Refuse."""
        self._refuse()

    def replace(self, key: str, old: bytes, new: bytes) -> bool:  # noqa: ARG002
        """Refuse."""
        self._refuse()

    def delete(self, key: str) -> None:  # noqa: ARG002
        """Refuse."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ReadOnlyError(
            f"the remote {self._url} is a plain HTTP server, which can only be read",
            next_step=Hint(
                "to publish changes, take them out with ",
                Advice.EXPORT,
                ", import that file under another tag, and push that to a remote of your own",
            ),
        )

    def list(
        self,
        prefix: str,
        *,
        start_after: str | None = None,  # noqa: ARG002
        limit: int | None = None,  # noqa: ARG002
    ) -> Iterator[ObjectInfo]:
        """Refuse: there are no listings."""
        raise StoreError(
            f"the remote {self._url} is a plain HTTP server, which cannot list {prefix!r}",
            next_step="name the ref or the log id, as in " + self._url + "/REF",
        )

    def describe(self) -> str:
        """Return its URL."""
        return self._url

    def close(self) -> None:
        """Close the connections; see ObjectStore.close."""
        super().close()
        self._connections.close()

    # Requests ---------------------------------------------------------------------------------

    def _fetch(self, verb: Verb, key: str, start: int | None, limit_bytes: int) -> bytes:
        def attempt() -> bytes:
            with self._asked(verb, key, start, limit_bytes) as response:
                return b"".join(self._pieces(key, start, limit_bytes, response))

        data = self._repeat(verb, key, attempt)
        self.counters.add(verb, requests=0, bytes_received=len(data))
        return data

    def _asked(
        self, verb: Verb, key: str, start: int | None, limit_bytes: int
    ) -> contextlib.AbstractContextManager[http.client.HTTPResponse]:
        """Ask for an object, or for a part of it; see `_answer`."""
        self._check_open()
        url = f"{self._url}/{quote(check_key(key), safe='/~')}"
        headers = {
            "Accept-Encoding": "identity",
            "User-Agent": f"graft-vfs/{__version__}",
        }
        if start is not None:
            headers["Range"] = f"bytes={start}-{start + limit_bytes - 1}"
        return self._answer(verb, key, url, headers)

    def _repeat(self, verb: Verb, key: str, attempt: Callable[[], T]) -> T:
        budget = Budget(self._clock, self._limits.total_seconds)
        for number in itertools.count(1):
            try:
                with carried_out(Exchange(self._limits, budget)):
                    return attempt()
            except StoreUnavailableError as error:
                share = random.random()  # noqa: S311 - chance, not a secret
                pause = backoff(_PAUSE_SECONDS, number, _PAUSE_SECONDS_MAX, share)
                pause = max(pause, error.retry_after_seconds or 0.0)
                is_last = number >= _ATTEMPTS_MAX and error.retry_after_seconds is None
                if is_last or not budget.allows(pause):
                    raise
                _logger.debug("%s of %r again in %.1f s: %s", verb, key, pause, error)
            self._clock.pause(pause)
            self.counters.add_retry()
        raise AssertionError  # pragma: no cover - the loop has no end of its own

    @contextlib.contextmanager
    def _answer(
        self, verb: Verb, key: str, url: str, headers: dict[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request, follow redirects, and give an answer that may be the object.

        Inside the block, what the network does becomes a declared error.
        """
        with self._translated(verb, key), contextlib.ExitStack() as answers:
            for _ in range(_REDIRECTS_MAX + 1):
                self.counters.add(verb)
                with self.counters.timed(verb):
                    response = answers.enter_context(self._connections.asked(url, headers))
                if response.status not in _MOVED:
                    shown = response.headers.items()
                    note_headers(key, {name.lower(): text for name, text in shown})
                    yield response
                    return
                url = self._moved_to(url, key, response.headers.get("Location", ""))
            raise StoreError(
                f"{self._url} redirects a read of {key!r} without an end",
                next_step=PAGE_NEXT_STEP,
            )

    def _moved_to(self, url: str, key: str, location: str) -> str:
        """Return where a redirect leads; raises StoreError for where it must not lead."""
        try:
            found = urljoin(url, location)
            parts = urlsplit(found)
            _ = parts.port
            is_bad = (
                not location
                or not found.isascii()
                or bool(set("\r\n\t \0") & set(found))
                or parts.scheme not in {"http", "https"}
                or not parts.hostname
            )
        except ValueError:
            is_bad = True
        if is_bad or (parts.scheme == "http" and urlsplit(url).scheme == "https"):
            raise StoreError(
                f"{self._url} redirects a read of {key!r} to what is no https URL",
                next_step="use the URL to which it redirects, if you trust that",
            )
        return found

    @contextlib.contextmanager
    def _translated(self, verb: Verb, key: str) -> Iterator[None]:
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise StoreError(
                f"{self._url} has a certificate that this machine does not trust",
                next_step="check the host in the URL, and SSL_CERT_FILE",
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            declared = StoreUnavailableError(
                f"{self._url} did not answer in full ({verb} of {key!r}: {type(error).__name__})",
                next_step=LOST_NEXT_STEP,
            )
            declared.was_late = isinstance(error, TimeoutError)
            # Its text may be the server's.
            raise declared from None

    # Answers ----------------------------------------------------------------------------------

    def _pieces(
        self,
        key: str,
        start: int | None,
        limit_bytes: int,
        response: http.client.HTTPResponse,
        piece_bytes: int = _READ_CHUNK_BYTES,
    ) -> Iterator[bytes]:
        """Yield a body within its limit, once the answer may be what was asked for."""
        status, shown = response.status, response.headers.get("Content-Range", "")
        if status == 416 and start is not None:
            size = _BEYOND_END.fullmatch(shown)
            if size is None or int(size[1]) > start:
                raise self._broken("refuses a range without saying that the object ends before it")
            return
        self._check_answer(key, start, limit_bytes, response)
        got = 0
        # One byte more shows that there are too many.
        is_whole = start is not None and status == 200
        for part in _parts(response, limit_bytes + (not is_whole), piece_bytes):
            yield part[: limit_bytes - got] if got + len(part) > limit_bytes else part
            got += len(part)
        if start is None and got > limit_bytes:
            raise oversized(key, self.describe(), limit_bytes)
        if start is not None and status == 206:
            self._check_range(shown, start, limit_bytes, got)

    def _check_answer(
        self, key: str, start: int | None, limit_bytes: int, response: http.client.HTTPResponse
    ) -> None:
        """Raise the declared error unless the headers are those of what was asked for."""
        status, headers = response.status, response.headers
        if status not in {200, 206}:
            raise self._refused(key, status, headers.get("Retry-After", ""))
        self._check_object(key, response)
        if start is None:
            if status == 206:
                raise self._broken("answers a range although it was asked for all")
            if (response.length or 0) > limit_bytes:
                raise oversized(key, self.describe(), limit_bytes)
        elif status == 200 and start:
            raise self._broken("ignores range requests")
        elif status == 206 and not _starts_at(headers.get("Content-Range", ""), start):
            # Read first: the headers may be truncated with the body.
            deque(_parts(response, limit_bytes + 1), maxlen=0)
            raise self._broken("answers another range than the one it was asked for")

    def _check_object(self, key: str, response: http.client.HTTPResponse) -> None:
        """Raise StoreError for what cannot be an object as it was written."""
        headers = response.headers
        if "Content-Type" in headers and headers.get_content_type().startswith(_PAGES):
            raise StoreUnavailableError(
                f"{self._url} answered a read of {key!r} with a page and no object",
                next_step=PAGE_NEXT_STEP,
            )
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise self._broken("compresses what it sends, although it was asked not to")
        if response.length is None and not response.chunked:
            raise StoreUnavailableError(
                f"{self._url} answered a read of {key!r} without a length, so that its end may be "
                "missing",
                next_step=PAGE_NEXT_STEP,
            )

    def _check_range(self, shown: str, start: int, wanted: int, got: int) -> None:
        """Raise StoreError unless the bytes are those asked for; fewer only at the object's end."""
        match = _CONTENT_RANGE.fullmatch(shown)
        if match is None or int(match[1]) != start or int(match[2]) != start + got - 1:
            raise self._broken("answers another range than the one it was asked for")
        if got > wanted:
            raise self._broken("answers more bytes than it was asked for")
        if got < wanted and match[3] != str(start + got):
            raise self._broken("answers fewer bytes than it was asked for and the object has")

    def _refused(self, key: str, status: int, retry_after: str) -> GraftError:
        if status in {404, 410}:
            return ObjectMissingError(key)
        what = f"{self._url} answered a read of {key!r} with HTTP {status}"
        if status in {401, 403}:
            return StoreDeniedError(
                what,
                next_step="have the server show these files to everyone, and answer 404 for those "
                "that are absent (a bucket does if everyone may list it)",
            )
        if status in {408, 425, 429} or status >= 500:
            error = StoreUnavailableError(what, next_step=LOST_NEXT_STEP)
            if status in {429, 503} and retry_after.isascii() and retry_after.isdigit():
                error.retry_after_seconds = float(retry_after[:6])
            return error
        return StoreError(what, next_step=PAGE_NEXT_STEP)

    def _broken(self, what: str) -> StoreError:
        return StoreError(
            f"{self._url} {what}",
            next_step="use a server that honours range requests, such as nginx, Apache or Caddy, "
            "and have it send files as they are",
        )


def _starts_at(shown: str, start: int) -> bool:
    match = _CONTENT_RANGE.fullmatch(shown)
    return match is not None and int(match[1]) == start


def _parts(
    response: http.client.HTTPResponse, length: int, piece_bytes: int = _READ_CHUNK_BYTES
) -> Iterator[bytes]:
    """Yield a body to its end or up to `length` bytes; raises if it ends before its end."""
    expected, got = response.length, 0
    while got < length and (part := response.read(min(length - got, piece_bytes))):
        yield part
        got += len(part)
    if expected is not None and got < min(length, expected):
        raise http.client.IncompleteRead(b"")


# Connections --------------------------------------------------------------------------------------


class _WatchedTlsSocket(WatchedSocket, ssl.SSLSocket):
    """A watched socket over TLS; made by an SSLContext whose `sslsocket_class` it is."""


class _Proxy(NamedTuple):
    """A forward proxy: its host and port, and the headers that it wants."""

    place: str
    headers: dict[str, str]


def _proxy_of(scheme: str, host: str) -> _Proxy | None:
    """Return the proxy for a server, from the variables that hold for S3, too.

    Raises ConfigError if it is none of HTTP.
    """
    text = getproxies_environment().get(scheme)
    if not text or proxy_bypass(host):
        return None
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        place, kind = f"{parts.hostname}:{parts.port or 80}", parts.scheme
    except ValueError:
        place, kind = "", "unknown"
    if kind != "http":
        raise ConfigError(
            f"{scheme.upper()}_PROXY is not the URL of an HTTP proxy",
            next_step="write http://HOST:PORT, or list the server in NO_PROXY",
        )
    if parts.username is None:
        return _Proxy(place, {})
    secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return _Proxy(place, {"Proxy-Authorization": f"Basic {b64encode(secret).decode()}"})


class _PlainConnection(http.client.HTTPConnection):
    """A connection whose socket keeps to the time of the exchange of its thread."""

    origin = ""
    """What stands before the path of a request: a proxy is told the server."""
    proxy_headers: Mapping[str, str] = MappingProxyType({})

    def connect(self) -> None:
        """Connect, within the time of the exchange."""
        exchange = current()
        if exchange is not None:
            self.timeout = exchange.connect_seconds()
        super().connect()
        self.sock: socket.socket = watched(self.sock)


class _TlsConnection(http.client.HTTPSConnection):
    """The same over TLS."""

    def connect(self) -> None:
        """Connect, within the time of the exchange."""
        exchange = current()
        if exchange is not None:
            self.timeout = exchange.connect_seconds()
        super().connect()


class _Connections:
    """Connections that are open and idle, by scheme and host. Thread rule: any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str], list[http.client.HTTPConnection]] = {}
        self._tls: ssl.SSLContext | None = None
        self._is_closed = False

    @contextlib.contextmanager
    def asked(self, url: str, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        """Send a GET and give its answer; the connection is kept if the answer was read."""
        parts = urlsplit(url)
        place = (parts.scheme, parts.netloc)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection, response = self._exchange(place, target, headers)
        try:
            yield response
            if not response.isclosed() and (response.length or 0) <= _DISCARDED_BYTES_MAX:
                response.read(_DISCARDED_BYTES_MAX)
        except BaseException:
            connection.close()
            raise
        if response.isclosed() and not response.will_close:
            self._give_back(place, connection)
        else:
            connection.close()

    def _exchange(
        self, place: tuple[str, str], target: str, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send a request; once more if its connection was closed by the server meanwhile."""
        connection = self._take(place)
        while True:
            is_used = connection is not None
            connection = connection or self._made(place)
            try:
                exchange = current()
                if exchange is not None:
                    exchange.stage = Stage.SENT
                if isinstance(connection, _PlainConnection):
                    proxied = {**headers, **connection.proxy_headers}
                    connection.request("GET", connection.origin + target, headers=proxied)
                else:
                    connection.request("GET", target, headers=headers)
                return connection, connection.getresponse()
            except (ConnectionError, http.client.BadStatusLine):
                connection.close()
                if not is_used:
                    raise
                connection = None
            except BaseException:
                connection.close()
                raise

    def _take(self, place: tuple[str, str]) -> http.client.HTTPConnection | None:
        with occupied(), self._lock:
            idle = self._idle.get(place)
            return idle.pop() if idle else None

    def _made(self, place: tuple[str, str]) -> http.client.HTTPConnection:
        scheme, host = place
        proxy = _proxy_of(scheme, host)
        where = host if proxy is None else proxy.place
        if scheme == "http":
            plain = _PlainConnection(where)
            if proxy is not None:
                plain.origin, plain.proxy_headers = f"http://{host}", proxy.headers
            return plain
        with occupied(), self._lock:
            if self._tls is None:
                self._tls = ssl.create_default_context()
                self._tls.sslsocket_class = _WatchedTlsSocket
        connection = _TlsConnection(where, context=self._tls)
        if proxy is not None:
            name = urlsplit(f"https://{host}")
            connection.set_tunnel(name.hostname or "", name.port or 443, headers=proxy.headers)
        return connection

    def _give_back(self, place: tuple[str, str], connection: http.client.HTTPConnection) -> None:
        with occupied(), self._lock:
            idle = self._idle.setdefault(place, [])
            if not self._is_closed and len(idle) < _IDLE_CONNECTIONS_MAX:
                idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close those that are idle, and the others when they become so."""
        with occupied(), self._lock:
            self._is_closed = True
            idle = [each for found in self._idle.values() for each in found]
            self._idle.clear()
        for connection in idle:
            connection.close()
