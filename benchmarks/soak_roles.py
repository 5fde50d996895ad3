"""What the processes of a soak do: the same work again and again, until their standard input ends.

    python -m benchmarks.soak_roles ROLE DATA_DIR REMOTE SETTINGS

REMOTE and SETTINGS are JSON. Prints `ready` when the database is open, and at the end what was done
as JSON. The live data never grows: rows are updated and replaced, and the sum over column `n` stays
what it was, which every reader checks in each of its snapshots.
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import apsw

import graft_vfs
from benchmarks.workspace import engine
from graft_vfs import Config, Graft, RemoteConfig

ROWS = 2000
_BALANCE = 100
_PAUSE_SECONDS = 0.2
"""Between two pushes or pulls: a soak is about what is left behind by many, not about their speed.
It ends at once when the soak does."""
_READ_PAUSE_SECONDS = 0.02
_BUSY_MS = 60_000
_VISITED_COMMITS = 20
_BODY_BYTES_MAX = 9000


class Soaked:
    """Until when to work, and what was done. Thread rule: any thread."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, name: str) -> None:
        """Count one piece of work."""
        with self._lock:
            self._counts[name] += 1

    def counts(self) -> dict[str, int]:
        """Return what was counted."""
        with self._lock:
            return dict(self._counts)

    def run(self, *works: Callable[[], object]) -> None:
        """Do works side by side until all have ended; an error in one of them stops all."""

        def until_error(work: Callable[[], object]) -> None:
            try:
                work()
            except BaseException:
                self.stopped.set()
                raise

        with ThreadPoolExecutor(len(works)) as pool:
            futures = [pool.submit(until_error, work) for work in works]
        for future in futures:
            future.result()


# The database -----------------------------------------------------------------------------------


def fill(connection: apsw.Connection) -> None:
    """Make the table, with small rows and rows of several pages."""
    connection.execute("CREATE TABLE item(id INTEGER PRIMARY KEY, n INT, body BLOB)")
    connection.execute(
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < ?1) "
        "INSERT INTO item SELECT i, ?2, randomblob(CASE i % 20 WHEN 0 THEN ?3 ELSE 100 END) FROM c",
        (ROWS, _BALANCE, _BODY_BYTES_MAX),
    ).fetchall()
    connection.execute("CREATE INDEX item_n ON item(n)")


def change(connection: apsw.Connection, chance: random.Random) -> None:
    """Move one from a row to another and replace a third; one transaction."""
    giver, taker, replaced = (chance.randint(1, ROWS) for _ in range(3))
    with connection:
        connection.execute("UPDATE item SET n = n - 1 WHERE id = ?", (giver,))
        connection.execute("UPDATE item SET n = n + 1 WHERE id = ?", (taker,))
        connection.execute(
            "REPLACE INTO item SELECT id, n, randomblob(length(body)) FROM item WHERE id = ?",
            (replaced,),
        )


def check(connection: apsw.Connection) -> None:
    """Fail unless the sum over all rows is what it always was."""
    (found,) = connection.execute("SELECT count(*), sum(n) FROM item").fetchall()
    if found != (ROWS, ROWS * _BALANCE):
        raise AssertionError(f"a snapshot shows {found} as count and sum")


def opened(name: str = "main") -> apsw.Connection:
    """Open a tag or URI with a busy timeout; transactions take the writer lock when they begin."""
    connection = graft_vfs.connect(name)
    connection.set_busy_timeout(_BUSY_MS)
    connection.transaction_mode = "IMMEDIATE"
    return connection


# The roles --------------------------------------------------------------------------------------


def change_on(soaked: Soaked, seed: int) -> None:
    """Change rows in short transactions, now and then all of them, or in a new connection."""
    chance = random.Random(seed)
    while not soaked.stopped.is_set():
        with closing(opened()) as connection:
            # Not in the thread that pushes: a thread that waits for the writer lock may wait long.
            connection.execute("UPDATE item SET body = randomblob(length(body))")
            soaked.add("updates of all rows")
            for _ in range(1000):
                if soaked.stopped.is_set():
                    break
                change(connection, chance)
                soaked.add("transactions")


def read_on(soaked: Soaked) -> None:
    """Read so that a snapshot is open at every instant: the next begins before the last ends."""
    with closing(opened()) as one, closing(opened()) as other:
        readers = itertools.cycle((one, other))
        last = next(readers)
        last.execute("BEGIN DEFERRED")
        while not soaked.stopped.wait(_READ_PAUSE_SECONDS):
            following = next(readers)
            following.execute("BEGIN DEFERRED")
            check(following)
            last.execute("COMMIT")
            last = following
            soaked.add("snapshots")
        last.execute("COMMIT")


def write(made: Graft, soaked: Soaked, scratch: Path) -> None:
    """Change and read in threads of this process, and push what they commit."""

    def push() -> None:
        chance = random.Random(1)
        while not soaked.stopped.wait(_PAUSE_SECONDS):
            made.push("main")
            made.status("main")
            soaked.add("pushes")
            if chance.random() < 0.05:
                export(made, scratch, soaked)

    soaked.run(
        push,
        lambda: change_on(soaked, 2),
        lambda: change_on(soaked, 3),
        lambda: read_on(soaked),
    )


def read(_: Graft, soaked: Soaked, __: Path) -> None:
    """Read beside the writer, in the same data directory, what it commits."""
    soaked.run(lambda: read_on(soaked), lambda: read_on(soaked))


def follow(made: Graft, soaked: Soaked, scratch: Path) -> None:
    """Pull into a data directory of its own, read now and as it was, hydrate, audit, export."""
    chance = random.Random(4)
    connection = opened()
    while not soaked.stopped.wait(_PAUSE_SECONDS):
        newest = made.pull("main").lsn
        check(connection)
        soaked.add("pulls")
        kind = chance.random()
        if kind < 0.1:
            made.hydrate("main")
            made.audit("main")
            soaked.add("hydrations")
        elif kind < 0.2:
            lsn = max(1, newest - chance.randrange(20))
            with closing(opened(graft_vfs.uri("main", lsn=str(lsn)))) as old:
                check(old)
            soaked.add("old LSNs")
        elif kind < 0.3:
            connection.close()
            connection = opened()
            soaked.add("reopened connections")
        elif kind < 0.35:
            export(made, scratch, soaked)
    connection.close()


def export(made: Graft, scratch: Path, soaked: Soaked) -> None:
    """Export, check the plain file with SQLite alone, and delete it."""
    path = scratch / "exported.db"
    made.export("main", path)
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as plain:
        check(plain)
    path.unlink()
    soaked.add("exports")


def visit(config: Config, soaked: Soaked) -> None:
    """Come as a new machine each time: clone, read, fork, write, push, check out, and go."""
    chance = random.Random(5)
    for number in itertools.count():
        if soaked.stopped.wait(_PAUSE_SECONDS):
            return
        directory = config.data_dir / str(number)
        with engine(directory, config.remote) as made:
            made.clone("visited", "main")
            with closing(opened()) as connection:
                check(connection)
            fork = f"visit-{number}"
            made.fork("main", new_tag=fork)
            with closing(opened(fork)) as connection:
                change(connection, chance)
                made.push(fork)
                check(connection)
            made.checkout("main", str(chance.randint(1, _VISITED_COMMITS)))
            with closing(opened()) as connection:
                check(connection)
            made.hydrate("main")
            export(made, directory, soaked)
        shutil.rmtree(directory)
        soaked.add("visits")


def set_up(config: Config) -> None:
    """Make the log that the writer goes on with, and a short one of fixed length for visitors."""
    chance = random.Random(6)
    for tag, commits in (("main", 1), ("visited", _VISITED_COMMITS)):
        data_dir = config.data_dir if tag == "main" else config.data_dir.with_name(tag)
        with engine(data_dir, config.remote) as made, closing(opened(tag)) as connection:
            fill(connection)
            made.push(tag)
            for _ in range(commits - 1):
                change(connection, chance)
                made.push(tag)


# The process ------------------------------------------------------------------------------------

_RESIDENTS = {"writer": write, "reader": read, "follower": follow}
ROLES = (*_RESIDENTS, "visitor")


def reside(role: str, config: Config, soaked: Soaked) -> None:
    """Do a role that keeps one engine open all the time."""
    made = graft_vfs.register(config)
    try:
        if role == "follower":
            made.clone("main", "main")
        print("ready", flush=True)
        scratch = config.data_dir.with_name(f"{role}-scratch")
        scratch.mkdir(exist_ok=True)
        _RESIDENTS[role](made, soaked, scratch)
    finally:
        graft_vfs.unregister()


def main(role: str, data_dir: str, remote: str, settings: str) -> None:
    """Work until standard input ends, which the end of the parent brings about, too."""
    config = Config(
        data_dir=Path(data_dir), remote=RemoteConfig(**json.loads(remote)), **json.loads(settings)
    )
    if role == "set-up":
        set_up(config)
        return
    soaked = Soaked()

    def listen() -> None:
        sys.stdin.read()
        soaked.stopped.set()

    threading.Thread(target=listen, daemon=True).start()
    if role == "visitor":
        print("ready", flush=True)
        visit(config, soaked)
    else:
        reside(role, config, soaked)
    print(json.dumps(soaked.counts()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
