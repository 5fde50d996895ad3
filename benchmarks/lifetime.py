"""What compaction writes over the life of a database, simulated over sets of pages.

The rules are those of the package: what is chosen, and when autosync would begin. A page takes the
same number of bytes everywhere, so that only the sets are kept, with their frames: a frame counts
whole while any page of it is live.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import cast

from graft_vfs.format.frame import FRAME_PAGES
from graft_vfs.maintenance.compaction import (
    _BY_ITSELF_BYTES_MAX,
    SEGMENT_BYTES_MAX,
    _chosen,
    _helps,
    _Share,
)
from graft_vfs.view.source import FrameSource


class Simulated:
    """An object with page images: how many pages of each of its frames are live."""

    def __init__(self, slots: int, page_bytes: float) -> None:
        self.slots = slots
        self.live = slots
        self._page_bytes = page_bytes
        self._frames = [FRAME_PAGES] * (slots // FRAME_PAGES)
        if slots % FRAME_PAGES:
            self._frames.append(slots % FRAME_PAGES)
        self.frames = len(self._frames)

    def drop(self, slot: int) -> None:
        """Count a page as superseded."""
        self.live -= 1
        self._frames[slot // FRAME_PAGES] -= 1
        if not self._frames[slot // FRAME_PAGES]:
            self.frames -= 1

    def share(self) -> _Share:
        """Return what the package's rule sees of it."""
        origin = SimpleNamespace(slots=self.slots)
        source = cast("FrameSource", SimpleNamespace(origin=origin, simulated=self))
        stored = self.frames * min(FRAME_PAGES, self.slots) * self._page_bytes
        return _Share(source, round(stored), self.live)


class Life:
    """A database of so many pages, pushed once if any; then pushes and compactions as they come."""

    def __init__(self, pages: int, page_bytes: float) -> None:
        self._page_bytes = page_bytes
        self._places: dict[int, tuple[Simulated, int]] = {}
        self._objects: dict[Simulated, None] = {}
        self.pages_pushed = self.pages_rewritten = self.compactions = 0
        if pages:
            self.push(range(1, pages + 1))

    @property
    def objects(self) -> int:
        """The number of objects with live pages."""
        return len(self._objects)

    def push(self, pages: Sequence[int]) -> None:
        """Push pages, in ascending order."""
        self.pages_pushed += len(pages)
        self._write(pages)

    def _write(self, pages: Sequence[int]) -> None:
        made = Simulated(len(pages), self._page_bytes)
        self._objects[made] = None
        for slot, page in enumerate(pages):
            before = self._places.get(page)
            if before is not None:
                before[0].drop(before[1])
                if not before[0].live:
                    self._objects.pop(before[0], None)
            self._places[page] = made, slot

    def compact(self, *, only_if_due: bool) -> int:
        """Compact, and return the number of pages that were rewritten."""
        shares = sorted(
            (each.share() for each in self._objects), key=lambda each: each.stored_bytes
        )
        if only_if_due and not _helps(shares):
            return 0
        chosen = _chosen(shares, _BY_ITSELF_BYTES_MAX if only_if_due else sys.maxsize)
        if not chosen:
            return 0
        taken = {id(cast("SimpleNamespace", share.source).simulated) for share in chosen}
        pages = [page for page, (each, _) in self._places.items() if id(each) in taken]
        pages.sort()
        room = max(1, int(SEGMENT_BYTES_MAX / self._page_bytes))
        for at in range(0, len(pages), room):
            self._write(pages[at : at + room])
        self.pages_rewritten += len(pages)
        self.compactions += 1
        return len(pages)

    def amplification(self) -> float:
        """Return the pages that compactions wrote, relative to those that were pushed."""
        return self.pages_rewritten / self.pages_pushed


def replayed(pushes: Iterable[Sequence[int]], every: int, page_bytes: float) -> list[int]:
    """Return the pages rewritten by each compaction of real pushes, one after every so many."""
    life = Life(0, page_bytes)
    found = []
    for number, pages in enumerate(pushes, 1):
        life.push(pages)
        if number % every == 0:
            found.append(life.compact(only_if_due=False))
    return found
