"""Nodes of a table: the places of adjacent blocks, in page order.

This docstring is the normative text of the bytes of a node. Little-endian. It lists n blocks, 1 to
512; the root of a table without pages lists none. They are adjacent in the object.

      0   8  offset of the first block in the object, in bytes
      8  4n  first page of each block, less the page after the last of the block before it, or 0
     ..  4n  page after the last, less the first page
     ..  4n  number of pages
     ..  4n  length of the block in bytes
     ..  4n  length of the block before compression
     .. 16n  XXH3-128 of the block
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from xxhash import xxh3_128_digest

from graft_vfs.format.columns import decode_column, encode_column
from graft_vfs.format.frame import CHECKSUM_BYTES, compress
from graft_vfs.format.table_facts import TableFacts, require
from graft_vfs.format.table_leaf import LEAF_BYTES_MAX, LEAF_PAGES

NODE_BLOCKS = 512

_OFFSET = struct.Struct("<Q")
_COLUMNS = 5
_ENTRY_BYTES = _COLUMNS * 4 + CHECKSUM_BYTES
_BLOCK_BYTES_MAX = LEAF_BYTES_MAX + (LEAF_BYTES_MAX >> 8) + 512


@dataclass(frozen=True, slots=True)
class Block:
    """The place of a block in the object, with `pages` pages of [first_page, end_page).

    `offset` and `length` are in bytes; `raw_length` is the length before compression. `level` 0 is
    a leaf.
    """

    first_page: int
    end_page: int
    offset: int
    length: int
    pages: int
    level: int
    checksum: bytes
    raw_length: int
    facts: TableFacts = field(repr=False)


@dataclass(frozen=True, slots=True)
class EncodedBlock:
    """A block before its offset is known."""

    first_page: int
    end_page: int
    pages: int
    data: bytes
    raw_length: int


def encoded_block(first_page: int, end_page: int, pages: int, raw: bytes) -> EncodedBlock:
    """Return a block, compressed."""
    return EncodedBlock(first_page, end_page, pages, compress(raw), len(raw))


def node_bytes(blocks: int) -> int:
    """Return the length of a node before compression."""
    return _OFFSET.size + blocks * _ENTRY_BYTES


def encode_node(offset: int, blocks: Sequence[EncodedBlock]) -> bytes:
    """Return the node of some blocks, of which the first is at an offset in the object."""
    ends = [0, *(block.end_page for block in blocks)]
    columns = (
        [block.first_page - end for block, end in zip(blocks, ends, strict=False)],
        [block.end_page - block.first_page for block in blocks],
        [block.pages for block in blocks],
        [len(block.data) for block in blocks],
        [block.raw_length for block in blocks],
    )
    return b"".join(
        (
            _OFFSET.pack(offset),
            *(encode_column(array("I", column)) for column in columns),
            *(xxh3_128_digest(block.data) for block in blocks),
        )
    )


def decode_node(data: bytes, facts: TableFacts, level: int) -> tuple[tuple[Block, ...], int]:
    """Return the blocks of a node, and their end in the object; raises ValueError."""
    count, rest = divmod(len(data) - _OFFSET.size, _ENTRY_BYTES)
    require(0 <= count <= NODE_BLOCKS and not rest, "the parts do not add up to the length")
    (first,) = _OFFSET.unpack_from(data)
    columns = decode_column(data[_OFFSET.size : len(data) - count * CHECKSUM_BYTES])
    gaps, spans, pages, lengths, raw_lengths = (
        columns[at * count : (at + 1) * count] for at in range(_COLUMNS)
    )
    checksums = len(data) - count * CHECKSUM_BYTES
    blocks = []
    end_page = 0
    offsets = accumulate(lengths, initial=first)
    for at, (offset, gap, span) in enumerate(zip(offsets, gaps, spans, strict=False)):
        first_page = end_page + gap
        end_page = first_page + span
        require(first_page >= 1 and 1 <= pages[at] <= span, "a block of other pages")
        require(level > 0 or pages[at] <= LEAF_PAGES, "a leaf of too many pages")
        require(0 < lengths[at] <= _BLOCK_BYTES_MAX, "a block of an impossible length")
        require(0 < raw_lengths[at] <= LEAF_BYTES_MAX, "a block of an impossible length")
        begin = checksums + at * CHECKSUM_BYTES
        blocks.append(
            Block(
                first_page,
                end_page,
                offset,
                lengths[at],
                pages[at],
                level,
                data[begin : begin + CHECKSUM_BYTES],
                raw_lengths[at],
                facts,
            )
        )
    require(end_page <= facts.page_count + 1, "a page beyond the last")
    return tuple(blocks), first + sum(lengths)
