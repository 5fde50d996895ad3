"""A commit that a signal's handler ends anywhere: finished or undone, and the handler's own error.

A handler may raise at any call inside SQLite's callbacks. The tests raise at each line that a
commit reaches, in turn, and once a test has a timer send real signals.
"""

from __future__ import annotations

import contextlib
import itertools
import linecache
import signal
import sqlite3
from pathlib import Path

import apsw
import pytest

import graft_vfs
from graft_vfs.local import branch_log
from graft_vfs.pager import interrupts, volume_file
from graft_vfs.vfs import sqlite3_bridge
from graft_vfs.volume import transaction
from tests.support.sql import is_sound, value
from tests.support.tracing import outcome_under

PACKAGE = str(Path(graft_vfs.__file__).parent)


class SoftTimeLimit(Exception):  # noqa: N818 - as task queues call it
    """What a task queue raises in its handler; its constructor asks for more than a text."""

    def __init__(self, seconds, task):
        super().__init__(seconds, task)
        self.seconds = seconds


def alarm():
    return TimeoutError("the alarm of a test")


def time_limit():
    return SoftTimeLimit(30, task="index")


def run_until(line, work, make_error):
    """Run `work`, raising at the given line that it reaches; returns (raised at, what came out)."""
    lines, where = itertools.count(), []

    def trace(frame, event, _):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        # No signal is delivered between the lines that are left out.
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if event == "line" and text not in {"try:", "return True"} and next(lines) == line:
            where.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
            raise make_error()
        return trace

    outcome = outcome_under(trace, work)
    return (where[0] if where else None), outcome


def check_commit(connect, modes, make_error, later=()):
    """Interrupt a commit at each line; returns how many were undone and how many finished.

    `later` gets what is to be raised when SQLite has returned.
    """
    synchronous, locking_mode, journal_mode = modes
    connection = connect("main")
    for pragma, mode in (
        ("synchronous", synchronous),
        ("locking_mode", locking_mode),
        ("journal_mode", journal_mode),
    ):
        connection.pragma(pragma, mode)
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, data)")
    connection.execute("INSERT INTO t VALUES(0, 'first')")
    wanted, undone, finished = 1, 0, 0
    for line in itertools.count():
        connection.execute("BEGIN")
        connection.execute("INSERT INTO t VALUES(?, zeroblob(3000))", (line + 1,))
        where, error = run_until(line, lambda: connection.execute("COMMIT"), make_error)
        if where is None:
            assert error is None
            wanted += 1
            break
        found = value(connection, "SELECT count(*) FROM t")
        assert found in {wanted, wanted + 1}, where
        if error is None and later:
            error = later.pop()
        if not isinstance(error, apsw.IOError):
            assert type(error) is type(make_error()), f"{where}: {error!r}"
            finished += found != wanted
        else:
            assert isinstance(error, type(make_error())), where
            assert found == wanted, f"{where}: an I/O error, but the row is there"
            undone += 1
        assert not connection.in_transaction, where
        wanted = found
        # Both go on at once, and see the same.
        connection.execute("UPDATE t SET data = ? WHERE id = 0", (where,))
        if locking_mode == "normal":
            other = connect("main")
            assert value(other, "SELECT count(*) FROM t") == wanted, where
            other.execute("UPDATE t SET data = data || '!' WHERE id = 0")
            other.close()
            assert value(connection, "SELECT data FROM t WHERE id = 0") == where + "!"
    connection.close()
    other = connect("main")
    assert value(other, "SELECT count(*) FROM t") == wanted
    assert is_sound(other)
    return undone, finished


@pytest.mark.parametrize("make_error", [KeyboardInterrupt, SystemExit, alarm, time_limit])
@pytest.mark.parametrize("synchronous", ["normal", "full"])
def test_a_commit_that_is_interrupted_at_any_line(connect, synchronous, make_error):
    undone, finished = check_commit(connect, (synchronous, "normal", "truncate"), make_error)
    assert undone > 20
    assert finished > 10


@pytest.mark.parametrize("journal_mode", ["delete", "persist", "memory"])
def test_in_each_journal_mode(connect, journal_mode):
    undone, finished = check_commit(connect, ("normal", "normal", journal_mode), alarm)
    assert undone > 20
    assert finished > 10


@pytest.mark.parametrize("make_error", [KeyboardInterrupt, alarm])
@pytest.mark.parametrize("journal_mode", ["delete", "truncate"])
def test_with_exclusive_locking(connect, monkeypatch, journal_mode, make_error):
    # No unlock follows that could raise; that it arrives is tested with `raise_behind`.
    later = []
    monkeypatch.setattr(volume_file, "raise_behind", later.append)
    modes = "full", "exclusive", journal_mode
    undone, finished = check_commit(connect, modes, make_error, later)
    assert undone > 20
    assert finished > 10


def open_with(binding, connect):
    if binding == "apsw":
        return connect("main")
    graft_vfs.enable_sqlite3()
    return sqlite3.connect(graft_vfs.uri("main"), uri=True, isolation_level=None)


@pytest.mark.parametrize(
    ("binding", "locking_mode", "journal_mode"),
    [
        ("apsw", "normal", "delete"),
        ("apsw", "normal", "memory"),
        ("apsw", "exclusive", "truncate"),
        ("sqlite3", "normal", "memory"),
        ("sqlite3", "normal", "delete"),
        ("sqlite3", "exclusive", "truncate"),
    ],
)
def test_over_two_volumes_both_commit_or_neither_does(
    connect, monkeypatch, binding, locking_mode, journal_mode
):
    later = []
    for module in volume_file, sqlite3_bridge:
        monkeypatch.setattr(module, "raise_behind", later.append)
    connection = open_with(binding, connect)
    connection.execute("ATTACH 'file:two?vfs=graft' AS two")
    for schema in "main", "two":
        connection.execute(f"PRAGMA {schema}.locking_mode={locking_mode}")
        connection.execute(f"PRAGMA {schema}.journal_mode={journal_mode}")
        connection.execute(f"CREATE TABLE {schema}.t(id INTEGER PRIMARY KEY, data)")
    wanted, undone, finished = 0, 0, 0
    for line in itertools.count(0, 2):
        connection.execute("BEGIN")
        for schema in "main", "two":
            connection.execute(f"INSERT INTO {schema}.t VALUES(?, zeroblob(3000))", (line,))
        where, error = run_until(line, lambda: connection.execute("COMMIT"), alarm)
        found = value(connection, "SELECT count(*) FROM main.t")
        assert value(connection, "SELECT count(*) FROM two.t") == found, where
        if where is None:
            break
        is_io_error = isinstance(error, (apsw.IOError, sqlite3.OperationalError))
        assert found == wanted or not is_io_error, where
        if binding == "apsw":
            assert isinstance(error or later.pop(), TimeoutError), where
        undone += found == wanted
        finished += found != wanted
        wanted = found
    assert undone > 20
    assert finished > 50
    connection.close()
    for tag in "main", "two":
        other = connect(tag)
        assert value(other, "SELECT count(*) FROM t") == wanted + 1
        assert is_sound(other)


@pytest.mark.parametrize("arguments", [(), (alarm(),)])
def test_the_class_of_an_error_that_is_raised_behind_makes_that_error_alone(monkeypatch, arguments):
    asked = []
    monkeypatch.setattr(
        interrupts._thread, "start_new_thread", lambda _, those: asked.append(those)
    )
    error = alarm()
    interrupts.raise_behind(error)
    kind = asked[0][1].value
    assert kind(*arguments) is error


def test_a_statement_that_is_interrupted_at_any_line_keeps_no_writer_out(connect):
    connection, other = connect("main"), connect("main")
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
    number = 0
    for number in itertools.count(1):
        where, error = run_until(
            number, lambda: connection.execute("INSERT INTO t DEFAULT VALUES"), alarm
        )
        other.execute("INSERT INTO t DEFAULT VALUES")
        if where is None:
            break
        assert isinstance(error, TimeoutError), where
    assert number > 200
    assert is_sound(connection)


def test_an_os_error_of_a_handler_is_not_taken_for_the_disks(connect, monkeypatch):
    connection = connect("main")
    connection.execute("CREATE TABLE t(x)")

    def sync(_):
        raise TimeoutError("the alarm of a test")

    with monkeypatch.context() as patch:
        patch.setattr(branch_log, "data_sync", sync)
        with pytest.raises(TimeoutError, match="the alarm of a test") as raised:
            connection.execute("INSERT INTO t VALUES(1)")
    assert "disk" not in str(raised.value)
    connection.execute("INSERT INTO t VALUES(2)")
    assert value(connect("main"), "SELECT max(x) FROM t") == 2


def test_the_bridge_logs_the_error_of_a_handler_that_sqlite3_does_not_show(
    engine, monkeypatch, caplog
):
    graft_vfs.enable_sqlite3()
    with contextlib.closing(
        sqlite3.connect(graft_vfs.uri("main"), uri=True, isolation_level=None)
    ) as connection:
        connection.execute("CREATE TABLE t(x)")
        with monkeypatch.context() as patch:
            patch.setattr(transaction.Transaction, "commit", raising(time_limit))
            with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
                connection.execute("INSERT INTO t VALUES(1)")
        assert "SoftTimeLimit" in caplog.text
        assert connection.execute("SELECT * FROM t").fetchall() == []


def raising(make_error):
    def fail(*_):
        raise make_error()

    return fail


# Real signals -----------------------------------------------------------------------------------


@pytest.mark.deep
def test_rows_that_a_timer_interrupts_are_there_exactly_if_no_io_error_said_otherwise(connect):
    connection, other = connect("main"), connect("main")
    connection.execute("PRAGMA synchronous=normal; CREATE TABLE t(id INTEGER PRIMARY KEY)")
    undone, interrupts, busy = set(), 0, 0
    armed = []

    def handler(*_):
        if armed:  # Else the statement is over.
            armed.clear()
            raise TimeoutError("time is up")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for number in range(400):
            try:
                armed.append(True)
                signal.setitimer(signal.ITIMER_REAL, 0.00002 + number % 40 * 0.00001)
                connection.execute("INSERT INTO t VALUES(?)", (number,))
                armed.clear()
            except apsw.IOError:
                undone.add(number)
                interrupts += 1
            except TimeoutError:
                interrupts += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            try:
                other.execute("INSERT INTO t VALUES(?)", (number + 1_000_000,))
            except apsw.BusyError:
                busy += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    found = {row for (row,) in other.execute("SELECT id FROM t WHERE id < 1000000")}
    assert not found & undone
    assert len(found) >= 400 - interrupts
    assert busy == 0
    assert is_sound(other)
