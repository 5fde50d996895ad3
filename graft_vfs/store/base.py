"""What every object store promises, the keys it accepts, and the counting of its requests.

Invariants that every store keeps:

1. `put_if_absent` creates a key at most once, whatever threads, processes and machines race for it,
   and it never reports more than it knows: an outcome that was not seen is an error of its own.
2. A reader sees an object whole or not at all. No half-written object has a key.
3. After a `put`, a `put_if_absent` or a `delete` has returned, every reader sees its effect, and
   the effect is as durable as the medium makes it.
4. A key is ASCII segments joined by `/`, none of them empty, `.` or `..`. It can therefore never
   leave the root of a store, and sorting keys as text is sorting them as bytes.
5. Reads are bounded: no remote, however hostile, decides how much memory a read takes.

A crash leaves an object present or absent, and at worst bytes without a key: a temporary file, or
an unfinished upload, that no store ever lists.
"""

from __future__ import annotations

import abc
import bisect
import contextlib
import enum
import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Literal, NamedTuple, Self, TypeAlias

from graft_vfs.errors import CorruptObjectError, UsageError
from graft_vfs.reentry import occupied

GET_LIMIT_BYTES = 64 * 1024 * 1024
"""How large an object `get` reads unless it is told otherwise."""

KEY_BYTES_MAX = 1024
"""The longest key that S3 takes; a store with a prefix takes that much less."""

LIST_PAGE_KEYS = 1000
"""How many keys one listing request answers at most; S3 knows no larger pages."""

REQUESTS_MAX = 32
"""How many requests of one verb are under way at most; the S3 client keeps so many connections."""

Buffer: TypeAlias = bytes | bytearray | memoryview

Verb: TypeAlias = Literal["get", "get_range", "put", "put_if_absent", "list", "delete", "other"]

_SEGMENT = re.compile(r"[A-Za-z0-9._~%-]+", re.ASCII)
_TEXT = re.compile(r"[A-Za-z0-9._~%/-]*", re.ASCII)


class ObjectInfo(NamedTuple):
    """What a listing says of an object."""

    key: str
    bytes: int
    """Its size."""
    modified: float | None
    """When it was written last, in seconds since 1970 by the store's clock; None if not said."""


class PutOutcome(enum.Enum):
    """What is known about a create-only write that was answered."""

    CREATED = "created"
    """The key was absent and now holds our bytes (S3: 200)."""

    EXISTS = "exists"
    """The key was there before this request; it may still be ours (S3: 412)."""

    RACING = "racing"
    """Another operation on the key was under way; nothing was written (S3: 409)."""


def is_segment(text: str) -> bool:
    """Return True if `text` may stand between the slashes of a key."""
    return _SEGMENT.fullmatch(text) is not None and text not in {".", ".."}


def is_key(text: str) -> bool:
    """Return True if `text` is a key; used for names that a remote listing shows."""
    return len(text) <= KEY_BYTES_MAX and all(is_segment(part) for part in text.split("/"))


def check_key(key: str) -> str:
    """Return `key` if it is one, else raise UsageError."""
    if not is_key(key):
        raise UsageError(
            f"{key!r} is no key of an object store",
            next_step=f"use at most {KEY_BYTES_MAX} of A-Z a-z 0-9 . _ ~ % - in segments joined by"
            " '/', none of them empty, '.' or '..'",
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix` if some key can begin with it, else raise UsageError; "" is one."""
    whole_segments = prefix.split("/")[:-1]
    if _TEXT.fullmatch(prefix) is None or not all(is_segment(part) for part in whole_segments):
        raise UsageError(f"{prefix!r} is not how a key of an object store begins")
    return prefix


def check_range(start: int, length: int) -> None:
    """Raise UsageError unless `start` is an offset and `length` asks for at least one byte."""
    if start < 0 or length < 1:
        raise UsageError(f"no range of an object starts at {start} and has {length} bytes")


def check_limit(limit: int | None) -> int | None:
    """Return the largest number of keys to list, or raise UsageError if it is negative."""
    if limit is not None and limit < 0:
        raise UsageError(f"a listing of {limit} keys does not exist")
    return limit


def oversized(key: str, store: str, limit_bytes: int) -> CorruptObjectError:
    """Make the error for an object that is larger than its reader can accept."""
    return CorruptObjectError(
        f"the object {key!r} in {store} is larger than {limit_bytes} bytes",
        next_step="it was not written by graft_vfs, or it is damaged; run graft doctor",
    )


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """How often a store asked its medium, and how many bytes of objects went each way.

    A request is what the medium sees: a retry, a page of a listing and a part of an upload are one
    request each. Of them, `retries` repeat one that failed. Bytes are those of objects, sent or
    received, without headers and listings.
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
        """Return what happened after `earlier` was taken."""
        return StoreCounts(
            **{
                field.name: getattr(self, field.name) - getattr(earlier, field.name)
                for field in fields(self)
            }
        )


LATENCY_BOUNDS_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long requests of one verb took until their answer began, failed ones too.

    `buckets` counts those up to each of LATENCY_BOUNDS_SECONDS and above the one before; the last
    bucket has no bound.
    """

    buckets: tuple[int, ...]
    sum_seconds: float


class StoreCounters:
    """The running counts of one store handle.

    Owned by its store, lives as long as it does. Any thread may add and take snapshots.
    """

    __slots__ = ("_buckets", "_counts", "_lock", "_seconds")

    def __init__(self) -> None:
        # Reentrant, because a finalizer may count in the middle of a count of its own thread.
        self._lock = threading.RLock()
        self._counts = {field.name: 0 for field in fields(StoreCounts)}
        self._buckets: dict[Verb, list[int]] = {}
        self._seconds: dict[Verb, float] = {}

    def add(
        self, verb: Verb, *, requests: int = 1, bytes_sent: int = 0, bytes_received: int = 0
    ) -> None:
        """Count requests of one verb with the object bytes that they carried."""
        with occupied(), self._lock:
            self._counts[verb] += requests
            self._counts["bytes_sent"] += bytes_sent
            self._counts["bytes_received"] += bytes_received

    def snapshot(self) -> StoreCounts:
        """Return the counts of this moment, consistent with one another."""
        with occupied(), self._lock:
            return StoreCounts(**self._counts)

    def add_retry(self) -> None:
        """Count that a request, which is counted for itself, repeats one that failed."""
        with occupied(), self._lock:
            self._counts["retries"] += 1

    @contextlib.contextmanager
    def timed(self, verb: Verb) -> Iterator[None]:
        """Take the time of the block as that of one request."""
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

    Owned by the engine or by its maker, and used until `close`. Every method may be called
    from any thread at any time. A handle is not for use after fork().
    """

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

    @abc.abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> PutOutcome:
        """Create an object unless its key exists; atomic, and durable when CREATED is returned.

        Exactly one request, never retried: a second try inside would hide whether the first landed.

        Raises:
            CommitOutcomeUnknownError: the request may have landed or not.
            StoreUnavailableError: the request was not sent.
            StoreDeniedError: refused; nothing was written.
            BucketMissingError: there is no place to write to.
            StoreError: refused for another reason; nothing was written.
        """

    @abc.abstractmethod
    def put(self, key: str, data: Sequence[Buffer]) -> None:
        """Write the buffers, in their order, as one object, over an older one if there is any.

        Atomic, and durable on return. One request; on S3, above 8 MiB, one for each part and two
        more. Retried if it fails.

        Raises:
            StoreError: the store did not do its part; an older object may be there or replaced.
        """

    @abc.abstractmethod
    def replace(self, key: str, old: bytes, new: bytes) -> bool:
        """Write `new` over an object that has the bytes `old`; True if it has `new` on return.

        For repairs alone. Durable on return. Where the medium can compare and write at once, as S3
        does with `If-Match`, a change by another client meanwhile is never overwritten. One read
        and one write, retried if they fail.

        Raises:
            ObjectMissingError: the key is absent.
            CorruptObjectError: the object is larger than both.
            StoreError: the store did not do its part; the object may be replaced or not.
        """

    @abc.abstractmethod
    def list(
        self, prefix: str, *, start_after: str | None = None, limit: int | None = None
    ) -> Iterator[ObjectInfo]:
        """Yield the objects whose keys begin with `prefix`, ascending by key.

        Only those above `start_after` are given, and at most `limit` of them. One request for each
        1000 keys, sent when the iteration gets there; a smaller `limit` is all that is asked for.
        Names that are no keys are foreign to this program and left out. Whether objects that come
        or go during the iteration are given is not defined.

        Raises:
            StoreError: the store did not do its part, or does not list in order.
        """

    def keys(
        self, prefix: str, *, start_after: str | None = None, limit: int | None = None
    ) -> Iterator[str]:
        """Yield the keys alone; see `list`."""
        return (found.key for found in self.list(prefix, start_after=start_after, limit=limit))

    @abc.abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; one that is absent stays absent. One request, retried if it fails.

        Raises:
            StoreError: the store did not do its part.
        """

    def delete_many(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are absent stay absent.

        One request each, retried if it fails; on S3 one for each 1000.

        Raises:
            StoreError: the store did not do its part; some objects may be removed.
        """
        for key in keys:
            self.delete(key)

    def clock_ahead_seconds(self) -> float | None:
        """Return how far this machine's clock is ahead of the store's, as the last answer said.

        None if no answer told the time. No request.
        """
        return None

    @abc.abstractmethod
    def describe(self) -> str:
        """Return what people call this store, such as `s3://bucket/prefix`; no credential."""

    def close(self) -> None:
        """Give back connections; harmless when repeated. Later calls raise UsageError."""
        self._closed = True

    def __enter__(self) -> Self:
        """Return the store itself, to be closed at the end of the block."""
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
        """Return `describe()`, or as much of it as is known without work."""
        return self.describe()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"{self.describe()} was closed", next_step="open it again")

    def _counted_pages(self, objects: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
        """Pass objects on, counting one request for each page as a remote store would need."""
        self.counters.add("list")
        for number, found in enumerate(objects):
            if number and number % LIST_PAGE_KEYS == 0:
                self.counters.add("list")
            yield found
