"""The remote view of a branch that has no base."""

from __future__ import annotations

from graft_vfs.pages import NO_LSN
from graft_vfs.volume.snapshot import Located


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
