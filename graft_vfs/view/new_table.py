"""Making the next table of a log from those that are known, and from the commits after them.

Which tables it takes in is the matter of `table_policy`. It drops superseded images, and those of
pages past the smallest page count that came after them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace

from graft_vfs.format.frame import Frames
from graft_vfs.format.sparse_frames import SparseFrames
from graft_vfs.format.table import Run, Source, encode_table
from graft_vfs.format.table_facts import Beneath, TableFacts
from graft_vfs.ids import LogId
from graft_vfs.local.catalog.known_tables import TableRow
from graft_vfs.pages import NO_LSN, RemoteLsn
from graft_vfs.view.log_view import LogView, Tip
from graft_vfs.view.logs import Logs
from graft_vfs.view.page_table import PageTable
from graft_vfs.view.source import FrameSource
from graft_vfs.view.table_policy import due, taken_in
from graft_vfs.view.tiling import Headers, Piece, tiling


def next_table(logs: Logs, log_id: LogId) -> tuple[TableRow, bytes] | None:
    """Return the table that is due, with its bytes, or None. No request."""
    return logs.while_tables_change(lambda: _next_table(logs, log_id))


def _next_table(logs: Logs, log_id: LogId) -> tuple[TableRow, bytes] | None:
    newest, _ = logs.catalog.newest_commit(log_id)
    lsn = due(newest)
    if lsn == NO_LSN:
        return None
    pieces = tiling(logs.catalog.tables.all(log_id), lsn)
    if isinstance(pieces[-1], TableRow) or not logs.can_view(log_id, lsn):
        return None
    own = pieces.pop()
    made = _made(logs, log_id, [own], pieces)
    taken = taken_in([_length(piece) for piece in pieces], len(made[1]))
    if not taken:
        return made
    kept = len(pieces) - taken
    return _made(logs, log_id, [*pieces[kept:], own], pieces[:kept])


def _length(piece: Piece) -> int:
    """Return the length of a piece in bytes, as the policy compares it.

    Commits that no table has are always taken in, and a table that is not whole here is never.
    """
    if isinstance(piece, Headers):
        return 0
    return piece.length if piece.is_whole else sys.maxsize


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
    assert found.tip is not None
    facts = _facts(logs, log_id, found.tip)
    facts = replace(
        facts, after=after, least_pages=found.least_pages, beneath=tuple(_beneath(below))
    )
    return _encoded(facts, found.table)


def table_of_commits(
    logs: Logs, log_id: LogId, after: RemoteLsn, lsn: RemoteLsn, below: list[Piece]
) -> tuple[TableRow, bytes]:
    """Return the table of commits (after, lsn], all of which are known, and of no other table.

    `below` is what covers the commits up to `after`. A complete table of a fork needs the view of
    its parent. No request, unless that has layers.
    """
    return _made(logs, log_id, [Headers(RemoteLsn(after + 1), lsn)], below)


def complete_table(
    logs: Logs, view: LogView, table: PageTable[FrameSource], *, suffix: str
) -> tuple[TableRow, bytes]:
    """Return a complete table of the same pages as a view, but with other places of them.

    `suffix` is that of its key. May send requests if the view has layers.
    """
    row, data = _encoded(_facts(logs, view.log_id, view.tip), table)
    return replace(row, suffix=suffix), data


def _facts(logs: Logs, log_id: LogId, tip: Tip) -> TableFacts:
    """Return the facts of a complete table."""
    parent = logs.parent(log_id)
    return TableFacts(
        log_id=log_id,
        after=NO_LSN,
        lsn=tip.lsn,
        hash=tip.hash,
        parent_log=parent[0] if parent else None,
        parent_lsn=parent[1] if parent else NO_LSN,
        page_size=tip.page_size,
        page_count=tip.page_count,
        change_counter=tip.change_counter,
        time_ms=tip.time_ms,
        least_pages=tip.page_count,
        beneath=(),
    )


def _encoded(facts: TableFacts, table: PageTable[FrameSource]) -> tuple[TableRow, bytes]:
    parts: dict[Source, list[Frames]] = {}
    data = b"".join(encode_table(facts, _runs(table, parts), lambda source: _joined(parts[source])))
    row = TableRow(facts.log_id, facts.after, facts.lsn, "", facts.hash, len(data), is_remote=False)
    return row, data


def _beneath(below: Iterable[Piece]) -> Iterator[Beneath]:
    """Yield the tables that follow each other below, newest first."""
    for piece in reversed(list(below)):
        if isinstance(piece, Headers):
            return
        yield Beneath(piece.after, piece.lsn, piece.suffix)


def _runs(table: PageTable[FrameSource], parts: dict[Source, list[Frames]]) -> Iterator[Run]:
    """Yield the runs of a table, and note where the frames of their sources are."""
    for first, end, source, slot in table.runs():
        known = parts.setdefault(source.origin, [])
        if not any(each is source.body.frames for each in known):
            known.append(source.body.frames)
        yield first, end, source.origin, slot


def _joined(parts: list[Frames]) -> Frames:
    """Return the frames of one object; two tables that overlap may each have some of them."""
    sparse = [each for each in parts if isinstance(each, SparseFrames)]
    if len(sparse) < len(parts):
        return next(each for each in parts if not isinstance(each, SparseFrames))
    return sparse[0] if len(sparse) == 1 else SparseFrames.joined(sparse)
