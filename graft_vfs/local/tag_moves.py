"""Points a tag at another volume while other processes have its previous volume open.

After the move, no commit under this tag may go to the previous volume. So the mover holds that
volume's writer lock, which excludes open write transactions. In the catalog transaction that moves
the tag, the previous volume gets a new epoch, announced in its head file like a change of branch.
So each connection to that volume looks up its tag at its next transaction. Connections under other
tags find that their tag is unchanged.

This module opens only the head file, so a damaged volume can also be replaced.
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
"""How long a verb that moves a tag waits for a write transaction of the previous volume."""


class NamesAnotherError(Exception):
    """The tag no longer names the volume whose writer lock is held."""


def move_tag(
    catalog: Catalog,
    volumes_directory: Path,
    tag: str,
    change: Callable[[Announce], _T],
    *,
    to: VolumeId | None = None,
) -> _T:
    """Call `change`, which moves the tag in the catalog, while no other process writes under it.

    `to` is the tag's new volume, if it exists already. Returns the result of `change`. Raises
    WriterBusyError if a transaction stays open for longer than WAIT_SECONDS, FutureVersionError,
    LocalStorageError, and the errors of `change`.
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
