"""Local work on a volume against stock SQLite in WAL mode, in alternating pairs."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import apsw

import graft_vfs
from benchmarks.rows import Budget, Row, compare, ratio_budget
from benchmarks.workspace import Options, engine

CAPTION = "stock = SQLite WAL at the same synchronous; per operation (a row, a transaction, a read)"

Sample = dict[str, float]


def stock_connection(path: Path, synchronous: str) -> apsw.Connection:
    """Open a plain database in WAL mode."""
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", synchronous)
    return connection


def graft_connection(tag: str, synchronous: str) -> apsw.Connection:
    """Open a tag as a user would."""
    connection = graft_vfs.connect(tag)
    connection.pragma("synchronous", synchronous)
    return connection


def timed(work: Callable[[], object], count: int = 1) -> float:
    """Return the seconds that one of `count` operations takes; garbage is collected before."""
    gc.collect()
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) / count


def alternate(
    pairs: int, stock: Callable[[int], Sample], graft: Callable[[int], Sample]
) -> tuple[list[Sample], list[Sample]]:
    """Run both sides `pairs` times, each going first as often as the other."""
    samples: tuple[list[Sample], list[Sample]] = ([], [])
    for number in range(pairs):
        order = [(stock, samples[0]), (graft, samples[1])]
        for side, taken in order if number % 2 == 0 else reversed(order):
            taken.append(side(number))
    return samples


def workload(connection: apsw.Connection, rows: int, transactions: int, reads: int) -> Sample:
    """Run the six kinds of work on an empty database; seconds an operation by name."""
    chance = random.Random(1)  # The same work for everybody.
    text, other = "x" * 200, "y" * 200
    execute = connection.execute
    execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT, k INT)")

    def bulk() -> None:
        with connection:
            connection.executemany(
                "INSERT INTO t VALUES(?, ?, ?)",
                ((number, text, number * 7919 % rows) for number in range(1, rows + 1)),
            )

    def each(statement: str, bindings: Iterable[tuple[object, ...]]) -> Callable[[], None]:
        listed = list(bindings)

        def run() -> None:
            for values in listed:
                execute(statement, values).fetchall()

        return run

    inserts = [(rows + number, text, number) for number in range(1, transactions + 1)]
    updates = [(other, chance.randrange(1, rows)) for _ in range(transactions)]
    points = [(chance.randrange(1, rows),) for _ in range(reads)]
    insert = each("INSERT INTO t VALUES(?, ?, ?)", inserts)
    update = each("UPDATE t SET v = ? WHERE id = ?", updates)
    point = each("SELECT v FROM t WHERE id = ?", points)
    taken = {f"bulk insert of {rows} rows": timed(bulk, rows)}
    taken["1-row transactions"] = timed(insert, transactions)
    taken["random update transactions"] = timed(update, transactions)
    taken["CREATE INDEX"] = timed(lambda: execute("CREATE INDEX i ON t(k)").fetchall())
    connection.pragma("cache_size", 200)
    taken["random point reads, 200 pages"] = timed(point, reads)
    scan = "SELECT sum(length(v)) FROM t"
    taken["full scan"] = timed(lambda: execute(scan).fetchall(), rows)
    return taken


def measure(options: Options, synchronous: str, transactions: int) -> list[Row]:
    """Measure one level of `synchronous`, each pair on fresh databases."""
    rows, reads = options.choose(50_000, 4_000), options.choose(20_000, 1_000)
    with options.scratch("local") as directory, engine(directory / "data"):

        def stock(number: int) -> Sample:
            with closing(stock_connection(directory / f"{number}.db", synchronous)) as connection:
                return workload(connection, rows, transactions, reads)

        def graft(number: int) -> Sample:
            with closing(graft_connection(f"main{number}", synchronous)) as connection:
                return workload(connection, rows, transactions, reads)

        theirs, ours = alternate(options.pairs, stock, graft)
    return rows_of("local", f", {synchronous.upper()}", theirs, ours)


def run(options: Options) -> list[Row]:
    """Measure NORMAL and FULL."""
    normal = measure(options, "normal", options.choose(3_000, 50))
    return normal + measure(options, "full", options.choose(400, 50))


def rows_of(
    group: str,
    suffix: str,
    stock: list[Sample],
    graft: list[Sample],
    *,
    budget: Callable[[float], Budget] | None = ratio_budget,
) -> list[Row]:
    """Make a row for each kind of work that the samples name."""
    return [
        compare(
            group,
            work + suffix,
            [sample[work] for sample in stock],
            [sample[work] for sample in graft],
            budget=budget,
        )
        for work in stock[0]
    ]
