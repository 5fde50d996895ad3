"""The page index of a local branch: maps each page to its newest image in the branch log.

The log only grows, so a snapshot sees exactly the images with offsets below its end; no LSN per
page is needed. An image that is superseded while another snapshot is open is moved to the page's
history, in ascending order of offset.

A negative offset marks an image that this process has not verified: it was durable before the
branch was opened, and reading all such images at open would cost more than the first query. When
the image is first read, its chunk's checksum is verified and the sign is dropped.
"""

from __future__ import annotations

import contextlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from graft_vfs.errors import CorruptLogError
from graft_vfs.local.branch_log import BranchLog
from graft_vfs.local.catalog.rows import BranchRow
from graft_vfs.local.chunk import Chunk

HISTORY_MIN = 1024
"""The number of superseded images kept before they are checked against the open snapshots."""


class PageIndex:
    """The page index of one branch. `mutex` is its volume's; absent if nothing is committed.

    Owner: the volume while it is current, later the snapshots that still read it. Thread rule:
    changed under the volume's mutex; any thread may read, because each step of a change keeps every
    open snapshot readable.
    """

    __slots__ = (
        "_checksums",
        "_ends",
        "_history_max",
        "_kept",
        "_mutex",
        "_proved",
        "_starts",
        "branch_log",
        "history",
        "index",
        "row",
    )

    def __init__(
        self,
        row: BranchRow,
        branch_log: BranchLog,
        mutex: contextlib.AbstractContextManager[object] | None = None,
    ) -> None:
        self._mutex = mutex or contextlib.nullcontext()
        self.row = row
        self.branch_log = branch_log
        self.index: dict[int, int] = {}
        self.history: dict[int, list[int]] = {}
        self._kept = 0
        self._history_max = HISTORY_MIN
        self._starts = array("Q")
        self._ends = array("Q")
        self._checksums = array("Q")
        self._proved = bytearray()

    def apply(self, pages: Iterable[int], first_image: int, page_size: int) -> None:
        """Add the images of one chunk, which the caller has verified."""
        index = self.index
        offset = first_image
        for page in pages:
            index[page] = offset
            offset += page_size

    def apply_unproved(self, chunk: Chunk) -> None:
        """Add the images of a chunk of which only the header is verified."""
        self._starts.append(chunk.images)
        self._ends.append(chunk.after.offset)
        self._checksums.append(chunk.images_checksum)
        self._proved.append(0)
        index = self.index
        offset = -chunk.images
        for page in chunk.pages:
            index[page] = offset
            offset -= chunk.page_size

    def keep_history(self, pages: Iterable[int]) -> None:
        """Record the current images of `pages` before a commit supersedes them."""
        index, history = self.index, self.history
        for page in pages:
            offset = index.get(page)
            if offset is not None:
                history.setdefault(page, []).append(offset)
                self._kept += 1

    def has_long_history(self) -> bool:
        """Return True if it is time to check which superseded images are still visible."""
        return self._kept > self._history_max

    def forget_history(self, oldest_end: int) -> None:
        """Forget the superseded images that are invisible to snapshots with this or a later end."""
        kept: dict[int, list[int]] = {}
        for page, offsets in self.history.items():
            # An image is visible to snapshots that end after it and before the next image.
            following = [*offsets[1:], self.index[page]]
            pairs = zip(offsets, following, strict=True)
            seen = [offset for offset, then in pairs if abs(then) >= oldest_end]
            if seen:
                kept[page] = seen
        # Replaced as a whole, so a reader of the old dictionary still finds its images.
        self.history = kept
        self._kept = sum(map(len, kept.values()))
        # The rest is checked again when as many have been added: a constant cost per image.
        self._history_max = max(HISTORY_MIN, 2 * self._kept)

    def clear_history(self) -> None:
        """Forget all superseded images; no snapshot is open."""
        self.history.clear()
        self._kept = 0

    def offset_of(self, page: int, end: int) -> int | None:
        """Return the offset of the page's newest image below `end`, verified, if there is one.

        Raises CorruptLogError if the image is damaged.
        """
        offset = self.index.get(page)
        if offset is None:
            return None
        if abs(offset) >= end:
            # A page may have changed often since the snapshot; bisect instead of a scan.
            kept = self.history.get(page, ())
            older = bisect_left(kept, end, key=abs)
            if not older:
                return None
            offset = kept[older - 1]
        if offset < 0:
            offset = self._prove(page, -offset)
        return offset

    def _prove(self, page: int, offset: int) -> int:
        number = bisect_right(self._starts, offset) - 1
        if not self._proved[number]:
            start, end = self._starts[number], self._ends[number]
            if self.branch_log.checksum_of(start, end) != self._checksums[number]:
                raise CorruptLogError(
                    f"{self.branch_log.path.name}: the images at byte {start} are damaged "
                    f"(page {page})",
                    next_step="restore the data directory, or clone the volume from its remote; "
                    "other pages can still be read",
                )
            self._proved[number] = 1
        with self._mutex:
            # Otherwise the verified image would hide a commit between the two steps.
            if self.index.get(page) == -offset:
                self.index[page] = offset
        return offset

    def pages_below(self, end: int, page_count: int) -> list[int]:
        """Return, ascending, the pages up to `page_count` that have an image below `end`.

        A concurrent commit moves images from the index to the history. The history is read second,
        so no image is missed; a page found in both counts once.
        """
        pages = {page for page, offset in list(self.index.items()) if abs(offset) < end}
        pages.update(page for page, offsets in list(self.history.items()) if abs(offsets[0]) < end)
        return sorted(page for page in pages if page <= page_count)
