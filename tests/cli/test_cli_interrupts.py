"""Ctrl-C is noticed in calls that began to wait when it came, and nothing else has changed."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from graft_vfs.cli.interrupts import noticed_at_once

# The signal goes to another thread, so that the call in which the main thread waits goes on: what
# happens too if it comes just before the call.
WAITING = """
import contextlib, signal, sys, threading, time
from pathlib import Path
from graft_vfs.cli.interrupts import noticed_at_once

def interrupt_elsewhere():
    while " S " not in Path(f"/proc/self/task/{main}/stat").read_text():
        time.sleep(0.01)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

main = threading.get_native_id()
lock = threading.Lock()
lock.acquire()
with noticed_at_once() if sys.argv[1] == "guarded" else contextlib.nullcontext():
    threading.Thread(target=interrupt_elsewhere, daemon=True).start()
    try:
        lock.acquire()
    except KeyboardInterrupt:
        print("noticed", flush=True)
"""


def child(how: str, timeout_seconds: float) -> str:
    command = [sys.executable, "-c", WAITING, how]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_seconds, check=True
    )
    assert not done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_call_that_began_to_wait_when_the_signal_came_is_ended() -> None:
    assert child("guarded", 60) == "noticed\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_without_the_guard_it_is_not() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        child("bare", 2)


def test_a_signal_is_one_interrupt_and_afterwards_all_is_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupts = 0
    with noticed_at_once():
        for _ in range(3):
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                interrupts += 1
    assert interrupts == 3
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_where_somebody_else_handles_it_nothing_changes() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noticed_at_once():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
