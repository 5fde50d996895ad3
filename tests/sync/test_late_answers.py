"""Writes and answers that arrive after their caller has given up: no LSN gets two owners.

A machine's write is held on its way, or its answer is. The machine gives up by its timeout, others
go on, and then the write arrives. Every step is handed over by an event; nothing is left to time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from graft_vfs.errors import (
    AlreadyExistsError,
    CommitOutcomeUnknownError,
    DivergedError,
    StoreUnavailableError,
)
from graft_vfs.ids import LogId
from graft_vfs.remote.log import commit_key
from graft_vfs.remote.refs import read_ref
from graft_vfs.sync.push import ensure_safe_store
from tests.support.network import Machine, Network, check_declared, without_pauses
from tests.support.proxy import (
    Fault,
    Held,
    Late,
    Script,
    answer_lost,
    passed,
    refused,
    request_lost,
)
from tests.support.replicas import rows
from tests.sync.checks import sound_log

GIVES_UP_SECONDS = 0.5
ATTEMPTS = 6


@pytest.fixture(autouse=True)
def no_pauses() -> Iterator[None]:
    with without_pauses():
        yield


@pytest.fixture
def network(ministack, tmp_path) -> Iterator[Network]:
    with Network(ministack, tmp_path) as network:
        yield network


class Pair(NamedTuple):
    """Two machines on LSN 1 with a local commit each: rows 10 and 20."""

    ours: Machine
    theirs: Machine
    log: LogId


@pytest.fixture
def pair(network) -> Pair:
    ours, theirs = network.machine("ours"), network.machine("theirs")
    ours.connect().execute("CREATE TABLE t(k INTEGER PRIMARY KEY); INSERT INTO t VALUES(1)")
    ours.engine.push("main")
    theirs.connect(remote="main").execute("INSERT INTO t VALUES(20)")
    ours.connect().execute("INSERT INTO t VALUES(10)")
    # Whether the remote is safe is found out now, so that later pushes send their claims alone.
    log_id = ours.engine.status("main").remote
    ensure_safe_store(theirs.engine.context, log_id)
    return Pair(ours, theirs, log_id)


def give_up(machine: Machine, first: Fault) -> None:
    """Push with a claim whose first write meets a fault; those after it never leave."""
    machine.proxy.choose = script = Script(claim=[first] + [request_lost] * (ATTEMPTS - 1))
    with pytest.raises(CommitOutcomeUnknownError, match="push again") as caught:
        machine.engine.push("main")
    check_declared(caught.value, machine.proxy.endpoint)
    assert script.is_over
    assert machine.engine.status("main").pending_push


def give_up_by_timeout(network: Network, machine: Machine, held: Held) -> Machine:
    """The same with a client that waits in vain; it is patient again afterwards, and restarted."""
    impatient = network.restarted(machine, read_timeout_seconds=GIVES_UP_SECONDS)
    give_up(impatient, held)
    return network.restarted(impatient)


def check(network: Network, log: LogId, *expected: int) -> None:
    """The remote has these rows, from one transaction for each LSN, whatever is still under way."""
    with network.judge() as judge:
        assert rows(judge.connect(remote="main")) == [(key,) for key in sorted(expected)]
        seen = [rows(judge.connect(lsn=str(lsn))) for lsn in range(1, len(expected) + 1)]
        assert [len(found) for found in seen] == list(range(1, len(expected) + 1))
        assert sum(sound_log(judge.engine.store, log)) == len(expected) + 1


def arrived(late: Late) -> list[int]:
    """Let the late writes arrive; returns what the server says to each."""
    return [answer.status for answer in late.deliver()]


def claims(machine: Machine, log: LogId, lsn: int) -> list[bytes]:
    """Return what a machine sent to the key of an LSN."""
    key = commit_key(log, lsn)
    return [
        request.body
        for request in machine.proxy.requests
        if request.method == "PUT" and request.key == key
    ]


@pytest.mark.parametrize("verb", ["push", "pull"])
def test_a_claim_that_arrives_after_another_has_won_is_reported_lost(network, pair, verb) -> None:
    late = Held()
    ours = give_up_by_timeout(network, pair.ours, late)
    assert pair.theirs.engine.push("main").lsn == 2
    assert late.let_go().status == 412
    with pytest.raises(DivergedError):
        getattr(ours.engine, verb)("main")
    status = ours.engine.status("main")
    assert (status.pending_push, status.ahead, status.behind) == (False, 1, 1)
    assert rows(ours.connect()) == [(1,), (10,)]
    check(network, pair.log, 1, 20)
    # A push that knows that it has lost sends nothing else for the same LSN.
    assert len(set(claims(ours, pair.log, 2))) == 1


def test_a_claim_reported_lost_before_it_arrives_stays_lost(network, pair) -> None:
    late = Late()
    give_up(pair.ours, late)
    assert pair.theirs.engine.push("main").lsn == 2
    with pytest.raises(DivergedError):
        pair.ours.engine.push("main")
    assert arrived(late) == [412]
    assert rows(pair.ours.connect()) == [(1,), (10,)]
    check(network, pair.log, 1, 20)


@pytest.mark.parametrize("verb", ["push", "pull"])
def test_an_abandoned_claim_that_arrives_first_is_won(network, pair, verb) -> None:
    late = Late()
    give_up(pair.ours, late)
    assert arrived(late) == [200]
    with pytest.raises(DivergedError):
        pair.theirs.engine.push("main")
    getattr(pair.ours.engine, verb)("main")
    status = pair.ours.engine.status("main")
    assert (status.pending_push, status.base_lsn, status.ahead) == (False, 2, 0)
    assert rows(pair.theirs.connect()) == [(1,), (20,)]
    check(network, pair.log, 1, 10)


def test_a_claim_that_arrives_before_a_competing_claim_wins(network, pair) -> None:
    late, rival = Late(), Held()
    give_up(pair.ours, late)
    pair.theirs.proxy.choose = Script(claim=[rival])
    with ThreadPoolExecutor(1) as background:
        pushed = background.submit(pair.theirs.engine.push, "main")
        rival.wait_until_it_is_here()
        assert arrived(late) == [200]
        assert rival.let_go().status == 412
    assert isinstance(pushed.exception(), DivergedError)
    assert pair.ours.engine.pull("main").lsn == 2
    check(network, pair.log, 1, 10)


def test_a_claim_that_arrives_while_it_is_being_settled_is_won_once(network, pair) -> None:
    late, second = Late(), Held()
    give_up(pair.ours, late)
    pair.ours.connect().execute("INSERT INTO t VALUES(11)")
    pair.ours.proxy.choose = Script(claim=[second])
    with ThreadPoolExecutor(1) as background:
        pushed = background.submit(pair.ours.engine.push, "main")
        second.wait_until_it_is_here()
        assert arrived(late) == [200]
        assert second.let_go().status == 412
    assert pushed.result().lsn == 3
    assert pair.ours.engine.status("main").base_lsn == 3
    check(network, pair.log, 1, 10, 11)


def test_a_claim_that_was_settled_before_it_arrives_is_won_once(network, pair) -> None:
    late = Late()
    give_up(pair.ours, late)
    pair.ours.connect().execute("INSERT INTO t VALUES(11)")
    assert pair.ours.engine.push("main").lsn == 3
    assert arrived(late) == [412]
    check(network, pair.log, 1, 10, 11)


def test_a_claim_keeps_its_bytes_across_restarts_and_new_commits(network, pair) -> None:
    ours = pair.ours
    writes = [Late() for _ in range(3)]
    for number, late in enumerate(writes):
        give_up(ours, late)
        ours = network.restarted(ours)
        ours.connect().execute("INSERT INTO t VALUES(?)", (11 + number,))
    # The last of them comes first.
    assert [arrived(late) for late in reversed(writes)] == [[200], [412], [412]]
    assert ours.engine.push("main").lsn == 3
    sent = claims(ours, pair.log, 2)
    assert len(sent) == 3 * ATTEMPTS, "the last push settled it by reading"
    assert len(set(sent)) == 1
    with network.judge() as judge:
        assert rows(judge.connect(remote="main")) == [(1,), (10,), (11,), (12,), (13,)]
        assert sound_log(judge.engine.store, pair.log) == [2, 1, 3]


@pytest.mark.parametrize(("verb", "others"), [("push", 0), ("push", 3), ("pull", 3)])
def test_a_claim_whose_answer_was_late_is_found_below_later_commits(
    network, pair, verb, others
) -> None:
    late = Held(answer=True)
    ours = give_up_by_timeout(network, pair.ours, late)
    theirs = network.machine("clone")
    connection = theirs.connect(remote="main")
    for number in range(others):
        connection.execute("INSERT INTO t VALUES(?)", (30 + number,))
        assert theirs.engine.push("main").lsn == 3 + number
    assert late.let_go().status == 200
    ours.engine.fetch("main")
    assert ours.engine.status("main").pending_push
    getattr(ours.engine, verb)("main")
    assert ours.engine.status("main").pending_push is False
    assert ours.engine.pull("main").lsn == 2 + others
    assert rows(ours.connect()) == rows(connection)
    check(network, pair.log, 1, 10, *range(30, 30 + others))


def test_only_commits_after_a_silently_landed_claim_diverge(network, pair) -> None:
    give_up(pair.ours, answer_lost)
    pair.ours.connect().execute("INSERT INTO t VALUES(11)")
    theirs = network.machine("clone")
    theirs.connect(remote="main").execute("INSERT INTO t VALUES(30)")
    assert theirs.engine.push("main").lsn == 3
    with pytest.raises(DivergedError):
        pair.ours.engine.push("main")
    status = pair.ours.engine.status("main")
    assert (status.pending_push, status.base_lsn, status.ahead, status.behind) == (False, 2, 1, 1)
    assert rows(pair.ours.connect()) == [(1,), (10,), (11,)]
    check(network, pair.log, 1, 10, 30)


def test_a_lost_claim_is_forgotten_only_when_its_winner_is_known(network, pair) -> None:
    give_up(pair.ours, request_lost)
    assert pair.theirs.engine.push("main").lsn == 2
    # After the failure LSN 1 is read to see that this is still the same remote. The winner is read
    # once to see that it is another commit, and then again to fetch it.
    pair.ours.proxy.choose = script = Script(get=[passed] * 2 + [request_lost] * 2)
    with pytest.raises(StoreUnavailableError):
        pair.ours.engine.push("main")
    assert script.is_over
    assert pair.ours.engine.status("main").pending_push
    with pytest.raises(DivergedError):
        pair.ours.engine.push("main")
    assert pair.ours.engine.status("main").pending_push is False
    assert len(set(claims(pair.ours, pair.log, 2))) == 1


@pytest.mark.parametrize(
    ("status", "code"), [(409, "ConditionalRequestConflict"), (412, "PreconditionFailed")]
)
def test_a_refusal_proves_nothing_while_the_key_is_absent(network, pair, status, code) -> None:
    pair.ours.proxy.choose = script = Script(claim=[refused(status, code)] * 2)
    assert pair.ours.engine.push("main").lsn == 2
    assert script.is_over
    check(network, pair.log, 1, 10)


# Other late writes ------------------------------------------------------------------------------


@pytest.mark.parametrize("rival_is_first", [True, False])
def test_a_late_ref_leaves_the_name_to_one_log(network, rival_is_first) -> None:
    ours, theirs = network.machine("ours"), network.machine("theirs")
    for key, machine in enumerate((ours, theirs)):
        connection = machine.connect()
        connection.execute("CREATE TABLE t(k INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO t VALUES(?)", (key,))
    late = Late()
    ours.proxy.choose = Script(ref=[late] + [request_lost] * 9)
    pushed = ours.engine.push("main")
    assert (pushed.lsn, pushed.claimed) == (1, True)
    assert "has no ref 'main' yet; the next push tries again" in pushed.warning
    ours.proxy.choose = lambda _: passed
    assert ours.engine.status("main").pending_push is False
    if rival_is_first:
        theirs.engine.push("main")
        late.deliver()
    else:
        late.deliver()
        with pytest.raises(AlreadyExistsError, match="nothing was pushed"):
            theirs.engine.push("main")
        theirs.engine.push("main", name="theirs")
    warning = ours.engine.push("main").warning
    assert ("names log" in warning) if rival_is_first else (warning is None)
    assert ours.engine.push("main").warning is None
    status = ours.engine.status("main")
    assert (status.pending_push, status.base_lsn, status.ahead) == (False, 1, 0)
    first = theirs if rival_is_first else ours
    with network.judge() as judge:
        assert read_ref(judge.engine.store, "main") == first.engine.status("main").remote
        for key, machine in enumerate((ours, theirs)):
            log = machine.engine.status("main").remote
            assert rows(judge.connect(f"of-{key}", remote=str(log))) == [(key,)]


@pytest.mark.parametrize(
    ("kind", "lates", "megabytes"),
    [
        ("put", [True], 2),
        ("part", [True], 9),
        ("upload", [True, False, True], 9),  # The requests that begin and complete an upload.
    ],
    ids=["whole", "part", "upload"],
)
def test_a_late_write_of_a_segment_changes_no_byte(network, pair, kind, lates, megabytes) -> None:
    late = Late()
    blob = random.Random(megabytes).randbytes(megabytes << 20)
    pair.ours.connect().execute("CREATE TABLE big(v)")
    pair.ours.connect().execute("INSERT INTO big VALUES(?)", (blob,))
    pair.ours.proxy.choose = Script(**{kind: [late if is_late else passed for is_late in lates]})
    assert pair.ours.engine.push("main").lsn == 2
    assert len(arrived(late)) == sum(lates)
    with network.judge() as judge:
        assert rows(judge.connect(remote="main"), "SELECT v FROM big") == [(blob,)]
        assert sound_log(judge.engine.store, pair.log) == [2, 3]
