"""Verbs that read for long from a log with retention pin what they read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from graft_vfs.errors import StoreDeniedError
from graft_vfs.remote.pins import PIN_SECONDS
from tests.support.faults import FaultyStore
from tests.support.replicas import Replica, rows
from tests.support.retention import World, insert


@pytest.fixture
def world(tmp_path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def cloned(world: World, wrap=FaultyStore) -> Replica:
    ours = world.machine("ours")
    world.switch_on(ours)
    insert(ours, 1, 2)
    reader = world.machine("reader", wrap)
    reader.engine.clone("main", "main")
    return reader


def pins(world: World) -> list[str]:
    return [*world.store.keys(f"logs/{world.log}/pins/")]


@pytest.mark.parametrize("verb", ["hydrate", "export"])
def test_a_pin_is_there_while_a_verb_reads_and_no_longer(world, tmp_path, verb) -> None:
    reader = cloned(world)
    seen: list[int] = []
    reader.engine.store.before_read = lambda key: (
        seen.append(len(pins(world))) if "/commits/" in key else None
    )
    if verb == "hydrate":
        assert reader.engine.hydrate("main") > 0
    else:
        reader.engine.export("main", tmp_path / "out.db")
    assert seen
    assert set(seen) == {1}
    assert pins(world) == []


def test_what_is_cached_is_exported_without_a_request(world, tmp_path) -> None:
    reader = cloned(world)
    reader.engine.hydrate("main")
    before = reader.counts()
    reader.engine.export("main", tmp_path / "out.db")
    assert (reader.counts() - before).requests == 0


def test_a_pin_is_renewed_as_the_verb_makes_progress(world, monkeypatch) -> None:
    reader = cloned(world)
    clock = iter(range(0, 10**9, PIN_SECONDS))
    monkeypatch.setattr("graft_vfs.sync.pinning.uptime_seconds", lambda: next(clock))
    reader.engine.hydrate("main")
    written = [key for key in reader.engine.store.effects if "/pins/" in key]
    assert len(written) > 1
    assert len(set(written)) == 1


class Denied(FaultyStore):
    """A store that may only be read."""

    def request(self, verb, key, send):
        if verb in {"put", "put_if_absent", "delete"}:
            raise StoreDeniedError("no s3:PutObject", next_step="ask for it")
        return super().request(verb, key, send)


def test_a_reader_that_may_not_write_reads_without_a_pin(world) -> None:
    reader = cloned(world, Denied)
    assert reader.engine.hydrate("main") > 0
    assert rows(reader.connect())[-1] == (2,)


def test_a_log_without_retention_has_no_pins(world) -> None:
    ours = world.machine("ours")
    ours.connect().execute("CREATE TABLE t(k); INSERT INTO t VALUES(0)")
    ours.engine.push("main")
    reader = world.machine("reader")
    reader.engine.clone("main", "main")
    reader.engine.hydrate("main")
    assert reader.engine.store.effects == []
