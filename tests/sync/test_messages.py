"""Messages of pushes: in the commit, on every machine, and through lost answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from graft_vfs.errors import CommitOutcomeUnknownError, UsageError
from graft_vfs.local.messages import Messages
from graft_vfs.pages import LocalLsn
from graft_vfs.store.memory import MemoryStore
from graft_vfs.sync import push
from tests.support.faults import Fault, FaultyStore
from tests.support.replicas import Replica, machines_on, rows


def write(machine: Replica, *numbers: int) -> None:
    connection = machine.connect()
    connection.execute("CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY)")
    for number in numbers:
        connection.execute("INSERT INTO t VALUES(?)", (number,))


def messages(machine: Replica) -> list[str]:
    return [entry.message for entry in machine.engine.log("main")]


@pytest.fixture
def s3(ministack, tmp_path) -> Iterator[Callable[[str], Replica]]:
    with machines_on(ministack, tmp_path) as make:
        yield make


def test_another_machine_reads_what_a_push_says_and_it_costs_no_request(s3) -> None:
    ours, theirs = s3("ours"), s3("theirs")
    write(ours, 1)
    ours.engine.push("main")
    write(ours, 2)
    before = ours.counts()
    ours.engine.push("main", message="  größer,\nand on two lines\n")
    assert (ours.counts() - before).requests == 1
    theirs.engine.clone("main", "main")
    for machine in (ours, theirs):
        assert messages(machine) == ["größer,\nand on two lines", ""]
        shown = machine.engine.show("main")
        assert shown.message == "größer,\nand on two lines"
        assert str(shown).endswith("\n\n    größer,\n    and on two lines")
        assert str(machine.engine.log("main")[0]).endswith("  größer,")
    write(theirs, 3)
    theirs.engine.push("main")
    ours.engine.pull("main")
    assert messages(ours)[:2] == ["", "größer,\nand on two lines"]
    assert rows(ours.connect()) == [(1,), (2,), (3,)]


@pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.CUT_AFTER, Fault.CUT_BEFORE])
def test_a_message_stays_with_the_push_that_it_was_given_to(replicas, fault) -> None:
    ours = replicas("ours", store=FaultyStore(MemoryStore()))
    write(ours, 1)
    ours.engine.push("main")
    store = ours.engine.store
    store._at, store._fault = len(store.effects), fault
    write(ours, 2)
    if fault is Fault.LOST_ANSWER:
        ours.engine.push("main", message="first")
    else:
        with pytest.raises(CommitOutcomeUnknownError):
            ours.engine.push("main", message="first")
    store._at, store.is_cut = None, False
    write(ours, 3)
    ours.engine.push("main", message="second")
    assert messages(ours) == ["second", "first", ""]


def test_a_message_without_a_commit_is_not_used(replicas) -> None:
    ours = replicas("ours")
    write(ours, 1)
    ours.engine.push("main")
    assert not ours.engine.push("main", message="nothing").claimed
    write(ours, 2)
    ours.engine.push("main")
    assert messages(ours) == ["", ""]


@pytest.mark.parametrize("message", ["x" * 4097, "é" * 2049, "\ud800"])
def test_what_no_reader_takes_is_refused_before_anything_is_sent(replicas, message) -> None:
    ours = replicas("ours")
    write(ours, 1)
    before = ours.counts()
    with pytest.raises(UsageError, match="at most 4096 bytes") as caught:
        ours.engine.push("main", message=message)
    assert "shorten" in caught.value.next_step
    assert ours.counts() == before
    ours.engine.push("main", message="x" * 4096)
    assert messages(ours) == ["x" * 4096]


def test_a_message_that_another_process_adds_during_a_push_is_published(
    replicas, monkeypatch
) -> None:
    ours = replicas("ours")
    write(ours, 1)
    volume = ours.engine.open("main")
    build = push.build

    def build_beside_an_import(*arguments, **keywords):
        # Its commit was durable before its message.
        Messages(volume.directory).add(volume.snapshot.lsn, "late", first=LocalLsn(1))
        return build(*arguments, **keywords)

    monkeypatch.setattr(push, "build", build_beside_an_import)
    assert ours.engine.push("main").lsn == 1
    assert messages(ours) == ["late"]


def test_a_message_that_comes_during_a_claim_is_missed_with_a_warning(
    replicas, monkeypatch
) -> None:
    ours = replicas("ours")
    write(ours, 1)
    volume = ours.engine.open("main")
    claim = push.claim_recorded

    def claim_beside_an_import(*arguments):
        Messages(volume.directory).add(volume.snapshot.lsn, "late", first=LocalLsn(1))
        return claim(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(push, "claim_recorded", claim_beside_an_import)
        assert "came during the push" in ours.engine.push("main").warning
    write(ours, 2)
    assert ours.engine.push("main").warning is None
    assert messages(ours) == ["", ""]
