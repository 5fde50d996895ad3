"""Background hydration: all pages arrive, no reader waits for that, and a small cache ends it."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import StoreUnavailableError
from graft_vfs.store.base import ObjectStore, Take
from graft_vfs.store.wrapper import WrapperStore
from graft_vfs.view.fetching import BACKGROUND_RANGES
from graft_vfs.view.foreground import Foreground
from graft_vfs.view.log_view import LogView
from tests.support.replicas import Replica

OBJECTS = 8
PATIENCE_SECONDS = 20


class Gated(WrapperStore):
    """Notes which objects are streamed, as hydration does, or read, and may hold both up."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.streamed: list[str] = []
        self.read: list[str] = []
        self.stream_gate, self.read_gate = threading.Event(), threading.Event()
        self.failure: StoreUnavailableError | None = None
        self._noted = threading.Condition()

    def _note(self, keys: list[str], key: str, gate: threading.Event) -> None:
        with self._noted:
            keys.append(key)
            self._noted.notify_all()
        assert gate.wait(PATIENCE_SECONDS)
        if self.failure is not None:
            raise self.failure

    def until(self, keys: list[str], count: int) -> None:
        """Wait until so many requests have begun."""
        with self._noted:
            assert self._noted.wait_for(lambda: len(keys) >= count, PATIENCE_SECONDS)

    def open(self) -> None:
        self.stream_gate.set()
        self.read_gate.set()

    def stream_range(self, key: str, start: int, length: int, take: Take) -> int:
        self._note(self.streamed, key, self.stream_gate)
        return super().stream_range(key, start, length, take)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self._note(self.read, key, self.read_gate)
        return super().get_range(key, start, length)


@pytest.fixture
def remote(tmp_path: Path) -> RemoteConfig:
    return RemoteConfig(type="fs", root=str(tmp_path / "remote"))


@pytest.fixture
def ours(tmp_path: Path, remote: RemoteConfig) -> Iterator[Replica]:
    """A machine that has pushed one table in each of several objects."""
    with Replica(tmp_path / "ours", remote) as machine:
        for number in range(OBJECTS):
            push_table(machine, number)
        yield machine


def push_table(machine: Replica, number: int) -> None:
    chance = random.Random(number)
    connection = machine.connect()
    connection.execute(f"CREATE TABLE t{number}(v)")
    with connection:
        connection.executemany(
            f"INSERT INTO t{number} VALUES(?)", ((chance.randbytes(900),) for _ in range(300))
        )
    connection.close()
    machine.engine.push("main")


@pytest.fixture
def follow(tmp_path: Path, remote: RemoteConfig, ours: Replica) -> Iterator:
    """Make a follower that hydrates in the background as soon as a test says so."""
    engines: list[Graft] = []

    def make(*, cache_max_bytes: int | None = None) -> tuple[Graft, Gated]:
        store = Gated(remote.open())
        store.read_gate.set()
        config = Config(
            data_dir=tmp_path / "theirs",
            remote=remote,
            hydrate="background",
            cache_max_bytes=cache_max_bytes,
        )
        engine = Graft(config, store=store)
        engines.append(engine)
        return engine, store

    yield make
    for engine in engines:
        engine.store.open()
        engine.close()


def cached(engine: Graft) -> tuple[int, int]:
    view = engine.open("main").snapshot.remote
    assert isinstance(view, LogView)
    return view.pages_present()


def test_a_reader_waits_for_no_background_request_and_none_begins_meanwhile(
    follow, monkeypatch
) -> None:
    engine, store = follow()
    volume = engine.open("main", create=True, remote="main")
    view = volume.snapshot.remote
    store.until(store.streamed, BACKGROUND_RANGES)
    store.read_gate.clear()
    del store.read[:]
    lets_pass = threading.Event()
    let_pass = Foreground.let_pass

    def noted(self: Foreground, is_over) -> None:
        def is_really_over() -> bool:
            lets_pass.set()  # Asked only while a read waits.
            return is_over()

        let_pass(self, is_really_over)

    monkeypatch.setattr(Foreground, "let_pass", noted)
    page = next(
        page
        for page in range(1, view.page_count + 1)
        if (found := view.table.find(page)) and found[0].body.key not in store.streamed
    )
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(volume.snapshot.stored, page)
        # It is sent although the background requests do not end.
        store.until(store.read, 1)
        store.stream_gate.set()
        assert lets_pass.wait(PATIENCE_SECONDS)
        assert len(store.streamed) == BACKGROUND_RANGES
        assert not reading.done()
        store.open()
        assert len(reading.result(PATIENCE_SECONDS)) == view.page_size
    engine.context.volumes.hydration.join()
    assert cached(engine) == (view.page_count, view.page_count)
    assert len(store.streamed) <= OBJECTS


def test_what_a_pull_brings_is_hydrated(follow, ours) -> None:
    engine, store = follow()
    store.open()
    engine.open("main", create=True, remote="main")
    engine.context.volumes.hydration.join()
    before = len(store.streamed)
    push_table(ours, OBJECTS)
    push_table(ours, OBJECTS + 1)
    engine.pull("main")
    engine.context.volumes.hydration.join()
    present, total = cached(engine)
    assert present == total == ours.engine.open("main").snapshot.page_count
    assert len(store.streamed) - before <= 2
    engine.pull("main")
    engine.context.volumes.hydration.join()
    assert len(store.streamed) - before <= 2


def test_a_volume_that_moves_meanwhile_is_hydrated_as_of_its_newest_commit(follow, ours) -> None:
    engine, store = follow()
    engine.open("main", create=True, remote="main")
    store.until(store.streamed, BACKGROUND_RANGES)
    push_table(ours, OBJECTS)
    engine.pull("main")
    store.open()
    engine.context.volumes.hydration.join()
    present, total = cached(engine)
    assert present == total
    assert len(store.streamed) <= OBJECTS + 1


def test_a_small_cache_ends_it_before_anything_is_evicted(follow) -> None:
    limit = 1_200_000
    engine, store = follow(cache_max_bytes=limit)
    store.open()
    volume = engine.open("main", create=True, remote="main")
    engine.context.volumes.hydration.join()
    present, total = cached(engine)
    size = present * volume.snapshot.page_size
    assert present < total
    assert limit // 2 < size <= limit * 3 // 4
    assert engine.logs.counters.snapshot().arenas_evicted == 0
    requests = len(store.streamed)
    assert engine.hydrate("main") == 0
    assert len(store.streamed) == requests
    assert cached(engine) == (present, total)


def test_a_database_of_half_the_limit_replaces_what_is_used_least(follow, ours) -> None:
    pages = ours.engine.open("main").snapshot.page_count
    limit = 2 * 4096 * (pages + 200)
    engine, store = follow(cache_max_bytes=limit)
    store.open()
    volume = engine.open("main", create=True, remote="main")
    # Each table is written again and again: most of the cache is soon superseded.
    for _ in range(3):
        connection = ours.connect()
        for number in range(OBJECTS):
            connection.execute(f"UPDATE t{number} SET v = randomblob(900)")
            ours.engine.push("main")
        connection.close()
        engine.pull("main")
        engine.context.volumes.hydration.join()
        present, total = cached(engine)
        assert present == total == volume.snapshot.page_count
    assert engine.logs.counters.snapshot().arenas_evicted > 0


def test_it_goes_on_with_the_first_sync_after_an_outage(follow, caplog) -> None:
    engine, store = follow()
    with caplog.at_level("WARNING"):
        volume = engine.open("main", create=True, remote="main")
        store.until(store.streamed, BACKGROUND_RANGES)
        store.failure = StoreUnavailableError("a test cut the line")
        store.stream_gate.set()
        engine.context.volumes.hydration.join()
    assert "in the background: a test cut the line" in caplog.text
    assert cached(engine)[0] < cached(engine)[1]
    store.failure = None
    engine.context.volumes.hydration.try_again(volume.id)
    engine.context.volumes.hydration.join()
    assert cached(engine)[0] == cached(engine)[1]
    before = len(store.streamed)
    engine.context.volumes.hydration.try_again(volume.id)
    engine.context.volumes.hydration.join()
    assert len(store.streamed) == before
