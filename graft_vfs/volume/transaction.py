"""A write transaction: staged pages, spilled to the branch log while it runs, committed at once.

Owner: one connection that holds the volume's writer lock, used by one thread at a time. Memory is
bounded: staged images are spilled to the log in chunks without COMMIT, and only the index and
offset of a spilled page stay in memory.
"""

from __future__ import annotations

import enum
import itertools
import logging
from typing import Protocol

from graft_vfs.errors import GraftError, LocalStorageError, PageSizeError
from graft_vfs.ids import VolumeId
from graft_vfs.local.branch_log import SYNC_INTERVAL_BYTES, BranchLog
from graft_vfs.local.chunk import CHUNK_HEAD_BYTES, SMALL_PAGES_MAX
from graft_vfs.pages import LocalLsn, check_page_size, lock_page
from graft_vfs.sqlite_format.header import (
    COUNTER_MAX,
    PAGE_COUNT,
    FirstPage,
    claimed_page_size,
    with_page_format,
)
from graft_vfs.volume.comparison import same_here
from graft_vfs.volume.snapshot import Snapshot

_logger = logging.getLogger(__name__)

STAGED_BYTES_MAX = 16 << 20
"""SQLite spills its cache of 2 MB page by page, often the same pages again. Staging this much
before spilling to the log keeps most of these images out of the log."""

_SAMPLED_STEP = 8
"""One of this many pages is compared first, as a sample, before all are."""


class Durability(enum.IntEnum):
    """SQLite's `synchronous` levels, with SQLite's numbers."""

    OFF = 0
    NORMAL = 1
    FULL = 2
    EXTRA = 3


# Comparing plain integers is much cheaper than comparing members.
OFF = int(Durability.OFF)
FULL = int(Durability.FULL)


class Writer(Protocol):
    """A transaction's interface to its volume; the writer lock is held."""

    id: VolumeId
    branch_log: BranchLog

    def check_mark(self) -> None:
        """Raise MovedError unless other processes will find the next write."""
        ...

    def expect_leftovers(self) -> None:
        """Record that uncommitted data is written."""
        ...

    def expect_dead_pages(self) -> None:
        """Record that the database becomes smaller."""
        ...

    def give_back(self) -> None:
        """Release the space of uncommitted data; raises LocalStorageError."""
        ...

    def commit(
        self, transaction: Transaction, counter: int, first_page: FirstPage | None, durability: int
    ) -> Snapshot:
        """Append the last chunk, publish it, and return its snapshot."""
        ...


class Transaction:
    """Pages that SQLite has written but not committed.

    `staged` maps pages to images, `spilled` maps pages to offsets in the log; if a page is in both,
    the staged image is newer. `page_count` is the count that a commit would set. `is_large` means
    that the pages did not fit in the staging area. `is_written` means that `prepare` has written
    all pages and allocated space for the last chunk.
    """

    __slots__ = (
        "end",
        "has_spilled",
        "is_large",
        "is_written",
        "page_count",
        "page_size",
        "reformatted",
        "snapshot",
        "spilled",
        "staged",
        "staged_max",
        "volume",
    )

    def __init__(self, volume: Writer, snapshot: Snapshot) -> None:
        self.volume = volume
        self.snapshot = snapshot
        self.staged: dict[int, bytes] = {}
        self.spilled: dict[int, int] = {}
        self.page_size = size = snapshot.page_size
        self.page_count = snapshot.page_count
        self.staged_max = STAGED_BYTES_MAX // size if size else 2
        self.end = snapshot.end
        self.reformatted = False
        self.has_spilled = False
        self.is_large = False
        self.is_written = False

    def set_page_size(self, size: int) -> None:
        """Fix the page size by the first page written, or raise PageSizeError if it differs."""
        if self.page_size not in (0, size):
            raise PageSizeError(
                f"the volume's page size is fixed at {self.page_size} bytes; "
                f"nothing was changed to {size}",
                next_step=f"run PRAGMA page_size={self.page_size} before VACUUM, or export the "
                "volume and import it into a new one",
            )
        self.page_size = check_page_size(size)
        self.staged_max = max(2, STAGED_BYTES_MAX // size)

    def as_kept(self, first_page: bytes) -> bytes:
        """Return page 1 as stored in a volume: with the volume's page size and no WAL mode.

        VACUUM and a backup may build a database of another page size from pages of this size; only
        page 1 shows that. It is refused with PageSizeError.
        """
        claimed = claimed_page_size(first_page)
        if claimed != self.page_size:
            self.set_page_size(claimed)
        self.reformatted = True
        return with_page_format(first_page, self.page_size)

    def has(self, page: int) -> bool:
        """Return True if this transaction wrote the page."""
        return page in self.staged or page in self.spilled

    def is_empty(self) -> bool:
        """Return True if a commit would change nothing."""
        is_resized = self.page_count != self.snapshot.page_count
        return not (self.staged or self.spilled or is_resized)

    def restores_snapshot(self) -> bool:
        """Return True if every page equals the snapshot's: a rollback has written it back.

        Reads all of them. Raises the errors of reading the snapshot.
        """
        snapshot = self.snapshot
        if self.page_count != snapshot.page_count:
            return False
        for page in self.staged.keys() | self.spilled.keys():
            image = self.read(page)
            if page == 1 and image is not None:
                if not snapshot.first_page().is_same(image):
                    return False
            elif image != snapshot.stored(page):
                return False
        return True

    def read(self, page: int) -> bytes | None:
        """Return the page's image as this transaction wrote it, or None."""
        image = self.staged.get(page)
        if image is None:
            offset = self.spilled.get(page)
            if offset is not None:
                image = bytes(self.volume.branch_log.view[offset : offset + self.page_size])
        return image

    def truncate(self, page_count: int) -> None:
        """Set the page count, and drop the pages past it.

        A spilled page that the snapshot has stays known: recovery reads it if the database grows
        again, so `thin` must not take the snapshot's image for it.
        """
        self.page_count = page_count
        self.volume.expect_dead_pages()
        past = max(page_count, self.snapshot.page_count)
        for pages, count in ((self.staged, page_count), (self.spilled, past)):
            for page in [page for page in pages if page > count]:
                del pages[page]

    def cut_to_header(self) -> None:
        """Drop the pages past the page count in the database's header, if page 1 was written."""
        header = self.read(1)
        page_count = int.from_bytes(header[PAGE_COUNT], "big") if header else 0
        if 0 < page_count < self.page_count:
            self.truncate(page_count)

    def thin(self) -> None:
        """Drop the pages of a large transaction that equal the snapshot's cached or local images.

        VACUUM and a backup write every page of a database, most of them unchanged. Dropping these
        makes the commit, and its push, smaller. A sample is compared first, so that transactions
        that change all of their pages pay little. A spilled page is kept, because recovery reads
        the spilled image.
        """
        staged = self.staged
        is_small = len(staged) <= SMALL_PAGES_MAX
        if is_small and not self.is_large:
            return
        try:
            sample = dict(itertools.islice(staged.items(), 0, None, _SAMPLED_STEP))
            if not (is_small or same_here(self.snapshot, sample)):
                return
            same = same_here(self.snapshot, staged)
        except GraftError as error:
            # A page that cannot be read is written again.
            _logger.debug("volume %s: pages were not compared: %s", self.volume.id, error)
            return
        for page in same:
            if page not in self.spilled:
                del staged[page]

    def make_room(self) -> None:
        """Write staged pages to the log if needed, so that fewer than `staged_max` remain.

        Raises LocalStorageError.
        """
        self.is_large = True
        self.thin()
        if len(self.staged) > self.staged_max // 2:
            self.spill()

    def spill(self) -> None:
        """Write all staged pages to the log, without making them visible.

        Raises LocalStorageError.
        """
        self.volume.check_mark()
        self.has_spilled = True
        self.volume.expect_leftovers()
        pages = sorted(self.staged)
        images = [self.staged[page] for page in pages]
        first_image, self.end = self.volume.branch_log.append(
            self.end, LocalLsn(self.snapshot.lsn + 1), pages, images, self.page_size, None
        )
        offset = first_image
        for page in pages:
            self.spilled[page] = offset
            offset += self.page_size
        self.staged.clear()

    def abandon(self) -> None:
        """Release the space of spilled pages; the writer lock is still held.

        An error is logged; the next writer tries again.
        """
        if self.has_spilled:
            try:
                self.volume.give_back()
            except LocalStorageError as error:
                _logger.warning("volume %s: %s", self.volume.id, error)

    def reserve(self) -> int:
        """Do everything that may need disk space before the commit; raises LocalStorageError.

        All pages of a large transaction are written; a small one gets space allocated, if it does
        not have it already. Returns the number of pages that fit into the remaining allocated
        space, each in a separate chunk, at most 250.
        """
        self.volume.check_mark()
        new_pages = self.page_count - self.snapshot.page_count
        pages = len(self.staged) + max(0, new_pages)
        if pages <= SMALL_PAGES_MAX:
            room = self.volume.branch_log.reserve(self.end, pages, self.page_size)
            return min(250, room // (CHUNK_HEAD_BYTES + 4 + self.page_size))
        self.prepare(OFF)
        return 0

    def prepare(self, durability: int) -> None:
        """Write everything but the last chunk, which makes the commit visible.

        After this, nothing can fail for lack of space; with FULL or EXTRA the pages are durable.
        Costs one write and one sync more than a plain commit. Raises LocalStorageError.
        """
        self.volume.check_mark()
        staged, branch_log = self.staged, self.volume.branch_log
        first_page = self.snapshot.known_first_page if 1 not in self.spilled else None
        written = staged.get(1)
        if written is not None and first_page is not None and first_page.is_same(written):
            del staged[1]
        if self.page_count > self.snapshot.page_count:
            self._fill_gap()
        if staged:
            self.spill()
        branch_log.reserve(self.end, 0, self.page_size)
        end = self.end.offset
        if durability >= FULL or (durability and end - branch_log.durable > SYNC_INTERVAL_BYTES):
            branch_log.sync(end)
        self.is_written = True

    def commit(self, durability: int) -> Snapshot:
        """Commit as one LSN and return its snapshot.

        On return the commit outlives the process; with FULL or EXTRA it is durable. If it raises
        LocalStorageError, the volume is unchanged. Costs one write call, plus one sync.
        """
        snapshot, staged = self.snapshot, self.staged
        first_page = snapshot.known_first_page
        written = staged[1] if 1 in staged else self.read(1)
        if written is not None:
            if first_page is not None and 1 not in self.spilled and first_page.is_same(written):
                # The counter is in the chunk, so the page need not be written.
                del staged[1]
            else:
                first_page = FirstPage(written)
        if self.page_count > snapshot.page_count and not self.is_written:
            self._fill_gap()
        # SQLite increments by one; if page 1 differs from what it wrote, its cache must be invalid.
        counter = (snapshot.counter + (2 if self.reformatted else 1)) & COUNTER_MAX
        return self.volume.commit(self, counter, first_page, durability)

    def _fill_gap(self) -> None:
        """Write zeros for new pages that SQLite skipped, so that no older image is visible."""
        staged, spilled = self.staged, self.spilled
        omitted = lock_page(self.page_size)
        for page in range(self.snapshot.page_count + 1, self.page_count + 1):
            if page not in staged and page not in spilled and page != omitted:
                staged[page] = bytes(self.page_size)
                if len(staged) >= self.staged_max:
                    self.spill()
