"""Writing plain files: each object is asked for once, and what arrived is not fetched again."""

from __future__ import annotations

import functools
import io
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest

from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import LocalStorageError
from graft_vfs.format.table import encode_table
from graft_vfs.local.files import write_fully
from graft_vfs.plain import writing
from graft_vfs.plain.transfer import require_written
from graft_vfs.store.base import StoreCounts
from graft_vfs.view import logs, new_table
from graft_vfs.view.log_view import LogView
from tests.plain.files import dump, stock_dump
from tests.support.replicas import Replica

ROWS = 2000
COMMITS = 26


@pytest.fixture(autouse=True)
def parts_of_tables(monkeypatch) -> None:
    """Have tables of many parts, as large databases do: each knows its sources by itself."""
    small = functools.partial(encode_table, leaf_pages=128)
    monkeypatch.setattr(new_table, "encode_table", small)
    monkeypatch.setattr(logs, "_DECODED_BYTES_MAX", 0)


@pytest.fixture
def remote(tmp_path: Path) -> RemoteConfig:
    return RemoteConfig(type="fs", root=str(tmp_path / "remote"))


@pytest.fixture
def ours(tmp_path: Path, remote: RemoteConfig) -> Iterator[Replica]:
    """A machine that has pushed scattered updates: frames have pages from everywhere."""
    chance = random.Random(1)
    with Replica(tmp_path / "ours", remote) as machine:
        connection = machine.connect()
        connection.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v)")
        for number in range(COMMITS):
            changed = range(ROWS) if not number else chance.sample(range(ROWS), 60)
            with connection:
                connection.executemany(
                    "REPLACE INTO t VALUES(?, ?)", ((key, chance.randbytes(900)) for key in changed)
                )
            machine.engine.push("main")
        connection.close()
        yield machine


class Follower:
    """A cold clone, and what it fetches."""

    def __init__(self, config: Config, executor: Executor | None) -> None:
        self.engine = Graft(config, executor=executor)
        self.engine.open("main", create=True, remote="main")
        self._before = self.engine.store.counters.snapshot()

    @property
    def used(self) -> StoreCounts:
        return self.engine.store.counters.snapshot() - self._before

    @property
    def view(self) -> LogView:
        view = self.engine.open("main").snapshot.remote
        assert isinstance(view, LogView)
        return view

    @property
    def objects(self) -> int:
        return len({source.origin for source, _ in self.view.frames()})

    @property
    def cached_bytes(self) -> int:
        missing = self.view.absent(self.view.frames())
        return self.live_bytes - sum(source.stored_bytes(frame) for source, frame in missing)

    @property
    def live_bytes(self) -> int:
        return sum(source.stored_bytes(frame) for source, frame in self.view.frames())


@pytest.fixture
def follow(
    tmp_path: Path, remote: RemoteConfig, ours: Replica
) -> Iterator[Callable[..., Follower]]:
    made: list[Follower] = []

    def make(*, executor: Executor | None = None, **settings: int) -> Follower:
        config = Config(data_dir=tmp_path / "theirs", remote=remote, **settings)
        made.append(Follower(config, executor))
        return made[-1]

    yield make
    for each in made:
        each.engine.close()


@pytest.mark.parametrize("limit", [None, 1_000_000, 5_000])
def test_a_cold_export_asks_for_each_object_once_under_any_limit_of_the_cache(
    follow, ours, tmp_path, limit
) -> None:
    theirs = follow(cache_max_bytes=limit)
    assert theirs.view.table._layers
    theirs.engine.export("main", tmp_path / "copy.db")
    assert stock_dump(tmp_path / "copy.db") == dump(ours.connect())
    assert theirs.used.requests == theirs.used.get_range <= 2 * theirs.objects
    assert theirs.used.bytes_received <= 1.3 * theirs.live_bytes
    assert theirs.engine.logs.counters.snapshot().arenas_evicted == 0
    present, total = theirs.view.pages_present()
    if limit is None:
        assert present == total
    else:
        assert present * 4096 <= limit


def test_a_cold_export_to_a_stream_asks_for_each_object_once(follow, ours) -> None:
    theirs = follow()
    stream = io.BytesIO()
    theirs.engine.export("main", stream)
    again = io.BytesIO()
    ours.engine.export("main", again)
    assert _content(stream) == _content(again)
    assert theirs.used.requests <= 2 * theirs.objects


def _content(stream: io.BytesIO) -> bytes:
    """Return a database without the counters of page 1, which belong to a machine."""
    data = bytearray(stream.getvalue())
    data[24:28] = data[92:96] = bytes(4)
    return bytes(data)


def test_local_pages_and_cached_ones_are_not_fetched(follow, ours, tmp_path) -> None:
    theirs = follow()
    reader = Replica(tmp_path / "reader", theirs.engine.config.remote)
    with reader:
        connection = reader.connect(remote="main")
        connection.execute("UPDATE t SET v = 'local' WHERE k % 3 = 0")
        before = reader.counts()
        reader.engine.export("main", tmp_path / "copy.db")
        first = (reader.counts() - before).bytes_received
        assert stock_dump(tmp_path / "copy.db") == dump(connection)
        before = reader.counts()
        reader.engine.export("main", tmp_path / "again.db")
        assert (reader.counts() - before).requests == 0
        assert first < theirs.live_bytes
        assert (tmp_path / "again.db").read_bytes() == (tmp_path / "copy.db").read_bytes()


class Stopping:
    """A progress that interrupts after so many reports."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, *_: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("verb", ["export", "hydrate"])
def test_what_arrived_before_an_interrupt_is_not_fetched_again(
    follow, ours, tmp_path, monkeypatch, verb
) -> None:
    """Interrupted after each report of its progress, until it succeeds."""
    monkeypatch.setattr(writing, "_REPORT_PAGES", 32)
    theirs = follow(executor=ThreadPoolExecutor(1))
    fetched, steps = 0, 0
    while True:
        missing = theirs.live_bytes - theirs.cached_bytes
        before = theirs.used.bytes_received
        stopping = Stopping(steps)
        try:
            if verb == "export":
                theirs.engine.export("main", tmp_path / "copy.db", progress=stopping)
            else:
                theirs.engine.hydrate("main", progress=stopping)
        except KeyboardInterrupt:
            # The thread that was receiving ends, and caches what it has.
            theirs.engine._pool.executor().submit(int).result()
        else:
            break
        finally:
            assert not list(tmp_path.glob(".graft-*"))
            used = theirs.used.bytes_received - before
            assert used <= 1.3 * missing
            fetched += theirs.cached_bytes - (theirs.live_bytes - missing)
        assert not (tmp_path / "copy.db").exists()
        steps += 1
    assert steps >= 3
    assert fetched == theirs.cached_bytes == theirs.live_bytes
    if verb == "export":
        assert stock_dump(tmp_path / "copy.db") == dump(ours.connect())


def test_a_restore_to_a_file_asks_for_each_object_once(tmp_path, remote, ours) -> None:
    config = Config(data_dir=tmp_path / "theirs", remote=remote, cache_max_bytes=500_000)
    engine = Graft(config)
    try:
        before = engine.store.counters.snapshot()
        engine.restore_file("main", tmp_path / "copy.db")
        used = engine.store.counters.snapshot() - before
        # With the ref, a listing, the commits, and page 1 for the check of nothing else.
        assert used.requests <= 2 + COMMITS + 2 * COMMITS
    finally:
        engine.close()
    assert stock_dump(tmp_path / "copy.db") == dump(ours.connect())


def test_a_file_that_reads_back_otherwise_is_refused(tmp_path) -> None:
    path = tmp_path / "file"
    pages = [bytes([number]) * 512 for number in (1, 2, 3, 3)]
    path.write_bytes(b"".join(pages))
    checksum = writing.file_sum(path, 512)
    require_written(path, checksum, 512)
    for changed in ([0, 2, 1, 3], [0, 1, 2], [0, 1, 2, 3, 3], [1, 1, 2, 3]):
        path.write_bytes(b"".join(pages[number] for number in changed))
        with pytest.raises(LocalStorageError, match="does not return the bytes"):
            require_written(path, checksum, 512)


def test_a_full_disk_ends_a_cold_export_with_its_error_and_no_file(
    follow, tmp_path, monkeypatch
) -> None:
    theirs = follow()

    def full(descriptor: int, data: bytes, offset: int) -> None:
        if offset > 1_000_000:
            raise OSError(28, "No space left on device")
        write_fully(descriptor, data, offset)

    monkeypatch.setattr(writing, "write_fully", full)
    with pytest.raises(LocalStorageError, match="No space left"):
        theirs.engine.export("main", tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()
    assert not list(tmp_path.glob(".graft-*"))
    monkeypatch.undo()
    theirs.engine.export("main", tmp_path / "copy.db")
