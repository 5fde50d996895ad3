"""Work with a remote that takes 30 ms a request: how many requests, bytes, round trips, seconds."""

from __future__ import annotations

import contextlib
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import graft_vfs
from benchmarks import s3_server
from benchmarks.data import random_text_database
from benchmarks.rows import Budget, PremiseError, Row, at_most, skipped
from benchmarks.workspace import DelayedRemote, DelayedStore, Options, engine
from graft_vfs import Graft, RemoteConfig
from graft_vfs.store.base import StoreCounts

CAPTION = "each request 30 ms later than the store answers; graft = time of the whole work"

DELAY_SECONDS = 0.030
KIB = 1024


@dataclass
class Cost:
    """What one run of some work asked of the remote."""

    counts: StoreCounts = field(default_factory=StoreCounts)
    round_trips: int = 0
    seconds: float = 0.0


@contextlib.contextmanager
def costing(made: Graft) -> Iterator[Cost]:
    """Fill the cost that is given with what happens inside the block."""
    store = made.store
    assert isinstance(store, DelayedStore)
    cost, counts, trips = Cost(), store.counters.snapshot(), store.round_trips()
    begin = time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - begin
    # What was read ahead and never asked for is paid for, too.
    store.wait_until_idle()
    cost.counts = store.counters.snapshot() - counts
    cost.round_trips = store.round_trips() - trips


def row(work: str, costs: list[Cost], budget: Callable[[Cost], Budget], suffix: str) -> Row:
    """Make a row of the median time and round trips, and of the largest counts, of several runs.

    Requests that could run side by side may follow one another when their threads start late, so
    that round trips vary upwards.
    """
    worst = max(costs, key=lambda cost: cost.counts.requests)
    median = statistics.median(cost.seconds for cost in costs)
    trips = statistics.median_low([cost.round_trips for cost in costs])
    judged = budget(Cost(worst.counts, trips, median))
    counts = worst.counts
    verbs = ("get", "get_range", "put", "put_if_absent", "list", "delete", "other")
    used = {verb: getattr(counts, verb) for verb in verbs if getattr(counts, verb)}
    spelled = ", ".join(f"{count} {verb}" for verb, count in used.items())
    return Row(
        "remote",
        work + suffix,
        graft=median,
        requests=counts.requests,
        bytes=counts.bytes_received + counts.bytes_sent,
        budget=judged,
        note=f"round trips: {trips} ({spelled or 'no request'})",
        samples={
            "seconds": [cost.seconds for cost in costs],
            "requests": [cost.counts.requests for cost in costs],
            "bytes": [cost.counts.bytes_received + cost.counts.bytes_sent for cost in costs],
            "round_trips": [cost.round_trips for cost in costs],
            "verbs": used,
        },
    )


def slow(remote: RemoteConfig) -> DelayedRemote:
    """Return the same remote, 30 ms farther away."""
    values = {name: getattr(remote, name) for name in RemoteConfig.__dataclass_fields__}
    return DelayedRemote(**values, delay_seconds=DELAY_SECONDS)


# Writing and polling ----------------------------------------------------------------------------


def push_and_poll(options: Options, remote: RemoteConfig, suffix: str) -> list[Row]:
    """A push of one row, and a fetch when nothing is new."""
    pushes, polls = [], []
    with (
        options.scratch("push") as directory,
        engine(directory, slow(remote)) as made,
        closing(graft_vfs.connect("pushes")) as connection,
    ):
        connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
        made.push("pushes")
        for _ in range(options.pairs):
            connection.execute("INSERT INTO t(v) VALUES('one row')")
            with costing(made) as cost:
                claimed = made.push("pushes").claimed
            if not claimed:
                raise PremiseError("there was nothing to push")
            pushes.append(cost)
            with costing(made) as cost:
                made.fetch("pushes")
            polls.append(cost)

    def one(cost: Cost) -> Budget:
        # None at all would mean that nothing was done, and must not pass as cheap.
        return Budget("1 request", "yes" if cost.counts.requests == 1 else "no")

    return [
        row("small push", pushes, one, suffix),
        row("poll with nothing new", polls, one, suffix),
    ]


def clones(options: Options, remote: RemoteConfig, suffix: str) -> list[Row]:
    """Clones of logs of several lengths, each log the longer one of the one before."""
    rows, done = [], 0
    with options.scratch("origin") as origin:
        for length in (1, 10) if options.quick else (1, 10, 60):
            with engine(origin, remote) as made, closing(graft_vfs.connect("log")) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v)")
                for number in range(done, length):
                    connection.execute("INSERT INTO t VALUES(?, 'one row')", (number,))
                    made.push("log")
            done = length
            costs = [_clone(options, remote, "log", length) for _ in range(options.pairs)]

            def judge(cost: Cost, length: int = length) -> Budget:
                limit = 4 + min(length, 64)
                text = f"<= {limit} requests, <= 5 round trips"
                return at_most(text, (cost.counts.requests, limit), (cost.round_trips, 5))

            rows.append(row(f"clone, log of {length}", costs, judge, suffix))
    return rows


def _clone(options: Options, remote: RemoteConfig, name: str, length: int) -> Cost:
    with options.scratch("clone") as directory, engine(directory, slow(remote)) as made:
        with costing(made) as cost:
            cloned = made.clone(name, "copy")
        if cloned.lsn != length:
            raise PremiseError(f"the log has {cloned.lsn} commits, not {length}")
        return cost


# Cold reads -------------------------------------------------------------------------------------


def publish(options: Options, remote: RemoteConfig, rows: int) -> None:
    """Push a database of random text as `text`."""
    with options.scratch("publish") as directory, engine(directory / "data", remote) as made:
        random_text_database(directory / "text.db", rows)
        made.import_(directory / "text.db", "text")
        made.push("text")


Reading = Callable[[Graft], Iterator[Cost]]


def point_queries(made: Graft, rows: int) -> Iterator[Cost]:
    """Yield the cost of opening and the first query, then of 20 more."""
    chance = random.Random(3)
    with costing(made) as cost:
        connection = graft_vfs.connect("copy")
        connection.execute("SELECT v FROM t WHERE id = ?", (rows // 2,)).fetchall()
    yield cost
    with costing(made) as cost:
        for _ in range(20):
            number = chance.randrange(1, rows)
            connection.execute("SELECT v FROM t WHERE id = ?", (number,)).fetchall()
    yield cost
    connection.close()


def scan(made: Graft, rows: int) -> Iterator[Cost]:
    """Yield the cost of opening and reading everything."""
    with costing(made) as cost:
        connection = graft_vfs.connect("copy")
        query = "SELECT count(*), sum(length(v)) FROM t"
        assert connection.execute(query).fetchall()[0][0] == rows
    yield cost
    connection.close()


def hydrate(made: Graft, rows: int) -> Iterator[Cost]:  # noqa: ARG001 - one shape for all three
    """Yield the cost of fetching everything."""
    with costing(made) as cost:
        made.hydrate("copy")
    yield cost


def cold_reads(options: Options, remote: RemoteConfig, suffix: str) -> list[Row]:
    """Read from fresh clones of a 10 MB database."""
    rows = options.choose(50_000, 5_000)
    publish(options, remote, rows)
    costs: dict[str, list[list[Cost]]] = {}
    for _ in range(options.pairs):
        for work in (point_queries, scan, hydrate):
            with options.scratch("cold") as directory, engine(directory, slow(remote)) as made:
                made.clone("text", "copy")
                costs.setdefault(work.__name__, []).append(list(work(made, rows)))
    first, twenty = ([pair[at] for pair in costs["point_queries"]] for at in (0, 1))

    def few_bytes(cost: Cost) -> Budget:
        received = cost.counts.bytes_received
        limits = (cost.counts.requests, 3), (received, 200 * KIB)
        return at_most("<= 3 requests, <= 200 KiB", *limits)

    def quick(cost: Cost) -> Budget:
        return at_most("<= 0.4 s", (cost.seconds, 0.4))

    size = f"{rows * 200 / 1e6:.0f} MB"
    return [
        row(f"open and first point query, {size}", first, few_bytes, suffix),
        row("20 random point queries", twenty, _no_budget, suffix),
        row(f"cold full scan, {size}", [cost for [cost] in costs["scan"]], quick, suffix),
        row(f"hydrate, {size}", [cost for [cost] in costs["hydrate"]], _no_budget, suffix),
    ]


def _no_budget(_: Cost) -> Budget:
    return Budget()


# Stores -----------------------------------------------------------------------------------------


def measure(options: Options, remote: RemoteConfig, suffix: str) -> list[Row]:
    """Do all of it on one store."""
    rows = push_and_poll(options, remote, suffix)
    rows += clones(options, remote, suffix)
    return rows + cold_reads(options, remote, suffix)


def on_directory(options: Options) -> list[Row]:
    """Measure on a directory store."""
    with options.scratch("remote") as root:
        return measure(options, RemoteConfig(type="fs", root=str(root)), ", directory")


def on_s3(options: Options) -> list[Row]:
    """Measure over HTTP, on an emulator that runs beside this process."""
    with options.scratch("s3") as home, s3_server.running(home) as server:
        if isinstance(server, str):
            return [skipped("remote", "S3", server)]
        remote = RemoteConfig(type="s3_compatible", bucket=server.bucket, endpoint=server.url)
        with server.identity():
            return measure(options, remote, ", S3")


def run(options: Options) -> list[Row]:
    """Measure on both stores; a quick run needs no server."""
    rows = on_directory(options)
    return rows if options.quick else rows + on_s3(options)
