"""Making the next table of a log from those that are known, and from the commits after them.

A table is due every 24 commits. It takes in the tables before it while each is not much longer than
what it has already, so a log has few tables, and each page is written into few of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from graft_vfs.format.frame import Frames
from graft_vfs.format.sparse_frames import SparseFrames
from graft_vfs.format.table import Run, Source, encode_table
from graft_vfs.format.table_facts import Beneath, TableFacts
from graft_vfs.ids import LogId
from graft_vfs.local.catalog.known_tables import TableRow
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.view.logs import Logs
from graft_vfs.view.page_table import PageTable
from graft_vfs.view.source import FrameSource
from graft_vfs.view.tiling import Headers, Piece, tiling

STEP = 24
RATIO = 4


def next_table(logs: Logs, log_id: LogId) -> tuple[TableRow, bytes] | None:
    """Return the table that is due, with its bytes, or None. No request."""
    newest, _ = logs.catalog.newest_commit(log_id)
    lsn = RemoteLsn(newest - newest % STEP)
    if not lsn:
        return None
    pieces = tiling(logs.catalog.tables.all(log_id), lsn)
    if isinstance(pieces[-1], TableRow) or not logs.can_view(log_id, lsn):
        return None
    taken: list[Piece] = []
    table, length = b"", 0
    while pieces:
        piece = pieces[-1]
        if isinstance(piece, TableRow):
            if not piece.is_whole or piece.length > RATIO * length:
                break
            length += piece.length
        taken.insert(0, pieces.pop())
        if isinstance(piece, Headers):
            table = _made(logs, log_id, taken, pieces)[1]
            length += len(table)
    return _made(logs, log_id, taken, pieces)


def _made(
    logs: Logs, log_id: LogId, taken: list[Piece], below: list[Piece]
) -> tuple[TableRow, bytes]:
    """Return the table of some pieces; it is complete if none is below them."""
    parent = logs.parent(log_id)
    oldest, base = taken[0], None
    after = oldest.after if isinstance(oldest, TableRow) else RemoteLsn(oldest.first - 1)
    if not after and isinstance(oldest, Headers) and parent is not None:
        base = logs.log_view(*parent)
    found = logs.assembled(log_id, taken, base)
    tip = found.tip
    assert tip is not None
    facts = TableFacts(
        log_id=log_id,
        after=after,
        lsn=tip.lsn,
        hash=tip.hash,
        parent_log=parent[0] if parent else None,
        parent_lsn=parent[1] if parent else NO_LSN,
        page_size=tip.page_size,
        page_count=tip.page_count,
        change_counter=tip.change_counter,
        time_ms=tip.time_ms,
        least_pages=found.least_pages,
        beneath=tuple(_beneath(below)),
    )
    frames: dict[Source, Frames] = {}
    data = b"".join(encode_table(facts, _runs(found.table, frames), frames.__getitem__))
    row = TableRow(log_id, facts.after, facts.lsn, "", facts.hash, len(data), is_remote=False)
    return row, data


def _beneath(below: Iterable[Piece]) -> Iterator[Beneath]:
    """Yield the tables that follow each other below, newest first."""
    for piece in reversed(list(below)):
        if isinstance(piece, Headers):
            return
        yield Beneath(piece.after, piece.lsn, piece.suffix)


def _runs(table: PageTable[FrameSource], frames: dict[Source, Frames]) -> Iterator[Run]:
    """Yield the runs of a table, and note where the frames of their sources are."""
    for first, end, source, slot in table.runs():
        known = frames.setdefault(source.origin, source.body.frames)
        if known is not source.body.frames and isinstance(source.body.frames, SparseFrames):
            assert isinstance(known, SparseFrames)
            if known.numbers != source.body.frames.numbers:
                frames[source.origin] = SparseFrames.joined((known, source.body.frames))
        yield first, end, source.origin, slot
