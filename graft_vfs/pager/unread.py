"""Setting up a connection without reading a page of its volume.

`PRAGMA journal_mode` reads the schema first. So a volume whose schema SQLite cannot parse could not
be opened, nor repaired, and opening a cold clone needed the remote. Therefore the first look after
`PRAGMA graft_prepare` shows SQLite an empty file, and RESET has it forget the schema that it found
there. The statements in order:

    PRAGMA graft_prepare              the next look at the file shows it empty
    PRAGMA journal_mode=TRUNCATE      looks at it
    PRAGMA writable_schema=RESET      the next statement reads the schema as if it were the first
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
"""Choose the journal mode that costs least.

TRUNCATE lets the connection keep its journal open, where the default opens one for each
transaction. It changes nothing about what a crash leaves.
"""


class Shown(Protocol):
    """A file that shows a snapshot of a volume."""

    volume: Volume
    snapshot: Snapshot

    def show(self, volume: Volume, snapshot: Snapshot) -> None:
        """Show them again."""
        ...


class _EmptyOnce:
    """Stands for a volume without pages, as its file uses one, until the file is unlocked.

    So no other connection pays for looking whether its file is to be shown empty.
    """

    def __init__(self, file: Shown) -> None:
        self._volume = file.volume
        self._former = file.snapshot
        branch = file.snapshot.branch
        self._snapshot = Snapshot(branch, EmptyRemoteView(), Position(0, 0), LocalLsn(0), 0, 0, 0)

    @property
    def pins(self) -> _EmptyOnce:
        """What counts open snapshots: it, which learns of the unlock so."""
        return self

    def __contains__(self, _: Shown) -> bool:
        """Return False: nothing is pinned in an empty file, also if the tag moves now."""
        return False

    def add(self, _: Shown) -> None:
        """Nothing can be forgotten that has no page."""

    def discard(self, file: Shown) -> None:
        """Put the volume back."""
        file.show(self._volume, self._former)

    def begin(self) -> Snapshot:
        """Return a snapshot without pages."""
        return self._snapshot

    def begin_write(self, *_: object) -> NoReturn:
        """Refuse to write pages behind an empty file."""
        raise UsageError(
            "a connection writes behind graft_prepare",
            next_step="run PRAGMA journal_mode after it, and set locking_mode later",
        )

    def __getattr__(self, name: str) -> Any:
        """Answer everything else as the volume does."""
        return getattr(self._volume, name)


def empty_once(file: Shown) -> Volume:
    """Return what stands for the volume of a file."""
    return cast("Volume", _EmptyOnce(file))
