"""Compaction: images that are spread over many objects of a remote log are written together.

Every push adds an object, so a scan of a database after many small pushes reads from as many. A
compaction takes the live images of small objects, and of those that are mostly dead, writes them
into new segments (see `page_order`), and publishes a complete table that names these. Nothing is
deleted here, so readers of older tables go on.

Sources are taken from the smallest on, up to the last that is at most four times as large as all
before it; tables take in others by a similar rule. So an image is rewritten about as often as its
source can grow fourfold, up to 256 MiB, and no source above that is, unless half of it is dead.

Two compactions at once waste work and harm nothing. A crash leaves segments that no table names.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import sys
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pyroaring import BitMap

from graft_vfs.format.frame import FRAME_PAGES, checksum_of, encode_frame
from graft_vfs.format.segment import SEGMENT_HEADER_BYTES
from graft_vfs.format.sparse_frames import SparseFrames
from graft_vfs.format.table import Source
from graft_vfs.history.names import remote_snapshot
from graft_vfs.ids import LogId, SegmentId
from graft_vfs.local.cache.arena import FrameKey
from graft_vfs.local.mapping import spooled
from graft_vfs.maintenance.page_order import ordered
from graft_vfs.pager.snapshots import connected
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.remote.tables import TableName, write_table
from graft_vfs.reports import Progress, Report, pages_text, size_text
from graft_vfs.sync.fetch import fetch_log, require_view
from graft_vfs.sync.tables import write_tables
from graft_vfs.view.log_view import LogView
from graft_vfs.view.logs import Logs
from graft_vfs.view.new_table import complete_table
from graft_vfs.view.page_table import PageTable
from graft_vfs.view.source import FrameSource
from graft_vfs.volume.context import Context, Opened

_logger = logging.getLogger(__name__)

SEGMENT_BYTES_MAX = 256 << 20
SOURCES_MAX = 64
"""With more sources than this, autosync compacts a database."""
_BY_ITSELF_BYTES_MAX = 64 << 20
"""Autosync writes at most so much at once, because its pushes wait meanwhile."""
_RATIO = 4
_BATCH_PAGES = 4096


@dataclass(frozen=True, slots=True)
class _Share:
    """How much of the database a source has: stored bytes and pages that are live."""

    source: FrameSource
    stored_bytes: int
    pages: int

    @property
    def dead(self) -> int:
        """The number of pages that are not live."""
        return self.source.origin.slots - self.pages

    @property
    def is_mostly_dead(self) -> bool:
        """Return True if less than half of the source's pages are live."""
        return self.pages < self.dead


@dataclass(frozen=True, slots=True, repr=False)
class Compacted(Report):
    """What a compaction did, or would do: `pages` of `objects` were written into `segments`.

    `objects_before` and `objects_after` count the objects that hold the database's pages,
    `bytes_sent` the size of segments and table.
    """

    tag: str
    log: LogId
    lsn: RemoteLsn
    objects: int
    pages: int
    stored_bytes: int
    objects_before: int
    objects_after: int
    bytes_sent: int
    dry_run: bool

    def __str__(self) -> str:
        if not self.objects:
            return (
                f"Nothing to do for {self.tag}: its pages are in {self.objects_before} objects "
                "on the remote."
            )
        verb = "Would rewrite" if self.dry_run else "Rewrote"
        return (
            f"{verb} {pages_text(self.pages)} of {self.tag} ({size_text(self.stored_bytes)}) from "
            f"{self.objects} objects: {self.objects_before} objects become {self.objects_after}."
        )


def compact(
    logs: Logs,
    log_id: LogId,
    lsn: RemoteLsn,
    *,
    tag: str,
    roots: tuple[int, ...],
    spool: Path,
    dry_run: bool = False,
    limit_bytes: int = sys.maxsize,
    progress: Progress | None = None,
) -> Compacted:
    """Compact the database of a log as of a known LSN; `roots` are those of its b-trees.

    At most `limit_bytes` of stored images are rewritten.

    The table is published, and known here, on return. Requests: those of fetching the images that
    are not cached, one for each segment (more above 8 MiB), and one for the table. `progress`
    counts pages. Raises StoreError, LocalStorageError; then nothing has changed for readers.
    """
    view = logs.log_view(log_id, lsn)
    shares = _shares(view)
    chosen = _chosen(shares, limit_bytes)
    found = Compacted(
        tag,
        log_id,
        lsn,
        objects=len(chosen),
        pages=sum(share.pages for share in chosen),
        stored_bytes=sum(share.stored_bytes for share in chosen),
        objects_before=len(shares),
        objects_after=len(shares),
        bytes_sent=0,
        dry_run=dry_run,
    )
    if not chosen:
        return found
    after = len(shares) - len(chosen) + -(-found.stored_bytes // SEGMENT_BYTES_MAX)
    if dry_run:
        return replace(found, objects_after=after)

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, found.pages)

    writer = _Writer(logs, view, spool, tell)
    table = writer.rewritten(_pages_of(view, chosen), roots)
    suffix = secrets.token_hex(8)
    row, data = complete_table(logs, view, table, suffix=suffix)
    write_table(logs.log(log_id).store, TableName(log_id, row.lsn, row.after, suffix), data)
    logs.catalog.tables.keep(replace(row, is_remote=True), data)
    logs.forget_views(log_id)
    done = replace(
        found,
        objects_after=len(shares) - len(chosen) + writer.segments,
        bytes_sent=writer.bytes_sent + len(data),
    )
    _logger.info("%s", done)
    return done


def maintain(
    context: Context,
    opened: Opened,
    *,
    dry_run: bool = False,
    only_if_due: bool = False,
    progress: Progress | None = None,
) -> Compacted | None:
    """Compact the remote log that a volume pushes to, and write the tables that it lacks.

    With `only_if_due`, at most 64 MiB are written, and None is returned unless that helps a
    database whose pages are in more than 64 objects, or whose objects are mostly dead; it takes no
    request to tell. Otherwise requests are those of a fetch, and of `compact`.
    """
    logs, log_id = context.logs, context.catalog.volume(opened.volume.id).remote
    if not only_if_due:
        fetch_log(logs, log_id, progress=progress)
    lsn, _ = context.catalog.newest_commit(log_id)
    if lsn == NO_LSN or (only_if_due and not _is_due(logs, log_id, lsn)):
        return None
    if not dry_run:
        write_tables(logs, log_id)
    require_view(logs, log_id, lsn)
    snapshot = remote_snapshot(opened.volume, logs, log_id, lsn)
    with connected(opened.volume, {"main": snapshot}) as connection:
        sql = "SELECT rootpage FROM sqlite_schema WHERE rootpage > 0"
        roots = (1, *(int(root) for (root,) in connection.execute(sql)))
    return compact(
        logs,
        log_id,
        lsn,
        tag=opened.tag,
        roots=roots,
        spool=opened.volume.directory,
        dry_run=dry_run,
        limit_bytes=_BY_ITSELF_BYTES_MAX if only_if_due else sys.maxsize,
        progress=progress,
    )


def _is_due(logs: Logs, log_id: LogId, lsn: RemoteLsn) -> bool:
    if not all(table.is_whole for table in logs.catalog.tables.all(log_id)):
        return False
    return _helps(_shares(logs.log_view(log_id, lsn)))


def _helps(shares: list[_Share]) -> bool:
    """Return True if autosync should compact these sources.

    What it may take in must make a difference: each compaction also writes a complete table.
    """
    chosen = _chosen(shares, _BY_ITSELF_BYTES_MAX)
    if len(shares) > SOURCES_MAX and len(chosen) * 2 > SOURCES_MAX:
        return True
    slots = sum(share.source.origin.slots for share in shares)
    dead, freed = (sum(share.dead for share in each) for each in (shares, chosen))
    return dead * 2 > slots and freed * 2 > dead


def _shares(view: LogView) -> list[_Share]:
    """Return the sources of a database, the smallest first."""
    pages: dict[FrameSource, int] = {}
    stored: dict[FrameSource, int] = {}
    for (source, frame), count in view.frames().items():
        pages[source] = pages.get(source, 0) + count
        stored[source] = stored.get(source, 0) + source.stored_bytes(frame)
    shares = [_Share(source, stored[source], count) for source, count in pages.items()]
    return sorted(shares, key=lambda share: share.stored_bytes)


def _chosen(shares: list[_Share], limit_bytes: int = sys.maxsize) -> list[_Share]:
    """Return the sources to rewrite, of sources that are sorted by size, within a limit."""
    smaller = itertools.accumulate((share.stored_bytes for share in shares), initial=0)
    taken = size = 0
    for number, (share, total) in enumerate(zip(shares, smaller, strict=False)):
        is_near = share.stored_bytes <= _RATIO * total and share.stored_bytes < SEGMENT_BYTES_MAX
        if is_near and total + share.stored_bytes <= limit_bytes:
            taken, size = number + 1, total + share.stored_bytes
    chosen = shares[:taken]
    for share in shares[taken:]:
        if share.is_mostly_dead and size + share.stored_bytes <= limit_bytes:
            chosen.append(share)
            size += share.stored_bytes
    return chosen


def _pages_of(view: LogView, chosen: list[_Share]) -> BitMap:
    sources, pages = {share.source.id for share in chosen}, BitMap()
    for first, end, source, _ in view.table.runs():
        if source.id in sources and first <= view.page_count:
            pages.add_range(first, min(end, view.page_count + 1))
    return pages


class _Writer:
    """Writes pages of a view into segments. Owner: one compaction."""

    def __init__(self, logs: Logs, view: LogView, spool: Path, tell: Callable[[int], None]) -> None:
        self._logs = logs
        self._log_id = view.log_id
        self._view = view
        self._spool = spool
        self._tell = tell
        self._done = 0
        self.segments = 0
        self.bytes_sent = 0

    def rewritten(self, pages: BitMap, roots: tuple[int, ...]) -> PageTable[FrameSource]:
        """Write pages, and return the table of the view with their new places."""
        # Interior pages are fetched one after the other only if few are missing.
        self._view.fetch_pages(itertools.islice(pages, _BATCH_PAGES))
        order = ordered(pages, roots, self._image, page_count=self._view.page_count)
        runs: list[tuple[int, int, FrameSource, int]] = []
        at = 0
        while at < len(order):
            segment = SegmentId.new()
            written = _Frames(order[at:])
            with spooled(self._spool, self._frames(written, segment)) as parts:
                self._logs.log(self._log_id).write_segment(segment, parts)
            source = self._source(segment, written)
            runs += [
                (page, page + 1, source, slot)
                for slot, page in enumerate(order[at:][: written.taken])
            ]
            self.segments += 1
            self.bytes_sent += SEGMENT_HEADER_BYTES + sum(written.sizes)
            at += written.taken
        runs.sort(key=lambda run: run[0])
        count = self._view.page_count
        return self._view.table.overlaid(runs, least=count, page_count=count)

    def _frames(self, written: _Frames, segment: SegmentId) -> Iterator[bytes]:
        """Yield compressed frames of one segment, and keep their images as cached pages."""
        cache = self._logs.cache(self._log_id)
        while written.stored_bytes < SEGMENT_BYTES_MAX:
            number = len(written.sizes)
            pages = written.order[written.taken : written.taken + FRAME_PAGES]
            if not pages:
                return
            if written.taken % _BATCH_PAGES == 0:
                batch = written.order[written.taken : written.taken + _BATCH_PAGES]
                self._view.fetch_pages(batch)
            images = [self._image(page) for page in pages]
            frame = encode_frame(images)
            written.add(frame, len(pages))
            cache.add_all(FrameKey(segment.raw, number), [b"".join(images)])
            yield frame
            self._done += len(pages)
            self._tell(self._done)

    def _image(self, page: int) -> bytes:
        located = self._view.locate(page)
        assert located is not None
        data, offset = located
        return bytes(data[offset : offset + self._view.page_size])

    def _source(self, segment: SegmentId, written: _Frames) -> FrameSource:
        origin = Source(
            self._log_id,
            segment.raw,
            NO_LSN,
            segment,
            SEGMENT_HEADER_BYTES,
            FRAME_PAGES,
            written.taken,
        )
        return self._logs.source_of(origin, written.frames(), page_size=self._view.page_size)


class _Frames:
    """The frames of a segment that is being written, of the first `taken` pages of an order."""

    def __init__(self, order: array[int]) -> None:
        self.order = order
        self.taken = 0
        self.sizes = array("I")
        self.stored_bytes = 0
        self._checksums = bytearray()

    def add(self, frame: bytes, pages: int) -> None:
        self.sizes.append(len(frame))
        self._checksums += checksum_of(frame)
        self.stored_bytes += len(frame)
        self.taken += pages

    def frames(self) -> SparseFrames:
        """Return where the frames are."""
        offsets = array("Q", itertools.accumulate(self.sizes, initial=0))
        numbers = array("I", range(len(self.sizes)))
        return SparseFrames(FRAME_PAGES, numbers, offsets[:-1], self.sizes, bytes(self._checksums))
