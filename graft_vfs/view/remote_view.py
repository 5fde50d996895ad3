"""A branch's view of its base: a remote log as of one LSN, or nothing before the first commit."""

from __future__ import annotations

from typing import Protocol

from graft_vfs.local.mapping import View
from graft_vfs.pages import NO_LSN, RemoteLsn

Located = tuple[View, int]


class RemoteView(Protocol):
    """A remote log as of one LSN; its pages are fetched on demand.

    `located` maps pages to the places of their verified images; it may forget. `looked_at` is the
    time of the last check of their files, by the monotonic clock.
    """

    lsn: RemoteLsn
    page_size: int
    page_count: int
    change_counter: int
    located: dict[int, Located]
    looked_at: float

    def locate(self, page: int) -> Located | None:
        """Return (bytes, offset) of a page's image, fetching it if needed; None if it has none.

        Requests: none for a cached page, else one range read and those of read-ahead.
        """
        ...

    def check_files(self) -> None:
        """Forget places in truncated files; called when transactions begin."""
        ...

    def forget_resident(self) -> None:
        """Release mapped pages that were read."""
        ...


class EmptyRemoteView:
    """A remote log before its first commit: no pages, and no page size yet."""

    lsn = NO_LSN
    page_size = 0
    page_count = 0
    change_counter = 0
    looked_at = 0.0

    def __init__(self) -> None:
        self.located: dict[int, Located] = {}

    def locate(self, page: int) -> None:  # noqa: ARG002
        """Return None: no page has a remote image."""
        return

    def check_files(self) -> None:
        """Do nothing: there are no files."""

    def forget_resident(self) -> None:
        """Do nothing: nothing is mapped."""
