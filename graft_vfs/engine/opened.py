"""An open engine: its data directory, remotes and autosync, and the volumes of tags."""

from __future__ import annotations

import functools
import os
from concurrent.futures import Executor

from graft_vfs.engine import signals, syncing
from graft_vfs.engine.autosync import Autosync, Clock
from graft_vfs.engine.config import Config
from graft_vfs.engine.context import Pool, open_context
from graft_vfs.errors import ForkedProcessError
from graft_vfs.ids import VolumeId
from graft_vfs.maintenance import adopt as adopting
from graft_vfs.reports import LostVolume
from graft_vfs.store.base import ObjectStore
from graft_vfs.store.none import NoStore
from graft_vfs.sync import joining
from graft_vfs.sync.clone import NewVolume, clone_base, make_volume
from graft_vfs.sync.sources import find_source
from graft_vfs.tags import check_tag
from graft_vfs.volume.context import Opened
from graft_vfs.volume.volume import Volume


class OpenEngine:
    """What the verbs of an engine stand on: opening, closing, and the volumes of tags."""

    def __init__(
        self,
        config: Config | None = None,
        *,
        store: ObjectStore | None = None,
        executor: Executor | None = None,
        clock: Clock | None = None,
        recovering: bool = False,
    ) -> None:
        """Open, creating the data directory if absent; raises ConfigError, LocalStorageError.

        `store` replaces the configured remote, and `executor` the threads that fetch; both are
        closed with the engine. `clock` is autosync's clock. An empty catalog beside volumes raises
        CorruptCatalogError, unless `recovering` is true, so that `adopt` can recover them.
        """
        self.config = config or Config.load()
        self._process = os.getpid()
        self._pool = Pool(executor)
        self.context, self._lost = open_context(
            self.config, self._pool, store=store, recovering=recovering
        )
        self.catalog, self.remotes = self.context.catalog, self.context.remotes
        self.store = self.remotes.default
        self.logs, self.writable = self.context.logs, self.context.writable
        self._clock = clock
        self._autosync: Autosync | None = None
        if not isinstance(self.store, NoStore) or self.catalog.remotes.all():
            self._start_autosync()

    def _start_autosync(self) -> None:
        """Sync from now on what is opened, if that is configured."""
        if self.config.autosync and self.writable and self._autosync is None:
            strategy = self.config.strategy()
            sync = functools.partial(syncing.sync_one, self.context, strategy=strategy)
            interval = self.config.autosync
            self._autosync = Autosync(
                sync,
                interval,
                self.logs.counters,
                clock=self._clock,
                title=self.catalog.title,
            )
            signals.push_before_end()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self.config.data_dir)!r} with {self.store.describe()}>"

    def __dir__(self) -> list[str]:
        """Return the verbs; the engine's parts are for those who know their names."""
        kind = type(self)
        return [name for name in dir(kind) if name[0] != "_" and callable(getattr(kind, name))]

    def close(self) -> None:
        """Make everything durable and close the engine. Close all connections first.

        No request without autosync. With autosync, local commits are pushed first, for a few
        seconds at most; a warning names volumes that still have some.
        """
        # A push that overruns the deadline stops at its next request, and its volume closes then.
        busy = self._autosync.close() if self._autosync is not None else frozenset[VolumeId]()
        signals.restore()
        volumes = self.context.volumes
        volumes.expect_close()
        self._pool.close()
        volumes.close(but=busy)
        self.logs.close()
        self.catalog.close()
        self.remotes.close()

    def check_process(self) -> None:
        """Raise ForkedProcessError in a child of the process that made the engine."""
        if os.getpid() != self._process:
            raise ForkedProcessError(
                "this engine belongs to the parent process",
                next_step="open it, and its connections, after os.fork()",
            )

    def volume(self, volume_id: VolumeId) -> Volume:
        """Return an open volume, which autosync syncs; raises NotFoundError, CorruptLogError."""
        self.check_process()
        volume = self.context.volumes.use(volume_id)
        if self._autosync is not None and self.remotes.has(self.catalog.volume(volume_id).remote):
            self._autosync.add(volume_id, volume.directory)
        return volume

    def open(self, tag: str, *, create: bool = False, remote: str | None = None) -> Volume:
        """Return the volume of a tag; with `create` make it, as a clone of `remote` if given.

        `remote` is what `clone` takes. A volume that exists without commits becomes a clone of it,
        too. No request, or those of a clone, or one for a ref that this machine does not know.
        Raises NotFoundError if the tag is absent and `create` is false, AlreadyExistsError if its
        volume has commits on another log than `remote`.
        """
        check_tag(tag)
        found = self.catalog.tag_volume(tag)
        if self._lost:
            self._lost = self.lost_volumes()
            adopting.refuse_lost(self.catalog, self._lost, tag, is_new=found is None)
        if found is None:
            if not create:
                raise self.catalog.no_tag(tag)
            source = find_source(self.logs, remote) if remote else None
            base = clone_base(self.logs, source) if source else None
            found = make_volume(self.context, NewVolume(base, synced=base is not None), tag)
        volume = self.volume(found)
        if remote:
            joining.join(self.context, Opened(tag, volume), name=remote)
            self._start_autosync()
            volume = self.volume(found)  # Which may have a remote only now.
        return volume

    def _opened(self, tag: str | Opened) -> Opened:
        return tag if isinstance(tag, Opened) else Opened(tag, self.open(tag))

    def lost_volumes(self) -> list[LostVolume]:
        """Return volumes that the catalog lacks, or has only in an older state. No request."""
        return adopting.lost_volumes(self.catalog, self.context.volumes.directory)
