"""Reads commit headers from a store: one, or many concurrently in a given order.

Invariants:
 1. A returned commit has a correct hash, and the log and LSN of its place.
 2. Memory is bounded, whatever sizes the objects claim: at most 64 MiB of long headers are in
    flight at a time, plus 16 KiB (the size of a first read) per short header. A yielded header
    belongs to the caller, who decides how many to keep.

This module does not know the order of places (see `log`).
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
from graft_vfs.store.dates import Answered, answered

LONG_BYTES_IN_FLIGHT_MAX = HEADER_BYTES_MAX
"""The limit of requested but not yet yielded bytes of headers longer than a first read."""


class Place(NamedTuple):
    """The place of an expected commit: its log, its LSN and the key of its object."""

    log_id: LogId
    lsn: RemoteLsn
    key: str


@dataclass(frozen=True, slots=True, eq=False)
class CommitRecord:
    """A commit that was read: its header, the header's length and bytes.

    `behind` are the bytes after the header that came with the same request.
    """

    header: CommitHeader
    header_length: int
    encoded: bytes
    behind: bytes = b""


class Answer(NamedTuple):
    """What a store answered about an LSN: its commit, or None if it is absent; and when."""

    lsn: RemoteLsn
    record: CommitRecord | None
    answered: Answered


def read_answer(store: ObjectStore, place: Place) -> Answer:
    """Return the answer about one place: `read_commit` says how."""
    head = _read_head(store, place)
    if head.data is None:
        return Answer(place.lsn, None, head.answered)
    missing_bytes = _missing_bytes(head.data, place)
    rest = store.get_range(place.key, HEAD_BYTES, missing_bytes) if missing_bytes else b""
    return Answer(place.lsn, _record(head.data, rest, place), head.answered)


def read_commit(store: ObjectStore, place: Place) -> CommitRecord | None:
    """Return the commit at a place, or None if there is none.

    One range read of 16 KiB, and a second for a longer header. Raises CorruptObjectError if it
    is not the commit of this place, FutureVersionError, StoreError.
    """
    return read_answer(store, place).record


def read_commits(store: ObjectStore, places: Iterable[Place]) -> Iterator[CommitRecord | None]:
    """Yield the commit at each place, or None, in the order of the places; see `read_answers`."""
    return (answer.record for answer in read_answers(store, places))


def read_answers(store: ObjectStore, places: Iterable[Place]) -> Iterator[Answer]:
    """Yield the answer about each place, in the order of the places.

    The requests of `read_commit`, 32 at a time, at most twice that many ahead of the caller. Raises
    the errors of `read_commit`, when their place is due.
    """
    waiting = iter(places)
    first = [*islice(waiting, REQUESTS_MAX)]
    if len(first) <= 1:
        for place in first:
            yield read_answer(store, place)
        return
    with request_threads("graft-read") as executor:
        yield from _in_order(store, executor, chain(first, waiting))


class _Head(NamedTuple):
    """The first bytes of a commit, None if it is absent, and when the store answered."""

    data: bytes | None
    answered: Answered


@dataclass(slots=True, eq=False)
class _Reading:
    """A place that is being read: the first read, and the rest if requested.

    `missing_bytes` is None until the head has arrived.
    """

    place: Place
    head: Future[_Head]
    rest: Future[bytes] | None = None
    missing_bytes: int | None = None


def _in_order(store: ObjectStore, executor: Executor, places: Iterator[Place]) -> Iterator[Answer]:
    readings: deque[_Reading] = deque()

    def start(number: int) -> None:
        for place in islice(places, number):
            readings.append(_Reading(place, executor.submit(_read_head, store, place)))

    start(2 * REQUESTS_MAX)
    while readings:
        reading = readings[0]
        data, when = reading.head.result()
        _request_rests(store, executor, readings)
        rest = reading.rest.result() if reading.rest is not None else b""
        readings.popleft()
        # Reading ahead continues while the caller processes this one.
        start(1)
        record = None if data is None else _record(data, rest, reading.place)
        yield Answer(reading.place.lsn, record, when)


def _request_rests(store: ObjectStore, executor: Executor, readings: deque[_Reading]) -> None:
    """Request the rest of long headers, in order, up to the limit; always at least one."""
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
    """Return the length of the rest, None if unknown; errors are raised when the place is due."""
    if not reading.head.done():
        return None
    head = None if reading.head.exception() is not None else reading.head.result().data
    if head is not None:
        with contextlib.suppress(CorruptObjectError, FutureVersionError):
            return _missing_bytes(head, reading.place)
    return 0


def _read_head(store: ObjectStore, place: Place) -> _Head:
    with answered(place.key) as when:
        try:
            return _Head(store.get_range(place.key, 0, HEAD_BYTES), when)
        except ObjectMissingError:
            return _Head(None, when)


def _missing_bytes(head: bytes, place: Place) -> int:
    """Return how many bytes of the header the first read lacks."""
    missing_bytes = header_length(head, key=place.key) - len(head)
    return missing_bytes if missing_bytes > 0 and len(head) == HEAD_BYTES else 0


def _record(head: bytes, rest: bytes, place: Place) -> CommitRecord:
    data = head + rest if rest else head
    header, length = decode_header(data, key=place.key)
    if (header.log_id, header.lsn) != (place.log_id, place.lsn):
        raise CorruptObjectError(
            f"{place.key} contains LSN {header.lsn} of log {header.log_id}",
            next_step="restore the object from a replica or a backup",
        )
    return CommitRecord(header, length, data[:length], data[length:])
