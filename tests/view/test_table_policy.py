"""The policy of tables: when one is due, which it takes in, and what a long life costs."""

from __future__ import annotations

import itertools
import random

import pytest

from graft_vfs.pages import RemoteLsn
from graft_vfs.view.table_policy import RATIO, STEP, due, taken_in

HEAD_BYTES, PAGE_BYTES = 220, 37
"""What a table has at least, and for each page of a commit of its own; measured."""


@pytest.mark.parametrize(
    ("newest", "expected"), [(0, 0), (23, 0), (24, 24), (47, 24), (48, 48), (99, 96)]
)
def test_a_table_is_due_every_24_commits(newest: int, expected: int) -> None:
    assert due(RemoteLsn(newest)) == expected


@pytest.mark.parametrize(
    ("lengths", "length", "expected"),
    [
        ([], 100, 0),
        ([300], 100, 1),
        ([301], 100, 0),
        ([1600, 300], 100, 1),
        ([1200, 300], 100, 2),
        ([5, 1600, 300], 100, 1),
    ],
)
def test_a_table_is_taken_in_if_it_is_not_much_longer(
    lengths: list[int], length: int, expected: int
) -> None:
    assert taken_in(lengths, length) == expected


@pytest.mark.parametrize("pages", [60, 3000, 262_144])
def test_a_long_life_has_few_tables_and_few_bytes(pages: int) -> None:
    """20 000 pushes of one random page each stay within the budgets."""
    draw = random.Random(pages)
    tables: list[tuple[int, set[int]]] = []
    written = most = 0
    for _ in itertools.repeat(None, 20_000 // STEP):
        changed = {draw.randrange(pages) for _ in range(STEP)}
        taken = taken_in([length for length, _ in tables], HEAD_BYTES + PAGE_BYTES * len(changed))
        for _ in range(taken):
            changed |= tables.pop()[1]
        tables.append((HEAD_BYTES + PAGE_BYTES * len(changed), changed))
        written += tables[-1][0]
        most = max(most, len(tables))
        assert all(older > RATIO * newer for (older, _), (newer, _) in itertools.pairwise(tables))
    # A clone reads the ref, two listings, the tables, and the headers after them.
    assert 1 + 2 + most + STEP - 1 <= 36
    # The smallest push that was measured has 1051 bytes.
    assert written / 20_000 < 0.5 * 1051
    assert 1 + 1 / STEP <= 1.05
