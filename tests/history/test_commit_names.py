"""Names of commits: given once, found by every machine, and what they cost."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import (
    AlreadyExistsError,
    CommitOutcomeUnknownError,
    CorruptObjectError,
    FutureVersionError,
    HistoryMismatchError,
    NoRemoteError,
    NotFoundError,
    StoreUnavailableError,
    UsageError,
)
from graft_vfs.format.name import decode_name
from graft_vfs.history import names
from graft_vfs.history.names import RemoteCommit
from graft_vfs.remote.names import create_name, list_names, name_key, read_name
from graft_vfs.store.memory import MemoryStore
from tests.support.faults import Fault, FaultyStore
from tests.support.replicas import Replica, machines_on, rows


def push_each(replica: Replica, *numbers: int, tag: str = "main") -> None:
    connection = replica.connect(tag)
    connection.execute("CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY)")
    for number in numbers:
        connection.execute("INSERT INTO t VALUES(?)", (number,))
        replica.engine.push(tag)


def used(replica: Replica, work: Callable[[], object]) -> tuple[int, int, int, int]:
    """Return how many conditional writes, reads, listings, and other requests were sent."""
    before = replica.counts()
    work()
    found = replica.counts() - before
    others = found.requests - found.put_if_absent - found.get_range - found.list
    return found.put_if_absent, found.get_range, found.list, others


def given(replica: Replica, tag: str = "main") -> dict[str, int]:
    return {each.name: each.lsn for each in replica.engine.names(tag)}


@pytest.fixture
def s3(ministack, tmp_path) -> Iterator[Callable[[str], Replica]]:
    with machines_on(ministack, tmp_path) as make:
        yield make


# Over HTTP --------------------------------------------------------------------------------------


def test_another_machine_finds_a_commit_by_its_name(s3) -> None:
    ours, theirs = s3("ours"), s3("theirs")
    push_each(ours, 1, 2, 3)
    found = used(ours, lambda: ours.engine.name("main", "v1", "2", message="two rows"))
    assert found == (1, 0, 0, 0)
    ours.engine.name("main", "größe/new")
    theirs.engine.clone("main", "main")
    assert used(theirs, lambda: theirs.engine.resolve("main", "v1")) == (0, 1, 0, 0)
    assert used(theirs, lambda: theirs.engine.resolve("main", "v1~1")) == (0, 0, 0, 0)
    assert rows(theirs.connect("main", lsn="v1")) == [(1,), (2,)]
    assert rows(theirs.connect("main", as_of="größe/new")) == [(1,), (2,), (3,)]
    found = theirs.engine.names("main")
    assert [(each.name, each.lsn, each.message) for each in found] == [
        ("größe/new", 3, ""), ("v1", 2, "two rows"),
    ]  # fmt: skip
    assert found[0].author == ours.engine.context.author.name
    assert used(theirs, lambda: theirs.engine.names("main")) == (0, 2, 1, 0)
    push_each(ours, 4)
    ours.engine.name("main", "v2")
    assert theirs.engine.resolve("main", "v2") == RemoteCommit(found[0].log, 4)


def test_a_poll_asks_for_no_names(s3) -> None:
    ours, theirs = s3("ours"), s3("theirs")
    push_each(ours, 1)
    theirs.engine.clone("main", "main")
    theirs.engine.pull("main")
    for number in (2, 3):
        ours.engine.name("main", f"v{number}")
        assert used(theirs, lambda: theirs.engine.pull("main")) == (0, 1, 0, 0)
        assert used(theirs, lambda: theirs.engine.fetch("main")) == (0, 1, 0, 0)
        push_each(ours, number)
        assert used(theirs, lambda: theirs.engine.pull("main")) == (0, 2, 0, 0)
    assert used(ours, lambda: push_each(ours, 9)) == (1, 0, 0, 0)


@pytest.mark.parametrize("server", ["ministack", "seaweedfs"])
def test_of_machines_that_give_one_name_at_once_one_wins(server, request, tmp_path) -> None:
    endpoint = request.getfixturevalue(server)
    remote = RemoteConfig(
        type="s3_compatible", bucket=endpoint.fresh_bucket(), prefix="p", endpoint=endpoint.url
    )
    with endpoint.identity():
        made = [Replica(tmp_path / str(number), remote) for number in range(4)]
        push_each(made[0], 1, 2, 3, 4)
        for machine in made[1:]:
            machine.engine.clone("main", "main")
        for machine in made:
            machine.engine.names("main")
        barrier, outcomes = threading.Barrier(len(made)), {}

        def give(number: int) -> None:
            barrier.wait()
            try:
                outcomes[number] = made[number].engine.name("main", "v1", str(number + 1))
            except AlreadyExistsError as error:
                outcomes[number] = error

        threads = [threading.Thread(target=give, args=(number,)) for number in range(len(made))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = [n for n, found in outcomes.items() if not isinstance(found, Exception)]
        assert outcomes[winner].lsn == winner + 1
        for number, machine in enumerate(made):
            if number != winner:
                assert f"'v1' names LSN {winner + 1} of log" in str(outcomes[number])
            assert machine.engine.resolve("main", "v1").lsn == winner + 1
            assert given(machine) == {"v1": winner + 1}
        for machine in made:
            machine.close()


# On a store in memory ---------------------------------------------------------------------------


@pytest.fixture
def ours(replicas) -> Replica:
    replica = replicas("ours")
    push_each(replica, 1, 2, 3)
    return replica


def test_a_local_commit_cannot_be_named_before_it_is_pushed(ours) -> None:
    ours.connect().execute("INSERT INTO t VALUES(4)")
    with pytest.raises(UsageError, match=r"is the local commit .*, which is not pushed") as caught:
        ours.engine.name("main", "v1")
    assert "engine.push" in caught.value.next_step
    assert ours.engine.name("main", "v1", "BASE").lsn == 3
    assert ours.engine.name("main", "v0", "HEAD~2").lsn == 2
    ours.engine.push("main")
    assert ours.engine.name("main", "v2").lsn == 4


@pytest.mark.parametrize("name", ["7", "HEAD", "today", "2026-01-31", "a b", "", "x" * 101])
def test_what_a_ref_says_otherwise_is_no_name(ours, name) -> None:
    with pytest.raises(UsageError, match=r"cannot name a commit|names a commit already"):
        ours.engine.name("main", name)


def test_a_message_that_is_too_long_is_refused(ours) -> None:
    assert ours.engine.name("main", "v1", message=" é " * 1000 + "\n").message.endswith("é")
    for message in ("x" * 4097, "\ud800"):
        with pytest.raises(UsageError, match="at most 4096 bytes"):
            ours.engine.name("main", "v2", message=message)
    assert given(ours) == {"v1": 3}


def test_a_name_is_never_moved(ours) -> None:
    ours.engine.name("main", "v1", "1")
    for ref, message in (("1", "why"), ("2", "")):
        with pytest.raises(AlreadyExistsError, match=r"'v1' names LSN 1 of .* already") as caught:
            ours.engine.name("main", "v1", ref, message=message)
        assert "remove_name('main', 'v1')" in caught.value.next_step
    assert ours.engine.name("main", "v1", "1").lsn == 1
    assert given(ours) == {"v1": 1}


def test_a_name_that_is_removed_is_known_until_names_are_listed(ours, replicas) -> None:
    theirs, others = replicas("theirs"), replicas("others")
    for machine in (theirs, others):
        machine.engine.clone("main", "main")
    ours.engine.name("main", "v1", "1")
    assert theirs.engine.resolve("main", "v1").lsn == 1
    assert others.engine.remove_name("main", "v1").lsn == 1
    with pytest.raises(NotFoundError, match="'v1' names no commit"):
        others.engine.resolve("main", "v1")
    assert theirs.engine.resolve("main", "v1").lsn == 1
    assert given(theirs) == {}
    with pytest.raises(NotFoundError, match="'v1' names no commit"):
        theirs.engine.resolve("main", "v1")
    assert ours.engine.resolve("main", "v1").lsn == 1
    with pytest.raises(NotFoundError, match="has no name 'v1'"):
        ours.engine.remove_name("main", "v1")
    with pytest.raises(NotFoundError, match="'v1' names no commit"):
        ours.engine.resolve("main", "v1")
    assert ours.engine.name("main", "v1", "2").lsn == 2
    assert theirs.engine.resolve("main", "v1").lsn == 2


def test_an_unknown_name_costs_one_request_and_near_ones_are_suggested(ours) -> None:
    ours.engine.name("main", "release-1", "1")
    for typed, near in (("realease-1", "'release-1'"), ("HAED", "'HEAD'")):
        with pytest.raises(NotFoundError, match=f"'{typed}' names no commit") as caught:
            ours.engine.resolve("main", typed)
        assert f"did you mean {near}" in caught.value.next_step

    def fail() -> None:
        with pytest.raises(NotFoundError):
            ours.engine.resolve("main", "nothing-like-it")

    assert used(ours, fail) == (0, 1, 0, 0)


def test_names_are_known_while_the_remote_is_away(replicas, tmp_path) -> None:
    inner = MemoryStore()
    store = FaultyStore(inner)
    ours = replicas("ours", store=store)
    push_each(ours, 1, 2)
    ours.engine.name("main", "v1", "1")
    store.is_cut = True
    assert ours.engine.resolve("main", "v1").lsn == 1
    with pytest.raises(
        NotFoundError, match="known here, and the remote could not be asked: a test"
    ):
        ours.engine.resolve("main", "v2")
    with pytest.raises(StoreUnavailableError):
        ours.engine.names("main")


def test_without_a_remote_there_are_no_names(tmp_path) -> None:
    with Replica(tmp_path / "data", RemoteConfig()) as ours:
        ours.connect().execute("CREATE TABLE t(k)")
        for verb in (
            lambda: ours.engine.name("main", "v1"),
            lambda: ours.engine.names("main"),
            lambda: ours.engine.remove_name("main", "v1"),
        ):
            with pytest.raises(NoRemoteError):
                verb()
        with pytest.raises(NotFoundError, match="'v1' names no commit"):
            ours.engine.resolve("main", "v1")


def test_a_fork_finds_the_names_of_the_log_that_it_was_made_from(ours, replicas) -> None:
    ours.engine.name("main", "v1", "2")
    log = ours.engine.status("main").remote
    ours.engine.fork("main", new_tag="side")
    ours.engine.name("side", "fork-point")
    assert given(ours) == given(ours, "side") == {"v1": 2, "fork-point": 3}
    push_each(ours, 9, tag="side")
    ours.engine.name("side", "v2")
    theirs = replicas("theirs")
    theirs.engine.clone("side", "side")
    assert used(theirs, lambda: theirs.engine.resolve("side", "v1")) == (0, 2, 0, 0)
    assert theirs.engine.resolve("side", "v1") == RemoteCommit(log, 2)
    assert theirs.engine.resolve("side", "v2").log == ours.engine.status("side").remote
    assert theirs.engine.resolve("side", "v2~1") == RemoteCommit(log, 3)
    assert [each.name for each in theirs.engine.names("side")] == ["v2", "fork-point", "v1"]
    assert used(ours, lambda: ours.engine.remove_name("side", "v1")) == (0, 2, 0, 1)
    assert given(ours) == {"fork-point": 3}


def test_names_survive_in_the_catalog_and_an_older_one_gets_them(ours, replicas) -> None:
    assert not ours.engine.catalog.names.all(ours.engine.status("main").remote)
    ours.engine.name("main", "v1", "1")
    ours.close()
    again = replicas("ours")
    assert used(again, lambda: again.engine.resolve("main", "v1")) == (0, 0, 0, 0)
    log = again.engine.status("main").remote
    assert decode_name(again.engine.catalog.names.all(log)[0], key="it").name == "v1"
    assert [each.name for each in names.known_names(again.engine.logs, log)] == ["v1"]


def test_a_name_that_a_later_version_kept_in_the_catalog_is_asked_for(ours) -> None:
    ours.engine.name("main", "v1", "1")
    log = ours.engine.status("main").remote
    (good,) = ours.engine.catalog.names.all(log)
    for bad in (good.replace(b"name 1", b"name 2", 1), good[:-1], b""):
        ours.engine.catalog.names.keep(log, {"v1": bad})
        assert [entry.names for entry in ours.engine.log("main")] == [(), (), ()]
        assert used(ours, lambda: ours.engine.resolve("main", "v1")) == (0, 1, 0, 0)
        assert ours.engine.log("main")[2].names == ("v1",)


@pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.LOST_REQUEST])
def test_a_name_whose_answer_is_lost_is_given_once(replicas, fault) -> None:
    inner = MemoryStore()
    ours = replicas("ours", store=FaultyStore(inner))
    push_each(ours, 1)
    effects = len(ours.engine.store.effects)
    ours.engine.store._at, ours.engine.store._fault = effects, fault
    assert ours.engine.name("main", "v1").lsn == 1
    assert given(ours) == {"v1": 1}


def test_a_name_whose_line_is_cut_is_an_error_and_can_be_given_again(replicas) -> None:
    inner = MemoryStore()
    ours = replicas("ours", store=FaultyStore(inner))
    push_each(ours, 1)
    store = ours.engine.store
    store._at, store._fault = len(store.effects), Fault.CUT_AFTER
    with pytest.raises((CommitOutcomeUnknownError, StoreUnavailableError)):
        ours.engine.name("main", "v1")
    store.is_cut, store._at = False, None
    assert ours.engine.name("main", "v1").lsn == 1
    assert given(ours) == {"v1": 1}


# What others left there -------------------------------------------------------------------------


def object_of(ours: Replica, name: str) -> tuple[MemoryStore, str]:
    log = ours.engine.status("main").remote
    return ours.engine.store, name_key(log, name)


def test_what_is_no_name_is_skipped_in_a_list_and_an_error_by_its_name(ours, caplog) -> None:
    ours.engine.name("main", "good")
    ours.engine.name("main", "bad")
    ours.engine.name("main", "future")
    store, key = object_of(ours, "bad")
    store.put(key, [store.get(key)[:-3]])
    store, future = object_of(ours, "future")
    store.put(future, [store.get(future).replace(b"name 1", b"name 2", 1)])
    store.put(key.replace("bad", "README"), [b"# hello"])
    store.put(key.replace("bad", "copy"), [store.get(key.replace("bad", "good"))])
    assert given(ours) == {"good": 3}
    assert "skipped 4 objects among the names" in caplog.text
    for name, kind in (("bad", CorruptObjectError), ("future", FutureVersionError),
                       ("copy", CorruptObjectError)):  # fmt: skip
        with pytest.raises(kind):
            ours.engine.resolve("main", name)
        with pytest.raises(kind):
            ours.engine.name("main", name)


def test_a_store_that_ignores_case_gives_no_name_to_the_wrong_commit(ours) -> None:
    ours.engine.name("main", "V1", "1")
    store, key = object_of(ours, "V1")
    store.put(key.replace("V1", "v1"), [store.get(key)])
    with pytest.raises(CorruptObjectError, match="is the name 'V1'"):
        ours.engine.resolve("main", "v1")


def test_a_name_of_a_history_that_was_replaced_names_nothing(ours) -> None:
    ours.engine.name("main", "v1", "1")
    store, key = object_of(ours, "v1")
    found = decode_name(store.get(key), key=key)
    wrong = dataclasses.replace(found, hash=bytes(32))
    store.put(key, [wrong.encode()])
    ours.engine.names("main")
    with pytest.raises(NotFoundError, match="given to another commit than LSN 1"):
        ours.engine.resolve("main", "v1")
    store.put(key, [dataclasses.replace(found, lsn=99).encode()])
    ours.engine.names("main")
    with pytest.raises(NotFoundError, match="no commit 99"):
        ours.engine.resolve("main", "v1")


def test_a_name_is_not_given_in_a_remote_that_is_another(ours, replicas, tmp_path) -> None:
    ours.close()
    other = replicas("ours", store=MemoryStore())
    with pytest.raises(HistoryMismatchError):
        other.engine.name("main", "v1")
    assert not list(other.engine.store.keys(""))


def test_names_of_every_length_have_a_key(ours) -> None:
    log = ours.engine.status("main").remote
    for name in ("x", "x" * 100, "é" * 100, "🜁" * 100, "a/b", "%2F", "CON"):
        given_name = ours.engine.name("main", name)
        assert read_name(ours.engine.store, log, name).lsn == given_name.lsn
        assert len(name_key(log, name)) < 260
    assert len(list(list_names(ours.engine.store, log))) == 7
    again = dataclasses.replace(read_name(ours.engine.store, log, "x"), attempt=bytes(16))
    assert create_name(ours.engine.store, again).attempt != bytes(16)
