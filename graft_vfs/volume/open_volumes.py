"""The volumes that an engine has open, each once; recently used ones stay open."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Collection
from pathlib import Path

from graft_vfs.counters import CommitCounts
from graft_vfs.ids import VolumeId
from graft_vfs.local import head, layout
from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.reentry import living
from graft_vfs.view.log_view import LogView
from graft_vfs.view.logs import Logs
from graft_vfs.volume.background import BackgroundHydration
from graft_vfs.volume.incoherent import IncoherentVolume
from graft_vfs.volume.volume import Volume

VOLUMES_KEPT_MAX = 32
"""The number of unused volumes that stay open, because opening one costs more than a query."""


class _Gate:
    """Allows one thread at a time to open a volume; exists only during that."""

    __slots__ = ("__weakref__", "lock")

    def __init__(self) -> None:
        self.lock = threading.RLock()


class OpenVolumes:
    """Opens volumes and releases them. With `hydrates`, their pages are fetched in the background.

    Owner: the engine. Thread rule: any thread; a thread that opens a volume delays only callers of
    the same volume.
    """

    def __init__(
        self,
        directory: Path,
        catalog: Catalog,
        logs: Logs,
        *,
        writable: bool,
        hydrates: bool,
        maps: bool = True,
        is_local: bool = True,
    ) -> None:
        self.directory = directory
        self._catalog = catalog
        self._logs = logs
        self._writable = writable
        self._hydrates = hydrates
        self._maps = maps
        self.is_local = is_local
        self._volume_class = Volume if is_local else IncoherentVolume
        self._lock = threading.RLock()
        # All open volumes, and those that are kept open even if unused.
        self._open: weakref.WeakValueDictionary[VolumeId, Volume] = weakref.WeakValueDictionary()
        self._opening: weakref.WeakValueDictionary[VolumeId, _Gate] = weakref.WeakValueDictionary()
        self._kept: dict[VolumeId, Volume] = {}
        self._commit_counts: dict[VolumeId, CommitCounts] = {}
        self.hydration = BackgroundHydration(logs.foreground)

    def use(self, volume_id: VolumeId) -> Volume:
        """Return a volume, and keep it open for later callers.

        Raises NotFoundError, CorruptLogError.
        """
        volume, is_new = self._look(volume_id)
        with self._lock:
            if is_new:
                self.hydrate(volume)
            self._keep(volume)
        return volume

    def glance(self, volume_id: VolumeId) -> head.Glance | None:
        """Return what the head file of a volume says, None where it may show an old state."""
        if not self._volume_class.is_coherent:
            return None
        return head.glance(self.directory / str(volume_id) / layout.HEAD)

    def checked_ms(self, volume_id: VolumeId) -> int | None:
        """Return when the remote was last checked for a volume; None if that is not recorded."""
        seen = head.glance(self.directory / str(volume_id) / layout.HEAD)
        return (seen.checked_ms or None) if seen is not None else None

    def look(self, volume_id: VolumeId) -> Volume:
        """Return a volume that stays open only while the caller uses it; raises as `use`."""
        return self._look(volume_id)[0]

    def _look(self, volume_id: VolumeId) -> tuple[Volume, bool]:
        """Return a volume, and whether this call opened it."""
        with self._lock:
            volume = self._open.get(volume_id)
            if volume is not None and not volume.has_moved:
                return volume, False
            gate = self._opening.setdefault(volume_id, _Gate())
        with gate.lock:
            with self._lock:
                volume = self._open.get(volume_id)
                counts = self._commit_counts.setdefault(volume_id, CommitCounts())
            # This refuses a connection to a volume whose files were moved away.
            if volume is not None and not volume.has_moved:
                return volume, False
            volume = self._volume_class(
                volume_id,
                self.directory / str(volume_id),
                self._catalog,
                self._logs.view,
                writable=self._writable,
                maps=self._maps,
                counts=counts,
            )
            with self._lock:
                self._open[volume_id] = volume
            return volume, True

    def is_open(self, volume_id: VolumeId) -> bool:
        """Return True if a volume is open."""
        with self._lock:
            return volume_id in self._open

    def keep_no_longer(self, volume_id: VolumeId) -> None:
        """Close a volume now if it is unused, else after its last use."""
        with self._lock:
            volume = self._kept.pop(volume_id, None)
            if volume is not None:
                volume.sync()

    def let_go(self, volume_id: VolumeId) -> None:
        """Close an unused volume, so that it can be removed."""
        with self._lock:
            self._kept.pop(volume_id, None)
            volume = self._open.pop(volume_id, None)
            self._commit_counts.pop(volume_id, None)
            if volume is not None:
                volume.close()

    def all(self) -> list[Volume]:
        """Return the volumes that are open now, by id."""
        with self._lock:
            return sorted(living(self._open), key=lambda volume: volume.id)

    def commit_counts(self) -> list[CommitCounts]:
        """Return the counts of each volume that this engine has opened."""
        with self._lock:
            return list(self._commit_counts.values())

    def _keep(self, volume: Volume) -> None:
        """Keep a volume open, and release the least recently used ones.

        A volume closes when its last reference is dropped, so never while it is in use.
        """
        self._kept.pop(volume.id, None)
        self._kept[volume.id] = volume
        excess = max(0, len(self._kept) - VOLUMES_KEPT_MAX)
        for volume_id in list(self._kept)[:excess]:
            self._kept[volume_id].sync()
            del self._kept[volume_id]
            used = self._open.get(volume_id)
            if used is not None:
                self._kept[volume_id] = used

    def hydrate(self, volume: Volume) -> None:
        """Fetch a volume's pages in the background, if that is configured."""
        view = volume.snapshot.remote
        if self._hydrates and isinstance(view, LogView):
            self.hydration.want(volume.id, view)

    def expect_close(self) -> None:
        """Expect fetches to fail from now on, because the engine is closing."""
        self.hydration.expect_end()

    def close(self, *, but: Collection[VolumeId]) -> None:
        """Make all volumes durable and close them, except those still in use.

        Waits for background fetches; the caller has already cancelled them.
        """
        self.hydration.join()
        with self._lock:
            for volume in living(self._open):
                if volume.id not in but:
                    volume.close()
            self._open.clear()
            self._kept.clear()
