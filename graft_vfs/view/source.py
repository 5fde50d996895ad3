"""A source of frames: the place of page images on the remote, and in the page cache."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import ExpiredError, ObjectMissingError
from graft_vfs.format.frame import checksum_of, encode_frame
from graft_vfs.format.sparse_frames import SparseFrames
from graft_vfs.format.table import Source
from graft_vfs.ids import LogId
from graft_vfs.local.cache.arena import FrameKey
from graft_vfs.local.cache.page_cache import Filling, PageCache, Place
from graft_vfs.reentry import occupied
from graft_vfs.remote.body import Body
from graft_vfs.remote.floor import read_floor
from graft_vfs.store.base import ObjectStore


@dataclass(frozen=True, slots=True, eq=False)
class FrameSource:
    """The frames of one object with pages of a log.

    `origin` says which object that is, and of which log. The page table maps pages to slots of the
    body. `store` returns where the object is now. Thread rule: any thread.
    """

    origin: Source
    body: Body
    store: Callable[[], ObjectStore]
    cache: PageCache

    @property
    def log_id(self) -> LogId:
        """The log whose page cache has the frames."""
        return self.origin.log_id

    @property
    def id(self) -> bytes:
        """The key of the frames in the page cache; equal ids in one log mean equal images."""
        return self.origin.id

    def cached(self, frame: int) -> bytes | None:
        """Return the images of a frame if they are cached. No request."""
        place = self.find(frame)
        if place is None:
            return None
        return bytes(place.view[place.offset : place.offset + self.frame_bytes(frame)])

    def key(self, frame: int) -> FrameKey:
        """Return a frame's key in the page cache."""
        return FrameKey(self.id, frame)

    def find(self, frame: int) -> Place | None:
        """Return a frame's place in the page cache, or None. No request."""
        return self.cache.find(self.key(frame), self.frame_bytes(frame))

    def frame_bytes(self, frame: int) -> int:
        """Return the length of a frame's images in bytes."""
        return self.body.pages_in_frame(frame) * self.body.page_size

    def stored_bytes(self, frame: int) -> int:
        """Return how many bytes a frame has on the remote."""
        return self.body.frames.byte_range(frame, frame + 1)[1]

    def is_frame(self, frame: int, images: Sequence[bytes]) -> bool:
        """Return True if these images compress to the bytes of a frame, by its checksum.

        No request. False proves nothing: another version of zstd may have compressed it.
        """
        data = encode_frame(images)
        is_as_long = len(data) == self.stored_bytes(frame)
        return is_as_long and checksum_of(data) == self.body.frames.checksum(frame)

    def fetch(self, frames: Sequence[int]) -> list[bytes]:
        """Fetch frames, ascending, cache them and return them. One range read."""
        with occupied():
            with self._told_from_expiry():
                found = self.body.read(self.store(), frames)
            with self.cache.filling() as filling:
                for frame, images in zip(frames, found, strict=True):
                    filling.add(self.key(frame), images)
            self._count(found)
        return found

    def fetch_one(self, frame: int) -> Place:
        """Fetch one frame and return its place, before other frames can evict it."""
        with self._told_from_expiry():
            (images,) = frames = self.body.read(self.store(), [frame])
        self._count(frames)
        return self.cache.add(self.key(frame), images)

    def keep(self, frames: Sequence[int], arrived: Callable[[int], None]) -> None:
        """Fetch frames, ascending, and cache each as it arrives. One range read.

        `arrived` is called with the stored bytes of each; what it raises ends the read. Raises
        LocalStorageError if the disk refuses a frame.
        """
        filling: Filling

        def take(frame: int, _: bytes) -> None:
            if filling.failure is not None:
                raise filling.failure
            arrived(self.stored_bytes(frame))

        with occupied(), self.cache.filling() as filling:
            self._stream(frames, take, filling)
        if filling.failure is not None:
            raise filling.failure

    def stream(
        self, frames: Sequence[int], take: Callable[[int, bytes], None], *, keeps: bool
    ) -> None:
        """Fetch frames, ascending, and give each to `take` as it arrives. One range read.

        With `keeps` they are cached too, unless the disk refuses that. What `take` raises ends the
        read.
        """
        with occupied(), self.cache.filling() as filling:
            self._stream(frames, take, filling if keeps else None)

    def _stream(
        self, frames: Sequence[int], take: Callable[[int, bytes], None], filling: Filling | None
    ) -> None:
        def arrived(frame: int, images: bytes) -> None:
            if filling is not None:
                filling.add(self.key(frame), images)
            self._count([images])
            take(frame, images)

        with self._told_from_expiry():
            self.body.stream(self.store(), frames, arrived)

    @contextlib.contextmanager
    def _told_from_expiry(self) -> Iterator[None]:
        """Raise ExpiredError if an object is missing because of its log's retention."""
        try:
            yield
        except ObjectMissingError as error:
            floor = read_floor(self.store(), self.log_id)
            if not floor.lsn:
                raise
            raise ExpiredError(
                f"{self.body.name} of log {self.log_id} was deleted by the log's retention, and "
                "not all of its pages are on this machine",
                next_step=Hint(
                    f"LSN {floor.lsn + 1} and later ones are there: ",
                    Advice.CLONE_OVER(LOG=self.log_id),
                    " gets the newest",
                ),
            ) from error

    def _count(self, frames: list[bytes]) -> None:
        counters = self.cache.counters
        counters.add("frames_fetched", len(frames))
        counters.add("pages_fetched", sum(map(len, frames)) // self.body.page_size)


def joined(sources: Sequence[FrameSource]) -> FrameSource:
    """Return one source with the frames that several of one object know."""
    for source in sources:
        if not isinstance(source.body.frames, SparseFrames):
            return source  # Which knows all.
    if len(sources) == 1:
        return sources[0]
    parts = (each.body.frames for each in sources if isinstance(each.body.frames, SparseFrames))
    body = replace(sources[0].body, frames=SparseFrames.joined(parts))
    return replace(sources[0], body=body)
