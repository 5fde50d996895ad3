"""One request and its answer: what of it has left, how many bytes moved, how long it may take.

boto3 wraps what goes wrong in exceptions whose classes prove nothing: through a proxy, a connection
that is reset after the request was sent looks like one that was never made. So the connections of
this package (`connection`) tell the exchange of their thread what they do, and only what they
report is believed.

Two clocks limit an exchange. *Silence*: neither side has moved a byte for `read_seconds`. *Budget*:
a verb may take `total_seconds`, and a second more for each 4 KiB that moved, so that a slow line
which makes progress is no timeout, and a server which sends a byte a second is one.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_SLOWEST_BYTES_PER_SECOND = 4 * 1024
"""What moves more slowly, once `total_seconds` are over, counts as stalled."""

_RELAY_BYTES_PER_SECOND = 64 * 1024
"""How fast a proxy that has taken all of a request passes it on, at least."""

_SEND_BYTES = 64 * 1024
_UNSENT_BYTES_MAX = 128 * 1024
"""How much may wait in the kernel, where its progress cannot be seen: 4 MB without this bound."""


class Clock:
    """The time, and a pause. Tests have one that they move."""

    def seconds(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()

    def pause(self, seconds: float, end: threading.Event | None = None) -> None:
        """Return after so many seconds, or as soon as `end` is set."""
        if end is None:
            time.sleep(seconds)
        else:
            end.wait(seconds)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the parts of a request may take, in seconds."""

    connect_seconds: float = 5.0
    read_seconds: float = 15.0
    total_seconds: float = 60.0


class Budget:
    """The time of one verb, all its attempts together. Owner: the thread that runs the verb."""

    __slots__ = ("_bytes", "_clock", "_start", "_total")

    def __init__(self, clock: Clock, total_seconds: float) -> None:
        self._clock = clock
        self._start = clock.seconds()
        self._total = total_seconds
        self._bytes = 0

    def add(self, moved_bytes: int) -> None:
        """Count bytes that moved, in either direction."""
        self._bytes += moved_bytes

    def spent(self) -> float:
        """Return the seconds since the verb began."""
        return self._clock.seconds() - self._start

    def left(self) -> float:
        """Return how many seconds the verb has left; 0 or less if none."""
        return self._total + self._bytes / _SLOWEST_BYTES_PER_SECOND - self.spent()

    def spent_share(self) -> float:
        """Return which share of the verb's own seconds, whatever moved, is over."""
        return self.spent() / self._total

    def allows(self, pause_seconds: float) -> bool:
        """Return True if a pause would end within the verb's own seconds, whatever moved."""
        return self.spent() + pause_seconds <= self._total


class Stage(enum.Enum):
    """How far a request has come."""

    NOT_BEGUN = "boto3 was not asked to send it"
    HANDED_OVER = "boto3 was asked to send it; no connection has said what became of it"
    CONNECTING = "a connection is being made, and no byte of the request has left"
    SENT = "a byte of it may have left"


class InterruptedExchangeError(OSError):
    """The exchange was cancelled by another thread."""


class Exchange:
    """One attempt of a request. Owner: the thread that makes it; any thread may cancel it."""

    def __init__(self, limits: Limits, budget: Budget) -> None:
        self.stage = Stage.NOT_BEGUN
        self.budget = budget
        self._limits = limits
        self._sent_bytes = 0
        self._is_answered = False
        self._is_cancelled = False
        self._socket: socket.socket | None = None

    @property
    def is_provably_unsent(self) -> bool:
        """Whether nothing of the request can have reached anyone."""
        return self.stage in {Stage.NOT_BEGUN, Stage.CONNECTING}

    def cancel(self) -> None:
        """End the exchange: whatever its thread waits for on the network returns at once."""
        self._is_cancelled = True
        waiting = self._socket
        if waiting is not None:
            with contextlib.suppress(OSError):  # It was closed meanwhile.
                # Not the method of a TLS socket, which takes the socket from under its own thread.
                socket.socket.shutdown(waiting, socket.SHUT_RDWR)

    def begin(self, where: socket.socket) -> None:
        """Give a socket the time that its next call may take; raises TimeoutError if none is left.

        Between the last byte of a request and the first of its answer there may be a proxy that has
        taken everything and passes it on slowly, so that silence is longer there.
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
        """Count bytes that left."""
        self._sent_bytes += count
        self.budget.add(count)

    def received(self, count: int) -> None:
        """Count bytes that came."""
        self._is_answered = self._is_answered or self.stage is Stage.SENT
        self.budget.add(count)

    def connect_seconds(self) -> float:
        """Return how long making a connection may take; raises TimeoutError if none is left."""
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
    """Return the exchange that this thread carries out, None if it carries out none."""
    return _current.exchange


@contextlib.contextmanager
def carried_out(exchange: Exchange) -> Iterator[Exchange]:
    """Make an exchange that of this thread inside the block."""
    former, _current.exchange = _current.exchange, exchange
    try:
        yield exchange
    finally:
        _current.exchange = former


class Group:
    """Exchanges that end together. Thread rule: any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exchanges: set[Exchange] = set()
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        """End all exchanges, and those that are still to come."""
        with self._lock:
            self.cancelled.set()
            for exchange in self._exchanges:
                exchange.cancel()

    @contextlib.contextmanager
    def joined(self, exchange: Exchange) -> Iterator[None]:
        """Have the exchange end with the group inside the block."""
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
    """A socket that asks the exchange of its thread how long it may wait, and tells what moved."""

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
        """Send some bytes, within the time of the exchange."""
        exchange = _current.exchange
        if exchange is None:
            return super().send(*arguments, **named)
        exchange.begin(self)
        count = super().send(*arguments, **named)
        exchange.sent(count)
        return count

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all bytes, each step within the time of the exchange: progress is no timeout."""
        with memoryview(data) as view, view.cast("B") as rest:
            at = 0
            while at < len(rest):
                at += self.send(rest[at : at + _SEND_BYTES], flags)


def watched(connected: socket.socket) -> WatchedSocket:
    """Return a socket on the same connection that is watched; the one given is used up."""
    timeout = connected.gettimeout()
    made = WatchedSocket(
        connected.family, connected.type, connected.proto, fileno=connected.detach()
    )
    made.settimeout(timeout)
    lowat = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if lowat is not None:
        with contextlib.suppress(OSError):  # A system without it sees less of the progress.
            made.setsockopt(socket.IPPROTO_TCP, lowat, _UNSENT_BYTES_MAX)
    return made
