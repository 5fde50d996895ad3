"""Whether work stays as cheap as it was when a branch or a log has become long."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import apsw

import graft_vfs
from benchmarks.local import alternate, graft_connection, rows_of
from benchmarks.remote import costing, slow
from benchmarks.rows import Row, as_before, at_most
from benchmarks.workload import Sample, timed
from benchmarks.workspace import Options, engine
from graft_vfs import Graft, RemoteConfig

CAPTION = "stock = graft itself with the short history, graft = with the long one"

_ROWS = 20_000


def filled(connection: apsw.Connection) -> apsw.Connection:
    """Make the table that commits change."""
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
    with connection:
        connection.executemany(
            "INSERT INTO t VALUES(?, ?)", ((number, "x" * 200) for number in range(_ROWS))
        )
    return connection


def commit_often(connection: apsw.Connection, count: int) -> None:
    """Make small commits all over the table."""
    chance = random.Random(count)
    for _ in range(count):
        connection.execute("UPDATE t SET v = ? WHERE id = ?", ("y" * 200, chance.randrange(_ROWS)))


def sampled(connection: apsw.Connection, commits: int, reads: int) -> Sample:
    """Time commits and reads; a small cache makes reads reach the volume."""
    connection.pragma("cache_size", 200)
    numbers = random.Random(5).choices(range(_ROWS), k=reads)

    def read() -> None:
        for number in numbers:
            connection.execute("SELECT v FROM t WHERE id = ?", (number,)).fetchall()

    taken = {"point read": timed(read, reads)}
    return taken | {"1-row commit": timed(lambda: commit_often(connection, commits), commits)}


def on_branches(options: Options) -> list[Row]:
    """Compare local branches of few and of many commits, fresh ones for each pair."""
    few, many = 100, options.choose(20_000, 500)

    with options.scratch("constancy") as directory, engine(directory):

        def branch(length: int, number: int) -> Sample:
            with closing(graft_connection(f"of {length}, {number}", "normal")) as connection:
                commit_often(filled(connection), length)
                return sampled(connection, 50, options.choose(5_000, 500))

        short, long = alternate(
            options.pairs, lambda number: branch(few, number), lambda number: branch(many, number)
        )
    suffix = f", branch of {few} against {many} commits"
    return rows_of("constancy", suffix, short, long, budget=as_before)


def publish(made: Graft, tag: str, commits: int) -> None:
    """Make a remote log of so many commits."""
    with closing(graft_connection(tag, "normal")) as connection:
        filled(connection)
        made.push(tag)
        for number in range(commits - 1):
            commit_often(connection, 1 + number % 3)
            made.push(tag)


def on_logs(options: Options) -> list[Row]:
    """Compare hydrated clones of short and of long remote logs, and count their requests."""
    few, many = 20, options.choose(300, 30)
    with options.scratch("logs") as directory:
        remote = RemoteConfig(type="fs", root=str(directory / "remote"))
        with engine(directory / "origin", remote) as made:
            for length in (few, many):
                publish(made, f"log{length}", length)
        rows = times_on_logs(options, directory, remote, few, many)
        return rows + counts_on_logs(directory, remote, few, many)


def times_on_logs(
    options: Options, directory: Path, remote: RemoteConfig, few: int, many: int
) -> list[Row]:
    """Time commits and reads on hydrated clones."""
    with engine(directory / "clones", remote) as made:
        for length in (few, many):
            made.clone(f"log{length}", f"copy{length}")
            made.hydrate(f"copy{length}")

        def clone(length: int) -> Sample:
            with closing(graft_connection(f"copy{length}", "normal")) as connection:
                return sampled(connection, 50, options.choose(5_000, 500))

        short, long = alternate(options.pairs, lambda _: clone(few), lambda _: clone(many))
    suffix = f", log of {few} against {many} commits"
    return rows_of("constancy", suffix, short, long, budget=as_before)


def counts_on_logs(directory: Path, remote: RemoteConfig, few: int, many: int) -> list[Row]:
    """Count what a cold query, a poll and a push ask of each log: the same, if all is well."""
    counts: dict[int, list[int]] = {}
    for length in (few, many):
        with engine(directory / f"counts{length}", slow(remote)) as made:
            made.clone(f"log{length}", "copy")
            with closing(graft_vfs.connect("copy")) as connection:
                with costing(made) as query:
                    connection.execute("SELECT v FROM t WHERE id = 777").fetchall()
                with costing(made) as poll:
                    made.fetch("copy")
                # The first push of a data directory also proves the store; reads are made before.
                for _ in range(2):
                    commit_often(connection, 1)
                    made.push("copy")
                commit_often(connection, 1)
                with costing(made) as push:
                    made.push("copy")
            counts[length] = [cost.counts.requests for cost in (query, poll, push)]
    rows = []
    works = ("open and cold point query", "poll with nothing new", "small push")
    for work, few_count, many_count in zip(works, counts[few], counts[many], strict=True):
        judged = at_most(f"{few_count} requests, as with {few} commits", (many_count, few_count))
        name = f"{work}, log of {many} commits"
        samples = {"stock": [few_count], "graft": [many_count]}
        rows.append(Row("constancy", name, requests=many_count, budget=judged, samples=samples))
    return rows


def run(options: Options) -> list[Row]:
    """Measure branches, then logs."""
    return on_branches(options) + on_logs(options)
