"""The leaves of tables that differ between two snapshots, found from the changed pages alone.

For few changed pages in a large database: a leaf contains keys, and by one of them its tree is
found from the root. So the interior pages of unchanged parts are never read.

Invariants:
 1. A row outside the ranges of a table is the same in both snapshots. A leaf of only one tree is
    itself a changed page, or below a child that only one tree's changed interior pages have.
 2. A changed page that both snapshots use, and that is no page of a b-tree in either, may belong to
    a row whose leaf did not change (a long value that was overwritten in place). `others` has them.
    The first byte tells: up to PAGES_MAX pages, an overflow page begins with 0 or 1.
 3. What is not as SQLite writes it raises NoTreeError; then all trees are walked.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pyroaring import BitMap

from graft_vfs.sqlite_format import btree
from graft_vfs.sqlite_format.btree import KEY_MAX, KEY_MIN, NoTreeError
from graft_vfs.view.log_view import LogView
from graft_vfs.volume.snapshot import Snapshot

PAGES_MAX = 1 << 25
_DEPTH_MAX = 20

_Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ChangedPages:
    """The pages of a snapshot that differ in the other one, without its pointer maps.

    `tables` has the roots of its tables, of which those WITHOUT ROWID are ignored.
    """

    snapshot: Snapshot
    pages: BitMap
    tables: Collection[int]


class ChangedLeaves:
    """The key ranges that changed pages can contain, by the root of a table.

    Owner: the comparison. Creating it reads the changed pages of both snapshots, and the way to
    each from its root.
    """

    def __init__(self, older: ChangedPages, newer: ChangedPages) -> None:
        sides = [_Side(older), _Side(newer)]
        for side in sides:
            side.locate()
        first, second = sides
        self.has_index_pages = bool(first.index_pages or second.index_pages)
        self.others = (older.pages & newer.pages) - first.tree_pages - second.tree_pages
        self._ranges: dict[int, list[_Range]] = defaultdict(list)
        for side in sides:
            for root, found in side.leaves.items():
                self._ranges[root] += found
        for root in {*first.children, *second.children}:
            one, other = first.children[root], second.children[root]
            for child in one.keys() ^ other.keys():
                # One that changed itself has its leaves, or its own children, in this.
                if child not in older.pages and child not in newer.pages:
                    self._ranges[root].append(one[child] if child in one else other[child])

    def ranges(self, root: int) -> list[_Range]:
        """Return the key ranges of the table at a root, which is the same in both snapshots."""
        return self._ranges.get(root, [])


class _Side:
    """The changed pages of one snapshot and where in its tables they are."""

    def __init__(self, changed: ChangedPages) -> None:
        self._snapshot = changed.snapshot
        self._roots = sorted(changed.tables)
        self._changed = changed.pages
        if changed.snapshot.page_count >= PAGES_MAX:
            raise NoTreeError
        self._interior: dict[int, tuple[array[int], array[int]]] = {}
        self._depths: dict[int, int] = {}
        self.tree_pages = BitMap()
        """Changed pages that are of b-trees, or were before they became free."""
        self.index_pages = BitMap()
        self.leaves: dict[int, list[_Range]] = defaultdict(list)
        self.children: dict[int, dict[int, _Range]] = defaultdict(dict)
        """By root, the children of its changed interior pages."""

    def locate(self) -> None:
        """Find the tree and the key range of each changed page of a table."""
        if isinstance(self._snapshot.remote, LogView):
            self._snapshot.remote.fetch_pages(self._changed)
        for page in self._changed:
            image = self._snapshot.stored(page)
            kind = btree.kind(image, page)
            if kind in btree.INDEX_PAGES:
                self.tree_pages.add(page)
                self.index_pages.add(page)
            elif kind in btree.TABLE_PAGES:
                self.tree_pages.add(page)
                self._locate(page, kind, image)

    def _locate(self, page: int, kind: int, image: bytes) -> None:
        if page in self._roots:
            root, bounds = page, (KEY_MIN, KEY_MAX)
        else:
            key = btree.first_key(image, page, kind)
            found = next(self._found(page, key), None)
            if found is None:
                # It is free, and has what it had before.
                return
            root, bounds = found
        if kind == btree.LEAF_TABLE:
            self.leaves[root].append(bounds)
            return
        first, last = bounds
        for child, child_last in zip(*self._children(page), strict=True):
            self.children[root][child] = first, min(child_last, last)
            first = child_last + 1

    def _found(self, page: int, key: int) -> Iterator[tuple[int, _Range]]:
        """Yield the root of the tree that has a page, and the range of the page's keys."""
        # Most databases were written table by table, so that pages come after their root.
        before = [root for root in self._roots if root < page]
        after = [root for root in self._roots if root > page]
        for root in (*reversed(before), *after):
            bounds = self._descend(root, page, key)
            if bounds is not None:
                yield root, bounds

    def _descend(self, root: int, page: int, key: int) -> _Range | None:
        at, first, last = root, KEY_MIN, KEY_MAX
        for _ in range(self._depth(root)):
            children, last_keys = self._children(at)
            place = bisect_left(last_keys, key)
            if place:
                first = max(first, last_keys[place - 1] + 1)
            last = min(last, last_keys[place])
            at = children[place]
            if at == page:
                return first, last
        return None

    def _depth(self, root: int) -> int:
        """Return how many interior pages are above each leaf; 0 for an index."""
        if root not in self._depths:
            at, depth = root, 0
            while self._kind(at) not in {btree.LEAF_TABLE, *btree.INDEX_PAGES}:
                at, depth = self._children(at)[0][0], depth + 1
                if depth > _DEPTH_MAX:
                    raise NoTreeError
            self._depths[root] = depth
        return self._depths[root]

    def _kind(self, page: int) -> int:
        return btree.kind(self._snapshot.stored(page), page)

    def _children(self, page: int) -> tuple[array[int], array[int]]:
        """Return the children of an interior page of a table, and their last keys."""
        if page not in self._interior:
            children, last_keys = array("I"), array("q")
            image = self._snapshot.stored(page)
            for child, key in btree.children(image, page, btree.INTERIOR_TABLE):
                if not 1 < child <= self._snapshot.page_count:
                    raise NoTreeError
                children.append(child)
                last_keys.append(KEY_MAX if key is None else key)
            self._interior[page] = children, last_keys
        return self._interior[page]
