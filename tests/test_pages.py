"""Pages: sizes that SQLite knows, and the page it never writes."""

from __future__ import annotations

import pytest

from graft_vfs.errors import PageSizeError
from graft_vfs.pages import (
    LSN_MAX,
    PAGE_COUNT_MAX,
    PAGE_SIZES,
    check_page_size,
    is_lsn_text,
    lock_page,
)


@pytest.mark.parametrize("size", PAGE_SIZES)
def test_valid_page_sizes_are_accepted(size: int) -> None:
    assert check_page_size(size) == size


def test_the_sizes_are_the_powers_of_two_from_512_to_65536() -> None:
    assert [2**power for power in range(9, 17)] == list(PAGE_SIZES)


@pytest.mark.parametrize("size", [-512, 0, 1, 256, 511, 513, 4095, 65535, 131072])
def test_other_sizes_are_refused_by_name(size: int) -> None:
    with pytest.raises(PageSizeError, match=f"{size} is not a page size.*power of two"):
        check_page_size(size)


@pytest.mark.parametrize("size", PAGE_SIZES)
def test_the_lock_page_contains_the_byte_at_1_gib(size: int) -> None:
    page = lock_page(size)
    assert (page - 1) * size == 1 << 30
    assert page <= PAGE_COUNT_MAX


def test_the_lock_page_of_4_kib_pages_is_the_one_sqlite_documents() -> None:
    assert lock_page(4096) == 262_145


def test_limits_leave_room_for_their_complements() -> None:
    assert PAGE_COUNT_MAX == 2**32 - 2
    assert LSN_MAX == 2**64 - 2


@pytest.mark.parametrize("text", ["0", "1", "007", str(LSN_MAX)])
def test_digits_of_an_lsns_length_are_read_as_one(text: str) -> None:
    assert is_lsn_text(text)


@pytest.mark.parametrize("text", ["", "-1", "+1", "1_0", " 1", "²", "\u0661", "9" * 21, "9" * 5000])
def test_texts_that_int_cannot_parse_as_an_lsn_are_recognised(text: str) -> None:
    assert not is_lsn_text(text)
