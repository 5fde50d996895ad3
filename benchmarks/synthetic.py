"""Logs too large to be made by pushes: only what a reader asks for exists.

`million` has the newest commits of a log, the tables that the real policy makes above a complete
one, and no pages. `terabyte` has a real table of a database of 1 TiB, and a b-tree of five levels
whose pages lie far apart, so that SQLite can answer one query; all other pages are missing.

    python -m benchmarks.synthetic DIRECTORY

clones the terabyte in this process, asks that query, and prints what both took.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import struct
import sys
from array import array
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import apsw

import graft_vfs
from benchmarks.memory import grown
from benchmarks.rows import PremiseError
from graft_vfs import Config, Graft, RemoteConfig
from graft_vfs.format.body import BodyBuilder
from graft_vfs.format.commit import CommitHeader, FrameTable
from graft_vfs.format.frame import CHECKSUM_BYTES, FRAME_PAGES, checksum_of, encode_frame
from graft_vfs.format.segment import SEGMENT_HEADER_BYTES
from graft_vfs.format.table import Run, Source, encode_table
from graft_vfs.format.table_facts import TableFacts
from graft_vfs.ids import ID_BYTES, LogId, SegmentId
from graft_vfs.local.cache.arena import commit_source
from graft_vfs.local.catalog.known_tables import TableRow
from graft_vfs.local.catalog.rows import CommitRow
from graft_vfs.pages import NO_LSN, RemoteLsn, lock_page
from graft_vfs.remote.log import commit_key, segment_key
from graft_vfs.remote.refs import create_ref
from graft_vfs.remote.tables import table_key
from graft_vfs.store.base import ObjectStore
from graft_vfs.sync.tables import write_tables
from graft_vfs.testing import WrapperStore
from graft_vfs.view.table_policy import STEP

PAGE_SIZE = 4096
LOG_NAME = "log"


def _commit(
    log_id: LogId, lsn: RemoteLsn, pages: list[int], count: int, previous_hash: bytes
) -> tuple[CommitHeader, bytes]:
    """Return a commit of some pages of random text, and its object."""
    builder = BodyBuilder()
    text = f"{lsn:<200}".encode()
    frames = [builder.add(page, text.ljust(PAGE_SIZE, b"\0")) for page in sorted(pages)]
    frames.append(builder.finish())
    header = CommitHeader(
        pages=builder.pages,
        frames=builder.table,
        log_id=log_id,
        lsn=lsn,
        previous_hash=previous_hash,
        page_size=PAGE_SIZE,
        page_count=count,
        change_counter=lsn,
        local_commits=1,
        writer=bytes(ID_BYTES),
        attempt=bytes(ID_BYTES),
        time_ms=1_750_000_000_000 + lsn,
        author="",
    ).sealed()
    return header, header.encode() + b"".join(each for each in frames if each is not None)


def _facts(header: CommitHeader) -> TableFacts:
    """Return the facts of a complete table that ends with a commit."""
    return TableFacts(
        log_id=header.log_id,
        after=NO_LSN,
        lsn=header.lsn,
        hash=header.hash,
        parent_log=None,
        parent_lsn=NO_LSN,
        page_size=PAGE_SIZE,
        page_count=header.page_count,
        change_counter=header.change_counter,
        time_ms=header.time_ms,
        least_pages=header.page_count,
        beneath=(),
    )


# A million commits ------------------------------------------------------------------------------


def million(data_dir: Path, store: ObjectStore, *, last: int, newest: int, pages: int) -> int:
    """Write the `newest` commits of a log of `last` commits; returns the bytes of its tables.

    Below them is a complete table of a database of so many pages, each in a commit of its own. Each
    commit has one random page.
    """
    chance, log_id = random.Random(1), LogId.new()
    base = RemoteLsn((last - newest) // STEP * STEP)
    create_ref(store, LOG_NAME, log_id)
    written = 0
    remote = RemoteConfig(type="memory", root=str(data_dir))
    with closing(Graft(Config(data_dir=data_dir, remote=remote), store=store)) as made:
        logs = made.context.logs
        header, data = _commit(log_id, base, [1], pages, bytes(31) + b"\1")
        row, table = _scattered(header, chance)
        store.put(table_key(log_id, base, NO_LSN), [table])
        logs.catalog.tables.keep(row, table)
        for lsn in range(base, last + 1):
            if lsn > base:
                page = chance.randrange(1, pages + 1)
                header, data = _commit(log_id, RemoteLsn(lsn), [page], pages, header.hash)
            store.put(commit_key(log_id, header.lsn), [data])
            encoded = data[: len(header.encode())]
            logs.catalog.add_commits(log_id, [CommitRow(header.lsn, header.hash, encoded)])
            if lsn > base and lsn % STEP == 0:
                write_tables(logs, log_id)
        written = sum(info.bytes for info in store.list(f"logs/{log_id}/tables/"))
    return written - len(table)


def _scattered(header: CommitHeader, chance: random.Random) -> tuple[TableRow, bytes]:
    """Return a complete table whose pages are in random older commits, most of them alone."""
    lsns = [chance.randrange(1, header.lsn) for _ in range(header.page_count)]
    slots: dict[int, int] = {}
    runs: list[Run] = []
    sources = {}
    for page, lsn in enumerate(lsns, 1):
        if page == lock_page(PAGE_SIZE):
            continue
        source = sources.get(lsn)
        if source is None:
            name = commit_source(lsn, chance.randbytes(8))
            source = sources[lsn] = Source(
                header.log_id, name, RemoteLsn(lsn), None, 300, FRAME_PAGES, FRAME_PAGES
            )
        slot = slots[lsn] = slots.get(lsn, -1) + 1
        runs.append((page, page + 1, source, slot))

    def frames(_: Source) -> FrameTable:
        return FrameTable.of(
            FRAME_PAGES,
            array("I", [chance.randrange(200, 2000)]),
            array("I", [1]),
            chance.randbytes(CHECKSUM_BYTES),
        )

    kept = {source: frames(source) for source in sources.values()}
    facts = _facts(header)
    data = b"".join(encode_table(facts, runs, kept.__getitem__))
    row = TableRow(facts.log_id, facts.after, facts.lsn, "", facts.hash, len(data), is_remote=True)
    return row, data


# A terabyte -------------------------------------------------------------------------------------


def _tree(directory: Path, levels: list[int], count: int) -> dict[int, bytes]:
    """Return the pages of a database with a table: page 1, and a b-tree of a page on each level.

    `levels` has the pages from the root to the leaf, `count` is the database's size in pages.
    """
    path = directory / "small.db"
    connection = apsw.Connection(str(path))
    connection.pragma("page_size", PAGE_SIZE)
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n INT, v TEXT)")
    connection.execute("INSERT INTO t VALUES(777, 42, 'found')")
    connection.close()
    data = path.read_bytes()
    # The size in pages is at byte 28.
    first = data[:28] + struct.pack(">I", count) + data[32:PAGE_SIZE]
    found = {1: first, levels[-1]: data[PAGE_SIZE:]}
    for page, child in itertools.pairwise(levels):
        cell = struct.pack(">I", child) + b"\x84\x80\x80\x80\x00"  # A key of 2^30 as a varint.
        head = struct.pack(">BHHHBI", 5, 0, 1, PAGE_SIZE - len(cell), 0, child)
        image = bytearray(PAGE_SIZE)
        image[:14] = head + struct.pack(">H", PAGE_SIZE - len(cell))
        image[-len(cell) :] = cell
        found[page] = bytes(image)
    return found


def terabyte(directory: Path, pages: int) -> int:
    """Write a database of so many pages as a remote in a directory; returns its table's bytes."""
    far = [pages * eighths // 8 // FRAME_PAGES * FRAME_PAGES + 1 for eighths in (3, 5, 7)]
    levels = [2, *far, (pages - 1) // FRAME_PAGES * FRAME_PAGES + 1]
    images = _tree(directory, levels, pages)
    numbers = pages // FRAME_PAGES
    sizes = array("I", random.Random(2).choices(range(9_000, 40_000), k=1024)) * (numbers // 1024)
    checksums = bytearray(os.urandom(CHECKSUM_BYTES * numbers))
    real = {}
    empty = bytes(PAGE_SIZE)
    for number in sorted({(page - 1) // FRAME_PAGES for page in images}):
        first = number * FRAME_PAGES + 1
        frame = encode_frame([images.get(page, empty) for page in range(first, first + 16)])
        sizes[number] = len(frame)
        checksums[number * CHECKSUM_BYTES : (number + 1) * CHECKSUM_BYTES] = checksum_of(frame)
        real[number] = frame
    known = FrameTable.of(FRAME_PAGES, sizes, array("I", bytes(4 * numbers)), bytes(checksums))
    segment, log_id = SegmentId.new(), LogId.new()
    (directory / "frames").mkdir()
    for number, frame in real.items():
        at = SEGMENT_HEADER_BYTES + known.offsets[number]
        (directory / "frames" / str(at)).write_bytes(frame)
    (directory / "segment").write_text(segment_key(segment), encoding="ascii")
    header, data = _commit(log_id, RemoteLsn(STEP), [2], pages, bytes(31) + b"\1")
    source = Source(
        log_id,
        commit_source(1, bytes(range(8))),
        RemoteLsn(1),
        segment,
        SEGMENT_HEADER_BYTES,
        FRAME_PAGES,
        pages,
    )
    lock = lock_page(PAGE_SIZE)
    # The slot of the lock page stays empty, so that each frame begins with a page 16 n + 1.
    runs = [(1, lock, source, 0), (lock + 1, pages + 1, source, lock)]
    table = encode_table(_facts(header), runs, {source: known}.__getitem__)
    with closing(RemoteConfig(type="fs", root=str(directory / "remote")).open()) as store:
        create_ref(store, LOG_NAME, log_id)
        store.put(commit_key(log_id, header.lsn), [data])
        store.put(table_key(log_id, header.lsn, NO_LSN), table)
    return sum(map(len, table))


class SparseStore(WrapperStore):
    """A store of a terabyte: the few frames that exist are read from files of their own.

    Owner: the engine, which closes it. Thread rule: any thread.
    """

    def __init__(self, inner: ObjectStore, directory: Path) -> None:
        super().__init__(inner)
        self._segment = (directory / "segment").read_text(encoding="ascii")
        self._frames = directory / "frames"

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return a range of an object, or one of the frames."""
        if key != self._segment:
            return super().get_range(key, start, length)
        frame = (self._frames / str(start)).read_bytes()
        if len(frame) != length:
            raise PremiseError(f"{length} bytes were asked for, the frame has {len(frame)}")
        self.counters.add("get_range", bytes_received=length)
        return frame


@dataclass(frozen=True, slots=True)
class SparseRemote(RemoteConfig):
    """The remote of a terabyte."""

    def open(self, *, create: bool = True, allow_file_systems: Collection[str] = ()) -> ObjectStore:
        """Open the store and wrap it."""
        # Without arguments, super() finds no class cell in a dataclass with slots.
        store = RemoteConfig.open(self, create=create, allow_file_systems=allow_file_systems)
        assert self.root is not None
        return SparseStore(store, Path(self.root).parent)


def read_terabyte(directory: Path) -> dict[str, int]:
    """Clone and query in this process; returns requests, bytes and peak memory."""
    remote = SparseRemote(type="fs", root=str(directory / "remote"))
    made = graft_vfs.register(Config(data_dir=directory / "data", remote=remote))
    with closing(graft_vfs.connect("idle")) as idle:
        idle.execute("CREATE TABLE t(x)").fetchall()
        counted: list[tuple[int, int]] = []
        peak = grown(lambda: counted.extend(_read(made, directory)))
    graft_vfs.unregister()
    names = ("clone requests", "clone bytes", "query requests", "query bytes")
    return dict(zip(names, itertools.chain(*counted), strict=True)) | peak


def _read(made: Graft, directory: Path) -> Iterator[tuple[int, int]]:
    """Yield (requests, bytes received) of the clone, then of the query."""
    before = made.store.counters.snapshot()
    made.clone(LOG_NAME, "copy")
    cloned = made.store.counters.snapshot()
    yield (cloned - before).requests, (cloned - before).bytes_received
    with closing(graft_vfs.connect("copy")) as connection:
        rows = connection.execute("SELECT n, v FROM t WHERE id = 777").fetchall()
    if rows != [(42, "found")]:
        raise PremiseError(f"the query in {directory} returned {rows}")
    read = made.store.counters.snapshot() - cloned
    yield read.requests, read.bytes_received


if __name__ == "__main__":
    print(json.dumps(read_terabyte(Path(sys.argv[1]))))
