"""What the commits of a log say that its tables should, and how a table differs from that."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from graft_vfs.format.commit import CommitHeader
from graft_vfs.ids import LogId
from graft_vfs.pages import NO_LSN, PAGE_COUNT_MAX, RemoteLsn
from graft_vfs.remote.commit_reader import CommitRecord
from graft_vfs.remote.log import origin_of
from graft_vfs.view.logs import Logs
from graft_vfs.view.page_table import PageTable
from graft_vfs.view.source import FrameSource
from graft_vfs.view.table_layer import TableLayer

_BATCH_COMMITS = 64
_FRAMES_IN_MEMORY = 256

_Run = tuple[int, int, FrameSource, int]


@dataclass(frozen=True, slots=True)
class State:
    """What commits (after, lsn] of a log say: where pages are, and the facts of commit `lsn`."""

    after: RemoteLsn
    lsn: RemoteLsn
    table: PageTable[FrameSource]
    least_pages: int
    header: CommitHeader
    parent: tuple[LogId, RemoteLsn] | None


@dataclass(slots=True)
class _Growing:
    """The state of commits after one LSN, as far as they have been read."""

    table: PageTable[FrameSource]
    least_pages: int = PAGE_COUNT_MAX


def states(logs: Logs, log_id: LogId, wanted: set[tuple[RemoteLsn, RemoteLsn]]) -> Iterator[State]:
    """Yield the states of (after, lsn] pairs by ascending LSN, made of the remote's commits alone.

    One request for each commit up to the newest LSN, also for those of the logs that it was forked
    from, 32 at a time. Raises CorruptObjectError at a gap or a damaged commit.
    """
    if not wanted:
        return
    ends = sorted({end for pair in wanted for end in pair} - {NO_LSN})
    growing: dict[RemoteLsn, _Growing] = {}
    parent: tuple[LogId, RemoteLsn] | None = None
    for batch in _batches(logs, log_id, ends):
        first, last = batch[0].header, batch[-1].header
        before = RemoteLsn(first.lsn - 1)
        if first.parent_log is not None:
            parent = first.parent_log, first.parent_lsn
        if before not in growing and any(after == before for after, _ in wanted):
            base = _whole(logs, *parent) if parent and not before else None
            growing[before] = _Growing(base or PageTable())
        added = [(_source(logs, each), each.header.pages, each.header.page_count) for each in batch]
        for each in growing.values():
            each.table = each.table.advance(added)
            each.least_pages = min(each.least_pages, *(count for _, _, count in added))
        for after in list(growing):
            if (after, last.lsn) in wanted:
                found = growing[after]
                yield State(after, last.lsn, found.table, found.least_pages, last, parent)
            if not any(each == after and lsn > last.lsn for each, lsn in wanted):
                del growing[after]


def _batches(logs: Logs, log_id: LogId, ends: list[RemoteLsn]) -> Iterator[list[CommitRecord]]:
    """Yield all commits up to the last end, in batches that do not reach past any end."""
    bounds = set(ends)
    batch: list[CommitRecord] = []
    for record in logs.log(log_id).read_headers(RemoteLsn(1), ends[-1], previous_hash=None):
        batch.append(record)
        if record.header.lsn in bounds or len(batch) == _BATCH_COMMITS:
            yield batch
            batch = []


def _whole(logs: Logs, log_id: LogId, lsn: RemoteLsn) -> PageTable[FrameSource]:
    """Return where the pages of a log are at an LSN, by its commits alone."""
    lineage, at = [(log_id, lsn)], (log_id, lsn)
    while True:
        (first,) = logs.log(at[0]).read_headers(RemoteLsn(1), RemoteLsn(1), previous_hash=None)
        if first.header.parent_log is None:
            break
        at = first.header.parent_log, first.header.parent_lsn
        lineage.append(at)
    table: PageTable[FrameSource] = PageTable()
    for each, last in reversed(lineage):
        for batch in _batches(logs, each, [last]):
            table = table.advance(
                (_source(logs, record), record.header.pages, record.header.page_count)
                for record in batch
            )
    return table


def _source(logs: Logs, record: CommitRecord) -> FrameSource:
    header = record.header
    origin = origin_of(header, record.header_length)
    return logs.source_of(origin, header.frames, page_size=header.page_size)


# Comparing --------------------------------------------------------------------------------------


def difference(state: State, layer: TableLayer, *, deep: bool) -> str | None:
    """Return how a table differs from what the commits say, or None.

    Of images that compaction moved, the pages are compared, and with `deep` their bytes. Requests:
    the blocks of the table that were not read yet, and with `deep` frames.
    """
    facts, header = layer.head.facts, state.header
    for name, said, true in (
        ("hash", facts.hash, header.hash),
        ("page size", facts.page_size, header.page_size),
        ("page count", facts.page_count, header.page_count),
        ("change counter", facts.change_counter, header.change_counter),
        ("time", facts.time_ms, header.time_ms),
        ("parent", (facts.parent_log, facts.parent_lsn), state.parent or (None, NO_LSN)),
        (
            "smallest page count",
            facts.least_pages if state.after else 0,
            state.least_pages if state.after else 0,
        ),
    ):
        if said != true:
            return f"its {name} is not that of the commits"
    equal = _Images(header.page_size).equal if deep else None
    page = _first_difference(state.table.runs(), layer.runs(), equal)
    if page is None:
        return None
    return f"it contradicts the commits: page {page} is not where it says"


def _first_difference(
    true: Iterator[_Run],
    said: Iterator[_Run],
    equal: Callable[[FrameSource, int, FrameSource, int], bool] | None,
) -> int | None:
    """Return the first page of which two tables say different things."""
    ours, theirs = next(true, None), next(said, None)
    while ours is not None and theirs is not None:
        if ours[0] != theirs[0]:
            return min(ours[0], theirs[0])
        end = min(ours[1], theirs[1])
        for at in range(end - ours[0]):
            one, other = (ours[2], ours[3] + at), (theirs[2], theirs[3] + at)
            if other[0].origin.lsn:
                is_same = _is_same_place(*one, *other)
            else:
                is_same = equal is None or equal(*one, *other)
            if not is_same:
                return ours[0] + at
        ours = _rest(ours, end) or next(true, None)
        theirs = _rest(theirs, end) or next(said, None)
    left = ours or theirs
    return None if left is None else left[0]


def _rest(run: _Run, first: int) -> _Run | None:
    if run[1] == first:
        return None
    return first, run[1], run[2], run[3] + first - run[0]


def _is_same_place(one: FrameSource, slot: int, other: FrameSource, its_slot: int) -> bool:
    if (one.origin, slot) != (other.origin, its_slot):
        return False
    frame = slot // one.origin.frame_pages
    ours, theirs = one.body.frames, other.body.frames
    places = ours.byte_range(frame, frame + 1), theirs.byte_range(frame, frame + 1)
    return places[0] == places[1] and ours.checksum(frame) == theirs.checksum(frame)


class _Images:
    """Reads images of pages from the remote. Owner: one comparison."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._frame = functools.lru_cache(_FRAMES_IN_MEMORY)(_frame)

    def equal(self, one: FrameSource, slot: int, other: FrameSource, its_slot: int) -> bool:
        """Return True if two slots have the same image. Raises StoreError, CorruptObjectError."""
        return self._image(one, slot) == self._image(other, its_slot)

    def _image(self, source: FrameSource, slot: int) -> bytes:
        frame, at = divmod(slot, source.origin.frame_pages)
        return self._frame(source, frame)[at * self._page_size :][: self._page_size]


def _frame(source: FrameSource, frame: int) -> bytes:
    (images,) = source.body.read(source.store(), [frame])
    return images
