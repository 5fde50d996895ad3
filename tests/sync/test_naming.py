"""A name on the remote belongs to one log: a push under it from elsewhere is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import AlreadyExistsError, InvalidTagError, NotFoundError
from graft_vfs.remote.log import RemoteLog
from graft_vfs.store.base import StoreCounts
from tests.support.faults import Fault, FaultyStore, ProcessStopped
from tests.support.replicas import Replica, rows


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Callable[..., Replica]]:
    """Make machines on one directory; a name made again is a restart."""
    made: dict[str, Replica] = {}
    remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))

    def make(name: str, **faulty: object) -> Replica:
        if name in made:
            made.pop(name).close()
        store = FaultyStore(remote.open(), **faulty) if faulty else None
        made[name] = Replica(tmp_path / name, remote, store=store)
        return made[name]

    yield make
    for machine in made.values():
        machine.close()


def written(machine: Replica, tag: str = "main") -> Replica:
    machine.connect(tag).execute(f"CREATE TABLE t(x); INSERT INTO t VALUES('{machine.vfs}')")
    return machine


def used(machine: Replica, tag: str = "main", **named: str) -> StoreCounts:
    before = machine.counts()
    machine.engine.push(tag, **named)
    return machine.counts() - before


def test_a_first_push_under_a_name_of_another_log_is_refused(machines, tmp_path) -> None:
    ours, theirs = written(machines("ours")), written(machines("theirs"))
    theirs.engine.push("main")
    log = theirs.engine.status("main").remote
    before = {path for path in (tmp_path / "remote").rglob("*") if path.is_file()}
    with pytest.raises(AlreadyExistsError, match=f"names log {log}, and not .*nothing was pushed"):
        ours.engine.push("main")
    assert {path for path in (tmp_path / "remote").rglob("*") if path.is_file()} == before
    status = ours.engine.status("main")
    assert (status.ahead, status.pending_push, status.attached) == (2, False, False)
    assert "names log" in status.last_error
    # The way out, and no word of a name is needed afterwards.
    assert ours.engine.push("main", name="mine").warning is None
    assert sorted(name for name, _ in ours.engine.refs()) == ["main", "mine"]
    ours.connect().execute("INSERT INTO t VALUES('more')")
    assert used(ours).requests == 1
    assert ours.engine.status("main").warning is None


def test_the_check_costs_no_request(machines) -> None:
    ours = written(machines("ours"))
    counts = used(ours)
    # The probe of a new remote, the ref and the commit.
    assert (counts.put_if_absent, counts.requests) == (2 + 1 + 1, 4)
    ours.engine.new("other")
    written(ours, "other")
    assert used(ours, "other").requests == 2
    theirs = written(machines("theirs"))
    before = theirs.counts()
    with pytest.raises(AlreadyExistsError):
        theirs.engine.push("main")
    counts = theirs.counts() - before
    assert (counts.put_if_absent, counts.get_range, counts.requests) == (1 + 1, 1, 3)


def test_a_fork_is_pushed_under_a_name_of_its_own(machines) -> None:
    ours = written(machines("ours"))
    ours.engine.push("main")
    ours.engine.fork("main")
    ours.connect().execute("INSERT INTO t VALUES('fork')")
    with pytest.raises(
        AlreadyExistsError, match=r"push under another name with `engine\.push\('ma"
    ):
        ours.engine.push("main")
    assert ours.engine.push("main", name="fork").lsn == 1
    theirs = machines("theirs")
    assert len(rows(theirs.connect("copy", remote="fork"))) == 2
    assert len(rows(theirs.connect("main", remote="main"))) == 1


def test_a_log_that_was_pushed_gets_another_name(machines) -> None:
    ours, theirs = written(machines("ours")), written(machines("theirs"))
    ours.engine.push("main")
    theirs.engine.push("main", name="theirs")
    ours.connect().execute("INSERT INTO t VALUES('more')")
    with pytest.raises(AlreadyExistsError):
        ours.engine.push("main", name="theirs")
    assert ours.engine.status("main").ahead == 1
    ours.engine.push("main", name="also")
    refs = dict(ours.engine.refs())
    assert refs["also"] == refs["main"] != refs["theirs"]
    with pytest.raises(InvalidTagError):
        ours.engine.push("main", name="")


@pytest.mark.parametrize("effect", ["refs", "logs"])
@pytest.mark.parametrize("fault", [Fault.STOP_BEFORE, Fault.STOP_AFTER])
def test_a_push_that_was_killed_goes_on_under_its_name(machines, effect, fault) -> None:
    at = ["probe", "probe", "refs", "logs"].index(effect)
    ours = written(machines("ours", at=at, fault=fault))
    with pytest.raises(ProcessStopped):
        ours.engine.push("main", name="prices")
    theirs = written(machines("theirs"))
    has_ref = (effect, fault) != ("refs", Fault.STOP_BEFORE)
    has_commit = (effect, fault) == ("logs", Fault.STOP_AFTER)
    if has_ref and not has_commit:
        with pytest.raises(NotFoundError, match=r"which has no commit yet.*delete .*refs/prices"):
            theirs.engine.clone("prices", "copy")
        with pytest.raises(AlreadyExistsError):
            theirs.engine.push("main", name="prices")
    ours = machines("ours")
    ours.engine.push("main")
    assert [name for name, _ in ours.engine.refs()] == ["prices"]
    assert RemoteLog(ours.engine.store, ours.engine.status("main").remote).newest_lsn() == 1
    assert theirs.engine.clone("prices", "copy").lsn == 1
    ours.connect().execute("INSERT INTO t VALUES('more')")
    assert used(ours).requests == 1


@pytest.mark.parametrize("fault", [Fault.STOP_BEFORE, Fault.STOP_AFTER])
def test_a_push_under_another_name_than_the_killed_one_gives_both(machines, fault) -> None:
    at = ["probe", "probe", "refs", "logs"].index("logs")
    ours = written(machines("ours", at=at, fault=fault))
    with pytest.raises(ProcessStopped):
        ours.engine.push("main", name="prices")
    ours = machines("ours")
    ours.engine.push("main", name="other")
    log = ours.engine.status("main").remote
    assert dict(ours.engine.refs()) == {"prices": log, "other": log}


def test_of_two_machines_that_push_under_one_name_at_once_one_is_refused(machines) -> None:
    both = [written(machines("ours")), written(machines("theirs"))]
    start, refused = threading.Barrier(2), []

    def push(machine: Replica) -> None:
        start.wait()
        try:
            machine.engine.push("main")
        except AlreadyExistsError:
            refused.append(machine)

    threads = [threading.Thread(target=push, args=(machine,)) for machine in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (loser,) = refused
    (winner,) = [machine for machine in both if machine is not loser]
    assert dict(loser.engine.refs()) == {"main": winner.engine.status("main").remote}
    assert not RemoteLog(loser.engine.store, loser.engine.status("main").remote).newest_lsn()


@pytest.mark.parametrize("left", [b"", b"pri", b"\0\0\0\0", b"\0\0\n", b"\xff\n"])
def test_what_a_power_cut_left_of_the_name_is_not_taken_for_one(machines, tmp_path, left) -> None:
    ours = written(machines("ours", at=3, fault=Fault.STOP_BEFORE))
    with pytest.raises(ProcessStopped):
        ours.engine.push("main", name="prices")
    (mark,) = (tmp_path / "ours").rglob("unnamed")
    assert mark.read_bytes() == b"prices\n"
    mark.write_bytes(left)
    ours = machines("ours")
    ours.engine.push("main")
    assert sorted(name for name, _ in ours.engine.refs()) == ["main", "prices"]
    assert not list((tmp_path / "ours").rglob("unnamed"))
