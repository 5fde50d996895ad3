"""A snapshot: an immutable view of a volume, `local(first..lsn)` over `remote(1..base)`.

All reads use a snapshot. The newest local image comes first, then the remote one, then zeros (for a
page that is never written: the lock page).
"""

from __future__ import annotations

from collections.abc import Iterator

from graft_vfs.errors import CorruptLogError, CorruptObjectError
from graft_vfs.local.chunk import Chunk, Position
from graft_vfs.local.mapping import forget_resident
from graft_vfs.pages import LocalLsn, lock_page
from graft_vfs.sqlite_format.header import FirstPage, with_counter
from graft_vfs.view.remote_view import Located, RemoteView
from graft_vfs.volume.page_index import PageIndex

_READS_RESIDENT_MAX = 8192


class Snapshot:
    """One view. Owner: its reader; it keeps its files alive. Thread rule: any thread.

    SQLite reads `counter` as the change counter. It identifies the content: two snapshots of a
    volume have equal counters if and only if their databases are equal.
    """

    __slots__ = (
        "_probed",
        "branch",
        "counter",
        "end",
        "known_first_page",
        "lsn",
        "page_count",
        "page_size",
        "remote",
        "view",
    )

    def __init__(  # noqa: PLR0917 - keywords would cost time at each commit
        self,
        branch: PageIndex,
        remote: RemoteView,
        end: Position,
        lsn: LocalLsn,
        page_size: int,
        page_count: int,
        counter: int,
        first_page: FirstPage | None = None,
    ) -> None:
        self.branch = branch
        self.remote = remote
        self.end = end
        self.lsn = lsn
        self.page_size = page_size
        self.page_count = page_count
        self.counter = counter
        self.view = branch.branch_log.view
        # Page 1 if it was already read, to pass it to a snapshot of equal content.
        self.known_first_page = first_page
        self._probed: bytes | None = None

    @classmethod
    def after(cls, branch: PageIndex, remote: RemoteView, last: Chunk) -> Snapshot:
        """Return the view that a transaction makes whose last chunk is given."""
        return cls(
            branch,
            remote,
            last.after,
            last.lsn,
            last.page_size,
            last.page_count,
            last.change_counter,
        )

    def copy(self) -> Snapshot:
        """Return another snapshot of the same view."""
        return Snapshot(
            self.branch,
            self.remote,
            self.end,
            self.lsn,
            self.page_size,
            self.page_count,
            self.counter,
            self.known_first_page,
        )

    @property
    def local_commits(self) -> int:
        """The number of local commits in the snapshot."""
        return self.lsn - self.branch.row.first_lsn + 1

    def locate(self, page: int) -> Located | None:
        """Return (bytes, offset) of the page's image as it was written; None if it has none.

        Raises CorruptLogError, and for remote pages the errors of fetching them.
        """
        offset = self.branch.offset_of(page, self.end.offset)
        if offset is not None:
            return self.view, offset
        return self.remote.locate(page)

    def is_local(self, page: int) -> bool:
        """Return True if the newest image of a page is in the local branch."""
        return self.branch.offset_of(page, self.end.offset) is not None

    def stored(self, page: int) -> bytes:
        """Return the page's image as it was written.

        Zeros for the lock page and past the end. If any other page has no image, raises
        CorruptObjectError, or CorruptLogError without a remote part: a transaction that enlarges a
        database writes all of its new pages.
        """
        located = self.locate(page)
        if located is None:
            if page <= self.page_count and page != lock_page(self.page_size):
                kind = CorruptObjectError if self.remote.lsn else CorruptLogError
                raise kind(
                    f"no commit contains page {page} of {self.page_count}",
                    next_step="open an older LSN, or restore the log from a replica",
                )
            return bytes(self.page_size)
        view, offset = located
        return bytes(view[offset : offset + self.page_size])

    def read(self, page: int) -> bytes:
        """Return the page as shown to SQLite: page 1 with the snapshot's counter."""
        if page == 1:
            return with_counter(self.first_page().image, self.counter)
        return self.stored(page)

    def local_pages(self) -> list[int]:
        """Return, ascending, the pages that a commit of the local branch wrote."""
        return self.branch.pages_below(self.end.offset, self.page_count)

    def changed_pages(self) -> Iterator[tuple[int, bytes]]:
        """Yield (page, image) of all local pages, ascending, as SQLite is to see them.

        With `page_count` they make the database out of the remote part. Raises CorruptLogError.
        """
        for number, page in enumerate(self.local_pages(), 1):
            yield page, self.read(page)
            if number % _READS_RESIDENT_MAX == 0:
                self.forget_resident()

    def first_page(self) -> FirstPage:
        """Return page 1 as it was written, read once per snapshot."""
        if self.known_first_page is None:
            self.known_first_page = FirstPage(self.stored(1))
        return self.known_first_page

    def probe(self) -> bytes:
        """Return bytes 24..39 of page 1, which SQLite uses to check whether its cache is valid."""
        probed = self._probed
        if probed is None:
            probed = b""
            if self.page_count:
                first_page = self.known_first_page or self.first_page()
                probed = self.counter.to_bytes(4, "big") + first_page.probed
            self._probed = probed
        return probed

    def forget_resident(self) -> None:
        """Release mapped pages that were read; they are mapped again when needed."""
        forget_resident(self.view)
        self.remote.forget_resident()
