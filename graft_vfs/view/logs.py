"""The remote logs that this machine knows: their handles, page caches and views.

A view is built from the commits in the catalog, never from the network. It extends the newest older
view of its log that is in use, so the cost of following a log depends only on its new commits.
Views, and their caches, live as long as they are in use.
"""

from __future__ import annotations

import functools
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from graft_vfs.advice import Advice, Hint
from graft_vfs.counters import Counters
from graft_vfs.errors import CorruptCatalogError, CorruptObjectError
from graft_vfs.format.commit import (
    GRACE_END,
    GRACE_SECONDS_MIN,
    NO_HASH,
    CommitHeader,
    decode_header,
    grace_seconds_of,
)
from graft_vfs.ids import LogId
from graft_vfs.local.cache.arena import commit_source
from graft_vfs.local.cache.page_cache import PageCache
from graft_vfs.local.cache.space import CacheSpace
from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.local.catalog.rows import CommitRow
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.reentry import living
from graft_vfs.remote.belief import Belief
from graft_vfs.remote.commit_reader import CommitRecord
from graft_vfs.remote.log import RemoteLog
from graft_vfs.remote.remotes import Remotes
from graft_vfs.view.foreground import Foreground
from graft_vfs.view.log_view import LogView, Tip
from graft_vfs.view.page_table import PageTable
from graft_vfs.view.remote_view import EmptyRemoteView, RemoteView
from graft_vfs.view.source import FrameSource

_BUILD_STEP_COMMITS = 512
_BUILD_STEP_BYTES = 16 << 20


class Logs:
    """Owner: the engine. Thread rule: any thread."""

    def __init__(
        self,
        catalog: Catalog,
        remotes: Remotes,
        cache_directory: Path,
        *,
        executor: Callable[[], Executor],
        cache_bytes_max: int | None = None,
        writable: bool = True,
        maps: bool = True,
    ) -> None:
        self.catalog = catalog
        self.remotes = remotes
        self.counters = Counters()
        self.foreground = Foreground()
        self._cache_directory = cache_directory
        self._executor = executor
        self._cache_bytes_max = cache_bytes_max
        self._writable = writable
        self._maps = maps
        self._space: CacheSpace | None = None
        self._lock = threading.RLock()
        self._logs: dict[LogId, RemoteLog] = {}
        self._proved: set[tuple[str, LogId]] = set()
        self._asked: dict[LogId, int] = {}
        self._caches: weakref.WeakValueDictionary[LogId, PageCache] = weakref.WeakValueDictionary()
        self._views: weakref.WeakValueDictionary[tuple[LogId, RemoteLsn], LogView] = (
            weakref.WeakValueDictionary()
        )

    def is_proved(self, log_id: LogId) -> bool:
        """Return True if this engine has verified that its store has a known log's history."""
        with self._lock:
            return (self.remotes.of(log_id).describe(), log_id) in self._proved

    def note_proved(self, log_id: LogId) -> None:
        """Record that the store has a known log's history."""
        with self._lock:
            self._proved.add((self.remotes.of(log_id).describe(), log_id))

    def forget_proofs(self) -> None:
        """Make the next sync of each log verify again: the store failed, and may have changed."""
        with self._lock:
            self._proved.clear()

    def note_asked(self, log_id: LogId) -> None:
        """Note that the store has just answered what a log's newest commit is."""
        self._asked[log_id] = time.time_ns() // 1_000_000

    def asked_ms(self, log_id: LogId) -> int | None:
        """Return when this engine last learnt what a log's newest commit is."""
        return self._asked.get(log_id)

    def log(self, log_id: LogId) -> RemoteLog:
        """Return the handle of a remote log, where it lives now. No request."""
        store = self.remotes.of(log_id)
        with self._lock:
            found = self._logs.get(log_id)
            if found is None or found.store is not store:
                found = self._logs[log_id] = RemoteLog(store, log_id)
            return found

    def belief(self, log_id: LogId, head: RemoteLsn, remote: RemoteLog | None = None) -> Belief:
        """Return what to believe of a log after a known LSN, 0 for none. No request.

        `remote` is the log where it is asked, by default where it lives.
        """
        grace_seconds = 0
        if head:
            known = self.catalog.commit_beginnings(log_id, head, head, GRACE_END)
            grace_seconds = grace_seconds_of(known[0][1]) if known else GRACE_SECONDS_MIN
        return Belief(remote or self.log(log_id), self.catalog.absences, head, grace_seconds)

    @property
    def space(self) -> CacheSpace:
        """The space that the page caches of all logs share."""
        with self._lock:
            if self._space is None:
                self._space = CacheSpace(
                    self._cache_directory,
                    bytes_max=self._cache_bytes_max,
                    writable=self._writable,
                    maps=self._maps,
                    counters=self.counters,
                )
            return self._space

    def cache(self, log_id: LogId) -> PageCache:
        """Return the page cache of a log. No I/O."""
        with self._lock:
            cache = self._caches.get(log_id)
            if cache is None:
                directory = self._cache_directory / str(log_id)
                cache = self._caches[log_id] = PageCache(directory, self.space)
            return cache

    def view(self, log_id: LogId, lsn: RemoteLsn) -> RemoteView:
        """Return the view of a log at an LSN; the catalog must have its commits. No request."""
        return EmptyRemoteView() if lsn == NO_LSN else self.log_view(log_id, lsn)

    def log_view(self, log_id: LogId, lsn: RemoteLsn) -> LogView:
        """Return the view at `lsn` >= 1.

        Raises CorruptCatalogError if commits are missing or belong to another log.
        """
        with self._lock:
            step: tuple[LogId, RemoteLsn] | None = (log_id, lsn)
            view, missing = self._views.get((log_id, lsn)), []
            # Forks of forks may be nested deeper than the call stack.
            while view is None and step is not None:
                if step in missing:
                    raise _damaged(f"in the catalog, log {log_id} is a fork of itself")
                missing.append(step)
                view = self._base(*step)
                step = None if view else self._parent(step[0])
                view = self._views.get(step) if step else view
            for step in reversed(missing):
                view = self._views[step] = self._build(*step, base=view)
            assert view is not None
            return view

    def _base(self, log_id: LogId, lsn: RemoteLsn) -> LogView | None:
        """Return the view that the view at `lsn` can extend."""
        older = (view for view in living(self._views) if view.log_id == log_id and view.lsn < lsn)
        return max(older, key=lambda view: view.lsn, default=None)

    def lineage(self, log_id: LogId) -> set[LogId]:
        """Return a known log and all its ancestors. No request."""
        found, parent = {log_id}, self._parent(log_id)
        while parent is not None and parent[0] not in found:
            found.add(parent[0])
            parent = self._parent(parent[0])
        return found

    def forget(self, log_id: LogId) -> None:
        """Forget the commits of a log and of its forks, as if they had never been fetched.

        No volume may be based on any of them. Forks are included because they need their parent.
        """
        with self._lock:
            forks = {each for each in self.catalog.known_logs() if log_id in self.lineage(each)}
            # Ordering: the log last, so that after a crash the same forks are found again.
            for each in sorted(forks, key=lambda found: found == log_id):
                self.catalog.forget_commits(each)
                self.catalog.absences.forget(each)
            for key in [key for key in list(self._views) if key[0] in forks]:
                del self._views[key]
            self.forget_proofs()

    def forget_logs(self, chosen: Callable[[], dict[LogId, int]]) -> dict[LogId, int]:
        """Forget logs that no volume needs; see the catalog."""
        with self._lock:
            found = self.catalog.forget_logs(chosen)
            for key in [key for key in list(self._views) if key[0] in found]:
                del self._views[key]
            self._proved = {proof for proof in self._proved if proof[1] not in found}
        return found

    def _parent(self, log_id: LogId) -> tuple[LogId, RemoteLsn] | None:
        """Return the parent of a forked log."""
        first = self.header(log_id, RemoteLsn(1))
        if first is None or first.parent_log is None:
            return None
        return first.parent_log, first.parent_lsn

    def _build(self, log_id: LogId, lsn: RemoteLsn, *, base: LogView | None) -> LogView:
        """Build a view from an older view of the log, or from its parent's view."""
        first = RemoteLsn(base.lsn + 1 if base is not None and base.log_id == log_id else 1)
        table = PageTable[FrameSource]()
        page_sizes, previous_hash = set(), NO_HASH
        if base is not None:
            page_sizes, previous_hash = {base.page_size}, base.hash
            table = base.table
        newest: CommitHeader | None = None
        # In steps, so that the memory for headers does not grow with the log.
        while first <= lsn:
            near = RemoteLsn(min(lsn, first + _BUILD_STEP_COMMITS - 1))
            last = self.catalog.last_within(log_id, first, near, _BUILD_STEP_BYTES)
            commits = self._commits(log_id, first, last, previous_hash)
            page_sizes.update(header.page_size for header, _ in commits)
            remote = self.log(log_id)
            sources = ((self._source(remote, *each), each[0].pages) for each in commits)
            table = table.advance(sources)
            newest = commits[-1][0]
            previous_hash = newest.hash
            first = RemoteLsn(last + 1)
        if len(page_sizes) > 1:
            raise CorruptObjectError(
                f"log {log_id} changes its page size before LSN {lsn}",
                next_step="open an older LSN, or restore the log from a replica",
            )
        assert newest is not None
        tip = Tip(
            newest.lsn,
            newest.hash,
            newest.page_size,
            newest.page_count,
            newest.change_counter,
            newest.time_ms,
        )
        return LogView(log_id, tip, table, self.space, self._executor, foreground=self.foreground)

    def _commits(
        self, log_id: LogId, first: RemoteLsn, last: RemoteLsn, previous_hash: bytes
    ) -> list[tuple[CommitHeader, int]]:
        """Return (header, its length) of commits first..last (inclusive), with a verified chain."""
        rows = self.catalog.commits(log_id, first, last)
        if [row.lsn for row in rows] != list(range(first, last + 1)):
            raise _damaged(
                f"the catalog lacks commits of log {log_id} between LSN {first} and {last}"
            )
        commits = [_decoded(log_id, row) for row in rows]
        hashes = [previous_hash, *(row.hash for row in rows)]
        if any(header.previous_hash != hashes[at] for at, (header, _) in enumerate(commits)):
            raise _damaged(
                f"the catalog's commits of log {log_id} up to LSN {last} belong to two histories"
            )
        return commits

    def _source(self, remote: RemoteLog, header: CommitHeader, header_length: int) -> FrameSource:
        return FrameSource(
            header.log_id,
            commit_source(header.lsn, header.hash),
            remote.body(header, header_length),
            # Where the log lives when pages are read, which may be elsewhere by then.
            functools.partial(self.remotes.last_of, header.log_id),
            self.cache(header.log_id),
        )

    def commit(self, log_id: LogId, lsn: RemoteLsn) -> tuple[CommitHeader, FrameSource] | None:
        """Return a known commit, and its source of frames, or None. No request."""
        rows = self.catalog.commits(log_id, lsn, lsn)
        if not rows:
            return None
        header, length = _decoded(log_id, rows[0])
        return header, self._source(self.log(log_id), header, length)

    def header(self, log_id: LogId, lsn: RemoteLsn) -> CommitHeader | None:
        """Return a known commit's header, or None."""
        rows = self.catalog.commits(log_id, lsn, lsn)
        return _decoded(log_id, rows[0])[0] if rows else None

    def records(self, log_id: LogId, first: RemoteLsn, last: RemoteLsn) -> list[CommitRecord]:
        """Return the known commits first..last, ascending, with their encoded headers."""
        return [
            CommitRecord(*_decoded(log_id, row), row.header)
            for row in self.catalog.commits(log_id, first, last)
        ]

    def cache_bytes(self) -> int:
        """Return the size in bytes of the page caches in use, on disk and in memory."""
        with self._lock:
            caches = living(self._caches)
        return self.space.memory_bytes + sum(cache.size_bytes() for cache in caches)

    def close(self) -> None:
        """Close the page caches."""
        with self._lock:
            for cache in living(self._caches):
                cache.close()
            self._caches.clear()
            if self._space is not None:
                self._space.close()


def _decoded(log_id: LogId, row: CommitRow) -> tuple[CommitHeader, int]:
    """Return (header, its length) of a known commit; raises CorruptCatalogError if misplaced.

    A header's hash does not cover its row, which a damaged or repaired catalog may have wrong.
    """
    header, length = decode_header(row.header, key=f"catalog commit {log_id}:{row.lsn}")
    if (header.log_id, header.lsn, header.hash) != (log_id, row.lsn, row.hash):
        raise _damaged(f"the catalog has another commit as LSN {row.lsn} of log {log_id}")
    return header, length


def _damaged(message: str) -> CorruptCatalogError:
    return CorruptCatalogError(message, next_step=Hint("run ", Advice.FETCH, ", or clone it again"))
