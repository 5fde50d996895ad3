"""Whether work stays as cheap as it was when a branch or a log has become long."""

from __future__ import annotations

import itertools
import random
import shutil
from contextlib import closing
from pathlib import Path

import apsw

import graft_vfs
from benchmarks.local import alternate, graft_connection, rows_of
from benchmarks.remote import costing, slow
from benchmarks.rows import PremiseError, Row, as_before, at_most
from benchmarks.workload import Sample, timed
from benchmarks.workspace import Options, engine
from graft_vfs import Graft, RemoteConfig

CAPTION = "stock = graft itself with the short history, graft = with the long one"

_ROWS = 20_000
_QUERIED = (777, 5_000, 11_111, 19_000)
_serial = itertools.count()


def filled(connection: apsw.Connection) -> apsw.Connection:
    """Make the table that commits change."""
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
    with connection:
        connection.executemany(
            "INSERT INTO t VALUES(?, ?)", ((number, "x" * 200) for number in range(_ROWS))
        )
    return connection


def commit_often(connection: apsw.Connection, count: int, seed: int = 0) -> None:
    """Make small commits all over the table, each of which changes something.

    SQLite writes no page that stays as it is, and a transaction without pages makes no LSN, so that
    every value is one that was never there.
    """
    chance = random.Random(seed)
    for _ in range(count):
        value = f"{next(_serial):<200}"
        row = chance.randrange(_ROWS)
        connection.execute("UPDATE t SET v = ? WHERE id = ?", (value, row)).fetchall()


def require(found: int, wanted: int, what: str) -> None:
    """Stop if a history is not as long as the row would claim."""
    if found != wanted:
        raise PremiseError(f"{what}: {wanted} were wanted, {found} are there")


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

    with options.scratch("constancy") as directory, engine(directory) as made:

        def branch(length: int, number: int) -> Sample:
            tag = f"of {length}, {number}"
            with closing(graft_connection(tag, "normal")) as connection:
                filled(connection)
                before = made.status(tag).local_lsn
                commit_often(connection, length)
                require(made.status(tag).local_lsn - before, length, "commits of the branch")
                taken = sampled(connection, 50, options.choose(5_000, 500))
                require(made.status(tag).local_lsn - before, length + 50, "timed commits")
                return taken

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
            commit_often(connection, 1 + number % 3, seed=number)
            made.push(tag)
    require(made.status(tag).base_lsn, commits, "commits of the remote log")


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
    """Count what cold queries, a poll and a push ask of each log.

    A query needs three pages (the first, an interior one, a leaf), each in another commit at worst,
    so that it may cost more in a long log than in a short one, but never more than three requests.
    """
    counts = {length: counted(directory, remote, length) for length in (few, many)}
    rows = []
    works = (("open and cold point query, the worst", 3), ("poll with nothing new", 1))
    for at, (work, limit) in enumerate((*works, ("small push", 1))):
        short, long = counts[few][at], counts[many][at]
        # No request at all would mean that nothing was done.
        budget = at_most(f"1 to {limit} requests", (max(long), limit), (1, min(long)))
        note = f"each: {long}, with {few} commits: {short}"
        samples = {"stock": short, "graft": long}
        name = f"{work}, log of {many} commits"
        rows.append(
            Row("constancy", name, requests=max(long), budget=budget, note=note, samples=samples)
        )
    return rows


def counted(directory: Path, remote: RemoteConfig, length: int) -> list[list[int]]:
    """Return the requests of cold queries, of polls and of pushes on a log of this length."""
    home = directory / f"counts{length}"
    with engine(home, remote) as made:
        made.clone(f"log{length}", "copy")
    queries = []
    for row in _QUERIED:
        # A copy of the data directory is a clone that has not been read from.
        cold = directory / f"cold{length}-{row}"
        shutil.copytree(home, cold)
        with (
            engine(cold, slow(remote)) as made,
            costing(made) as query,
            closing(graft_vfs.connect("copy")) as connection,
        ):
            connection.execute("SELECT v FROM t WHERE id = ?", (row,)).fetchall()
        queries.append(query.counts.requests)
    with engine(home, slow(remote)) as made, closing(graft_vfs.connect("copy")) as connection:
        made.fetch("copy")  # The first sync of a process also proves where the log is.
        with costing(made) as poll:
            made.fetch("copy")
        # The first push of a data directory also proves the store; reads are made before.
        for _ in range(2):
            commit_often(connection, 1)
            made.push("copy")
        commit_often(connection, 1)
        with costing(made) as push:
            require(int(made.push("copy").claimed), 1, "pushes")
    return [queries, [poll.counts.requests], [push.counts.requests]]


def run(options: Options) -> list[Row]:
    """Measure branches, then logs."""
    return on_branches(options) + on_logs(options)
