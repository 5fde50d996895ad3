"""Celery keeps its queue and its results on volumes: a task is sent, done once, and answered."""

from __future__ import annotations

import pytest

pytest.importorskip("celery", reason="the test extra is not installed")

_PROGRAM = """
import warnings

warnings.simplefilter("ignore")
import sqlite3
from celery import Celery
from celery.contrib.testing.worker import start_worker

import graft_vfs

app = Celery("tasks", broker="sqla+graft://queue?timeout=60", backend="db+graft://results?timeout=60")
app.conf.broker_connection_retry_on_startup = False

@app.task
def square(number):
    return number * number

sent = [square.delay(number) for number in range(5)]
with start_worker(app, pool="solo", perform_ping_check=False, loglevel="ERROR"):
    print(*(each.get(timeout=120) for each in sent))
connection = graft_vfs.connect("queue")
print(*connection.execute("SELECT count(*), sum(visible) FROM kombu_message").fetchone())
connection.close()
"""


def test_tasks_are_done_once_and_answered(run):
    done = run("-W", "ignore", "-c", _PROGRAM)
    assert done.stdout.splitlines() == ["0 1 4 9 16", "5 0"]
