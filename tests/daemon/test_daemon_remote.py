"""Whether a remote answers: who may ask, when, and what the log has of it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from graft_vfs.daemon.events import EventLog
from graft_vfs.daemon.remote import RemoteState, RemoteStates, Unreachable
from graft_vfs.errors import (
    BusyError,
    DivergedError,
    GraftError,
    StoreDeniedError,
    StoreUnavailableError,
)
from graft_vfs.store.memory import MemoryStore
from tests.support.clocks import ManualClock

INTERVAL = 5.0
NO_ANSWER = StoreUnavailableError("no answer", next_step="wait")


class Watched:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.events: list[dict] = []
        self.log = EventLog(
            lambda line: self.events.append(json.loads(line)), as_json=True, clock=self.clock
        )
        self.states = RemoteStates(INTERVAL, self.log, self.clock)

    def told(self) -> list[str]:
        return [event["event"] for event in self.events]


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def remote(watched) -> RemoteState:
    return RemoteState("s3://bucket", INTERVAL, watched.log, watched.clock)


def ask(remote: RemoteState, error: GraftError | None = None) -> Callable[[], None] | None:
    """Ask a remote, which answers with an error or well."""
    with remote.asked():
        if error is not None:
            raise error


def test_an_outage_is_told_once_with_its_end(watched, remote):
    for _ in range(3):
        with pytest.raises(Unreachable) as failed:
            ask(remote, NO_ANSWER)
        assert failed.value.reason is NO_ANSWER
        watched.clock.move(1000)
    ask(remote)
    assert watched.told() == ["unreachable", "reachable"]
    assert watched.events[0]["hint"] == "wait"
    assert watched.events[1]["seconds"] == 3000


def test_until_the_pause_is_over_nothing_is_asked(watched, remote):
    with pytest.raises(Unreachable):
        ask(remote, NO_ANSWER)
    for failures in range(1, 5):
        pause = INTERVAL * 2**failures
        watched.clock.move(pause - 1)
        with pytest.raises(Unreachable), remote.asked():
            pytest.fail("it is too early")
        watched.clock.move(2)
        with pytest.raises(Unreachable):
            ask(remote, NO_ANSWER)
    remote.ask_now()
    ask(remote)
    assert remote.error is None


def test_one_sync_at_a_time_asks_whether_it_answers_again(watched, remote):
    with pytest.raises(Unreachable):
        ask(remote, NO_ANSWER)
    watched.clock.move(1000)
    with remote.asked(), pytest.raises(Unreachable), remote.asked():
        pytest.fail("another sync is asking")
    ask(remote)


@pytest.mark.parametrize("error", [DivergedError("no"), StoreDeniedError("no")])
def test_an_answer_that_refuses_is_an_answer(watched, remote, error):
    with pytest.raises(Unreachable):
        ask(remote, NO_ANSWER)
    watched.clock.move(1000)
    with pytest.raises(type(error)):
        ask(remote, error)
    assert watched.told() == ["unreachable", "reachable"]


def test_a_sync_that_was_only_busy_proves_nothing(watched, remote):
    with pytest.raises(Unreachable):
        ask(remote, NO_ANSWER)
    watched.clock.move(1000)
    with pytest.raises(BusyError):
        ask(remote, BusyError("another push"))
    assert remote.error is NO_ANSWER
    ask(remote)  # The next one may ask.
    assert watched.told() == ["unreachable", "reachable"]


def test_what_was_under_way_before_the_failure_ends_no_outage(watched, remote):
    with remote.asked(), pytest.raises(Unreachable):
        ask(remote, NO_ANSWER)
    assert remote.error is NO_ANSWER
    assert watched.told() == ["unreachable"]


def test_the_volumes_of_another_remote_go_on(watched, tmp_path):
    first, second = MemoryStore(), MemoryStore()
    first.describe = lambda: "memory://first"
    second.describe = lambda: "memory://second"
    with pytest.raises(Unreachable):
        ask(watched.states.of(first), NO_ANSWER)
    ask(watched.states.of(second))
    assert watched.states.reachable() == {"memory://first": False, "memory://second": True}
    watched.states.ask_now()
    ask(watched.states.of(first))
