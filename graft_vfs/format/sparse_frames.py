"""The frames of one object that are still needed: a table records no others."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from graft_vfs.errors import CorruptObjectError
from graft_vfs.format.frame import CHECKSUM_BYTES


@dataclass(frozen=True, slots=True, eq=False)
class SparseFrames:
    """Frames in columns, ascending: numbers, offsets in bytes, sizes in bytes, checksums.

    Offsets are relative to frame 0 of the object. Thread rule: any thread; nothing changes.
    """

    frame_pages: int
    numbers: array[int]
    offsets: array[int]
    sizes: array[int]
    checksums: bytes

    @classmethod
    def joined(cls, parts: Iterable[SparseFrames]) -> SparseFrames:
        """Return the frames of several parts of one object, at least one; they may overlap."""
        frame_pages, rows = 1, {}
        for part in parts:
            frame_pages = part.frame_pages
            for at, number in enumerate(part.numbers):
                rows[number] = part.offsets[at], part.sizes[at], part.checksum(number)
        numbers = sorted(rows)
        return cls(
            frame_pages,
            array("I", numbers),
            array("Q", [rows[number][0] for number in numbers]),
            array("I", [rows[number][1] for number in numbers]),
            b"".join(rows[number][2] for number in numbers),
        )

    def __len__(self) -> int:
        return len(self.numbers)

    def frame_of(self, slot: int) -> int:
        """Return the 0-based frame that holds a 0-based slot."""
        return slot // self.frame_pages

    def byte_range(self, first: int, end: int) -> tuple[int, int]:
        """Return (offset, length) in bytes of the frames [first, end), which are adjacent.

        Raises CorruptObjectError if one of them is not recorded.
        """
        if first == end:
            return 0, 0
        at, last = self._place(first), self._place(end - 1)
        if last - at != end - 1 - first:
            raise _not_recorded(first, end)
        return self.offsets[at], self.offsets[last] + self.sizes[last] - self.offsets[at]

    def checksum(self, frame: int) -> bytes:
        """Return the XXH3-128 of a compressed frame."""
        at = self._place(frame) * CHECKSUM_BYTES
        return self.checksums[at : at + CHECKSUM_BYTES]

    def _place(self, frame: int) -> int:
        at = bisect_left(self.numbers, frame)
        if at == len(self.numbers) or self.numbers[at] != frame:
            raise _not_recorded(frame, frame + 1)
        return at


def _not_recorded(first: int, end: int) -> CorruptObjectError:
    return CorruptObjectError(
        f"a table records no place of all frames from {first} to {end - 1}",
        next_step="fetch the log again, or clone it again",
    )
