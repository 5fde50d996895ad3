"""What a table says of its log."""

from __future__ import annotations

import re
from dataclasses import dataclass

from graft_vfs.format.commit import HASH_BYTES, TIME_MS_MAX
from graft_vfs.ids import LogId
from graft_vfs.pages import LSN_MAX, PAGE_COUNT_MAX, PAGE_SIZES, RemoteLsn

BENEATH_MAX = 64
SUFFIX_CHARACTERS = 16

_SUFFIX = re.compile(rf"[0-9a-f]{{{SUFFIX_CHARACTERS}}}")
_U32_MAX = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Beneath:
    """The key of an older table: it covers the commits (after, lsn].

    `suffix` is the random id at the end of the key, 16 hexadecimal digits, or empty.
    """

    after: RemoteLsn
    lsn: RemoteLsn
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class TableFacts:
    """What a table says of its log: it has the pages that commits (after, lsn] changed.

    `hash`, `page_size`, `page_count`, `change_counter` and `time_ms` are those of commit `lsn`. A
    table with `after` 0 is complete, and has the pages of the parent log, which is that of LSN 1.
    `least_pages` is the smallest page count of these commits: images in older tables of pages past
    it are dead, because the database shrank, even if it grew again. `beneath` are the older tables
    that its writer knew, newest first, which with it cover (0, lsn] if none was missing.
    """

    log_id: LogId
    after: RemoteLsn
    lsn: RemoteLsn
    hash: bytes
    parent_log: LogId | None
    parent_lsn: RemoteLsn
    page_size: int
    page_count: int
    least_pages: int
    change_counter: int
    time_ms: int
    beneath: tuple[Beneath, ...] = ()


def check_facts(facts: TableFacts) -> None:
    """Raise ValueError for facts that a writer must not write and a reader must reject."""
    require(1 <= facts.lsn <= LSN_MAX, f"LSN {facts.lsn}")
    require(0 <= facts.after < facts.lsn, f"commits from {facts.after} to {facts.lsn}")
    require(len(facts.hash) == HASH_BYTES, "a hash that does not have 32 bytes")
    require((facts.parent_log is not None) == (facts.parent_lsn > 0), "half a parent")
    require(facts.parent_lsn <= LSN_MAX, f"parent LSN {facts.parent_lsn}")
    require(facts.parent_log != facts.log_id, "a log that is its own parent")
    require(facts.page_size in PAGE_SIZES, f"page size {facts.page_size}")
    require(0 <= facts.page_count <= PAGE_COUNT_MAX, f"page count {facts.page_count}")
    require(0 <= facts.change_counter <= _U32_MAX, f"change counter {facts.change_counter}")
    require(0 <= facts.time_ms <= TIME_MS_MAX, f"time {facts.time_ms}")
    require(0 <= facts.least_pages <= facts.page_count, f"at least {facts.least_pages} pages")
    require(len(facts.beneath) <= BENEATH_MAX, f"{len(facts.beneath)} tables beneath")
    after, lsn = facts.after, facts.lsn
    for table in facts.beneath:
        is_older = table.after < after and table.lsn <= lsn
        require(is_older and 0 <= table.after < table.lsn, "a table beneath that is not older")
        require(is_suffix(table.suffix), "an id of a table beneath")
        after, lsn = table.after, table.lsn


def is_suffix(text: str) -> bool:
    """Return True for what may follow a table's LSNs in its key, and for an empty text."""
    return not text or (_SUFFIX.fullmatch(text) is not None and int(text, 16) > 0)


def require(condition: bool, what: str) -> None:
    """Raise ValueError unless a condition of the format holds."""
    if not condition:
        raise ValueError(what)
