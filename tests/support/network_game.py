"""A game of three machines on one log, each behind a proxy that draws faults from a seed.

They commit, push, pull, read, are restarted, and race. A judge without a proxy reads the log after
each step, and the game fails at once if anything that a machine was told is not true:

- what was reported as pushed is in the log, once, at the LSN that was reported;
- what was reported as lost is not there, and never comes;
- what was reported as unknown is settled rightly by the next push or pull that comes through;
- no LSN has two owners, and no machine sends two different commits for one;
- each machine shows its own model's rows at each moment, or says why it cannot;
- every error is a declared one with a next step, and none repeats a credential;
- no verb sends more requests than its bound.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import apsw

from graft_vfs.engine.graft import Graft
from graft_vfs.errors import (
    CommitOutcomeUnknownError,
    CorruptObjectError,
    DivergedError,
    GraftError,
    StoreUnavailableError,
)
from graft_vfs.sync.push import Pushed
from tests.support.network import Machine, Network, check_declared, impatient_claims
from tests.support.proxy import (
    Fault,
    Late,
    RandomFaults,
    answer_lost,
    bit_flipped,
    body_cut,
    failed,
    head_cut,
    refused,
    request_lost,
    reset_after,
    reset_before,
    sent_twice,
    slowed,
)
from tests.support.replicas import Replica, rows
from tests.sync.checks import sound_log

ANYWHERE: dict[str, Fault] = {
    "request lost": request_lost,
    "answer lost": answer_lost,
    "reset before": reset_before,
    "reset after": reset_after,
    "refused 500": refused(500, "InternalError"),
    "refused 503": refused(503, "ServiceUnavailable"),
    "refused SlowDown": refused(503, "SlowDown"),
    "failed 500": failed(500, "InternalError"),
    "failed 504": failed(504, "GatewayTimeout"),
    "body cut": body_cut,
    "head cut": head_cut,
    "slowed": slowed(0.002),
}
ON_READS = {**ANYWHERE, "bit flipped": bit_flipped}
ON_CLAIMS = {
    **ANYWHERE,
    "sent twice": sent_twice,
    "refused 409": refused(409, "ConditionalRequestConflict"),
    "refused 412": refused(412, "PreconditionFailed"),
}


def _faults(seed: str, late: Late, *, rate: float) -> RandomFaults:
    return RandomFaults(
        seed,
        {
            "claim": {**ON_CLAIMS, "late": late},
            "get": ON_READS,
            "list": ANYWHERE,  # A listing carries no checksum that could tell a flipped bit.
            "put": {**ANYWHERE, "late": late},
            "part": {**ANYWHERE, "late": late},
            "upload": ANYWHERE,
            "probe": ANYWHERE,
            "delete": ANYWHERE,
        },
        rate=rate,
    )


REQUESTS_MAX = 150
"""Of one verb: two claims of a few writes and as many reads, and a fetch of a few commits, with
each read sent at most four times."""

_EXPECTED = (CommitOutcomeUnknownError, StoreUnavailableError, CorruptObjectError, DivergedError)
CLAIM_ATTEMPTS = 2
"""Few, so that the next push or pull often has something to settle."""
_PATIENCE_SECONDS = 60
LARGE_BYTES = 1_200_000
"""More than fits into a commit object, so that it gets a segment."""


class Judge:
    """What the log really holds; sees it without a proxy."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.states: list[frozenset[str]] = [frozenset()]

    def follow(self) -> frozenset[str]:
        """Return the rows of the log now, after looking at each new LSN."""
        connection = self.replica.connect(remote="main")
        self.replica.engine.pull("main")
        newest = self.replica.engine.status("main").base_lsn
        for lsn in range(len(self.states), newest + 1):
            past = self.replica.connect(lsn=str(lsn))
            self.states.append(content(past))
            past.close()
            assert self.states[-2] < self.states[-1], f"LSN {lsn} undoes what was before"
        connection.close()
        return self.states[-1]


@contextlib.contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """Run the block in a transaction, which SQLite itself ends at some errors."""
    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def content(connection: apsw.Connection) -> frozenset[str]:
    """Return the keys of table t, and see that the counter of each machine agrees with them."""
    with transaction(connection):
        keys = [key for (key,) in rows(connection, "SELECT k FROM t")]
        counters = dict(rows(connection, "SELECT machine, value FROM counters"))
    assert Counter(key[0] for key in keys) == Counter(counters)
    return frozenset(keys)


@dataclass
class Player:
    """A machine, what it must show, and what it was told."""

    name: str
    machine: Machine
    late: Late = field(default_factory=Late)
    """Its writes that are still on their way."""
    tag: str = ""
    connection: apsw.Connection | None = None
    seen: frozenset[str] = frozenset()
    """The rows of the LSN that its volume stands on."""
    local: list[str] = field(default_factory=list)
    """The rows of its local commits, one each, in order."""
    told_pushed: set[str] = field(default_factory=set)
    told_lost: set[str] = field(default_factory=set)
    number: int = 0
    """Of its last transaction or clone."""
    tally: Counter[str] = field(default_factory=Counter)

    @property
    def engine(self) -> Graft:
        """The engine of the process that runs now."""
        return self.machine.engine


class Game:
    """One run: players on one log, a judge, and everything that must be true all the time."""

    def __init__(self, network: Network, seed: str, *, rate: float) -> None:
        self.network = network
        self.chance = random.Random(seed)
        self.owners: dict[int, str] = {}
        with network.judge() as first:
            connection = first.connect()
            connection.execute("CREATE TABLE t(k TEXT PRIMARY KEY, v)")
            connection.execute("CREATE TABLE counters(machine TEXT PRIMARY KEY, value INTEGER)")
            first.engine.push("main")
            self.log = first.engine.status("main").remote
        self.judge = Judge(network.judge())
        self.judge.states.append(frozenset())
        self.judge.replica.connect(remote="main").close()
        self.players = [Player(name, network.machine(name)) for name in "abc"]
        self.faults = []
        for player in self.players:
            faults = _faults(f"{seed} {player.name}", player.late, rate=rate)
            self.faults.append(faults)
            player.machine.proxy.choose = faults

    # What a player does

    def clone(self, player: Player) -> None:
        """Start anew on the newest commit, under a tag of its own."""
        if player.tag:
            player.number += 1
        player.tag = f"{player.name}{player.number}"
        player.local, player.seen, player.connection = [], frozenset(), None

    def connected(self, player: Player) -> apsw.Connection | None:
        """Return the connection of a player, None if it cannot be had now."""
        if player.connection is None:
            if not player.tag:
                self.clone(player)
            connect = partial(player.machine.connect, player.tag, remote=str(self.log))
            player.connection = self.attempt(player, "clone", connect)
            if player.connection is not None:
                self.moved(player)
        return player.connection

    def write(self, player: Player, *, size: int = 20) -> None:
        """Commit one transaction: a row, and the machine's counter with it."""
        connection = self.connected(player)
        if connection is None:
            return
        player.number += 1
        key = f"{player.name}{player.number}"
        value = random.Random(key).randbytes(size)

        def commit() -> bool:
            with transaction(connection):
                connection.execute("INSERT INTO t VALUES(?, ?)", (key, value))
                connection.execute(
                    "INSERT INTO counters VALUES(?, 1) ON CONFLICT DO UPDATE SET value = value + 1",
                    (player.name,),
                )
            return True

        # A write reads pages, so that the network can fail it; then it leaves nothing behind.
        if self.attempt(player, "write", commit):
            player.local.append(key)

    def read(self, player: Player) -> None:
        """Look at everything: it is what the model says."""
        connection = self.connected(player)
        if connection is not None:
            found = self.attempt(player, "read", lambda: content(connection))
            assert found in {None, player.seen | set(player.local)}

    def pull(self, player: Player) -> None:
        if self.connected(player) is not None:
            self.attempt(player, "pull", lambda: player.engine.pull(player.tag))
            self.settle(player)

    def fetch(self, player: Player) -> None:
        if self.connected(player) is not None:
            self.attempt(player, "fetch", lambda: player.engine.fetch(player.tag))

    def push(self, player: Player) -> None:
        if self.connected(player) is not None:
            push = partial(player.engine.push, player.tag)
            self.report(player, self.attempt(player, "push", push))

    def restart(self, player: Player) -> None:
        """End the process and start the next one; what it did not settle is settled later."""
        player.machine = self.network.restarted(player.machine)
        player.connection = None
        if player.tag and player.engine.catalog.tag_volume(player.tag) is not None:
            player.connection = player.machine.connect(player.tag)

    def deliver(self, player: Player) -> None:
        """Let writes arrive that the player gave up long ago."""
        player.tally["late"] += len(player.late.deliver())

    # What must be true

    def attempt(self, player: Player, verb: str, work: Callable[[], Any]) -> Any:
        """Do something that the network may fail; None if it did, in a declared way."""
        before = len(player.machine.proxy.requests)
        try:
            result = work()
        except (*_EXPECTED, apsw.IOError, apsw.CorruptError) as error:
            check_declared(error, player.machine.proxy.endpoint)
            player.tally[f"{verb}: {type(error).__name__}"] += 1
            result = None
            if isinstance(error, CommitOutcomeUnknownError):
                assert player.engine.status(player.tag).pending_push
            if isinstance(error, DivergedError):
                player.tally["diverged"] += 1
                self.settle(player)
                self.lose(player)
        else:
            player.tally[verb] += 1
        assert len(player.machine.proxy.requests) - before <= REQUESTS_MAX
        return result

    def report(self, player: Player, pushed: Pushed | None) -> None:
        """Note the LSN that a push reported, before everything else is looked at."""
        if pushed is not None and pushed.claimed:
            keys = player.local[-pushed.local_commits :]
            assert pushed.lsn not in self.owners, f"LSN {pushed.lsn} has two owners"
            self.owners[pushed.lsn] = player.name
            self.judge.follow()
            assert self.judge.states[pushed.lsn] - self.judge.states[pushed.lsn - 1] == set(keys)
        self.settle(player)

    def settle(self, player: Player) -> None:
        """Compare what a player's status says is pushed with what the log holds."""
        if player.connection is None:
            return
        status = player.engine.status(player.tag)
        pushed = player.local[: len(player.local) - status.ahead]
        player.local = player.local[len(pushed) :]
        player.told_pushed.update(pushed)
        truth = self.judge.follow()
        assert player.told_pushed <= truth
        if not status.pending_push:
            assert truth.isdisjoint(player.local)
            assert truth.isdisjoint(player.told_lost)
        self.moved(player)

    def moved(self, player: Player) -> None:
        """Take over the rows of the LSN that the player stands on."""
        self.judge.follow()
        player.seen = self.judge.states[player.engine.status(player.tag).base_lsn]

    def lose(self, player: Player) -> None:
        """Note what was told to have lost its race, and start anew."""
        status = player.engine.status(player.tag)
        assert not status.pending_push
        assert status.ahead == len(player.local) > 0
        player.told_lost.update(player.local)
        self.clone(player)

    # Phases

    def in_turns(self, steps: int) -> None:
        """One player after the other does something."""
        verbs = [self.write, self.write, self.push, self.push, self.pull, self.read]
        rare = [self.restart, self.deliver, self.fetch, partial(self.write, size=LARGE_BYTES)]
        for _ in range(steps):
            verb = self.chance.choice(verbs if self.chance.random() < 0.85 else rare)
            verb(self.chance.choice(self.players))

    def race(self) -> None:
        """All players push at the same time, each in a thread; then they compare notes."""
        racers = [player for player in self.players if self.ready(player)]
        barrier = threading.Barrier(max(1, len(racers)), timeout=_PATIENCE_SECONDS)
        outcomes: dict[str, Callable[[], Any]] = {}

        def run(player: Player) -> None:
            barrier.wait()
            outcomes[player.name] = _outcome(partial(player.engine.push, player.tag))

        threads = [threading.Thread(target=run, args=(player,)) for player in racers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for player in racers:
            self.report(player, self.attempt(player, "race", outcomes[player.name]))

    def ready(self, player: Player) -> bool:
        """Bring a player up to date if the network lets us, and give it something to push."""
        self.pull(player)
        self.write(player)
        return player.connection is not None and bool(player.local)

    def end(self) -> None:
        """The network is calm: everything is settled, and each machine goes on."""
        self.network.calm()
        for player in self.players:
            self.deliver(player)
        for player in self.players:
            for _ in range(2):  # The first push may be told that it has lost.
                self.pull(player)
                self.write(player)
                self.push(player)
            assert player.engine.status(player.tag).pending_push is False
            assert not player.local
        for player in self.players:
            self.pull(player)
            self.read(player)
        self.check_log()

    def check_log(self) -> None:
        truth = self.judge.follow()
        pushed = set().union(*(player.told_pushed for player in self.players))
        lost = set().union(*(player.told_lost for player in self.players))
        assert truth == pushed
        assert truth.isdisjoint(lost)
        rolled = sound_log(self.judge.replica.engine.store, self.log)
        assert sum(rolled) == len(truth) + 2, "each local commit is in one remote commit"
        with self.network.judge() as fresh:
            connection = fresh.connect(remote="main")
            assert content(connection) == truth
            assert connection.pragma("integrity_check") == "ok"
        for player in self.players:
            sent: dict[str, set[bytes]] = {}
            for request in player.machine.proxy.requests:
                if request.kind == "claim":
                    sent.setdefault(request.key, set()).add(request.body)
            assert all(len(bodies) == 1 for bodies in sent.values())


def _outcome(work: Callable[[], Any]) -> Callable[[], Any]:
    """Do something now; returns a function that ends as it did."""
    try:
        result = work()
    except GraftError as error:
        return partial(_raise, error)
    return lambda: result


def _raise(error: GraftError) -> None:
    raise error


def play(network: Network, seed: str, *, steps: int, races: int, rate: float) -> Counter[str]:
    """Play one game; returns what happened how often, and names the seed if anything is wrong."""
    game = Game(network, seed, rate=rate)
    try:
        with impatient_claims(CLAIM_ATTEMPTS):
            for _ in range(races):
                game.in_turns(steps)
                game.race()
            game.end()
    except BaseException as error:
        error.add_note(f"the seed of this game is {seed!r}")
        raise
    finally:
        network.calm()
        game.judge.replica.close()
    tally = sum((player.tally for player in game.players), Counter())
    return tally + sum((faults.drawn for faults in game.faults), Counter())
