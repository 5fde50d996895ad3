"""Two machines write to one database; the one that pushes second keeps its work in a fork.

Nothing is lost in silence: a push that comes second is refused, and local commits stay where they
are until someone decides. This version has no merge: keep the local state under another tag (fork),
then follow the remote again.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import graft_vfs
from graft_vfs import Config, Graft, RemoteConfig
from graft_vfs.errors import DivergedError


@contextlib.contextmanager
def machine(data_dir: Path, remote: RemoteConfig) -> Iterator[Graft]:
    """Be one machine inside the block: its data directory, and the shared remote."""
    engine = graft_vfs.register(Config(data_dir=data_dir, remote=remote))
    try:
        yield engine
    finally:
        graft_vfs.unregister()


def run(tag: str, statement: str) -> list[tuple[object, ...]]:
    """Run one statement on a tag and return its rows."""
    with contextlib.closing(graft_vfs.connect(tag)) as connection:
        return connection.execute(statement).fetchall()


def main() -> None:
    """Let two machines diverge, and settle it."""
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        remote = RemoteConfig(type="fs", root=str(here / "remote"))

        with machine(here / "alice", remote) as alice:
            run("main", "CREATE TABLE notes(author TEXT, text TEXT)")
            print("alice:", alice.push("main"))

        with machine(here / "bob", remote) as bob:
            bob.clone("main", "main")
            run("main", "INSERT INTO notes VALUES('bob', 'written on a train')")

        with machine(here / "alice", remote) as alice:
            run("main", "INSERT INTO notes VALUES('alice', 'pushed first')")
            print("alice:", alice.push("main"))

        with machine(here / "bob", remote) as bob:
            try:
                bob.push("main")
            except DivergedError as error:
                print("bob:", error)
            print("bob still has:", run("main", "SELECT * FROM notes"))

            # Keep bob's state: a volume of its own, with a log of its own, named `bob`.
            print("bob:", bob.fork("main", new_tag="bob"))
            print("bob:", bob.push("bob"))

            # Then let `main` follow the remote again.
            print("bob:", bob.clone("main", "main"))
            print("main:", run("main", "SELECT * FROM notes"))
            print("bob: ", run("bob", "SELECT * FROM notes"))

            # What the two states share is plain SQL, too: both are databases on this machine.
            with contextlib.closing(graft_vfs.connect("main")) as connection:
                connection.execute("ATTACH ? AS mine", (graft_vfs.uri("bob"),))
                connection.execute(
                    "INSERT INTO main.notes SELECT * FROM mine.notes "
                    "EXCEPT SELECT * FROM main.notes"
                )
            print("bob:", bob.push("main"))
            print("main:", run("main", "SELECT * FROM notes"))


if __name__ == "__main__":
    main()
