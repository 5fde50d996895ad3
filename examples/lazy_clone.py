"""Clone a database and read a part of it: only the pages that are read come to this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

import graft_vfs
from graft_vfs import Config, RemoteConfig

ROWS = 20_000


def publish(data_dir: Path, remote: RemoteConfig) -> None:
    """Make a database of some megabytes and push it, as the first machine."""
    engine = graft_vfs.register(Config(data_dir=data_dir, remote=remote))
    connection = graft_vfs.connect("main")
    with connection:
        connection.execute("CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, about TEXT)")
        connection.executemany(
            "INSERT INTO people(name, about) VALUES(?, hex(randomblob(100)))",
            ((f"person {number}",) for number in range(1, ROWS + 1)),
        )
    connection.close()
    print(engine.push("main"))
    graft_vfs.unregister()


def read(data_dir: Path, remote: RemoteConfig) -> None:
    """Clone that database and ask for one row, as a second machine that has nothing yet."""
    engine = graft_vfs.register(Config(data_dir=data_dir, remote=remote))
    print(engine.clone("main", "main"))
    print(engine.audit("main"))

    connection = graft_vfs.connect("main")
    before = engine.store.counters.snapshot()
    print(connection.execute("SELECT name FROM people WHERE id = 12345").get)
    asked = engine.store.counters.snapshot() - before
    print(f"{asked.requests} requests brought {asked.bytes_received:,} bytes.")
    print(engine.audit("main"))

    # What is on this machine is read without the remote; hydrate fetches all the rest at once.
    engine.hydrate("main")
    print(engine.audit("main"))
    connection.close()
    graft_vfs.unregister()


def main() -> None:
    """Publish as one machine, read as another."""
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        remote = RemoteConfig(type="fs", root=str(here / "remote"))
        publish(here / "first", remote)
        print()
        read(here / "second", remote)


if __name__ == "__main__":
    main()
