"""Building bodies: the tables describe the frames that came out."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.format.commit_samples import body, header_of, image  # isort: skip
from graft_vfs.format.body import BodyBuilder
from graft_vfs.format.frame import FRAME_PAGES, decode_frame


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(1, 5000), max_size=80))
def test_the_table_finds_every_page(page_indexes: set[int]) -> None:
    images = {page: image(page) for page in page_indexes}
    pages, table, frames = body(images)
    assert set(pages) == page_indexes
    assert [len(frame) for frame in frames] == list(table.sizes)
    header = header_of(pages, table)
    whole = b"".join(frames)
    for slot, page in enumerate(pages):
        frame = table.frame_of(slot)
        offset, length = table.byte_range(frame, frame + 1)
        run = decode_frame(
            whole[offset : offset + length],
            page_size=512,
            page_count=header.pages_in_frame(frame),
            checksum=table.checksum(frame),
            name="frame",
        )
        at = slot % FRAME_PAGES * 512
        assert run[at : at + 512] == images[page]


def test_frames_are_returned_when_they_are_full() -> None:
    builder = BodyBuilder()
    out = [builder.add(page, image(page)) is not None for page in range(1, 2 * FRAME_PAGES + 2)]
    assert [number for number, full in enumerate(out, 1) if full] == [16, 32]
    assert builder.finish() is not None
    assert builder.finish() is None
    assert list(builder.table.last_pages) == [16, 32, 33]


def test_no_pages_give_an_empty_table() -> None:
    builder = BodyBuilder()
    assert builder.finish() is None
    assert (len(builder.table), builder.table.body_bytes, len(builder.pages)) == (0, 0, 0)
