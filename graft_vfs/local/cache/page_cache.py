"""The page cache: decompressed frames of one remote log, on the local disk.

The cache of a log is a series of arenas (`arena`) in its own folder; the caches of all logs share a
size limit (`space`).

Invariants:
 1. A frame is identified by the name of its source and its number. A commit's name includes part of
    its hash, so pages of an abandoned history are never returned, even after a backup was restored.
 2. A frame counts as present only after its images were verified against its record: when this
    process wrote them, or at first use. So if a power cut keeps the record but loses the images,
    this costs a fetch and never gives a wrong page. The cache is never synced.
 3. The cache never causes a failure. Frames that cannot be kept on disk are kept in memory, up to a
    limit, and unreadable frames count as absent.

All of it may be deleted at any time, even while in use; frames are then fetched again.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from graft_vfs.errors import LocalStorageError
from graft_vfs.local import layout, ownership
from graft_vfs.local.cache.arena import (
    Appender,
    Arena,
    FrameKey,
    Record,
)
from graft_vfs.local.cache.space import CacheSpace
from graft_vfs.local.files import storage_errors
from graft_vfs.local.mapping import View
from graft_vfs.reentry import occupied

_logger = logging.getLogger(__name__)

_ATTEMPTS = 8
_BATCH_BYTES = 1 << 20


class Place(NamedTuple):
    """The place of a frame's images; `arena`, if any, must not be truncated during use."""

    view: View
    offset: int
    arena: Arena | None = None


class PageCache:
    """The cached frames of one remote log.

    Owner: the engine, one per log. Thread rule: any thread; processes share the files. A thread
    that holds the lock is occupied, because fetches end in other threads, which need the lock.
    """

    def __init__(self, directory: Path, space: CacheSpace | None = None) -> None:
        """Use the cache at `directory`, a folder of the space. No I/O."""
        self.directory = directory
        self.space = space or CacheSpace(directory.parent)
        self.counters = self.space.counters
        self._lock = self.space.lock
        self._arenas: dict[int, Arena] = {}
        # The arena's number, the record, and whether the images are verified.
        self._frames: dict[FrameKey, tuple[int, Record, bool]] = {}
        self._names: list[str] = []
        self._is_warned = False
        self.space.add_cache(self)

    # Finding ----------------------------------------------------------------------------------

    def find(self, key: FrameKey, length: int) -> Place | None:
        """Return the place of a frame's verified images, or None. No request, no error.

        `length` is the length of the images in bytes; a record with another length is ignored.
        """
        with occupied(), self._lock:
            place = self._look(key, length)
            if place is None:
                self._refresh()
                place = self._look(key, length)
            return place

    def has(self, key: FrameKey) -> bool:
        """Return True if this process has seen the frame in the cache. No I/O."""
        with occupied(), self._lock:
            return key in self._frames or self.space.remembered(self.directory, key) is not None

    def _look(self, key: FrameKey, length: int) -> Place | None:
        images = self.space.remembered(self.directory, key)
        if images is not None and len(images) == length:
            return Place(memoryview(images), 0)
        known = self._frames.get(key)
        if known is None:
            return None
        number, record, is_verified = known
        arena = self._arenas.get(number)
        if arena is None or arena.is_cut():
            self.forget_arena(number)
            self._frames.pop(key, None)
            return None
        place = self._verified(arena, record, is_verified) if record.length == length else None
        if place is None:
            del self._frames[key]
        return place

    def _verified(self, arena: Arena, record: Record, is_verified: bool) -> Place | None:
        arena.note_use()
        if not self.space.maps:
            images = arena.read(record)
            if images is None or xxh3_64_intdigest(images) != record.checksum:
                return None
            self.space.remember(self.directory, record.key, images)
            return Place(memoryview(images), 0)
        if not is_verified and not arena.verify(record):
            return None
        former = arena.view
        try:
            if not arena.map_to(record.offset + record.length):
                return None
        except LocalStorageError as error:
            self._warn(error)
            return None
        if former is not arena.view and isinstance(former, memoryview):
            self.space.note_superseded(former)
        self._frames[record.key] = (arena.number, record, True)
        return Place(arena.view, record.offset, arena)

    def present(self) -> set[FrameKey]:
        """Return all cached frames, verified or not."""
        with occupied(), self._lock:
            self._refresh()
            return {*self._frames, *self.space.remembered_keys(self.directory)}

    def _refresh(self) -> None:
        """Read what other processes cached, and forget deleted arenas."""
        for number, arena in list(self._arenas.items()):
            if arena.is_deleted():
                self.forget_arena(number)
        self._names = []
        try:
            names = [path.name for path in self.directory.iterdir()]
        except OSError:
            return  # Nothing is cached, or nothing is readable.
        self._names = [name for name in names if layout.arena_kind(name)]
        for name in self._names:
            number = layout.number_of(name)
            if layout.arena_kind(name) == layout.INDEX and number not in self._arenas:
                self._open(number)
        for arena in list(self._arenas.values()):
            self._read_records(arena)

    def _open(self, number: int) -> None:
        try:
            self._arenas[number] = Arena(self.directory, number, maps=self.space.maps)
        except LocalStorageError as error:
            _logger.debug("page cache %s: %s", self.directory.name, error)

    def _read_records(self, arena: Arena) -> None:
        try:
            for record in arena.new_records():
                self._frames.setdefault(record.key, (arena.number, record, False))
        except LocalStorageError as error:
            _logger.debug("page cache %s: %s", self.directory.name, error)

    def forget_arena(self, number: int) -> int:
        """Forget a deleted arena; returns the size of its images in bytes."""
        with occupied(), self._lock:
            arena = self._arenas.pop(number, None)
            if arena is None:
                return 0
            self._frames = {key: at for key, at in self._frames.items() if at[0] != number}
            self.space.forget_located()
            return arena.tail

    def arena_used(self, number: int) -> float | None:
        """Return when this process last used an arena, None if the arena is unknown."""
        arena = self._arenas.get(number)
        return None if arena is None else arena.used

    # Adding -----------------------------------------------------------------------------------

    def add(self, key: FrameKey, images: bytes) -> Place:
        """Cache a frame's images if possible; in any case, return their place."""
        with occupied(), self._lock:  # Otherwise other threads could evict them first.
            self.add_all(key, [images])
            return self.find(key, len(images)) or Place(memoryview(images), 0)

    def add_all(self, first: FrameKey, frames: Iterable[bytes]) -> LocalStorageError | None:
        """Cache adjacent frames of one commit, in order, beginning with the given one.

        Returns None if all are on disk. Otherwise returns the error; the remaining frames are in
        memory, up to its limit.
        """
        with self.filling() as filling:
            for number, images in enumerate(frames, first.frame):
                filling.add(first._replace(frame=number), images)
        return filling.failure

    @contextlib.contextmanager
    def filling(self) -> Iterator[Filling]:
        """Cache what is added inside the block, also if it ends with an error."""
        filling = Filling(self)
        try:
            yield filling
        finally:
            filling.flush()

    def keep(self, batch: deque[tuple[FrameKey, bytes]]) -> LocalStorageError | None:
        """Append frames to arenas; frames that do not fit stay in memory. Empties the batch."""
        failure: LocalStorageError | None = None
        with occupied(), self._lock:
            try:
                while batch:
                    if not self.space.writable:
                        raise _refused(self.directory)
                    with contextlib.ExitStack() as stack:
                        self._fill(self._appender(stack), batch)
                self._is_warned = False
            except LocalStorageError as error:
                failure = error
                self._warn(error)
            while batch:
                self.space.remember(self.directory, *batch.popleft())
        return failure

    def _fill(self, appender: Appender, batch: deque[tuple[FrameKey, bytes]]) -> None:
        """Append frames until the arena is full or none is left; raises LocalStorageError."""
        arena, space = appender.arena, self.space
        while batch and arena.tail < space.arena_bytes:
            key, images = batch[0]
            growth = appender.growth(len(images), most=space.arena_bytes)
            if not space.make_room(growth, keep=arena.index_path):
                raise LocalStorageError(
                    f"{self.directory}: cache_max_bytes = {space.bytes_max} has no space for a "
                    f"frame of {len(images)} bytes",
                    next_step="raise cache_max_bytes",
                )
            self._frames[key] = (arena.number, appender.append(key, images, growth=growth), True)
            batch.popleft()

    def _appender(self, stack: contextlib.ExitStack) -> Appender:
        """Return the newest arena with space that no other process appends to, or a new one.

        Raises LocalStorageError.
        """
        for _ in range(_ATTEMPTS):
            self._refresh()
            for number in sorted(self._arenas, reverse=True):
                arena = self._arenas[number]
                if arena.tail < self.space.arena_bytes:
                    appender = self._try_appending(arena, stack)
                    if appender is not None:
                        return appender
            self._create()
        raise LocalStorageError(
            f"{self.directory}: its files are deleted as fast as they are created",
            next_step="find the program that deletes them",
        )

    def _try_appending(self, arena: Arena, stack: contextlib.ExitStack) -> Appender | None:
        with contextlib.ExitStack() as held:
            try:
                appender = held.enter_context(arena.appending())
            except LocalStorageError as error:
                # It may belong to another user; a new arena belongs to this process.
                _logger.debug("page cache %s: %s", self.directory.name, error)
                return None
            if appender is None:
                return None
            self._read_records(arena)
            if not arena.is_whole or arena.tail >= self.space.arena_bytes:
                return None
            stack.push(held.pop_all())
            return appender

    def _create(self) -> None:
        """Create an arena, and its folders if missing; raises LocalStorageError."""
        with storage_errors(self.directory):
            for folder in (self.directory.parent, self.directory):
                ownership.make_directory(folder)
        for name in self._names:
            if layout.arena_kind(name) in layout.FORMER_KINDS:
                with contextlib.suppress(OSError):
                    (self.directory / name).unlink()
        number = 1 + max(map(layout.number_of, self._names), default=0)
        # The files of a former one were deleted just now; its places are not those of the new one.
        self.forget_arena(number)
        with contextlib.suppress(FileExistsError):
            # Otherwise another process was first, and the next lookup finds its arena.
            self._arenas[number] = Arena.create(self.directory, number, maps=self.space.maps)

    def _warn(self, error: LocalStorageError) -> None:
        """Log why frames are not kept on disk, once until it works again."""
        if not self._is_warned and self.space.writable:
            self._is_warned = True
            _logger.warning("page cache %s: not kept on disk: %s", self.directory.name, error)

    # The rest ---------------------------------------------------------------------------------

    def size_bytes(self) -> int:
        """Return the size of the images on disk that this process has seen, in bytes."""
        with occupied(), self._lock:
            return sum(arena.tail for arena in self._arenas.values())

    def forget_resident(self) -> None:
        """Release mapped pages that were read, and arenas that another process deleted."""
        with occupied(), self._lock:
            for number, arena in list(self._arenas.items()):
                if arena.is_deleted():
                    self.forget_arena(number)
                else:
                    arena.forget_resident()

    def close(self) -> None:
        """Forget the files; mappings stay valid as long as readers hold them."""
        with occupied(), self._lock:
            self._arenas.clear()
            self._frames.clear()


class Filling:
    """Frames on their way into a cache, which takes a megabyte at a time. Owner: one thread."""

    def __init__(self, cache: PageCache) -> None:
        self.failure: LocalStorageError | None = None
        self._cache = cache
        self._batch: deque[tuple[FrameKey, bytes]] = deque()
        self._bytes = 0

    def add(self, key: FrameKey, images: bytes) -> None:
        """Add a frame; `failure` is then the error if an earlier one is not on disk."""
        self._batch.append((key, images))
        self._bytes += len(images)
        if self._bytes >= _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Cache all frames that were added."""
        self.failure = self._cache.keep(self._batch) or self.failure
        self._bytes = 0


def _refused(directory: Path) -> LocalStorageError:
    return LocalStorageError(
        f"{directory}: the data directory is not writable",
        next_step="check its owner and its permissions; pages are fetched when they are read",
    )
