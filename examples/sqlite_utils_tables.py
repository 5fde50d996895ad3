"""sqlite-utils on a volume: from Python with a connection, from a shell with its plugin."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import sqlite_utils
from sqlite_utils.utils import sqlite3  # pysqlite3, where that is installed

import graft_vfs
from graft_vfs import Config


def main() -> None:
    """Insert rows from Python, and ask for them with the command."""
    with tempfile.TemporaryDirectory() as directory:
        data_dir = Path(directory) / "data"
        graft_vfs.register(Config(data_dir=data_dir))
        graft_vfs.enable_sqlite3(sqlite3)
        connection = sqlite3.connect("file:people?vfs=graft", uri=True)
        database = sqlite_utils.Database(connection)
        database["people"].insert_all(
            [{"name": "Ann", "age": 33}, {"name": "Bob", "age": 44}], pk="name"
        )
        database["people"].enable_fts(["name"])
        print(list(database["people"].search("bob")))
        connection.close()
        graft_vfs.unregister()

        # In a shell: sqlite-utils graft rows people people --where 'age > 40'
        command = [sys.executable, "-m", "sqlite_utils", "graft", "rows", "people", "people"]
        subprocess.run(  # noqa: S603 - what it runs stands above
            [*command, "--where", "age > 40"],
            env={**os.environ, "GRAFT_DATA_DIR": str(data_dir)},
            check=True,
        )


if __name__ == "__main__":
    main()
