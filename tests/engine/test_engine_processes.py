"""Several processes on one data directory: what each sees, and that nothing is lost."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import apsw
import pytest

from graft_vfs.errors import (
    BusyError,
    LocalStorageError,
)
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local.branch_log import BranchLog
from graft_vfs.view.logs import Logs
from tests.support import children
from tests.support.replicas import rows
from tests.sync.checks import sound_log

EVALUATING = """
    connection = graft_vfs.connect("main")
    connection.set_busy_timeout(60_000)
    while expression := hear():
        try:
            answer = eval(expression)
        except Exception as error:
            answer = type(error).__name__
        say(repr(answer))
"""


@pytest.fixture
def child(tmp_path) -> Iterator[Callable[[], Callable[[str], str]]]:
    """Start processes with a connection to `main` open, which evaluate one expression a call."""
    with contextlib.ExitStack() as stack:

        def make() -> Callable[[str], str]:
            running = stack.enter_context(
                children.child(tmp_path / "ours", EVALUATING, remote=tmp_path / "remote")
            )

            def evaluated(expression: str) -> str:
                running.say(expression)
                return running.hear()

            return evaluated

        yield make


COUNT = "connection.execute('SELECT count(*) FROM t').fetchone()[0]"


def test_a_late_switch_does_not_hide_a_later_one(machines, monkeypatch) -> None:
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
    from graft_vfs.errors import BusyError
    connection = graft_vfs.connect("main")
    connection.set_busy_timeout(60_000)
    first = int(hear())
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
    newest = 0
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                children.child(tmp_path / "ours", WRITER, remote=tmp_path / "remote")
            )
            for _ in range(2)
        ]
        for writer, first in zip(writers, (1000, 2000), strict=True):
            writer.say(str(first))
        while any(writer.process.poll() is None for writer in writers):
            for verb in (ours.engine.push, ours.engine.pull):
                # No one else has the log, so whatever the processes do, nothing may diverge.
                with contextlib.suppress(BusyError):
                    verb("main")
            ((count,),) = rows(connection, "SELECT count(*) FROM t")
            assert count >= newest, "a view never goes back"
            newest = count
        assert [writer.end() for writer in writers] == [[], []]
    ours.engine.push("main")
    expected = [(number,) for first in (1000, 2000) for number in range(first, first + 150)]
    assert rows(connection) == expected
    assert connection.pragma("integrity_check") == "ok"
    status = ours.engine.status("main")
    assert (status.ahead, status.behind, status.pending_push) == (0, 0, False)
    assert sum(sound_log(ours.engine.store, status.remote)) == 301
    assert rows(machines("clone").connect(remote="main")) == expected


def test_a_failed_switch_is_repeated_and_never_shows_an_old_view(machines, monkeypatch) -> None:
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
