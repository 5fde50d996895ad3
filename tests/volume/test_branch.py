"""A branch's page index, read while another thread commits."""

from __future__ import annotations

from unittest import mock

from graft_vfs.volume.branch import Branch

PAGE_SIZE = 512


class Interrupted(dict):
    """An index that another thread changes right after somebody has looked through it."""

    def __init__(self, items, meanwhile) -> None:
        super().__init__(items)
        self._meanwhile = meanwhile

    def items(self):
        found = list(super().items())
        self._meanwhile()
        return found


def test_a_page_that_is_committed_while_pages_are_listed_is_listed_once() -> None:
    branch = Branch(mock.sentinel.row, mock.sentinel.log)
    branch.apply([1, 2, 3], 100, PAGE_SIZE)
    end = 100 + 3 * PAGE_SIZE

    def commit() -> None:
        branch.keep_history([2, 4])
        branch.apply([2, 4], end + 100, PAGE_SIZE)

    branch.index = Interrupted(branch.index, commit)
    assert branch.pages_below(end, 9) == [1, 2, 3]
    assert branch.pages_below(end, 9) == [1, 2, 3]
    assert branch.pages_below(branch.index[4] + 1, 9) == [1, 2, 3, 4]
