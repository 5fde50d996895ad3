"""The part of an object that holds page images: the frames of a commit, inline or in a segment."""

from __future__ import annotations

from collections.abc import Iterator
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

    def read(self, store: ObjectStore, first: int, end: int) -> list[bytes]:
        """Return the page images of the frames [first, end), one run of pages per frame.

        One range read. Raises CorruptObjectError if a frame does not match the table,
        ObjectMissingError if the object does not exist.
        """
        if first == end:
            return []
        start, length = self.frames.byte_range(first, end)
        data = store.get_range(self.key, self.offset + start, length)
        if len(data) != length:
            raise CorruptObjectError(
                f"{self.key}: truncated to {len(data)} bytes; frames {first} to {end - 1} have "
                f"{length}",
                next_step="restore the object from a replica or a backup",
            )
        return list(self.decoded(memoryview(data), first, end))

    def decoded(self, data: memoryview, first: int, end: int) -> Iterator[bytes]:
        """Yield the page images of the frames [first, end), which are at the start of `data`.

        Raises CorruptObjectError if a frame does not match the table.
        """
        base, _ = self.frames.byte_range(first, end)
        for frame in range(first, end):
            start, length = self.frames.byte_range(frame, frame + 1)
            yield decode_frame(
                data[start - base : start - base + length],
                page_size=self.page_size,
                page_count=self.pages_in_frame(frame),
                checksum=self.frames.checksum(frame),
                name=f"{self.key} frame {frame} of {self.name}",
            )
