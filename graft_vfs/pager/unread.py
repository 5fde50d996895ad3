"""Sets up a connection without reading a page of its volume.

`PRAGMA journal_mode` first reads the schema. So a volume whose schema SQLite cannot parse could be
neither opened nor repaired, and opening a cold clone would need the remote. Therefore, after
`PRAGMA graft_prepare`, SQLite's next read sees an empty file, and RESET makes SQLite drop the empty
schema. The statements in order:

    PRAGMA graft_prepare              the next read sees an empty file
    PRAGMA journal_mode=TRUNCATE      reads the empty file
    PRAGMA writable_schema=RESET      the next statement reads the schema like a first statement
"""

from __future__ import annotations

from typing import Any, NoReturn, Protocol, cast

from graft_vfs.errors import UsageError
from graft_vfs.local.chunk import Position
from graft_vfs.pages import LocalLsn
from graft_vfs.view.remote_view import EmptyRemoteView
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

SET_UP = (
    "PRAGMA graft_prepare",
    "PRAGMA journal_mode=TRUNCATE",
    "PRAGMA writable_schema=RESET",
)
"""Choose the cheapest journal mode.

With TRUNCATE the connection keeps its journal open; the default opens one per transaction. The mode
has no effect on crash safety.
"""


class Shown(Protocol):
    """A file that shows a snapshot of a volume."""

    volume: Volume
    snapshot: Snapshot

    def show(self, volume: Volume, snapshot: Snapshot) -> None:
        """Show the snapshots again."""
        ...


class _EmptyOnce:
    """Replaces the file's volume by an empty one until the file is unlocked.

    So other connections do not pay for a check whether to show an empty file.
    """

    def __init__(self, file: Shown) -> None:
        self._volume = file.volume
        self._former = file.snapshot
        branch = file.snapshot.branch
        self._snapshot = Snapshot(branch, EmptyRemoteView(), Position(0, 0), LocalLsn(0), 0, 0, 0)

    @property
    def pins(self) -> _EmptyOnce:
        """The counter of open snapshots: this object, so that it is notified of the unlock."""
        return self

    def __contains__(self, _: Shown) -> bool:
        """Return False: nothing is pinned in an empty file, even if the tag moves."""
        return False

    def add(self, _: Shown) -> None:
        """Do nothing: there are no pages to forget."""

    def discard(self, file: Shown) -> None:
        """Restore the volume."""
        file.show(self._volume, self._former)

    def begin(self) -> Snapshot:
        """Return a snapshot without pages."""
        return self._snapshot

    def begin_write(self, *_: object) -> NoReturn:
        """Refuse to write while the file is shown as empty."""
        raise UsageError(
            "a connection writes directly after graft_prepare",
            next_step="run PRAGMA journal_mode after it, and set locking_mode later",
        )

    def __getattr__(self, name: str) -> Any:
        """Delegate everything else to the volume."""
        return getattr(self._volume, name)


def empty_once(file: Shown) -> Volume:
    """Return the replacement for a file's volume."""
    return cast("Volume", _EmptyOnce(file))
