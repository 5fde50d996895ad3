"""The remote logs that this machine knows: their handles, page caches and views.

A view is built from the tables and commits in the catalog, so its cost does not grow with the log.
It sends no request, but its pages may need blocks of a large table from the remote. It extends the
newest older view of its log that is in use, so the cost of following a log depends only on its new
commits. Views, and their caches, live as long as they are in use.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from graft_vfs.advice import Advice, Hint
from graft_vfs.counters import Counters
from graft_vfs.errors import CorruptCatalogError, CorruptObjectError, ObjectMissingError
from graft_vfs.format.commit import (
    GRACE_END,
    GRACE_SECONDS_MIN,
    NO_HASH,
    CommitHeader,
    decode_header,
    grace_seconds_of,
    hash_of,
)
from graft_vfs.format.frame import Frames, checksum_of
from graft_vfs.format.table import Block, Source, TableHead, decode_head
from graft_vfs.ids import ID_BYTES, LogId
from graft_vfs.local.cache.arena import FrameKey
from graft_vfs.local.cache.page_cache import PageCache
from graft_vfs.local.cache.space import CacheSpace
from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.local.catalog.known_tables import TableRow
from graft_vfs.local.catalog.rows import CommitRow
from graft_vfs.pages import NO_LSN, PAGE_COUNT_MAX, RemoteLsn
from graft_vfs.reentry import living, occupied
from graft_vfs.remote.belief import Belief
from graft_vfs.remote.commit_reader import CommitRecord
from graft_vfs.remote.log import RemoteLog, body_of, origin_of
from graft_vfs.remote.remotes import Remotes
from graft_vfs.remote.tables import table_key
from graft_vfs.view.foreground import Foreground
from graft_vfs.view.log_view import LogView, Tip
from graft_vfs.view.page_table import PageTable
from graft_vfs.view.remote_view import EmptyRemoteView, RemoteView
from graft_vfs.view.source import FrameSource
from graft_vfs.view.table_layer import TableLayer
from graft_vfs.view.tiling import Headers, Piece, tiling

_logger = logging.getLogger(__name__)

_BUILD_STEP_COMMITS = 512
_BUILD_STEP_BYTES = 16 << 20
_DECODED_BYTES_MAX = 128 << 10
"""A longer table is not decoded whole when it is opened."""
_IN_MEMORY_BYTES_MAX = 16 << 20
"""Of a longer table that is whole here, blocks are read from the catalog when pages need them."""
_TRIES = 8
"""Each further one needs another table that a process made meanwhile."""


T = TypeVar("T")


class _ReplacedError(CorruptObjectError):
    """A table that was found in the catalog is no longer there, because a newer one covers it."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the view of a log at an LSN is made of; complete if it needs no parent's view."""

    log_id: LogId
    lsn: RemoteLsn
    pieces: list[Piece]
    is_complete: bool


@dataclass(frozen=True, slots=True)
class _TablePlace:
    """Where a table is: in the catalog, on the remote, and, by its name, in the page cache.

    Holding the cache keeps it open, although no source of frames may use it yet. `data` is all of
    the table, if that is not large: the catalog replaces tables while views use them.
    """

    row: TableRow
    key: str
    name: bytes
    cache: PageCache
    data: bytes | None

    def name_of(self, block: Block) -> FrameKey:
        return FrameKey(self.name, block.offset)


@dataclass(slots=True)
class Assembled:
    """What pieces of a log say together: where pages are, and the newest commit, if any.

    `least_pages` is the smallest page count of their commits.
    """

    table: PageTable[FrameSource] = field(default_factory=PageTable[FrameSource])
    page_sizes: set[int] = field(default_factory=set)
    previous_hash: bytes | None = None
    tip: Tip | None = None
    least_pages: int = PAGE_COUNT_MAX


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
        return self.while_tables_change(lambda: self._log_view(log_id, lsn))

    def while_tables_change(self, act: Callable[[], T]) -> T:
        """Return what a reader of known tables returns; it starts again if one was replaced.

        Another process may forget a table, because a newer one covers it, after this one has found
        it in the catalog.
        """
        for _ in range(_TRIES - 1):
            try:
                return act()
            except _ReplacedError as error:
                _logger.debug("read tables again: %s", error)
        return act()

    def _log_view(self, log_id: LogId, lsn: RemoteLsn) -> LogView:
        with self._lock:
            step: tuple[LogId, RemoteLsn] | None = (log_id, lsn)
            view, missing = self._views.get((log_id, lsn)), list[_Plan]()
            # Forks of forks may be nested deeper than the call stack.
            while view is None and step is not None:
                if any((each.log_id, each.lsn) == step for each in missing):
                    raise _damaged(f"in the catalog, log {log_id} is a fork of itself")
                view = self._base(*step)
                missing.append(self._plan(*step, view))
                step = None if missing[-1].is_complete else self.parent(step[0])
                view = self._views.get(step) if step else view
            for plan in reversed(missing):
                view = self._views[plan.log_id, plan.lsn] = self._build(plan, base=view)
            assert view is not None
            return view

    def _base(self, log_id: LogId, lsn: RemoteLsn) -> LogView | None:
        """Return the view that the view at `lsn` can extend by commits that are known."""
        older = (view for view in living(self._views) if view.log_id == log_id and view.lsn < lsn)
        newest = max(older, key=lambda view: view.lsn, default=None)
        if newest is None or self.catalog.lacks_commits(log_id, RemoteLsn(newest.lsn + 1), lsn):
            return None
        return newest

    def _plan(self, log_id: LogId, lsn: RemoteLsn, base: LogView | None) -> _Plan:
        if base is not None:
            return _Plan(log_id, lsn, [Headers(RemoteLsn(base.lsn + 1), lsn)], is_complete=True)
        pieces = tiling(self.catalog.tables.all(log_id), lsn)
        return _Plan(log_id, lsn, pieces, is_complete=isinstance(pieces[0], TableRow))

    def can_view(self, log_id: LogId, lsn: RemoteLsn) -> bool:
        """Return True if the catalog has all that the view at `lsn` is built from. No request."""
        step: tuple[LogId, RemoteLsn] | None = (log_id, lsn)
        seen = set()
        while step is not None and step not in seen:
            seen.add(step)
            plan = self._plan(*step, None)
            headers = (piece for piece in plan.pieces if isinstance(piece, Headers))
            if any(self.catalog.lacks_commits(step[0], each.first, each.last) for each in headers):
                return False
            step = None if plan.is_complete else self.parent(step[0])
        return True

    def lineage(self, log_id: LogId) -> set[LogId]:
        """Return a known log and all its ancestors. No request."""
        found, parent = {log_id}, self.parent(log_id)
        while parent is not None and parent[0] not in found:
            found.add(parent[0])
            parent = self.parent(parent[0])
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
                self.catalog.tables.forget(each)
            for key in [key for key in list(self._views) if key[0] in forks]:
                del self._views[key]
            self.forget_proofs()

    def forget_views(self, log_id: LogId) -> None:
        """Build the next views of a log from its tables, not from views that are in use."""
        with self._lock:
            for key in [key for key in list(self._views) if key[0] == log_id]:
                del self._views[key]

    def forget_logs(self, chosen: Callable[[], dict[LogId, int]]) -> dict[LogId, int]:
        """Forget logs that no volume needs; see the catalog."""
        with self._lock:
            found = self.catalog.forget_logs(chosen)
            for key in [key for key in list(self._views) if key[0] in found]:
                del self._views[key]
            self._proved = {proof for proof in self._proved if proof[1] not in found}
        return found

    def parent(self, log_id: LogId) -> tuple[LogId, RemoteLsn] | None:
        """Return the (log, LSN) that a known log was forked from, or None. No request."""
        known = self.catalog.tables.parent(log_id)
        if known is not None:
            return known
        first = self.header(log_id, RemoteLsn(1))
        if first is None or first.parent_log is None:
            return None
        return first.parent_log, first.parent_lsn

    def _build(self, plan: _Plan, *, base: LogView | None) -> LogView:
        """Build a view from an older view of the log, from its parent's view, or from nothing."""
        so_far = self.assembled(plan.log_id, plan.pieces, base)
        if len(so_far.page_sizes) > 1:
            raise CorruptObjectError(
                f"log {plan.log_id} changes its page size before LSN {plan.lsn}",
                next_step="open an older LSN, or restore the log from a replica",
            )
        assert so_far.tip is not None
        return LogView(
            plan.log_id,
            so_far.tip,
            so_far.table,
            self.space,
            self._executor,
            foreground=self.foreground,
        )

    def assembled(self, log_id: LogId, pieces: Iterable[Piece], base: LogView | None) -> Assembled:
        """Return what some pieces of a log add to a view, or to nothing. No request.

        Raises CorruptCatalogError if commits are missing or belong to another log.
        """
        so_far = Assembled()
        if base is not None:
            so_far = Assembled(base.table, {base.page_size}, base.hash)
        for piece in pieces:
            if isinstance(piece, TableRow):
                self._add_table(so_far, piece)
            else:
                self._add_commits(so_far, log_id, piece)
        return so_far

    def _add_table(self, so_far: Assembled, row: TableRow) -> None:
        layer = self.layer(row)
        facts = layer.head.facts
        least, count = facts.least_pages, facts.page_count
        if row.is_whole and row.length <= _DECODED_BYTES_MAX:
            so_far.table = so_far.table.overlaid(layer.runs(), least=least, page_count=count)
        else:
            so_far.table = so_far.table.above(layer, least=least, page_count=count)
        so_far.page_sizes.add(facts.page_size)
        so_far.previous_hash = facts.hash
        so_far.least_pages = min(so_far.least_pages, least)
        so_far.tip = Tip(
            facts.lsn,
            facts.hash,
            facts.page_size,
            facts.page_count,
            facts.change_counter,
            facts.time_ms,
        )

    def _add_commits(self, so_far: Assembled, log_id: LogId, piece: Headers) -> None:
        # In steps, so that the memory for headers does not grow with the log.
        first = piece.first
        while first <= piece.last:
            near = RemoteLsn(min(piece.last, first + _BUILD_STEP_COMMITS - 1))
            last = self.catalog.last_within(log_id, first, near, _BUILD_STEP_BYTES)
            commits = self._commits(log_id, first, last, so_far.previous_hash)
            so_far.page_sizes.update(header.page_size for header, _ in commits)
            so_far.table = so_far.table.advance(
                (self._source(*each), each[0].pages, each[0].page_count) for each in commits
            )
            counts = (header.page_count for header, _ in commits)
            so_far.least_pages = min(so_far.least_pages, *counts)
            newest = commits[-1][0]
            so_far.previous_hash = newest.hash
            so_far.tip = Tip(
                newest.lsn,
                newest.hash,
                newest.page_size,
                newest.page_count,
                newest.change_counter,
                newest.time_ms,
            )
            first = RemoteLsn(last + 1)

    def _commits(
        self, log_id: LogId, first: RemoteLsn, last: RemoteLsn, previous_hash: bytes | None
    ) -> list[tuple[CommitHeader, int]]:
        """Return (header, its length) of commits first..last (inclusive), with a verified chain.

        `previous_hash` is that of the commit before them, None if that is not known.
        """
        rows = self.catalog.commits(log_id, first, last)
        if [row.lsn for row in rows] != list(range(first, last + 1)):
            raise _damaged(
                f"the catalog lacks commits of log {log_id} between LSN {first} and {last}"
            )
        commits = [_decoded(log_id, row) for row in rows]
        if previous_hash is None:
            previous_hash = NO_HASH if first == 1 else commits[0][0].previous_hash
        hashes = [previous_hash, *(row.hash for row in rows)]
        if any(header.previous_hash != hashes[at] for at, (header, _) in enumerate(commits)):
            raise _damaged(
                f"the catalog's commits of log {log_id} up to LSN {last} belong to two histories"
            )
        return commits

    def _source(self, header: CommitHeader, header_length: int) -> FrameSource:
        origin = origin_of(header, header_length)
        return self.source_of(origin, header.frames, page_size=header.page_size)

    def source_of(self, origin: Source, frames: Frames, *, page_size: int) -> FrameSource:
        """Return a source of frames of a log, with its page cache. No request."""
        return FrameSource(
            origin,
            body_of(origin, frames, page_size=page_size),
            # Where the log lives when pages are read, which may be elsewhere by then.
            functools.partial(self.remotes.last_of, origin.log_id),
            self.cache(origin.log_id),
        )

    # Tables -----------------------------------------------------------------------------------

    def layer(self, row: TableRow) -> TableLayer:
        """Return a known table; its blocks are read when pages need them. No request.

        Raises CorruptCatalogError if the catalog lacks its beginning.
        """
        key = table_key(row.log_id, row.lsn, row.after, row.suffix)
        head = self._head(row, key)
        name = hash_of(head.facts.hash + key.encode())[:ID_BYTES]
        page_size = head.facts.page_size
        place = _TablePlace(row, key, name, self.cache(row.log_id), self._whole(row, key))
        return TableLayer(
            head,
            key=key,
            read=lambda block: self._block(place, block),
            is_near=lambda block: row.is_whole or place.cache.has(place.name_of(block)),
            bring=lambda blocks: self._bring(place, blocks),
            source_of=lambda origin, frames: self.source_of(origin, frames, page_size=page_size),
        )

    def _head(self, row: TableRow, key: str) -> TableHead:
        try:
            head = decode_head(self.catalog.tables.beginning(row), key=key)
        except CorruptCatalogError as error:
            raise self._replaced(row, key) or error from None
        if (head.facts.log_id, head.facts.lsn, head.facts.hash) != (row.log_id, row.lsn, row.hash):
            raise _damaged(f"the catalog has another table for LSN {row.lsn} of log {row.log_id}")
        return head

    def _whole(self, row: TableRow, key: str) -> bytes | None:
        """Return the bytes of a table that is whole here, unless it is large."""
        if not row.is_whole or row.length > _IN_MEMORY_BYTES_MAX:
            return None
        data = self.catalog.tables.read(row, 0, row.length)
        if data is None:
            raise self._replaced(row, key) or _damaged(f"the catalog has a part of {key}")
        return data

    def _block(self, place: _TablePlace, block: Block) -> bytes:
        """Return the bytes of a block: of the catalog, of the page cache, or of the remote."""
        if place.data is not None:
            return place.data[block.offset : block.offset + block.length]
        kept = self.catalog.tables.read(place.row, block.offset, block.length)
        if kept is not None:
            return kept
        with occupied():
            found = place.cache.find(place.name_of(block), block.length)
            if found is not None:
                return bytes(found.view[found.offset : found.offset + block.length])
            return self._fetched(place, [block])

    def _bring(self, place: _TablePlace, blocks: Sequence[Block]) -> None:
        if not place.row.is_whole:
            with occupied():
                self._fetched(place, blocks)

    def _fetched(self, place: _TablePlace, blocks: Sequence[Block]) -> bytes:
        """Fetch adjacent blocks into the page cache with one request, and return their bytes."""
        first, last = blocks[0], blocks[-1]
        length = last.offset + last.length - first.offset
        data = self._read_table(place, first.offset, length)
        for block in blocks:
            at = block.offset - first.offset
            found = data[at : at + block.length]
            # A damaged one must not be found there again.
            if checksum_of(found) == block.checksum:
                place.cache.add(place.name_of(block), found)
        return data

    def _read_table(self, place: _TablePlace, offset: int, length: int) -> bytes:
        try:
            return self.remotes.last_of(place.row.log_id).get_range(place.key, offset, length)
        except ObjectMissingError as error:
            self.forget_views(place.row.log_id)
            replaced = self._replaced(place.row, place.key)
            if replaced is not None:
                raise replaced from error
            # The next fetch learns where pages are from another table, or from all commits.
            self.catalog.tables.forget_one(place.row)
            raise CorruptObjectError(
                f"{place.key} is gone, which says where pages of this database are",
                next_step=Hint("run ", Advice.FETCH, ", then open the volume again"),
            ) from error

    def _replaced(self, row: TableRow, key: str) -> _ReplacedError | None:
        """Return an error if the catalog no longer has a table, because newer ones cover it."""
        known = {
            (each.lsn, each.after, each.suffix) for each in self.catalog.tables.all(row.log_id)
        }
        if (row.lsn, row.after, row.suffix) in known:
            return None
        return _ReplacedError(
            f"{key} was replaced on this machine by a newer table while it was read",
            next_step="begin the transaction again",
        )

    def commit(self, log_id: LogId, lsn: RemoteLsn) -> tuple[CommitHeader, FrameSource] | None:
        """Return a known commit, and its source of frames, or None. No request."""
        rows = self.catalog.commits(log_id, lsn, lsn)
        if not rows:
            return None
        header, length = _decoded(log_id, rows[0])
        return header, self._source(header, length)

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
