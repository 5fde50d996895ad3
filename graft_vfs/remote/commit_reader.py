"""Reading commit headers from a store: one, or many at once in the order in which they are wanted.

Invariants:
 1. A commit that is returned has verified itself by its hash, and has the log and LSN of its place.
 2. Whatever the objects claim, no more than 64 MiB of long headers are under way at a time, and of
    all others no more than the 16 KiB that a first read asks for. A header that is handed out
    belongs to the caller, who decides how many to keep.

What this module does not do: know how places follow one another (`remote_log`).
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

from graft_vfs.errors import CorruptObjectError, FutureVersionError, ObjectMissingError
from graft_vfs.format.commit import (
    HEAD_BYTES,
    HEADER_BYTES_MAX,
    CommitHeader,
    decode_header,
    header_length,
)
from graft_vfs.ids import LogId
from graft_vfs.pages import RemoteLsn
from graft_vfs.remote.request_threads import request_threads
from graft_vfs.store.base import REQUESTS_MAX, ObjectStore

LONG_BYTES_IN_FLIGHT_MAX = HEADER_BYTES_MAX
"""Bytes of headers longer than the first read that may be requested and not yet handed out."""


class Place(NamedTuple):
    """Where a commit is expected: its log, its LSN and the key of its object."""

    log_id: LogId
    lsn: RemoteLsn
    key: str


@dataclass(frozen=True, slots=True, eq=False)
class CommitRecord:
    """A commit that was read: its header, how long that is, and the bytes that prove it.

    `behind` are the bytes of the object that came after the header in the same request.
    """

    header: CommitHeader
    header_length: int
    encoded: bytes
    behind: bytes = b""


def read_commit(store: ObjectStore, place: Place) -> CommitRecord | None:
    """Return the commit at a place, or None if there is none.

    One range read of 16 KiB, and a second for a longer header. Raises CorruptObjectError if it is
    not the commit of this place, FutureVersionError, StoreError.
    """
    head = _read_head(store, place)
    if head is None:
        return None
    missing_bytes = _missing_bytes(head, place)
    rest = store.get_range(place.key, len(head), missing_bytes) if missing_bytes else b""
    return _record(head, rest, place)


def read_commits(store: ObjectStore, places: Iterable[Place]) -> Iterator[CommitRecord | None]:
    """Yield the commit at each place, or None, in the order of the places.

    The requests of `read_commit`, 32 at a time, which go on only as far ahead as twice that. Raises
    what `read_commit` raises, at the turn of the place that it concerns.
    """
    waiting = iter(places)
    first = [*islice(waiting, REQUESTS_MAX)]
    if len(first) <= 1:
        for place in first:
            yield read_commit(store, place)
        return
    with request_threads("graft-read") as executor:
        yield from _in_order(store, executor, chain(first, waiting))


@dataclass(slots=True, eq=False)
class _Reading:
    """A place that is being read: its head, and the rest if that is requested.

    `missing_bytes` is None until the head has arrived.
    """

    place: Place
    head: Future[bytes | None]
    rest: Future[bytes] | None = None
    missing_bytes: int | None = None


def _in_order(
    store: ObjectStore, executor: Executor, places: Iterator[Place]
) -> Iterator[CommitRecord | None]:
    readings: deque[_Reading] = deque()

    def start(number: int) -> None:
        for place in islice(places, number):
            readings.append(_Reading(place, executor.submit(_read_head, store, place)))

    start(2 * REQUESTS_MAX)
    while readings:
        reading = readings[0]
        head = reading.head.result()
        _request_rests(store, executor, readings)
        rest = reading.rest.result() if reading.rest is not None else b""
        readings.popleft()
        # What is read ahead goes on while the caller works on this one.
        start(1)
        yield None if head is None else _record(head, rest, reading.place)


def _request_rests(store: ObjectStore, executor: Executor, readings: deque[_Reading]) -> None:
    """Request the rest of long headers, in order, up to the bound; the first always."""
    under_way = 0
    for reading in readings:
        if reading.missing_bytes is None:
            reading.missing_bytes = _bytes_to_request(reading)
        if not reading.missing_bytes:
            continue
        if under_way and under_way + reading.missing_bytes > LONG_BYTES_IN_FLIGHT_MAX:
            return
        under_way += reading.missing_bytes
        if reading.rest is None:
            key, missing_bytes = reading.place.key, reading.missing_bytes
            reading.rest = executor.submit(store.get_range, key, HEAD_BYTES, missing_bytes)


def _bytes_to_request(reading: _Reading) -> int | None:
    """Return how long the rest is, None if that is not known yet; what is wrong has its turn."""
    if not reading.head.done():
        return None
    head = None if reading.head.exception() is not None else reading.head.result()
    if head is not None:
        with contextlib.suppress(CorruptObjectError, FutureVersionError):
            return _missing_bytes(head, reading.place)
    return 0


def _read_head(store: ObjectStore, place: Place) -> bytes | None:
    try:
        return store.get_range(place.key, 0, HEAD_BYTES)
    except ObjectMissingError:
        return None


def _missing_bytes(head: bytes, place: Place) -> int:
    """Return how many bytes of the header a first read did not bring."""
    missing_bytes = header_length(head, key=place.key) - len(head)
    return missing_bytes if missing_bytes > 0 and len(head) == HEAD_BYTES else 0


def _record(head: bytes, rest: bytes, place: Place) -> CommitRecord:
    data = head + rest if rest else head
    header, length = decode_header(data, key=place.key)
    if (header.log_id, header.lsn) != (place.log_id, place.lsn):
        raise CorruptObjectError(
            f"{place.key} holds LSN {header.lsn} of log {header.log_id}",
            next_step="restore the object from a replica or a backup",
        )
    return CommitRecord(header, length, data[:length], data[length:])
