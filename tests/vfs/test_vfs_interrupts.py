"""Ctrl-C in a statement that only computes, and errors that arrive when SQLite has returned."""

from __future__ import annotations

import os
import queue
import signal
import threading

import apsw
import pytest

from graft_vfs.pager import interrupts
from graft_vfs.pager.interrupts import end_on_interrupt, raise_behind

TEN_MILLION_ROWS = """
WITH RECURSIVE counter(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter LIMIT 10000000)
SELECT tell('begin', 0) UNION ALL SELECT tell('end', max(n)) FROM counter
"""


def test_ctrl_c_ends_a_statement_that_does_not_call_python() -> None:
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    connection = apsw.Connection(":memory:")
    end_on_interrupt(connection)
    # A method in C: no Python code runs that could notice the signal in its place.
    connection.create_scalar_function("tell", told.put, 2)

    def press_ctrl_c() -> None:
        assert told.get(timeout=60) == "begin"
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press_ctrl_c)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            connection.execute(TEN_MILLION_ROWS).fetchall()
    finally:
        thread.join()
    assert told.empty(), "the statement went on to its end"
    assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_the_very_error_arrives_when_sqlite_has_returned() -> None:
    class NeedsArguments(Exception):  # noqa: N818
        def __init__(self, one: int, *, two: str) -> None:
            super().__init__(one, two)

    error = NeedsArguments(1, two="second")
    asked: list[bool] = []

    def callback() -> int:
        if not asked:  # Once: a second error could arrive anywhere after this test.
            asked.append(True)
            raise_behind(error)
        return 1

    connection = apsw.Connection(":memory:")
    connection.create_scalar_function("later", callback, 0)

    def call_until_it_arrives() -> None:
        while True:
            connection.execute("SELECT later()").fetchall()

    with pytest.raises(NeedsArguments) as raised:
        call_until_it_arrives()
    assert raised.value is error


def test_the_very_error_arrives_whatever_its_class_is_called_with(monkeypatch) -> None:
    error = ValueError("handler")
    asked: list[type[BaseException]] = []

    def ask(function, arguments) -> None:
        asked.append(arguments[1].value)

    monkeypatch.setattr(interrupts._thread, "start_new_thread", ask)
    raise_behind(error)
    assert asked[0]() is error
    assert asked[0]("a value that code in C passed on") is error
