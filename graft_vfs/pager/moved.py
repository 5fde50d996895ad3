"""What page 1 has to look like to a connection that was moved to another volume.

SQLite forgets its schema when the schema cookie in page 1 differs from the one that it saw last.
Two volumes may well carry equal cookies and different schemas, so a connection that a pragma moved
sees every cookie shifted by a random number, and what it writes is shifted back.

A volume without pages has no page 1 to carry a cookie. Such a connection sees an empty database of
one page instead, which is what SQLite itself would write first. Layouts:
https://www.sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import secrets
import struct

_COOKIE = slice(40, 44)
_MASK = 0xFFFF_FFFF
_FORMAT_VERSION = struct.pack(">BBBBBB", 1, 1, 0, 64, 32, 32)
_SCHEMA_FORMAT = 4
_UTF_8 = 1
_TABLE_LEAF = 13
DEFAULT_PAGE_SIZE = 4096


def new_shift() -> int:
    """Return a shift that makes cookies differ from any that the connection saw."""
    return secrets.randbits(30) + 1


def shifted(first_page: bytes, shift: int) -> bytes:
    """Return page 1 with its schema cookie shifted; a negative shift goes back."""
    cookie = (int.from_bytes(first_page[_COOKIE], "big") + shift) & _MASK
    return b"".join((first_page[:40], cookie.to_bytes(4, "big"), first_page[44:]))


def empty_first_page(page_size: int, counter: int) -> bytes:
    """Return page 1 of a database without tables."""
    number = counter.to_bytes(4, "big")
    page = bytearray(page_size)
    page[0:16] = b"SQLite format 3\0"
    page[16:18] = (1 if page_size == 65536 else page_size).to_bytes(2, "big")
    page[18:24] = _FORMAT_VERSION
    page[24:28] = number
    page[28:32] = (1).to_bytes(4, "big")
    page[44:48] = _SCHEMA_FORMAT.to_bytes(4, "big")
    page[56:60] = _UTF_8.to_bytes(4, "big")
    page[92:96] = number
    page[100] = _TABLE_LEAF
    page[105:107] = (page_size & 0xFFFF).to_bytes(2, "big")
    return bytes(page)
