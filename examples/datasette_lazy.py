"""Datasette browses a database that is on another machine: it fetches what the screen shows.

As a command: `datasette --metadata metadata.json`, with the configuration below in the file.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from datasette.app import Datasette

import graft_vfs
from graft_vfs import Config, RemoteConfig

ROWS = 20_000
CONFIGURATION = {
    "plugins": {"graft-vfs": {"databases": {"people": {"tag": "people", "remote": "people"}}}}
}


def publish(data_dir: Path, remote: RemoteConfig) -> None:
    """Make a database of some megabytes and push it, as the first machine."""
    engine = graft_vfs.register(Config(data_dir=data_dir, remote=remote))
    connection = graft_vfs.connect("people")
    with connection:
        connection.execute("CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT, about TEXT)")
        connection.executemany(
            "INSERT INTO people(name, about) VALUES(?, hex(randomblob(100)))",
            ((f"person {number}",) for number in range(1, ROWS + 1)),
        )
    connection.close()
    print(engine.push("people"))
    graft_vfs.unregister()


async def browse(paths: list[str]) -> None:
    """Ask Datasette for pages, and say what each of them fetched."""
    store = graft_vfs.register().store
    datasette = Datasette([], metadata=CONFIGURATION)
    await datasette.invoke_startup()
    for path in paths:
        before = store.counters.snapshot()
        answer = await datasette.client.get(path)
        asked = store.counters.snapshot() - before
        print(f"{answer.status_code} {path}: {asked.requests} requests, {asked.bytes_received:,} B")
    print(graft_vfs.register().audit("people"))
    for database in datasette.databases.values():
        database.close()


def main() -> None:
    """Publish as one machine, browse on another."""
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        remote = RemoteConfig(type="fs", root=str(here / "remote"))
        publish(here / "first", remote)
        graft_vfs.register(Config(data_dir=here / "second", remote=remote))
        asyncio.run(browse(["/", "/people", "/people/people", "/people/people/12345"]))
        graft_vfs.unregister()


if __name__ == "__main__":
    main()
