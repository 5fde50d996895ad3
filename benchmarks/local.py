"""Local work on a volume against stock SQLite in WAL mode, in alternating pairs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw

import graft_vfs
from benchmarks.rows import Budget, Row, compare, ratio_budget
from benchmarks.workload import Sample, workload
from benchmarks.workspace import Options, engine

CAPTION = "stock = SQLite WAL at the same synchronous; per operation (a row, a transaction, a read)"


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
