"""Commit locally with SQL, then publish all of it with one push.

The remote is a directory here; examples/s3.py does the same on S3.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import graft_vfs
from graft_vfs import Config, RemoteConfig


def main() -> None:
    """Commit twice, push once, and look at the result."""
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        remote = RemoteConfig(type="fs", root=str(here / "remote"))
        graft_vfs.register(Config(data_dir=here / "data", remote=remote))

        connection = graft_vfs.connect("main")
        connection.execute("CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT)")
        connection.execute("INSERT INTO notes(text) VALUES('written on this machine')")

        # Both transactions are durable on this machine now. The remote knows nothing of them.
        print(connection.pragma("graft_status"))
        print()

        # All local commits become one remote commit, with the newest image of each page.
        print(connection.pragma("graft_push"))
        print()
        print(connection.pragma("graft_status"))
        print()
        print(connection.pragma("graft_log"))

        connection.close()
        graft_vfs.unregister()


if __name__ == "__main__":
    main()
