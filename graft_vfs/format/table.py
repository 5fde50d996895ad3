"""Tables: where the newest image is of each page that a range of commits changed.

This docstring is the normative text of format version 1. A table is made from commits and never
changed. Its head is followed by blocks: the leaves, then the nodes above them, level by level. The
root is in the head, so one request reads the whole of a small table, and a page of a large one
takes one more for each level. Little-endian throughout.

      0   8  magic `GRAFTTAB`
      8   2  format version, 1
     10   1  level of the blocks in the root: 0 = leaves
     11   1  reserved, zero
     12   4  head length in bytes, from the magic to the end of the hash; at most 65536
     16  16  log id
     32   8  LSN N: the table is the state after this commit
     40  32  hash of commit N
     72  16  parent log id at LSN 1 of the log, if that is forked; else zeros
     88   8  parent LSN; 0 without parent
     96   4  page size in bytes
    100   4  page count of the database after commit N
    104   4  change counter in page 1 after commit N
    108   4  number of pages in the table
    112   8  LSN A < N: the table has the pages that commits A+1..N changed; 0 = complete, with the
             pages of the parent
    120   8  time of commit N in milliseconds since 1970
    128   8  length of the whole object in bytes
    136   8  sum of the compressed sizes of all frames that hold a page of the table
    144   4  smallest page count of the database after any of the commits A+1..N: pages of older
             tables beyond it are dead, even if the database grew again
    148   4  number t of older tables, at most 64
    152 24t  older tables that the writer knew, newest first: A and N in 8 bytes each, and the
             random id of the key in 8 bytes, or zeros. Each begins earlier than the one before it,
             and ends no later. They help a reader to find what covers the commits up to A
     ..   .  the root, a node
     ..  32  BLAKE2b-256 of all of the above

`format.table_node` has the bytes of a node. A block is one zstd frame with its content size. On
level 0 it contains a leaf, see `format.table_leaf`; on level k > 0 a node whose blocks have level
k - 1 and come earlier in the object.

Invariants:
 1. No page is in two blocks, and pages ascend from block to block. Writers fill each leaf with 4096
    pages, and each node with 512 blocks, but the last of its level.
 2. Only the newest image of a page is recorded. Pages beyond the smallest page count that came
    after their image are left out.
 3. The head is verified by its hash, every block by its checksum, so each can be read alone. The
    hash is checked before anything after byte 16 is interpreted, and the contents are validated
    even if hash and checksum are correct.
 4. Equal facts, runs and frames give equal bytes with one version of zstd. Which tables exist, and
    which writer's bytes are under a key, makes no difference to readers.
 5. For any input, decoding returns a value or raises CorruptObjectError or FutureVersionError. A
    block takes at most 512 KiB before compression.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pyroaring import BitMap
from xxhash import xxh3_128_digest

from graft_vfs.errors import CorruptObjectError, FutureVersionError, InvalidIdError
from graft_vfs.format.commit import HASH_BYTES, hash_of
from graft_vfs.format.frame import Frames, decompress
from graft_vfs.format.sparse_frames import SparseFrames
from graft_vfs.format.table_facts import (
    BENEATH_MAX,
    Beneath,
    TableFacts,
    check_facts,
    require,
)
from graft_vfs.format.table_leaf import (
    LEAF_PAGES,
    Leaf,
    Run,
    Source,
    decode_leaf,
)
from graft_vfs.format.table_node import (
    NODE_BLOCKS,
    Block,
    EncodedBlock,
    decode_node,
    encode_node,
    encoded_block,
    node_bytes,
)
from graft_vfs.ids import ID_BYTES, LogId

__all__ = [
    "HEAD_BYTES",
    "Beneath",
    "Block",
    "Leaf",
    "Run",
    "Source",
    "SparseFrames",
    "TableFacts",
    "TableHead",
    "decode_block",
    "decode_head",
    "encode_table",
    "head_length",
]

MAGIC = b"GRAFTTAB"
VERSION = 1
HEAD_BYTES = 65_536
"""The size of a reader's first range request. No head is longer, and most tables are shorter."""

_PROLOGUE_BYTES = 16
_FIXED = struct.Struct("<8sHBBI16sQ32s16sQIIIIQQQQII")
_BENEATH = struct.Struct("<QQ8s")
_NO_SUFFIX = bytes(8)
_LEVELS_MAX = 3
_LENGTH_MAX = (1 << 48) - 1
_NO_ID = bytes(ID_BYTES)

assert _FIXED.size == 152
assert (
    _FIXED.size + BENEATH_MAX * _BENEATH.size + node_bytes(NODE_BLOCKS) + HASH_BYTES <= HEAD_BYTES
)


@dataclass(frozen=True, slots=True)
class TableHead:
    """The head of a table: its facts and the blocks of its root.

    `pages` counts the pages with an image, `stored_bytes` sums the sizes of their frames, `length`
    is that of the whole object in bytes.
    """

    facts: TableFacts
    pages: int
    stored_bytes: int
    length: int
    head_length: int
    root: tuple[Block, ...]


# Writing --------------------------------------------------------------------------------------


def encode_table(
    facts: TableFacts,
    runs: Iterable[Run],
    frames_of: Callable[[Source], Frames],
    *,
    leaf_pages: int = LEAF_PAGES,
    node_blocks: int = NODE_BLOCKS,
) -> list[bytes]:
    """Return the object of a table: its head, then its blocks.

    Runs are ascending and disjoint. Raises ValueError for what no reader would accept.
    """
    check_facts(facts)
    leaves: list[EncodedBlock] = []
    stored = _StoredBytes()
    for part in _leaves(runs, leaf_pages):
        leaf = Leaf.of(part, frames_of)
        first_page, end_page = part[0][0], part[-1][1]
        pages = sum(end - first for first, end, _, _ in part)
        leaf.check(facts, first_page, end_page, pages)
        require(not leaves or leaves[-1].end_page <= first_page, "runs out of order")
        leaves.append(encoded_block(first_page, end_page, pages, leaf.encode()))
        stored.add(leaf)
    in_root, level = len(leaves), 0
    while in_root > node_blocks:
        in_root, level = -(-in_root // node_blocks), level + 1
    head_bytes = _FIXED.size + len(facts.beneath) * _BENEATH.size + node_bytes(in_root) + HASH_BYTES
    root, blocks = _tree(leaves, head_bytes, node_blocks)
    pages = sum(leaf.pages for leaf in leaves)
    length = head_bytes + sum(map(len, blocks))
    fixed = _pack(facts, level, head_bytes, pages=pages, length=length, stored_bytes=stored.total)
    head = fixed + root + hash_of(fixed + root)
    decode_head(head, key="a table to write")
    return [head, *blocks]


def _tree(leaves: list[EncodedBlock], offset: int, node_blocks: int) -> tuple[bytes, list[bytes]]:
    """Return the root above some leaves, of which the first is at an offset, and all blocks."""
    blocks, level = [leaf.data for leaf in leaves], leaves
    while len(level) > node_blocks:
        above = []
        for at in range(0, len(level), node_blocks):
            below = level[at : at + node_blocks]
            pages = sum(block.pages for block in below)
            node = encode_node(offset, below)
            above.append(encoded_block(below[0].first_page, below[-1].end_page, pages, node))
            offset += sum(len(block.data) for block in below)
        blocks += [block.data for block in above]
        level = above
    return encode_node(offset, level), blocks


class _StoredBytes:
    """Sums the sizes of frames, each once, although several leaves may have pages in it."""

    def __init__(self) -> None:
        self.total = 0
        self._seen: dict[Source, BitMap] = {}

    def add(self, leaf: Leaf) -> None:
        for source in leaf.sources:
            frames = leaf.frames(source)
            seen = self._seen.setdefault(source, BitMap())
            for number, size in zip(frames.numbers, frames.sizes, strict=True):
                if number not in seen:
                    self.total += size
            seen.update(frames.numbers)


def _leaves(runs: Iterable[Run], leaf_pages: int) -> Iterator[list[Run]]:
    """Yield the runs of each leaf; runs that continue each other become one."""
    leaf: list[Run] = []
    room = leaf_pages
    for whole_first, end, source, whole_slot in runs:
        first, slot = whole_first, whole_slot
        while first < end:
            taken = min(room, end - first)
            last = leaf[-1] if leaf else None
            if (
                last is not None
                and (last[1], last[2]) == (first, source)
                and last[3] + last[1] - last[0] == slot
            ):
                leaf[-1] = last[0], first + taken, source, last[3]
            else:
                leaf.append((first, first + taken, source, slot))
            first, slot, room = first + taken, slot + taken, room - taken
            if not room:
                yield leaf
                leaf, room = [], leaf_pages
    if leaf:
        yield leaf


def _pack(
    facts: TableFacts,
    level: int,
    head_bytes: int,
    *,
    pages: int,
    length: int,
    stored_bytes: int,
) -> bytes:
    return _FIXED.pack(
        MAGIC,
        VERSION,
        level,
        0,
        head_bytes,
        facts.log_id.raw,
        facts.lsn,
        facts.hash,
        facts.parent_log.raw if facts.parent_log else _NO_ID,
        facts.parent_lsn,
        facts.page_size,
        facts.page_count,
        facts.change_counter,
        pages,
        facts.after,
        facts.time_ms,
        length,
        stored_bytes,
        facts.least_pages,
        len(facts.beneath),
    ) + b"".join(
        _BENEATH.pack(table.after, table.lsn, bytes.fromhex(table.suffix) or _NO_SUFFIX)
        for table in facts.beneath
    )


# Reading --------------------------------------------------------------------------------------


def head_length(prefix: bytes, *, key: str) -> int:
    """Return the head's length in bytes, at most HEAD_BYTES, from its first 16 bytes or more.

    Raises FutureVersionError, or CorruptObjectError if this is not a table.
    """
    if prefix[: len(MAGIC)] != MAGIC or len(prefix) < _PROLOGUE_BYTES:
        raise CorruptObjectError(
            f"{key} is not a table of graft-vfs", next_step="check the bucket and its prefix"
        )
    version = int.from_bytes(prefix[8:10], "little")
    if version > VERSION:
        raise FutureVersionError(
            f"{key} has format version {version}; this program reads {VERSION}",
            next_step="upgrade graft-vfs",
        )
    if not version:
        raise CorruptObjectError(f"{key}: there is no format version {version}")
    length = int.from_bytes(prefix[12:16], "little")
    if not _FIXED.size + node_bytes(0) + HASH_BYTES <= length <= HEAD_BYTES:
        raise CorruptObjectError(f"{key}: no head has {length} bytes")
    return length


def decode_head(data: bytes, *, key: str) -> TableHead:
    """Return the head from bytes that begin with it, such as the first HEAD_BYTES of the object.

    For any bytes, raises only CorruptObjectError or FutureVersionError. `key` names the object.
    """
    length = head_length(data[:_PROLOGUE_BYTES], key=key)
    if len(data) < length:
        raise CorruptObjectError(f"{key}: truncated, {len(data)} of {length} head bytes")
    end = length - HASH_BYTES
    if hash_of(memoryview(data)[:end]) != data[end:length]:
        raise CorruptObjectError(
            f"{key}: the head's hash is wrong; the bytes are not those that were written",
            next_step="try again; if that fails, delete the object: a table can be made again",
        )
    try:
        return _decode_proved(data[:end])
    except (InvalidIdError, ValueError) as error:
        raise CorruptObjectError(f"{key}: {error}") from error


def _decode_proved(data: bytes) -> TableHead:
    """Decode a head with a correct hash; raises ValueError if its parts do not fit."""
    (
        _magic,
        _version,
        level,
        reserved,
        head_bytes,
        log,
        lsn,
        digest,
        parent_log,
        parent_lsn,
        page_size,
        page_count,
        counter,
        pages,
        after,
        time_ms,
        length,
        stored_bytes,
        least_pages,
        beneath,
    ) = _FIXED.unpack_from(data)
    root_at = _FIXED.size + beneath * _BENEATH.size
    require(root_at <= len(data), "the parts do not add up to the length")
    facts = TableFacts(
        log_id=LogId(log),
        after=after,
        lsn=lsn,
        hash=digest,
        parent_log=LogId(parent_log) if parent_log != _NO_ID else None,
        parent_lsn=parent_lsn,
        page_size=page_size,
        page_count=page_count,
        least_pages=least_pages,
        change_counter=counter,
        time_ms=time_ms,
        beneath=tuple(
            Beneath(after, lsn, "" if raw == _NO_SUFFIX else raw.hex())
            for after, lsn, raw in _BENEATH.iter_unpack(data[_FIXED.size : root_at])
        ),
    )
    check_facts(facts)
    require(reserved == 0, "a reserved byte is not zero")
    require(level <= _LEVELS_MAX, f"level {level}")
    require(length <= _LENGTH_MAX, f"a table of {length} bytes")
    root, end = decode_node(data[root_at:], facts, level)
    require(end == length, "the blocks of the root do not end with the object")
    first = length - sum(block.length for block in root)
    require(first > head_bytes if level else first == head_bytes, "blocks in the head")
    require(sum(block.pages for block in root) == pages, "other pages than in the root")
    return TableHead(facts, pages, stored_bytes, length, head_bytes, root)


def decode_block(data: bytes, block: Block, *, key: str) -> Leaf | tuple[Block, ...]:
    """Return the leaf or the blocks below, from exactly the bytes of a block.

    For any bytes, raises only CorruptObjectError. `key` names the object.
    """
    name = f"{key} at byte {block.offset}"
    if len(data) != block.length:
        raise CorruptObjectError(f"{name}: {len(data)} bytes instead of {block.length}")
    if xxh3_128_digest(data) != block.checksum:
        raise CorruptObjectError(
            f"{name}: checksum mismatch; the bytes are not those that were written",
            next_step="try again; if that fails, delete the object: a table can be made again",
        )
    raw = decompress(data, block.raw_length, name=name)
    try:
        if block.level == 0:
            return decode_leaf(
                raw,
                block.facts,
                first_page=block.first_page,
                end_page=block.end_page,
                pages=block.pages,
            )
        require(len(raw) >= node_bytes(1), "a node without blocks")
        found, end = decode_node(raw, block.facts, block.level - 1)
        require(end <= block.offset, "blocks that come later in the object")
        require(found[0].first_page == block.first_page, "other pages than its parent says")
        require(found[-1].end_page == block.end_page, "other pages than its parent says")
        require(sum(each.pages for each in found) == block.pages, "another number of pages")
    except (InvalidIdError, ValueError) as error:
        raise CorruptObjectError(f"{name}: {error}") from error
    return found
