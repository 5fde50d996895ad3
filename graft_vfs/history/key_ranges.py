"""The keys of a table that can differ between two snapshots, found from pages without reading rows.

A leaf that has the same image in both snapshots contains the same rows in both. So only the key
ranges of other leaves need a comparison. Interior pages name their leaves and are less than 1 % of
a table; leaves are not read. If few pages changed, not even these are: see `changed_leaves`.

Invariants:
 1. A row outside the ranges is the same in both snapshots.
 2. A leaf may keep its image while an overflow page of one of its rows changes, because SQLite
    overwrites long values in place. A changed page that both snapshots have, and that is in no
    tree, freelist or pointer map of either, may be such a page: then all keys may differ.
 3. It ends for any pages: no page is visited twice, and an invalid tree is an error.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from pyroaring import BitMap

from graft_vfs.history.changed_leaves import ChangedLeaves, ChangedPages
from graft_vfs.ids import LogId
from graft_vfs.pages import lock_page
from graft_vfs.sqlite_format import btree, header
from graft_vfs.sqlite_format.btree import KEY_MAX, KEY_MIN, NoTreeError
from graft_vfs.view.log_view import LogView
from graft_vfs.view.source import FrameSource
from graft_vfs.volume.snapshot import Snapshot

KeyRange = tuple[int, int]
"""First and last rowid, both inclusive."""

PAGES_PER_CHANGE = 256
"""With fewer changed pages than one of so many, they are looked up one by one."""

_Run = tuple[int, int, FrameSource]
"""First page, page after the last, and the commit that has their images."""


@dataclass(slots=True)
class _Tree:
    """The pages of one b-tree, and its leaves with the last key that each may contain."""

    pages: BitMap = field(default_factory=BitMap)
    leaves: array[int] = field(default_factory=lambda: array("I"))
    last_keys: array[int] = field(default_factory=lambda: array("q"))
    is_table: bool = True

    def ranges(self, shared: BitMap) -> Iterator[KeyRange]:
        """Yield the key ranges of the leaves that are not shared."""
        first = KEY_MIN
        for leaf, last in zip(self.leaves, self.last_keys, strict=True):
            if leaf not in shared and first <= last:
                yield first, last
            first = last + 1


@dataclass(frozen=True, slots=True)
class Roots:
    """The roots of all b-trees of a snapshot, and those of its tables, with the schema's."""

    all: Collection[int]
    tables: Collection[int]


class ChangedKeys:
    """The possible differences between the rows of two snapshots, found from their pages.

    Owner: the comparison. Creating it reads the changed pages of tables and the way to them if
    these are few, or the interior pages of all trees, and fetches what is not cached. Raises the
    errors of reading a page.
    """

    def __init__(
        self, older: Snapshot, newer: Snapshot, older_roots: Roots, newer_roots: Roots
    ) -> None:
        self.pages = changed_pages(older, newer)
        self._snapshots = older, newer
        self._older: dict[int, _Tree] = {}
        self._newer: dict[int, _Tree] = {}
        self.is_known = older.page_size == newer.page_size
        self._leaves: ChangedLeaves | None = None
        try:
            if self.is_known:
                self._leaves = self._found_leaves(older_roots, newer_roots)
            if self.is_known and self._leaves is None:
                self._older = _trees(older, older_roots.all)
                self._newer = _trees(newer, newer_roots.all)
                self.is_known = not self._may_have_overflow(older, newer)
        except NoTreeError:
            self.is_known = False

    def _found_leaves(self, *roots: Roots) -> ChangedLeaves | None:
        """Find changed leaves without a walk; None if a walk costs less, or shows more."""
        pages_min = min(snapshot.page_count for snapshot in self._snapshots)
        if len(self.pages) * PAGES_PER_CHANGE > pages_min:
            return None
        sides = [
            ChangedPages(snapshot, _within(self.pages, snapshot), side.tables)
            for snapshot, side in zip(self._snapshots, roots, strict=True)
        ]
        try:
            found = ChangedLeaves(*sides)
        except NoTreeError:
            return None
        return None if _without_free(found.others, self._snapshots) else found

    def _may_have_overflow(self, older: Snapshot, newer: Snapshot) -> bool:
        common = BitMap(range(1, min(older.page_count, newer.page_count) + 1))
        left = self.pages & common
        for trees in (self._older, self._newer):
            left -= BitMap.union(BitMap(), *(tree.pages for tree in trees.values()))
        return bool(_without_free(left, (older, newer)))

    def ranges(
        self, older_root: int, newer_root: int, *, has_rowid: bool = True
    ) -> list[KeyRange] | None:
        """Return the key ranges of a rowid table that can differ, ascending and disjoint.

        None if they are unknown: every row must be compared. A table WITHOUT ROWID has no ranges:
        none if it is unchanged.
        """
        if not self.is_known:
            return None
        if self._leaves is not None:
            if older_root == newer_root and has_rowid:
                return _merged(self._leaves.ranges(older_root))
            if older_root == newer_root and not self._leaves.has_index_pages:
                return []
            try:
                self._walk_pair(older_root, newer_root)
            except NoTreeError:
                return None
        older, newer = self._older[older_root], self._newer[newer_root]
        if not (older.is_table and newer.is_table):
            return None if self._differ(older, newer) else []
        shared = (BitMap(older.leaves) & BitMap(newer.leaves)) - self.pages
        return _merged([*older.ranges(shared), *newer.ranges(shared)])

    def _walk_pair(self, older_root: int, newer_root: int) -> None:
        """Walk one tree of both snapshots."""
        older, newer = self._snapshots
        if older_root not in self._older:
            self._older |= _trees(older, [older_root])
        if newer_root not in self._newer:
            self._newer |= _trees(newer, [newer_root])

    def _differ(self, older: _Tree, newer: _Tree) -> bool:
        return older.pages != newer.pages or bool(older.pages & self.pages)


def _merged(ranges: list[KeyRange]) -> list[KeyRange]:
    merged: list[KeyRange] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


# Pages ------------------------------------------------------------------------------------------


def changed_pages(older: Snapshot, newer: Snapshot) -> BitMap:
    """Return the pages whose images may differ, including those in only one snapshot.

    Images are compared by their source, not by their bytes. No request.
    """
    pages = BitMap(range(1, max(older.page_count, newer.page_count) + 1))
    pages -= _same_pages(_runs(older), _runs(newer))
    for snapshot in (older, newer):
        pages.update(snapshot.local_pages())
        if snapshot.page_count:
            pages.discard(lock_page(snapshot.page_size))
    return pages


def _runs(snapshot: Snapshot) -> Iterator[_Run]:
    view = snapshot.remote
    if isinstance(view, LogView):
        for first, end, source, _ in view.table.runs():
            if first <= snapshot.page_count:
                yield first, min(end, snapshot.page_count + 1), source


def _same_pages(older: Iterator[_Run], newer: Iterator[_Run]) -> BitMap:
    """Return the pages that both page tables map to the same source."""
    same = BitMap()
    old, new = next(older, None), next(newer, None)
    while old is not None and new is not None:
        first, end = max(old[0], new[0]), min(old[1], new[1])
        if first < end and _origin(old) == _origin(new):
            same.add_range(first, end)
        if old[1] <= new[1]:
            old = next(older, None)
        else:
            new = next(newer, None)
    return same


def _origin(run: _Run) -> tuple[LogId, bytes]:
    return run[2].log_id, run[2].id


# B-trees ----------------------------------------------------------------------------------------


def _trees(snapshot: Snapshot, roots: Iterable[int]) -> dict[int, _Tree]:
    seen = BitMap()
    return {root: _walk(snapshot, root, seen) for root in roots}


def _walk(snapshot: Snapshot, root: int, seen: BitMap) -> _Tree:
    """Return the tree at a root; its pages are added to `seen`, and must not be in it yet."""
    tree = _Tree()
    pages, last_keys = array("I", [root]), array("q", [KEY_MAX])
    while True:
        level = BitMap(pages)
        is_sound = len(level) == len(pages) and not level & seen
        if not is_sound or level.min() < 1 or level.max() > snapshot.page_count:
            raise NoTreeError
        seen |= level
        tree.pages |= level
        # All leaves of a b-tree have the same depth, so one page decides for its level.
        kind = btree.kind(snapshot.stored(pages[0]), pages[0])
        if kind in btree.LEAVES:
            tree.leaves, tree.last_keys, tree.is_table = pages, last_keys, kind == btree.LEAF_TABLE
            return tree
        below, below_keys = array("I"), array("q")
        for page, last in zip(pages, last_keys, strict=True):
            for child, key in btree.children(snapshot.stored(page), page, kind):
                below.append(child)
                below_keys.append(last if key is None else key)
        pages, last_keys = below, below_keys


def _within(pages: BitMap, snapshot: Snapshot) -> BitMap:
    """Return pages that a snapshot has, without its pointer maps."""
    return (pages & BitMap(range(1, snapshot.page_count + 1))) - _pointer_maps(snapshot)


def _without_free(pages: BitMap, snapshots: Iterable[Snapshot]) -> BitMap:
    """Return pages without those that are free or pointer maps in one of the snapshots."""
    for snapshot in snapshots:
        if pages:
            pages = pages - _freelist(snapshot) - _pointer_maps(snapshot)
    return pages


def _freelist(snapshot: Snapshot) -> BitMap:
    """Return the pages on the freelist; raises NoTreeError if it is malformed."""
    pages = BitMap()
    trunk = int.from_bytes(snapshot.stored(1)[header.FIRST_FREELIST_TRUNK], "big")
    while trunk:
        if trunk in pages or trunk > snapshot.page_count:
            raise NoTreeError
        pages.add(trunk)
        trunk, leaves = btree.freelist_trunk(snapshot.stored(trunk))
        pages.update(leaves)
    return pages


def _pointer_maps(snapshot: Snapshot) -> BitMap:
    """Return the pointer map pages of an auto_vacuum database."""
    first_page = snapshot.stored(1)
    if not any(first_page[header.LARGEST_ROOT]):
        return BitMap()
    step = (snapshot.page_size - first_page[header.RESERVED_BYTES]) // 5 + 1
    omitted = lock_page(snapshot.page_size)
    return BitMap(page + (page == omitted) for page in range(2, snapshot.page_count + 1, step))
