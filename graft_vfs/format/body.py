"""Builds the body of a commit: pages in, frames out, then the tables for the header."""

from __future__ import annotations

from array import array

from pyroaring import BitMap

from graft_vfs.format.commit import FrameTable
from graft_vfs.format.frame import FRAME_PAGES, checksum_of, encode_frame


class BodyBuilder:
    """Takes pages in ascending order and returns full frames; holds one frame of pages.

    Owner: one push. Call `add` for each page, then `finish`, then read `pages` and `table`.
    """

    def __init__(self) -> None:
        self.pages = BitMap()
        self._images: list[bytes] = []
        self._last_page = 0
        self._sizes = array("I")
        self._last_pages = array("I")
        self._checksums = bytearray()

    def add(self, page: int, image: bytes) -> bytes | None:
        """Add the next page; returns a compressed frame when one is full."""
        assert page > self._last_page
        self._last_page = page
        self.pages.add(page)
        self._images.append(image)
        return self._close_frame() if len(self._images) == FRAME_PAGES else None

    def finish(self) -> bytes | None:
        """Return the last, shorter frame, if there is one."""
        self.pages.run_optimize()
        return self._close_frame() if self._images else None

    def _close_frame(self) -> bytes:
        frame = encode_frame(self._images)
        self._images.clear()
        self._sizes.append(len(frame))
        self._last_pages.append(self._last_page)
        self._checksums += checksum_of(frame)
        return frame

    @property
    def table(self) -> FrameTable:
        """The table of the finished frames."""
        return FrameTable.of(FRAME_PAGES, self._sizes, self._last_pages, bytes(self._checksums))
