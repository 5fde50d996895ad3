"""Reading a remote log lazily: what is fetched, how often, and what damage does."""

from __future__ import annotations

import functools
import random
import threading
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import apsw
import pytest
import zstandard
from pyroaring import BitMap

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import (
    CorruptObjectError,
    FutureVersionError,
    GraftError,
    ObjectMissingError,
    StoreUnavailableError,
)
from graft_vfs.format.commit import FrameTable
from graft_vfs.format.frame import FRAME_PAGES, checksum_of
from graft_vfs.format.table import encode_table
from graft_vfs.remote.log import commit_key
from graft_vfs.store.memory import MemoryObjects
from graft_vfs.view import logs, new_table
from graft_vfs.view.log_view import LogView
from graft_vfs.view.ranges import FrameRange
from graft_vfs.view.source import FrameSource
from tests.format.commit_samples import LOG, OTHER_LOG, commit, header_of, image, patched
from tests.support.replicas import Replica, rows

FRAMES = 40
PAGES = FRAMES * FRAME_PAGES


@dataclass
class Remote:
    """A remote in memory whose objects a test may damage, and machines on it."""

    path: Path
    config: RemoteConfig
    objects: dict[str, bytes]
    machines: list[Replica]

    def machine(self, name: str) -> Replica:
        self.machines.append(Replica(self.path / name, self.config))
        return self.machines[-1]


@pytest.fixture
def remote(tmp_path) -> Iterator[Remote]:
    config = RemoteConfig(type="memory", root=str(tmp_path))
    objects = MemoryObjects.named(str(tmp_path)).by_key
    made = Remote(tmp_path, config, objects, [])
    yield made
    for machine in made.machines:
        machine.close()


@dataclass
class Reading:
    """A cold view of a log of one commit, and the ranges of frames that it asked for."""

    view: LogView
    ranges: list[tuple[int, int]]
    gates: dict[int, threading.Event]
    failure: GraftError | None = None

    @property
    def sizes(self) -> list[int]:
        return [end - first for first, end in sorted(self.ranges)]

    def read(self, page: int) -> bytes:
        located = self.view.locate(page)
        assert located is not None
        data, offset = located
        return bytes(data[offset : offset + self.view.page_size])


def put(remote: Remote, data: bytes, *, log=LOG, lsn: int = 1) -> str:
    key = commit_key(log, lsn)
    remote.objects[key] = data
    return key


def cold_view(machine: Replica, monkeypatch, log=LOG) -> Reading:
    """Clone a log onto a machine, then note which frames each range read asks for."""
    machine.engine.open("main", create=True, remote=str(log))
    view = machine.engine.open("main").begin().remote
    assert isinstance(view, LogView)
    found = view.table.find(1)
    assert found is not None
    source = found[0]
    reading = Reading(view, [], {})
    store = machine.engine.store
    get_range = store.get_range
    lock = threading.Lock()
    offsets = source.body.frames.offsets

    def noted(key: str, start: int, length: int) -> bytes:
        if key != source.body.key:
            return get_range(key, start, length)
        start_in_body = start - source.body.offset
        first = offsets.index(start_in_body)
        end = offsets.index(start_in_body + length)
        with lock:
            reading.ranges.append((first, end))
        if first in reading.gates:
            assert reading.gates[first].wait(20)
        if reading.failure is not None:
            raise reading.failure
        return get_range(key, start, length)

    monkeypatch.setattr(store, "get_range", noted)
    return reading


@pytest.fixture
def reading(remote, monkeypatch) -> Reading:
    put(remote, commit(range(1, PAGES + 1))[1])
    return cold_view(remote.machine("cold"), monkeypatch)


# What is fetched --------------------------------------------------------------------------------


def test_a_point_query_fetches_one_frame(reading) -> None:
    pages = random.Random(1).sample(range(1, PAGES, 6 * FRAME_PAGES), 6)
    for number, page in enumerate(pages, 1):
        assert reading.read(page) == image(page)
        frame = (page - 1) // FRAME_PAGES
        assert len(reading.ranges) == number
        assert reading.ranges[-1] == (frame, frame + 1)


def test_a_cached_page_is_not_fetched_again(reading) -> None:
    for _ in range(3):
        for page in range(1, FRAME_PAGES + 1):
            assert reading.read(page) == image(page)
    assert reading.ranges == [(0, 1)]


def test_a_scan_reads_ahead_in_windows_that_double(reading) -> None:
    for page in range(1, PAGES + 1):
        assert reading.read(page) == image(page)
    assert sorted(reading.ranges) == [(0, 1), (1, 3), (3, 7), (7, 15), (15, 31), (31, 40)]


def test_a_long_scan_joins_at_most_16_frames_in_a_request(remote, monkeypatch) -> None:
    frames = 300
    put(remote, commit(range(1, frames * FRAME_PAGES + 1))[1])
    reading = cold_view(remote.machine("cold"), monkeypatch)
    for page in range(1, frames * FRAME_PAGES + 1):
        reading.read(page)
    assert sum(reading.sizes) == frames
    assert reading.sizes[:5] == [1, 2, 4, 8, 16]
    assert max(reading.sizes) == 16
    assert len(reading.ranges) <= 5 + -(-(frames - 31) // 16) + 2


def test_a_scan_of_a_cold_database_through_sql_makes_few_requests(remote) -> None:
    ours, theirs = remote.machine("ours"), remote.machine("theirs")
    a = ours.connect()
    a.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v)")
    with a:
        a.executemany(
            "INSERT INTO t VALUES(?, ?)",
            ((n, random.Random(n).randbytes(900)) for n in range(4000)),
        )
    ours.engine.push("main")
    b = theirs.connect(remote="main")
    before = theirs.counts()
    assert rows(b, "SELECT v FROM t WHERE k = 2500") == rows(a, "SELECT v FROM t WHERE k = 2500")
    used = theirs.counts() - before
    assert used.requests <= 3
    assert used.bytes_received <= 200_000
    frames = len(theirs.engine.open("main").begin().remote.frames())
    assert frames > 60
    assert rows(b) == rows(a)
    assert (theirs.counts() - before).requests <= 20
    assert (theirs.counts() - before).get_range == (theirs.counts() - before).requests


def test_hydrate_fetches_the_rest_in_one_range_and_once(reading) -> None:
    reading.read(1)
    progress: list[tuple[int, int]] = []
    assert reading.view.hydrate(lambda done, of: progress.append((done, of))) == PAGES - FRAME_PAGES
    assert sorted(reading.ranges) == [(0, 1), (1, FRAMES)]
    (source, _) = next(iter(reading.view.frames()))
    sizes = [source.stored_bytes(frame) for frame in range(FRAMES)]
    # What was cached before counts as done, and each frame when it arrives.
    assert progress == [(sum(sizes[: frame + 1]), sum(sizes)) for frame in range(FRAMES)]
    assert reading.view.pages_present() == (PAGES, PAGES)
    assert reading.view.hydrate() == 0
    assert len(reading.ranges) == 2


def push_scattered(machine: Replica, commits: int, rows_count: int) -> apsw.Connection:
    """Push a table of 6000 rows, and commits that change some rows everywhere in it."""
    connection, chance = machine.connect(), random.Random(1)
    connection.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v)")
    for number in range(commits):
        changed = range(6000) if not number else chance.sample(range(6000), rows_count)
        with connection:
            connection.executemany(
                "REPLACE INTO t VALUES(?, ?)", ((key, chance.randbytes(900)) for key in changed)
            )
        machine.engine.push("main")
    return connection


@pytest.fixture(params=[False, True], ids=["in memory", "in layers"])
def layered(request, monkeypatch) -> bool:
    """Have tables of many parts, of which each knows the sources of its pages by itself."""
    if request.param:
        small = functools.partial(encode_table, leaf_pages=256)
        monkeypatch.setattr(new_table, "encode_table", small)
        monkeypatch.setattr(logs, "_DECODED_BYTES_MAX", 0)
    return request.param


def test_hydrate_after_many_scattered_commits_sends_two_requests_for_each_object(
    remote, layered
) -> None:
    ours, theirs = remote.machine("ours"), remote.machine("theirs")
    a = push_scattered(ours, 26, 400)
    b = theirs.connect(remote="main")
    view = theirs.engine.open("main").begin().remote
    assert bool(view.table._layers) == layered
    frames = view.frames()
    objects = len({source.origin for source, _ in frames})
    live = sum(source.stored_bytes(frame) for source, frame in frames)
    before = theirs.counts()
    theirs.engine.hydrate("main")
    used = theirs.counts() - before
    assert len(frames) > 10 * objects
    assert used.requests == used.get_range <= 2 * objects
    # The dead bytes that were read for that.
    assert live <= used.bytes_received <= 1.3 * live
    assert rows(b) == rows(a)
    assert (theirs.counts() - before).requests == used.requests


def test_a_scan_after_many_scattered_commits_reads_several_frames_of_an_object_at_once(
    remote, layered
) -> None:
    ours, theirs = remote.machine("ours"), remote.machine("theirs")
    a = push_scattered(ours, 60, 100)
    b = theirs.connect(remote="main")
    view = theirs.engine.open("main").begin().remote
    assert bool(view.table._layers) == layered
    frames = view.frames()
    objects = len({source.origin for source, _ in frames})
    live = sum(source.stored_bytes(frame) for source, frame in frames)
    before = theirs.counts()
    assert rows(b) == rows(a)
    used = theirs.counts() - before
    assert len(frames) > 5 * objects
    assert used.requests <= 2 * objects
    assert used.bytes_received <= 1.2 * live


def test_frames_that_arrived_before_a_damaged_one_stay_cached(remote, monkeypatch) -> None:
    header, data = commit(range(1, PAGES + 1))
    start, length = header.frames.byte_range(25, 26)
    put(remote, flip(data, len(header.encode()) + start + length // 2))
    reading = cold_view(remote.machine("cold"), monkeypatch)
    with pytest.raises(CorruptObjectError, match="frame 25 of LSN 1"):
        reading.view.hydrate()
    assert reading.view.pages_present() == (25 * FRAME_PAGES, PAGES)


# Threads ----------------------------------------------------------------------------------------


def test_a_frame_that_is_evicted_immediately_is_still_read(remote, monkeypatch) -> None:
    put(remote, commit(range(1, PAGES + 1))[1])
    machine = remote.machine("cold")
    machine.engine.logs._cache_bytes_max = 1
    reading = cold_view(machine, monkeypatch)
    fetch = FrameSource.fetch

    def fetch_before_somebody_else(self: FrameSource, frames: Sequence[int]) -> list[bytes]:
        images = fetch(self, frames)
        self.cache.add(self.key(FRAMES - 1), b"the frame of another reader")
        return images

    monkeypatch.setattr(FrameSource, "fetch", fetch_before_somebody_else)
    for page in (1, 2, FRAME_PAGES + 1, 1):
        assert reading.read(page) == image(page)


def test_read_ahead_cancelled_by_closing_is_not_an_error(reading, monkeypatch, caplog) -> None:
    view = reading.view
    (source, _) = view.table.find(1)
    release = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(release.wait)
        monkeypatch.setattr(view, "_executor", lambda: executor)
        view._request([FrameRange(source, [0])])
        executor.shutdown(wait=False, cancel_futures=True)
        release.set()
    assert caplog.messages == []
    assert view._in_flight == {}


def test_threads_that_miss_one_frame_fetch_it_once(reading, monkeypatch) -> None:
    threads = 4
    reading.gates[5] = threading.Event()
    arrived = threading.Semaphore(0)
    fetch = LogView._fetch

    def counted(*arguments):
        arrived.release()
        return fetch(*arguments)

    monkeypatch.setattr(LogView, "_fetch", counted)
    page = 5 * FRAME_PAGES + 3
    with ThreadPoolExecutor(threads) as executor:
        reads = [executor.submit(reading.read, page) for _ in range(threads)]
        for _ in range(threads):
            assert arrived.acquire(timeout=20)
        reading.gates[5].set()
        assert {read.result(20) for read in reads} == {image(page)}
    assert reading.ranges == [(5, 6)]


def test_read_ahead_requests_no_frame_in_flight(reading) -> None:
    reading.gates[3] = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        slow = executor.submit(reading.read, 3 * FRAME_PAGES + 1)
        while not reading.ranges:
            assert not slow.done()
        for page in range(1, 3 * FRAME_PAGES + 1):
            assert reading.read(page) == image(page)
        for page in range(4 * FRAME_PAGES + 1, 6 * FRAME_PAGES):
            assert reading.read(page) == image(page)
        reading.gates[3].set()
        assert slow.result(20) == image(3 * FRAME_PAGES + 1)
    fetched = [frame for first, end in reading.ranges for frame in range(first, end)]
    assert len(fetched) == len(set(fetched)), "no frame is fetched twice"
    assert sorted(reading.ranges)[:4] == [(0, 1), (1, 3), (3, 4), (4, 7)]


def test_many_threads_reading_at_random_see_every_page_right(reading) -> None:
    def read(seed: int) -> None:
        pages = list(range(1, PAGES + 1))
        random.Random(seed).shuffle(pages)
        assert all(reading.read(page) == image(page) for page in pages)

    with ThreadPoolExecutor(8) as executor:
        for done in [executor.submit(read, seed) for seed in range(8)]:
            done.result(60)
    assert {frame for first, end in reading.ranges for frame in range(first, end)} == set(
        range(FRAMES)
    )


# Failures ---------------------------------------------------------------------------------------


def test_a_failed_fetch_raises_the_stores_error_and_the_next_read_succeeds(reading) -> None:
    for frame in range(FRAMES - 1, 0, -1):
        page = frame * FRAME_PAGES + 1
        reading.failure = StoreUnavailableError("a test cut the line")
        with pytest.raises(StoreUnavailableError, match="cut the line"):
            reading.read(page)
        reading.failure = None
        assert reading.read(page) == image(page)


def test_a_scan_continues_after_its_read_ahead_failed(reading) -> None:
    for page in range(1, PAGES + 1):
        is_cut = page % 50 == 0
        reading.failure = StoreUnavailableError("a test cut the line") if is_cut else None
        try:
            found = reading.read(page)
        except StoreUnavailableError:
            reading.failure = None
            found = reading.read(page)
        assert found == image(page)


def flip(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1 :]


def test_a_damaged_frame_is_an_error_for_its_own_pages_only(remote, monkeypatch) -> None:
    header, data = commit(range(1, PAGES + 1))
    start, length = header.frames.byte_range(2, 3)
    key = put(remote, flip(data, len(header.encode()) + start + length // 2))
    reading = cold_view(remote.machine("cold"), monkeypatch)
    for page in range(1, PAGES + 1):
        if (page - 1) // FRAME_PAGES == 2:
            with pytest.raises(CorruptObjectError, match=r"frame 2 of LSN 1: checksum mismatch"):
                reading.read(page)
        else:
            assert reading.read(page) == image(page)
    remote.objects[key] = data
    assert reading.read(2 * FRAME_PAGES + 1) == image(2 * FRAME_PAGES + 1), "repaired, read again"


def test_damage_reaches_sql_as_corrupt_with_its_text_and_other_tables_are_readable(remote) -> None:
    ours, theirs = remote.machine("ours"), remote.machine("theirs")
    a = ours.connect()
    a.execute("CREATE TABLE good(k INTEGER PRIMARY KEY, v); CREATE TABLE bad(k, v)")
    for table in ("good", "bad"):
        with a:
            a.executemany(
                f"INSERT INTO {table} VALUES(?, ?)",
                ((n, random.Random(n).randbytes(3000)) for n in range(100)),
            )
    ours.engine.push("main")
    b = theirs.connect(remote="main")
    (key,) = (key for key in remote.objects if "/commits/" in key)
    remote.objects[key] = flip(remote.objects[key], len(remote.objects[key]) - 1000)
    with pytest.raises(apsw.CorruptError, match="checksum mismatch"):
        rows(b, "SELECT * FROM bad")
    assert rows(b, "SELECT * FROM good") == rows(a, "SELECT * FROM good")


def test_a_truncated_object_is_damage_after_the_cut(remote, monkeypatch) -> None:
    header, data = commit(range(1, PAGES + 1))
    start, length = header.frames.byte_range(10, 11)
    key = put(remote, data)
    reading = cold_view(remote.machine("cold"), monkeypatch)
    remote.objects[key] = data[: len(header.encode()) + start + length - 1]
    for frame in range(FRAMES):
        page = frame * FRAME_PAGES + 1
        if frame < 10:
            assert reading.read(page) == image(page)
        else:
            with pytest.raises(CorruptObjectError, match="truncated"):
                reading.read(page)


def test_a_missing_object_is_named(remote, monkeypatch) -> None:
    key = put(remote, commit(range(1, PAGES + 1))[1])
    reading = cold_view(remote.machine("cold"), monkeypatch)
    data = remote.objects.pop(key)
    with pytest.raises(ObjectMissingError, match=key):
        reading.read(1)
    remote.objects[key] = data
    assert reading.read(1) == image(1)


def test_a_frame_that_claims_more_than_its_pages_is_damage(remote, monkeypatch) -> None:
    bomb = zstandard.ZstdCompressor(write_content_size=True).compress(bytes(50_000_000))
    pages = BitMap(range(1, 5))
    table = FrameTable.of(FRAME_PAGES, array("I", [len(bomb)]), array("I", [4]), checksum_of(bomb))
    header = header_of(pages, table)
    put(remote, header.encode() + bomb)
    reading = cold_view(remote.machine("cold"), monkeypatch)
    with pytest.raises(CorruptObjectError, match="claims 50000000 bytes instead of 2048"):
        reading.read(1)


def test_a_commit_of_a_future_version_moves_nothing_and_says_so(remote) -> None:
    machine = remote.machine("ours")
    first, data = commit()
    put(remote, data)
    machine.engine.open("main", create=True, remote=str(LOG))
    second, data = commit(lsn=2, previous_hash=first.hash, salt=1)
    put(remote, patched(second.encode(), 8, (4).to_bytes(2, "little")), lsn=2)
    before = machine.engine.open("main").begin()
    with pytest.raises(FutureVersionError, match="upgrade graft-vfs"):
        machine.engine.pull("main")
    assert machine.engine.open("main").begin() is before
    assert "version 4" in str(machine.engine.status("main"))
    put(remote, data, lsn=2)
    assert machine.engine.pull("main").lsn == 2


def test_a_log_that_changes_its_page_size_is_damage(remote) -> None:
    machine = remote.machine("ours")
    first, data = commit()
    put(remote, data)
    machine.engine.open("main", create=True, remote=str(LOG))
    put(remote, commit(lsn=2, previous_hash=first.hash, page_size=1024)[1], lsn=2)
    machine.engine.fetch("main")
    for attempt in (
        lambda: machine.engine.pull("main"),
        lambda: machine.engine.snapshot_at("main", lsn=2),
        lambda: remote.machine("cold").engine.open("x", create=True, remote=str(LOG)),
    ):
        with pytest.raises(GraftError, match="page size"):
            attempt()
    assert machine.engine.snapshot_at("main", lsn=1).stored(3) == image(3)


def test_a_fork_of_another_page_size_than_its_parent_is_damage(remote) -> None:
    machine = remote.machine("ours")
    first, data = commit()
    put(remote, data)
    fork = commit(
        log_id=OTHER_LOG, parent_log=LOG, parent_lsn=1, previous_hash=first.hash, page_size=1024
    )[1]
    put(remote, fork, log=OTHER_LOG)
    with pytest.raises(CorruptObjectError, match="page size"):
        machine.engine.open("main", create=True, remote=str(OTHER_LOG))
