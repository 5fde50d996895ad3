"""Plain database files, and how they are compared with each other and with volumes."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.replicas import Replica

HEADER_FIELDS = ((18, 20), (24, 28), (92, 96))
"""WAL mode, and the two counters: what an import changes, and an export with it."""


def make(path: Path, *pragmas: str, rows_count: int = 500, row_bytes: int = 300) -> Path:
    """Make a file with stock SQLite: tables, an index, text and numbers."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE t(k INTEGER PRIMARY KEY, word TEXT, v BLOB)")
    connection.execute("CREATE INDEX words ON t(word)")
    connection.execute("BEGIN")
    for number in range(rows_count):
        connection.execute(
            "INSERT INTO t VALUES(?, ?, zeroblob(?))", (number, f"word {number}", row_bytes)
        )
    connection.execute("COMMIT")
    connection.close()
    return path


def dump(connection) -> list:
    found = connection.execute("SELECT type, name, sql FROM sqlite_schema").fetchall()
    return found + connection.execute("SELECT * FROM t ORDER BY k").fetchall()


def stock_dump(path: Path) -> list:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return dump(connection)
    finally:
        connection.close()


def neutral(data: bytes) -> bytes:
    """A database file without the header fields that say nothing about its content."""
    image = bytearray(data)
    for first, end in HEADER_FIELDS:
        image[first:end] = bytes(end - first)
    return bytes(image)


def state(path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return hashlib.sha256(path.read_bytes()).hexdigest(), found.st_mtime_ns, found.st_size


def leftovers(replica: Replica) -> list[str]:
    """Files of a volume's directory that are not its log, its mark, head, lock and description."""
    directory = replica.engine.open("main").directory
    known = {".log", ".lock", ".json", ""}
    return [
        path.name
        for path in directory.iterdir()
        if path.suffix not in known and not path.suffix.startswith(".place-")
    ]


KINDS = {
    "plain": (),
    "pages_of_512": ("page_size=512",),
    "pages_of_65536": ("page_size=65536",),
    "auto_vacuum_full": ("auto_vacuum=full",),
    "auto_vacuum_incremental": ("auto_vacuum=incremental", "page_size=1024"),
    "wal_checkpointed": ("journal_mode=wal",),
    "utf_16": ("encoding='UTF-16be'",),
}


PROCESS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement)
print("done", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def process(path: Path, *statements: str) -> Iterator[subprocess.Popen[str]]:
    """Run statements in a process that keeps its connection open inside the block."""
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(path), *statements],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "done\n"
        try:
            yield child
        finally:
            child.kill()
