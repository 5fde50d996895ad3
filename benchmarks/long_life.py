"""What a log costs that has lived long: to clone, to open, to scan, and to keep it so."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import graft_vfs
from benchmarks import lived, synthetic
from benchmarks.lifetime import Life, replayed
from benchmarks.opening import opened
from benchmarks.remote import Cost, costing, row, slow
from benchmarks.rows import Budget, PremiseError, Row, at_most, compare, skipped
from benchmarks.table import quantity
from benchmarks.workspace import DelayedStore, Options, engine
from graft_vfs import Config, Graft, RemoteConfig
from graft_vfs.store.base import StoreCounts
from graft_vfs.store.memory import MemoryObjects, MemoryStore
from graft_vfs.sync.push import push
from graft_vfs.volume.context import Opened

CAPTION = "requests and bytes are exact; bytes = received and sent; 30 ms a request"

_CLONE_REQUESTS, _CLONE_TRIPS = 36, 5
_DELAY_SECONDS = 0.030
_SCAN = "SELECT count(*), sum(n), sum(length(v)) FROM t"


def _grouped(found: Row) -> Row:
    return replace(found, group="long_life")


def _clone_row(work: str, costs: list[Cost]) -> Row:
    def judge(cost: Cost) -> Budget:
        return at_most(
            f"<= {_CLONE_REQUESTS} requests, <= {_CLONE_TRIPS} round trips",
            (cost.counts.requests, _CLONE_REQUESTS),
            (cost.round_trips, _CLONE_TRIPS),
        )

    return _grouped(row(work, costs, judge, ""))


# One database that lives long -------------------------------------------------------------------


def one_life(options: Options) -> Iterator[Row]:
    """Push small changes of one database many times, and look at it after few and after many."""
    rows = options.choose(8_000, 1_000)
    last = options.choose(10_007, 311)
    with options.scratch("life") as directory:
        remote = RemoteConfig(type="fs", root=str(directory / "remote"))
        done = 0
        for length in sorted({5, 10, options.choose(311, 47), last}):
            with engine(directory / "data", remote) as made:
                _push_until(made, rows, done, length)
            done = length
            if length == 5:
                shutil.copytree(directory / "data", directory / "young" / "data")
            else:
                costs = [_cloned(options, remote, length) for _ in range(options.pairs)]
                yield _clone_row(f"clone, log of {length} commits", costs)
        yield _opening(options, directory, last)
        yield from _scans(options, directory, remote, last)


def _push_until(made: Graft, rows: int, done: int, length: int) -> None:
    chance = random.Random(length)
    with closing(graft_vfs.connect("main")) as connection:
        connection.pragma("synchronous", "off")
        for number in range(done + 1, length + 1):
            if number == 1:
                lived.fill(connection, rows)
            else:
                key = chance.randrange(1, rows + 1)
                connection.execute("UPDATE t SET n = ? WHERE id = ?", (number, key)).fetchall()
            made.push("main")
    if made.status("main").base_lsn != length:
        raise PremiseError(f"the log has {made.status('main').base_lsn} commits, not {length}")


def _cloned(options: Options, remote: RemoteConfig, length: int) -> Cost:
    with options.scratch("clone") as directory, engine(directory, slow(remote)) as made:
        with costing(made) as cost:
            cloned = made.clone("main", "copy")
        if cloned.lsn != length:
            raise PremiseError(f"the log has {cloned.lsn} commits, not {length}")
        return cost


def _opening(options: Options, directory: Path, commits: int) -> Row:
    """Compare the CPU of fresh processes; everything is cached, because it was pushed here."""
    taken: dict[str, list[float]] = {"young": [], "": []}
    for number in range(options.pairs):
        for side in sorted(taken, reverse=bool(number % 2)):
            taken[side].append(opened("graft", directory / side, cold=False)["cpu"])
    found = compare(
        "long_life",
        f"open and first query, {commits} commits; stock = 5 commits, CPU",
        taken["young"],
        taken[""],
        budget=lambda ratio: at_most("<= 1.2 x the CPU", (1 / ratio, 1.2)),
    )
    assert found.ratio is not None
    return replace(found, note=f"{1 / found.ratio:.2f} x the CPU")


def _scans(options: Options, directory: Path, remote: RemoteConfig, commits: int) -> Iterator[Row]:
    """Scan clones before and after maintenance, and a clone of the same content pushed once."""
    before = _scanned(options, remote, "main")
    with engine(directory / "data", remote) as made:
        done = made.maintain("main")
        made.export("main", directory / "copy.sqlite")
        made.import_(directory / "copy.sqlite", "once")
        made.push("once")
    after, once = (_scanned(options, remote, tag) for tag in ("main", "once"))
    ratio = after.requests / once.requests
    yield Row(
        "long_life",
        f"cold scan after {commits} pushes and maintenance, beside one push",
        requests=after.requests,
        bytes=after.bytes_received,
        budget=at_most("<= 1.25 x requests", (ratio, 1.25)),
        note=f"{ratio:.2f} x: {once.requests} if pushed once, {before.requests} before "
        f"maintenance, which rewrote {done.pages} pages of {done.objects} objects",
    )


def _scanned(options: Options, remote: RemoteConfig, name: str) -> StoreCounts:
    with options.scratch("scan") as directory, engine(directory, remote) as made:
        made.clone(name, "copy")
        before = made.store.counters.snapshot()
        with closing(graft_vfs.connect("copy")) as connection:
            connection.execute(_SCAN).fetchall()
        time.sleep(0.2)  # What was read ahead and never asked for is paid for, too.
        return made.store.counters.snapshot() - before


# Tables -----------------------------------------------------------------------------------------


def tables(options: Options) -> Iterator[Row]:
    """Count what tables add to small pushes of several kinds, and what a clone then asks."""
    for workload, life, directory in lived.lives(options):
        remote = RemoteConfig(type="fs", root=str(directory / "remote"))
        clone = _cloned(options, remote, life.pushes + 1)
        yield Row(
            "long_life",
            f"{life.pushes} pushes: {workload.name}",
            requests=life.requests,
            bytes=life.push_bytes + life.table_bytes,
            budget=at_most(
                "<= 1.05 x requests, <= 1.5 x bytes",
                (round(life.requests_each, 2), 1.05),
                (1 + life.bytes_ratio, 1.5),
            ),
            note=f"{life.requests_each:.3f} requests and {life.push_bytes / life.pushes:.0f} bytes "
            f"each; tables {1 + life.bytes_ratio:.3f} x bytes, the largest "
            f"{quantity(life.largest_table, 'B')}; clone {clone.counts.requests} requests",
            samples={
                "requests_each": life.requests_each,
                "push_bytes": life.push_bytes / life.pushes,
                "table_bytes": life.table_bytes / life.pushes,
                "clone_requests": clone.counts.requests,
                "clone_round_trips": clone.round_trips,
            },
        )


# Synthetic logs ---------------------------------------------------------------------------------


def a_million(options: Options) -> Row:
    """Clone a log of a million commits, of which the newest exist, and the tables."""
    last, newest = 1_000_007, options.choose(10_000, 200)
    pages = options.choose(262_144, 4_096)
    with options.scratch("million") as directory:
        objects = MemoryObjects()
        synthetic.million(
            directory / "writer", MemoryStore(objects), last=last, newest=newest, pages=pages
        )
        costs = []
        remote = RemoteConfig(type="memory", root=str(directory))
        for number in range(options.pairs):
            config = Config(data_dir=directory / f"clone{number}", remote=remote)
            store = DelayedStore(MemoryStore(objects), _DELAY_SECONDS)
            with closing(Graft(config, store=store)) as made, costing(made) as cost:
                cloned = made.clone(synthetic.LOG_NAME, "copy")
            if cloned.lsn != last:
                raise PremiseError(f"the log has {cloned.lsn} commits, not {last}")
            costs.append(cost)
    found = _clone_row(f"clone, log of {last} commits, {pages} pages", costs)
    return replace(found, note=f"{found.note}; synthetic below the newest {newest} commits")


def a_terabyte(options: Options) -> Row:
    """Clone a database of 1 TiB in a fresh process, and ask it one query."""
    pages = options.choose(1 << 28, 1 << 20)
    with options.scratch("terabyte") as directory:
        size = synthetic.terabyte(directory, pages)
        command = [sys.executable, "-m", "benchmarks.synthetic", str(directory)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, int] = json.loads(done.stdout)
    requests = found["clone requests"] + found["query requests"]
    received = found["clone bytes"] + found["query bytes"]
    return Row(
        "long_life",
        f"clone and first point query, {quantity(pages * synthetic.PAGE_SIZE, 'B')}",
        graft=found["private"],
        unit="B",
        requests=requests,
        bytes=received,
        budget=at_most(
            "<= 10 requests, <= 1 MiB, <= 64 MiB of memory",
            (requests, 10),
            (received, 1 << 20),
            (found["private"], 64 << 20),
        ),
        note=f"{found['clone requests']} for the clone, {found['query requests']} for the query; "
        f"the table has {quantity(size, 'B')}",
        samples=dict(found),
    )


# Compaction -------------------------------------------------------------------------------------


def compactions(options: Options) -> Iterator[Row]:
    """Simulate the lives of a large database, and check the simulation with a real small one."""
    pages, page_bytes = options.choose(262_144, 16_384), 2_000.0
    pushes, each, every = options.choose(8_192, 1_024), pages // 4_096, options.choose(512, 64)
    for name in ("maintained", "by autosync alone"):
        chance, life = random.Random(1), Life(pages, page_bytes)
        most = 0
        for number in range(1, pushes + 1):
            life.push(sorted(chance.sample(range(1, pages + 1), each)))
            if name == "maintained":
                if number % every == 0:
                    life.compact(only_if_due=False)
            else:
                life.compact(only_if_due=True)
            most = max(most, life.objects)
        when = f"every {every}th time" if name == "maintained" else "when it is due"
        yield Row(
            "long_life",
            f"{pushes} random updates of {each} of {pages} pages, {name}",
            bytes=round(life.pages_rewritten * page_bytes),
            budget=at_most("<= 3 x the bytes pushed", (life.amplification(), 3.0)),
            note=f"{life.amplification():.2f} x the bytes pushed, "
            f"{life.pages_rewritten / pages:.2f} x the database; {life.compactions} compactions, "
            f"{when}; at most {most} objects, {life.objects} at the end; simulated",
        )
    yield _checked(options)


def _checked(options: Options) -> Row:
    """Compare real compactions with those of the simulation for the same pushes.

    All pages have one size in it, so that a large rewrite may come one compaction earlier or later.
    So the largest are compared, and all are shown.
    """
    pushes, every = options.choose(240, 60), 20
    real = []
    with options.scratch("compacted") as directory:
        remote = RemoteConfig(type="fs", root=str(directory / "remote"))
        with engine(directory / "data", remote) as made:
            _push_until(made, 2_000, 0, every)
            for length in range(every, pushes + 1, every):
                _push_until(made, 2_000, length - every if length > every else every, length)
                done = made.maintain("main")
                real.append(done.pages)
            records = made.context.logs.log(done.log).read_headers(1, pushes, previous_hash=None)
            commits = [(list(each.header.pages), each.header.frames.body_bytes) for each in records]
    total = sum(len(changed) for changed, _ in commits)
    page_bytes = sum(size for _, size in commits) / total
    told = replayed((changed for changed, _ in commits), every, page_bytes)
    deviation = max(told) / max(real)
    return Row(
        "long_life",
        f"the simulation beside {len(real)} real compactions of {pushes} pushes",
        budget=at_most("0.9 to 1.1 x the largest", (deviation, 1.1), (0.9, deviation)),
        note=f"pages simulated {told}, real {real}",
        samples={"simulated": told, "real": real},
    )


# Retention, idleness ----------------------------------------------------------------------------


def with_retention(options: Options) -> Iterator[Row]:
    """Count the requests of pushes and polls of a log with retention."""
    with options.scratch("retention") as directory:
        remote = RemoteConfig(type="fs", root=str(directory / "remote"))
        with (
            engine(directory / "data", remote) as made,
            closing(graft_vfs.connect("main")) as connection,
        ):
            connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
            push(made.context, Opened("main", made.open("main")), grace_seconds=3600)
            counts: dict[str, list[int]] = {"push": [], "poll": []}
            for _ in range(options.pairs + 1):
                connection.execute("INSERT INTO t(v) VALUES('one row')")
                for work, act in (("push", made.push), ("poll", made.fetch)):
                    before = made.store.counters.snapshot()
                    act("main")
                    counts[work].append((made.store.counters.snapshot() - before).requests)
    for work, taken in counts.items():
        # The first of each proves the store, or where the log is.
        worst = max(taken[1:])
        yield Row(
            "long_life",
            f"{work}, log with retention",
            requests=worst,
            budget=at_most("1 request", (worst, 1), (1, min(taken[1:]))),
            samples={"requests": taken[1:]},
        )


def idle(options: Options) -> Row:
    """Count what a volume asks of the remote while nothing happens and autosync is on."""
    seconds = options.choose(10, 4)
    with options.scratch("idle") as directory:
        remote = RemoteConfig(type="fs", root=str(directory / "remote"))
        config = Config(data_dir=directory / "data", remote=remote, autosync=1.0)
        made = graft_vfs.register(config)
        try:
            with closing(graft_vfs.connect("main")) as connection:
                connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
                made.push("main")
                made.fetch("main")
                before = made.store.counters.snapshot()
                time.sleep(seconds)
                spent = made.store.counters.snapshot() - before
        finally:
            graft_vfs.unregister()
    others = spent.requests - spent.get - spent.get_range
    return Row(
        "long_life",
        f"an idle volume with autosync, {seconds} intervals",
        requests=spent.requests,
        budget=at_most(
            "1 GET an interval, no PUT, no LIST",
            (spent.requests, seconds + 1),
            (1, spent.requests),
            (others, 0),
        ),
        note=f"{others} other requests than GET",
    )


def absent() -> list[Row]:
    """Say what has a budget and is not measured yet."""
    why = "there is no synthetic log with retention of that size yet"
    works = ("gc of 100 000 objects", "hydrate at 1 MB/s beside a collector")
    return [skipped("long_life", work, why) for work in works]


def run(options: Options) -> list[Row]:
    """Measure all budgets of a long life."""
    return [
        *one_life(options),
        *tables(options),
        a_million(options),
        a_terabyte(options),
        *compactions(options),
        *with_retention(options),
        idle(options),
        *absent(),
    ]
