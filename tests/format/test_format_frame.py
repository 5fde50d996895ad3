"""Frames: exact round trips, and no bytes that make a reader allocate or answer wrongly."""

from __future__ import annotations

import random
import struct
import threading
import tracemalloc

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from graft_vfs.errors import CorruptObjectError
from graft_vfs.format.frame import (
    FRAME_PAGES,
    FRAME_PAGES_MAX,
    checksum_of,
    compressed_bytes_max,
    decode_frame,
    encode_frame,
)
from graft_vfs.pages import PAGE_SIZES
from tests.format.commit_samples import image

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def decode(frame: bytes, page_count: int, page_size: int = 512) -> bytes:
    """Decode with the checksum that a hostile writer would give."""
    return decode_frame(
        frame,
        page_size=page_size,
        page_count=page_count,
        checksum=checksum_of(frame),
        name="frame 3",
    )


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(PAGE_SIZES), st.integers(1, FRAME_PAGES_MAX), st.booleans(), st.integers(0, 99)
)
def test_frames_read_back_and_stay_within_their_bound(
    page_size: int, page_count: int, is_random: bool, seed: int
) -> None:
    source = random.Random(seed)
    images = [
        source.randbytes(page_size) if is_random else image(page, page_size)
        for page in range(1, page_count + 1)
    ]
    frame = encode_frame(images)
    assert len(frame) <= compressed_bytes_max(page_size, page_count)
    assert decode(frame, page_count, page_size) == b"".join(images)


def test_views_are_read_like_bytes() -> None:
    frame = encode_frame([image(1)])
    view = memoryview(b"??" + frame)[2:]
    assert decode_frame(
        view, page_size=512, page_count=1, checksum=checksum_of(view), name="view"
    ) == image(1)


def test_the_compressed_bytes_say_how_large_the_content_is() -> None:
    frame = encode_frame([image(page) for page in range(1, FRAME_PAGES + 1)])
    assert zstandard.get_frame_parameters(frame).content_size == FRAME_PAGES * 512


def test_refuses_a_flipped_bit_before_decompressing() -> None:
    frame = bytearray(encode_frame([image(1), image(2)]))
    checksum = checksum_of(bytes(frame))
    for bit in range(8 * len(frame)):
        frame[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptObjectError, match="checksum"):
            decode_frame(
                bytes(frame), page_size=512, page_count=2, checksum=checksum, name="frame 3"
            )
        frame[bit // 8] ^= 1 << bit % 8


def test_refuses_fewer_and_more_pages_than_expected() -> None:
    frame = encode_frame([image(1), image(2)])
    for page_count in (1, 3):
        with pytest.raises(CorruptObjectError, match="claims 1024 bytes"):
            decode(frame, page_count)


def test_refuses_a_frame_without_content_size() -> None:
    compressor = zstandard.ZstdCompressor(write_content_size=False)
    with pytest.raises(CorruptObjectError, match="claims"):
        decode(compressor.compress(image(1)), 1)


def test_refuses_bytes_after_the_frame() -> None:
    with pytest.raises(CorruptObjectError, match="unused data"):
        decode(encode_frame([image(1)]) + b"x", 1)


def test_refuses_two_frames_in_one() -> None:
    frame = encode_frame([image(1)])
    with pytest.raises(CorruptObjectError):
        decode(frame + frame, 1)


def test_refuses_a_skippable_frame_of_the_expected_size() -> None:
    with pytest.raises(CorruptObjectError):
        decode(struct.pack("<II", 0x184D2A50, 512) + bytes(512), 1)


def test_refuses_what_is_not_zstd() -> None:
    for data in (b"", b"\0", ZSTD_MAGIC, b"not zstd at all"):
        with pytest.raises(CorruptObjectError):
            decode(data, 1)


def test_a_frame_that_claims_a_gibibyte_costs_nothing() -> None:
    single_segment_with_8_byte_size = b"\xe0"
    bomb = (
        ZSTD_MAGIC + single_segment_with_8_byte_size + (1 << 30).to_bytes(8, "little") + b"\1\0\0"
    )
    assert zstandard.get_frame_parameters(bomb).content_size == 1 << 30
    tracemalloc.start()
    try:
        with pytest.raises(CorruptObjectError, match="claims 1073741824 bytes"):
            decode(bomb, FRAME_PAGES)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_gibibyte_of_zeros_that_claims_to_be_a_page_is_refused() -> None:
    # The header says 512 bytes, the run-length blocks behind it say 128 KiB each.
    head = ZSTD_MAGIC + b"\x60" + (512 - 256).to_bytes(2, "little")
    block = (0b10 | 131_072 << 3).to_bytes(3, "little") + b"\0"
    last = (0b11 | 131_072 << 3).to_bytes(3, "little") + b"\0"
    bomb = head + block * 8191 + last
    assert zstandard.get_frame_parameters(bomb).content_size == 512
    with pytest.raises(CorruptObjectError):
        decode(bomb, 1)


def test_mutated_frames_with_right_checksums_raise_only_the_declared_error() -> None:
    source = random.Random(7)
    seeds = [
        encode_frame([image(page) for page in range(1, 5)]),
        encode_frame([source.randbytes(100) * 5 + bytes(12) for _ in range(4)]),
        encode_frame([source.randbytes(512) for _ in range(4)]),
    ]
    for number in range(5_000):
        data = bytearray(seeds[number % 3])
        for _ in range(source.randrange(1, 4)):
            data[source.randrange(min(len(data), 200))] = source.randrange(256)
        if number % 5 == 0:
            del data[source.randrange(len(data)) :]
        try:
            images = decode(bytes(data), 4)
        except CorruptObjectError:
            continue
        assert len(images) == 4 * 512


def test_threads_do_not_share_a_compressor() -> None:
    failures: list[object] = []

    def work(seed: int) -> None:
        source = random.Random(seed)
        for _ in range(100):
            images = [source.randbytes(64) * 8 for _ in range(4)]
            if decode(encode_frame(images), 4) != b"".join(images):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
