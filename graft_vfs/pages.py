"""Pages: the fixed-size blocks of a SQLite database, counted from 1.

Facts come from the SQLite file format, https://www.sqlite.org/fileformat2.html.
"""

from __future__ import annotations

from typing import NewType

from graft_vfs.errors import PageSizeError

PAGE_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
PAGE_COUNT_MAX = 0xFFFF_FFFE
LOCK_BYTE_OFFSET = 0x4000_0000
"""SQLite never reads or writes the page that holds this byte (1 GiB)."""

LocalLsn = NewType("LocalLsn", int)
"""A sequence number of local commits: 1-based, no gaps, never reused in a volume."""

RemoteLsn = NewType("RemoteLsn", int)
"""A sequence number of a remote log: 1-based, no gaps. 0 means the empty log."""

NO_LSN = RemoteLsn(0)
"""The LSN of a log without commits: the base of a new volume."""

LSN_MAX = 0xFFFF_FFFF_FFFF_FFFE
_LSN_DIGITS_MAX = len(str(LSN_MAX))


def is_lsn_text(text: str) -> bool:
    """Return True if the text is a number that int() parses and is not too long for an LSN."""
    return text.isascii() and text.isdigit() and len(text) <= _LSN_DIGITS_MAX


def check_page_size(size: int) -> int:
    """Return `size` if it is a valid SQLite page size in bytes, else raise PageSizeError."""
    if size not in PAGE_SIZES:
        raise PageSizeError(
            f"{size} is not a page size of SQLite",
            next_step="use a power of two from 512 to 65536",
        )
    return size


def lock_page(page_size: int) -> int:
    """Return the 1-based index of the page that SQLite reserves for its lock bytes."""
    return LOCK_BYTE_OFFSET // page_size + 1
