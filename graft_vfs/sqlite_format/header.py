"""Page 1: the database header, its first 100 bytes. Numbers are big-endian.

The change counter and version-valid-for are not content: a volume has its own counter, and shows it
in both fields. Everything else in page 1 is as SQLite wrote it.
"""

from __future__ import annotations

HEADER_BYTES = 100
COUNTER_MAX = 0xFFFF_FFFF

MAGIC = slice(16)
MAGIC_VALUE = b"SQLite format 3\0"
PAGE_SIZE = slice(16, 18)
"""In bytes; 1 stands for 65536."""
JOURNAL_MODES = slice(18, 20)
"""File format write and read version: 1 is a rollback journal, 2 is WAL."""
ROLLBACK_JOURNAL = b"\1\1"
PAGE_FORMAT = slice(16, 20)
"""Both of these; see `page_format`."""
RESERVED_BYTES = 20
"""The offset of the byte with the number of reserved bytes at the end of each page."""
PAYLOAD_FRACTIONS = slice(21, 24)
PAYLOAD_FRACTIONS_VALUE = bytes((64, 32, 32))
CHANGE_COUNTER = slice(24, 28)
PAGE_COUNT = slice(28, 32)
"""SQLite uses it only if the change counter and version-valid-for are equal."""
FIRST_FREELIST_TRUNK = slice(32, 36)
PROBE_OFFSET, PROBE_BYTES = 24, 16
PROBED = slice(24, 40)
"""SQLite reads these at the start of each transaction, to check whether its cache is valid."""
SCHEMA_COOKIE = slice(40, 44)
SCHEMA_FORMAT = slice(44, 48)
LARGEST_ROOT = slice(52, 56)
"""The largest root page; nonzero if and only if the database is auto_vacuum."""
TEXT_ENCODING = slice(56, 60)
VERSION_VALID_FOR = slice(92, 96)
SQLITE_VERSION = slice(96, 100)
"""The version of the library that wrote last."""

_PROBED_CONTENT = slice(28, 40)
_BEFORE_COUNTER = slice(24)
_BETWEEN_COUNTERS = slice(28, 92)
_AFTER_COUNTERS = slice(96, None)


class FirstPage:
    """Page 1 as it was written, split once for the comparisons of every transaction."""

    __slots__ = ("_between", "_head", "_tail", "image", "probed")

    def __init__(self, image: bytes) -> None:
        self.image = image
        self.probed = image[_PROBED_CONTENT]
        self._head = image[_BEFORE_COUNTER]
        self._between = image[_BETWEEN_COUNTERS]
        self._tail = image[_AFTER_COUNTERS]

    def is_same(self, image: bytes) -> bool:
        """Return True if `image` equals this page except for change counter and version-valid-for.

        The long part is compared in place, because a slice would copy the page at each commit; for
        the short parts, a slice costs less.
        """
        return (
            image.endswith(self._tail)
            and image[_BETWEEN_COUNTERS] == self._between
            and image[_BEFORE_COUNTER] == self._head
        )


def with_counter(first_page: bytes, counter: int) -> bytes:
    """Return page 1 with `counter` as change counter and as version-valid-for.

    SQLite then uses the page count, and drops its page cache if it knew another counter.
    """
    number = counter.to_bytes(4, "big")
    between = first_page[_BETWEEN_COUNTERS]
    after = first_page[_AFTER_COUNTERS]
    return b"".join((first_page[_BEFORE_COUNTER], number, between, number, after))


def page_format(page_size: int) -> bytes:
    """Return a volume's PAGE_FORMAT: this page size in bytes, and no WAL mode."""
    return (1 if page_size == 65536 else page_size).to_bytes(2, "big") + ROLLBACK_JOURNAL


def claimed_page_size(first_page: bytes) -> int:
    """Return the page size in bytes that page 1 claims; it may be invalid."""
    claimed = int.from_bytes(first_page[PAGE_SIZE], "big")
    return 65536 if claimed == 1 else claimed


def with_page_format(first_page: bytes, size: int) -> bytes:
    """Return page 1 with this page size in bytes, and without WAL mode."""
    return with_field(first_page, PAGE_FORMAT, page_format(size))


def with_field(first_page: bytes, field: slice, value: bytes) -> bytes:
    """Return page 1 with another value in one of the fields above, of the same length."""
    return b"".join((first_page[: field.start], value, first_page[field.stop :]))
