"""Which frames one request fetches: few requests for few dead bytes, whatever the frames are."""

from __future__ import annotations

from itertools import accumulate, pairwise
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from graft_vfs.format.frame import FRAME_PAGES
from graft_vfs.view.ranges import (
    GAP_BYTES_MAX,
    GAP_BYTES_MIN,
    RANGE_BYTES_MAX,
    WINDOW_RANGE_FRAMES_MAX,
    whole_ranges,
    window_ranges,
)

KIB, MIB = 1 << 10, 1 << 20


class Source:
    """As much of a source as matters for its ranges: where its frames are."""

    def __init__(
        self, sizes: list[int], *, page_size: int = 4096, frame_pages: int = FRAME_PAGES
    ) -> None:
        self.origin = self
        self.offsets = [0, *accumulate(sizes)]
        frames = SimpleNamespace(frame_pages=frame_pages, byte_range=self.byte_range)
        self.body = SimpleNamespace(page_size=page_size, frames=frames)

    def byte_range(self, first: int, end: int) -> tuple[int, int]:
        return self.offsets[first], self.offsets[end] - self.offsets[first]

    def span(self, frames: list[int]) -> int:
        return self.offsets[frames[-1] + 1] - self.offsets[frames[0]]


def test_a_window_joins_near_frames_of_one_source() -> None:
    a, b = Source([30 * KIB] * 100), Source([30 * KIB] * 100)
    assert [*window_ranges([])] == []
    joined = window_ranges([(b, 1), (a, 4), (a, 3), (a, 7), (b, 2), (a, 6)])
    assert [*joined] == [(b, [1, 2]), (a, [3, 4, 6, 7])]
    # Two dead frames are 60 KiB, three are more than a request is worth.
    assert [*window_ranges([(a, 0), (a, 3)])] == [(a, [0, 3])]
    assert [*window_ranges([(a, 0), (a, 4)])] == [(a, [0]), (a, [4])]
    assert [*window_ranges((a, n) for n in range(20))] == [
        (a, [*range(16)]),
        (a, [*range(16, 20)]),
    ]


def test_a_window_has_no_more_images_in_a_range_than_a_thread_may_have_at_once() -> None:
    large = Source([30 * KIB] * 10, page_size=65_536)
    largest = Source([30 * KIB] * 10, page_size=65_536, frame_pages=64)
    assert [len(frames) for _, frames in window_ranges((large, n) for n in range(10))] == [8, 2]
    assert len([*window_ranges((largest, n) for n in range(10))]) == 5


def test_a_whole_object_is_one_range_for_each_8_mib() -> None:
    import_of_100_mib = Source([32 * KIB] * 3200)
    found = whole_ranges((import_of_100_mib, n) for n in range(3200))
    assert [len(frames) for _, frames in found] == [256] * 12 + [128]


def test_each_object_may_have_two_requests_and_the_largest_gaps_are_skipped() -> None:
    sources = [Source([10 * KIB, *[gap * KIB, 10 * KIB] * 2]) for gap in (100, 200, 300, 400)]
    found = whole_ranges((source, frame) for source in sources for frame in (0, 2, 4))
    assert [frames for _, frames in found] == [[0, 2, 4]] * 2 + [[0], [2], [4]] * 2
    # One object alone has one gap to skip.
    assert whole_ranges((sources[3], frame) for frame in (0, 2, 4)) == [(sources[3], [0, 2, 4])]
    uneven = Source([10 * KIB, 100 * KIB, 10 * KIB, 101 * KIB, 10 * KIB])
    assert whole_ranges((uneven, frame) for frame in (0, 2, 4)) == [(uneven, [0, 2]), (uneven, [4])]


def test_a_gap_above_1_mib_is_always_skipped_and_one_of_64_kib_never() -> None:
    source = Source([10 * KIB, 2 * MIB] * 20)
    assert len(whole_ranges((source, frame) for frame in range(0, 40, 2))) == 20
    near = Source([10 * KIB, GAP_BYTES_MIN] * 20)
    assert len(whole_ranges((near, frame) for frame in range(0, 40, 2))) == 1


sizes = st.lists(
    st.sampled_from([1, 500, 30 * KIB, 64 * KIB, 65 * KIB, 300 * KIB, MIB, MIB + 1, 9 * MIB]),
    min_size=1,
    max_size=30,
)


@given(st.lists(st.tuples(sizes, st.sets(st.integers(0, 29))), max_size=6))
def test_ranges_have_each_frame_once_and_are_as_few_as_promised(drawn) -> None:
    frames = []
    for each, wanted in drawn:
        source = Source(each)
        frames += [(source, frame) for frame in wanted if frame < len(each)]
    for plan in (whole_ranges(frames), [*window_ranges(frames)]):
        planned = [(source, frame) for source, found in plan for frame in found]
        assert len(planned) == len(set(planned))
        assert set(planned) == set(frames)
        for source, found in plan:
            assert found == sorted(found)
            assert len(found) == 1 or source.span(found) <= RANGE_BYTES_MAX
    assert all(len(found) <= WINDOW_RANGE_FRAMES_MAX for _, found in window_ranges(frames))
    sources = {source for source, _ in frames}
    long_gaps = halves = 0
    for source in sources:
        wanted = sorted(frame for each, frame in frames if each is source)
        gaps = [source.byte_range(a + 1, b)[1] for a, b in pairwise(wanted)]
        long_gaps += sum(gap > GAP_BYTES_MAX for gap in gaps)
        # Two ranges that were cut for their length have more than 8 MiB together.
        halves += 2 * source.span(wanted) // RANGE_BYTES_MAX
    assert len(whole_ranges(frames)) <= 2 * len(sources) + long_gaps + halves
