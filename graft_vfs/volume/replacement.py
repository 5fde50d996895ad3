"""Replaces the content of a volume in one commit of the pages that differ.

It is a commit like any other: under the writer lock, all or nothing, with the next change counter,
so that every connection detects it. Open snapshots keep what they show.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from graft_vfs.errors import LocalStorageError
from graft_vfs.local.messages import Messages
from graft_vfs.sqlite_format.header import (
    COUNTER_MAX,
    SCHEMA_COOKIE,
    SQLITE_VERSION,
    FirstPage,
    with_field,
)
from graft_vfs.volume.comparison import differing
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Replaced:
    """The snapshots `before` and `after` a replacement, and how many `pages` differed.

    If none did, and there are as many as before, there is no commit: both are the same snapshot.
    """

    before: Snapshot
    after: Snapshot
    pages: int

    @property
    def is_commit(self) -> bool:
        """Return True if there was something to commit."""
        return self.after is not self.before


def replace_content(
    volume: Volume, snapshot: Snapshot, images: Iterator[tuple[int, bytes]], *, page_count: int
) -> Replaced:
    """Give a volume the content whose pages are `images`: page 1 first, the others ascending.

    A page that is left out stays as it is. The volume is not empty and has the same page size. The
    caller holds the writer lock since `snapshot`, the newest one. Durable on return. Memory and
    requests are those of `differing`. Raises what reading the snapshot and writing raise; nothing
    is changed then.
    """
    _, first_page = next(images)
    former = snapshot.first_page()
    written = 0

    def changes() -> Iterator[tuple[int, bytes]]:
        nonlocal written
        for change in differing(snapshot, images):
            written += 1
            yield change
        if written or page_count != snapshot.page_count or not _is_same(first_page, former):
            written += 1
            yield 1, _with_next_cookie(first_page, former)

    after = volume.write_pages(snapshot, changes(), page_count=page_count)
    return Replaced(snapshot, after, written)


def keep_message(volume: Volume, done: Replaced, message: str) -> None:
    """Keep a message for the commit of a replacement, until a push publishes it.

    A failure is logged: the commit is durable without it. So is a push that was faster, as a push
    waits for no writer.
    """
    if message and done.is_commit:
        lsn = done.after.lsn
        # Those of kept branches stay.
        first = min(branch.first_lsn for branch in volume.catalog.branches(volume.id))
        try:
            Messages(volume.directory).add(lsn, message, first=first)
        except LocalStorageError as error:
            _logger.warning("the message of local:%d is not kept: %s", lsn, error)
            return
        if volume.begin().branch.row.first_lsn > lsn:
            _logger.warning("local:%d was pushed meanwhile, without its message", lsn)


def _is_same(first_page: bytes, former: FirstPage) -> bool:
    """Return True if page 1 differs in counters, schema cookie and library version at most."""
    for mark in (SCHEMA_COOKIE, SQLITE_VERSION):
        first_page = with_field(first_page, mark, former.image[mark])
    return former.is_same(first_page)


def _with_next_cookie(first_page: bytes, former: FirstPage) -> bytes:
    """Return page 1 with a schema cookie that the volume has not shown yet.

    Open connections trust their parsed schema while the cookie stays the same. A database with
    another history may have the same cookie by chance, so this increments the volume's cookie, as
    SQLite's backup does.
    """
    cookie = int.from_bytes(former.image[SCHEMA_COOKIE], "big") + 1 & COUNTER_MAX
    return with_field(first_page, SCHEMA_COOKIE, cookie.to_bytes(4, "big"))
