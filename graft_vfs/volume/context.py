"""The parts of an open data directory, and the operand of a verb."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from graft_vfs.ids import VolumeId
from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.remote.remotes import Remotes
from graft_vfs.store.base import ObjectStore
from graft_vfs.view.logs import Logs
from graft_vfs.volume.open_volumes import OpenVolumes
from graft_vfs.volume.volume import Volume


@dataclass(frozen=True, slots=True)
class Author:
    """The author of pushes: an id of this data directory, and a readable name."""

    writer: bytes
    name: str


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of one engine, as passed to verbs.

    Owner: the engine, which creates and closes the parts. Thread rule: any thread.
    """

    catalog: Catalog
    remotes: Remotes
    logs: Logs
    volumes: OpenVolumes
    author: Author
    writable: bool

    @property
    def store(self) -> ObjectStore:
        """The remote of the configuration, which `remotes` has beside those with a name."""
        return self.remotes.default

    def directory_of(self, volume: VolumeId) -> Path:
        """Return the directory of a volume; it may not exist."""
        return self.volumes.directory / str(volume)


class Opened(NamedTuple):
    """An open volume, and the tag under which it was opened.

    The tag may have moved to another volume since; verbs act on this volume.
    """

    tag: str
    volume: Volume
