"""The scenarios that are crashed at each of their effects.

Together they make every change that a data directory knows: transactions at each `synchronous`
level, spilled ones, rollback, VACUUM, recovery, pushes inside one object and with a segment, log
rotation, compaction, also beside a push of unknown outcome, clone, cache fill, eviction, pull,
hydrate, fork, import and its update, the removal of what no volume needs, branches that are kept,
gone back to and removed, rebases, and tables with their compaction.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any
from unittest import mock

import apsw

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import CommitOutcomeUnknownError
from graft_vfs.local.catalog.rows import PendingPush
from graft_vfs.merge.conflicts import Choices
from graft_vfs.merge.rebase import Rebased, rebase
from graft_vfs.store.base import ObjectStore
from graft_vfs.sync import push
from graft_vfs.sync.settle import claim_recorded
from graft_vfs.volume.context import Context, Opened
from tests.crash.ledger import EMPTY, Ledger
from tests.support import sql
from tests.support.replicas import Replica

DATA = "machine/data"
REMOTE = "machine/remote"
SMALL, LARGE, HUGE = 300, 40_000, 400_000

Scenario = Callable[["Life"], None]


class _AtOnce(Executor):
    """Does what it is given at once, so that the effects of a scenario come in one order."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Future:
        future: Future = Future()

        def work() -> None:
            try:
                future.set_result(function(*arguments, **keywords))
            except Exception as error:  # noqa: BLE001 - the thread that waits for the future gets it
                future.set_exception(error)

        # Not in the caller's thread, which is looking for a page and may not fetch meanwhile.
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return future


def open_machine(data_dir: Path, remote: RemoteConfig, store: ObjectStore | None = None) -> Replica:
    """Open a machine whose fetches happen in the thread that asks for them."""
    return Replica(data_dir, remote, store=store, executor=_AtOnce())


class Life:
    """One machine that is watched, and another on the same remote that is not.

    `root` is the directory that is watched. Not even the data directory is there at first, because
    its name must survive, too.
    """

    def __init__(self, root: Path, ledger: Ledger, remote: RemoteConfig) -> None:
        self.ledger = ledger
        self.elsewhere = root.with_name(f"{root.name}-elsewhere")
        self._data_dir = root / DATA
        self._remote = remote
        self._connections: dict[str, apsw.Connection] = {}
        self.replica = open_machine(self._data_dir, remote)

    def other_machine(self, name: str) -> Replica:
        """Open a machine that survives every crash of the one that is watched."""
        return open_machine(self.elsewhere / name, self._remote)

    def end(self) -> None:
        """End the process as a program that closes everything would."""
        for tag in self.ledger.states:
            self.ledger.logs[tag] = self.replica.engine.status(tag).remote
        self.replica.close()
        self._connections.clear()

    def reopen(self) -> None:
        """End the process and start the next one."""
        self.end()
        self.replica = open_machine(self._data_dir, self._remote)

    def connection(self, tag: str) -> apsw.Connection:
        """Return the connection to a tag; small, so that large transactions spill."""
        if tag not in self._connections:
            connection = self._connections[tag] = self.replica.connect(tag)
            connection.pragma("cache_size", 5)
        return self._connections[tag]

    def create(self, tag: str) -> None:
        """Open a tag that does not exist, and make its tables."""
        self.ledger.begin(tag)
        with self.ledger.step(tag, EMPTY):
            self.connection(tag)
        connection = self.connection(tag)
        with self.ledger.step(tag, connection), connection:
            connection.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v)")
            connection.execute("CREATE TABLE counter(n)")
            connection.execute("INSERT INTO counter VALUES(0)")

    def find(self, tag: str) -> None:
        """Open a tag as a crash has left it, and make what it has taken."""
        if self.replica.engine.catalog.tag_volume(tag) is None:
            self.create(tag)
            return
        connection = self.connection(tag)
        self.ledger.begin(tag, sql.content(connection))
        with self.ledger.step(tag, connection), connection:
            connection.execute("CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY, v)")
            connection.execute("CREATE TABLE IF NOT EXISTS counter(n)")
            if not sql.rows(connection, "SELECT n FROM counter"):
                connection.execute("INSERT INTO counter VALUES(0)")

    def commit(self, tag: str, synchronous: str = "full", *, size: int = SMALL) -> None:
        """Commit one transaction that adds a row, changes an older one, and counts."""
        connection = self.connection(tag)
        connection.pragma("synchronous", synchronous)
        is_full = synchronous == "full"
        with self.ledger.step(tag, connection, survives_power_cut=is_full), connection:
            self._change(tag, connection, size)

    def branch_file(self, tag: str) -> str:
        """Return the name of the file that a tag's branch is in."""
        return self.replica.engine.open(tag).branch_log.path.name

    def replace(self, tag: str, synchronous: str = "normal", *, size: int) -> None:
        """Commit one transaction that counts and replaces the same row each time."""
        connection = self.connection(tag)
        connection.pragma("synchronous", synchronous)
        is_full = synchronous == "full"
        with self.ledger.step(tag, connection, survives_power_cut=is_full), connection:
            number = sql.value(connection, "SELECT n FROM counter") + 1
            connection.execute("UPDATE counter SET n = ?", (number,))
            data = random.Random(number).randbytes(size)
            connection.execute("REPLACE INTO t VALUES(1, ?)", (data,))

    def _change(self, tag: str, connection: apsw.Connection, size: int) -> None:
        number = sql.value(connection, "SELECT n FROM counter") + 1
        source = random.Random(f"{tag} {number}")
        connection.execute("UPDATE counter SET n = ?", (number,))
        connection.execute("INSERT INTO t VALUES(?, ?)", (number, source.randbytes(size)))
        connection.execute("UPDATE t SET v = ? WHERE k = ?", (source.randbytes(SMALL), number // 2))

    def roll_back(self, tag: str, *, size: int) -> None:
        """Begin a transaction as `commit` does, and roll it back."""
        connection = self.connection(tag)
        connection.execute("BEGIN")
        self._change(tag, connection, size)
        connection.execute("ROLLBACK")

    def push(self, tag: str) -> None:
        """Push a tag."""
        with self.ledger.push(tag):
            self.replica.engine.push(tag)

    def push_without_an_answer(self, tag: str) -> None:
        """Push a tag and win, without the answer that says so."""

        def claim_without_an_answer(context: Context, pending: PendingPush) -> bool:
            claim_recorded(context, pending)
            raise CommitOutcomeUnknownError("no answer")

        with (
            self.ledger.push(tag),
            mock.patch.object(push, "claim_recorded", claim_without_an_answer),
            contextlib.suppress(CommitOutcomeUnknownError),
        ):
            self.replica.engine.push(tag)


def commits(life: Life) -> None:
    """Transactions at each level, spilled ones, rollbacks, a VACUUM, and recovery."""
    life.create("main")
    for synchronous in ("full", "normal", "normal", "full", "off", "off", "normal"):
        life.commit("main", synchronous)
    life.commit("main", "normal", size=LARGE)
    life.commit("main", "normal")
    life.roll_back("main", size=LARGE)
    life.commit("main", "normal")
    life.commit("main", "normal")
    life.roll_back("main", size=SMALL)
    life.roll_back("main", size=LARGE)
    life.commit("main", "full")
    life.commit("main", "off", size=LARGE)
    life.roll_back("main", size=LARGE)
    life.commit("main", "full", size=LARGE)
    connection = life.connection("main")
    with life.ledger.step("main", connection), connection:
        connection.execute("DELETE FROM t WHERE k > 3")
    connection.execute("VACUUM")
    life.commit("main", "normal")
    life.commit("main", "normal")
    life.reopen()
    life.commit("main", "normal")
    life.roll_back("main", size=LARGE)
    life.commit("main", "normal")
    life.commit("main", "full")
    life.commit("main", "off")


def pushes(life: Life) -> None:
    """Pushes of every kind, between transactions that a power cut may take away."""
    life.create("main")
    life.commit("main", "normal")
    life.push("main")
    life.commit("main", "normal")
    life.commit("main", "off")
    life.push("main")
    life.roll_back("main", size=LARGE)
    life.commit("main", "normal", size=LARGE)
    life.push("main")
    life.commit("main", "normal")
    life.commit("main", "full")
    life.push("main")
    life.commit("main", "normal")
    life.reopen()
    life.commit("main", "off")
    life.push("main")
    life.commit("main", "normal")


def volumes(life: Life) -> None:
    """Clone, cache fill, pull, hydrate, fork and import, on several branches at once."""
    engine, ledger = life.replica.engine, life.ledger
    source = random.Random("theirs")
    ledger.begin("shared")
    ledger.followers.add("shared")
    with life.other_machine("theirs") as theirs:
        writer = theirs.connect("shared")
        writer.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v)")
        writer.execute("CREATE TABLE counter(n); INSERT INTO counter VALUES(0)")
        writer.execute("INSERT INTO t VALUES(-1, ?)", (source.randbytes(LARGE),))
        with ledger.push_of_another_machine("shared"):
            theirs.engine.push("shared")
        with ledger.step("shared", sql.content(writer)):
            engine.clone("shared", "shared")
        assert sql.is_sound(life.connection("shared"))

        writer.execute("INSERT INTO t VALUES(-2, ?)", (source.randbytes(LARGE),))
        writer.execute("DELETE FROM t WHERE k = -1")
        with ledger.step("shared", sql.content(writer)):
            with ledger.push_of_another_machine("shared"):
                theirs.engine.push("shared")
            engine.pull("shared")
    engine.hydrate("shared")
    life.commit("shared", "normal")

    ledger.begin("forked")
    with ledger.step("forked", sql.content(life.connection("shared"))):
        engine.fork("shared", new_tag="forked")
    life.push("shared")
    life.commit("shared", "normal")
    life.commit("forked", "full")
    life.push("forked")
    life.commit("forked", "normal")

    path = life.elsewhere / "plain.db"
    plain = sql.stock(path)
    plain.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v); CREATE TABLE counter(n)")
    plain.execute("INSERT INTO counter VALUES(0)")
    plain.execute("INSERT INTO t VALUES(0, ?)", (source.randbytes(LARGE),))
    expected = sql.content(plain)
    plain.close()
    ledger.begin("imported")
    with ledger.step("imported", EMPTY, expected):
        engine.import_(path, "imported")
    life.commit("imported", "off")
    life.push("imported")
    life.commit("shared", "full")
    life.commit("imported", "normal")


def caching(life: Life) -> None:
    """Reading more than the page cache may keep, so that it deletes what was read longest ago."""
    engine, ledger = life.replica.engine, life.ledger
    engine.logs._cache_bytes_max = 3 * LARGE
    ledger.begin("shared")
    ledger.followers.add("shared")
    with life.other_machine("theirs") as theirs:
        writer = theirs.connect("shared")
        writer.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v)")
        for number in range(4):
            data = random.Random(number).randbytes(2 * LARGE)
            writer.execute("INSERT INTO t VALUES(?, ?)", (number, data))
        with ledger.push_of_another_machine("shared"):
            theirs.engine.push("shared")
        with ledger.step("shared", sql.content(writer)):
            engine.clone("shared", "shared")
    connection = life.connection("shared")
    for number in (0, 1, 2, 3, 0, 3, 1):
        sql.rows(connection, "SELECT v FROM t WHERE k = ?", number)


def updates(life: Life) -> None:
    """Next versions of a plain file, an earlier state, a revert, and pages written as they were."""
    engine, ledger = life.replica.engine, life.ledger
    life.create("main")
    life.commit("main", "full", size=LARGE)
    life.push("main")
    life.commit("main", "normal")
    path = life.elsewhere / "next.db"
    path.parent.mkdir(exist_ok=True)
    engine.export("main", path)
    for statement in (
        "UPDATE counter SET n = n + 1; UPDATE t SET v = randomblob(300) WHERE k = 2",
        f"INSERT INTO t VALUES(-1, zeroblob({LARGE})), (-2, zeroblob({LARGE}))",
        "DELETE FROM t WHERE k = -1; VACUUM",
    ):
        plain = sql.stock(path)
        plain.execute(statement)
        expected = sql.content(plain)
        plain.close()
        with ledger.step("main", expected):
            engine.import_(path, "main", update=True, message=statement)
        life.commit("main", "off")
        life.push("main")
    connection = life.connection("main")
    connection.pragma("synchronous", "full")
    before = sql.content(life.replica.connect("main", lsn="HEAD~2"))
    with ledger.step("main", before):
        engine.restore("main", "HEAD~2")
    reverts(life)
    connection.execute("VACUUM; VACUUM")
    with ledger.step("main", connection), connection:
        connection.execute("UPDATE t SET k = k; UPDATE counter SET n = n + 1")
    life.commit("main", "normal")
    life.push("main")


def reverts(life: Life) -> None:
    """A commit that is undone below a later one."""
    if not life.ledger.states:
        life.create("main")
    connection = life.connection("main")
    with life.ledger.step("main", connection), connection:
        connection.execute("INSERT INTO t VALUES(-5, zeroblob(?))", (LARGE,))
    life.commit("main")
    without = sql.content(connection)
    without["t"] = [row for row in without["t"] if row[0] != -5]
    with life.ledger.step("main", without):
        life.replica.engine.revert("main", "HEAD~1", force=True)


def compactions(life: Life) -> None:
    """Updates of the same pages, until the branch file is compacted, more than once."""
    life.create("main")
    for synchronous in ("normal", "off", "full"):
        former = life.branch_file("main")
        while life.branch_file("main") == former:
            life.replace("main", synchronous, size=12_000)
        life.commit("main", synchronous)
        life.roll_back("main", size=LARGE)
    assert life.replica.engine.open("main").branch_log.folded
    life.push("main")
    former = life.branch_file("main")
    while life.branch_file("main") == former:
        life.replace("main", size=12_000)
    life.reopen()
    life.commit("main", "normal")
    life.commit("main", "full")


def unsettled(life: Life) -> None:
    """Compactions while the outcome of a push is unknown, before it is settled as won."""
    life.create("main")
    life.commit("main", "normal")
    life.push("main")
    life.commit("main", "normal")
    life.push_without_an_answer("main")
    life.commit("main", "normal")
    for synchronous in ("normal", "full"):
        former = life.branch_file("main")
        while life.branch_file("main") == former:
            life.replace("main", synchronous, size=12_000)
    life.commit("main", "off")
    life.push("main")
    life.commit("main", "normal")


def reclaiming(life: Life) -> None:
    """The removal of volumes, of what is known of their logs, and of dead space."""
    engine = life.replica.engine
    life.create("main")
    life.commit("main", "full", size=LARGE)
    life.push("main")
    with life.other_machine("theirs") as theirs:
        writer = theirs.connect("theirs")
        writer.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v)")
        writer.execute("INSERT INTO t VALUES(1, randomblob(?))", (LARGE,))
        theirs.engine.push("theirs")
    engine.clone("theirs", "copy")
    engine.hydrate("copy")
    engine.fork("main", new_tag="side")
    engine.remove_tag("side")
    engine.remove_tag("copy")
    for _ in range(4):
        life.replace("main", size=12_000)
    assert [each.removed for each in engine.collect_local()] == [True, True]
    assert [each.removed for each in engine.reclaim()] == [True, True]
    engine.catalog.shrink()
    life.commit("main", "normal")
    life.push("main")


def branches(life: Life) -> None:
    """Branches that a restore leaves and a switch leaves, gone back to, rotated and removed."""
    life.create("main")
    life.commit("main", "full", size=LARGE)
    life.push("main")
    connection = life.connection("main")
    pushed = sql.content(connection)
    life.commit("main", "normal")
    life.commit("main", "off")
    first = sql.content(connection)
    with life.ledger.step("main", pushed):
        kept = life.replica.engine.restore("main", "BASE").kept
    life.ledger.keep("main", first)
    life.commit("main", "normal", size=LARGE)
    second = sql.content(connection)
    life.ledger.keeps_no_longer("main", first)
    with life.ledger.step("main", first):
        left = life.replica.engine.switch("main", str(kept)).kept
    life.ledger.keep("main", second)
    life.commit("main", "normal")
    life.reopen()
    former = life.branch_file("main")
    while life.branch_file("main") == former:
        life.replace("main", "normal", size=12_000)
    third = sql.content(life.connection("main"))
    life.ledger.keeps_no_longer("main", second)
    with life.ledger.step("main", second):
        last = life.replica.engine.switch("main", str(left)).kept
    life.ledger.keep("main", third)
    life.commit("main", "off")
    life.push("main")
    life.ledger.keeps_no_longer("main", third)
    life.replica.engine.remove_branch("main", str(last))
    life.commit("main", "full")


def rebases(life: Life) -> None:
    """Commits of two machines that diverge, merged, with the former branch kept."""
    life.create("main")
    life.commit("main", "full", size=LARGE)
    life.push("main")
    connection = life.connection("main")
    with life.other_machine("theirs") as theirs:
        theirs.engine.clone("main", "main")
        writer = theirs.connect("main")
        writer.execute("CREATE TABLE theirs(v)")
        for size in (SMALL, LARGE):
            # What a power cut took from ours would be missing in what is merged.
            life.commit("main", "full", size=size)
            life.commit("main", "full")
            ours = sql.content(connection)
            writer.execute("INSERT INTO theirs VALUES(?)", (random.Random(1).randbytes(LARGE),))
            with life.ledger.step("main", connection):
                with life.ledger.push_of_another_machine("main", sql.content(writer)):
                    theirs.engine.push("main")
                opened = Opened("main", life.replica.engine.open("main"))
                assert isinstance(rebase(life.replica.engine.context, opened, Choices()), Rebased)
            life.ledger.keep("main", ours)
            life.commit("main", "off")
            life.push("main")
            theirs.engine.pull("main")


def tables(life: Life) -> None:
    """Pushes that write tables, a clone and a catch-up that read them, and compactions."""
    engine, ledger = life.replica.engine, life.ledger
    life.create("main")
    for synchronous in ("normal", "full", "off", "normal"):
        life.commit("main", synchronous)
        life.push("main")
    engine.maintain("main")
    life.commit("main", "normal")
    source = random.Random("theirs")
    ledger.begin("shared")
    ledger.followers.add("shared")
    with life.other_machine("theirs") as theirs:
        writer = theirs.connect("shared")
        writer.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v)")
        writer.execute("CREATE TABLE counter(n); INSERT INTO counter VALUES(0)")
        for first, verb in ((0, engine.clone), (8, lambda name, _: engine.pull(name))):
            with ledger.catch_up("shared") as pushed:
                for number in range(first, first + 8):
                    row = (-1 - number, source.randbytes(2000))
                    writer.execute("INSERT INTO t VALUES(?, ?)", row)
                    with pushed(sql.content(writer)):
                        theirs.engine.push("shared")
                verb("shared", "shared")
            assert sql.is_sound(life.connection("shared"))
        theirs.engine.maintain("shared")
    engine.maintain("shared")
    life.commit("shared", "normal")
    life.push("shared")
    life.commit("main", "full")
    life.push("main")
    engine.maintain("main")
    life.commit("main", "off")


def recovery(life: Life) -> None:
    """What a machine does first after a crash: for a second crash while it does."""
    life.find("main")
    life.commit("main", "normal")
    life.commit("main", "full")
    life.roll_back("main", size=LARGE)
    life.commit("main", "normal")
    life.push("main")
    life.commit("main", "off")


def replacements(life: Life) -> None:
    """Transactions of one size, of which a power cut may take any.

    They are so large that the log does not zero the space in front of them.
    """
    life.create("main")
    for _ in range(5):
        life.replace("main", size=HUGE)


def one_replacement(life: Life) -> None:
    """One more of them, in the place of the first that was lost."""
    life.find("main")
    life.replace("main", size=HUGE)


SCENARIOS: dict[str, Scenario] = {
    each.__name__: each
    for each in (
        commits,
        pushes,
        volumes,
        caching,
        updates,
        compactions,
        unsettled,
        reclaiming,
        branches,
        rebases,
        tables,
    )
}
