"""The guarantees of every object store, the keys that it accepts, and its request counts.

Invariants of every store:

1. `put_if_absent` creates a key at most once, even if threads, processes and machines race for it.
   It never reports more than it knows: an unknown outcome is a separate error.
2. A reader sees an object whole or not at all. A half-written object never has a key.
3. After a `put`, a `put_if_absent` or a `delete` has returned, every reader sees its effect, and
   the effect is as durable as the medium makes it.
4. A key is ASCII segments joined by `/`, none of them empty, `.` or `..`. So a key can never leave
   the root of a store, and keys sort alike as text and as bytes.
5. Reads are bounded: even a hostile remote cannot make a read use more memory.

A crash leaves an object either present or absent. At worst it leaves bytes without a key, a
temporary file or an unfinished upload, which no store lists.
"""

from __future__ import annotations

import abc
import bisect
import contextlib
import enum
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Literal, NamedTuple, Self, TypeAlias

from graft_vfs.errors import (
    CorruptObjectError,
    ObjectMissingError,
    StoreUnavailableError,
    UsageError,
)
from graft_vfs.reentry import occupied

GET_LIMIT_BYTES = 64 * 1024 * 1024
"""The default limit of the size of an object that `get` reads."""

KEY_BYTES_MAX = 1024
"""The longest key that S3 accepts; a prefix reduces it by its length."""

LIST_PAGE_KEYS = 1000
"""The maximum number of keys per listing request, as in S3."""

REQUESTS_MAX = 32
"""How many requests of one verb are under way at most; the S3 client keeps so many connections."""

STREAM_PIECE_BYTES = 256 * 1024
"""The largest piece of a range that is streamed."""

_MOVING_BYTES = 64 * 1024

Buffer: TypeAlias = bytes | bytearray | memoryview

Verb: TypeAlias = Literal["get", "get_range", "put", "put_if_absent", "list", "delete", "other"]

Sent: TypeAlias = Callable[[int, int], None]
"""Called with how many bytes of an object the store has acknowledged, and how many it has."""

Take: TypeAlias = Callable[[bytes], None]
"""Called with the next bytes of a range, in order; what it raises ends the read."""

_SEGMENT = re.compile(r"[A-Za-z0-9._~%-]+", re.ASCII)
_TEXT = re.compile(r"[A-Za-z0-9._~%/-]*", re.ASCII)


class ObjectInfo(NamedTuple):
    """An object in a listing."""

    key: str
    bytes: int
    """The object's size."""
    modified: float | None
    """The time of its last write, in seconds since 1970 by the store's clock; None if unknown."""


class PutOutcome(enum.Enum):
    """The outcome of a create-only write that got a response."""

    CREATED = "created"
    """The key was absent and now holds our bytes (S3: 200)."""

    EXISTS = "exists"
    """The key existed before this request; the object may still be ours (S3: 412)."""

    RACING = "racing"
    """Another operation on the key was under way; nothing was written (S3: 409)."""


def is_segment(text: str) -> bool:
    """Return True if `text` is a valid segment of a key."""
    return _SEGMENT.fullmatch(text) is not None and text not in {".", ".."}


def is_key(text: str) -> bool:
    """Return True if `text` is a valid key; used for names in a remote listing."""
    return len(text) <= KEY_BYTES_MAX and all(is_segment(part) for part in text.split("/"))


def check_key(key: str) -> str:
    """Return `key` if it is valid, else raise UsageError."""
    if not is_key(key):
        raise UsageError(
            f"{key!r} is not a valid object key",
            next_step=f"use at most {KEY_BYTES_MAX} of A-Z a-z 0-9 . _ ~ % - in segments joined by"
            " '/', none of them empty, '.' or '..'",
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix` if a key can begin with it, else raise UsageError; "" is valid."""
    whole_segments = prefix.split("/")[:-1]
    if _TEXT.fullmatch(prefix) is None or not all(is_segment(part) for part in whole_segments):
        raise UsageError(f"{prefix!r} is not a valid prefix of an object key")
    return prefix


def check_range(start: int, length: int) -> None:
    """Raise UsageError unless `start` is an offset and `length` is at least 1."""
    if start < 0 or length < 1:
        raise UsageError(f"a range cannot start at {start} and have {length} bytes")


def check_limit(limit: int | None) -> int | None:
    """Return the maximum number of keys to list, or raise UsageError if it is negative."""
    if limit is not None and limit < 0:
        raise UsageError(f"a listing cannot have {limit} keys")
    return limit


def repeat_while_moving(moved: Callable[[], int], read: Callable[[], None]) -> None:
    """Run `read` until it raises no StoreUnavailableError, as long as it moves 64 KiB each time.

    `read` has attempts of its own. A long range over a connection that breaks now and then needs
    more of these, but a server that sends next to nothing is not asked for ever.
    """
    while True:
        before = moved()
        try:
            return read()
        except StoreUnavailableError:
            if moved() - before < _MOVING_BYTES:
                raise


def oversized(key: str, store: str, limit_bytes: int) -> CorruptObjectError:
    """Return the error for an object that is larger than its reader accepts."""
    return CorruptObjectError(
        f"the object {key!r} in {store} is larger than {limit_bytes} bytes",
        next_step="it is foreign or damaged; run graft doctor",
    )


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """A store's requests to its medium, and the bytes of objects in each direction.

    A retry, a page of a listing and a part of an upload count as one request each. `retries` is the
    number of requests that repeat a failed one. Bytes are those of objects, sent or received,
    without headers and listings.
    """

    get: int = 0
    get_range: int = 0
    put: int = 0
    put_if_absent: int = 0
    list: int = 0
    delete: int = 0
    other: int = 0
    retries: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    @property
    def requests(self) -> int:
        """Total number of requests, whatever their verb."""
        return (
            self.get
            + self.get_range
            + self.put
            + self.put_if_absent
            + self.list
            + self.delete
            + self.other
        )

    def __sub__(self, earlier: StoreCounts) -> StoreCounts:
        """Return the counts since `earlier`."""
        return StoreCounts(
            **{
                field.name: getattr(self, field.name) - getattr(earlier, field.name)
                for field in fields(self)
            }
        )


LATENCY_BOUNDS_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)


@dataclass(frozen=True, slots=True)
class Latencies:
    """The times from each request of a verb to the start of its response, including failures.

    Each bucket counts requests up to its bound in LATENCY_BOUNDS_SECONDS and above the previous
    bound; the last bucket has no bound.
    """

    buckets: tuple[int, ...]
    sum_seconds: float


class StoreCounters:
    """The running counts of one store handle.

    Owned by its store. Any thread may add and take snapshots.
    """

    __slots__ = ("_buckets", "_counts", "_lock", "_seconds")

    def __init__(self) -> None:
        # Reentrant, because a finalizer may count while its own thread is counting.
        self._lock = threading.RLock()
        self._counts = {field.name: 0 for field in fields(StoreCounts)}
        self._buckets: dict[Verb, list[int]] = {}
        self._seconds: dict[Verb, float] = {}

    def add(
        self, verb: Verb, *, requests: int = 1, bytes_sent: int = 0, bytes_received: int = 0
    ) -> None:
        """Count requests of one verb, with their object bytes."""
        with occupied(), self._lock:
            self._counts[verb] += requests
            self._counts["bytes_sent"] += bytes_sent
            self._counts["bytes_received"] += bytes_received

    def snapshot(self) -> StoreCounts:
        """Return a consistent copy of the current counts."""
        with occupied(), self._lock:
            return StoreCounts(**self._counts)

    def add_retry(self) -> None:
        """Count a retry; the request itself is counted separately."""
        with occupied(), self._lock:
            self._counts["retries"] += 1

    @contextlib.contextmanager
    def timed(self, verb: Verb) -> Iterator[None]:
        """Record the duration of the block as one request."""
        start = time.perf_counter()
        try:
            with occupied():
                yield
        finally:
            seconds = time.perf_counter() - start
            with occupied(), self._lock:
                buckets = self._buckets.setdefault(verb, [0] * (len(LATENCY_BOUNDS_SECONDS) + 1))
                buckets[bisect.bisect_left(LATENCY_BOUNDS_SECONDS, seconds)] += 1
                self._seconds[verb] = self._seconds.get(verb, 0.0) + seconds

    def latencies(self) -> dict[Verb, Latencies]:
        """Return the latencies of the verbs that were timed."""
        with occupied(), self._lock:
            return {
                verb: Latencies(tuple(buckets), self._seconds[verb])
                for verb, buckets in self._buckets.items()
            }


class ObjectStore(abc.ABC):
    """One handle on a store of objects.

    Owned by the engine or by its creator, and used until `close`. Any thread may call any method at
    any time. A handle must not be used after fork().
    """

    can_list = True
    """Whether it has listings; without, the newest commit of a log is found by asking for some."""
    can_write = True

    def __init__(self) -> None:
        self.counters = StoreCounters()
        self._closed = False

    @abc.abstractmethod
    def get(self, key: str, *, limit_bytes: int = GET_LIMIT_BYTES) -> bytes:
        """Return the whole object.

        One request, retried if it fails.

        Raises:
            ObjectMissingError: the key is absent.
            CorruptObjectError: the object has more than `limit_bytes` bytes.
            StoreError: the store did not do its part.
        """

    @abc.abstractmethod
    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return the bytes `[start, start + length)` of an object.

        The answer is shorter where the object ends, and empty beyond its end. One request, retried
        if it fails.

        Raises:
            ObjectMissingError: the key is absent.
            StoreError: the store did not do its part.
        """

    def stream_range(self, key: str, start: int, length: int, take: Take) -> int:
        """Give a range to `take` piece by piece, as it arrives; return how many bytes there were.

        For long ranges: what has arrived is used before the rest does, and is not requested again
        after a failure. So one request, and one for each time that the answer breaks off. The
        pieces are not verified. Otherwise as `get_range`, whose answer a store gives as one piece
        if it has no pieces.
        """
        data = self.get_range(key, start, length)
        if data:
            take(data)
        return len(data)

    @abc.abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> PutOutcome:
        """Create an object unless its key exists; atomic, and durable when CREATED is returned.

        Exactly one request, never retried: a retry would hide whether the first attempt landed.

        Raises:
            CommitOutcomeUnknownError: the request may have landed or not.
            StoreUnavailableError: the request was not sent.
            StoreDeniedError: refused; nothing was written.
            BucketMissingError: the bucket or the directory does not exist.
            StoreError: refused for another reason; nothing was written.
        """

    @abc.abstractmethod
    def put(self, key: str, data: Sequence[Buffer], *, sent: Sent | None = None) -> None:
        """Write the buffers, in order, as one object; an older object is replaced.

        Atomic, and durable on return. One request; on S3, above 8 MiB, one per part and two more.
        Retried if it fails. `sent` is called as parts arrive and when all has, from any thread, one
        call at a time; with less again if all is sent once more.

        Raises:
            StoreError: the store failed; an older object may or may not be replaced.
        """

    @abc.abstractmethod
    def replace(self, key: str, old: bytes, new: bytes) -> bool:
        """Replace an object with the bytes `old` by `new`; True if it has `new` on return.

        Only for repairs. Durable on return. If the medium can compare and write atomically, as S3
        does with `If-Match`, a concurrent change by another client is never overwritten. One read
        and one write, retried if they fail.

        Raises:
            ObjectMissingError: the key is absent.
            CorruptObjectError: the object is larger than both.
            StoreError: the store failed; the object may or may not be replaced.
        """

    @abc.abstractmethod
    def list(
        self, prefix: str, *, start_after: str | None = None, limit: int | None = None
    ) -> Iterator[ObjectInfo]:
        """Yield the objects whose keys begin with `prefix`, ascending by key.

        Yields only keys above `start_after`, and at most `limit` objects. One request per 1000
        keys, sent as the iteration advances; with a smaller `limit`, no more keys are requested.
        Names that are not valid keys are foreign and skipped. Objects created or deleted during the
        iteration may or may not be yielded.

        Raises:
            StoreError: the store failed, or does not list in order.
        """

    def keys(
        self, prefix: str, *, start_after: str | None = None, limit: int | None = None
    ) -> Iterator[str]:
        """Yield only the keys; see `list`."""
        return (found.key for found in self.list(prefix, start_after=start_after, limit=limit))

    @abc.abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; an absent one is ignored. One request, retried if it fails.

        Raises:
            StoreError: the store did not do its part.
        """

    def delete_many(self, keys: Iterable[str]) -> None:
        """Remove objects; absent ones are ignored.

        One request per object, retried if it fails; on S3, one per 1000 objects.

        Raises:
            StoreError: the store failed; some objects may be removed.
        """
        for key in keys:
            self.delete(key)

    def clock_ahead_seconds(self) -> float | None:
        """Return how far this machine's clock is ahead of the store's, by its last response.

        None if no response gave the time. No request.
        """
        return None

    @abc.abstractmethod
    def describe(self) -> str:
        """Return a readable name, such as `s3://bucket/prefix`, without credentials."""

    def close(self) -> None:
        """Release connections; idempotent. Later calls raise UsageError."""
        self._closed = True

    def __enter__(self) -> Self:
        """Return the store; the end of the block closes it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the store."""
        self.close()

    def __str__(self) -> str:
        """Return `describe()`, or the part of it that is known without work."""
        return self.describe()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"{self.describe()} was closed", next_step="open it again")

    def _counted_read(self, verb: Verb, key: str, data: bytes | None) -> bytes:
        """Count a read of a store without requests of its own; raises ObjectMissingError."""
        self.counters.add(verb, bytes_received=len(data or b""))
        if data is None:
            raise ObjectMissingError(key)
        return data

    def _counted_object(self, key: str, data: bytes | None, limit_bytes: int) -> bytes:
        """Count a read of a whole object, as far as it was read; raises as `get`."""
        if data is not None and len(data) > limit_bytes:
            self.counters.add("get")
            raise oversized(key, self.describe(), limit_bytes)
        return self._counted_read("get", key, data)

    def _counted_pages(self, objects: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
        """Yield the objects, counting one request per page as a remote store would."""
        self.counters.add("list")
        for number, found in enumerate(objects):
            if number and number % LIST_PAGE_KEYS == 0:
                self.counters.add("list")
            yield found
