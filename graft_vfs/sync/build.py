"""Building a commit object from pages: one header with its frames, or with a segment that has them.

The pages come from a `PageSource`; a `Target` says where the commit goes. Building claims nothing:
`remote.claim` decides later whether the commit exists. Until then, the remote has at most a segment
that no commit names.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from graft_vfs.format.body import BodyBuilder
from graft_vfs.format.commit import CommitHeader
from graft_vfs.ids import LogId, SegmentId
from graft_vfs.local.mapping import spooled
from graft_vfs.pages import RemoteLsn
from graft_vfs.reports import time_text
from graft_vfs.sqlite_format.header import with_counter
from graft_vfs.store.base import ObjectStore, Sent
from graft_vfs.times import CLOCK_TOLERANCE_SECONDS, corrected_ms
from graft_vfs.volume.context import Context

_logger = logging.getLogger(__name__)

INLINE_BYTES_MAX = 1 << 20
"""A commit with more bytes of frames than this has a segment."""
_LOCAL_COMMITS_MAX = 0xFFFF_FFFF


class PageSource(Protocol):
    """The pages that a commit changes, and the size of the database after it.

    A snapshot is one, with the pages of its local commits; so is a scratch database, with the pages
    that differ from its snapshot. A source may be read twice, and does not change meanwhile.
    """

    @property
    def page_size(self) -> int:
        """The page size in bytes."""

    @property
    def page_count(self) -> int:
        """The page count of the database after the commit."""

    @property
    def counter(self) -> int:
        """The change counter in page 1 after the commit."""

    @property
    def local_commits(self) -> int:
        """The number of its author's local commits in it."""

    def changed_pages(self) -> Iterator[tuple[int, bytes]]:
        """Yield (page, image) of each page that differs from the commit before, ascending.

        Page 1 may have any counter. The lock page is never included.
        """


@dataclass(frozen=True, slots=True)
class Target:
    """Where a commit goes: an LSN of a log, and the commit that it stands on.

    That is the previous one of the log or, for LSN 1 of a fork, `parent_lsn` of `parent_log`. Its
    time is `previous_ms` and its hash `previous_hash`, both zero for LSN 1 of other logs. The
    new commit has the message `message`, and the grace period of the log's retention, 0 for none.
    """

    log_id: LogId
    lsn: RemoteLsn
    previous_hash: bytes
    parent_log: LogId | None
    parent_lsn: RemoteLsn
    previous_ms: int
    message: str = ""
    grace_seconds: int = 0


@dataclass(frozen=True, slots=True)
class BuiltCommit:
    """A commit object: its header, and all of its bytes as `data`."""

    header: CommitHeader
    data: bytes

    @property
    def stored_bytes(self) -> int:
        """The size of the commit object and its segment, in bytes."""
        return len(self.data) + (self.header.frames.body_bytes if self.header.segment else 0)


def build(
    context: Context,
    source: PageSource,
    target: Target,
    *,
    spool: Path,
    progress: Callable[[int], None] | None = None,
    sent: Sent | None = None,
) -> BuiltCommit:
    """Build a commit of the pages of `source`, and upload its segment if it needs one.

    No request without a segment. Frames are spooled to a temporary file in the directory `spool`,
    with at most `INLINE_BYTES_MAX` in memory. `progress` is called with the number of compressed
    pages, `sent` as parts of the segment arrive. Raises LocalStorageError, StoreError, the errors
    of reading the source, and, before anything is sent, UsageError for more than a header can name.
    """
    log, builder = context.logs.log(target.log_id), BodyBuilder()
    frames = frames_of(source, builder, progress)
    small, rest = _split(frames)
    segment = None if rest is None else SegmentId.new()

    def sealed() -> CommitHeader:
        return CommitHeader(
            log_id=target.log_id,
            lsn=target.lsn,
            previous_hash=target.previous_hash,
            parent_log=target.parent_log,
            parent_lsn=target.parent_lsn,
            page_size=source.page_size,
            page_count=source.page_count,
            change_counter=source.counter,
            local_commits=min(source.local_commits, _LOCAL_COMMITS_MAX),
            segment=segment,
            writer=context.author.writer,
            attempt=secrets.token_bytes(16),
            time_ms=_time_ms(log.store, target.previous_ms),
            author=context.author.name,
            message=target.message,
            grace_seconds=target.grace_seconds,
            pages=builder.pages,
            frames=builder.table,
        ).sealed()

    if rest is not None:
        assert segment is not None
        with spooled(spool, itertools.chain(small, rest)) as parts:
            sealed()  # A commit that is too large is refused before anything of it is sent.
            log.write_segment(segment, parts, sent=sent)
        small = []
    header = sealed()
    return BuiltCommit(header, b"".join((header.encode(), *small)))


def _images(source: PageSource) -> Iterator[tuple[int, bytes]]:
    """Yield (page, image) as a commit holds them: page 1 with the counter of the source."""
    for page, image in source.changed_pages():
        yield page, with_counter(image, source.counter) if page == 1 else image


def frame_images(source: PageSource, frame_pages: int) -> Iterator[bytes]:
    """Yield the images of each frame of a commit, concatenated."""
    images = (image for _, image in _images(source))
    while joined := b"".join(itertools.islice(images, frame_pages)):
        yield joined


def frames_of(
    source: PageSource, builder: BodyBuilder, progress: Callable[[int], None] | None = None
) -> Iterator[bytes]:
    """Yield the compressed frames of a source; afterwards `builder` has their tables."""
    for number, (page, image) in enumerate(_images(source), 1):
        frame = builder.add(page, image)
        if frame is not None:
            yield frame
            if progress is not None:
                progress(number)
    last = builder.finish()
    if last is not None:
        yield last


def _split(frames: Iterator[bytes]) -> tuple[list[bytes], Iterator[bytes] | None]:
    """Take frames up to the inline limit; the rest is None if there are no more."""
    taken: list[bytes] = []
    total = 0
    for frame in frames:
        taken.append(frame)
        total += len(frame)
        if total > INLINE_BYTES_MAX:
            return taken, frames
    return taken, None


def _time_ms(store: ObjectStore, previous_ms: int) -> int:
    """Return the time of a new commit; the store's time if this machine's clock is wrong.

    No commit is dated before its predecessor, at `previous_ms`, unless the predecessor is in the
    future by the store's time: one wrong clock must not affect the dates of all machines. The
    store's time is known from earlier answers: no request.
    """
    here = time.time_ns() // 1_000_000
    ahead = store.clock_ahead_seconds()
    found = corrected_ms(here, ahead)
    if found != here:
        _logger.warning(
            "this machine's clock says %s and the remote's %s: the commit is dated by the remote's;"
            " set the clock, preferably by NTP",
            time_text(here),
            time_text(found),
        )
    if ahead is not None and previous_ms > found + CLOCK_TOLERANCE_SECONDS * 1000:
        _logger.warning(
            "the previous commit is dated %s, in the future by the remote's clock, so this one, "
            "of %s, is dated before it; some machine's clock is wrong",
            time_text(previous_ms),
            time_text(found),
        )
        return found
    return max(previous_ms, found)
