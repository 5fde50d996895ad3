"""A table of a remote log as a layer of a page table: its blocks are read when a page needs them.

A page costs one block of each level, of which the root is always in memory, and the last blocks
that were used are kept in memory. So what a reader of a few pages reads does not depend on the size
of the database.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from graft_vfs.format.frame import Frames
from graft_vfs.format.sparse_frames import SparseFrames
from graft_vfs.format.table import Block, Leaf, Source, TableHead, decode_block
from graft_vfs.view.source import FrameSource

_RANGE_BYTES_MAX = 8 << 20
_BLOCKS_MAX = 512
"""The most decoded blocks in memory, 4096 pages each."""


@dataclass(frozen=True, slots=True)
class _LoadedLeaf:
    leaf: Leaf
    sources: dict[Source, FrameSource]


class TableLayer:
    """One table. Owner: the views that use it. Thread rule: any thread, and no lock.

    `read` returns the bytes of a block, `is_near` tells if that takes no request, `bring` makes
    adjacent blocks near with one request, and `source_of` makes a source of frames. `key` names the
    object.
    """

    def __init__(
        self,
        head: TableHead,
        *,
        key: str,
        read: Callable[[Block], bytes],
        is_near: Callable[[Block], bool],
        bring: Callable[[Sequence[Block]], None],
        source_of: Callable[[Source, Frames], FrameSource],
    ) -> None:
        self.head = head
        self._key = key
        self._read = read
        self._is_near = is_near
        self._bring = bring
        self._source_of = source_of
        self._nodes: dict[int, tuple[Block, ...]] = {}
        self._leaves: dict[int, _LoadedLeaf] = {}

    def find(self, page: int) -> tuple[FrameSource, int] | None:
        """Return (source, slot) of a page's image, or None. May read blocks."""
        entries = self.head.root
        while (block := _child(entries, page)) is not None:
            if block.level == 0:
                loaded = self._leaf(block)
                found = loaded.leaf.find(page)
                return None if found is None else (loaded.sources[found[0]], found[1])
            entries = self._node(block)
        return None

    def is_near(self, page: int) -> bool:
        """Return True if all blocks that a page needs are on this machine."""
        entries = self.head.root
        while (block := _child(entries, page)) is not None:
            is_loaded = block.offset in (self._nodes if block.level else self._leaves)
            if not is_loaded and not self._is_near(block):
                return False
            if block.level == 0:
                return True
            entries = self._node(block)
        return True

    def runs(self) -> Iterator[tuple[int, int, FrameSource, int]]:
        """Yield all runs, ascending. Each source appears as one object.

        Reads all blocks; requests: one for 8 MiB of those that are not near.
        """
        leaves = [self._decoded(block) for block in self._brought(self.head.root)]
        frames: dict[Source, list[SparseFrames]] = {}
        for leaf in leaves:
            for source in leaf.sources:
                frames.setdefault(source, []).append(leaf.frames(source))
        sources = {
            source: self._source_of(source, SparseFrames.joined(parts))
            for source, parts in frames.items()
        }
        for leaf in leaves:
            for first, end, source, slot in leaf.runs():
                yield first, end, sources[source], slot

    def _brought(self, entries: tuple[Block, ...]) -> Iterator[Block]:
        """Yield the leaves below some blocks."""
        for batch in _batches(entries):
            if not all(map(self._is_near, batch)):
                self._bring(batch)
            for block in batch:
                if block.level == 0:
                    yield block
                else:
                    yield from self._brought(self._node(block))

    def _node(self, block: Block) -> tuple[Block, ...]:
        node = self._nodes.get(block.offset)
        if node is None:
            found = decode_block(self._read(block), block, key=self._key)
            assert isinstance(found, tuple)
            if len(self._nodes) >= _BLOCKS_MAX:
                self._nodes.clear()
            node = self._nodes[block.offset] = found
        return node

    def _leaf(self, block: Block) -> _LoadedLeaf:
        loaded = self._leaves.get(block.offset)
        if loaded is None:
            leaf = self._decoded(block)
            sources = {each: self._source_of(each, leaf.frames(each)) for each in leaf.sources}
            # A dictionary that two threads fill keeps one of two equal values.
            if len(self._leaves) >= _BLOCKS_MAX:
                self._leaves.clear()
            loaded = self._leaves[block.offset] = _LoadedLeaf(leaf, sources)
        return loaded

    def _decoded(self, block: Block) -> Leaf:
        leaf = decode_block(self._read(block), block, key=self._key)
        assert isinstance(leaf, Leaf)
        return leaf


def _batches(blocks: tuple[Block, ...]) -> Iterator[list[Block]]:
    """Yield adjacent blocks together, up to 8 MiB of them."""
    batch: list[Block] = []
    for block in blocks:
        if batch and block.offset + block.length - batch[0].offset > _RANGE_BYTES_MAX:
            yield batch
            batch = []
        batch.append(block)
    if batch:
        yield batch


def _child(entries: tuple[Block, ...], page: int) -> Block | None:
    """Return the block that may have a page, of blocks in ascending order."""
    number = bisect_right(entries, page, key=lambda block: block.first_page) - 1
    if number < 0 or page >= entries[number].end_page:
        return None
    return entries[number]
