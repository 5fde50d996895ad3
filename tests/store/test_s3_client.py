"""The client of boto3, which the first request of a store makes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from graft_vfs.errors import LocalStorageError, StoreUnavailableError, UsageError
from graft_vfs.store.s3 import S3Store
from graft_vfs.store.s3 import client as s3_client
from graft_vfs.store.s3 import store as s3_store
from tests.support import isolated
from tests.support.shortage import FewDescriptors

ENDPOINT = "http://127.0.0.1:9"

FORK_WHILE_IMPORTING = """
import os, signal, sys, threading
from graft_vfs.errors import StoreUnavailableError
from graft_vfs.store.s3 import S3Store

main = threading.get_ident()
importing, forked = threading.Event(), threading.Event()

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "boto3.session" and not importing.is_set():
            importing.set()
            # In the middle of the import until the other thread has forked, or waits to.
            while not forked.is_set():
                frame = sys._current_frames()[main]
                while frame is not None and frame.f_code.co_name != "_prepare":
                    frame = frame.f_back
                if frame is not None:
                    break

def request():
    try:
        S3Store("bucket", endpoint="http://127.0.0.1:9", attempts_max=1).get("k")
    except StoreUnavailableError:
        # One write, because parent and child share the pipe.
        os.write(1, f"sent {os.getpid() == parent}\\n".encode())

parent = os.getpid()
sys.meta_path.insert(0, Slow())
thread = threading.Thread(target=request)
thread.start()
importing.wait()
child = os.fork()
forked.set()
if child == 0:
    signal.alarm(30)
    request()
    os._exit(0)
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture
def makings(monkeypatch) -> list[int]:
    """Count the clients that are made."""
    made: list[int] = []
    make = s3_client.make_client

    def counting(*arguments):
        made.append(threading.get_ident())
        return make(*arguments)

    monkeypatch.setattr(s3_store, "make_client", counting)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    return made


def test_a_store_makes_its_client_once_for_all_threads(makings):
    with S3Store("bucket", endpoint=ENDPOINT, attempts_max=1) as store:
        assert str(store) == store.describe() == f"s3://bucket at {ENDPOINT}"
        assert makings == [], "nothing was requested"
        everyone = threading.Barrier(4)

        def request(_):
            everyone.wait()
            with pytest.raises(StoreUnavailableError):
                store.get("k")

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(request, range(4)))
        assert len(makings) == 1


def test_a_store_that_was_closed_makes_no_client(makings):
    store = S3Store("bucket")
    store.close()
    with pytest.raises(UsageError, match="s3://bucket was closed"):
        store.get("k")
    assert makings == []


def test_a_store_that_is_closed_while_its_client_is_made_sends_nothing(makings, monkeypatch):
    store = S3Store("bucket", endpoint=ENDPOINT, attempts_max=1)
    make = s3_store.make_client

    def closing(*arguments):
        store.close()  # As a finalizer does, in the same thread.
        return make(*arguments)

    monkeypatch.setattr(s3_store, "make_client", closing)
    with pytest.raises(UsageError, match="was closed"):
        store.get("k")
    assert len(makings) == 1
    assert store.counters.snapshot().requests == 0


def test_a_fork_waits_for_an_import_of_boto3():
    ran = subprocess.run(
        [sys.executable, "-c", FORK_WHILE_IMPORTING],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
    )
    assert (ran.returncode, sorted(ran.stdout.split("\n"))) == (
        0,
        ["", "sent False", "sent True"],
    ), ran.stderr


def test_endpoints_are_validated_as_by_boto3(makings):
    for good in (
        "http://h:1",
        "HTTP://H:1/",
        "https://[::1]:9000",
        "http://h.x./p",
        "http://1.2.3.4",
    ):
        with S3Store("bucket", endpoint=good) as store:
            store._check_open()
            assert store._client.meta.endpoint_url == good
    assert len(makings) == 5


def request_without_descriptors() -> None:
    """Make the first request of a process when no file can be opened, and then another one."""
    with S3Store("bucket", endpoint=ENDPOINT, attempts_max=1) as store:
        with FewDescriptors().left(0), pytest.raises(LocalStorageError, match="ulimit -n"):
            store.get("k")
        with pytest.raises(StoreUnavailableError):
            store.get("k")


def test_a_first_request_without_descriptors_fails_by_name_and_succeeds_later(monkeypatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    isolated.run(request_without_descriptors)
