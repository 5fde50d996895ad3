"""Which tables and commits make up a view of a log: the pieces that cover all of its LSNs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graft_vfs.local.catalog.known_tables import TableRow
from graft_vfs.pages import RemoteLsn


@dataclass(frozen=True, slots=True)
class Headers:
    """The commits first..last of a log, both inclusive, whose headers are needed."""

    first: RemoteLsn
    last: RemoteLsn


Piece = TableRow | Headers


def tiling(tables: Iterable[TableRow], lsn: RemoteLsn) -> list[Piece]:
    """Return the fewest pieces that cover LSNs 1..lsn, oldest first.

    Each begins where the one before it ends, or earlier: what both cover is the same. A first piece
    of `Headers` of a forked log lacks the pages of its parent.
    """
    usable = [table for table in tables if table.lsn <= lsn]
    pieces: list[Piece] = []
    end = 0
    while end < lsn:
        further = [table for table in usable if table.after <= end < table.lsn]
        if further:
            furthest = max(further, key=lambda table: table.lsn)
            pieces.append(furthest)
            end = furthest.lsn
        else:
            following = min((table.after for table in usable if table.after > end), default=lsn)
            pieces.append(Headers(RemoteLsn(end + 1), RemoteLsn(following)))
            end = following
    return pieces
