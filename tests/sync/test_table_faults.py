"""Faults at each effect of what writes tables, and several machines that write them at once.

A table is an extra: whatever happens to one, each machine shows the content of the commits.
"""

from __future__ import annotations

import contextlib
import functools
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import apsw
import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import GraftError, StoreUnavailableError
from graft_vfs.format.table import encode_table
from graft_vfs.remote import tables as remote_tables
from graft_vfs.remote.claim import claim
from graft_vfs.remote.tables import list_tables
from graft_vfs.store.base import ObjectStore, Verb
from graft_vfs.sync import settle, tables
from graft_vfs.testing import WrapperStore
from graft_vfs.view import logs, new_table, table_policy
from tests.support.children import child
from tests.support.faults import Fault, FaultyStore, ProcessStopped
from tests.support.replicas import Replica, rows
from tests.sync.checks import sound_log

PUSHES = 8
STEP = 3

T = TypeVar("T")
Make = Callable[..., Replica]


@pytest.fixture(autouse=True)
def tables_after_few_commits(monkeypatch) -> None:
    monkeypatch.setattr(table_policy, "STEP", STEP)
    monkeypatch.setattr(tables, "STEP", STEP)
    monkeypatch.setattr(tables, "_WORTH_COMMITS", 2)
    monkeypatch.setattr(settle, "claim", functools.partial(claim, sleep=lambda _: None))


@pytest.fixture
def machines(tmp_path) -> Iterator[Make]:
    """Make machines on one remote in memory; a name used again is the same data directory."""
    made: list[Replica] = []
    remote = RemoteConfig(type="memory", root=str(tmp_path))

    def make(name: str, *, at: int | None = None, fault: Fault | None = None) -> Replica:
        made.append(
            Replica(tmp_path / name, remote, store=FaultyStore(remote.open(), at=at, fault=fault))
        )
        return made[-1]

    yield make
    for replica in made:
        replica.close()


def write(connection: apsw.Connection, number: int) -> None:
    """Commit one row of 3000 bytes, and change another."""
    data = random.Random(number).randbytes(3000)
    with connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b)")
        connection.execute("INSERT INTO t VALUES(?, ?)", (number, data))
        connection.execute("UPDATE t SET b = ? WHERE a = ?", (data[:900], number // 2))


STEPS: list[int | str] = [1, 2, 3, 4, 5, "maintain", 6, 7, "maintain", 8]
"""Rows to push, of which each third push makes a table, and compactions."""


def perform(replica: Replica, step: int | str) -> None:
    """Make a step, or what is left of it."""
    if step == "maintain":
        replica.engine.maintain("main")
        return
    connection = replica.connect()
    is_begun = rows(connection, "SELECT 1 FROM sqlite_schema")
    if not is_begun or not rows(connection, f"SELECT 1 FROM t WHERE a = {step}"):
        write(connection, int(step))
    replica.engine.push("main")


def expected() -> list[tuple]:
    with apsw.Connection("") as connection:
        for number in range(1, PUSHES + 1):
            write(connection, number)
        return rows(connection)


def check(machines: Make, replica: Replica) -> None:
    """All show the content; a clone, a follower and the next table go on."""
    assert rows(replica.connect()) == expected()
    log_id = replica.engine.status("main").remote
    assert len(sound_log(replica.engine.store, log_id)) == PUSHES
    for name in ("new", "again"):
        clone = machines(name)
        clone.engine.clone("main", "main")
        assert rows(clone.connect()) == expected()
        assert clone.connect().pragma("integrity_check") == "ok"
    follower = machines("new")
    for number in range(PUSHES + 1, PUSHES + 1 + 2 * STEP):
        write(replica.connect(), number)
        replica.engine.push("main")
    replica.engine.maintain("main")
    follower.engine.pull("main")
    assert rows(follower.connect()) == rows(replica.connect())
    newest = list_tables(replica.engine.store, log_id, limit=1)
    assert newest[0].lsn >= PUSHES + 2 * STEP - STEP
    last = machines("last")
    last.engine.clone("main", "main")
    assert rows(last.connect()) == rows(replica.connect())


def kind(key: str) -> str:
    return "table" if "/tables/" in key else key.split("/", maxsplit=1)[0]


EFFECTS = [
    *("probe", "probe", "refs", "logs", "logs", "logs", "table", "logs", "logs"),
    *("segments", "table", "logs", "table", "logs", "segments", "table", "logs"),
]


def test_the_scenario_has_the_effects_that_are_failed_one_by_one(machines) -> None:
    replica = machines("ours")
    for step in STEPS:
        perform(replica, step)
    assert [kind(key) for key in replica.engine.store.effects] == EFFECTS
    check(machines, replica)


def fail_at(machines: Make, at: int, fault: Fault) -> None:
    replica = machines("ours", at=at, fault=fault)
    failures = 0
    for step in STEPS:
        try:
            perform(replica, step)
        except (GraftError, ProcessStopped):
            failures += 1
            replica = machines("ours")
            perform(replica, step)
    assert failures <= 1
    check(machines, replica)


FAULTS = list(Fault)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.lower())
@pytest.mark.parametrize("at", [EFFECTS.index("table"), EFFECTS.index("segments") + 1])
def test_a_fault_at_a_table_changes_the_content_for_nobody(machines, at, fault) -> None:
    fail_at(machines, at, fault)


@pytest.mark.deep
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.lower())
@pytest.mark.parametrize("at", range(len(EFFECTS)))
def test_a_fault_at_any_effect_changes_the_content_for_nobody(machines, at, fault) -> None:
    fail_at(machines, at, fault)


# Several machines ---------------------------------------------------------------------------------


class Interposed(WrapperStore):
    """Runs an act once, before the first object whose key contains a text is written."""

    def __init__(self, inner: ObjectStore, text: str, act: Callable[[], object]) -> None:
        super().__init__(inner)
        self._text = text
        self._act: Callable[[], object] | None = act

    def request(self, verb: Verb, key: str, send: Callable[[], T]) -> T:
        if verb in {"put", "put_if_absent"} and self._text in key and self._act is not None:
            act, self._act = self._act, None
            act()
        return send()


@pytest.mark.parametrize("text", ["segments/", "/tables/"])
@pytest.mark.parametrize("other", ["maintainer", "pusher", "both"])
def test_a_compaction_beside_others_changes_the_content_for_nobody(
    replicas, tmp_path, text, other
) -> None:
    writer = replicas("writer")
    for number in range(1, 6):
        write(writer.connect(), number)
        writer.engine.push("main")
    reader = replicas("reader")
    reader.engine.clone("main", "main")
    snapshot = reader.connect()
    snapshot.execute("BEGIN")
    before = rows(snapshot, "SELECT a, b FROM t WHERE a = 1")

    def act() -> None:
        if other != "maintainer":
            for number in range(6, 6 + 2 * STEP):
                write(writer.connect(), number)
                writer.engine.push("main")
        if other != "pusher":
            assert writer.engine.maintain("main").objects

    remote = RemoteConfig(type="memory", root=str(tmp_path))
    maintainer = replicas("maintainer", store=Interposed(remote.open(), text, act))
    maintainer.engine.clone("main", "main")
    assert maintainer.engine.maintain("main").objects
    assert rows(snapshot, "SELECT a, b FROM t WHERE a = 1") == before
    assert len(rows(snapshot)) == 5
    snapshot.execute("COMMIT")
    for each in (maintainer, reader, replicas("new")):
        each.engine.clone("main", "main") if each not in {maintainer, reader} else None
        each.engine.pull("main")
        assert rows(each.connect()) == rows(writer.connect())
        assert each.connect().pragma("integrity_check") == "ok"


def test_a_later_table_of_another_machine_undoes_a_compaction_but_loses_nothing(replicas) -> None:
    writer, maintainer = replicas("writer"), replicas("maintainer")
    for number in range(1, 4 * STEP):
        write(writer.connect(), number)
        writer.engine.push("main")
    maintainer.engine.clone("main", "main")
    done = maintainer.engine.maintain("main")
    assert done.objects_after < done.objects_before
    # This machine has its own tables, which it takes into the next one.
    for number in range(4 * STEP, 6 * STEP + 1):
        write(writer.connect(), number)
        writer.engine.push("main")
    new = replicas("new")
    new.engine.clone("main", "main")
    assert rows(new.connect()) == rows(writer.connect())
    again = new.engine.maintain("main")
    assert again.objects_before > done.objects_after
    assert again.objects_after < again.objects_before
    last = replicas("last")
    last.engine.clone("main", "main")
    assert rows(last.connect()) == rows(writer.connect())


SMALL_TABLES = f"""
from graft_vfs.sync import tables
from graft_vfs.view import table_policy
table_policy.STEP = tables.STEP = {STEP}
tables._WORTH_COMMITS = 2
"""

PUSHER = """
connection = apsw.Connection("main", vfs="graft")
for number in range(6, 31):
    with connection:
        connection.execute("INSERT INTO t VALUES(?, randomblob(3000))", (number,))
        connection.execute("UPDATE t SET b = randomblob(900) WHERE a = ?", (number // 2,))
    engine.push("main")
say("done")
"""

MAINTAINER = """
engine.clone("main", "main")
for _ in range(8):
    engine.maintain("main")
say("done")
"""

SCANNER = """
engine.clone("main", "main")
connection = apsw.Connection("main", vfs="graft")
seen = 0
while seen < 30:
    engine.pull("main")
    with connection:
        count, most = connection.execute("SELECT count(*), max(a) FROM t").fetchone()
        assert count == most >= seen, (count, most, seen)
        assert connection.pragma("integrity_check") == "ok"
    seen = count
say("done")
"""


def test_processes_that_push_compact_and_scan_at_once(tmp_path) -> None:
    remote = tmp_path / "remote"
    with Replica(tmp_path / "a", RemoteConfig(type="fs", root=str(remote))) as writer:
        for number in range(1, 6):
            write(writer.connect(), number)
            writer.engine.push("main")
    places = [("a", PUSHER), ("b", MAINTAINER), ("c", MAINTAINER), ("d", SCANNER)]
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(child(tmp_path / name, SMALL_TABLES + program, remote=remote))
            for name, program in places
        ]
        for each in children:
            assert each.hear() == "done"
            each.end()
    config = RemoteConfig(type="fs", root=str(remote))
    with Replica(tmp_path / "a", config) as writer, Replica(tmp_path / "e", config) as new:
        new.engine.clone("main", "main")
        assert rows(new.connect()) == rows(writer.connect())
        assert len(rows(new.connect())) == 30


# Tables that are read by blocks ------------------------------------------------------------------


@pytest.fixture
def all_are_large(monkeypatch) -> None:
    """Read each table by its blocks, and of the remote's only the beginning at first."""
    monkeypatch.setattr(logs, "_DECODED_BYTES_MAX", 0)
    monkeypatch.setattr(tables, "_READ_WHOLE_BYTES", 0)
    few = functools.partial(encode_table, leaf_pages=2)
    monkeypatch.setattr(new_table, "encode_table", few)


@pytest.mark.parametrize("verb", ["maintain", "pull", "push"])
def test_a_snapshot_keeps_its_tables_while_newer_ones_take_their_place(
    replicas, all_are_large, verb
) -> None:
    writer = replicas("writer")
    for number in range(1, STEP + 1):
        write(writer.connect(), number)
        writer.engine.push("main")
    machine = writer
    if verb == "pull":
        machine = replicas("reader")
        machine.engine.clone("main", "main")
    again = replicas(machine.engine.config.data_dir.name)
    snapshot = again.connect()
    snapshot.execute("BEGIN")
    assert rows(snapshot, "SELECT name FROM sqlite_schema") == [("t",)]
    if verb == "maintain":
        assert machine.engine.maintain("main").objects
    else:
        for number in range(STEP + 1, 3 * STEP + 1):
            write(writer.connect(), number)
            writer.engine.push("main")
            machine.engine.pull("main")
    assert len(rows(snapshot)) == STEP
    assert snapshot.pragma("integrity_check") == "ok"


# Reading ------------------------------------------------------------------------------------------


class CutReads(WrapperStore):
    """Counts reads and listings, and fails at the n-th of them, or from there on."""

    def __init__(self, inner: ObjectStore, *, at: int | None = None, for_good: bool = False):
        super().__init__(inner)
        self.reads: list[str] = []
        self.refused: str | None = None
        self._at = at
        self._for_good = for_good
        self._lock = threading.Lock()

    def request(self, verb: Verb, key: str, send: Callable[[], T]) -> T:
        if self.refused is not None and self.refused in key:
            raise StoreUnavailableError("a test refuses what has this key")
        if verb in {"get", "get_range", "list"}:
            with self._lock:
                number = len(self.reads)
                self.reads.append(key)
            if self._at is not None and (
                number == self._at or (self._for_good and number > self._at)
            ):
                raise StoreUnavailableError("a test cut the connection of a read")
        return send()


def behind(replicas) -> Replica:
    """Make a log with tables, one of them compacted, and a machine that knows its first commit."""
    writer = replicas("writer")
    write(writer.connect(), 1)
    writer.engine.push("main")
    follower = replicas("follower")
    follower.engine.clone("main", "main")
    follower.close()
    # Nine commits are read before it is known how many there are.
    for step in [*range(2, 12 + STEP), "maintain", 12 + STEP, 13 + STEP]:
        perform(writer, step)
    return writer


def cut_read(replicas, tmp_path, name: str, at: int | None, *, for_good: bool = False) -> list[str]:
    """Clone, or catch up, with a read that fails, and then without; returns what is read."""
    remote = RemoteConfig(type="memory", root=str(tmp_path))
    store = CutReads(remote.open(), at=at, for_good=for_good)
    replica = replicas(name, store=store)
    act = (
        replica.engine.pull
        if name == "follower"
        else functools.partial(replica.engine.clone, "main")
    )
    try:
        act("main")
        rows(replica.connect())
    except (GraftError, apsw.Error):
        assert at is not None
        replica.close()
    return store.reads


@pytest.mark.parametrize("name", ["follower", "clone"])
@pytest.mark.parametrize("for_good", [False, True])
def test_a_reader_of_tables_whose_read_fails_goes_on(replicas, tmp_path, name, for_good) -> None:
    writer = behind(replicas)
    shutil.copytree(tmp_path / "follower", tmp_path / "kept")
    reads = cut_read(replicas, tmp_path, name, None)
    assert any("/tables/" in key for key in reads)
    for at in range(len(reads)):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        if name == "follower":
            shutil.copytree(tmp_path / "kept", tmp_path / name)
        cut_read(replicas, tmp_path, name, at, for_good=for_good)
        again = replicas(name)
        if again.engine.catalog.tag_volume("main") is None:
            again.engine.clone("main", "main")
        again.engine.pull("main")
        assert rows(again.connect()) == rows(writer.connect())
        assert again.engine.fsck("main", history=True).is_sound


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("moment", ["all", "beginning"])
@pytest.mark.parametrize("act", ["maintain", "table"])
def test_a_view_is_opened_while_another_process_makes_a_table(
    replicas, request, large, moment, act
) -> None:
    if large:
        request.getfixturevalue("all_are_large")
    writer = replicas("writer")
    for number in range(1, 2 * STEP):
        write(writer.connect(), number)
        writer.engine.push("main")
    again = replicas("writer")
    known, patch = again.engine.catalog.tables, pytest.MonkeyPatch()
    read = getattr(known, moment)

    def interposed(*arguments):
        found = read(*arguments)
        patch.undo()
        if act == "maintain":
            assert writer.engine.maintain("main").objects
        else:
            for number in range(2 * STEP, 5 * STEP + 2):
                write(writer.connect(), number)
                writer.engine.push("main")
        return found

    patch.setattr(known, moment, interposed)
    connection = again.connect()
    assert len(rows(connection)) in {2 * STEP - 1, 5 * STEP + 1}
    assert connection.pragma("integrity_check") == "ok"


@pytest.mark.parametrize("verb", ["push", "pull"])
def test_a_table_that_cannot_be_made_fails_neither_a_push_nor_a_fetch(
    replicas, all_are_large, monkeypatch, tmp_path, verb
) -> None:
    monkeypatch.setattr(new_table, "encode_table", functools.partial(encode_table, leaf_pages=16))
    monkeypatch.setattr(remote_tables, "HEAD_BYTES", 1024)
    writer = replicas("writer")
    connection = writer.connect()
    connection.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
    for number in range(1, 2 * STEP + 1):
        connection.execute("INSERT INTO t VALUES(?, randomblob(200000))", (number,))
        writer.engine.push("main")
    writer.engine.fork("main", new_tag="branch")
    connection = writer.connect("branch")
    connection.execute("INSERT INTO t VALUES(1000, 'branch')")
    writer.engine.push("branch")
    store = CutReads(RemoteConfig(type="memory", root=str(tmp_path)).open())
    machine = replicas("machine", store=store)
    machine.engine.clone("branch", "branch")
    (parent,) = machine.engine.catalog.tables.all(writer.engine.status("main").remote)
    assert not parent.is_whole
    theirs = machine.connect("branch")
    pusher = theirs if verb == "push" else connection
    for number in range(1001, 1001 + STEP):
        pusher.execute("INSERT INTO t VALUES(?, 'branch')", (number,))
        if number == 1000 + STEP - 1:
            store.refused = "/tables/"
        if verb == "pull":
            writer.engine.push("branch")
        getattr(machine.engine, verb)("branch")
    store.refused = None
    assert rows(theirs, "SELECT count(*) FROM t") == [(2 * STEP + 1 + STEP,)]
    assert machine.engine.status("branch").last_error is None
