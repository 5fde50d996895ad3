"""A view of a remote log as of one LSN: finds pages, fetches their frames, reads ahead.

A page that is not cached costs one range read of its frame. Sequential misses fetch more frames,
twice as many each time, in parallel ranges. The next window is requested when half of the last one
is used, so that a scan rarely waits. Point queries do not pay for this: a miss elsewhere starts a
stream of one frame.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from time import monotonic

from graft_vfs.errors import CorruptObjectError
from graft_vfs.format.table import Source
from graft_vfs.ids import LogId
from graft_vfs.local.cache.arena import Arena, FrameKey
from graft_vfs.local.cache.page_cache import PageCache, Place
from graft_vfs.local.cache.space import CacheSpace
from graft_vfs.pages import RemoteLsn, lock_page
from graft_vfs.reentry import occupied, refuse_reentry, thread
from graft_vfs.view.fetching import BACKGROUND_RANGES, VERB_RANGES, fetch_ranges, fitting
from graft_vfs.view.foreground import Foreground
from graft_vfs.view.horizon import HORIZON_PAGES, Horizon
from graft_vfs.view.page_table import PageTable
from graft_vfs.view.ranges import FrameRange, whole_ranges, window_ranges
from graft_vfs.view.remote_view import Located
from graft_vfs.view.source import FrameSource

_logger = logging.getLogger(__name__)

WINDOW_FRAMES_MAX = 128
_STREAMS_MAX = 4
_SLACK_PAGES = 16
"""A miss this far past a stream's end still continues it: interior pages lie between leaves."""
_GUESS_FRAMES = 2
_NEAR_FRAMES_MAX = 384
_LONG_FRAMES = 32
"""A scan that has read as many frames goes on, so it takes others of their objects with them."""
_LOCATED_MAX = 262_144
_PASSES_MAX = 3


@dataclass(frozen=True, slots=True)
class Tip:
    """The newest commit of a view: the facts of it that a view needs."""

    lsn: RemoteLsn
    hash: bytes
    page_size: int
    page_count: int
    change_counter: int
    time_ms: int


_SourceFrame = tuple[FrameSource, int]
_ObjectFrame = tuple[Source, int]
"""Parts of a large table have a source of their own for the same object."""


@dataclass(slots=True)
class _Stream:
    """A sequential read: fetched up to `ahead`; reading `trigger` requests more."""

    ahead: int
    trigger: int
    window_frames: int
    horizon: Horizon


class LogView:
    """A remote log as of one LSN; immutable except for the state of fetching.

    Owner: the snapshots on it. Thread rule: any thread; two threads that miss the same frame fetch
    it once.
    """

    def __init__(
        self,
        log_id: LogId,
        tip: Tip,
        table: PageTable[FrameSource],
        space: CacheSpace,
        executor: Callable[[], Executor],
        *,
        foreground: Foreground | None = None,
    ) -> None:
        self.log_id = log_id
        self.tip = tip
        self.lsn = tip.lsn
        self.hash = tip.hash
        self.page_size = tip.page_size
        self.page_count = tip.page_count
        self.change_counter = tip.change_counter
        self.time_ms = tip.time_ms
        self.table = table
        self.located: dict[int, Located] = {}
        self.looked_at = 0.0
        self._executor = executor
        self._foreground = foreground or Foreground()
        self._space = space
        self._forgotten = 0
        # Frames with pages in `located`, so that the cache is queried once per frame.
        self._places: dict[_SourceFrame, Place] = {}
        # Arenas that `located` refers to.
        self._arenas: tuple[Arena, ...] = ()
        self._lock = threading.Lock()
        # Requested frames: the future of their range, and the place in it.
        self._in_flight: dict[_ObjectFrame, tuple[Future[list[bytes]], int]] = {}
        self._streams: list[_Stream] = []
        space.add_reader(self)

    def locate(self, page: int) -> Located | None:
        """Return (bytes, offset) of a page's image, fetching it if needed; None if it has none.

        Raises StoreError if it cannot be fetched, CorruptObjectError if it is damaged.
        """
        known = self.located.get(page)
        if known is not None:
            return known
        found = self._look_up(page)
        if found is None:
            return None
        source, slot = found
        frame_pages = source.body.frames.frame_pages
        frame = slot // frame_pages
        epoch = self._forgotten
        place = self._places.get((source, frame))
        lasts = True
        if place is None:
            place, lasts = self._find_frame(page, source, frame)
        else:
            source.cache.counters.pages_found += 1
            for stream in self._streams:
                if stream.trigger <= page < stream.ahead:
                    refuse_reentry()
                    with occupied():
                        self._read_on(page)
                    break
        view, offset, arena = place
        located = view, offset + slot % frame_pages * self.page_size
        if lasts:
            if len(self.located) >= _LOCATED_MAX:
                self.located.clear()
                self._places.clear()
            if arena is not None and arena not in self._arenas:
                self._arenas = (*self._arenas, arena)
            self._places[source, frame] = place
            self.located[page] = located
            # Unless all places were cleared since the lookup began.
            if self._forgotten != epoch:
                self.forget_located()
        return located

    def _look_up(self, page: int) -> tuple[FrameSource, int] | None:
        if self.table.has_layers:  # A block may have to be fetched.
            refuse_reentry()
        return self.table.find(page)

    def _find_frame(self, page: int, source: FrameSource, frame: int) -> tuple[Place, bool]:
        """Return a frame's place, fetched if needed, and whether it lasts; see `_fetch`."""
        refuse_reentry()
        thread.depth += 1  # Not `occupied`, which costs more than finding a cached frame.
        try:
            place = source.find(frame)
            if place is None:
                source.cache.counters.add("pages_missed")
                return self._fetch(page, source, frame)
            source.cache.counters.pages_found += 1
            self._read_on(page)
        finally:
            thread.depth -= 1
        return place, True

    def forget_located(self) -> None:
        """Forget all places: one of their files is about to be deleted."""
        self._forgotten += 1
        self.located.clear()
        self._places.clear()
        self._arenas = ()

    def check_files(self) -> None:
        """Forget all places if one of their files was truncated: a load would kill the process.

        Called at the beginning of a transaction, unless the last check is recent. One cheap call
        per arena that was read from.
        """
        self.looked_at = monotonic()
        for arena in self._arenas:
            if arena.is_cut():
                self.forget_located()
                return

    def forget_resident(self) -> None:
        """Release mapped pages of the page cache that were read."""
        self._space.forget_resident()

    # Fetching ---------------------------------------------------------------------------------

    def _fetch(self, page: int, source: FrameSource, frame: int) -> tuple[Place, bool]:
        """Fetch one frame, and the next frames if the reads are sequential.

        Returns its place, and whether the place is lasting: a place that no cache keeps must not
        be remembered.
        """
        with self._foreground:
            key = source.origin, frame
            with self._lock:
                requested = self._in_flight.get(key)
                if requested is None or requested[0].done():
                    # A request that is done but still listed may have failed; this miss repeats it.
                    self._request(self._open_window(page))
                    requested = self._in_flight.get(key)
            images: bytes | None = None
            if requested is not None:
                future, number = requested
                # Another frame of the range may be damaged, so this one is requested alone.
                with contextlib.suppress(CorruptObjectError):
                    images = future.result()[number]
            place = source.find(frame)
            if place is None and images is None:
                place = source.fetch_one(frame)
        if place is not None:
            return place, source.cache.has(source.key(frame))
        # A small cache has already evicted it for the other fetched frames.
        assert images is not None
        return Place(memoryview(images), 0), False

    def _read_on(self, page: int) -> None:
        """Request the next window when a sequential read has used half of the last one."""
        for stream in self._streams:
            if stream.trigger <= page < stream.ahead and stream.window_frames > 1:
                with self._lock:
                    self._request(self._extend(stream))
                return

    def _open_window(self, page: int) -> Iterator[FrameRange]:
        """Choose the stream that a missing page continues, or begin a new one."""
        for stream in self._streams:
            if stream.ahead <= page <= stream.ahead + _SLACK_PAGES:
                stream.ahead = page
                return self._extend(stream)
        horizon = Horizon(self.table, self.page_count)
        stream = _Stream(ahead=page, trigger=page, window_frames=0, horizon=horizon)
        self._streams = [stream, *self._streams[: _STREAMS_MAX - 1]]
        return self._extend(stream)

    def _extend(self, stream: _Stream) -> Iterator[FrameRange]:
        stream.window_frames = min(WINDOW_FRAMES_MAX, max(1, stream.window_frames * 2))
        first = stream.ahead
        frames: dict[_SourceFrame, None] = {}
        page = first
        while page <= self.page_count and len(frames) < stream.window_frames:
            if not self.table.is_near(page):
                break  # The miss of this page looks for it, and continues the stream.
            found = self.table.find(page)
            if found is not None:
                source, slot = found
                frame = source.body.frames.frame_of(slot)
                frames.setdefault((source, frame))
            elif page != lock_page(self.page_size):
                break  # A page without an image means damage; there may be billions of them.
            page += 1
        # Include all pages of the last frame, or its remaining pages would be new misses.
        while page <= self.page_count and self.table.is_near(page):
            found = self.table.find(page)
            if found is None:
                break
            source, slot = found
            if (source, source.body.frames.frame_of(slot)) not in frames:
                break
            page += 1
        if stream.window_frames <= _GUESS_FRAMES:
            # Two consecutive misses may be chance. Until there are more, send only one request.
            frames = _joined(frames)
        stream.ahead = page
        stream.trigger = first + (page - first) // 2
        frames |= self._near(stream, first, frames)
        return window_ranges(key for key in frames if self._is_missing(*key))

    def _near(
        self, stream: _Stream, first: int, frames: Iterable[_SourceFrame]
    ) -> dict[_SourceFrame, None]:
        """Return what a long scan reads soon after a window, and one request fetches with that."""
        near: dict[_SourceFrame, None] = {}
        # A smaller cache would evict them before they are read.
        if stream.window_frames >= _LONG_FRAMES and self._space.holds(
            HORIZON_PAGES * self.page_size
        ):
            stream.horizon.look(first)
            for source, frame in frames:
                if len(near) < _NEAR_FRAMES_MAX:
                    near.update(dict.fromkeys(stream.horizon.after(source, frame)))
        return near

    def _is_missing(self, source: FrameSource, frame: int) -> bool:
        """Return True if a frame is neither cached nor in flight; the caller holds the lock."""
        requested = self._in_flight.get((source.origin, frame))
        # A request that is done but still listed has failed, or its frame is in the cache.
        is_on_its_way = requested is not None and not requested[0].done()
        # The current miss has just checked the files.
        return not is_on_its_way and not source.cache.has(source.key(frame))

    def _request(self, ranges: Iterable[FrameRange]) -> None:
        """Start fetching ranges of frames; the caller holds the lock."""
        for source, frames in ranges:
            keys = [(source.origin, frame) for frame in frames]
            future = self._executor().submit(source.fetch, frames)
            for number, key in enumerate(keys):
                self._in_flight[key] = future, number
            future.add_done_callback(functools.partial(self._landed, keys))

    def _landed(self, keys: list[_ObjectFrame], future: Future[list[bytes]]) -> None:
        for key in keys:
            requested = self._in_flight.get(key)
            if requested is not None and requested[0] is future:
                self._in_flight.pop(key, None)
        # A closing engine cancels requests that have not begun.
        error = None if future.cancelled() else future.exception()
        if error is not None:
            # A reader of the frame waits for this future, or repeats the request, and gets the
            # error.
            _logger.debug("fetching %d frames failed: %s", len(keys), error)

    # Whole logs -------------------------------------------------------------------------------

    def frames(self) -> dict[tuple[FrameSource, int], int]:
        """Return every (source, frame) that has live pages, with their number."""
        counts: dict[tuple[FrameSource, int], int] = {}
        for first, end, source, slot in self.table.runs():
            frame_pages = source.body.frames.frame_pages
            page, last = first, min(end, self.page_count + 1)
            while page < last:
                at = slot + page - first
                step = min(last - page, frame_pages - at % frame_pages)
                key = (source, at // frame_pages)
                counts[key] = counts.get(key, 0) + step
                page += step
        return counts

    def hydrate(
        self,
        progress: Callable[[int, int], None] | None = None,
        *,
        goes_on: Callable[[], bool] | None = None,
    ) -> int:
        """Fetch the frames that are not cached; returns the number of pages that this added.

        Requests: see `ranges`. Under a limit of the cache, a database of up to half of it replaces
        what was least recently used; of a larger one only what fits without an eviction is fetched,
        because it would evict what has just been fetched. `progress` is called with (stored bytes
        of frames that are cached, of all). With `goes_on` this is background work, which asks it
        before each of its few requests. Raises the first fetch's error, or LocalStorageError if the
        disk refuses the frames; frames that have arrived stay cached, so that a repetition
        continues.
        """
        counts = self.frames()
        first_missing = missing = self.absent(counts)
        total = sum(source.stored_bytes(frame) for source, frame in counts)
        done = total - sum(source.stored_bytes(frame) for source, frame in missing)

        def arrived(frame_bytes: int) -> None:
            nonlocal done
            done = min(done + frame_bytes, total)
            if progress is not None:
                progress(done, total)

        arrived(0)
        at_once = VERB_RANGES if goes_on is None else BACKGROUND_RANGES
        fits = self.fits_cache(counts)
        for _ in range(_PASSES_MAX):
            ranges: Iterable[FrameRange] = self._divided(missing, fits=fits)[0]
            if goes_on is not None:
                ranges = itertools.takewhile(lambda _: goes_on(), ranges)
            with occupied():
                fetch_ranges(ranges, self._executor, at_once=at_once, arrived=arrived)
            # What was fetched may have evicted frames that were cached before.
            missing = self.absent(counts)
            if not missing or not fits or (goes_on is not None and not goes_on()):
                break
        pages, left = sum(counts.values()), sum(counts[key] for key in missing)
        if left and not fits:
            level = logging.WARNING if goes_on is None else logging.INFO
            room = "log %s: cache_max_bytes has room for %d of %d pages"
            step = "; the others are fetched when they are read"
            _logger.log(level, room + step, self.log_id, pages - left, pages)
        return sum(counts[key] for key in set(first_missing).difference(missing))

    def fits_cache(self, frames: Iterable[_SourceFrame] | None = None) -> bool:
        """Return True if the page cache can hold some frames, by default all."""
        chosen = self.frames() if frames is None else frames
        return self._space.holds(sum(source.frame_bytes(frame) for source, frame in chosen))

    def _divided(
        self, frames: Iterable[_SourceFrame], *, fits: bool
    ) -> tuple[list[FrameRange], list[FrameRange]]:
        """Return the ranges of some frames that the cache may keep, and the others."""
        ranges = whole_ranges(frames)
        return (ranges, []) if fits else fitting(ranges, self._space.free_bytes())

    def stream(
        self,
        frames: Collection[_SourceFrame],
        take: Callable[[FrameSource, int, bytes], None],
        arrived: Callable[[int], None],
    ) -> None:
        """Fetch frames and give each to `take`, in any order and in other threads.

        Those for which the cache has room without an eviction are cached. Requests, `arrived` and
        errors as `fetch_ranges`, and what `take` raises.
        """

        def fetch(keeps: bool, found: FrameRange, note: Callable[[int], None]) -> None:
            source = found.source

            def give(frame: int, images: bytes) -> None:
                take(source, frame, images)
                note(source.stored_bytes(frame))

            source.stream(found.frames, give, keeps=keeps)

        kept, others = self._divided(frames, fits=self.fits_cache())
        with occupied(), self._foreground:
            for ranges, keeps in (kept, True), (others, False):
                fetched = functools.partial(fetch, keeps)
                fetch_ranges(ranges, self._executor, fetch=fetched, arrived=arrived)

    def prefetch(self, pages: Iterable[int]) -> None:
        """Fetch the frames of some pages that are not cached, as far as the cache can keep them."""
        frames = self._frames_of(pages)
        ranges, _ = self._divided(self.absent(frames), fits=self.fits_cache(frames))
        with occupied(), self._foreground:
            fetch_ranges(ranges, self._executor)

    def fetch_pages(self, pages: Iterable[int]) -> None:
        """Fetch the frames of some pages that are not here, as `fetch` does."""
        frames = self._frames_of(pages)
        self.fetch([(source, frame) for source, frame in frames if source.find(frame) is None])

    def _frames_of(self, pages: Iterable[int]) -> dict[_SourceFrame, None]:
        frames: dict[_SourceFrame, None] = {}
        for page in pages:
            found = self.table.find(page)
            if found is not None:
                source, slot = found
                frames.setdefault((source, source.body.frames.frame_of(slot)))
        return frames

    def fetch(
        self, frames: Iterable[_SourceFrame], arrived: Callable[[int], None] | None = None
    ) -> None:
        """Fetch frames into the page cache; requests, `arrived` and errors as `fetch_ranges`."""
        with occupied(), self._foreground:
            fetch_ranges(whole_ranges(frames), self._executor, arrived=arrived)

    def absent(self, frames: Iterable[_SourceFrame]) -> list[_SourceFrame]:
        """Return the frames that are not cached. No request."""
        present: dict[PageCache, set[FrameKey]] = {}
        absent = []
        for source, frame in frames:
            if source.cache not in present:
                present[source.cache] = source.cache.present()
            if source.key(frame) not in present[source.cache]:
                absent.append((source, frame))
        return absent

    def pages_present(self) -> tuple[int, int]:
        """Return (cached pages, pages that have an image). No request."""
        counts = self.frames()
        total = sum(counts.values())
        return total - sum(counts[key] for key in self.absent(counts)), total


def _joined(frames: Iterable[tuple[FrameSource, int]]) -> dict[tuple[FrameSource, int], None]:
    """Return the first frame, and the frames that one range read can fetch with it."""
    taken: dict[tuple[FrameSource, int], None] = {}
    for source, frame in frames:
        if taken and (source, frame - 1) not in taken:
            break
        taken[source, frame] = None
    return taken
