"""The engine: several processes on one data directory, damage beside good volumes, the past."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import pytest

import graft_vfs
from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import (
    AlreadyExistsError,
    BucketMissingError,
    BusyError,
    CorruptCatalogError,
    CorruptLogError,
    GraftError,
    InvalidTagError,
    LocalStorageError,
    NoRemoteError,
    NotFoundError,
    UsageError,
)
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local.branch_log import BranchLog
from graft_vfs.store.directory import DirectoryStore
from graft_vfs.times import corrected_ms, parse_time
from graft_vfs.view.logs import Logs
from graft_vfs.volume.volume import Volume
from tests.support.engines import registered
from tests.support.replicas import Replica, rows
from tests.sync.checks import sound_log


@pytest.fixture
def machines(tmp_path) -> Iterator[Callable[..., Replica]]:
    """Make machines on one remote directory; a name used again is the same data directory."""
    made: list[Replica] = []
    remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))

    def make(name: str = "ours", *, remote: RemoteConfig = remote) -> Replica:
        made.append(Replica(tmp_path / name, remote))
        return made[-1]

    yield make
    for machine in made:
        machine.close()


# Several processes ------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from graft_vfs import Config, RemoteConfig, connect, register
import apsw
remote = RemoteConfig(type="fs", root=sys.argv[2])
engine = register(Config(data_dir=Path(sys.argv[1]), remote=remote))
connection = connect("main")
connection.set_busy_timeout(60_000)
for line in sys.stdin:
    answer = None
    try:
        answer = eval(line)
    except Exception as error:
        answer = type(error).__name__
    print(repr(answer), flush=True)
"""


class Child:
    """A process with a connection to `main` open; evaluates one expression after another."""

    def __init__(self, data_dir: Path, root: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(data_dir), str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, expression: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def __call__(self, expression: str) -> str:
        self.send(expression)
        return self.answer()

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self.process.wait()


@pytest.fixture
def child(tmp_path) -> Iterator[Callable[[], Child]]:
    made: list[Child] = []

    def make() -> Child:
        made.append(Child(tmp_path / "ours", tmp_path / "remote"))
        return made[-1]

    yield make
    for each in made:
        each.close()


COUNT = "connection.execute('SELECT count(*) FROM t').fetchone()[0]"


def test_a_switch_that_came_too_late_hides_no_later_one(machines, monkeypatch) -> None:
    ours, others, third = (machines("ours") for _ in range(3))
    ours.connect().execute("CREATE TABLE t(k); INSERT INTO t VALUES(1)")
    late, quick, looking = (machine.engine.open("main") for machine in (ours, others, third))
    first = late.begin().branch.row
    following = [dataclasses.replace(first, id=LogId.new()) for _ in range(3)]
    assert quick.switch_branch(following[0], expected=first.id, synced=None)
    assert looking.begin().branch.row == following[0]

    def switch_again() -> None:
        assert quick.switch_branch(following[1], expected=following[0].id, synced=None)

    read = ours.engine.catalog.volume

    def read_and_be_overtaken(volume: VolumeId) -> object:
        row = read(volume)
        switch_again()
        return row

    monkeypatch.setattr(ours.engine.catalog, "volume", read_and_be_overtaken)
    assert not late.switch_branch(following[2], expected=first.id, synced=None)
    monkeypatch.undo()
    if quick.begin().branch.row == following[0]:
        switch_again()
    for volume in (late, quick, looking):
        assert volume.begin().branch.row == following[1]


def test_processes_see_each_others_commits_pushes_and_pulls_at_once(machines, child) -> None:
    ours, theirs = machines("ours"), machines("theirs")
    a = ours.connect()
    a.execute("CREATE TABLE t(k)")
    other = child()
    assert other(COUNT) == "0"
    b = None
    for number in range(1, 9):
        assert other("connection.execute('INSERT INTO t VALUES(1)').fetchall()") == "[]"
        assert rows(a, "SELECT count(*) FROM t") == [(4 * number - 3,)]
        a.execute("INSERT INTO t VALUES(2)")
        assert other(COUNT) == str(4 * number - 2)
        ours.engine.push("main")
        assert other("engine.status('main').ahead") == "0"
        assert other(COUNT) == str(4 * number - 2)
        b = b or theirs.connect(remote="main")
        theirs.engine.pull("main")
        b.execute("INSERT INTO t VALUES(3)")
        theirs.engine.push("main")
        ours.engine.pull("main")
        assert other(COUNT) == str(4 * number - 1)
        b.execute("INSERT INTO t VALUES(4)")
        theirs.engine.push("main")
        assert other("engine.pull('main').lsn") == str(3 * number)
        assert rows(a, "SELECT count(*) FROM t") == [(4 * number,)]
        assert other("connection.pragma('integrity_check')") == "'ok'"
    assert a.pragma("integrity_check") == "ok"
    assert rows(a) == rows(b)


WRITER = """
import sys
from pathlib import Path
from graft_vfs import Config, RemoteConfig, connect, register
from graft_vfs.errors import BusyError
remote = RemoteConfig(type="fs", root=sys.argv[2])
engine = register(Config(data_dir=Path(sys.argv[1]), remote=remote))
connection = connect("main")
connection.set_busy_timeout(60_000)
first = int(sys.argv[3])
for number in range(first, first + 150):
    connection.execute("INSERT INTO t VALUES(?)", (number,))
    assert (number,) in connection.execute("SELECT k FROM t WHERE k = ?", (number,)).fetchall()
    if number % 25 == 0:
        try:
            engine.push("main")
        except BusyError:
            pass
"""


def test_nothing_is_lost_while_processes_write_and_this_one_pushes_and_pulls(
    machines, tmp_path
) -> None:
    ours = machines("ours")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k INTEGER PRIMARY KEY)")
    arguments = [str(tmp_path / "ours"), str(tmp_path / "remote")]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, *arguments, str(first)])
        for first in (1000, 2000)
    ]
    newest = 0
    while any(writer.poll() is None for writer in writers):
        for verb in (ours.engine.push, ours.engine.pull):
            # Nobody else has the log, so whatever the processes do, nothing may diverge.
            with contextlib.suppress(BusyError):
                verb("main")
        ((count,),) = rows(connection, "SELECT count(*) FROM t")
        assert count >= newest, "a view never goes back"
        newest = count
    assert [writer.wait() for writer in writers] == [0, 0]
    ours.engine.push("main")
    expected = [(number,) for first in (1000, 2000) for number in range(first, first + 150)]
    assert rows(connection) == expected
    assert connection.pragma("integrity_check") == "ok"
    status = ours.engine.status("main")
    assert (status.ahead, status.behind, status.pending_push) == (0, 0, False)
    assert sum(sound_log(ours.engine.store, status.remote)) == 301
    assert rows(machines("clone").connect(remote="main")) == expected


def test_a_switch_that_fails_once_is_made_up_for_and_never_shows_an_old_view(
    machines, monkeypatch
) -> None:
    """Another process moves the volume, to another file even; following it fails the first time."""
    first, second = machines("ours"), machines("ours")
    a, b = first.connect(), second.connect()
    a.execute("CREATE TABLE t(k)")
    assert rows(b) == []
    for number in range(1, 4):
        monkeypatch.setattr("graft_vfs.volume.rotation.ROTATE_BYTES", 0)
        a.execute("INSERT INTO t VALUES(?)", (number,))
        first.engine.push("main")
        original = Logs.log_view
        failed: list[int] = []

        def fail_once(self, log, lsn, original=original, failed=failed):
            if not failed:
                failed.append(lsn)
                raise LocalStorageError("a test took the disk away")
            return original(self, log, lsn)

        monkeypatch.setattr(Logs, "log_view", fail_once)
        with pytest.raises(apsw.Error):
            rows(b)
        monkeypatch.setattr(Logs, "log_view", original)
        assert failed
        assert rows(b) == rows(a)
        b.execute("INSERT INTO t VALUES(?)", (-number,))
        assert rows(a) == rows(b)
        assert len(rows(a)) == 2 * number


@pytest.mark.parametrize("commits", [1, 2, 5])
def test_a_volume_that_is_opened_while_another_process_commits_is_not_damaged(
    machines, monkeypatch, commits
) -> None:
    first = machines("ours")
    a = first.connect()
    a.execute("CREATE TABLE t(k); INSERT INTO t VALUES(0)")
    damaged_before = BranchLog.damaged_before
    looked: list[int] = []

    def look_late(self, position, lsn):
        """Between reading the log to its end and looking behind that, others commit."""
        if not looked:
            looked.append(lsn)
            for number in range(commits):
                a.execute("INSERT INTO t VALUES(?)", (number,))
        return damaged_before(self, position, lsn)

    monkeypatch.setattr(BranchLog, "damaged_before", look_late)
    b = machines("ours").connect()
    assert looked
    assert rows(b) == rows(a)
    assert len(rows(b)) == 1 + commits


# Tags -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tag",
    ["/srv/app/../x.db", "../../../etc/x", "a/b", ".", "..", "~", "Ünï ✓", "x" * 512, "a%2Fb"],
)
def test_a_tag_is_a_key_and_never_a_path(machines, tmp_path, tag) -> None:
    ours = machines("ours")
    before = {path for path in tmp_path.rglob("*") if "volumes" not in path.parts}
    ours.engine.open(tag, create=True)
    made = {path for path in tmp_path.rglob("*") if "volumes" not in path.parts}
    assert made == before
    volumes = tmp_path / "ours/volumes"
    assert {path.name for path in volumes.iterdir()} == {str(ours.engine.open(tag).id)}
    assert [report.tag for report in ours.engine.tags()] == [tag]
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = apsw.Connection(tag, flags=flags, vfs=ours.vfs)
    connection.execute("CREATE TABLE t(k); INSERT INTO t VALUES(1)")
    ours.engine.push(tag)
    connection.close()
    (ref,) = (tmp_path / "remote/refs").iterdir()
    assert "/" not in ref.name
    assert not ref.name.startswith(".")
    assert [name for name, _ in ours.engine.refs()] == [tag]
    assert machines("theirs").engine.clone(tag, "copy").lsn == 1


@pytest.mark.parametrize("tag", ["", "a\0b", "x" * 513, "\ud800"])
def test_what_is_no_tag_is_refused_everywhere(machines, tag) -> None:
    ours = machines("ours")
    for call in (
        lambda: ours.engine.open(tag, create=True),
        lambda: ours.engine.new(tag),
        lambda: ours.engine.clone("main", tag),
        lambda: ours.engine.switch(tag, str(VolumeId.new())),
    ):
        with pytest.raises(InvalidTagError):
            call()
    assert ours.engine.tags() == []


# Damage -----------------------------------------------------------------------------------------


def two_volumes(machines) -> tuple[Path, list]:
    """Make the volumes `main` and `good`, close everything; returns main's log file."""
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(Replica(machines.directory, machines.remote))
        for tag in ("main", "good"):
            connection = ours.connect(tag)
            connection.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, v)")
            for number in range(30):
                connection.execute("INSERT INTO t VALUES(?, randomblob(1500))", (number,))
        return ours.engine.open("main").branch_log.path, rows(connection)


@pytest.fixture
def closed(tmp_path):
    """A data directory with two volumes that nobody has open."""

    class Place:
        directory = tmp_path / "ours"
        remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))

    return two_volumes(Place)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


def chunks_of(path: Path, volume: str) -> list:
    log = BranchLog(path, volume=VolumeId.parse(volume), writable=False)
    try:
        return [chunk for chunks in log.transactions(log.start, 1) for chunk in chunks]
    finally:
        log.close()


def others_work(ours: Replica, expected: list) -> None:
    good = ours.connect("good")
    assert rows(good) == expected
    good.execute("INSERT INTO t VALUES(1000, 'still works')")
    assert ours.engine.push("good").lsn == 1
    assert ours.engine.new("fresh").lsn == 0


@pytest.mark.parametrize(
    "field", [0, 8, 16, 48, 56], ids=["magic", "lsn", "count", "chain", "page"]
)
def test_a_damaged_chunk_header_is_named_and_other_volumes_work(machines, closed, field) -> None:
    path, expected = closed
    chunk = chunks_of(path, path.parent.name)[10]
    header = chunk.images - 8 - 4 * len(chunk.pages) - 56
    flip(path, header + field)
    ours = machines("ours")
    for _ in range(2):
        with pytest.raises(CorruptLogError) as caught:
            ours.engine.open("main")
        assert "restore the data directory" in str(caught.value)
    with pytest.raises(apsw.CorruptError, match="restore the data directory"):
        ours.connect("main")
    others_work(ours, expected)
    flip(path, header + field)
    assert len(rows(ours.connect("main"))) == 30


def test_a_damaged_image_is_named_and_other_pages_and_volumes_work(machines, closed) -> None:
    path, expected = closed
    chunks = chunks_of(path, path.parent.name)
    newest = {page: chunk for chunk in chunks for page in chunk.pages}
    # A leaf that was full early on: no later chunk writes it again.
    page = max(page for page, chunk in newest.items() if chunk is chunks[10])
    image = newest[page].images + newest[page].pages.index(page) * newest[page].page_size
    flip(path, image + 2000)
    ours = machines("ours")
    connection = ours.connect("main")
    assert rows(connection, "SELECT count(*) FROM sqlite_schema") == [(1,)]
    with pytest.raises(apsw.CorruptError, match="restore the data directory"):
        rows(connection)
    assert len(rows(connection, "SELECT v FROM t WHERE k = 29")) == 1
    with pytest.raises(CorruptLogError):
        ours.engine.push("main")
    status = ours.engine.status("main")
    assert "damaged" in str(status.last_error)
    assert status.pending_push is False
    others_work(ours, expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"GRAFTL0G" + bytes(100), "is not a branch log"), (b"", "is not a branch log")],
)
def test_a_log_file_that_is_none_is_named_and_other_volumes_work(
    machines, closed, data, message
) -> None:
    path, expected = closed
    path.write_bytes(data)
    ours = machines("ours")
    with pytest.raises(CorruptLogError, match=message):
        ours.engine.open("main")
    others_work(ours, expected)


def test_a_log_file_that_is_gone_is_named_and_other_volumes_work(machines, closed) -> None:
    path, expected = closed
    path.unlink()
    ours = machines("ours")
    with pytest.raises(GraftError, match="No such file"):
        ours.engine.open("main")
    others_work(ours, expected)


@pytest.mark.parametrize(
    "data", [b"not a database at all " * 300, b"SQLite format 3\0" + bytes(5000)]
)
def test_a_damaged_catalog_is_named_with_the_way_out(machines, closed, tmp_path, data) -> None:
    catalog = tmp_path / "ours/catalog.db"
    for name in ("catalog.db-wal", "catalog.db-shm"):
        (tmp_path / "ours" / name).unlink(missing_ok=True)
    catalog.write_bytes(data)
    with pytest.raises(CorruptCatalogError, match="move it away") as caught:
        Graft(Config(data_dir=tmp_path / "ours"))
    assert str(catalog) in str(caught.value)
    assert caught.value.next_step
    catalog.unlink()
    with contextlib.closing(Graft(Config(data_dir=tmp_path / "ours"), recovering=True)) as engine:
        for lost in engine.lost_volumes():
            engine.adopt(lost.volume)
    others_work(machines("ours"), closed[1])


def test_another_programs_database_is_no_catalog(tmp_path) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data/catalog.db"
    stock = apsw.Connection(str(path), vfs="unix")
    stock.execute("CREATE TABLE mine(x); PRAGMA user_version = 1")
    stock.close()
    before = path.read_bytes()
    with pytest.raises(CorruptCatalogError, match="another directory"):
        Graft(Config(data_dir=tmp_path / "data"))
    stock = apsw.Connection(str(path), vfs="unix")
    assert rows(stock, "SELECT name FROM sqlite_schema") == [("mine",)]
    stock.close()
    assert before[:16] == path.read_bytes()[:16]


# A data directory that cannot be written --------------------------------------------------------


def test_a_read_only_data_directory_is_read_and_never_written(
    machines, closed, tmp_path, monkeypatch
) -> None:
    _, expected = closed
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode, **more: mode != os.W_OK and access(path, mode, **more)
    )
    files = {path: path.read_bytes() for path in (tmp_path / "ours").rglob("*.log")}
    ours = machines("ours")
    assert not ours.engine.writable
    connection = ours.connect("good")
    assert rows(connection) == expected
    with pytest.raises(apsw.ReadOnlyError):
        connection.execute("DELETE FROM t")
    with pytest.raises(GraftError):
        ours.engine.new("main")
    with pytest.raises(GraftError):
        ours.engine.push("good")
    with pytest.raises(apsw.Error):
        ours.connect("absent")
    assert rows(connection) == expected
    assert {path: path.read_bytes() for path in files} == files


def test_a_data_directory_that_is_a_file_is_a_named_error(tmp_path) -> None:
    (tmp_path / "data").write_text("mine")
    with pytest.raises(LocalStorageError, match="data"):
        Graft(Config(data_dir=tmp_path / "data"))
    assert (tmp_path / "data").read_text() == "mine"


def test_a_disk_that_is_full_fails_a_push_and_nothing_else(machines, monkeypatch) -> None:
    ours = machines("ours")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k); INSERT INTO t VALUES(1)")

    def full(*_: object, **__: object) -> None:
        raise LocalStorageError("a test filled the disk", next_step="free some space")

    with monkeypatch.context() as patch:
        patch.setattr(Volume, "switch_branch", full)
        with pytest.raises(LocalStorageError, match="filled the disk"):
            ours.engine.push("main")
    assert "filled the disk" in str(ours.engine.status("main"))
    assert rows(connection) == [(1,)]
    ours.engine.pull("main")
    status = ours.engine.status("main")
    assert (status.base_lsn, status.ahead, status.last_error) == (1, 0, None)


# Remotes ----------------------------------------------------------------------------------------


def test_verbs_without_a_remote_say_what_to_configure(tmp_path) -> None:
    with Replica(tmp_path / "data", RemoteConfig()) as ours:
        connection = ours.connect()
        connection.execute("CREATE TABLE t(k)")
        for verb in (
            ours.engine.push, ours.engine.pull, ours.engine.fetch, ours.engine.hydrate,
        ):  # fmt: skip
            with pytest.raises(NoRemoteError, match="GRAFT_REMOTE_TYPE"):
                verb("main")
        for call in (
            lambda: ours.engine.clone("main", "copy"),
            lambda: ours.engine.open("copy", create=True, remote="main"),
            ours.engine.refs,
            lambda: ours.engine.snapshot_at("main", lsn=1),
        ):
            with pytest.raises(NoRemoteError):
                call()
        assert [report.tag for report in ours.engine.tags()] == ["main"]
        assert rows(connection) == []


def test_a_remote_directory_that_is_unmounted_loses_nothing(machines, tmp_path) -> None:
    ours = machines("ours")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k)")
    ours.engine.push("main")
    (tmp_path / "remote").rename(tmp_path / "unmounted")
    connection.execute("INSERT INTO t VALUES(1)")
    for verb in (ours.engine.push, ours.engine.pull):
        with pytest.raises(BucketMissingError, match="is absent, as if its disk were not mounted"):
            verb("main")
    assert not (tmp_path / "remote").exists()
    assert ours.engine.status("main").pending_push is False
    (tmp_path / "unmounted").rename(tmp_path / "remote")
    assert ours.engine.push("main").lsn == 2
    assert rows(machines("clone").connect(remote="main")) == [(1,)]


@pytest.fixture
def hydrating(machines, tmp_path) -> Config:
    """The configuration of a machine that fetches everything in the background."""
    ours = machines("ours")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k, v)")
    with connection:
        connection.executemany(
            "INSERT INTO t VALUES(?, randomblob(900))", ((number,) for number in range(4000))
        )
    ours.engine.push("main")
    remote = ours.engine.config.remote
    return Config(data_dir=tmp_path / "theirs", remote=remote, hydrate="background")


def test_a_background_hydrate_brings_everything(hydrating) -> None:
    engine = Graft(hydrating)
    volume = engine.open("main", create=True, remote="main")
    for thread in engine.context.volumes._hydrating:
        thread.join()
    present, total = volume.begin().remote.pages_present()
    assert present == total > 500
    assert engine.audit("main").checksum
    engine.close()


def test_an_engine_that_closes_ends_its_background_hydrate(hydrating, monkeypatch) -> None:
    is_fetching, is_closing = threading.Event(), threading.Event()
    get_range, shutdown = DirectoryStore.get_range, ThreadPoolExecutor.shutdown

    def slow(self, key: str, start: int, length: int) -> bytes:
        if key.startswith("segments/"):
            is_fetching.set()
            assert is_closing.wait(20)
        return get_range(self, key, start, length)

    def noted(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        shutdown(self, wait=False, cancel_futures=cancel_futures)
        if is_fetching.is_set():
            is_closing.set()
        shutdown(self, wait=wait)

    monkeypatch.setattr(DirectoryStore, "get_range", slow)
    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", noted)
    engine = Graft(hydrating, executor=ThreadPoolExecutor(1))
    engine.open("main", create=True, remote="main")
    assert is_fetching.wait(20)
    (thread,) = engine.context.volumes._hydrating
    engine.close()
    assert not thread.is_alive()
    monkeypatch.undo()
    again = Graft(hydrating)
    again.open("main")
    for thread in again.context.volumes._hydrating:
        thread.join()
    assert again.audit("main").checksum
    again.close()


# Verbs that move a tag --------------------------------------------------------------------------


def test_fork_reports_the_new_volume_and_keeps_the_old_one(machines) -> None:
    ours = machines("ours")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k); INSERT INTO t VALUES(1)")
    ours.engine.push("main")
    connection.execute("INSERT INTO t VALUES(2)")
    old = ours.engine.open("main")
    moved = ours.engine.fork("main")
    assert (moved.tag, moved.lsn) == ("main", 0)
    assert moved.volume != old.id
    assert moved.log not in {old.id, ours.engine.catalog.volume(old.id).remote}
    assert ours.engine.open("main").id == moved.volume
    assert rows(ours.connect()) == [(1,), (2,)]
    assert rows(connection) == [(1,), (2,)], "a connection that was open stays where it is"
    assert str(moved).startswith(f"Forked to volume {moved.volume} on remote {moved.log}")
    assert {report.volume for report in ours.engine.volumes()} == {old.id, moved.volume}
    status = ours.engine.status("main")
    assert (status.ahead, status.unpublished_fork) == (1, True)


def test_a_fork_that_fails_half_way_moves_no_tag(machines, monkeypatch) -> None:
    ours = machines("ours")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k)")
    ours.engine.push("main")
    connection.execute("INSERT INTO t VALUES('local')")
    old = ours.engine.open("main").id

    def full(*_: object, **__: object) -> None:
        raise LocalStorageError("a test filled the disk")

    with monkeypatch.context() as patch:
        patch.setattr(Volume, "write_pages", full)
        for arguments in ({}, {"new_tag": "fork"}):
            with pytest.raises(LocalStorageError):
                ours.engine.fork("main", **arguments)
    assert ours.engine.open("main").id == old
    assert [report.tag for report in ours.engine.tags()] == ["main"]
    assert rows(ours.connect()) == [("local",)]


def test_checkout_reports_where_the_tag_is_now(machines) -> None:
    ours = machines("ours")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k)")
    for number in (1, 2, 3):
        connection.execute("INSERT INTO t VALUES(?)", (number,))
        ours.engine.push("main")
    log = ours.engine.status("main").remote
    for spec in ("2", f"{log}:2"):
        moved = ours.engine.checkout("main", spec)
        assert (moved.tag, moved.log, moved.lsn) == ("main", log, 2)
        assert rows(ours.connect()) == [(1,), (2,)]
        assert ours.engine.status("main").behind == 1
        assert str(ours.engine.info("main").snapshot) == f"{log}[1..2]"
    connection = ours.connect()
    connection.execute("INSERT INTO t VALUES(99)")
    with pytest.raises(GraftError, match="diverged"):
        ours.engine.push("main")
    for spec, error in (
        ("0", NotFoundError),
        ("9", NotFoundError),
        ("x", UsageError),
        ("", UsageError),
    ):
        with pytest.raises(error):
            ours.engine.checkout("main", spec)


def test_switch_goes_to_a_volume_and_makes_one_that_is_absent(machines) -> None:
    ours, theirs = machines("ours"), machines("theirs")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k); INSERT INTO t VALUES(1)")
    ours.engine.push("main")
    log, old = ours.engine.status("main").remote, ours.engine.open("main").id
    volume, branch = VolumeId.new(), LogId.new()
    moved = theirs.engine.switch("copy", f"{volume}:{branch}:{log}")
    assert (moved.volume, moved.log, moved.lsn) == (volume, log, 1)
    assert theirs.engine.open("copy").begin().branch.row.id == branch
    assert rows(theirs.connect("copy")) == [(1,)]
    with pytest.raises(UsageError, match="is attached to"):
        ours.engine.switch("main", f"{old}::{LogId.new()}")
    with pytest.raises(UsageError):
        ours.engine.switch("main", f"{old}:a:b:c")
    with pytest.raises(AlreadyExistsError):
        theirs.engine.switch("again", f"{VolumeId.new()}:{branch}")
    assert ours.engine.switch("main", str(old)).volume == old


def test_a_tag_is_removed_and_its_volume_stays(machines) -> None:
    ours = machines("ours")
    ours.connect().execute("CREATE TABLE t(k)")
    volume = ours.engine.open("main").id
    ours.engine.remove_tag("main")
    with pytest.raises(NotFoundError):
        ours.engine.open("main")
    with pytest.raises(NotFoundError):
        ours.engine.remove_tag("main")
    ours.engine.switch("again", str(volume))
    assert rows(ours.connect("again")) == []


def test_refs_are_made_once_and_the_first_one_stays(machines, caplog) -> None:
    ours, theirs = machines("ours"), machines("theirs")
    for machine in (ours, theirs):
        machine.connect("main").execute("CREATE TABLE t(k)")
        machine.engine.push("main")
    assert ours.engine.refs() == [("main", ours.engine.status("main").remote)]
    assert "names log" in caplog.text
    theirs.connect("other").execute("CREATE TABLE t(k)")
    theirs.engine.push("other")
    assert [name for name, _ in ours.engine.refs()] == ["main", "other"]
    with pytest.raises(NotFoundError, match="has no ref 'absent'"):
        ours.engine.clone("absent", "x")


def test_a_foreign_object_in_the_way_of_a_ref_does_not_stop_a_push(
    machines, tmp_path, caplog
) -> None:
    ours = machines("ours")
    (tmp_path / "remote/refs").mkdir()
    (tmp_path / "remote/refs/main").write_text("something else")
    ours.connect().execute("CREATE TABLE t(k)")
    assert ours.engine.push("main").lsn == 1
    assert "gets no ref" in caplog.text
    assert ours.engine.status("main").pending_push is False
    log = ours.engine.status("main").remote
    assert rows(machines("theirs").connect(remote=str(log))) == []


# The past ---------------------------------------------------------------------------------------

HOUR_MS = 3_600_000
NOON_MS = int(dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T12:00:00Z", NOON_MS + 999),
        ("2026-01-31T12:00:00", NOON_MS + 999),
        ("2026-01-31 14:00:00+02:00", NOON_MS + 999),
        ("2026-01-31T12:00:00.2Z", NOON_MS + 299),
        ("2026-01-31T12:00:00,25Z", NOON_MS + 259),
        ("2026-01-31T12:00:00.250Z", NOON_MS + 250),
        ("2026-01-31T12:00:00.250999Z", NOON_MS + 250),
        ("2 hours ago", NOON_MS - 2 * HOUR_MS),
        ("1 hour ago", NOON_MS - HOUR_MS),
        ("1.5 hours ago", NOON_MS - 3 * HOUR_MS // 2),
        ("90 seconds ago", NOON_MS - 90_000),
        ("3 days ago", NOON_MS - 72 * HOUR_MS),
        ("0 weeks ago", NOON_MS),
    ],
)
def test_times_are_read(text, expected) -> None:
    assert parse_time(text, now=lambda: NOON_MS / 1000) == expected


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2 hours", "two hours ago", "2 fortnights ago", "nan hours ago",
     "inf hours ago", "-inf weeks ago", "1e999 days ago", "2026-13-01", "12:00", "2 ss ago"],
)  # fmt: skip
def test_what_is_no_time_is_refused_with_an_example(text) -> None:
    with pytest.raises(UsageError, match="2 hours ago"):
        parse_time(text, now=lambda: NOON_MS / 1000)


def test_the_log_is_seen_as_it_was_at_any_time(machines, monkeypatch) -> None:
    ours = machines("ours")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k)")
    for number in range(1, 8):
        connection.execute("INSERT INTO t VALUES(?)", (number,))
        moment = (NOON_MS + number * HOUR_MS) * 1_000_000
        with monkeypatch.context() as patch:
            patch.setattr("graft_vfs.sync.push.time.time_ns", lambda moment=moment: moment)
            ours.engine.push("main")
    for number in range(1, 8):
        for minutes in (0, 1, 59):
            moment = NOON_MS + number * HOUR_MS + minutes * 60_000
            text = dt.datetime.fromtimestamp(moment / 1000, dt.UTC).isoformat()
            snapshot = ours.engine.snapshot_at("main", as_of=text)
            assert snapshot.remote.lsn == number
    assert ours.engine.snapshot_at("main", as_of="2099-01-01").remote.lsn == 7
    with pytest.raises(NotFoundError, match="no commit at that time"):
        ours.engine.snapshot_at("main", as_of="2026-01-31T12:59:59Z")
    past = ours.connect("main", as_of="2026-01-31T15:30:00Z")
    assert rows(past) == [(1,), (2,), (3,)]
    with pytest.raises(NotFoundError):
        ours.engine.snapshot_at("main", lsn=8)
    with pytest.raises(NotFoundError):
        ours.engine.snapshot_at("main", lsn=0)
    with pytest.raises(UsageError):
        ours.engine.snapshot_at("main")


def test_the_time_that_the_log_prints_gives_that_very_commit(machines, monkeypatch) -> None:
    ours = machines("ours")
    connection = ours.connect()
    connection.execute("CREATE TABLE t(k)")
    for number in range(1, 7):
        connection.execute("INSERT INTO t VALUES(?)", (number,))
        moment = (NOON_MS + number * 333) * 1_000_000
        with monkeypatch.context() as patch:
            patch.setattr("graft_vfs.sync.push.time.time_ns", lambda moment=moment: moment)
            ours.engine.push("main")
    newest_of_second: dict[str, int] = {}
    for entry in reversed(ours.engine.log("main")):
        printed = str(entry).split()[2]
        assert ours.engine.snapshot_at("main", as_of=printed).remote.lsn == entry.lsn
        assert printed in str(ours.engine.show("main", str(entry.lsn)))
        newest_of_second[printed[:19]] = entry.lsn
    assert len(newest_of_second) == 2
    for printed, lsn in newest_of_second.items():
        assert ours.engine.snapshot_at("main", as_of=f"{printed}Z").remote.lsn == lsn


@pytest.mark.parametrize("ahead", [None, 0.0, 59.0, -59.0])
def test_a_clock_that_is_right_or_not_known_to_be_wrong_dates_commits(ahead) -> None:
    assert corrected_ms(NOON_MS, ahead) == NOON_MS


@pytest.mark.parametrize("ahead", [61.5, -61.5, 1e9, -1e9])
def test_a_clock_that_disagrees_with_the_store_does_not_date_commits(ahead) -> None:
    assert corrected_ms(NOON_MS, ahead) == NOON_MS - round(ahead * 1000)


def test_the_past_of_a_log_without_commits_is_not_found(machines) -> None:
    ours = machines("ours")
    ours.connect().execute("CREATE TABLE t(k)")
    with pytest.raises(NotFoundError, match="no log"):
        ours.engine.snapshot_at("main", as_of="1 hour ago")
    with pytest.raises(NotFoundError, match="no log"):
        ours.engine.snapshot_at("main", lsn=1)


def test_a_damaged_volume_is_one_bad_row_among_the_others(tmp_path) -> None:
    with registered(Config(data_dir=tmp_path / "data")) as engine:
        for tag in ("first", "second", "third"):
            graft_vfs.connect(tag).execute("CREATE TABLE t(x)")
        path = engine.open("second").branch_log.path
    path.write_bytes(b"not a log".ljust(200))
    with registered(Config(data_dir=tmp_path / "data")) as engine:
        found = engine.volumes()
        assert [report.tags for report in found] == [("first",), ("second",), ("third",)]
        assert [report.problem is None for report in found] == [True, False, True]
        assert "is not a branch log" in str(found[1])
        assert found[1].local_lsn is None
        assert (found[0].local_lsn, found[2].local_lsn) == (1, 1)
