"""Keeps `volume.json` up to date with the current branch and kept ones; see `descriptor`.

No commit is written on a branch that the file does not describe.
"""

from __future__ import annotations

import logging
from pathlib import Path

from graft_vfs.errors import BusyError, CorruptLogError, LocalStorageError
from graft_vfs.ids import VolumeId
from graft_vfs.local.catalog import descriptor
from graft_vfs.local.catalog.catalog import Catalog

_logger = logging.getLogger(__name__)


class Description:
    """The description of one volume. Owner: the volume. Thread rule: under its mutex."""

    __slots__ = ("_catalog", "_directory", "_volume", "is_current")

    def __init__(self, volume: VolumeId, directory: Path, catalog: Catalog) -> None:
        self._volume = volume
        self._directory = directory
        self._catalog = catalog
        self.is_current = False

    def check(self) -> None:
        """Raise CorruptCatalogError if the catalog is older than the volume; writes nothing."""
        found = descriptor.read(self._directory)
        branch = self._catalog.current(self._volume)[1]
        if found is not None and found.branch.id != branch.id and found.is_newer(branch):
            raise descriptor.older_catalog(found, branch)

    def follow(self) -> None:
        """Describe the branches. If the disk refuses, the next writer tries again.

        The common case reads one small file; otherwise the catalog's write lock is taken. Raises
        CorruptCatalogError if the catalog is older than the volume.
        """
        try:
            found = descriptor.read(self._directory)
        except CorruptLogError:
            found = None
        branch = self._catalog.current(self._volume)[1]
        self.is_current = found is not None and found.describes(
            branch.id, self._catalog.kept.all(self._volume)
        )
        try:
            self.require()
        except (LocalStorageError, BusyError) as error:
            # Reads continue, but nothing is committed on a branch that is not described.
            _logger.info("volume %s is not described yet: %s", self._volume, error)

    def require(self) -> None:
        """Raise LocalStorageError unless the file describes the current branch; update it first."""
        if not self.is_current:
            self._catalog.describe(
                self._volume, lambda wanted: descriptor.keep(self._directory, wanted)
            )
            self.is_current = True
