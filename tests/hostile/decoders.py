"""Every decoder of graft_vfs with the hostile inputs that are made for it.

A decoder's `case` makes one input from a seed, decodes it as the program does, and checks what must
be true of an input that was accepted. It lets errors out: the runner compares them with `declared`,
the classes that the decoder promises. Nothing else may come out, whatever the bytes are.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import zstandard
from pyroaring import BitMap
from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

from graft_vfs.engine.config import Config
from graft_vfs.errors import (
    ConfigError,
    CorruptObjectError,
    FutureVersionError,
    GraftError,
    InvalidIdError,
    InvalidTagError,
    UsageError,
)
from graft_vfs.format.body import BodyBuilder
from graft_vfs.format.commit import HASH_BYTES, CommitHeader, decode_header, hash_of
from graft_vfs.format.frame import (
    FRAME_PAGES_MAX,
    checksum_of,
    compress,
    decode_frame,
    encode_frame,
)
from graft_vfs.format.name import CommitName, decode_name
from graft_vfs.format.segment import SEGMENT_HEADER_BYTES, check_segment_header
from graft_vfs.format.table import Block, Leaf, decode_block, decode_head, head_length
from graft_vfs.history.refs import parse, parse_span
from graft_vfs.ids import ID_BYTES, LogId, SegmentId, VolumeId
from graft_vfs.pages import LSN_MAX, PAGE_SIZES
from graft_vfs.remote.floor import Floor, decode_floor
from graft_vfs.remote.log import ascending
from graft_vfs.remote.names import list_names, name_key
from graft_vfs.remote.refs import create_ref, list_refs, read_ref, ref_key
from graft_vfs.remote.rolls import Roll, decode_roll
from graft_vfs.store.base import is_key
from graft_vfs.store.memory import MemoryStore
from graft_vfs.tags import check_tag
from graft_vfs.times import parse_time
from graft_vfs.view.page_table import PageTable
from tests.format.table_samples import leaves_of
from tests.support.mutations import boundary, mutate, page_set, roaring, text

GOLDEN = Path(__file__).parents[1] / "golden"
_DECODED_FRAMES_MAX = 4


@dataclass(frozen=True, slots=True)
class Decoder:
    """A decoder's name, the errors that it promises, one case of it, and its share of all cases."""

    name: str
    declared: tuple[type[GraftError], ...]
    case: Callable[[Random], None]
    share: int


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def write_anew(path: Path, data: bytes) -> None:
    """Write a file that takes another's place; ext4 would sync one that is written over."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


# Commits --------------------------------------------------------------------------------------

_FIXED_BYTES = 192
_LENGTH_AT, _SET_BYTES_AT, _FRAME_COUNT_AT, _FRAME_PAGES_AT, _AUTHOR_BYTES_AT = (
    12,
    176,
    180,
    184,
    186,
)
# Offset and width of each field of a header, see the byte table of graft_vfs.format.commit.
_FIELDS = (
    (0, 8), (8, 2), (10, 1), (11, 1), (12, 4), (16, 8), (23, 1), (32, 8), (40, 8), (72, 1), (79, 1),
    (88, 8), (96, 4), (100, 4), (104, 4), (108, 4), (112, 1), (119, 1), (160, 8), (168, 8),
    (176, 4), (180, 4), (184, 2), (186, 2), (188, 4), (192, 4),
)  # fmt: skip


def sealed(head: bytes) -> bytes:
    """Give a header without hash the right length and hash."""
    data = bytearray(head)
    if len(data) >= _LENGTH_AT + 4:
        data[_LENGTH_AT : _LENGTH_AT + 4] = (len(data) + HASH_BYTES).to_bytes(4, "little")
    return bytes(data) + hash_of(data)


def made_commit(pages: BitMap, *, frame_pages: int = 16, page_size: int = 512) -> bytes:
    """Return the header of a commit of many pages, whose frames are not there."""
    ordered = pages.to_array()
    count = -(-len(ordered) // frame_pages)
    sizes = struct.pack(f"<{count}I", *[40] * count)
    lasts = [*ordered[frame_pages - 1 :: frame_pages]]
    if len(ordered) % frame_pages:
        lasts.append(ordered[-1])
    page_bytes = pages.serialize()
    head = bytearray(golden("commit-inline.bin")[:_FIXED_BYTES])
    struct.pack_into("<II", head, 96, page_size, min(max(ordered, default=0), 0xFFFF_FFFE))
    struct.pack_into("<IIHH", head, _SET_BYTES_AT, len(page_bytes), count, frame_pages, 0)
    columns = sizes + struct.pack(f"<{count}I", *lasts) + bytes(16 * count)
    return sealed(bytes(head) + page_bytes + columns)


def _header_seeds() -> list[bytes]:
    seeds = []
    for name in (
        "commit-inline.bin", "commit-in-segment.bin", "commit-forked-empty.bin",
        "commit-with-message.bin", "commit-with-grace.bin",
    ):  # fmt: skip
        data = golden(name)
        seeds.append(data[: int.from_bytes(data[_LENGTH_AT : _LENGTH_AT + 4], "little")])
    seeds.append(made_commit(BitMap(range(5, 9000)), frame_pages=64))
    seeds.append(made_commit(BitMap(range(1, 9000, 3)), frame_pages=7, page_size=65_536))
    return seeds


class Commits:
    """Headers with changed bytes, fields and page sets, with right hashes but for every eighth."""

    def __init__(self) -> None:
        self.seeds = _header_seeds()

    def __call__(self, source: Random) -> None:
        change = source.choice((self._bytes, self._bytes, self._fields, self._page_set))
        data = change(source)
        header, length = decode_header(data, key="the commit")
        check_header(header, data[:length])

    def _bytes(self, source: Random) -> bytes:
        seed = source.choice(self.seeds)
        if source.randrange(8) == 0:
            return mutate(source, seed, self.seeds)
        return sealed(mutate(source, seed[:-HASH_BYTES], self.seeds).ljust(16, b"\0"))

    def _fields(self, source: Random) -> bytes:
        data = bytearray(source.choice(self.seeds)[:-HASH_BYTES])
        for _ in range(source.randrange(1, 4)):
            at, width = source.choice(_FIELDS)
            data[at : at + width] = boundary(source, width).to_bytes(width, "little")
        return sealed(data) if source.randrange(8) else bytes(data) + hash_of(data)

    def _page_set(self, source: Random) -> bytes:
        """Put another set into a header, with the frame columns that a sound one would have."""
        data = roaring(source)
        try:
            pages = BitMap.deserialize(data)
        except (ValueError, IndexError):
            pages = page_set(source)
        if len(pages) > 100_000:
            pages = BitMap(pages[:50])
        made = made_commit(pages, frame_pages=source.choice((1, 16, 64)))
        length = int.from_bytes(made[_SET_BYTES_AT : _SET_BYTES_AT + 4], "little")
        head = bytearray(made[:-HASH_BYTES])
        head[_FIXED_BYTES : _FIXED_BYTES + length] = data
        head[_SET_BYTES_AT : _SET_BYTES_AT + 4] = len(data).to_bytes(4, "little")
        return sealed(bytes(head))


def check_header(header: CommitHeader, data: bytes) -> None:
    """Check what every reader of an accepted header relies on."""
    assert 1 <= header.lsn <= LSN_MAX
    assert header.page_size in PAGE_SIZES
    assert len(header.frames) == -(-len(header.pages) // header.frames.frame_pages)
    assert header.encode()[:16] == data[:16] or len(header.encode()) <= len(data)
    assert not header.pages or header.pages.max() <= header.page_count
    if header.frames:
        assert header.pages_in_frame(len(header.frames) - 1) > 0
        assert header.frames.body_bytes >= len(header.frames)
    table = PageTable[str]().advance([("commit", header.pages, header.page_count)])
    for page in header.pages[:3]:
        found = table.find(page)
        assert found is not None
        assert header.pages[found[1]] == page


class Tables:
    """Heads and blocks of tables with changed bytes, and right hashes but for every eighth."""

    def __init__(self) -> None:
        self.seeds = [golden("table-of-fork.bin"), golden("table-deep.bin")]
        self.leaves = [found for seed in self.seeds for found in self._leaves(seed)]

    def __call__(self, source: Random) -> None:
        if source.randrange(2):
            data = self._head(source)
            head = decode_head(data, key="the table")
            assert 0 <= head.facts.least_pages <= head.facts.page_count
            assert sum(block.pages for block in head.root) == head.pages
        else:
            self._block(source)

    @staticmethod
    def _leaves(seed: bytes) -> Iterator[tuple[bytes, Block]]:
        """Yield the bytes of each leaf, and a block that describes it but for its lengths."""
        head, leaves = leaves_of(seed)
        for leaf in leaves:
            runs = list(leaf.runs())
            pages = sum(end - first for first, end, _, _ in runs)
            yield leaf.encode(), Block(runs[0][0], runs[-1][1], 0, 0, pages, 0, b"", 0, head.facts)

    def _head(self, source: Random) -> bytes:
        seed = source.choice(self.seeds)
        head = mutate(source, seed[: head_length(seed, key="a seed")], self.seeds)
        return sealed(head[:-HASH_BYTES].ljust(16, b"\0")) if source.randrange(8) else head

    def _block(self, source: Random) -> None:
        leaf, block = source.choice(self.leaves)
        raw = mutate(source, leaf, [each for each, _ in self.leaves]) or b"\0"
        data = compress(raw)
        if source.randrange(8) == 0:
            data = mutate(source, data, [data])
        block = dataclasses.replace(
            block,
            level=int(source.randrange(8) == 0),
            length=len(data),
            raw_length=len(raw),
            checksum=checksum_of(data),
        )
        found = decode_block(data, block, key="the table")
        if isinstance(found, Leaf):
            for first, end, place, slot in found.runs():
                frames = found.frames(place)
                last = frames.frame_of(slot + end - first - 1)
                assert frames.byte_range(frames.frame_of(slot), last + 1)[1] > 0


class Objects:
    """Whole commit objects whose frames were changed, and whose tables say what they are now."""

    def __init__(self) -> None:
        self.images = [bytes([page]) * 511 + b"\n" for page in range(40)]

    def __call__(self, source: Random) -> None:
        builder = BodyBuilder()
        first = source.randrange(1, 99)
        count = source.choice((1, 15, 16, 17, 40))
        parts = [builder.add(first + at, self.images[at]) for at in range(count)]
        frames = [part for part in (*parts, builder.finish()) if part]
        changed = [mutate(source, frame, frames) or b"\0" for frame in frames]
        if source.randrange(3) == 0:
            changed[0] = frames[0]
        table = builder.table
        sizes = struct.pack(f"<{len(changed)}I", *map(len, changed))
        sums = b"".join(map(checksum_of, changed))
        seed = made_commit(builder.pages)[: -HASH_BYTES - 24 * len(changed)]
        head = sealed(seed + sizes + table.last_pages.tobytes() + sums)
        data = head + b"".join(changed)
        header, length = decode_header(data, key="the commit")
        for frame in range(min(len(header.frames), _DECODED_FRAMES_MAX)):
            decoded_frame(header, data, length, frame)


def decoded_frame(header: CommitHeader, data: bytes, length: int, frame: int) -> bytes:
    """Decode one frame of a whole object and check that it is as long as its pages."""
    start, size = header.frames.byte_range(frame, frame + 1)
    images = decode_frame(
        data[length + start : length + start + size],
        page_size=header.page_size,
        page_count=header.pages_in_frame(frame),
        checksum=header.frames.checksum(frame),
        name="the frame",
    )
    assert len(images) == header.pages_in_frame(frame) * header.page_size
    return images


# Frames and segments --------------------------------------------------------------------------

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_DICTIONARY = zstandard.ZstdCompressionDict(b"a page of a database " * 40)


class Frames:
    """Compressed frames: changed ones, and such as zstd's own tools make on strange wishes."""

    def __init__(self) -> None:
        source = Random(1)
        images = [bytes([page]) * 512 for page in range(4)]
        mixed = [source.randbytes(100) * 5 + bytes(12) for _ in range(4)]
        noise = [source.randbytes(512) for _ in range(4)]
        self.seeds = [encode_frame(images), encode_frame(mixed), encode_frame(noise)]
        content = b"".join(mixed)
        self.seeds += [
            zstandard.ZstdCompressor(dict_data=_DICTIONARY).compress(content),
            zstandard.ZstdCompressor(write_checksum=True).compress(content),
            zstandard.ZstdCompressor(write_content_size=False).compress(content),
            zstandard.ZstdCompressor(level=19).compress(content),
            struct.pack("<II", 0x184D2A50, 2048) + content,
            encode_frame(images) * 2,
        ]

    def __call__(self, source: Random) -> None:
        frame = self._built(source) if source.randrange(3) == 0 else None
        page_size, page_count = 512, 4
        if frame is None:
            frame = mutate(source, source.choice(self.seeds), self.seeds)
        elif source.randrange(2):
            page_size, page_count = source.choice(PAGE_SIZES), source.randrange(1, FRAME_PAGES_MAX)
        images = decode_frame(
            frame,
            page_size=page_size,
            page_count=page_count,
            checksum=checksum_of(frame) if source.randrange(16) else source.randbytes(16),
            name="the frame",
        )
        assert len(images) == page_size * page_count

    def _built(self, source: Random) -> bytes:
        """Write a frame by hand: claimed sizes, windows and dictionaries, then blocks that lie."""
        descriptor = source.randrange(256)
        head = bytearray(_ZSTD_MAGIC + bytes([descriptor]))
        if not descriptor & 0x20:  # No single segment: a window descriptor, up to 3.75 TiB.
            head.append(source.choice((0, 0x50, 0x88, 0xF8, 0xFF)))
        head += bytes((0, 1, 2, 4)[descriptor & 3])
        width = (1 if descriptor & 0x20 else 0, 2, 4, 8)[descriptor >> 6]
        claimed = source.choice((2048, 2048 - 256, 512 * 64, 1 << 30, boundary(source, 8)))
        head += (claimed & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        for last in (0, 0, 1):
            kind = source.choice((0, 1, 1, 2, 3))
            size = source.choice((0, 1, 512, 2048, 131_072, boundary(source, 3) >> 3))
            head += ((last | kind << 1 | size << 3) & 0xFF_FFFF).to_bytes(3, "little")
            head += source.randbytes(1 if kind == 1 else min(size, 4096))
        return bytes(head)


class Segments:
    def __init__(self) -> None:
        self.data = golden("segment.bin")
        self.segment = SegmentId(self.data[16:32])

    def __call__(self, source: Random) -> None:
        data = mutate(source, self.data[: SEGMENT_HEADER_BYTES + 64])
        check_segment_header(data, self.segment)
        assert data[16:32] == self.segment.raw


# Refs -----------------------------------------------------------------------------------------

_LOG = LogId.parse("74ggc1B6R4-2kkvcy9fi4CHJ")
_NAMES = ("main", "größe/../a b~.db", "../../etc/passwd", "x" * 512, "é" * 300, ".hidden")


class Refs:
    """Ref objects, and the keys that a listing of refs shows."""

    def __init__(self) -> None:
        self.objects = []
        for name in _NAMES:
            store = MemoryStore()
            create_ref(store, name, _LOG)
            self.objects.append(store.get(ref_key(name)))

    def __call__(self, source: Random) -> None:
        store = MemoryStore()
        number = source.randrange(len(_NAMES))
        name, content = _NAMES[number], self.objects[number]
        if source.randrange(8) == 0:
            content = b"graft-vfs ref 1\n" + content.split(b"\n", 1)[1] * 400
        changed = mutate(source, content, self.objects)
        if source.randrange(4) and changed.startswith(b"graft-vfs ref 2\n"):
            # With the right checksum, so that what stands before it is looked at.
            body = b"\n".join(changed.split(b"\n")[:3]) + b"\n"
            changed = body + xxh3_64_hexdigest(body).encode() + b"\n"
        store.put(ref_key(name), [changed])
        log = read_ref(store, name)
        assert log is not None
        assert list(list_refs(store)) == [(name, log)]


class CommitNames:
    """Name objects of commits."""

    def __init__(self) -> None:
        names = ("v1", "größe/1", "x" * 100, "é" * 100)
        self.objects = [
            CommitName(
                log=_LOG, lsn=7, hash=bytes(32), name=name, time_ms=1, author="zoë@host",
                message="why\n" * number, attempt=bytes(16),
            ).encode()
            for number, name in enumerate(names)
        ]  # fmt: skip

    def __call__(self, source: Random) -> None:
        changed = mutate(source, source.choice(self.objects), self.objects)
        if source.randrange(4) and changed.startswith(b"graft-vfs name 1\n"):
            # With the right checksum, so that what stands before it is looked at.
            body = b"\n".join(changed.split(b"\n")[:9]) + b"\n"
            changed = body + xxh3_64_hexdigest(body).encode() + b"\n"
        found = decode_name(changed, key="the name")
        assert found.encode() == changed
        store = MemoryStore()
        store.put(name_key(found.log, found.name), [changed])
        assert list(list_names(store, found.log)) == [found]


class FloorsAndRolls:
    """What a log with retention says that it has closed."""

    def __init__(self) -> None:
        self.floor = Floor(_LOG, 7, 86_400).encode()
        self.roll = Roll(_LOG, 2, bytes(range(64))).encode()

    def __call__(self, source: Random) -> None:
        if source.randrange(2):
            changed = mutate(source, self.floor)
            if source.randrange(4) and changed.startswith(b"graft-vfs floor 1\n"):
                body = b"\n".join(changed.split(b"\n")[:4]) + b"\n"
                changed = body + xxh3_64_hexdigest(body).encode() + b"\n"
            assert decode_floor(changed, key="the floor", log_id=_LOG).encode() == changed
            return
        body = mutate(source, self.roll[:-8])
        changed = body + struct.pack("<Q", xxh3_64_intdigest(body))
        assert decode_roll(changed, key="the roll").encode() == changed


class RefKeys:
    """Names of refs that people give, and keys that a remote shows."""

    def __call__(self, source: Random) -> None:
        store = MemoryStore()
        name = text(source, _NAMES)
        if source.randrange(2):
            key = ref_key(name)
            assert is_key(key)
            assert key.count("/") == 1
            return
        shown = f"refs/{name}"
        if not is_key(shown):
            return  # No store hands on such a key.
        store.put(shown, [b"graft-vfs ref 1\n"])
        assert list(list_refs(store)) == []


class LsnKeys:
    def __call__(self, source: Random) -> None:
        shown = source.choice((f"{boundary(source, 8):016x}", text(source, ("f" * 16, "0" * 15))))
        assert 0 < ascending(shown, key="the key") <= LSN_MAX


# Ids and texts --------------------------------------------------------------------------------

_IDS = ("5rMJkf2zHE-2xMqqKcN8RLZh", "74ggc1B6R4-2kkvcy9fi4CHJ", "74ggc1B6jg-2udz14pbDayZC")
_REFS = ("1", "18446744073709551614", "HEAD~2^", "local:3..", f"{_IDS[1]}:7~1", "2 hours ago~")
_TIMES = ("2026-01-31T12:00:00Z", "2 hours ago", "0001-01-01T00:00:00+14:00", "9999-12-31")


class Ids:
    def __call__(self, source: Random) -> None:
        kind = source.choice((LogId, VolumeId, SegmentId))
        if source.randrange(2):
            raw = bytes([kind.PREFIX]) + bytes(6) + bytes([kind.PREFIX]) + bytes(ID_BYTES - 8)
            found = kind(mutate(source, raw))
            assert kind.parse(str(found)) == found
        else:
            found = kind.parse(text(source, _IDS))
            assert len(found.raw) == ID_BYTES


class Texts:
    """The LSNs, times and tags of URI parameters and pragmas."""

    def __call__(self, source: Random) -> None:
        choice = source.randrange(3)
        if choice == 0:
            assert isinstance(parse_time(text(source, _TIMES), lambda: 2e9), int)
        elif choice == 1:
            typed = text(source, _REFS)
            read = parse_span if ".." in typed else parse
            assert read(str(read(typed))) == read(typed)
        else:
            assert len(check_tag(text(source, _NAMES))) <= 512


# Configuration --------------------------------------------------------------------------------

_CONFIG = """
data_dir = "~/graft"
cache_max_bytes = 1_000_000
autosync = 0
durability = "local"
freshness = "local"
max_staleness = 0
hydrate = "lazy"
retention = "all"
log_file = "/tmp/log"
make_default = false

[remote]
type = "s3_compatible"
bucket = "b"
prefix = "p/q"
endpoint = "http://127.0.0.1:1"
root = "/tmp/remote"
"""
_VALUES = ("lazy", "local", "0", "true", "all", "fs", "memory", "s3_compatible", "~/x", "1e9")
_KEYS = (
    "DATA_DIR", "AUTOSYNC", "DURABILITY", "FRESHNESS", "MAX_STALENESS", "CACHE_MAX_BYTES",
    "HYDRATE", "RETENTION", "LOG_FILE", "MAKE_DEFAULT", "REMOTE_TYPE", "REMOTE_ROOT",
    "REMOTE_BUCKET", "REMOTE_PREFIX", "REMOTE_ENDPOINT", "CONFIG",
)  # fmt: skip


class Configuration:
    """`graft.toml` with changed bytes and lines, and GRAFT_… variables."""

    def __init__(self, scratch: Path) -> None:
        self.path = scratch / "graft.toml"
        self.environment = {"HOME": str(scratch), "XDG_CONFIG_HOME": str(scratch / "none")}

    def __call__(self, source: Random) -> None:
        environment = dict(self.environment)
        if source.randrange(2):
            write_anew(self.path, self._file(source))
            environment["GRAFT_CONFIG"] = str(self.path)
        for _ in range(source.choice((0, 1, 1, 2, 3))):
            # No system hands on a lone surrogate of this kind, nor a program's arguments.
            value = text(source, _VALUES).replace("\ud800", "")
            environment[f"GRAFT_{source.choice(_KEYS)}"] = value
        config = Config.load(environment)
        assert config.cache_max_bytes is None or config.cache_max_bytes >= 0
        assert config.remote.type in (None, "memory", "fs", "s3_compatible")

    def _file(self, source: Random) -> bytes:
        if source.randrange(2):
            return mutate(source, _CONFIG.encode(), [b"[[remote]]\n", b"[" * 200, b"1e999", b"'''"])
        lines = _CONFIG.splitlines()
        value = source.choice(
            (repr(text(source)), "[]", "{}", "-1", "9" * 400, "1e400", "nan", "true", "1979-05-27")
        )
        at = source.randrange(len(lines))
        lines[at] = lines[at].partition("=")[0] + "= " + value
        return "\n".join(lines).encode("utf-8", "surrogatepass")


def remote_decoders(scratch: Path) -> list[Decoder]:
    """Return the decoders of what comes from a remote or from a person."""
    corrupt = (CorruptObjectError, FutureVersionError)
    return [
        Decoder("commit header", corrupt, Commits(), 24),
        Decoder("commit object", corrupt, Objects(), 10),
        Decoder("frame", (CorruptObjectError,), Frames(), 16),
        Decoder("segment", corrupt, Segments(), 6),
        Decoder("table", corrupt, Tables(), 16),
        Decoder("ref object", corrupt, Refs(), 8),
        Decoder("commit name", corrupt, CommitNames(), 8),
        Decoder("floor and roll", corrupt, FloorsAndRolls(), 6),
        Decoder("ref key", (*corrupt, InvalidTagError), RefKeys(), 6),
        Decoder("LSN key", (CorruptObjectError,), LsnKeys(), 4),
        Decoder("id", (InvalidIdError,), Ids(), 8),
        Decoder("ref, time, tag", (UsageError,), Texts(), 8),
        Decoder("configuration", (ConfigError,), Configuration(scratch), 6),
    ]
