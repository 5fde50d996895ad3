"""A source of frames: where page images are on the remote, and where they are kept here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graft_vfs.errors import LocalStorageError
from graft_vfs.format.frame import checksum_of, encode_frame
from graft_vfs.ids import LogId
from graft_vfs.local.cache.arena import FrameKey
from graft_vfs.local.cache.page_cache import PageCache, Place
from graft_vfs.reentry import occupied
from graft_vfs.remote.body import Body
from graft_vfs.store.base import ObjectStore


@dataclass(frozen=True, slots=True, eq=False)
class FrameSource:
    """The frames of one object that pages of a log are read from.

    `id` is what the page cache of `log` calls them; equal ids in one log are the same images. Which
    page is in which slot of the body, the page table knows. Thread rule: any thread.
    """

    log_id: LogId
    id: bytes
    body: Body
    store: ObjectStore
    cache: PageCache

    def cached(self, frame: int) -> bytes | None:
        """Return the images of a frame if they are on this machine. No request."""
        place = self.find(frame)
        if place is None:
            return None
        return bytes(place.view[place.offset : place.offset + self.frame_bytes(frame)])

    def key(self, frame: int) -> FrameKey:
        """Return what the page cache calls a frame."""
        return FrameKey(self.id, frame)

    def find(self, frame: int) -> Place | None:
        """Return where a frame is on this machine, or None. No request."""
        return self.cache.find(self.key(frame), self.frame_bytes(frame))

    def frame_bytes(self, frame: int) -> int:
        """Return the length of a frame's images in bytes."""
        return self.body.pages_in_frame(frame) * self.body.page_size

    def is_frame(self, frame: int, images: Sequence[bytes]) -> bool:
        """Return True if these images compress to the bytes of a frame, by its checksum.

        No request. False proves nothing: another version of zstd may have compressed it.
        """
        data = encode_frame(images)
        is_as_long = len(data) == self.body.frames.sizes[frame]
        return is_as_long and checksum_of(data) == self.body.frames.checksum(frame)

    def fetch(self, first: int, end: int) -> list[bytes]:
        """Fetch frames first..end (half-open), keep them and return them. One range read."""
        return self._fetch(first, end)[0]

    def fetch_one(self, frame: int) -> Place:
        """Fetch one frame and return where it is; others cannot take its room before that."""
        (images,) = frames = self.body.read(self.store, frame, frame + 1)
        self._count(frames)
        return self.cache.add(self.key(frame), images)

    def keep(self, first: int, end: int) -> LocalStorageError | None:
        """Fetch frames and return what keeps them from being on the disk, if anything does."""
        return self._fetch(first, end)[1]

    def _fetch(self, first: int, end: int) -> tuple[list[bytes], LocalStorageError | None]:
        with occupied():
            frames = self.body.read(self.store, first, end)
            failure = self.cache.add_all(self.key(first), frames)
            self._count(frames)
        return frames, failure

    def _count(self, frames: list[bytes]) -> None:
        counters = self.cache.counters
        counters.add("frames_fetched", len(frames))
        counters.add("pages_fetched", sum(map(len, frames)) // self.body.page_size)
