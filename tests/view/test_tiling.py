"""Which tables and commits a view is made of: they cover all LSNs, and no table is needless."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graft_vfs.local.catalog.known_tables import TableRow
from graft_vfs.pages import RemoteLsn
from graft_vfs.view.tiling import Headers, Piece, tiling
from tests.format.commit_samples import LOG


def table(after: int, lsn: int) -> TableRow:
    return TableRow(LOG, RemoteLsn(after), RemoteLsn(lsn), "", bytes(32), 1000, is_remote=True)


def bounds(piece: Piece) -> tuple[int, int]:
    """The LSN before a piece, and its last."""
    if isinstance(piece, Headers):
        return piece.first - 1, piece.last
    return piece.after, piece.lsn


def test_without_tables_all_commits_are_needed() -> None:
    assert tiling([], RemoteLsn(7)) == [Headers(RemoteLsn(1), RemoteLsn(7))]


def test_commits_follow_the_newest_table() -> None:
    known = [table(0, 24), table(24, 48), table(48, 72)]
    assert tiling(known, RemoteLsn(72)) == known
    assert tiling(known, RemoteLsn(50)) == [*known[:2], Headers(RemoteLsn(49), RemoteLsn(50))]


def test_a_table_that_covers_others_takes_their_place() -> None:
    known = [table(0, 24), table(24, 48), table(0, 48)]
    assert tiling(known, RemoteLsn(48)) == known[2:]


def test_commits_fill_the_gap_below_a_table() -> None:
    known = [table(48, 72)]
    assert tiling(known, RemoteLsn(72)) == [Headers(RemoteLsn(1), RemoteLsn(48)), *known]


@given(
    tables=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), max_size=12),
    lsn=st.integers(1, 40),
)
def test_pieces_cover_every_lsn_and_each_goes_further(tables, lsn) -> None:
    known = [table(after, after + more) for after, more in tables]
    pieces = tiling(known, RemoteLsn(lsn))
    end = 0
    for piece in pieces:
        after, last = bounds(piece)
        assert after <= end < last <= lsn
        if isinstance(piece, Headers):
            assert after == end
            assert not any(each.after <= end < each.lsn <= lsn for each in known)
        end = last
    assert end == lsn
