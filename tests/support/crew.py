"""The crew of a machine: processes that write, push, pull and read a volume until they are killed.

Each runs one role forever. It reports to the test through a pipe, one message at a time, and
continues only when the message is in the pipe: a reported commit is one that SQLite acknowledged.

The database can verify itself. Every row's bytes follow from its writer and number, and `total`
counts the rows in the same transaction, so that any single snapshot can be checked.
"""

from __future__ import annotations

import multiprocessing
import random
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import apsw

import graft_vfs
from graft_vfs import Config, Graft, RemoteConfig
from graft_vfs.volume import rotation

SCHEMA = """
    CREATE TABLE IF NOT EXISTS t(writer, n, v);
    CREATE TABLE IF NOT EXISTS total(n);
    INSERT INTO total SELECT 0 WHERE NOT EXISTS(SELECT 1 FROM total);
"""
_BUSY_MS = 60_000
_SIZES_BYTES = (20, 300, 5_000, 200_000)
_SIZE_WEIGHTS = (60, 30, 9, 1)

# Children of a server that has imported everything start in milliseconds and inherit no state.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["pytest", "graft_vfs", "tests.support.crew"])


@dataclass(frozen=True)
class Machine:
    """A data directory and the remote that it shares with others."""

    name: str
    data_dir: Path
    remote: RemoteConfig

    def config(self) -> Config:
        """Return the configuration of this machine's processes."""
        return Config(data_dir=self.data_dir, remote=self.remote)


def row_bytes(writer: str, n: int) -> bytes:
    """Return the content of a row, which is a function of its key."""
    choice = random.Random(f"{writer}/{n}")
    (size,) = choice.choices(_SIZES_BYTES, _SIZE_WEIGHTS)
    return choice.randbytes(size)


def check_snapshot(connection: apsw.Connection) -> int:
    """Check one snapshot of the database against itself; returns its number of rows."""
    with connection:
        ((total,),) = connection.execute("SELECT n FROM total").fetchall()
        found = connection.execute("SELECT writer, n, v FROM t").fetchall()
    assert len(found) == total, f"{len(found)} rows, and the counter says {total}"
    for writer, n, value in found:
        assert value == row_bytes(writer, n), f"row {n} of {writer} holds foreign bytes"
    return total


# Roles ------------------------------------------------------------------------------------------


def write(name: str, engine: Graft, pipe: Pipe) -> None:
    """Commit rows, and report the number of each after SQLite acknowledged it."""
    connection = graft_vfs.connect("main")
    connection.set_busy_timeout(_BUSY_MS)
    connection.pragma("synchronous", "normal")
    connection.pragma("cache_size", 20)
    pipe.send(0)
    n = 0
    while True:
        n += 1
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES(?, ?, ?)", (name, n, row_bytes(name, n)))
        connection.execute("UPDATE total SET n = n + 1")
        connection.execute("COMMIT")
        pipe.send(n)


def push(name: str, engine: Graft, pipe: Pipe) -> None:
    """Push, and report the number of rows before each successful push."""
    connection = graft_vfs.connect("main")
    pipe.send(0)
    while True:
        ((total,),) = connection.execute("SELECT n FROM total").fetchall()
        engine.push("main")
        pipe.send(total)


def pull(name: str, engine: Graft, pipe: Pipe) -> None:
    """Pull, and report the remote LSN of the volume's base."""
    pipe.send(0)
    while True:
        pipe.send(engine.pull("main").lsn)


def read(name: str, engine: Graft, pipe: Pipe) -> None:
    """Check one snapshot after the other; they must never go back."""
    connection = graft_vfs.connect("main")
    pipe.send(0)
    before = 0
    while True:
        total = check_snapshot(connection)
        assert total >= before, f"{total} rows after {before}"
        before = total
        pipe.send(total)


# Processes --------------------------------------------------------------------------------------


@dataclass
class Member:
    """One process of a crew, and its newest report."""

    name: str
    role: Callable[[str, Graft, Pipe], None]
    process: Any
    pipe: Pipe
    said: int = 0
    failure: str = field(default="", repr=False)

    @property
    def is_ready(self) -> bool:
        """Return True if the process has reported that it opened the volume."""
        self.hear()
        return self._is_ready

    _is_ready: bool = False

    def hear(self) -> None:
        """Read the reports so far; a message truncated by a kill does not count."""
        try:
            while self.pipe.poll():
                message = self.pipe.recv()
                if isinstance(message, str):
                    self.failure = message
                else:
                    self._is_ready = True
                    self.said = max(self.said, message)
        except (EOFError, ConnectionResetError):
            return

    def kill(self) -> None:
        """Kill the process if it still runs, and read its remaining reports."""
        self.process.kill()
        self.process.join()
        self.hear()
        self.pipe.close()
        code = self.process.exitcode
        self.process.close()
        assert not self.failure, f"{self.name} failed:\n{self.failure}"
        assert code == -signal.SIGKILL, f"{self.name} ended by itself with code {code}"


def start(name: str, role: Callable[[str, Graft, Pipe], None], machine: Machine) -> Member:
    """Start a process of a machine; the caller kills it."""
    ours, theirs = _context.Pipe(duplex=False)
    process = _context.Process(target=_run, args=(name, role, machine, theirs), daemon=True)
    process.start()
    # Only the child may hold this end; otherwise its death would not close the pipe.
    theirs.close()
    return Member(name, role, process, ours)


def _run(name: str, role: Callable[[str, Graft, Pipe], None], machine: Machine, pipe: Pipe) -> None:
    # Branch files are compacted and replaced with much less data than usual.
    rotation.COMPACT_BYTES, rotation.ROTATE_BYTES = 256 << 10, 512 << 10
    try:
        role(name, graft_vfs.register(machine.config()), pipe)
    except BaseException:
        pipe.send(traceback.format_exc())
        raise
