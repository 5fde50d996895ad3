"""A network that loses, cuts, flips, delays and repeats: what was reported is what is true.

- Three machines play on one log while faults are drawn from a seed (`support/network_game.py` says
  what must be true of each step). Repeat a game with the seed in its failure's note.
- Reads through cut and damaged answers give the right rows, or a declared error and no rows.
- A network that fails for good, or a server that stalls, ends every verb with a declared error and
  a bounded number of requests; afterwards the same connection goes on.
- A large upload whose parts fail is whole in the end, or leaves nothing.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator

import apsw
import pytest

from graft_vfs.errors import GraftError, StoreUnavailableError
from graft_vfs.remote.claim import ATTEMPTS
from graft_vfs.sync.push import ensure_safe_store
from tests.support.network import Machine, Network, check_declared, without_pauses
from tests.support.network_game import ANYWHERE, ON_READS, play
from tests.support.proxy import (
    Fault,
    RandomFaults,
    Script,
    Stalled,
    answer_lost,
    bit_flipped,
    body_cut,
    failed,
    head_cut,
    passed,
    refused,
    request_lost,
    reset_after,
    reset_before,
)
from tests.support.replicas import Replica, rows
from tests.sync.checks import sound_log

ROUNDS = int(os.environ.get("GRAFT_TEST_NETWORK_ROUNDS", "25"))
"""How many games a deep run plays on each server; it has four times as many readers."""


@pytest.fixture(autouse=True)
def no_pauses() -> Iterator[None]:
    with without_pauses():
        yield


@pytest.fixture
def network(ministack, tmp_path) -> Iterator[Network]:
    with Network(ministack, tmp_path) as network:
        yield network


@pytest.mark.parametrize("seed", ["1", "2"])
def test_results_on_a_bad_network_are_correct(network, seed) -> None:
    tally = play(network, seed, steps=30, races=2, rate=0.15)
    assert tally["push"] >= 3, tally


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("server", ["ministack", "seaweedfs"])
def test_results_on_bad_networks_are_correct(request, tmp_path, server) -> None:
    endpoint, total = request.getfixturevalue(server), Counter()
    for number in range(ROUNDS):
        seed = f"{server} {number}"
        rate = random.Random(seed).choice([0.05, 0.2, 0.4])
        with Network(endpoint, tmp_path / str(number)) as network:
            total += play(network, seed, steps=60, races=4, rate=rate)
    print(f"\n{ROUNDS} games on {server}")
    for what, count in sorted(total.items()):
        print(f"{count:7} {what}")


# Reads -------------------------------------------------------------------------------------------


@pytest.fixture
def library(network) -> Iterator[Replica]:
    """A machine without a proxy that has pushed a table of 600 rows, as `main`."""
    with network.judge() as library:
        connection = library.connect()
        chance = random.Random(1)
        with connection:
            connection.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, name TEXT, v BLOB)")
            for key in range(600):
                row = (key, f"name {chance.randrange(1000)}", chance.randbytes(700))
                connection.execute("INSERT INTO t VALUES(?, ?, ?)", row)
            connection.execute("CREATE INDEX names ON t(name)")
        library.engine.push("main")
        yield library


QUERIES = (
    *(f"SELECT * FROM t WHERE k = {key}" for key in (7, 311, 599)),
    "SELECT * FROM t WHERE name >= 'name 9' ORDER BY name, k",
    "SELECT k, v FROM t ORDER BY k",
    "SELECT count(*), max(name), sum(length(v)) FROM t",
)


READ_ERRORS = (apsw.IOError, apsw.CorruptError, apsw.CantOpenError)
"""CantOpen, because a ref carries no checksum: a flipped bit can name a log that does not exist."""


def read_through(reader: Machine, expected: dict[str, list[tuple]]) -> Counter[str]:
    """Ask everything on one connection: the right rows or a declared error, and it goes on."""
    tally: Counter[str] = Counter()
    connection = None
    for _ in range(4):
        for query, answer in expected.items():
            try:
                if connection is None:
                    connection = reader.connect(remote="main")
                found = rows(connection, query)
            except READ_ERRORS as error:
                check_declared(error, reader.proxy.endpoint)
                tally[type(error).__name__] += 1
            else:
                assert found == answer, query
                tally["right"] += 1
    reader.proxy.choose = lambda _: passed
    connection = connection or reader.connect(remote="main")
    assert {query: rows(connection, query) for query in expected} == expected
    assert connection.pragma("integrity_check") == "ok"
    return tally


@pytest.mark.parametrize(
    "faults",
    [
        {"bit flipped": bit_flipped},
        {"body cut": body_cut, "head cut": head_cut},
        {"refused": refused(500, "InternalError"), "slow down": refused(503, "SlowDown")},
        {"lost": answer_lost, "reset": reset_after},
    ],
    ids=["flipped", "cut", "refused", "lost"],
)
def test_reads_over_a_bad_network_are_correct_or_declared_errors(network, library, faults) -> None:
    expected = {query: rows(library.connect(), query) for query in QUERIES}
    reader = network.machine("reader")
    kinds = {"get": faults, "list": {} if "bit flipped" in faults else faults}
    reader.proxy.choose = drawn = RandomFaults(
        "reads", {kind: those for kind, those in kinds.items() if those}, rate=0.4
    )
    tally = read_through(reader, expected)
    assert tally["right"] >= 3
    assert tally.total() > tally["right"], "no error was seen, so nothing was proved"
    assert set(faults) <= {name.partition(": ")[2] for name in drawn.drawn}
    reader.engine.hydrate("main")
    assert reader.engine.audit("main").checksum == library.engine.audit("main").checksum


@pytest.mark.deep
@pytest.mark.timeout(1800)
def test_reads_over_bad_networks_are_correct_or_declared_errors(network, library) -> None:
    expected = {query: rows(library.connect(), query) for query in QUERIES}
    total: Counter[str] = Counter()
    for number in range(4 * ROUNDS):
        reader = network.machine(f"reader-{number}")
        reader.proxy.choose = drawn = RandomFaults(
            f"reads {number}", {"get": ON_READS, "list": ANYWHERE}, rate=0.6
        )
        total += read_through(reader, expected)
        total += drawn.drawn
    print(f"\n{4 * ROUNDS} readers: {dict(total)}")


def test_a_select_during_server_errors_fails_with_a_reason_and_the_connection_stays_usable(
    network, library
) -> None:
    reader = network.machine("reader")
    connection = reader.connect(remote="main")
    connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    reader.proxy.choose = lambda _: refused(500, "InternalError")
    for _ in range(3):
        with pytest.raises(apsw.IOError, match=r"HTTP 500, InternalError.*; try again") as caught:
            rows(connection)
        assert caught.value.extendedresult == apsw.SQLITE_IOERR_READ
    reader.proxy.choose = lambda _: passed
    assert rows(connection) == rows(library.connect())


# A network that fails for good -------------------------------------------------------------------

# The push comes first, while it is still proved where the log is: after a failure a push begins by
# proving that. It leaves its end unknown, which is what the pulls try to settle.
VERBS: dict[str, tuple[Callable[[Machine, apsw.Connection], object], dict[str, int]]] = {
    "push": (lambda machine, _: machine.engine.push("main"), {"claim": ATTEMPTS, "get": 2}),
    "settle": (lambda _, connection: connection.pragma("graft_pull"), {"get": 2 * ATTEMPTS}),
    "fetch": (lambda machine, _: machine.engine.fetch("main"), {"get": 2}),
    "pull": (lambda machine, _: machine.engine.pull("main"), {"get": 2 * ATTEMPTS}),
    "clone": (lambda machine, _: machine.engine.clone("main", "main"), {"get": 2}),
    "hydrate": (lambda machine, _: machine.engine.hydrate("main"), {"get": 2 * 3}),
    "select": (lambda _, connection: rows(connection), {"get": 2 * 2}),
}
"""What each verb does, and how many requests of which kind it may send when each is tried twice."""


def prepared(network: Network) -> Machine:
    """Make a machine with little of the table in its cache, and a local commit to push."""
    reader = network.machine("reader")
    reader.connect(remote="main").execute("CREATE TABLE own(k)")
    # Whether the remote is safe is found out now, so that a push sends its claim alone.
    ensure_safe_store(reader.engine.context, reader.engine.status("main").remote)
    return reader


THROTTLED_TIMES = 8
"""How many times as often a verb asks while it waits a minute for a store that throttles."""


def fail_all_verbs(
    reader: Machine, connection: apsw.Connection, fault: Fault, times: int = 1
) -> None:
    """Try every verb while every request meets a fault."""
    reader.proxy.choose = lambda _: fault
    for name, (verb, bounds) in VERBS.items():
        before = reader.proxy.counts()
        with pytest.raises((GraftError, apsw.Error)) as caught:
            verb(reader, connection)
        check_declared(caught.value, reader.proxy.endpoint)
        sent = reader.proxy.counts() - before
        assert sent, name
        within = [number <= times * bounds.get(kind, 0) for kind, number in sent.items()]
        assert all(within), (name, sent)
    reader.proxy.choose = lambda _: passed


def goes_on(reader: Machine, connection: apsw.Connection, library: Replica) -> None:
    assert rows(connection) == rows(library.connect())
    assert reader.engine.push("main").lsn == 2
    assert sound_log(library.engine.store, reader.engine.status("main").remote) == [1, 1]


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        (request_lost, 1),
        (answer_lost, 1),
        (reset_after, 1),
        (refused(500, "InternalError"), 1),
        (refused(503, "SlowDown"), THROTTLED_TIMES),
        (failed(500, "InternalError"), 1),
    ],
    ids=["request lost", "answer lost", "reset", "500", "slow down", "500 behind"],
)
def test_a_permanent_network_failure_ends_every_verb_within_its_limit(
    network, library, fault, times
) -> None:
    reader = prepared(network)
    connection = reader.connect()
    reader.engine.fetch("main")
    before = reader.proxy.counts()["claim"]
    fail_all_verbs(reader, connection, fault, times)
    assert reader.proxy.counts()["claim"] > before
    goes_on(reader, connection, library)


@pytest.mark.parametrize("half", [False, True], ids=["silent", "half an answer"])
def test_a_server_that_stalls_ends_every_verb_by_its_timeout(network, library, half) -> None:
    reader = network.restarted(prepared(network), read_timeout_seconds=0.05)
    fail_all_verbs(reader, reader.connect(), Stalled(half=half))
    reader = network.restarted(reader)
    goes_on(reader, reader.connect(), library)


# Uploads in parts --------------------------------------------------------------------------------


def write_large(machine: Machine) -> bytes:
    """Commit what fills two parts of 8 MiB and begins a third: bytes that do not compress."""
    blob = random.Random(3).randbytes(17 << 20)
    connection = machine.connect()
    connection.execute("CREATE TABLE t(v)")
    connection.execute("INSERT INTO t VALUES(?)", (blob,))
    return blob


def uploads(network: Network) -> list:
    """Return the uploads that the server has not seen completed or aborted."""
    with network.server.client() as client:
        return client.list_multipart_uploads(Bucket=network.bucket).get("Uploads", [])


def check_large(network: Network, machine: Machine, blob: bytes) -> None:
    assert uploads(network) == []
    with network.judge() as judge:
        assert rows(judge.connect(remote="main")) == [(blob,)]
        assert sound_log(judge.engine.store, machine.engine.status("main").remote) == [2]


UPLOAD_FAULTS = [
    {
        "upload": [refused(503, "SlowDown")],
        "part": [refused(500, "InternalError"), passed, answer_lost],
    },
    {
        "part": [reset_before, reset_after, passed, failed(503, "SlowDown")],
        "upload": [passed, refused(500, "InternalError"), request_lost],
    },
    {"upload": [passed, answer_lost]},
    {"upload": [passed, head_cut]},
]
"""The first request of kind `upload` begins one, the second completes it."""


@pytest.mark.parametrize("number", range(len(UPLOAD_FAULTS)))
def test_an_upload_with_failing_requests_completes(network, number) -> None:
    machine = network.machine("a", attempts_max=4)
    blob = write_large(machine)
    machine.proxy.choose = script = Script(**UPLOAD_FAULTS[number])
    assert machine.engine.push("main").lsn == 1
    assert script.is_over
    check_large(network, machine, blob)


def test_a_failed_upload_leaves_nothing_and_the_next_push_succeeds(
    network,
) -> None:
    machine = network.machine("a")
    blob = write_large(machine)
    machine.proxy.choose = lambda request: (
        refused(500, "InternalError") if "partNumber=2" in request.target else passed
    )
    with pytest.raises(StoreUnavailableError) as caught:
        machine.engine.push("main")
    check_declared(caught.value, machine.proxy.endpoint)
    assert uploads(network) == []
    assert machine.engine.status("main").pending_push is False
    assert machine.proxy.counts()["claim"] == 0
    machine.proxy.choose = lambda _: passed
    assert machine.engine.push("main").lsn == 1
    check_large(network, machine, blob)
