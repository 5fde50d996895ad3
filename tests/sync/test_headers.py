"""Headers of old commits are read when they are asked for, and no more of them."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.errors import (
    CorruptObjectError,
    ExpiredError,
    HistoryMismatchError,
    NoRemoteError,
    NotFoundError,
    ReadOnlyError,
    StoreUnavailableError,
)
from graft_vfs.format.commit import GRACE_SECONDS_MIN
from graft_vfs.history import commits, names
from graft_vfs.ids import LogId
from graft_vfs.pages import RemoteLsn
from graft_vfs.remote.floor import Floor, raise_floor
from graft_vfs.remote.log import commit_key
from graft_vfs.store.directory import DirectoryStore
from graft_vfs.sync.headers import require_header, require_headers
from graft_vfs.sync.proof import Standing, examine
from graft_vfs.testing import WrapperStore
from tests.support.headers import forget_headers, known_lsns
from tests.support.replicas import Replica, rows

COMMITS = 60
NOON_MS = 1_769_860_800_000
HOUR_MS = 3_600_000


def push_at(replica: Replica, hour: float, key: int, tag: str = "main") -> None:
    """Commit a row and push it, dated some hours after noon."""
    connection = replica.connect(tag)
    connection.execute("CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY)")
    connection.execute("INSERT INTO t VALUES(?)", (key,))
    connection.close()
    with pytest.MonkeyPatch.context() as patch:
        moment = NOON_MS + round(hour * HOUR_MS)
        patch.setattr("graft_vfs.sync.build.time.time_ns", lambda: moment * 1_000_000)
        replica.engine.push(tag, message=f"commit {key}")


def hour(number: float) -> str:
    """Return the ISO time of an hour, to the minute."""
    moment = dt.datetime.fromtimestamp(NOON_MS / 1000 + number * 3600, dt.UTC)
    return moment.isoformat(timespec="minutes")


@pytest.fixture(scope="module")
def pushed(tmp_path_factory) -> Path:
    """A directory as remote with a commit each hour, and a fork at LSN 40 with three of its own."""
    root = tmp_path_factory.mktemp("history")
    remote = RemoteConfig(type="fs", root=str(root / "remote"))
    with Replica(root / "data", remote) as replica:
        for key in range(1, COMMITS + 1):
            push_at(replica, key, key)
            if key == 40:
                replica.engine.fork("main", new_tag="side")
        for key in (101, 102, 103):
            push_at(replica, key, key, tag="side")
        replica.engine.name("main", "v7", "7")
    return root


@pytest.fixture
def machine(pushed, tmp_path) -> Iterator[Callable[..., Replica]]:
    """Make clones of the remote, of which the volumes stay open."""
    with contextlib.ExitStack() as stack:

        def make(name: str, remote: Path = pushed / "remote", **arguments) -> Replica:
            replica = stack.enter_context(
                Replica(tmp_path / name, RemoteConfig(type="fs", root=str(remote)), **arguments)
            )
            for tag in ("main", "side"):
                replica.engine.clone(tag, tag)
                log_id = log_of(replica, tag)
                newest, _ = replica.engine.catalog.newest_commit(log_id)
                require_headers(replica.engine.logs, log_id, 1, newest)
                # Views that are in use need no headers: what is left to ask for is asked by verbs.
                stack.enter_context(replica.engine.open(tag).pinned())
            return replica

        yield make


@pytest.fixture
def whole(machine) -> Replica:
    return machine("whole")


@pytest.fixture
def bare(machine) -> Replica:
    """A machine that knows the newest three commits of the log, and the newest of the fork."""
    replica = machine("bare")
    forget_headers(replica.engine, log_of(replica), *range(1, COMMITS - 2))
    forget_headers(replica.engine, log_of(replica, "side"), 1, 2)
    return replica


def log_of(replica: Replica, tag: str = "main") -> LogId:
    return replica.engine.status(tag).remote


@contextlib.contextmanager
def requests(replica: Replica, most: int, least: int | None = None):
    before = replica.counts().requests
    yield
    sent = replica.counts().requests - before
    assert (most if least is None else least) <= sent <= most, sent


def test_nothing_is_requested_for_what_is_known(whole) -> None:
    with requests(whole, 0):
        found = require_headers(whole.engine.logs, log_of(whole), 1, COMMITS)
    assert [each.header.lsn for each in found] == list(range(1, COMMITS + 1))


def test_only_unknown_headers_are_read_and_then_known(whole, bare) -> None:
    logs, log = bare.engine.logs, log_of(bare)
    forget_headers(bare.engine, log, COMMITS - 1)
    with requests(bare, 11):
        found = require_headers(logs, log, COMMITS - 12, COMMITS)
    expected = require_headers(whole.engine.logs, log, COMMITS - 12, COMMITS)
    assert [each.encoded for each in found] == [each.encoded for each in expected]
    assert known_lsns(bare.engine, log) == list(range(COMMITS - 12, COMMITS + 1))
    with requests(bare, 0):
        require_headers(logs, log, COMMITS - 12, COMMITS)


VERBS: dict[str, tuple[Callable[[Replica], object], int]] = {
    "the five newest": (lambda each: each.engine.log("main", limit=5), 2),
    "the two newest": (lambda each: each.engine.log("main", limit=2), 0),
    "the whole log": (lambda each: each.engine.log("main"), COMMITS - 3),
    "one commit and those before it": (lambda each: each.engine.log("main", "20", limit=3), 3),
    "a range": (lambda each: each.engine.log("main", "20..25"), 5),
    "a range up to now": (lambda each: each.engine.log("main", "52..HEAD"), 5),
    "an empty range": (lambda each: each.engine.log("main", "25..20"), 20),
    "a fork": (lambda each: each.engine.log("side", limit=5), 2 + 2),
    "commits that a fork does not have": (
        lambda each: each.engine.log("side", f"{log_of(each)}:55"),
        1,
    ),
    "lines": (lambda each: list(each.engine.log_lines("main", limit=5)), 2),
    "a graph": (lambda each: list(each.engine.log_lines("side", graph=True, limit=16)), 2 + 8 + 13),
    "one commit": (lambda each: each.engine.show("main", "7"), 1),
    "the newest commit": (lambda each: each.engine.show("main"), 0),
    "a commit of the parent": (lambda each: each.engine.show("side", "HEAD~5"), 2),
    "the fields of a commit": (
        lambda each: each.engine.commit_facts("7", each.engine.open("main")),
        1,
    ),
    "a name": (lambda each: each.engine.show("main", "v7"), 3),
    "the names": (lambda each: each.engine.names("main"), 3),
    "a number of commits back": (lambda each: each.engine.resolve("main", "HEAD~50"), 0),
    "a status": (lambda each: each.engine.status("main").behind, 0),
    "a comparison": (lambda each: each.engine.diff("main", "5..7"), COMMITS - 3),
}


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_says_the_same_and_asks_for_no_more_than_it_shows(whole, bare, name) -> None:
    act, most = VERBS[name]
    for each in (whole, bare) if name != "a name" else ():
        each.engine.names("main")
        forget_headers(each.engine, log_of(each), 1)
    expected = act(whole)
    with requests(bare, most, least=0):
        assert act(bare) == expected


def test_lines_are_read_as_they_are_shown(bare) -> None:
    with contextlib.closing(bare.engine.log_lines("main")) as lines:
        with requests(bare, 0):
            list(itertools.islice(lines, 0))
        with requests(bare, 32):
            list(itertools.islice(lines, 32))
        with requests(bare, 25):
            assert len(list(lines)) == 28


@pytest.mark.parametrize("can_list", [True, False])
def test_a_time_is_found_by_bisection(pushed, machine, can_list) -> None:
    replica = machine("theirs")
    bound = math.ceil(math.log2(COMMITS)) + 1
    log = log_of(replica)
    replica.engine.store.can_list = can_list
    for number in (1, 2, 17, 31.5, 40, 58, 59.5):
        forget_headers(replica.engine, log, *range(1, COMMITS))
        with requests(replica, bound, least=0):
            assert replica.engine.resolve("main", hour(number)).lsn == int(number)
    with requests(replica, 0):
        assert replica.engine.resolve("main", hour(59.5)).lsn == 59


def test_a_time_before_the_first_commit_says_when_that_was(bare) -> None:
    with pytest.raises(NotFoundError, match="its first, LSN 1, is of 2026-01-31T13:00"):
        bare.engine.resolve("main", hour(0.5))


def test_a_time_of_a_fork_is_found_in_its_parent(bare) -> None:
    log = log_of(bare)
    assert bare.engine.resolve("side", hour(33.5)) == names.RemoteCommit(log, 33)
    assert bare.engine.resolve("side", hour(99)) == names.RemoteCommit(log, 40)
    side = log_of(bare, "side")
    assert bare.engine.resolve("side", hour(102.5)) == names.RemoteCommit(side, 2)


def test_a_commit_from_the_future_does_not_mislead_the_search(replicas) -> None:
    ours, theirs = replicas("ours"), replicas("theirs")
    for number, at in enumerate((1, 2, 900, 3, 4), 1):
        if at < 900:
            # As by a machine that knows the store's clock.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    "graft_vfs.sync.build._time_ms", lambda *_, at=at: NOON_MS + at * HOUR_MS
                )
                push_at(ours, at, number)
        else:
            push_at(ours, at, number)
    theirs.engine.clone("main", "main")
    log = log_of(theirs)
    for at, lsn in ((1.5, 1), (2.5, 2), (3.5, 4)):
        assert theirs.engine.resolve("main", hour(at)).lsn == lsn
        forget_headers(theirs.engine, log, 1, 2, 3, 4)
        assert theirs.engine.resolve("main", hour(at)).lsn == lsn


def test_old_states_can_be_read_restored_and_checked_out(bare) -> None:
    log = log_of(bare)
    assert bare.engine.restore("main", "30").pages
    assert rows(bare.connect("main"))[-1] == (30,)
    forget_headers(bare.engine, log, *range(1, 58))
    bare.engine.checkout("side", f"{log}:20")
    assert rows(bare.connect("side"))[-1] == (20,)


def test_a_new_clone_finds_and_undoes_a_commit_with_few_headers(pushed, tmp_path) -> None:
    remote = RemoteConfig(type="fs", root=str(pushed / "remote"))
    with Replica(tmp_path / "new", remote) as replica:
        replica.engine.clone("main", "main")
        log = log_of(replica)
        assert len(known_lsns(replica.engine, log)) < 24
        before = replica.counts().requests
        found = replica.engine.bisect("main", "SELECT count(*) < 11 FROM t", good="1")
        assert found.commit == "11"
        # A table, and the headers after it.
        assert replica.counts().requests - before <= len(found.steps) * (24 + 4)
        replica.engine.revert("main", "11")
        assert rows(replica.connect(), "SELECT count(*) FROM t WHERE k = 11") == [(0,)]
        with requests(replica, COMMITS, least=0):
            assert len(replica.engine.log("main")) == COMMITS + 1


def test_a_name_can_be_given_to_an_old_commit(bare, whole) -> None:
    given = bare.engine.name("main", "eleven", "11")
    assert whole.engine.resolve("main", "eleven").lsn == 11
    bare.engine.remove_name("main", given.name)


def test_a_clone_of_a_fork_needs_a_table_and_the_commits_up_to_the_fork(pushed, tmp_path) -> None:
    remote = RemoteConfig(type="fs", root=str(pushed / "remote"))
    with Replica(tmp_path / "one", remote) as replica:
        replica.engine.clone("main", "main")
        replica.engine.open("main").begin()
        with replica.engine.open("main").pinned():
            forget_headers(replica.engine, log_of(replica), *range(1, 50))
            # The table at LSN 24 and 16 commits after it; 7 for the fork itself.
            with requests(replica, 2 + 16 + 7, least=0):
                replica.engine.clone("side", "side")
        assert 40 in known_lsns(replica.engine, log_of(replica))


def test_a_volume_recognises_its_commits_among_unknown_ones(tmp_path) -> None:
    remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))
    data, backup = tmp_path / "data", tmp_path / "backup"
    with Replica(data, remote) as replica:
        push_at(replica, 1, 1)
        replica.connect().execute("INSERT INTO t VALUES(2)")
    shutil.copytree(data, backup)
    with Replica(data, remote) as replica:
        replica.engine.push("main")
        for key in (3, 4, 5):
            push_at(replica, key, key)
    with Replica(backup, remote) as replica, replica.engine.open("main").pinned():
        replica.engine.fetch("main")
        forget_headers(replica.engine, log_of(replica), 1, 2)
        # Two of a pull that moves on when it has recognised a commit, and all commits again,
        # because no table has what was forgotten.
        with requests(replica, 2 + 5):
            replica.engine.pull("main")
        assert rows(replica.connect()) == [(1,), (2,), (3,), (4,), (5,)]


def test_a_push_of_a_fork_needs_no_header_of_its_parent(machine, tmp_path, pushed) -> None:
    shutil.copytree(pushed / "remote", tmp_path / "copy")
    replica = machine("ours", tmp_path / "copy")
    replica.engine.fork("main", new_tag="other")
    replica.connect("other").execute("INSERT INTO t VALUES(200)")
    log = log_of(replica)
    with replica.engine.open("other").pinned():
        forget_headers(replica.engine, log, *range(1, COMMITS + 1))
        assert replica.engine.push("other").claimed
    with machine("theirs", tmp_path / "copy") as theirs:
        theirs.engine.clone("other", "other")
        assert rows(theirs.connect("other"))[-1] == (200,)
        header = require_header(theirs.engine.logs, log_of(theirs, "other"), 1)
        assert (header.parent_log, header.parent_lsn) == (log, COMMITS)
        assert header.time_ms >= require_header(theirs.engine.logs, log, COMMITS).time_ms


# Faults -----------------------------------------------------------------------------------------


class Unreachable(WrapperStore):
    """A store that can be cut off."""

    is_cut = False

    def request(self, verb, key, send):  # noqa: ARG002
        if self.is_cut:
            raise StoreUnavailableError("a test cut the line", next_step="mend the line")
        return send()


def test_offline_the_error_says_what_is_known_and_what_to_run(machine, pushed) -> None:
    with Replica(pushed / "unused", RemoteConfig()) as unused:
        assert unused.engine.tags() == []
    store = Unreachable(DirectoryStore(pushed / "remote"))
    replica = machine("ours", store=store)
    log = log_of(replica)
    forget_headers(replica.engine, log, *range(1, 50))
    store.is_cut = True
    for act in (
        lambda: replica.engine.show("main", "7"),
        lambda: replica.engine.log("main"),
        lambda: replica.engine.resolve("main", hour(7)),
        lambda: replica.engine.snapshot_at("main", "7"),
    ):
        with pytest.raises(StoreUnavailableError) as caught:
            act()
        assert caught.value.message == (
            f"the history of log {log} before LSN 50 is not on this machine, and the remote "
            "cannot be read: a test cut the line"
        )
        assert caught.value.next_step == (
            "mend the line; when the remote can be read, `engine.log(tag)` fetches the history "
            "that it lists"
        )
    assert len(replica.engine.log("main", limit=11)) == 11
    shown = []
    with contextlib.closing(replica.engine.log_lines("main")) as lines:
        with pytest.raises(StoreUnavailableError):
            shown.extend(line.entry.lsn for line in lines)
        assert shown == [*range(COMMITS, 49, -1)]


def test_without_a_remote_the_error_is_the_same(machine, tmp_path) -> None:
    replica = machine("ours")
    log = log_of(replica)
    forget_headers(replica.engine, log, *range(1, 50))
    replica.close()
    text = "before LSN 50 is not on this machine"
    with (
        Replica(tmp_path / "ours", RemoteConfig()) as alone,
        pytest.raises(NoRemoteError, match=text),
    ):
        require_header(alone.engine.logs, log, 7)


def test_a_read_only_data_directory_shows_what_it_cannot_keep(machine, bare, monkeypatch) -> None:
    log = log_of(bare)
    monkeypatch.setattr(type(bare.engine.catalog), "writable", False)
    monkeypatch.setattr(bare.engine.catalog._file, "_writable", False)
    assert bare.engine.show("main", "7").message == "commit 7"
    assert len(bare.engine.log("main")) == COMMITS
    assert known_lsns(bare.engine, log) == [58, 59, 60]
    with pytest.raises(ReadOnlyError):
        bare.engine.snapshot_at("main", "7")


@pytest.fixture
def two_histories(tmp_path) -> tuple[Path, Path]:
    """Two remotes with a log of six commits each, of which the first three are the same."""
    one, other = tmp_path / "one", tmp_path / "other"
    with Replica(tmp_path / "data", RemoteConfig(type="fs", root=str(one))) as replica:
        for key in (1, 2, 3):
            push_at(replica, key, key)
    shutil.copytree(one, other)
    shutil.copytree(tmp_path / "data", tmp_path / "data2")
    for data, root, keys in (("data", one, (4, 5, 6)), ("data2", other, (7, 8, 9))):
        with Replica(tmp_path / data, RemoteConfig(type="fs", root=str(root))) as replica:
            for key in keys:
                push_at(replica, key, key)
    return one, other


@pytest.fixture
def mixed(two_histories, tmp_path) -> Iterator[tuple[Replica, LogId]]:
    """A machine that knows LSN 5 and 6 of the first; its remote has LSN 4 of the second."""
    one, other = two_histories
    with Replica(tmp_path / "clone", RemoteConfig(type="fs", root=str(one))) as replica:
        replica.engine.clone("main", "main")
        log = log_of(replica)
        shutil.copyfile(other / commit_key(log, 4), one / commit_key(log, 4))
        with replica.engine.open("main").pinned():
            forget_headers(replica.engine, log, *range(1, 5))
            yield replica, log


def test_a_commit_of_another_history_is_refused_and_not_kept(mixed) -> None:
    replica, log = mixed
    with pytest.raises(CorruptObjectError, match="LSN 5 does not follow"):
        require_header(replica.engine.logs, log, 4)
    with pytest.raises(CorruptObjectError, match="LSN 5 does not follow"):
        replica.engine.log("main")
    assert known_lsns(replica.engine, log) == [5, 6]
    assert require_header(replica.engine.logs, log, 3).lsn == 3
    with pytest.raises(CorruptObjectError, match="LSN 5 does not follow"):
        require_headers(replica.engine.logs, log, 1, 4)
    assert known_lsns(replica.engine, log) == [3, 5, 6]


def test_a_replaced_history_is_told_from_damage(two_histories, tmp_path) -> None:
    one, other = two_histories
    data = tmp_path / "clone"
    with Replica(data, RemoteConfig(type="fs", root=str(one))) as replica:
        replica.engine.clone("main", "main")
        log = log_of(replica)
        forget_headers(replica.engine, log, *range(1, 5))
    with Replica(data, RemoteConfig(type="fs", root=str(other))) as replica:
        with pytest.raises(HistoryMismatchError, match="its history was replaced"):
            require_header(replica.engine.logs, log, 2)
        assert known_lsns(replica.engine, log) == [5, 6]


@pytest.mark.parametrize(
    ("forgotten", "root", "standing"),
    [
        ((), 0, Standing.SHORTER),
        ((4,), 0, Standing.SHORTER),
        ((4, 5), 0, Standing.SHORTER),
        ((1, 2, 3, 4, 5), 0, Standing.SHORTER),
        ((), 1, Standing.REPLACED),
        ((4,), 1, Standing.REPLACED),
        ((1, 2, 3, 4), 1, Standing.REPLACED),
        ((1, 2, 3, 4, 5), 1, Standing.SHORTER),
    ],
)
def test_a_shorter_log_is_compared_with_what_is_known(
    two_histories, tmp_path, forgotten, root, standing
) -> None:
    with Replica(tmp_path / "clone", RemoteConfig(type="fs", root=str(two_histories[0]))) as one:
        one.engine.clone("main", "main")
        log = log_of(one)
        forget_headers(one.engine, log, *forgotten)
        for lsn in (5, 6):
            (two_histories[root] / commit_key(log, lsn)).unlink()
        state = examine(one.engine.logs, log, DirectoryStore(two_histories[root]))
        assert (state.standing, state.newest) == (standing, 4)


def test_what_retention_has_deleted_is_said_to_be_and_left_out_of_lists(pushed, tmp_path) -> None:
    shutil.copytree(pushed / "remote", tmp_path / "copy")
    remote = RemoteConfig(type="fs", root=str(tmp_path / "copy"))
    with Replica(tmp_path / "ours", remote) as ours:
        ours.engine.clone("main", "main")
        log = log_of(ours)
        with ours.engine.open("main").pinned():
            forget_headers(ours.engine, log, *range(1, COMMITS))
            floor = Floor(log, RemoteLsn(30), GRACE_SECONDS_MIN)
            raise_floor(ours.engine.store, Floor(log), floor)
            for lsn in range(1, 31):
                (tmp_path / "copy" / commit_key(log, lsn)).unlink()
            for _ in range(2):
                assert [each.lsn for each in ours.engine.log("main")] == [*range(COMMITS, 30, -1)]
                forget_headers(ours.engine, log, *range(1, COMMITS))
            assert ours.engine.resolve("main", hour(45.5)).lsn == 45
            for act in (
                lambda: ours.engine.show("main", "7"),
                lambda: ours.engine.log("main", "30", limit=3) or ours.engine.show("main", "30"),
                lambda: ours.engine.resolve("main", hour(12)),
                lambda: ours.engine.resolve("main", hour(30.5)),
            ):
                with pytest.raises(ExpiredError, match=r"does not keep LSN .* up to LSN 30"):
                    act()


def test_the_steps_of_a_long_walk_grow(bare) -> None:
    found = list(commits.headers_down(bare.engine.logs, log_of(bare), COMMITS, COMMITS))
    assert [each.header.lsn for each in found] == list(range(COMMITS, 0, -1))
    assert not list(commits.headers_down(bare.engine.logs, log_of(bare), COMMITS, 0))
