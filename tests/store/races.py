"""Races between processes: what one racing process does, and who starts and judges them."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable

from graft_vfs.store import ObjectStore, PutOutcome
from graft_vfs.testing.store_contract import PATIENCE_SECONDS, race_for_a_key

PROCESSES = 4
THREADS = 4
ANSWER_SECONDS = 60
"""How long a racer waits for its answer.

SeaweedFS, when it is slow, lets one of those that wait for a key through each second: the last of
16 has its answer after 15 s, which is as long as a store waits by default.
"""


def _racer(open_store: Callable[[], ObjectStore], rounds: int, barrier, results, process: int):
    """Race with `THREADS` threads in each round; report (round, racer, outcome)."""
    with open_store() as store:

        def race(thread: int) -> None:
            racer = process * THREADS + thread
            for number in range(rounds):
                barrier.wait()
                results.put((number, racer, race_for_a_key(store, number, racer)))

        threads = [threading.Thread(target=race, args=(thread,)) for thread in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _winners(open_store: Callable[[], ObjectStore], rounds: int) -> list[list[int]]:
    """Race processes against each other; returns the winners of each round."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES * THREADS, timeout=PATIENCE_SECONDS)
    results = context.Queue()
    racers = [
        context.Process(target=_racer, args=(open_store, rounds, barrier, results, number))
        for number in range(PROCESSES)
    ]
    for racer in racers:
        racer.start()
    winners: list[list[int]] = [[] for _ in range(rounds)]
    try:
        for _ in range(PROCESSES * THREADS * rounds):
            number, racer_number, outcome = results.get(timeout=PATIENCE_SECONDS)
            assert outcome in PutOutcome.__members__, f"round {number}: {outcome}"
            if outcome == PutOutcome.CREATED.name:
                winners[number].append(racer_number)
    finally:
        for racer in racers:
            racer.join(PATIENCE_SECONDS)
            racer.close()
        results.close()
        results.join_thread()
    return winners


def check_process_race(open_store: Callable[[], ObjectStore], *, rounds: int = 10) -> None:
    """Fail unless exactly one racer wins each round, and the object is the winner's.

    `open_store` is called in each process and must be picklable.
    """
    winners = _winners(open_store, rounds)
    with open_store() as store:
        for number, of_round in enumerate(winners):
            assert len(of_round) == 1, f"round {number} has the winners {of_round}"
            assert store.get(f"race/{number}") == b"%d" % of_round[0]
