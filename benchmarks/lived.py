"""Logs with a long life, made by real pushes: workloads, and what tables add to them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import apsw

import graft_vfs
from benchmarks.rows import PremiseError
from benchmarks.workspace import Options, engine
from graft_vfs import Graft, RemoteConfig

Change = Callable[[apsw.Connection, random.Random, int], None]


@dataclass(frozen=True, slots=True)
class Workload:
    """A database with so many rows of 1000 bytes, and what each push changes in it."""

    name: str
    rows: int
    change: Change


@dataclass(frozen=True, slots=True)
class Lived:
    """What the pushes of a workload wrote: requests and bytes of all, and those for tables.

    `life` leaves out the first push, which brings the database.
    """

    pushes: int
    requests: int
    push_bytes: int
    table_bytes: int
    largest_table: int

    @property
    def requests_each(self) -> float:
        """Requests of a push, on average."""
        return self.requests / self.pushes

    @property
    def bytes_ratio(self) -> float:
        """Bytes for tables, relative to those for pushes."""
        return self.table_bytes / self.push_bytes


def _update(connection: apsw.Connection, key: int, number: int) -> None:
    connection.execute("UPDATE t SET n = ? WHERE id = ?", (number, key)).fetchall()


def _random(rows: int) -> Change:
    return lambda connection, chance, number: _update(
        connection, chance.randrange(1, rows + 1), number
    )


def _skewed(rows: int) -> Change:
    def change(connection: apsw.Connection, chance: random.Random, number: int) -> None:
        _update(connection, min(rows, int(chance.paretovariate(0.5))), number)

    return change


def _inserts(connection: apsw.Connection, chance: random.Random, number: int) -> None:
    values = (number, chance.randbytes(100).hex())
    connection.execute("INSERT INTO t(n, v) VALUES(?, ?)", values).fetchall()


def _fifty(rows: int) -> Change:
    def change(connection: apsw.Connection, chance: random.Random, number: int) -> None:
        with connection:
            for key in chance.sample(range(1, rows + 1), 50):
                _update(connection, key, number)

    return change


def workloads(large_rows: int) -> Iterator[Workload]:
    """Yield the workloads of decision 20; `large_rows` is the size of the large database."""
    yield Workload("one of 60 pages", 180, _random(180))
    yield Workload("an insert", 0, _inserts)
    yield Workload("a random row of a large import", large_rows, _random(large_rows))
    yield Workload("a row of it, some far more often", large_rows, _skewed(large_rows))
    medium = min(large_rows, 26_000)
    yield Workload("50 random rows of 27 MB", medium, _fifty(medium))


def fill(connection: apsw.Connection, rows: int) -> None:
    """Make the table of a workload."""
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n INT, v TEXT)")
    connection.execute(
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < ?) "
        "INSERT INTO t SELECT i, 0, hex(randomblob(500)) FROM c WHERE ? > 0",
        (rows, rows),
    ).fetchall()


def live(made: Graft, workload: Workload, pushes: int, tag: str = "main") -> Lived:
    """Push a database, then so many changes of it."""
    chance = random.Random(7)
    with closing(graft_vfs.connect(tag)) as connection:
        connection.pragma("synchronous", "off")
        fill(connection, workload.rows)
        made.push(tag)
        log_id = made.status(tag).remote
        before = made.store.counters.snapshot()
        first = _sizes(made, log_id, "commits")
        for number in range(1, pushes + 1):
            workload.change(connection, chance, number)
            if not made.push(tag).claimed:
                raise PremiseError(f"push {number} of {workload.name} had nothing to send")
        spent = made.store.counters.snapshot() - before
    tables = _sizes(made, log_id, "tables")
    return Lived(
        pushes,
        spent.requests,
        sum(_sizes(made, log_id, "commits")) - sum(first),
        sum(tables),
        max(tables, default=0),
    )


def _sizes(made: Graft, log_id: object, kind: str) -> list[int]:
    return [info.bytes for info in made.store.list(f"logs/{log_id}/{kind}/")]


def lives(options: Options) -> Iterator[tuple[Workload, Lived, Path]]:
    """Yield each workload, what its pushes wrote, and the directory with its remote."""
    pushes = options.choose(300, 120)
    rows = options.choose(128 << 10, 2_000, 1 << 20)
    for workload in workloads(rows):
        with options.scratch("lived") as directory:
            remote = RemoteConfig(type="fs", root=str(directory / "remote"))
            with engine(directory / "origin", remote) as made:
                lived = live(made, workload, pushes)
            yield workload, lived, directory
