"""Leaves of a table: runs of pages, the sources of their images, and the frames that hold them.

This docstring is the normative text of the bytes of a leaf after decompression; `format.table` says
how leaves are found. Little-endian.

      0   4  number s of sources, at most 4096
      4   4  number r of runs, at most 4096
      8   4  number f of frames, at most 4096
     12 16s  log id of each source
     .. 16s  id of each source, the key of its frames in a page cache: of a commit, its LSN in 8
             bytes and the first 8 bytes of its hash; of a segment written by compaction, its id
     .. 16s  segment with the frames, or zeros: the frames follow the commit's header
     ..  8s  offset in bytes of frame 0 in that object
     ..  4s  pages in all frames of the object
     ..  2s  pages in each of its frames but the last, 1..64
     ..  4s  number of its frames that are recorded below
     ..  4r  first page of each run, less the page after the run before it; of the first run, less
             the first page of the leaf
     ..  4r  pages in each run, at least 1
     ..  4r  source of each run, less that of the run before it or 0, modulo 2^32
     ..  4r  slot of each run's first page, less the slot after the last run of the same source or
             0, modulo 2^32
     ..  4f  number of each frame, less that of the frame before it and less 1; of the first frame
             of a source, the number itself
     ..  8f  offset of each frame, less the end of the frame before it; of the first frame of a
             source, the offset itself, relative to frame 0
     ..  4f  compressed size of each frame in bytes, at least 1
     .. 16f  XXH3-128 of each compressed frame

Invariants:
 1. Runs are ascending and disjoint. They begin with the first page of the leaf and end with its
    last, and have no page 0, no lock page, and none beyond the page count.
 2. Each source has a run, and the frames recorded are exactly those that runs are in.
 3. A source of the table's own log is a commit that the table covers, or a segment. Sources of
    other logs are only in a complete table of a forked log.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from graft_vfs.format.columns import decode_column, encode_column
from graft_vfs.format.commit import HEADER_BYTES_MAX
from graft_vfs.format.frame import (
    CHECKSUM_BYTES,
    FRAME_PAGES_MAX,
    Frames,
    compressed_bytes_max,
)
from graft_vfs.format.segment import SEGMENT_HEADER_BYTES
from graft_vfs.format.sparse_frames import SparseFrames
from graft_vfs.format.table_facts import TableFacts, require
from graft_vfs.ids import ID_BYTES, LogId, SegmentId
from graft_vfs.pages import LSN_MAX, NO_LSN, PAGE_COUNT_MAX, RemoteLsn, lock_page

LEAF_PAGES = 4096
"""The most pages, and so the most runs, sources and frames, of a leaf."""

_COUNTS_BYTES = 12
_SOURCE_BYTES = 3 * ID_BYTES + 8 + 4 + 2 + 4
_RUN_BYTES = 4 * 4
_FRAME_BYTES = 4 + 8 + 4 + CHECKSUM_BYTES
LEAF_BYTES_MAX = _COUNTS_BYTES + LEAF_PAGES * (_SOURCE_BYTES + _RUN_BYTES + _FRAME_BYTES)
_NO_ID = bytes(ID_BYTES)
_U32 = 0xFFFF_FFFF
_OFFSET_MAX = (1 << 48) - 1


@dataclass(frozen=True, slots=True)
class Source:
    """The object that holds images: a commit, inline or in a segment, or a compaction's segment.

    `id` is the key of its frames in the page cache of `log_id`. `lsn` is NO_LSN for a segment
    written by compaction. `offset` is that of frame 0 in bytes, `slots` the pages of all frames.
    """

    log_id: LogId
    id: bytes
    lsn: RemoteLsn
    segment: SegmentId | None
    offset: int
    frame_pages: int
    slots: int

    def __hash__(self) -> int:
        return hash(self.id)


Run = tuple[int, int, Source, int]
"""(first page, page after the last, source, slot of the first)."""


class Leaf:
    """Up to 4096 pages of a table. Thread rule: any thread; nothing changes."""

    __slots__ = (
        "_checksums",
        "_ends",
        "_firsts",
        "_numbers",
        "_offsets",
        "_places",
        "_sizes",
        "_slots",
        "_source_frames",
        "sources",
    )

    def __init__(
        self,
        sources: tuple[Source, ...],
        runs: tuple[array[int], array[int], array[int], array[int]],
        frames: tuple[array[int], array[int], array[int], bytes],
        counts: Sequence[int],
    ) -> None:
        self.sources = sources
        self._firsts, self._ends, self._places, self._slots = runs
        self._numbers, self._offsets, self._sizes, self._checksums = frames
        bounds = pairwise(accumulate(counts, initial=0))
        self._source_frames = dict(zip(sources, bounds, strict=True))

    @classmethod
    def of(cls, runs: Sequence[Run], frames_of: Callable[[Source], Frames]) -> Leaf:
        """Return the leaf of ascending, disjoint runs of at most 4096 pages."""
        needed: dict[Source, set[int]] = {}
        for first, end, source, slot in runs:
            last = (slot + end - first - 1) // source.frame_pages
            needed.setdefault(source, set()).update(range(slot // source.frame_pages, last + 1))
        numbers, offsets, sizes = array("I"), array("Q"), array("I")
        checksums = []
        for source, frames in needed.items():
            recorded = frames_of(source)
            for frame in sorted(frames):
                offset, size = recorded.byte_range(frame, frame + 1)
                numbers.append(frame)
                offsets.append(offset)
                sizes.append(size)
                checksums.append(recorded.checksum(frame))
        places = {source: place for place, source in enumerate(needed)}
        firsts, ends, sources, slots = zip(*runs, strict=True)
        columns = (array("I", each) for each in (firsts, ends, map(places.get, sources), slots))
        return cls(
            tuple(needed),
            (next(columns), next(columns), next(columns), next(columns)),
            (numbers, offsets, sizes, b"".join(checksums)),
            [len(frames) for frames in needed.values()],
        )

    def find(self, page: int) -> tuple[Source, int] | None:
        """Return (source, slot) of a page's image, or None if the leaf has none."""
        at = bisect_right(self._firsts, page) - 1
        if at < 0 or page >= self._ends[at]:
            return None
        return self.sources[self._places[at]], self._slots[at] + page - self._firsts[at]

    def runs(self) -> Iterator[Run]:
        """Yield the runs, ascending."""
        columns = self._firsts, self._ends, self._places, self._slots
        for first, end, place, slot in zip(*columns, strict=True):
            yield first, end, self.sources[place], slot

    def frames(self, source: Source) -> SparseFrames:
        """Return the frames of one of the sources that hold pages of this leaf."""
        first, end = self._source_frames[source]
        return SparseFrames(
            source.frame_pages,
            self._numbers[first:end],
            self._offsets[first:end],
            self._sizes[first:end],
            self._checksums[first * CHECKSUM_BYTES : end * CHECKSUM_BYTES],
        )

    def encode(self) -> bytes:
        """Return the leaf's bytes before compression."""
        sources = self.sources
        counts = [end - first for first, end in self._source_frames.values()]
        head = array("I", (len(sources), len(self._firsts), len(self._numbers)))
        return b"".join(
            (
                encode_column(head),
                *(source.log_id.raw for source in sources),
                *(source.id for source in sources),
                *(source.segment.raw if source.segment else _NO_ID for source in sources),
                _column("Q", [source.offset for source in sources]),
                _column("I", [source.slots for source in sources]),
                _column("H", [source.frame_pages for source in sources]),
                _column("I", counts),
                *(_column("I", column) for column in self._run_deltas()),
                *self._frame_columns(counts),
            )
        )

    def _run_deltas(self) -> tuple[list[int], list[int], list[int], list[int]]:
        gaps, lengths, places, slots = [], [], [], []
        next_slots = [0] * len(self.sources)
        next_page, previous = self._firsts[0], 0
        columns = self._firsts, self._ends, self._places, self._slots
        for first, end, place, slot in zip(*columns, strict=True):
            gaps.append(first - next_page)
            lengths.append(end - first)
            places.append((place - previous) & _U32)
            slots.append((slot - next_slots[place]) & _U32)
            next_page, previous = end, place
            next_slots[place] = slot + end - first
        return gaps, lengths, places, slots

    def _frame_columns(self, counts: Sequence[int]) -> tuple[bytes, bytes, bytes, bytes]:
        skipped, gaps = [], []
        at = 0
        for count in counts:
            number, offset = -1, 0
            for place in range(at, at + count):
                skipped.append(self._numbers[place] - number - 1)
                gaps.append(self._offsets[place] - offset)
                number = self._numbers[place]
                offset = self._offsets[place] + self._sizes[place]
            at += count
        sizes = _column("I", self._sizes)
        return _column("I", skipped), _column("Q", gaps), sizes, self._checksums

    def check(self, facts: TableFacts, first_page: int, end_page: int, pages: int) -> None:
        """Raise ValueError unless this is a leaf of a table, with these pages."""
        require(len(self._firsts) > 0, "a leaf without runs")
        require(first_page == self._firsts[0] and end_page == self._ends[-1], "other pages")
        require(first_page >= 1 and end_page <= facts.page_count + 1, "a page beyond the last")
        lock = lock_page(facts.page_size)
        found, after = 0, 0
        needed: list[set[int]] = [set() for _ in self.sources]
        columns = self._firsts, self._ends, self._places, self._slots
        for first, end, place, slot in zip(*columns, strict=True):
            require(after <= first < end, "runs out of order")
            require(place < len(self.sources), "a run of no source")
            require(not first <= lock < end, "the lock page")
            # Ordering: before the frames of the run are listed, of which there may be billions.
            found, after = found + end - first, end
            require(found <= LEAF_PAGES, "too many pages")
            source = self.sources[place]
            last = slot + end - first - 1
            require(last < source.slots, "a slot beyond the last")
            size = source.frame_pages
            needed[place].update(range(slot // size, last // size + 1))
        require(found == pages, f"{found} pages instead of {pages}")
        for source, frames in zip(self.sources, needed, strict=True):
            _check_source(source, facts)
            self._check_frames(source, frames, facts.page_size)

    def _check_frames(self, source: Source, needed: set[int], page_size: int) -> None:
        first, end = self._source_frames[source]
        require(self._numbers[first:end].tolist() == sorted(needed), "other frames than needed")
        size_max = compressed_bytes_max(page_size, source.frame_pages)
        number, offset = -1, 0
        for at in range(first, end):
            skipped = self._numbers[at] - number - 1
            gap = self._offsets[at] - offset
            require(skipped <= gap <= skipped * size_max, "a frame at another offset")
            require(1 <= self._sizes[at] <= size_max, "a frame of an impossible size")
            number = self._numbers[at]
            offset = self._offsets[at] + self._sizes[at]


def decode_leaf(
    data: bytes, facts: TableFacts, *, first_page: int, end_page: int, pages: int
) -> Leaf:
    """Return a leaf from its bytes; raises ValueError or InvalidIdError if they are no leaf."""
    require(len(data) >= _COUNTS_BYTES, "too short")
    source_count, run_count, frame_count = decode_column(data[:_COUNTS_BYTES])
    require(max(source_count, run_count, frame_count) <= LEAF_PAGES, "too many parts")
    length = source_count * _SOURCE_BYTES + run_count * _RUN_BYTES + frame_count * _FRAME_BYTES
    require(_COUNTS_BYTES + length == len(data), "the parts do not add up to the length")
    columns = _Columns(data)
    sources, counts = _decode_sources(columns, source_count)
    require(sum(counts) == frame_count, "other frames than those of the sources")
    runs = _decode_runs(columns, run_count, source_count, first_page, end_page)
    leaf = Leaf(sources, runs, _decode_frames(columns, counts), counts)
    leaf.check(facts, first_page, end_page, pages)
    return leaf


class _Columns:
    """Takes one column after the other from the bytes of a leaf."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = _COUNTS_BYTES

    def take(self, length: int) -> bytes:
        self._at += length
        return self._data[self._at - length : self._at]

    def integers(self, count: int, typecode: str = "I") -> array[int]:
        return decode_column(self.take(count * array(typecode).itemsize), typecode)

    def ids(self, count: int) -> list[bytes]:
        data = self.take(count * ID_BYTES)
        return [data[at : at + ID_BYTES] for at in range(0, len(data), ID_BYTES)]


def _decode_sources(columns: _Columns, count: int) -> tuple[tuple[Source, ...], array[int]]:
    """Return the sources, and how many frames each has."""
    logs, ids, segments = (columns.ids(count) for _ in range(3))
    offsets = columns.integers(count, "Q")
    slots, frame_pages = columns.integers(count), columns.integers(count, "H")
    log_ids = {raw: LogId(raw) for raw in set(logs)}
    segment_ids = {raw: SegmentId(raw) for raw in set(segments) if raw != _NO_ID}
    sources = tuple(
        Source(
            log_ids[log],
            each,
            NO_LSN if each == segment else RemoteLsn(int.from_bytes(each[:8], "little")),
            segment_ids.get(segment),
            offset,
            size,
            total,
        )
        for log, each, segment, offset, size, total in zip(
            logs, ids, segments, offsets, frame_pages, slots, strict=True
        )
    )
    require(len(set(zip(logs, ids, strict=True))) == count, "a source twice")
    require(all(1 <= size <= FRAME_PAGES_MAX for size in frame_pages), "pages in a frame")
    return sources, columns.integers(count)


def _decode_runs(
    columns: _Columns, count: int, source_count: int, first_page: int, end_page: int
) -> tuple[array[int], array[int], array[int], array[int]]:
    gaps, lengths, place_deltas, slot_deltas = (columns.integers(count) for _ in range(4))
    total = sum(gaps) + sum(lengths)
    require(first_page + total == end_page, "runs that end with another page")
    firsts, ends, places, slots = array("I"), array("I"), array("I"), array("I")
    next_slots = [0] * source_count
    page, place = first_page, 0
    rows = zip(gaps, lengths, place_deltas, slot_deltas, strict=True)
    for gap, length, place_delta, slot_delta in rows:
        place = (place + place_delta) & _U32
        require(place < source_count, "a run of no source")
        slot = (next_slots[place] + slot_delta) & _U32
        firsts.append(page + gap)
        page += gap + length
        ends.append(page)
        places.append(place)
        slots.append(slot)
        next_slots[place] = slot + length
    return firsts, ends, places, slots


def _decode_frames(
    columns: _Columns, counts: array[int]
) -> tuple[array[int], array[int], array[int], bytes]:
    total = sum(counts)
    skipped, gaps = columns.integers(total), columns.integers(total, "Q")
    sizes = columns.integers(total)
    numbers, offsets = array("I"), array("Q")
    at = 0
    for count in counts:
        number, offset = -1, 0
        for place in range(at, at + count):
            number += skipped[place] + 1
            offset += gaps[place]
            require(number <= _U32 and offset <= _OFFSET_MAX, "a frame at an impossible offset")
            numbers.append(number)
            offsets.append(offset)
            offset += sizes[place]
        at += count
    return numbers, offsets, sizes, columns.take(total * CHECKSUM_BYTES)


def _check_source(source: Source, facts: TableFacts) -> None:
    require(len(source.id) == ID_BYTES, "the id of a source does not have 16 bytes")
    require(1 <= source.frame_pages <= FRAME_PAGES_MAX, f"{source.frame_pages} pages in a frame")
    require(1 <= source.slots <= PAGE_COUNT_MAX, f"{source.slots} pages in a source")
    if source.segment is None:
        require(1 <= source.offset <= HEADER_BYTES_MAX, f"frames at byte {source.offset}")
    else:
        require(
            SEGMENT_HEADER_BYTES <= source.offset <= _OFFSET_MAX, f"frames at byte {source.offset}"
        )
    require(source.lsn <= LSN_MAX, f"LSN {source.lsn}")
    if source.lsn == NO_LSN:
        require(source.segment is not None and source.segment.raw == source.id, "no source")
    else:
        require(source.lsn == int.from_bytes(source.id[:8], "little"), "the id of another LSN")
    if source.log_id == facts.log_id:
        is_covered = facts.after < source.lsn <= facts.lsn
        require(source.lsn == NO_LSN or is_covered, f"LSN {source.lsn}, which is not covered")
    else:
        require(facts.parent_log is not None and not facts.after, f"log {source.log_id}")


def _column(typecode: str, integers: Sequence[int]) -> bytes:
    return encode_column(array(typecode, integers))
