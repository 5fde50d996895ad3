"""Page 1 as shown to a connection that was moved to another volume, or to another branch.

SQLite drops its schema when the schema cookie in page 1 differs from the last one that it read. Two
volumes, and two branches of one, may have equal cookies and different schemas. So a connection that
was moved sees every cookie shifted by a random number, and its writes are shifted back.

A volume without pages has no page 1, and so no cookie. Such a connection sees an empty database of
one page instead, as SQLite itself would write it first.
"""

from __future__ import annotations

import secrets

from graft_vfs.sqlite_format import btree, header

_MASK = 0xFFFF_FFFF
_SCHEMA_FORMAT = 4
_UTF_8 = 1
DEFAULT_PAGE_SIZE = 4096


def new_shift() -> int:
    """Return a shift that makes cookies differ from those that the connection has seen."""
    return secrets.randbits(30) + 1


def shifted(first_page: bytes, shift: int) -> bytes:
    """Return page 1 with its schema cookie shifted; a negative shift reverses it."""
    page = bytearray(first_page)
    cookie = (int.from_bytes(page[header.SCHEMA_COOKIE], "big") + shift) & _MASK
    page[header.SCHEMA_COOKIE] = cookie.to_bytes(4, "big")
    return bytes(page)


def empty_first_page(page_size: int, counter: int) -> bytes:
    """Return page 1 of a database without tables."""
    page = bytearray(page_size)
    page[header.MAGIC] = header.MAGIC_VALUE
    page[header.PAGE_FORMAT] = header.page_format(page_size)
    page[header.PAYLOAD_FRACTIONS] = header.PAYLOAD_FRACTIONS_VALUE
    page[header.PAGE_COUNT] = (1).to_bytes(4, "big")
    page[header.SCHEMA_FORMAT] = _SCHEMA_FORMAT.to_bytes(4, "big")
    page[header.TEXT_ENCODING] = _UTF_8.to_bytes(4, "big")
    page[btree.FIRST_PAGE_HEAD] = btree.empty_table(page_size)
    return header.with_counter(bytes(page), counter)
