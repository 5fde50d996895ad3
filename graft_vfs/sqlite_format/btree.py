"""Pages of b-trees: their kinds, and the children and keys of interior pages.

Layout: https://www.sqlite.org/fileformat2.html#b_tree_pages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from graft_vfs.sqlite_format.header import HEADER_BYTES

KEY_MIN = -(1 << 63)
KEY_MAX = (1 << 63) - 1

LEAF_INDEX, LEAF_TABLE = 10, 13
LEAVES = (LEAF_INDEX, LEAF_TABLE)
_INTERIOR_INDEX, INTERIOR_TABLE = 2, 5
INDEX_PAGES = (LEAF_INDEX, _INTERIOR_INDEX)
TABLE_PAGES = (LEAF_TABLE, INTERIOR_TABLE)
_LEAF_HEAD_BYTES, _INTERIOR_HEAD_BYTES = 8, 12
FIRST_PAGE_HEAD = slice(HEADER_BYTES, HEADER_BYTES + 8)
"""The head of a leaf in page 1."""


class NoTreeError(Exception):
    """A page does not belong at this position of a b-tree. Internal: readers of trees handle it."""


def kind(image: bytes, page: int) -> int:
    """Return the number of a page's kind; an unknown number means that it is not a b-tree page."""
    return image[_start(page)]


def children(image: bytes, page: int, kind: int) -> Iterator[tuple[int, int | None]]:
    """Yield the children of an interior page with their last keys; None for the rightmost.

    In an index, all keys are None. Raises NoTreeError if the page is not of that kind.
    """
    start = _start(page)
    if kind not in (INTERIOR_TABLE, _INTERIOR_INDEX) or image[start] != kind:
        raise NoTreeError
    try:
        count, right = struct.unpack_from(">3xH3xI", image, start)
        pointers = struct.unpack_from(f">{count}H", image, start + _INTERIOR_HEAD_BYTES)
        for cell in pointers:
            (child,) = struct.unpack_from(">I", image, cell)
            yield child, _varint(image, cell + 4) if kind == INTERIOR_TABLE else None
    except (struct.error, IndexError) as error:
        raise NoTreeError from error
    yield right, None


def first_key(image: bytes, page: int, kind: int) -> int:
    """Return the key of the first cell of a page of a table; raises NoTreeError without one."""
    start = _start(page)
    is_leaf = kind == LEAF_TABLE
    try:
        if not int.from_bytes(image[start + 3 : start + 5], "big"):
            raise NoTreeError
        head = start + (_LEAF_HEAD_BYTES if is_leaf else _INTERIOR_HEAD_BYTES)
        (cell,) = struct.unpack_from(">H", image, head)
        if not is_leaf:
            return _varint(image, cell + 4)
        # The size of the payload comes first.
        while image[cell] >= 0x80:
            cell += 1
        return _varint(image, cell + 1)
    except (struct.error, IndexError) as error:
        raise NoTreeError from error


def empty_table(page_size: int) -> bytes:
    """Return the head of a table's only leaf if it has no rows."""
    return struct.pack(">BHHHB", LEAF_TABLE, 0, 0, page_size & 0xFFFF, 0)


def freelist_trunk(image: bytes) -> tuple[int, tuple[int, ...]]:
    """Return the next trunk page of the freelist, or 0, and the leaves that this page lists."""
    following, count, *leaves = struct.unpack(f">{len(image) // 4}I", image)
    return following, tuple(leaves[:count])


def _start(page: int) -> int:
    return HEADER_BYTES if page == 1 else 0


def _varint(image: bytes, at: int) -> int:
    """Return SQLite's signed 64-bit variable-length integer."""
    value = 0
    for byte in range(8):
        value = value << 7 | image[at + byte] & 0x7F
        if image[at + byte] < 0x80:
            return value
    value = value << 8 | image[at + 8]
    return value - (1 << 64) if value > KEY_MAX else value
