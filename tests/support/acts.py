"""Operations of a program on an engine, each with fresh preparation, for tests without resources.

An operation may fail with a declared error and is then repeated, as a program would do: whatever
the first attempt left, the second one succeeds, and nothing is duplicated.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import apsw

import graft_vfs
from graft_vfs import Config, Graft, RemoteConfig
from tests.support.engines import close_connections
from tests.support.replicas import Replica
from tests.support.sql import is_sound, rows, stock

ROW_BYTES = 500
LARGE_ROWS = 600
"""This many rows make a chunk that is written without copying."""


class World:
    """The machine under test, and another one on the same remote with enough resources."""

    def __init__(self, directory: Path, elsewhere: Path, *, remote: RemoteConfig) -> None:
        self.directory = directory
        self.elsewhere = elsewhere
        elsewhere.mkdir()
        directory.mkdir(exist_ok=True)
        self.remote = remote
        self.config = Config(data_dir=directory / "data", remote=remote)
        self.engine: Graft = graft_vfs.register(self.config)
        self.connection: apsw.Connection
        self.other: Replica | None = None
        self.expected = 0

    def reopen(self) -> None:
        """Close the engine and open a new one, as a new process would."""
        close_connections()
        graft_vfs.unregister()
        self.engine = graft_vfs.register(self.config)
        self.connection = self._connect()

    def _connect(self) -> apsw.Connection:
        connection = graft_vfs.connect("main")
        connection.pragma("cache_size", 20)
        connection.pragma("synchronous", "off")
        return connection

    def begin(self) -> None:
        """Create the volume with one row, and push it."""
        self.connection = self._connect()
        self.connection.execute("CREATE TABLE t(n INTEGER PRIMARY KEY, v)")
        self.add()
        self.engine.push("main")

    def add(self, count: int = 1) -> None:
        """Commit rows in one transaction."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            self.insert(self.connection, count)
            self.connection.execute("COMMIT")
        except apsw.Error:
            # On a full disk, SQLite has already rolled back.
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise
        self.expected += count

    def insert(self, connection: apsw.Connection, count: int) -> None:
        """Insert the next expected rows."""
        connection.executemany(
            "INSERT INTO t VALUES(?, randomblob(?))",
            ((self.expected + n, ROW_BYTES) for n in range(count)),
        )

    def elsewhere_added(self, count: int) -> None:
        """Make the other machine add rows and push them."""
        if self.other is None:
            self.other = Replica(self.elsewhere / "other", self.remote)
        connection = self.other.connect(remote="main")
        self.other.engine.pull("main")
        with connection:
            self.insert(connection, count)
        connection.close()
        self.other.engine.push("main")

    def check(self) -> None:
        """Check that every acknowledged row exists once, now and in a new process."""
        for _ in range(2):
            found = [n for (n,) in rows(self.connection, "SELECT n FROM t ORDER BY n")]
            assert found == list(range(self.expected)), (found, self.expected)
            assert is_sound(self.connection)
            self.reopen()
        self.add()
        self.engine.push("main")
        assert self.engine.status("main").last_error is None

    def close(self) -> None:
        """Close everything; the directories are the caller's."""
        close_connections()
        graft_vfs.unregister()
        if self.other is not None:
            self.other.close()


Act = Callable[[World], None]


def commit(world: World) -> None:
    """Commit until the space zeroed ahead in the log has been used up several times."""
    for _ in range(60):
        world.add()


def commit_full(world: World) -> None:
    world.connection.pragma("synchronous", "full")
    commit(world)


def commit_large(world: World) -> None:
    world.add(LARGE_ROWS)


def vacuum(world: World) -> None:
    world.connection.execute("VACUUM")


def push(world: World) -> None:
    world.engine.push("main")


def pull(world: World) -> None:
    world.engine.pull("main")


def hydrate(world: World) -> None:
    world.engine.hydrate("main")


def read(world: World) -> None:
    assert len(rows(world.connection, "SELECT v FROM t")) == world.expected


def connect(world: World) -> None:
    graft_vfs.connect("main").close()


def open_engine(world: World) -> None:
    Graft(world.config).close()


def open_volume(world: World) -> None:
    engine = Graft(world.config)
    try:
        engine.open("main").begin()
    finally:
        engine.close()


def new(world: World) -> None:
    world.engine.new("another")
    graft_vfs.connect("another").close()


def clone(world: World) -> None:
    world.engine.clone("main", "copy")


def fork(world: World) -> None:
    world.engine.fork("main", new_tag="forked")


def import_(world: World) -> None:
    world.engine.import_(world.elsewhere / "plain.db", "imported")


def update(world: World) -> None:
    world.engine.import_(world.elsewhere / "next.db", "main", update=True)


def export(world: World) -> None:
    world.engine.export("main", world.directory / "exported.db")


def sort(world: World) -> None:
    found = rows(world.connection, "SELECT v FROM t ORDER BY v")
    assert len(found) == world.expected


# Preparation
# ---------------------------------------------------------------------------------------


def _nothing(world: World) -> None:
    pass


def _local_commits(world: World) -> None:
    for _ in range(5):
        world.add()


def _much_to_push(world: World) -> None:
    world.add(4 * LARGE_ROWS)


def _much_to_move(world: World) -> None:
    """Leave a hole before the rows, so that VACUUM gives their pages other numbers."""
    world.connection.execute("CREATE TABLE hole(v); INSERT INTO hole VALUES(zeroblob(300000))")
    _much_to_push(world)
    world.connection.execute("DROP TABLE hole")


def _much_to_pull(world: World) -> None:
    world.elsewhere_added(LARGE_ROWS)
    world.expected += LARGE_ROWS


def _cold_pages(world: World) -> None:
    _much_to_pull(world)
    world.engine.pull("main")


def _plain_file(world: World) -> None:
    plain = stock(world.elsewhere / f"plain-{secrets.token_hex(4)}.db")
    plain.execute("CREATE TABLE p(v)")
    plain.execute("INSERT INTO p VALUES(zeroblob(2000000))")
    path = Path(plain.filename)
    plain.close()
    path.rename(world.elsewhere / "plain.db")


def _next_version(world: World) -> None:
    path = world.elsewhere / "next.db"
    path.unlink(missing_ok=True)
    world.engine.export("main", path)
    plain = stock(path)
    plain.execute("CREATE TABLE IF NOT EXISTS p(v)")
    plain.execute("INSERT INTO p VALUES(randomblob(2000000))")
    plain.close()


def _near_the_end(world: World) -> None:
    """Fill the branch log to the point where it must be extended next."""
    volume = world.engine.open("main")
    while len(volume.branch_log.view) - volume.begin().end.offset > 16_000:
        world.add()


COLD = frozenset({"hydrate", "read", "sort"})
"""Operations that start without cached pages, so that each read needs space."""

THROUGH_SQL = frozenset(
    {
        "commit",
        "commit at the file's end",
        "commit with FULL",
        "commit much",
        "vacuum",
        "read",
        "sort",
        "connect",
    }
)
"""Operations whose errors SQLite reports."""

ACTS: dict[str, tuple[Act, Act]] = {
    "commit": (_nothing, commit),
    "commit at the file's end": (_near_the_end, commit),
    "commit with FULL": (_nothing, commit_full),
    "commit much": (_nothing, commit_large),
    "vacuum": (_much_to_move, vacuum),
    "push": (_local_commits, push),
    "push much": (_much_to_push, push),
    "pull": (_much_to_pull, pull),
    "hydrate": (_cold_pages, hydrate),
    "read": (_cold_pages, read),
    "sort": (_cold_pages, sort),
    "connect": (_nothing, connect),
    "open an engine": (_nothing, open_engine),
    "open a volume": (_local_commits, open_volume),
    "new": (_nothing, new),
    "clone": (_nothing, clone),
    "fork": (_local_commits, fork),
    "import": (_plain_file, import_),
    "import the next version": (_next_version, update),
    "export": (_much_to_push, export),
}
