"""Runs `apsw.speedtest` and digests every row that it is given; a program for its own process.

    python speedtest_rows.py SIDE DIRECTORY [ARGUMENT...]

SIDE is `stock` or `graft`, an ARGUMENT is one of the speed test's. Its own `--correctness` looks at
databases in memory only and so at no VFS; its timed part throws the rows away. Here a row trace
sees them before that. Prints a JSON object: how many rows, their digest, and what the database
holds at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import runpy
import sys
from pathlib import Path

import apsw

import graft_vfs
from graft_vfs import Config
from graft_vfs.volume import transaction
from tests.support.sql import BUILTIN_VFS, content, is_sound

_STAGED_BYTES_MAX = 1 << 18
"""So low that the larger transactions go through the log before their commit."""


class Rows:
    """A digest over all rows, in the order in which they come."""

    def __init__(self) -> None:
        self.count = 0
        self._hash = hashlib.sha256()

    def watch(self, connection: apsw.Connection) -> None:
        """See each row of a connection from now on."""
        connection.row_trace = self._see

    def _see(self, _: apsw.Cursor, row: tuple) -> tuple:
        self.count += 1
        self._hash.update(repr(row).encode())
        return row

    def digest(self) -> str:
        """Return the digest of the rows seen so far."""
        return self._hash.hexdigest()


def run(side: str, directory: Path, arguments: list[str]) -> dict[str, object]:
    """Run the speed test and return what it was given and what it left."""
    rows = Rows()
    vfs, name = BUILTIN_VFS, str(directory / "speed.db")
    if side == "graft":
        transaction.STAGED_BYTES_MAX = _STAGED_BYTES_MAX
        graft_vfs.register(Config(data_dir=directory / "data"))
        vfs, name = "graft", "speed"
        # The test removes its database as a file, which a tag is not.
        apsw.connection_hooks.append(lambda connection: connection.pragma("graft_new"))
    apsw.connection_hooks.append(rows.watch)
    sys.argv = ["speedtest", "--apsw", "--vfs", vfs, "--database", name, *arguments]
    with contextlib.redirect_stdout(sys.stderr):
        runpy.run_module("apsw.speedtest", run_name="__main__")
    apsw.connection_hooks.clear()
    connection = apsw.Connection(name, vfs=vfs, flags=apsw.SQLITE_OPEN_READONLY)
    left = {table: len(found) for table, found in content(connection).items()}
    digest = hashlib.sha256(repr(content(connection)).encode()).hexdigest()
    sound = is_sound(connection)
    connection.close()
    return {
        "rows": rows.count,
        "digest": rows.digest(),
        "left": left,
        "content": digest,
        "sound": sound,
    }


if __name__ == "__main__":
    side, directory, *arguments = sys.argv[1:]
    print(json.dumps(run(side, Path(directory), arguments)))
