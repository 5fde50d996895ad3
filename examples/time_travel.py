"""Open a database as it was at an earlier push, and bring back what was deleted since."""

from __future__ import annotations

import tempfile
from pathlib import Path

import graft_vfs
from graft_vfs import Config, RemoteConfig


def main() -> None:
    """Push three states, lose rows in the last one, and restore them."""
    with tempfile.TemporaryDirectory() as directory:
        here = Path(directory)
        remote = RemoteConfig(type="fs", root=str(here / "remote"))
        graft_vfs.register(Config(data_dir=here / "data", remote=remote))

        now = graft_vfs.connect("main")
        now.execute("CREATE TABLE orders(id INTEGER PRIMARY KEY, item TEXT)")
        now.pragma("graft_push")
        now.execute("INSERT INTO orders(item) VALUES('bread'), ('tea'), ('salt')")
        now.pragma("graft_push")
        now.execute("DELETE FROM orders")
        now.pragma("graft_push")
        print(now.pragma("graft_log"))

        # A view of remote LSN 2. It is read-only, and does not move when the volume does.
        then = graft_vfs.connect(graft_vfs.uri("main", lsn="2"))
        print(then.execute("SELECT item FROM orders ORDER BY id").fetchall())
        then.close()

        # The same view, attached beside today's state: restoring rows is plain SQL.
        now.execute("ATTACH ? AS past", (graft_vfs.uri("main", lsn="2"),))
        now.execute("INSERT INTO main.orders SELECT * FROM past.orders WHERE item <> 'salt'")
        now.execute("DETACH past")
        print(now.execute("SELECT item FROM orders ORDER BY id").fetchall())
        print(now.pragma("graft_push"))

        now.close()
        graft_vfs.unregister()


if __name__ == "__main__":
    main()
