"""The space that the page caches of all logs share, on disk and in memory.

The disk has the arenas of all logs, including those of other processes and of logs that are not in
use. Before an arena grows or is created, the least recently used others are deleted, so that all
files together stay within the limit. Processes do not wait for each other: each deletion leaves two
64ths of the limit free, and a process checks all files again once it has grown by one 64th.

Memory has the frames that cannot be kept on disk, because it is full or not writable, and those of
a cache that may not map its files. They have a separate limit.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import threading
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple, Protocol

from graft_vfs.counters import Counters
from graft_vfs.local import layout
from graft_vfs.local.cache.arena import FrameKey
from graft_vfs.reentry import occupied

_logger = logging.getLogger(__name__)

_ARENA_BYTES_MAX = 1 << 30
_ARENAS_PER_CACHE = 8
_SUPERSEDED_MAX = 64
_LOOKS_PER_BOUND = 64
"""How often a process checks all files while it fills the limit once."""
_MEMORY_BYTES_MAX = 64 << 20
_MEMORY_BYTES_MIN = 4 << 20
"""The size of the largest frame, so that its pages do not cost one request each."""


class Reader(Protocol):
    """A reader that remembers places in the page cache."""

    def forget_located(self) -> None:
        """Forget all places: their mappings are about to be released."""
        ...


class Tenant(Protocol):
    """The cache of one log, with its arenas in `directory`. Called under the space's lock."""

    directory: Path

    def arena_used(self, number: int) -> float | None:
        """Return when this process last used an arena, as a file time; None if it has none."""
        ...

    def forget_arena(self, number: int) -> int:
        """Close an arena that was deleted, and return its size in bytes."""
        ...

    def forget_resident(self) -> None:
        """Release mapped pages that were read."""
        ...


class _Pair(NamedTuple):
    """The files of an arena, as found by the last check of the directories."""

    used: float
    directory: Path
    number: int
    bytes: int


class CacheSpace:
    """The size limit and the memory of all page caches of an engine.

    Owner: the engine. Thread rule: any thread; all caches share `lock`, so that one can delete
    arenas of another. A thread is `occupied` before it takes the lock: if a signal handler read a
    page at that moment, other threads would fetch it and wait for this lock forever.
    """

    def __init__(
        self,
        directory: Path,
        *,
        bytes_max: int | None = None,
        writable: bool = True,
        maps: bool = True,
        counters: Counters | None = None,
    ) -> None:
        """Use the space at `directory`, which has a folder for each log. No I/O."""
        self.directory = directory
        self.bytes_max = bytes_max
        self.writable = writable
        self.maps = maps
        self.counters = counters or Counters()
        self.lock = threading.RLock()
        self._caches: weakref.WeakSet[Tenant] = weakref.WeakSet()
        self._readers: weakref.WeakSet[Reader] = weakref.WeakSet()
        self._superseded: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self._memory: OrderedDict[tuple[Path, FrameKey], bytes] = OrderedDict()
        self._memory_bytes = 0
        # The result of the last check of all files, and this process's growth since then.
        self._seen_bytes, self._unseen_bytes = 0, bytes_max or 0

    @property
    def arena_bytes(self) -> int:
        """The size of an arena: an eighth of the limit, so that each eviction is small."""
        if self.bytes_max is None:
            return _ARENA_BYTES_MAX
        return max(1, min(_ARENA_BYTES_MAX, self.bytes_max // _ARENAS_PER_CACHE))

    def add_cache(self, cache: Tenant) -> None:
        """Count a cache while it is in use."""
        with occupied(), self.lock:
            self._caches.add(cache)

    def add_reader(self, reader: Reader) -> None:
        """Notify a reader when to forget its places, while the reader is in use."""
        with occupied(), self.lock:
            self._readers.add(reader)

    def forget_located(self) -> None:
        """Make all readers forget their places, so that nothing keeps deleted files alive."""
        with occupied(), self.lock:
            for reader in list(self._readers):
                reader.forget_located()

    def forget_resident(self) -> None:
        """Release mapped pages that were read, and arenas that another process deleted."""
        with occupied(), self.lock:
            for cache in list(self._caches):
                cache.forget_resident()

    def note_superseded(self, view: memoryview) -> None:
        """Count a mapping that a longer one replaces; places that readers remember keep it alive.

        Each mapping has a descriptor, so readers forget their places if there are too many.
        """
        if isinstance(view.obj, mmap.mmap):
            with occupied(), self.lock:
                self._superseded.add(view.obj)
                if len(self._superseded) > _SUPERSEDED_MAX:
                    self.forget_located()

    # The disk ---------------------------------------------------------------------------------

    def make_room(self, needed: int, *, keep: Path | None) -> bool:
        """Delete least recently used arenas until `needed` more bytes are within the bound.

        `keep` is the index of the arena that will grow. False if there is not enough space.
        """
        if self.bytes_max is None:
            return True
        with occupied(), self.lock:
            unseen = self._unseen_bytes + needed
            is_little = unseen <= self.bytes_max // _LOOKS_PER_BOUND
            if is_little and self._seen_bytes + unseen <= self.bytes_max:
                self._unseen_bytes = unseen
                return True
            return self._evict(needed, keep, self.bytes_max)

    def holds(self, image_bytes: int) -> bool:
        """Return True if so many bytes of images can all stay cached, by evicting others."""
        return self.bytes_max is None or image_bytes <= self.bytes_max // 2

    def free_bytes(self) -> int:
        """Return how many bytes of images can be added without evicting any.

        A quarter of the limit is left to readers, and to arenas that grow in steps.
        """
        assert self.bytes_max is not None
        with occupied(), self.lock:
            return self.bytes_max * 3 // 4 - sum(pair.bytes for pair in self._pairs())

    def _evict(self, needed: int, keep: Path | None, bytes_max: int) -> bool:
        """Check all arenas and delete as many as needed; see `make_room`."""
        # Other processes may grow until their next check.
        bound = max(needed, bytes_max - 2 * bytes_max // _LOOKS_PER_BOUND)
        pairs = sorted(self._pairs())
        total = sum(pair.bytes for pair in pairs)
        for pair in pairs:
            if total + needed <= bound:
                break
            if layout.arena_file(pair.directory, pair.number, layout.INDEX) != keep:
                self._delete(pair)
                total -= pair.bytes
        self._seen_bytes, self._unseen_bytes = total, needed
        return total + needed <= bytes_max

    def _pairs(self) -> list[_Pair]:
        """Return the arenas of all logs; arenas deleted in the meantime are skipped."""
        known = {cache.directory: cache for cache in list(self._caches)}
        found: dict[tuple[str, int], tuple[float, int]] = {}
        with contextlib.suppress(OSError), os.scandir(self.directory) as logs:
            for log in logs:
                with contextlib.suppress(OSError), os.scandir(log.path) as files:
                    for file in files:
                        kind = layout.arena_kind(file.name)
                        if kind is not None:
                            status = file.stat(follow_symlinks=False)
                            key = log.path, layout.number_of(file.name)
                            used, size = found.get(key, (0.0, 0))
                            is_former = kind in layout.FORMER_KINDS
                            used = max(used, 0.0 if is_former else status.st_mtime)
                            found[key] = used, size + status.st_size
        pairs = []
        for (log_path, number), (used, size) in found.items():
            directory = Path(log_path)
            cache = known.get(directory)
            own = None if cache is None else cache.arena_used(number)
            pairs.append(_Pair(max(used, own or 0.0), directory, number, size))
        return pairs

    def _delete(self, pair: _Pair) -> None:
        """Delete an arena; its frames are fetched again when needed."""
        for kind in layout.INDEX, layout.IMAGES, *layout.FORMER_KINDS:
            with contextlib.suppress(OSError):
                layout.arena_file(pair.directory, pair.number, kind).unlink(missing_ok=True)
        evicted = pair.bytes
        for cache in list(self._caches):
            if cache.directory == pair.directory:
                evicted = cache.forget_arena(pair.number) or evicted
        self.counters.add("arenas_evicted")
        self.counters.add("bytes_evicted", evicted)
        _logger.info(
            "page cache %s: evicted %d bytes, the least recently used", pair.directory.name, evicted
        )

    # Memory -----------------------------------------------------------------------------------

    def remember(self, directory: Path, key: FrameKey, images: bytes) -> None:
        """Keep a frame of the cache at `directory` in memory; others may be evicted."""
        with occupied(), self.lock:
            self._memory_bytes += len(images) - len(self._memory.get((directory, key), b""))
            self._memory[directory, key] = images
            bound = min(self.bytes_max or _MEMORY_BYTES_MAX, _MEMORY_BYTES_MAX)
            bound = max(bound, _MEMORY_BYTES_MIN)
            if self._memory_bytes <= bound:
                return
            # Several at a time, because each eviction makes all readers forget their places.
            while self._memory_bytes > bound - bound // 8 and len(self._memory) > 1:
                _, images = self._memory.popitem(last=False)
                self._memory_bytes -= len(images)
            self.forget_located()

    def remembered(self, directory: Path, key: FrameKey) -> bytes | None:
        """Return a frame that is in memory, and record its use."""
        if not self._memory:
            return None
        with occupied(), self.lock:
            images = self._memory.get((directory, key))
            if images is not None:
                self._memory.move_to_end((directory, key))
            return images

    def remembered_keys(self, directory: Path) -> set[FrameKey]:
        """Return the frames of one cache that are in memory."""
        with occupied(), self.lock:
            return {key for place, key in self._memory if place == directory}

    @property
    def memory_bytes(self) -> int:
        """The size of the images in memory, in bytes."""
        return self._memory_bytes

    def close(self) -> None:
        """Forget all frames in memory."""
        with occupied(), self.lock:
            self._memory.clear()
            self._memory_bytes = 0
