"""A transaction over several databases on a disk that fills up: all of it is committed, or none.

SQLite listens to errors until every database has been synced, and ignores them afterwards when a
super-journal names the databases.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import sqlite3

import apsw
import pytest

import graft_vfs
from graft_vfs import Config
from graft_vfs.local import branch_log
from graft_vfs.pager.volume_file import VolumeFile
from tests.support.engines import registered, reopened
from tests.support.sql import is_sound, stock

FAILURES = (apsw.Error, sqlite3.Error)
FILL = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"

# The main database first; `plain` is a file, all others are volumes.
LAYOUTS = {
    "two volumes": ("one", "two"),
    "three volumes": ("one", "two", "three"),
    "a file with a volume": ("plain", "one"),
    "a file with two volumes": ("plain", "one", "two"),
    "a volume with a file": ("one", "plain"),
}


class SmallDisk:
    """Lets branch files grow by so many bytes; `None` is no limit."""

    def __init__(self, monkeypatch):
        self.left = None
        self.refused = 0
        self._ends = {}
        for name in ("write_fully", "write_all"):
            monkeypatch.setattr(branch_log, name, self._limited(getattr(branch_log, name)))

    def limit(self, left):
        self.left, self._ends = left, {}

    def _limited(self, write):
        def limited(descriptor, data, offset):
            length = len(data) if isinstance(data, bytes | memoryview) else sum(map(len, data))
            grown = self._growth(descriptor, offset + length)
            if self.left is not None and grown > self.left:
                self.refused += 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(descriptor, data, offset)
            if self.left is not None:
                self.left -= grown

        return limited

    def _growth(self, descriptor, end):
        inode = os.fstat(descriptor).st_ino
        allocated = self._ends.get(inode)
        if allocated is None:
            allocated = os.lseek(descriptor, 0, os.SEEK_HOLE)
        self._ends[inode] = max(allocated, end) if self.left is None or end <= allocated else end
        return max(0, end - allocated)


@pytest.fixture(params=["mapped", "calls"])
def data(request, tmp_path, monkeypatch):
    """An engine whose branch files are written through a mapping if that is safe, or by calls."""
    if request.param == "calls":
        monkeypatch.setattr(branch_log, "mapped_writes_are_safe", lambda _: False)
    with registered(Config(data_dir=tmp_path / "data")):
        graft_vfs.enable_sqlite3()
        yield tmp_path


@pytest.fixture
def disk(monkeypatch):
    return SmallDisk(monkeypatch)


def opened(binding, data, layout, modes):
    """Return a connection with the databases of a layout, each with one row in its table."""
    journal_mode, locking_mode, synchronous = modes

    def address(name):
        return f"file:{data}/plain.db?vfs=unix" if name == "plain" else f"file:{name}?vfs=graft"

    main, *others = layout
    if binding is sqlite3:
        connection = sqlite3.connect(address(main), uri=True, isolation_level=None, timeout=0)
    elif main == "plain":
        connection = stock(data / "plain.db")
    else:
        connection = graft_vfs.connect(main)
    execute = connection.execute
    for name in others:
        execute(f"ATTACH '{address(name)}' AS {name}")
    schemas = ["main", *others]
    for schema, name in zip(schemas, layout, strict=True):
        is_file_below = name == "plain" and schema != "main"
        if not is_file_below:
            mode = journal_mode
        else:
            mode = "wal" if journal_mode not in {"memory", "off"} else journal_mode
        if journal_mode != "off" or name == "plain":
            execute(f"PRAGMA {schema}.journal_mode={mode}").fetchall()
        execute(f"PRAGMA {schema}.synchronous={synchronous}").fetchall()
        if not is_file_below:
            execute(f"PRAGMA {schema}.locking_mode={locking_mode}").fetchall()
        execute(f"CREATE TABLE {schema}.{name}(x, y)")
        execute(f"INSERT INTO {schema}.{name} VALUES(0, 'kept')")
    if layout[0] == "plain" and journal_mode == "off":
        execute("PRAGMA journal_mode=off").fetchall()  # For all databases of the connection.
    return connection


def counts(connection, layout):
    return [connection.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0] for name in layout]


def counts_elsewhere(binding, data, layout):
    """Return the counts as connections of their own see them."""
    found = []
    for name in layout:
        # Two SQLite libraries in one process must not open one plain file.
        of_file = sqlite3.connect if binding is sqlite3 else stock
        with contextlib.closing(
            of_file(data / "plain.db") if name == "plain" else graft_vfs.connect(name)
        ) as other:
            found.append(other.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0])
    return found


def budgets(rows):
    yield from (0, 1, 100, 5000)
    step = 9000 if rows == 1 else 130_000
    yield from range(step, 100 * step, step)


def check_all_or_nothing(data, disk, case):
    """Commit with more and more room on the disk; returns how many commits were refused."""
    binding, name, *modes, rows = case
    layout = LAYOUTS[name]
    journal_mode, locking_mode, _ = modes
    connection = opened(binding, data, layout, modes)
    wanted = counts(connection, layout)
    refused = 0
    # Nothing can roll a plain file back that has no journal, or is committed by its WAL.
    volumes = [name for name in layout if name != "plain"]
    rolls_back = layout if "plain" not in layout or journal_mode != "off" else volumes
    for budget in budgets(rows):
        connection.execute("BEGIN")
        for name in layout:
            connection.execute(
                f"{FILL} INSERT INTO {name} SELECT i, zeroblob(3000) FROM n", (rows,)
            )
        disk.limit(budget)
        try:
            connection.execute("COMMIT")
        except FAILURES:
            refused += 1
            is_committed = False
        else:
            is_committed = True
        disk.limit(None)
        if is_committed:
            wanted = [count + rows for count in wanted]
        found = counts(connection, layout)
        kept = [layout.index(name) for name in rolls_back]
        assert [found[n] for n in kept] == [wanted[n] for n in kept], budget
        wanted = found
        if locking_mode == "normal":
            assert counts_elsewhere(binding, data, layout) == found, budget
        if is_committed and refused:
            break
    # What is committed afterwards holds nothing of what was rolled back.
    connection.execute("BEGIN")
    for name in layout:
        connection.execute(f"INSERT INTO {name} VALUES(-1, 'last')")
    connection.execute("COMMIT")
    connection.close()
    reopened(graft_vfs.register().config)
    assert counts_elsewhere(binding, data, layout) == [count + 1 for count in wanted]
    for name in volumes:
        with contextlib.closing(graft_vfs.connect(name)) as other:
            assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return refused


FULL = tuple(
    itertools.product(
        (apsw, sqlite3),
        LAYOUTS,
        ("truncate", "delete", "persist", "memory", "off"),
        ("normal", "exclusive"),
        ("full", "normal"),
        (1, 100),
    )
)
SAMPLE = random.Random(1).sample(FULL, 40)


def name_of(case):
    binding, *rest = case
    return "-".join((binding.__name__, *map(str, rest)))


@pytest.mark.parametrize("case", SAMPLE, ids=name_of)
def test_a_full_disk_commits_all_databases_or_none(data, disk, case):
    refused = check_all_or_nothing(data, disk, case)
    assert refused or case[-1] == 1  # A small commit has room already.


@pytest.mark.deep
@pytest.mark.parametrize("case", FULL, ids=name_of)
def test_a_full_disk_commits_all_databases_or_none_in_the_whole_matrix(data, disk, case):
    refused = check_all_or_nothing(data, disk, case)
    assert refused or case[-1] == 1  # A small commit has room already.


# Between the two phases -------------------------------------------------------------------------

PAIR = ("one", "two")
MODES = ("truncate", "normal", "full")


def test_databases_that_shrink_at_the_commit(data, disk):
    # SQLite cuts a database after the phase in which it listens to errors.
    for name in PAIR:
        with contextlib.closing(graft_vfs.connect(name)) as connection:
            connection.execute("PRAGMA auto_vacuum=full").fetchall()
            connection.execute(f"CREATE TABLE {name}(x, y)")
    connection = graft_vfs.connect("one")
    connection.execute("ATTACH 'file:two?vfs=graft' AS two")
    for name in PAIR:
        connection.execute(f"{FILL} INSERT INTO {name} SELECT i, zeroblob(3000) FROM n", (150,))
    for budget in budgets(100):
        before = [connection.pragma("page_count", schema=schema) for schema in ("main", "two")]
        connection.execute("BEGIN; DELETE FROM one WHERE x > 10; DELETE FROM two WHERE x > 10")
        connection.execute("UPDATE one SET y = zeroblob(2000); UPDATE two SET y = zeroblob(2000)")
        disk.limit(budget)
        with contextlib.suppress(apsw.FullError):
            connection.execute("COMMIT")
        disk.limit(None)
        after = [connection.pragma("page_count", schema=schema) for schema in ("main", "two")]
        if after != before:
            break
        assert counts(connection, PAIR) == [150, 150]
    assert disk.refused
    assert max(after) < 20
    assert counts_elsewhere(apsw, data, PAIR) == [10, 10]
    connection.execute("INSERT INTO one SELECT * FROM two; INSERT INTO two SELECT * FROM one")
    assert counts_elsewhere(apsw, data, PAIR) == [20, 30]
    for name in PAIR:
        with contextlib.closing(graft_vfs.connect(name)) as other:
            assert is_sound(other)


@pytest.mark.parametrize("data", ["mapped"], indirect=True)
def test_a_failed_last_sync_is_logged_and_the_commit_stands(data, monkeypatch, caplog):
    connection = opened(sqlite3, data, PAIR, MODES)
    syncs = []

    def failing(descriptor):
        syncs.append(descriptor)
        if len(syncs) > 2:  # Two before SQLite stops listening, two after.
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    connection.execute("BEGIN")
    for name in PAIR:
        connection.execute(f"INSERT INTO {name} VALUES(1, 'new')")
    with monkeypatch.context() as patch:
        patch.setattr(branch_log, "data_sync", failing)
        connection.execute("COMMIT")
    assert len(syncs) == 4
    assert caplog.text.count("is committed, but a power cut may lose it") == 2
    assert counts(connection, PAIR) == counts_elsewhere(sqlite3, data, PAIR) == [2, 2]
    connection.close()


@pytest.mark.parametrize("data", ["mapped", "calls"], indirect=True)
@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_process_that_dies_between_the_phases_leaves_whole_transactions(data, calls):
    child = os.fork()
    if not child:
        _die_at_file_control(data, calls)
    os.waitpid(child, 0)
    # Each volume is committed or not; the one that ends the transaction last may be missing.
    found = counts_elsewhere(apsw, data, PAIR)
    assert found == [1 + (calls > 2), 1]
    for name in PAIR:
        with contextlib.closing(graft_vfs.connect(name)) as other:
            assert is_sound(other)
            other.execute(f"INSERT INTO {name} VALUES(2, 'next')")


def _die_at_file_control(data, calls):
    """In a child: end at the n-th of FCNTL_SYNC and COMMIT_PHASETWO of a commit, before it."""
    graft_vfs.register(Config(data_dir=data / "data"))
    connection = opened(apsw, data, PAIR, MODES)
    connection.execute("BEGIN; INSERT INTO one VALUES(1, 'new'); INSERT INTO two VALUES(1, 'new')")
    seen = []
    original = VolumeFile.xFileControl

    def dying(self, op, pointer):
        if op in {apsw.SQLITE_FCNTL_SYNC, apsw.SQLITE_FCNTL_COMMIT_PHASETWO}:
            if len(seen) == calls:
                os._exit(0)
            seen.append(op)
        return original(self, op, pointer)

    VolumeFile.xFileControl = dying
    connection.execute("COMMIT")
    os._exit(1)
