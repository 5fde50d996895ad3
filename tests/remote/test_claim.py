"""Claiming an LSN: one test per outcome, then the protocol against a store that fails."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Sequence

import pytest

from graft_vfs.errors import (
    CommitOutcomeUnknownError,
    StoreDeniedError,
    StoreUnavailableError,
)
from graft_vfs.remote.claim import _EVENTS, Action, ClaimResult, Event, claim, next_step
from graft_vfs.remote.log import RemoteLog, commit_key
from graft_vfs.store.base import PutOutcome
from graft_vfs.store.memory import MemoryStore
from graft_vfs.testing import WrapperStore
from tests.format.commit_samples import LOG, commit

# The classifier -------------------------------------------------------------------------------


def test_created_is_won() -> None:
    assert next_step(Event.CREATED, attempts_left=0) is Action.REPORT_WON


def test_exists_is_read_back_even_without_attempts() -> None:
    assert next_step(Event.EXISTS, attempts_left=0) is Action.READ_BACK


def test_racing_is_read_back_even_without_attempts() -> None:
    assert next_step(Event.RACING, attempts_left=0) is Action.READ_BACK


def test_the_same_hash_is_won() -> None:
    assert next_step(Event.FOUND_SAME, attempts_left=0) is Action.REPORT_WON


def test_another_hash_is_lost() -> None:
    assert next_step(Event.FOUND_OTHER, attempts_left=0) is Action.REPORT_LOST


def test_no_answer_is_put_again() -> None:
    assert next_step(Event.UNKNOWN, attempts_left=1) is Action.PUT_AGAIN


def test_not_sent_after_doubt_is_put_again() -> None:
    assert next_step(Event.NOT_SENT, attempts_left=1) is Action.PUT_AGAIN


def test_an_absent_key_proves_nothing_and_is_put_again() -> None:
    assert next_step(Event.FOUND_NOTHING, attempts_left=1) is Action.PUT_AGAIN


def test_an_unreadable_key_is_read_again() -> None:
    assert next_step(Event.UNREADABLE, attempts_left=1) is Action.READ_AGAIN


def test_an_answer_without_a_proof_is_read_back_even_without_attempts() -> None:
    assert next_step(Event.UNPROVEN, attempts_left=0) is Action.READ_BACK


def test_a_refusal_after_doubt_is_read_back_even_without_attempts() -> None:
    assert next_step(Event.REFUSED, attempts_left=0) is Action.READ_BACK


def test_what_may_not_be_written_and_is_absent_stays_unknown() -> None:
    assert next_step(Event.STUCK, attempts_left=9) is Action.GIVE_UP_UNKNOWN


@pytest.mark.parametrize(
    "event", [Event.UNKNOWN, Event.NOT_SENT, Event.FOUND_NOTHING, Event.UNREADABLE]
)
def test_without_attempts_the_outcome_is_unknown(event: Event) -> None:
    assert next_step(event, attempts_left=0) is Action.GIVE_UP_UNKNOWN


def test_every_event_has_a_step() -> None:
    for event, left in itertools.product(Event, (0, 1, 9)):
        assert next_step(event, attempts_left=left) in Action


def test_every_answer_of_a_store_is_an_event() -> None:
    assert set(_EVENTS) == set(PutOutcome)


def test_won_and_lost_need_a_proof() -> None:
    steps = {event: next_step(event, attempts_left=0) for event in Event}
    won = {event for event, step in steps.items() if step is Action.REPORT_WON}
    lost = {event for event, step in steps.items() if step is Action.REPORT_LOST}
    assert won == {Event.CREATED, Event.FOUND_SAME}
    assert lost == {Event.FOUND_OTHER}


# The protocol ---------------------------------------------------------------------------------

OURS, OUR_DATA = commit(attempt=b"ours".ljust(16))
THEIRS, THEIR_DATA = commit(attempt=b"theirs".ljust(16))
KEY = commit_key(LOG, 1)

LOST_AFTER = "the write lands, its answer is lost"
LOST_BEFORE = "the write is lost with its answer"
NOT_SENT = "no connection"
DENIED = "permission refused"
RACE = "racing, nothing written"
RACE_LOST = "racing, and the other write lands"
OTHER_LANDS_FIRST = "another write lands just before"
LATE = "the write is on its way and lands before the next request"
FINE = "fine"


def no_sleep(seconds: float) -> None:
    """Wait for nothing."""


class FaultyStore(WrapperStore):
    """A store whose conditional writes and reads fail as a script says; then all is fine.

    A stateful stand-in for the network: faults happen before or after the effect.
    """

    def __init__(
        self,
        puts: Sequence[str] = (),
        reads: Sequence[str] = (),
        *,
        shared: MemoryStore | None = None,
    ) -> None:
        super().__init__(shared or MemoryStore())
        self.requests = 0
        self._puts = iter(puts)
        self._reads = iter(reads)
        self.late: list[tuple[str, bytes]] = []

    def _land_late(self) -> None:
        while self.late:
            self.inner.put_if_absent(*self.late.pop())

    def put_if_absent(self, key: str, data: bytes) -> PutOutcome:
        self._land_late()
        self.requests += 1
        fault = next(self._puts, FINE)
        if fault in (RACE_LOST, OTHER_LANDS_FIRST):
            self.inner.put_if_absent(key, THEIR_DATA)
        if fault in (RACE, RACE_LOST):
            return PutOutcome.RACING
        if fault == NOT_SENT:
            raise StoreUnavailableError("no connection")
        if fault == DENIED:
            raise StoreDeniedError("refused")
        if fault == LATE:
            self.late.append((key, data))
        if fault == LOST_AFTER:
            self.inner.put_if_absent(key, data)
        if fault in (LOST_AFTER, LOST_BEFORE, LATE):
            raise CommitOutcomeUnknownError("no answer")
        return self.inner.put_if_absent(key, data)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self._land_late()
        self.requests += 1
        fault = next(self._reads, FINE)
        if fault == NOT_SENT:
            raise StoreUnavailableError("no connection")
        data = self.inner.get_range(key, start, length)
        if fault == "flipped":
            return data[:40] + bytes([data[40] ^ 1]) + data[41:]
        if fault == "future":
            return data[:8] + b"\x09" + data[9:]
        return data

    def holds(self) -> bytes | None:
        record = RemoteLog(self.inner, LOG).read_header(1)
        return None if record is None else record.header.hash


def run(store: MemoryStore, *, in_doubt: bool = False, attempts: int = 6) -> ClaimResult:
    return claim(
        RemoteLog(store, LOG),
        1,
        OUR_DATA,
        OURS.hash,
        attempts=attempts,
        in_doubt=in_doubt,
        sleep=no_sleep,
        jitter=lambda: 0.5,
    )


def test_a_normal_push_is_one_request() -> None:
    store = MemoryStore()
    assert run(store).won
    assert store.counters.snapshot().requests == 1
    assert store.counters.snapshot().put_if_absent == 1


def test_losing_is_two_requests_and_gives_the_winner() -> None:
    store = MemoryStore()
    store.put_if_absent(KEY, THEIR_DATA)
    before = store.counters.snapshot()
    result = run(store)
    assert not result.won
    assert result.winner is not None
    assert result.winner.header.hash == THEIRS.hash
    assert (store.counters.snapshot() - before).requests == 2


def test_claiming_again_after_winning_is_won() -> None:
    store = MemoryStore()
    assert run(store).won
    assert run(store).won


@pytest.mark.parametrize(
    ("puts", "won"),
    [
        ([LOST_AFTER], True),
        ([LOST_BEFORE], True),
        ([LATE], True),
        ([LOST_BEFORE, LOST_BEFORE, LATE], True),
        ([LOST_BEFORE, OTHER_LANDS_FIRST], False),
        ([LOST_AFTER, OTHER_LANDS_FIRST], True),
        ([RACE], True),
        ([RACE, RACE, RACE], True),
        ([RACE_LOST], False),
        ([RACE, LOST_BEFORE, OTHER_LANDS_FIRST], False),
        ([LOST_AFTER, NOT_SENT], True),
        ([LOST_AFTER, DENIED, NOT_SENT], True),
        ([OTHER_LANDS_FIRST], False),
    ],
    ids=str,
)
def test_faults_do_not_change_who_wins(puts: list[str], won: bool) -> None:
    store = FaultyStore(puts)
    assert run(store).won == won
    assert store.holds() == (OURS.hash if won else THEIRS.hash)


@pytest.mark.parametrize("fault", [NOT_SENT, DENIED])
def test_a_write_that_was_certainly_not_sent_is_its_own_error(fault: str) -> None:
    store = FaultyStore([fault])
    with pytest.raises((StoreUnavailableError, StoreDeniedError)):
        run(store)
    assert store.holds() is None


@pytest.mark.parametrize("fault", [NOT_SENT, DENIED])
def test_a_write_that_was_not_sent_is_unknown_if_an_earlier_call_was(fault: str) -> None:
    with pytest.raises(CommitOutcomeUnknownError, match="LSN 1"):
        run(FaultyStore([fault] * 9), in_doubt=True)


@pytest.mark.parametrize("fault", [LOST_AFTER, LOST_BEFORE, LATE, RACE])
def test_bounded_attempts_end_unknown_and_the_next_call_resolves(fault: str) -> None:
    store = FaultyStore([fault] * 3)
    with pytest.raises(CommitOutcomeUnknownError, match="push again") as raised:
        run(store, attempts=3)
    assert store.requests <= 6
    assert (raised.value.__cause__ is None) == (fault == RACE)
    assert run(store, in_doubt=True).won


@pytest.mark.parametrize("fault", [NOT_SENT, "flipped", "future"])
def test_a_key_that_becomes_readable_decides(fault: str) -> None:
    store = FaultyStore(reads=[fault, fault])
    store.put_if_absent(KEY, THEIR_DATA)
    assert not run(store).won


@pytest.mark.parametrize("fault", [NOT_SENT, "flipped", "future"])
def test_a_key_that_stays_unreadable_is_unknown_not_lost(fault: str) -> None:
    store = FaultyStore(reads=[fault] * 9)
    store.put_if_absent(KEY, THEIR_DATA)
    with pytest.raises(CommitOutcomeUnknownError) as raised:
        run(store)
    assert str(raised.value.__cause__) in str(raised.value)


def test_a_late_write_of_a_given_up_claim_cannot_diverge() -> None:
    # The claim is given up as unknown, its write arrives later, another writer comes last.
    store = FaultyStore([LATE])
    with pytest.raises(CommitOutcomeUnknownError):
        run(store, attempts=1)
    theirs = claim(RemoteLog(store, LOG), 1, THEIR_DATA, THEIRS.hash)
    assert theirs.winner is not None
    assert theirs.winner.header.hash == OURS.hash
    assert run(store, in_doubt=True).won


def test_pauses_grow_are_jittered_and_bounded() -> None:
    pauses: list[float] = []
    with pytest.raises(CommitOutcomeUnknownError):
        claim(
            RemoteLog(FaultyStore([LOST_BEFORE] * 20), LOG),
            1,
            OUR_DATA,
            OURS.hash,
            attempts=9,
            sleep=pauses.append,
            jitter=iter([0.0, 1.0] * 9).__next__,
        )
    assert pauses == pytest.approx([0.05, 0.2, 0.2, 0.8, 0.8, 3.2, 2.5, 5.0])


def test_one_attempt_does_not_sleep() -> None:
    def sleep(seconds: float) -> None:
        raise AssertionError(seconds)

    with pytest.raises(CommitOutcomeUnknownError):
        claim(
            RemoteLog(
                FaultyStore([LOST_BEFORE]),
                LOG,
            ),
            1,
            OUR_DATA,
            OURS.hash,
            attempts=1,
            sleep=sleep,
        )


PUT_FAULTS = [
    FINE,
    LOST_AFTER,
    LOST_BEFORE,
    NOT_SENT,
    RACE,
    RACE_LOST,
    OTHER_LANDS_FIRST,
    LATE,
    DENIED,
]
READ_FAULTS = [FINE, NOT_SENT, "flipped", "future"]


def test_every_short_script_of_faults_ends_with_the_correct_outcome() -> None:
    scripts = itertools.product(PUT_FAULTS, PUT_FAULTS, PUT_FAULTS, READ_FAULTS)
    outcomes = {"won": 0, "lost": 0, "unknown": 0, "not sent": 0}
    for *puts, read in scripts:
        store = FaultyStore(puts, [read])
        try:
            result = run(store, attempts=3)
        except CommitOutcomeUnknownError:
            outcomes["unknown"] += 1
            store._puts = store._reads = iter(())
            result = run(store, in_doubt=True)
        except (StoreUnavailableError, StoreDeniedError):
            outcomes["not sent"] += 1
            assert store.late == []
            assert store.holds() != OURS.hash
            continue
        outcomes["won" if result.won else "lost"] += 1
        assert store.holds() == (OURS.hash if result.won else THEIRS.hash)
    assert all(outcomes.values()), outcomes


def in_threads(work: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_rivals_with_lost_answers_agree_on_one_winner() -> None:
    source = random.Random(3)
    for _ in range(20):
        shared = MemoryStore()
        rivals = [commit(attempt=bytes([number]) * 16) for number in range(6)]
        results: dict[bytes, ClaimResult] = {}

        def push(
            number: int, script: list[str], shared=shared, rivals=rivals, results=results
        ) -> None:
            header, data = rivals[number]
            store = FaultyStore(script, shared=shared)
            results[header.hash] = claim(
                RemoteLog(store, LOG), 1, data, header.hash, sleep=no_sleep
            )

        faults = [FINE, LOST_AFTER, LOST_BEFORE, RACE]
        scripts = [[source.choice(faults) for _ in range(3)] for _ in rivals]
        in_threads(
            [
                lambda number=number, script=script: push(number, script)
                for number, script in enumerate(scripts)
            ]
        )
        record = RemoteLog(shared, LOG).read_header(1)
        assert record is not None
        assert len(results) == len(rivals)
        for own_hash, result in results.items():
            assert result.won == (own_hash == record.header.hash)


# Settling and throttling ----------------------------------------------------------------------


def asked(store: FaultyStore) -> list[str]:
    """Let a store note what it is asked from now on."""
    seen: list[str] = []
    put, get = store.put_if_absent, store.get_range
    store.put_if_absent = lambda *what: (seen.append("put"), put(*what))[1]
    store.get_range = lambda *what: (seen.append("get"), get(*what))[1]
    return seen


@pytest.mark.parametrize(
    ("landed", "requests"), [(OUR_DATA, ["get"]), (THEIR_DATA, ["get"]), (None, ["get", "put"])]
)
def test_a_claim_in_doubt_is_settled_by_reading_and_written_only_if_absent(
    landed, requests
) -> None:
    store = FaultyStore()
    if landed is not None:
        store.inner.put_if_absent(KEY, landed)
    seen = asked(store)
    assert run(store, in_doubt=True).won is (landed is not THEIR_DATA)
    assert seen == requests


@pytest.mark.parametrize("landed", [OUR_DATA, THEIR_DATA])
def test_a_machine_whose_writes_are_denied_learns_the_outcome_of_its_claim(landed) -> None:
    store = FaultyStore([DENIED] * 9)
    store.inner.put_if_absent(KEY, landed)
    assert run(store, in_doubt=True).won is (landed is OUR_DATA)


def test_a_denied_write_of_an_absent_key_is_not_repeated_and_stays_unknown() -> None:
    store = FaultyStore([DENIED] * 9)
    seen = asked(store)
    with pytest.raises(CommitOutcomeUnknownError) as raised:
        run(store, in_doubt=True)
    assert isinstance(raised.value.__cause__, StoreDeniedError)
    assert seen == ["get", "put", "get"]


class UnprovenStore(FaultyStore):
    """Answers each create-only write without a proof; with `is_lying` it does not carry it out."""

    is_lying = False

    def put_if_absent(self, key: str, data: bytes) -> PutOutcome:
        if not self.is_lying:
            super().put_if_absent(key, data)
        error = CommitOutcomeUnknownError("a page")
        error.was_answered = True
        raise error


def test_an_answer_without_a_proof_is_settled_by_reading() -> None:
    store = UnprovenStore()
    seen = asked(store)
    assert run(store).won
    assert seen == ["put", "get"]


def test_pages_of_portals_never_win_a_claim() -> None:
    store = UnprovenStore()
    store.is_lying = True
    with pytest.raises(CommitOutcomeUnknownError):
        run(store)


class ThrottlingStore(MemoryStore):
    """Throttles so many writes, each time for so many seconds."""

    def __init__(self, count: int, seconds: float) -> None:
        super().__init__()
        self._count = count
        self._seconds = seconds

    def put_if_absent(self, key: str, data: bytes) -> PutOutcome:
        self._count -= 1
        if self._count >= 0:
            error = CommitOutcomeUnknownError("slow down")
            error.retry_after_seconds = self._seconds
            raise error
        return super().put_if_absent(key, data)


def waited(store: MemoryStore) -> tuple[list[float], bool]:
    """Claim; returns the pauses, and whether the claim was won."""
    pauses: list[float] = []
    log = RemoteLog(store, LOG)
    try:
        won = claim(log, 1, OUR_DATA, OURS.hash, sleep=pauses.append, jitter=lambda: 0.5).won
    except CommitOutcomeUnknownError:
        won = False
    return pauses, won


def test_a_throttled_claim_waits_as_long_as_requested() -> None:
    assert waited(ThrottlingStore(3, 15.0)) == ([15.0, 15.0, 15.0], True)


def test_a_claim_waits_for_a_store_that_throttles_about_a_minute_in_all() -> None:
    pauses, won = waited(ThrottlingStore(99, 0.0))
    assert not won
    assert 40 < sum(pauses) <= 60
    assert waited(ThrottlingStore(99, 3600.0)) == ([], False)
