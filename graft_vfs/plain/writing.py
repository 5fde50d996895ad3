"""Writing a database as a plain file: cached pages in order, then the others object by object.

Pages go to their offsets, so those that are not cached come in few requests, each once, whatever
the limit of the page cache is. What that has room for is kept, and is not fetched again if the
export is interrupted and repeated; the file itself begins anew. A stream has to be written in
order: its pages are fetched first, unless the cache cannot hold the database.

The checksum of a file does not depend on the order either: it is the sum of those of its pages,
each with its number as the seed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from xxhash import xxh3_128_intdigest

from graft_vfs.errors import CorruptObjectError
from graft_vfs.format.table import Source
from graft_vfs.local.files import storage_errors, write_fully
from graft_vfs.pages import lock_page
from graft_vfs.reports import Progress
from graft_vfs.sqlite_format.header import with_counter
from graft_vfs.view.log_view import LogView
from graft_vfs.view.remote_view import RemoteView
from graft_vfs.view.source import FrameSource

_REPORT_PAGES = 256
_PAGES_RESIDENT_MAX = 8192
_WAITING_PAGES_MAX = 1 << 22
"""The number of pages that wait for their frames; 16 GiB of 4 KiB pages need some 100 MiB."""
_SUM_MASK = (1 << 128) - 1


class Pages(Protocol):
    """What an export reads: the pages of a database in one state. A snapshot is it, for one."""

    @property
    def page_size(self) -> int:
        """Size of a page in bytes."""
        ...

    @property
    def page_count(self) -> int:
        """How many pages there are."""
        ...

    @property
    def counter(self) -> int:
        """The change counter that page 1 shows."""
        ...

    @property
    def remote(self) -> RemoteView:
        """The view that has all pages that are not local."""
        ...

    def is_local(self, page: int) -> bool:
        """Return True if a page is in the local branch."""
        ...

    def read(self, page: int) -> bytes:
        """Return a page as SQLite is to see it, fetched if need be."""
        ...

    def forget_resident(self) -> None:
        """Release mapped pages that were read."""
        ...


class CommitPages:
    """A remote commit as pages, on a machine that has no volume of its log."""

    def __init__(self, view: LogView) -> None:
        self.remote = view
        self.page_size = view.page_size
        self.page_count = view.page_count
        self.counter = view.change_counter
        self.forget_resident = view.forget_resident

    def is_local(self, page: int) -> bool:  # noqa: ARG002
        """Return False: there is no local branch."""
        return False

    def read(self, page: int) -> bytes:
        """Return a page; raises what fetching it raises, CorruptObjectError if there is none."""
        located = self.remote.locate(page)
        if located is None:
            if page == lock_page(self.page_size):
                return bytes(self.page_size)
            raise CorruptObjectError(
                f"no commit holds page {page} of {self.page_count}",
                next_step="open an older LSN, or restore the log from a replica",
            )
        view, offset = located
        image = bytes(view[offset : offset + self.page_size])
        return with_counter(image, self.counter) if page == 1 else image


class _Target:
    """A file that is written page by page. Any thread may write inside the `with` block."""

    def __init__(self, path: Path, file: BinaryIO, progress: Progress | None, of: int) -> None:
        self.checksum = 0
        self._path = path
        self._descriptor = file.fileno()
        self._progress, self._of = progress, of
        self._pages = self._reported = 0
        self._lock = threading.Lock()
        self._is_closed = False

    def write(self, page: int, image: bytes) -> None:
        """Write a page to its place; raises CancelledError after the block, LocalStorageError."""
        checksum = page_sum(page, image)
        with self._lock, storage_errors(self._path):
            # A thread that still receives must not write to another file with this descriptor.
            if self._is_closed:
                raise CancelledError
            write_fully(self._descriptor, image, (page - 1) * len(image))
            self.checksum = self.checksum + checksum & _SUM_MASK
            self._pages += 1

    def report(self) -> None:
        """Report progress, if there is some; called in the thread of the verb."""
        with self._lock:
            pages = self._pages
        if self._progress is not None and pages - self._reported >= _REPORT_PAGES:
            self._reported = pages - pages % _REPORT_PAGES
            self._progress(self._reported, self._of)

    def __enter__(self) -> Self:
        """Return the file; it is written to until the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Refuse all writes from now on."""
        with self._lock:
            self._is_closed = True


_Frame = tuple[Source, int]


def write_file(pages: Pages, path: Path, file: BinaryIO, progress: Progress | None) -> str:
    """Write all pages to a file, and return its checksum."""
    view = pages.remote
    sources: dict[Source, FrameSource] = {}
    missing: set[_Frame] = set()
    for source, frame in view.absent(view.frames()) if isinstance(view, LogView) else ():
        sources[source.origin] = source
        missing.add((source.origin, frame))
    waiting: dict[_Frame, list[tuple[int, int]]] = {}
    waiting_pages = 0
    with _Target(path, file, progress, pages.page_count) as target:
        for page, place in _places(pages, missing):
            if place is None:
                target.write(page, pages.read(page))
                target.report()
            else:
                key, at = place
                waiting.setdefault(key, []).append((page, at))
                waiting_pages += 1
            if page % _PAGES_RESIDENT_MAX == 0:
                pages.forget_resident()
            if waiting_pages == _WAITING_PAGES_MAX:
                _fetch(pages, sources, waiting, target)
                waiting, waiting_pages = {}, 0
        if waiting:
            _fetch(pages, sources, waiting, target)
    return f"{target.checksum:032x}"


def _places(pages: Pages, missing: set[_Frame]) -> Iterator[tuple[int, tuple[_Frame, int] | None]]:
    """Yield each page, with its frame and its place in that if it has to be fetched, else None."""
    view = pages.remote
    for page in range(1, pages.page_count + 1):
        found = None
        if missing and isinstance(view, LogView) and not pages.is_local(page):
            found = view.table.find(page)
        if found is None:
            yield page, None
            continue
        source, slot = found
        frame, at = divmod(slot, source.body.frames.frame_pages)
        key = source.origin, frame
        yield page, (key, at) if key in missing else None


def _fetch(
    pages: Pages,
    sources: dict[Source, FrameSource],
    waiting: dict[_Frame, list[tuple[int, int]]],
    target: _Target,
) -> None:
    size, view = pages.page_size, pages.remote
    assert isinstance(view, LogView)

    def take(source: FrameSource, frame: int, images: bytes) -> None:
        for page, at in waiting[source.origin, frame]:
            image = images[at * size : (at + 1) * size]
            target.write(page, with_counter(image, pages.counter) if page == 1 else image)

    frames = [(sources[origin], frame) for origin, frame in waiting]
    view.stream(frames, take, lambda _: target.report())


def write_stream(pages: Pages, stream: BinaryIO, progress: Progress | None) -> None:
    """Write all pages to a stream, in order."""
    view = pages.remote
    if isinstance(view, LogView) and view.fits_cache():
        if progress is not None:
            progress(0, pages.page_count)
        view.hydrate()
    for page in range(1, pages.page_count + 1):
        stream.write(pages.read(page))
        if page % _PAGES_RESIDENT_MAX == 0:
            pages.forget_resident()
        if progress is not None and page % _REPORT_PAGES == 0:
            progress(page, pages.page_count)
    stream.flush()


def page_sum(page: int, image: bytes) -> int:
    """Return what a page adds to the checksum of its file."""
    return xxh3_128_intdigest(image, seed=page)


def file_sum(path: Path, page_size: int) -> str:
    """Return the checksum of a file that is read back."""
    checksum = 0
    with path.open("rb") as file:
        page = 0
        while image := file.read(page_size):
            page += 1
            checksum = checksum + page_sum(page, image) & _SUM_MASK
    return f"{checksum:032x}"
