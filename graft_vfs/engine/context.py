"""Opening a data directory and its remote: the parts of an engine, and the threads that fetch."""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import secrets
import socket
import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from graft_vfs.engine.config import Config
from graft_vfs.engine.remotes import Opener
from graft_vfs.errors import GraftError, UsageError
from graft_vfs.local import file_systems, layout
from graft_vfs.local.files import make_directories, storage_errors
from graft_vfs.maintenance.adopt import open_catalog
from graft_vfs.remote.remotes import Remotes
from graft_vfs.reports import LostVolume
from graft_vfs.store.base import ObjectStore
from graft_vfs.view.logs import Logs
from graft_vfs.volume.context import Author, Context
from graft_vfs.volume.open_volumes import OpenVolumes

_logger = logging.getLogger(__name__)

_FETCH_THREADS = 16


class Pool:
    """The threads that fetch, started on demand, or a given executor.

    Owner: the engine. Thread rule: any thread.
    """

    def __init__(self, executor: Executor | None = None) -> None:
        self._lock = threading.RLock()
        self._executor = executor
        self._is_closed = False

    def executor(self) -> Executor:
        """Return the executor; raises UsageError after close."""
        with self._lock:
            if self._is_closed:
                raise UsageError("the engine was closed", next_step="open it again")
            if self._executor is None:
                self._executor = ThreadPoolExecutor(_FETCH_THREADS, "graft-fetch")
            return self._executor

    def close(self) -> None:
        """End the threads, and cancel work that has not begun."""
        with self._lock:
            self._is_closed = True
            executor, self._executor = self._executor, None
        # Without the lock, which a fetching thread may need.
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)


def open_context(
    config: Config, pool: Pool, *, store: ObjectStore | None, recovering: bool
) -> tuple[Context, list[LostVolume]]:
    """Open a data directory, and the remote unless `store` replaces it.

    Also returns the volumes that the catalog lacks. Raises ConfigError, LocalStorageError,
    StoreError, CorruptCatalogError.
    """
    directory = config.data_dir.absolute()
    allowed = config.allow_file_systems
    is_local = file_systems.check_data_directory(directory, allowed)
    maps = is_local and config.mmap != "off"
    writable = _make_directory(directory / layout.VOLUMES)
    with contextlib.ExitStack() as opened:
        catalog, lost = open_catalog(directory, writable, recovering=recovering, maps=maps)
        opened.callback(catalog.close)
        if store is None:
            # Otherwise an unmounted disk would get a new remote at its mount point.
            creates = not catalog.has_bases()
            store = config.remote.open(create=creates, allow_file_systems=allowed)
            opened.callback(store.close)
        remotes = Remotes(catalog, store, Opener(config.remote, allowed))
        logs = Logs(
            catalog,
            remotes,
            directory / layout.CACHE,
            executor=pool.executor,
            cache_bytes_max=config.cache_max_bytes,
            writable=writable,
            maps=config.mmap != "off",
        )
        volumes = OpenVolumes(
            directory / layout.VOLUMES,
            catalog,
            logs,
            writable=writable,
            hydrates=config.hydrate == "background",
            maps=maps,
            is_local=is_local,
        )
        author = Author(secrets.token_bytes(16), _author_name())
        opened.pop_all()
    _logger.info("opened %s with %s", directory, store)
    return Context(catalog, remotes, logs, volumes, author, writable), lost


def _author_name() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"[:120]


def _make_directory(path: Path) -> bool:
    """Create the data directory; False if it exists and is not writable."""
    try:
        with storage_errors(path):
            make_directories(path)
    except GraftError:
        if not path.is_dir():
            raise
    return os.access(path, os.W_OK)
