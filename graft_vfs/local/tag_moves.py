"""Pointing a tag at another volume while connections of other processes have the former one open.

A commit that is acknowledged after that must not be in a volume that the tag does not name. So the
mover holds the former volume's writer lock: no write transaction is open meanwhile. In the catalog
transaction that moves the tag, the former volume gets a new epoch, which is announced in its head
file as a change of branch is. So each connection of it looks up its tag at its next transaction,
and the others of that volume, under other tags, find that theirs still names it.

Only the head file is opened here: a damaged volume can be replaced, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from graft_vfs.ids import VolumeId
from graft_vfs.local import branch_file, head, layout
from graft_vfs.local.catalog.catalog import Announce, Catalog

_T = TypeVar("_T")

WAIT_SECONDS = 10.0
"""How long a verb that moves a tag waits for a write transaction of the volume that it named."""


class NamesAnotherError(Exception):
    """The tag names another volume by now than the one whose writer lock is held."""


def move_tag(
    catalog: Catalog,
    volumes_directory: Path,
    tag: str,
    change: Callable[[Announce], _T],
    *,
    to: VolumeId | None = None,
) -> _T:
    """Call `change`, which moves the tag in the catalog, while no other process writes under it.

    `to` is the volume that the tag will name, if it exists already. Returns what `change` does.
    Raises WriterBusyError if a transaction is open for longer than WAIT_SECONDS,
    FutureVersionError, LocalStorageError, and what `change` raises.
    """
    while True:
        former = catalog.tag_volume(tag)

        def announce(volume: VolumeId, epoch: int, locked: VolumeId | None = former) -> None:
            if volume != locked:
                raise NamesAnotherError
            directory = volumes_directory / str(volume)
            if directory.is_dir():
                head.HeadFile(directory / layout.HEAD).words[head.EPOCH] = epoch

        with contextlib.ExitStack() as stack:
            if former is not None and former != to:
                stack.enter_context(
                    branch_file.held(volumes_directory / str(former), timeout_seconds=WAIT_SECONDS)
                )
            try:
                return change(announce)
            except NamesAnotherError:
                continue
