"""One request and its answer: whether it was sent, its bytes, its time limits.

boto3 wraps failures in exceptions whose classes prove nothing: through a proxy, a connection that
is reset after the request was sent looks like one that was never made. So this package's
connections (`connection`) report their progress to their thread's exchange, and only these reports
count.

Two clocks limit an exchange. *Silence*: neither side has moved a byte for `read_seconds`. *Budget*:
a verb may take `total_seconds`, plus one second per 4 KiB transferred. So a slow connection that
makes progress does not time out, but a server that sends one byte per second does.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_SLOWEST_BYTES_PER_SECOND = 4 * 1024
"""A slower transfer counts as stalled once `total_seconds` are over."""

_RELAY_BYTES_PER_SECOND = 64 * 1024
"""The minimum speed at which a proxy forwards a request that it has accepted."""

_SEND_BYTES = 64 * 1024
_UNSENT_BYTES_MAX = 128 * 1024
"""The limit of unsent bytes in the kernel, whose progress is invisible: 4 MB by default."""


class Clock:
    """A clock and pauses; tests replace it."""

    def seconds(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def pause(self, seconds: float, end: threading.Event | None = None) -> None:
        """Return after this many seconds, or as soon as `end` is set."""
        if end is None:
            time.sleep(seconds)
        else:
            end.wait(seconds)


@dataclass(frozen=True, slots=True)
class Limits:
    """The time limits of a request, in seconds."""

    connect_seconds: float = 5.0
    read_seconds: float = 15.0
    total_seconds: float = 60.0


class Budget:
    """The time limit of one verb, over all its attempts. Owner: the thread that runs the verb."""

    __slots__ = ("_bytes", "_clock", "_start", "_total")

    def __init__(self, clock: Clock, total_seconds: float) -> None:
        self._clock = clock
        self._start = clock.seconds()
        self._total = total_seconds
        self._bytes = 0

    def add(self, moved_bytes: int) -> None:
        """Count transferred bytes, in either direction."""
        self._bytes += moved_bytes

    def spent(self) -> float:
        """Return the seconds since the verb began."""
        return self._clock.seconds() - self._start

    def left(self) -> float:
        """Return how many seconds the verb has left; 0 or less if none."""
        return self._total + self._bytes / _SLOWEST_BYTES_PER_SECOND - self.spent()

    def spent_share(self) -> float:
        """Return the fraction of the verb's base time that has passed, regardless of transfers."""
        return self.spent() / self._total

    def allows(self, pause_seconds: float) -> bool:
        """Return True if a pause would end within the verb's base time, regardless of transfers."""
        return self.spent() + pause_seconds <= self._total


class Stage(enum.Enum):
    """How far a request has come."""

    NOT_BEGUN = "boto3 was not asked to send it"
    HANDED_OVER = "boto3 was asked to send it; no connection has reported anything"
    CONNECTING = "a connection is being made; no byte of the request was sent"
    SENT = "a byte of it may have been sent"


class InterruptedExchangeError(OSError):
    """The exchange was cancelled by another thread."""


class Exchange:
    """One attempt of a request. Owner: the thread that runs it; any thread may cancel it.

    `headers` are those of the answer, in lower case; empty without one.
    """

    def __init__(self, limits: Limits, budget: Budget) -> None:
        self.stage = Stage.NOT_BEGUN
        self.budget = budget
        self.headers: Mapping[str, str] = {}
        self._limits = limits
        self._sent_bytes = 0
        self._is_answered = False
        self._is_cancelled = False
        self._socket: socket.socket | None = None

    @property
    def is_provably_unsent(self) -> bool:
        """Whether it is certain that no byte of the request was sent."""
        return self.stage in {Stage.NOT_BEGUN, Stage.CONNECTING}

    def cancel(self) -> None:
        """Cancel the exchange: its thread's network calls return immediately."""
        self._is_cancelled = True
        waiting = self._socket
        if waiting is not None:
            with contextlib.suppress(OSError):  # It was closed in the meantime.
                # Not the TLS socket's method, which would invalidate the socket for its own thread.
                socket.socket.shutdown(waiting, socket.SHUT_RDWR)

    def begin(self, where: socket.socket) -> None:
        """Set a socket's timeout for its next call; raises TimeoutError if no time is left.

        The wait between the end of a request and its answer may be longer, because a proxy may have
        accepted the whole request and forward it slowly.
        """
        self._socket = where
        if self._is_cancelled:
            raise InterruptedExchangeError("cancelled")
        silence = self._limits.read_seconds
        if not self._is_answered:
            silence += self._sent_bytes / _RELAY_BYTES_PER_SECOND
        seconds = min(silence, self.budget.left())
        if seconds <= 0:
            raise TimeoutError("the request took too long altogether")
        where.settimeout(seconds)

    def sent(self, count: int) -> None:
        """Count bytes that were sent."""
        self._sent_bytes += count
        self.budget.add(count)

    def received(self, count: int) -> None:
        """Count bytes that were received."""
        self._is_answered = self._is_answered or self.stage is Stage.SENT
        self.budget.add(count)

    def connect_seconds(self) -> float:
        """Return how long connecting may take; raises TimeoutError if no time is left."""
        if self._is_cancelled:
            raise InterruptedExchangeError("cancelled")
        seconds = min(self._limits.connect_seconds, self.budget.left())
        if seconds <= 0:
            raise TimeoutError("the request took too long altogether")
        return seconds


class _Current(threading.local):
    exchange: Exchange | None = None


_current = _Current()


def current() -> Exchange | None:
    """Return this thread's current exchange, or None."""
    return _current.exchange


@contextlib.contextmanager
def carried_out(exchange: Exchange) -> Iterator[Exchange]:
    """Make an exchange this thread's current one inside the block."""
    former, _current.exchange = _current.exchange, exchange
    try:
        yield exchange
    finally:
        _current.exchange = former


class Group:
    """Exchanges that are cancelled together. Thread rule: any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exchanges: set[Exchange] = set()
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        """Cancel all current and future exchanges."""
        with self._lock:
            self.cancelled.set()
            for exchange in self._exchanges:
                exchange.cancel()

    @contextlib.contextmanager
    def joined(self, exchange: Exchange) -> Iterator[None]:
        """Add the exchange to the group inside the block."""
        with self._lock:
            self._exchanges.add(exchange)
            if self.cancelled.is_set():
                exchange.cancel()
        try:
            yield
        finally:
            with self._lock:
                self._exchanges.discard(exchange)


# Sockets ------------------------------------------------------------------------------------------


class WatchedSocket(socket.socket):
    """A socket that takes its timeouts from its thread's exchange, and reports transfers."""

    def recv_into(self, *arguments: Any, **named: Any) -> int:
        """Receive, within the time of the exchange."""
        exchange = _current.exchange
        if exchange is None:
            return super().recv_into(*arguments, **named)
        exchange.begin(self)
        count = super().recv_into(*arguments, **named)
        exchange.received(count)
        return count

    def recv(self, *arguments: Any, **named: Any) -> bytes:
        """Receive, within the time of the exchange."""
        exchange = _current.exchange
        if exchange is None:
            return super().recv(*arguments, **named)
        exchange.begin(self)
        data = super().recv(*arguments, **named)
        exchange.received(len(data))
        return data

    def send(self, *arguments: Any, **named: Any) -> int:
        """Send some bytes, within the exchange's time limits."""
        exchange = _current.exchange
        if exchange is None:
            return super().send(*arguments, **named)
        exchange.begin(self)
        count = super().send(*arguments, **named)
        exchange.sent(count)
        return count

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all bytes; the exchange's time limits apply to each step."""
        with memoryview(data) as view, view.cast("B") as rest:
            at = 0
            while at < len(rest):
                at += self.send(rest[at : at + _SEND_BYTES], flags)


def watched(connected: socket.socket) -> WatchedSocket:
    """Return a watched socket on the same connection; the given socket is detached."""
    timeout = connected.gettimeout()
    made = WatchedSocket(
        connected.family, connected.type, connected.proto, fileno=connected.detach()
    )
    made.settimeout(timeout)
    lowat = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if lowat is not None:
        with contextlib.suppress(OSError):  # Without this option, progress is less visible.
            made.setsockopt(socket.IPPROTO_TCP, lowat, _UNSENT_BYTES_MAX)
    return made
