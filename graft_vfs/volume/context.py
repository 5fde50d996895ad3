"""What belongs together while a data directory is open, and what a verb is done to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from graft_vfs.ids import VolumeId
from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.store.base import ObjectStore
from graft_vfs.view.logs import Logs
from graft_vfs.volume.open_volumes import OpenVolumes
from graft_vfs.volume.volume import Volume


@dataclass(frozen=True, slots=True)
class Author:
    """Who pushes: an id for this data directory, and a name for people."""

    writer: bytes
    name: str


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of one engine, which verbs receive together.

    Owner: the engine, which makes the parts and closes them. Thread rule: any thread.
    """

    catalog: Catalog
    store: ObjectStore
    logs: Logs
    volumes: OpenVolumes
    author: Author
    writable: bool

    def directory_of(self, volume: VolumeId) -> Path:
        """Return the directory of a volume, which need not exist."""
        return self.volumes.directory / str(volume)


class Opened(NamedTuple):
    """A volume that is open, and the tag under which it was opened.

    The tag may name another volume by now: the volume is what a verb is done to.
    """

    tag: str
    volume: Volume
