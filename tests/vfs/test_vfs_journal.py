"""The rollback journal in memory, against an array of bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from graft_vfs.pager import journal
from graft_vfs.pager.journal import Journal
from tests.support.tracing import outcome_under

SIZE = 512
PAGES = {number: number.to_bytes(4, "big") * (SIZE // 4) for number in range(1, 41)}
HEADER = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7".ljust(SIZE, b"\0")


def record(page):
    return [page.to_bytes(4, "big"), PAGES[page], b"sum."]


class Both:
    """A journal and the bytes that a file would hold."""

    def __init__(self, read_page=PAGES.get):
        self.journal = Journal(read_page)
        self.file = bytearray()

    def write(self, data, offset):
        if offset == 0 and self.file:
            self.file.clear()  # SQLite begins anew; what stood behind is never read.
        self.journal.xWrite(data, offset)
        self.file.extend(bytes(max(0, offset - len(self.file))))
        self.file[offset : offset + len(data)] = data

    def append(self, parts):
        for part in parts:
            self.write(part, len(self.file))

    def check(self):
        assert self.journal.xFileSize() == len(self.file)
        assert self.journal.xRead(len(self.file) + 10, 0) == self.file


def held_bytes(kept):
    return len(kept._packed) + sum(len(data) for _, data in kept._recent)


@pytest.mark.parametrize("records", [1, 30, 133, 134, 500, 5000])
def test_records_read_back_as_they_were_written(records):
    both = Both()
    both.append([HEADER])
    for number in range(records):
        both.append(record(number % 39 + 2))
    both.check()
    for number in (0, records // 2, records - 1):
        offset = SIZE + number * (SIZE + 8)
        assert both.journal.xRead(4, offset) == both.file[offset : offset + 4]
        assert both.journal.xRead(SIZE, offset + 4) == PAGES[number % 39 + 2]


def test_a_long_journal_keeps_no_page_bodies():
    both = Both()
    both.append([HEADER])
    for number in range(20_000):
        both.append(record(number % 39 + 2))
    limit = journal._RECENT_BYTES_MAX + 20_000 * 8 + 2 * SIZE
    assert held_bytes(both.journal) <= limit
    both.check()


def test_page_1_reads_back_as_it_was_written_whatever_the_snapshot_holds():
    # Its change counter in SQLite's cache may differ from the snapshot's.
    both = Both({**PAGES, 1: bytes(SIZE)}.get)
    both.append([HEADER])
    for page in range(1, 40):
        both.append(record(page))
    both.check()


def test_without_a_snapshot_to_read_from_bodies_are_kept():
    both = Both(None)
    both.append([HEADER])
    for number in range(500):
        both.append(record(number % 39 + 2))
    both.check()


def test_the_name_of_a_super_journal_behind_a_gap_costs_no_bodies():
    both = Both()
    both.append([HEADER])
    for number in range(1000):
        both.append(record(number % 39 + 2))
    both.journal.xFileSize()
    before = held_bytes(both.journal)
    at = -(-len(both.file) // SIZE) * SIZE
    both.write((0x4000_0000 // SIZE + 1).to_bytes(4, "big"), at)
    both.append([b"main-mj0123456789".ljust(600, b"x"), b"\0\0\0\x11", b"sum.", HEADER[:8]])
    both.check()
    assert held_bytes(both.journal) < before + 2000


def test_an_overwritten_header_makes_the_journal_whole_until_it_is_cut():
    both = Both()
    both.append([HEADER])
    for number in range(500):
        both.append(record(number % 39 + 2))
    both.journal.xFileSize()
    both.write(b"\0\0\1\xf4", 8)
    both.check()
    both.journal.xTruncate(0)
    both.file.clear()
    both.check()
    both.append([HEADER])
    for number in range(1000):
        both.append(record(number % 39 + 2))
    both.check()
    assert held_bytes(both.journal) < 1000 * 8 + 2 * SIZE


def test_a_write_at_the_begin_ends_the_journal_before():
    both = Both()
    both.append([HEADER])
    for number in range(300):
        both.append(record(number % 39 + 2))
    both.write(bytes(28), 0)
    both.check()


def run_until(line, work):
    """Run `work`, and raise KeyboardInterrupt at the given line that it reaches in the module."""
    lines = itertools.count()

    def trace(frame, event, _):
        if frame.f_code.co_filename != journal.__file__:
            return None
        if event == "line" and next(lines) == line:
            raise KeyboardInterrupt
        return trace

    error = outcome_under(trace, work)
    if error is not None and not isinstance(error, KeyboardInterrupt):
        raise error
    return error is not None


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("overwrites", [False, True])
def test_packing_that_was_interrupted_anywhere_loses_nothing(overwrites, begins):
    line = 0
    while True:
        both = Both()
        both.append([bytes(SIZE)])
        both.append(record(7))
        both.journal.xFileSize()
        both.write(HEADER, 0)
        for number in range(3):
            both.append(record(number + 1))
        both.write(HEADER, 0)
        if not begins:
            both.journal.xFileSize()
        for number in range(4):
            both.append(record(number + 5))
        if overwrites:
            both.write(b"\0\0\0\4", 8)
            both.append(record(11))
        was_interrupted = run_until(line, both.journal._pack)
        both.append(record(12))
        both.check()
        # Nor does it bring the bodies back into memory.
        assert both.journal._is_whole == overwrites
        if not was_interrupted:
            break
        line += 1
    assert line > 100


@pytest.mark.parametrize("size", [1, 100, SIZE, SIZE + 4, SIZE + 300, 5 * SIZE])
def test_cutting_in_the_middle_keeps_the_begin(size):
    both = Both()
    both.append([HEADER])
    for number in range(20):
        both.append(record(number + 1))
    both.journal.xTruncate(size)
    del both.file[size:]
    both.check()
    both.append([b"more"])
    both.check()


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("records"), st.integers(1, 200)),
            st.tuples(st.just("overwrite"), st.integers(1, 3000)),
            st.tuples(st.just("read"), st.integers(0, 60_000)),
            st.tuples(st.just("begin"), st.just(0)),
            st.tuples(st.just("gap"), st.integers(1, 700)),
        ),
        max_size=8,
    )
)
@example(steps=[("overwrite", 2), ("overwrite", 1), ("overwrite", 2)])
def test_any_order_of_writes_and_reads_is_that_of_a_file(steps):
    both = Both()
    both.append([HEADER])
    for kind, number in steps:
        if kind == "records":
            for page in range(number):
                both.append(record(page % 39 + 2))
        elif kind == "overwrite":
            both.write(b"over", min(number, len(both.file)))
        elif kind == "read":
            assert both.journal.xRead(700, number) == both.file[number : number + 700]
        elif kind == "begin":
            both.write(HEADER, 0)
        else:
            both.write(b"gap!", len(both.file) + number)
    both.check()
