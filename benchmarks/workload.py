"""The work that databases are compared by; needs nothing but APSW, so that peers can run it."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterable

import apsw

Sample = dict[str, float]


def timed(work: Callable[[], object], count: int = 1) -> float:
    """Return the seconds that one of `count` operations takes; garbage is collected before."""
    gc.collect()
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) / count


def workload(connection: apsw.Connection, rows: int, transactions: int, reads: int) -> Sample:
    """Run the six kinds of work on an empty database; seconds an operation by name."""
    chance = random.Random(1)  # The same work for everybody.
    text = "x" * 200
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
    # Each value is new: SQLite writes no page for an update that changes nothing.
    updates = [(f"{number:<200}", chance.randrange(1, rows)) for number in range(transactions)]
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


def cold_queries(open_connection: Callable[[], apsw.Connection], rows: int) -> Sample:
    """Time opening with a first point query, 20 more, and a scan, on random text."""
    chance = random.Random(3)
    point = "SELECT v FROM t WHERE id = ?"
    begin = time.perf_counter()
    connection = open_connection()
    connection.execute(point, (rows // 2,)).fetchall()
    first = time.perf_counter()
    for _ in range(20):
        connection.execute(point, (chance.randrange(1, rows),)).fetchall()
    twenty = time.perf_counter()
    connection.execute("SELECT sum(length(v)) FROM t").fetchall()
    scanned = time.perf_counter()
    return {
        "open and first point query": first - begin,
        "20 random point queries": twenty - first,
        "scan of the rest": scanned - twenty,
    }
