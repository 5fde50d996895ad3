"""One process of the bank, which the test starts and may kill at any instant.

    python -m tests.bank.employee JOB

JOB is JSON; `run_<role>` of its role is what it does. Everything that is done is said at once, one
line each, by a single write call, so that a line that was heard was done and a kill cuts none. The
process works until its standard input ends, then ends by itself.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import apsw

import graft_vfs
from graft_vfs import Config, Graft, RemoteConfig
from graft_vfs.errors import BusyError
from graft_vfs.volume import rotation
from tests.bank import ledger

_BUSY_MS = 120_000
_FEW_PAGES = 5
"""As cache_size, so that what is read again is read from the volume and not from SQLite's cache."""


@dataclass(frozen=True)
class Job:
    """What a process is told: who it is, and where it works."""

    role: str
    name: str
    seed: int
    data_dir: str
    remote: dict[str, str | None]
    threads: int = 1
    pause_seconds: float = 0.0
    stopped: threading.Event = field(default_factory=threading.Event, compare=False)

    def chance(self, thread: int = 0) -> random.Random:
        """Return the thread's own source of chance."""
        return random.Random(f"{self.seed} {self.name} {thread}")


def say(*words: object) -> None:
    """Say one line; it is out of this process on return."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def opened(name: str = "main", *, busy_ms: int = _BUSY_MS) -> closing[apsw.Connection]:
    connection = graft_vfs.connect(name)
    connection.set_busy_timeout(busy_ms)
    return closing(connection)


def sync(verb: Callable[[], object]) -> bool:
    """Do a verb of the engine; False if another process was in the way, as applications see it."""
    try:
        verb()
    except BusyError:
        say("sync-busy")
        return False
    return True


# Roles ------------------------------------------------------------------------------------------


def run_teller(engine: Graft, job: Job) -> None:
    """Transfer money in several threads."""
    in_threads(job, [lambda number=number: counter(job, number) for number in range(job.threads)])


def counter(job: Job, thread: int) -> None:
    """Transfer money; `paid REF` acknowledges what SQLite called committed."""
    chance = job.chance(thread)
    # Of three threads one waits for its turn, one takes its snapshot before and is told when it is
    # stale, and one gets an error that another process writes; those two try again.
    begin = ("BEGIN IMMEDIATE", "BEGIN DEFERRED", "BEGIN IMMEDIATE")[thread % 3]
    numbers = itertools.count()
    with opened(busy_ms=1 if thread % 3 else _BUSY_MS) as connection:
        connection.pragma("synchronous", chance.choice(("off", "normal", "full")))
        connection.pragma("cache_size", chance.choice((_FEW_PAGES, 2000)))
        while not job.stopped.is_set():
            ref = f"{job.name}-{thread}-{next(numbers)}"
            while not paid(connection, chance, ref, begin):
                if job.stopped.is_set():
                    return
            say("paid", ref)
            job.stopped.wait(job.pause_seconds)


def paid(connection: apsw.Connection, chance: random.Random, ref: str, begin: str) -> bool:
    """Transfer once; False if another writer was in the way, with nothing done."""
    try:
        ledger.transfer(connection, chance, ref, begin)
    except apsw.BusyError as error:
        is_stale = error.extendedresult == apsw.SQLITE_BUSY_SNAPSHOT
        say("stale" if is_stale else "busy")
        return False
    return True


def run_courier(engine: Graft, job: Job) -> None:
    """Push what all processes of the data directory commit, and another thread of this one, too."""

    def push() -> None:
        if engine.push("main").claimed:
            say("pushed")

    def push_on() -> None:
        while not job.stopped.is_set():
            sync(push)

    in_threads(job, [push_on, lambda: counter(job, 2)])


def run_auditor(engine: Graft, job: Job) -> None:
    """Read snapshots that last while others commit, fork, and write into the fork."""
    chance = job.chance()
    with opened() as slow, opened() as quick:
        slow.pragma("cache_size", _FEW_PAGES)
        for number in itertools.count():
            slow.execute("BEGIN")
            before = ledger.audit(slow)
            while not job.stopped.is_set() and ledger.audit(quick) < before + 5:
                say("snapshot")
            assert ledger.audit(slow) == before
            slow.execute("COMMIT")
            say("long-snapshot")
            if job.stopped.is_set():
                return
            tag = f"fork-{job.name}-{number}"
            engine.fork("main", new_tag=tag)
            with opened(tag) as fork:
                found = ledger.audit(fork)
                ledger.transfer(fork, chance, f"{tag}-0", "BEGIN IMMEDIATE")
                assert ledger.audit(fork) == found + 1
            say("forked", tag)


def run_branch(engine: Graft, job: Job) -> None:
    """Follow in a data directory of its own: pull, read, hydrate, and open each LSN as it was."""
    chance = job.chance()
    audited = 0
    with opened(graft_vfs.uri("main", remote="main")) as connection:
        connection.pragma("cache_size", _FEW_PAGES)
        while not job.stopped.is_set():
            connection.execute("BEGIN")
            before = ledger.audit(connection)
            # A pull beside an open snapshot moves the volume, not the snapshot.
            if not sync(lambda: engine.pull("main")):
                continue
            assert ledger.audit(connection) == before
            connection.execute("COMMIT")
            now = ledger.audit(connection)
            assert now >= before
            say("followed")
            newest = engine.status("main").base_lsn
            for lsn in range(max(1, newest - 3, audited + 1), newest + 1):
                with opened(graft_vfs.uri("main", lsn=str(lsn))) as old:
                    assert ledger.audit(old) <= now
                say("as-it-was")
            audited = newest
            if chance.random() < 0.2 and sync(lambda: engine.hydrate("main")):
                say("hydrated")


# The process ------------------------------------------------------------------------------------


def in_threads(job: Job, works: list[Callable[[], None]]) -> None:
    """Do works side by side; an error in one stops the others and is raised."""

    def until_error(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException:
            job.stopped.set()
            raise

    with ThreadPoolExecutor(len(works)) as pool:
        futures = [pool.submit(until_error, work) for work in works]
    for future in futures:
        future.result()


@contextlib.contextmanager
def registered(job: Job) -> Iterator[Graft]:
    # So that branch files are compacted while others work, and killed.
    rotation.COMPACT_BYTES = 1 << 20
    remote = RemoteConfig(**job.remote)  # type: ignore[arg-type]
    engine = graft_vfs.register(Config(data_dir=Path(job.data_dir), remote=remote))
    try:
        yield engine
    finally:
        graft_vfs.unregister()


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))

    def listen() -> None:
        sys.stdin.read()
        job.stopped.set()

    threading.Thread(target=listen, daemon=True).start()
    # In most processes threads change places far more often than by default, and so between any two
    # steps that belong together.
    sys.setswitchinterval(job.chance(-1).choice((1e-6, 1e-5, 5e-3)))
    with registered(job) as engine:
        globals()[f"run_{job.role}"](engine, job)


if __name__ == "__main__":
    main()
