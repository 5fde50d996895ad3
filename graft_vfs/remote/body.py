"""The part of an object that holds page images: the frames of a commit, inline or in a segment."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from graft_vfs.errors import CorruptObjectError
from graft_vfs.format.frame import Frames, decode_frame
from graft_vfs.store.base import ObjectStore


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """Consecutive frames in the object `key`, beginning at byte `offset`.

    They hold `slots` pages in total; only the last frame may hold fewer than the others. `name` is
    the owner of the frames, for errors. Thread rule: any thread.
    """

    name: str
    key: str
    offset: int
    frames: Frames
    slots: int
    page_size: int

    @property
    def frame_count(self) -> int:
        """The number of frames in the object, of which `frames` may lack superseded ones."""
        return -(-self.slots // self.frames.frame_pages)

    def pages_in_frame(self, frame: int) -> int:
        """Return the number of pages in a frame."""
        return min(self.frames.frame_pages, self.slots - frame * self.frames.frame_pages)

    def read(self, store: ObjectStore, frames: Sequence[int]) -> list[bytes]:
        """Return the page images of some frames, ascending, one run of pages per frame.

        One range read, with the bytes between them. Raises CorruptObjectError if a frame does not
        match the table, ObjectMissingError if the object does not exist.
        """
        if not frames:
            return []
        start, length = self._span(frames)
        data = store.get_range(self.key, self.offset + start, length)
        if len(data) != length:
            raise self._truncated(frames, length, len(data))
        return list(self.decoded(memoryview(data), frames))

    def stream(
        self, store: ObjectStore, frames: Sequence[int], take: Callable[[int, bytes], None]
    ) -> None:
        """Give `take` each of some frames, ascending, with its page images, as it arrives.

        As `read`, with one frame in memory at a time. What `take` raises ends the read.
        """
        start, length = self._span(frames)
        data, at = bytearray(), start
        waiting = deque((frame, *self.frames.byte_range(frame, frame + 1)) for frame in frames)

        def arrived(piece: bytes) -> None:
            nonlocal at
            data.extend(piece)
            while waiting and waiting[0][1] + waiting[0][2] <= at + len(data):
                frame, first, size = waiting.popleft()
                take(frame, self._images(frame, bytes(data[first - at : first - at + size])))
            # Also the bytes between two frames.
            needed = waiting[0][1] if waiting else start + length
            passed = min(len(data), needed - at)
            del data[:passed]
            at += passed

        got = store.stream_range(self.key, self.offset + start, length, arrived)
        if got != length:
            raise self._truncated(frames, length, got)

    def _span(self, frames: Sequence[int]) -> tuple[int, int]:
        """Return (offset, length) in bytes of the part of the body that has these frames."""
        start, _ = self.frames.byte_range(frames[0], frames[0] + 1)
        last, length = self.frames.byte_range(frames[-1], frames[-1] + 1)
        return start, last + length - start

    def _truncated(self, frames: Sequence[int], length: int, got: int) -> CorruptObjectError:
        return CorruptObjectError(
            f"{self.key}: truncated to {got} bytes; frames {frames[0]} to {frames[-1]} have "
            f"{length}",
            next_step="restore the object from a replica or a backup",
        )

    def decoded(self, data: memoryview, frames: Sequence[int]) -> Iterator[bytes]:
        """Yield the page images of some frames, the first of which is at the start of `data`.

        Raises CorruptObjectError if a frame does not match the table.
        """
        for frame in frames:
            base, _ = self.frames.byte_range(frames[0], frames[0] + 1)
            start, length = self.frames.byte_range(frame, frame + 1)
            yield self._images(frame, data[start - base : start - base + length])

    def _images(self, frame: int, data: bytes | memoryview) -> bytes:
        return decode_frame(
            data,
            page_size=self.page_size,
            page_count=self.pages_in_frame(frame),
            checksum=self.frames.checksum(frame),
            name=f"{self.key} frame {frame} of {self.name}",
        )
