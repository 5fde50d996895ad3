"""The decoders of local files: branch log, head file, catalog and page cache.

Whoever can write to a data directory can do worse than this; but a broken disk, a restored backup
and a program that went astray write such bytes, too, and the error must name what is damaged.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import apsw
from xxhash import xxh3_64_intdigest

from graft_vfs.counters import CommitCounts
from graft_vfs.errors import (
    CorruptCatalogError,
    CorruptLogError,
    FutureVersionError,
    LocalStorageError,
    NotFoundError,
)
from graft_vfs.ids import LogId, SegmentId, VolumeId
from graft_vfs.local import head, layout
from graft_vfs.local.branch_log import LOG_HEADER_BYTES, BranchLog
from graft_vfs.local.cache.arena import HEADER_BYTES, RECORD_BYTES, FrameKey
from graft_vfs.local.cache.page_cache import PageCache
from graft_vfs.local.catalog import descriptor
from graft_vfs.local.catalog import file as catalog_file
from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.local.catalog.descriptor import Descriptor
from graft_vfs.local.catalog.rows import (
    BranchRow,
    CommitRow,
    KeptBranch,
    PendingPush,
    VolumeRow,
)
from graft_vfs.local.chunk import Position
from graft_vfs.view.remote_view import EmptyRemoteView
from graft_vfs.volume.volume import Volume
from tests.hostile.decoders import Decoder, golden, write_anew
from tests.support.mutations import boundary, mutate, text

VOLUME = VolumeId.parse("5rMJkf2zHE-2xMqqKcN8RLZh")
BRANCH = LogId.parse("74ggc1B6R4-2kkvcy9fi4CHJ")
REMOTE = LogId.parse("74ggc1B6jg-2udz14pbDayZC")
EPOCH = 11
SIZE = 512
_SOURCE, _OTHER_SOURCE = bytes(15) + b"\1", bytes(15) + b"\2"
PAGES_READ_MAX = 9


# Branch logs ----------------------------------------------------------------------------------

_CHUNK_HEADER_BYTES = 56
# Offset and width of each field of a chunk, see the byte table of graft_vfs.local.branch_log.
_CHUNK_FIELDS = (
    (0, 4), (4, 2), (6, 2), (8, 8), (16, 4), (20, 4), (24, 4), (28, 4), (32, 8), (40, 8), (48, 8),
    (56, 4), (60, 4),
)  # fmt: skip


def sealed_log(data: bytes) -> bytes:
    """Give every chunk that can be told apart the checksums that make it follow the one before."""
    log = bytearray(data)
    if len(log) < LOG_HEADER_BYTES:
        return data
    salt = previous = int.from_bytes(log[32:40], "little")
    at = LOG_HEADER_BYTES
    while at + _CHUNK_HEADER_BYTES <= len(log):
        count, size = struct.unpack_from("<II", log, at + 24)
        sum_at = at + _CHUNK_HEADER_BYTES + 4 * count
        images, end = sum_at + 8, sum_at + 8 + count * size
        if images > len(log):
            break
        struct.pack_into("<QQ", log, at + 40, xxh3_64_intdigest(log[images:end]), previous)
        previous = xxh3_64_intdigest(log[at:sum_at], salt)
        struct.pack_into("<Q", log, sum_at, previous)
        at = end
    return bytes(log)


def kept_of(branch: BranchRow) -> KeptBranch:
    """Return the beginning of a branch as a kept one."""
    former = dataclasses.replace(branch, id=LogId.new())
    return KeptBranch(former, branch.first_lsn, branch.start, bytes(32), "reset", 1)


class _OneVolume:
    """As much of a catalog as a volume asks for when it is opened."""

    def __init__(self, row: VolumeRow, branch: BranchRow) -> None:
        self._found = row, branch
        self.kept = self

    def all(self, _: VolumeId) -> tuple[KeptBranch, ...]:
        """Return no kept branches."""
        return ()

    def branches(self, _: VolumeId) -> list[BranchRow]:
        return [self._found[1]]

    def current(self, _: VolumeId) -> tuple[VolumeRow, BranchRow]:
        return self._found

    def volume(self, _: VolumeId) -> VolumeRow:
        return self._found[0]

    def describe(self, _: VolumeId, use: Callable[[Descriptor], None]) -> None:
        row, branch = self._found
        use(Descriptor(row.remote, branch, None, ()))

    def announce_epoch(self, _: VolumeId, announce: Callable[[int], None]) -> None:
        announce(self._found[0].epoch)


class _Volumes:
    """A directory of one volume that is opened again and again, with other bytes each time."""

    def __init__(self, scratch: Path) -> None:
        self.directory = scratch
        scratch.mkdir()
        self.path = scratch / "0001.log"
        log = BranchLog.create(self.path, volume=VOLUME)
        self.offsets: list[int] = []
        self.states: list[dict[int, bytes]] = [{}]
        position = log.start
        for lsn in range(1, 6):
            state = dict(self.states[-1])
            rest = [1, lsn + 1, lsn + 2] if lsn > 1 else [*range(1, 9)]
            for part, facts in (([9], None), (rest, (9, lsn))):
                images = [bytes([16 * page + lsn]) * SIZE for page in part]
                self.offsets.append(position.offset)
                _, position = log.append(position, lsn, part, images, SIZE, facts, lsn == 3)
                state.update(zip(part, images, strict=True))
            self.states.append(state)
        log.close()
        self.sound = self.path.read_bytes()[: position.offset]
        row = VolumeRow(VOLUME, 1, REMOTE, False, BRANCH, EPOCH, None, None, None, None)
        start = Position(LOG_HEADER_BYTES, int.from_bytes(self.sound[32:40], "little"))
        branch = BranchRow(BRANCH, VOLUME, REMOTE, 0, 5, 1, "0001.log", start, 1)
        self._catalog: Any = _OneVolume(row, branch)

    def read_all(self, source: Random, *, is_forged: bool = False) -> None:
        """Open the volume and read its first pages, as a process that starts does.

        Unless checksums were forged, what is read must be what some commit left.
        """
        remote = EmptyRemoteView()
        writable = source.randrange(64) == 0
        volume = Volume(
            VOLUME,
            self.directory,
            self._catalog,
            lambda _, __: remote,
            writable=writable,
            maps=True,
            counts=CommitCounts(),
        )
        try:
            snapshot = volume.begin()
            assert len(snapshot.probe()) in (0, 16)
            for page in range(1, min(snapshot.page_count, PAGES_READ_MAX) + 1):
                image = snapshot.stored(page)
                assert len(image) == snapshot.page_size
                assert is_forged or image == self.states[snapshot.lsn].get(page, bytes(SIZE))
        finally:
            volume.close()


class BranchLogs(_Volumes):
    """Logs with changed bytes and chunk fields, most of them with right checksums."""

    def __call__(self, source: Random) -> None:
        choice = source.randrange(4)
        if choice == 0:
            changed = self._other_chunks(source)
        elif choice < 3:
            data = bytearray(self.sound)
            for _ in range(source.randrange(1, 4)):
                at, width = source.choice(_CHUNK_FIELDS)
                at += source.choice(self.offsets)
                data[at : at + width] = boundary(source, width).to_bytes(width, "little")
            changed = bytes(data)
        else:
            head_bytes = source.choice((0, LOG_HEADER_BYTES, LOG_HEADER_BYTES))
            tail = mutate(source, self.sound[head_bytes:])
            changed = self.sound[:head_bytes] + tail
        is_forged = source.randrange(4) > 0 and choice > 0
        write_anew(self.path, sealed_log(changed) if is_forged else changed)
        write_anew(self.directory / "head", bytes(64))
        self.read_all(source, is_forged=is_forged)

    def _other_chunks(self, source: Random) -> bytes:
        """Leave out, repeat or exchange whole chunks, each of which is sound in itself."""
        bounds = [*self.offsets, len(self.sound)]
        chunks = [self.sound[first:end] for first, end in itertools.pairwise(bounds)]
        at, other = source.randrange(len(chunks)), source.randrange(len(chunks))
        if source.randrange(2):
            del chunks[at]
        else:
            chunks[at] = chunks[other]
        return self.sound[:LOG_HEADER_BYTES] + b"".join(chunks)


class HeadFiles(_Volumes):
    """Head files with hostile words beside a sound log."""

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        self.path.write_bytes(self.sound)

    def __call__(self, source: Random) -> None:
        words = [len(self.sound), EPOCH, 0x4752_4146_5448_0001, head.boot_number(), 0, 0, 0, 0]
        for _ in range(source.randrange(4)):
            words[source.randrange(5)] = boundary(source, 8)
        data = struct.pack("<8Q", *words)
        if source.randrange(3) == 0:
            data = mutate(source, data)
        write_anew(self.directory / "head", data)
        self.read_all(source)


# The catalog ----------------------------------------------------------------------------------

_IDS = tuple(
    kind(bytes([kind.PREFIX]) + bytes(6) + bytes([kind.PREFIX]) + bytes(8)).raw
    for kind in (VolumeId, LogId, SegmentId)
)
_TEXTS = ("0001.log", "../0001.log", "/etc/passwd", "main", "18446744073709551615", "12")


def lenient_schema() -> str:
    """Return the catalog's schema without what makes SQLite refuse values of other types."""
    schema = catalog_file.SCHEMA
    for words in (" STRICT, WITHOUT ROWID", " STRICT", " NOT NULL"):
        schema = schema.replace(words, "")
    return schema


def filled(catalog: Catalog) -> None:
    """Put one of everything into a catalog."""
    row = VolumeRow(VOLUME, 1, REMOTE, True, BRANCH, EPOCH, 1, 1, 1, "an error")
    position = Position(LOG_HEADER_BYTES, 2**64 - 1)
    branch = BranchRow(BRANCH, VOLUME, REMOTE, 1, 5, 1, "0001.log", position, 1)
    catalog.add_volume(row, branch, tag="main")
    catalog.keep_branch(kept_of(branch))
    header = golden("commit-inline.bin")
    catalog.add_commits(REMOTE, [CommitRow(1, bytes(32), header)])
    push = PendingPush(VOLUME, REMOTE, 2, b"h" * 32, header, 4, 9, position)
    catalog.add_pending_push(push, branch=BRANCH)
    catalog.set_probed("memory://")


def make_lenient_catalog(path: Path) -> None:
    """Make a catalog file that takes values of any type."""
    connection = apsw.Connection(str(path))
    connection.execute(lenient_schema())
    connection.pragma("application_id", catalog_file.APPLICATION_ID)
    connection.pragma("user_version", catalog_file.SCHEMA_VERSION)
    connection.close()


def columns(connection: apsw.Connection) -> list[tuple[str, str]]:
    """Return every table with every column of it."""
    return connection.execute(
        "SELECT m.name, p.name FROM sqlite_schema m, pragma_table_info(m.name) p "
        "WHERE m.type = 'table'"
    ).fetchall()


def hostile_value(source: Random) -> Any:
    """Draw a value of any type that SQLite knows."""
    return source.choice(
        (
            None,
            boundary(source, 8) - (1 << 63),
            source.choice((0, -1, 1, 2, 64, 1 << 32, (1 << 63) - 1, -(1 << 63))),
            source.choice((0.5, -1e308, float("inf"), 64.0)),
            text(source, _TEXTS).replace("\ud800", ""),
            mutate(source, source.choice(_IDS)),
            source.choice((*_IDS, b"", bytes(32), bytes(1 << 20))),
        )
    )


def read_everything(catalog: Catalog) -> None:
    """Ask a catalog all that it can be asked, and check what every caller relies on."""
    assert all(isinstance(tag, str) and volume for tag, volume in catalog.tags())
    catalog.tag_volume("main")
    for row in (*catalog.volumes(), catalog.volume(VOLUME), catalog.current(VOLUME)[0]):
        assert 0 <= row.epoch < 1 << 64
        assert row.last_error is None or isinstance(row.last_error, str)
        assert all(
            number is None or number >= 0
            for number in (row.created_ms, row.synced_local, row.synced_remote, row.synced_ms)
        )
    for branch in (*catalog.branches(VOLUME), catalog.current(VOLUME)[1]):
        assert Path(branch.file).name == branch.file
        assert branch.base >= 0
        assert 0 <= branch.counter < 1 << 32
        assert branch.first_lsn >= 1
        assert branch.start.offset >= LOG_HEADER_BYTES
        assert 0 <= branch.start.checksum < 1 << 64
    for kept in catalog.kept.all(VOLUME):
        assert kept.commits >= 1
        assert kept.bytes >= 0
        assert kept.end.offset >= LOG_HEADER_BYTES
        assert kept.base_hash is None or len(kept.base_hash) == 32
        assert isinstance(kept.reason, str)
    lsn, digest = catalog.newest_commit(REMOTE)
    assert lsn >= 0
    assert len(digest) == 32
    for commit in catalog.commits(REMOTE, 1, 99):
        assert isinstance(commit.header, bytes)
    push = catalog.pending_push(VOLUME)
    assert push is None or (len(push.hash) == 32 and push.lsn >= 1 and push.through_lsn >= 0)
    catalog.is_probed("memory://")


class CatalogRows:
    """Rows with values of other types, out of range, too large, foreign, or shaped like paths."""

    def __init__(self, scratch: Path) -> None:
        scratch.mkdir()
        make_lenient_catalog(scratch / "catalog.db")
        self.catalog = Catalog(scratch / "catalog.db")
        filled(self.catalog)
        self.connection = self.catalog._file.connection
        self.columns = columns(self.connection)

    def __call__(self, source: Random) -> None:
        # The change is seen through the catalog's own connection, and then taken back.
        self.connection.execute("BEGIN")
        try:
            for _ in range(source.choice((1, 1, 1, 2))):
                table, column = source.choice(self.columns)
                which = source.choice(("min", "max"))
                self.connection.execute(
                    f"UPDATE {table} SET {column} = ? "
                    f"WHERE rowid = (SELECT {which}(rowid) FROM {table})",
                    (hostile_value(source),),
                )
            read_everything(self.catalog)
        finally:
            self.connection.execute("ROLLBACK")


class CatalogFiles:
    """Catalog files with changed bytes."""

    def __init__(self, scratch: Path) -> None:
        scratch.mkdir()
        self.path = scratch / "catalog.db"
        catalog = Catalog(self.path)
        filled(catalog)
        catalog.close()
        self.sound = self.path.read_bytes()

    def __call__(self, source: Random) -> None:
        for path in self.path.parent.iterdir():
            path.unlink()
        page = 4096 * source.randrange(len(self.sound) // 4096)
        changed = mutate(source, self.sound[page : page + 4096])
        self.path.write_bytes(self.sound[:page] + changed + self.sound[page + 4096 :])
        catalog = Catalog(self.path)
        try:
            read_everything(catalog)
        finally:
            catalog.close()


# What a volume says of itself -----------------------------------------------------------------


class Descriptors:
    """Descriptors with changed values and bytes, with right checksums or without."""

    def __init__(self, scratch: Path) -> None:
        scratch.mkdir()
        self.directory, self.path = scratch, scratch / layout.DESCRIPTOR
        start = Position(LOG_HEADER_BYTES, 2**64 - 1)
        branch = BranchRow(BRANCH, VOLUME, REMOTE, 1, 5, 1, "0001.log", start, 1)
        kept = (kept_of(branch),)
        described = Descriptor(REMOTE, branch, bytes(32), ("main",), kept=kept)
        descriptor.write(scratch, described)
        self.sound = self.path.read_bytes()

    def __call__(self, source: Random) -> None:
        changed = mutate(source, self.sound)
        if source.randrange(4):
            values = json.loads(self.sound)
            del values["check"]
            key = source.choice(list(values))
            values[key] = source.choice(
                (None, -1, 2**63, 1.5, "", "x", [], [1], {}, True, str(VOLUME), "0" * 64, "é" * 64)
            )
            changed = json.dumps(values | {"check": descriptor._check(values)}).encode()
        self.path.write_bytes(changed)
        found = descriptor.read(self.directory)
        assert found is not None
        assert found.branch.base >= 0
        assert found.base_hash is None or len(found.base_hash) == 32
        assert not found.is_newer(found.branch)


# The page cache -------------------------------------------------------------------------------


class PageCaches:
    """Page caches whose records were changed, with right checksums or without."""

    def __init__(self, scratch: Path) -> None:
        self.directory = scratch
        cache = PageCache(scratch)
        cache.add_all(FrameKey(_SOURCE, 0), [bytes([frame]) * SIZE * 4 for frame in range(4)])
        cache.close()
        self.index = (scratch / "0001.index").read_bytes()
        self.images = (scratch / "0001.images").read_bytes()[: 4 * SIZE * 4]

    def __call__(self, source: Random) -> None:
        shutil.rmtree(self.directory)
        self.directory.mkdir()
        index = bytearray(self.index)
        at = HEADER_BYTES + RECORD_BYTES * source.randrange(4)
        field, width = source.choice(((0, 8), (8, 8), (16, 4), (20, 4), (24, 8), (32, 8)))
        index[at + field : at + field + width] = boundary(source, width).to_bytes(width, "little")
        if source.randrange(4):
            digest = xxh3_64_intdigest(index[at : at + RECORD_BYTES - 8])
            struct.pack_into("<Q", index, at + RECORD_BYTES - 8, digest)
        changed = bytes(index) if source.randrange(3) else mutate(source, bytes(index))
        name = source.choice(("0001.index", "0001.index", "0001.index", "1x.index"))
        (self.directory / name).write_bytes(changed)
        (self.directory / "0001.images").write_bytes(self.images)
        cache = PageCache(self.directory)
        try:
            for frame in range(4):
                place = cache.find(FrameKey(_SOURCE, frame), SIZE * 4)
                if place is not None:
                    images = place.view[place.offset : place.offset + SIZE * 4]
                    assert bytes(images) == bytes([images[0]]) * SIZE * 4
            view, offset, _ = cache.add(FrameKey(_OTHER_SOURCE, 0), b"new" * SIZE)
            assert bytes(view[offset : offset + 3]) == b"new"
        finally:
            cache.close()


def local_decoders(scratch: Path) -> list[Decoder]:
    """Return the decoders of what is in a data directory."""
    log = (CorruptLogError, FutureVersionError)
    rows = (CorruptCatalogError, NotFoundError)
    return [
        Decoder("branch log", log, BranchLogs(scratch / "log"), 8),
        Decoder("head file", (*log, LocalStorageError), HeadFiles(scratch / "head"), 3),
        Decoder("catalog row", rows, CatalogRows(scratch / "rows"), 8),
        Decoder(
            "catalog file",
            (*rows, FutureVersionError, LocalStorageError),
            CatalogFiles(scratch / "catalog"),
            1,
        ),
        Decoder("descriptor", log, Descriptors(scratch / "descriptor"), 3),
        Decoder("page cache", (), PageCaches(scratch / "cache"), 3),
    ]
