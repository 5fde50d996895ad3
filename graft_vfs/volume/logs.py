"""The remote logs that this machine knows: their handles, page caches and views.

A view is built from the commits that the catalog knows, never from the network; it grows from the
newest view of its log, so that following a log costs what is new in it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from graft_vfs.errors import CorruptCatalogError, CorruptObjectError
from graft_vfs.format.commit import CommitHeader, decode_header
from graft_vfs.ids import LogId
from graft_vfs.local.catalog import Catalog, CommitRow
from graft_vfs.local.page_cache import PageCache
from graft_vfs.page_table import PageTable
from graft_vfs.remote_log import RemoteLog
from graft_vfs.store.base import ObjectStore
from graft_vfs.volume.log_view import CommitSource, LogView
from graft_vfs.volume.remote_none import EmptyRemoteView
from graft_vfs.volume.snapshot import RemoteView


class Logs:
    """Owner: the engine. Thread rule: any thread."""

    def __init__(
        self,
        catalog: Catalog,
        store: ObjectStore,
        cache_directory: Path,
        *,
        executor: Callable[[], Executor],
        cache_bytes_max: int | None = None,
        writable: bool = True,
    ) -> None:
        self.catalog = catalog
        self.store = store
        self._cache_directory = cache_directory
        self._executor = executor
        self._cache_bytes_max = cache_bytes_max
        self._writable = writable
        self._lock = threading.RLock()
        self._logs: dict[LogId, RemoteLog] = {}
        self._caches: dict[LogId, PageCache] = {}
        self._newest: dict[LogId, LogView] = {}
        self._views: weakref.WeakValueDictionary[tuple[LogId, int], LogView] = (
            weakref.WeakValueDictionary()
        )

    def log(self, log: LogId) -> RemoteLog:
        """Return the handle of a remote log. No request."""
        with self._lock:
            if log not in self._logs:
                self._logs[log] = RemoteLog(self.store, log)
            return self._logs[log]

    def cache(self, log: LogId) -> PageCache:
        """Return the page cache of a log."""
        with self._lock:
            if log not in self._caches:
                self._caches[log] = PageCache(
                    self._cache_directory / str(log),
                    bytes_max=self._cache_bytes_max,
                    writable=self._writable,
                )
            return self._caches[log]

    def view(self, log: LogId, lsn: int) -> RemoteView:
        """Return the view of a log at an LSN whose commits the catalog knows. No request."""
        return EmptyRemoteView() if lsn == 0 else self.log_view(log, lsn)

    def log_view(self, log: LogId, lsn: int) -> LogView:
        """Return the view at `lsn` >= 1; raises CorruptCatalogError if commits are missing."""
        with self._lock:
            view = self._views.get((log, lsn))
            if view is None:
                view = self._views[log, lsn] = self._build(log, lsn)
                newest = self._newest.get(log)
                if newest is None or newest.lsn < lsn:
                    self._newest[log] = view
            return view

    def _build(self, log: LogId, lsn: int) -> LogView:
        base = self._newest.get(log)
        first, table = 1, PageTable[CommitSource]()
        if base is not None and base.lsn < lsn:
            first, table = base.lsn + 1, base.table
        rows = self.catalog.commits(log, first, lsn)
        if [row.lsn for row in rows] != list(range(first, lsn + 1)):
            raise CorruptCatalogError(
                f"the catalog lacks commits of log {log} between LSN {first} and {lsn}",
                next_step="run graft_fetch, or clone the volume again",
            )
        sources = [self._source(log, row) for row in rows]
        page_sizes = {source.header.page_size for source in sources}
        if first > 1 and base is not None:
            page_sizes.add(base.page_size)
        oldest = sources[0].header
        caches = (self.cache(log),) if base is None else base.caches
        if first == 1 and oldest.parent_log is not None:
            parent = self.log_view(oldest.parent_log, oldest.parent_lsn)
            table, caches = parent.table, (*caches, *parent.caches)
            page_sizes.add(parent.page_size)
        if len(page_sizes) > 1:
            raise CorruptObjectError(
                f"log {log} changes its page size on the way to LSN {lsn}",
                next_step="open an older LSN, or restore the log from a replica",
            )
        table = table.advance((source, source.header.pages) for source in sources)
        return LogView(log, sources[-1].header, table, caches, self._executor)

    def _source(self, log: LogId, row: CommitRow) -> CommitSource:
        header, length = decode_header(row.header, key=f"catalog commit {log}:{row.lsn}")
        return CommitSource(self.log(log), self.cache(log), header, length)

    def header(self, log: LogId, lsn: int) -> CommitHeader | None:
        """Return a known commit's header, or None."""
        rows = self.catalog.commits(log, lsn, lsn)
        if not rows:
            return None
        return decode_header(rows[0].header, key=f"catalog commit {log}:{lsn}")[0]

    def close(self) -> None:
        """Close the page caches."""
        with self._lock:
            for cache in self._caches.values():
                cache.close()
            self._caches.clear()
            self._newest.clear()
