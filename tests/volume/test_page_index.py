"""A branch's page index, read while another thread commits."""

from __future__ import annotations

from unittest import mock

from xxhash import xxh3_64_intdigest

from graft_vfs.local.chunk import Chunk, Position
from graft_vfs.volume.page_index import PageIndex
from tests.support.watched import Watched

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
    branch = PageIndex(mock.sentinel.row, mock.sentinel.log)
    branch.apply([1, 2, 3], 100, PAGE_SIZE)
    end = 100 + 3 * PAGE_SIZE

    def commit() -> None:
        branch.keep_history([2, 4])
        branch.apply([2, 4], end + 100, PAGE_SIZE)

    branch.index = Interrupted(branch.index, commit)
    assert branch.pages_below(end, 9) == [1, 2, 3]
    assert branch.pages_below(end, 9) == [1, 2, 3]
    assert branch.pages_below(branch.index[4] + 1, 9) == [1, 2, 3, 4]


class LookedUp(dict):
    """An index beside whose second look-up something happens."""

    def __init__(self, items, beside) -> None:
        super().__init__(items)
        self._beside, self._asked = beside, 0

    def get(self, page, default=None):
        found = super().get(page, default)
        self._asked += 1
        if self._asked == 2:
            self._beside()
        return found


def test_verifying_an_old_image_never_hides_a_concurrent_commit() -> None:
    mutex = Watched()
    checksum = xxh3_64_intdigest(bytes(PAGE_SIZE))
    log = mock.Mock(checksum_of=lambda *_: checksum)
    branch = PageIndex(mock.sentinel.row, log, mutex)
    after = Position(100 + PAGE_SIZE, 0)
    branch.apply_unproved(Chunk(1, 1, 1, 1, PAGE_SIZE, 0, checksum, 0, (7,), 100, after))
    threads = []

    def commit() -> None:
        with mutex:
            branch.keep_history([7])
            branch.apply([7], 5000, PAGE_SIZE)

    branch.index = LookedUp(branch.index, lambda: threads.append(mutex.run_beside(commit)))
    assert branch.offset_of(7, after.offset) == 100
    threads.pop().join()
    assert branch.index[7] == 5000
    assert branch.offset_of(7, 6000) == 5000
    assert branch.offset_of(7, after.offset) == 100


class Counted(int):
    """An offset that counts how often it is looked at."""

    looks = 0

    def __abs__(self):
        Counted.looks += 1
        return int(self)


def test_a_page_of_an_old_snapshot_is_found_without_a_scan_of_later_images() -> None:
    branch = PageIndex(mock.sentinel.row, mock.sentinel.log)
    commits = 100_000
    branch.history[1] = [Counted(at) for at in range(1000, 1000 + commits * PAGE_SIZE, PAGE_SIZE)]
    branch.index[1] = Counted(1000 + commits * PAGE_SIZE)
    for commit in (0, 1, 777, commits - 1):
        Counted.looks = 0
        assert branch.offset_of(1, 1000 + commit * PAGE_SIZE + 1) == 1000 + commit * PAGE_SIZE
        assert Counted.looks < 25
    assert branch.offset_of(1, 1000) is None
    assert branch.pages_below(1001, 9) == [1]
