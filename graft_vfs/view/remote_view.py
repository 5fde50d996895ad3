"""A branch's view of its base: a remote log as of one LSN, or nothing before the first commit."""

from __future__ import annotations

from typing import Protocol

from graft_vfs.local.mapping import View
from graft_vfs.pages import NO_LSN, RemoteLsn

Located = tuple[View, int]


class RemoteView(Protocol):
    """A remote log as of one LSN, whose pages are fetched when they are read.

    `located` maps pages to where their proved images are on this machine; it may forget. The last
    look at the files that they are in was at `looked_at`, by the monotonic clock.
    """

    lsn: RemoteLsn
    page_size: int
    page_count: int
    change_counter: int
    located: dict[int, Located]
    looked_at: float

    def locate(self, page: int) -> Located | None:
        """Return (bytes, offset) of a page's image, fetching it if need be; None if it has none.

        Requests: none for a page on this machine, else one range read and what reading ahead adds.
        """
        ...

    def check_files(self) -> None:
        """Forget where pages are if their file was cut; called as transactions begin."""
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
        """Nothing is in a file."""

    def forget_resident(self) -> None:
        """Nothing is mapped."""
