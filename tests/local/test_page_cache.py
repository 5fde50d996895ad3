"""The page cache: shared, bounded, and never a wrong page after a power cut."""

from __future__ import annotations

import struct
import threading
from pathlib import Path

from xxhash import xxh3_64_intdigest

from graft_vfs.local.page_cache import RECORD_BYTES, PageCache


def content(cache: PageCache, lsn: int, frame: int, length: int) -> bytes | None:
    place = cache.find(lsn, frame)
    return None if place is None else bytes(place[0][place[1] : place[1] + length])


def test_what_was_added_is_found_again_by_another_process(tmp_path: Path) -> None:
    cache, other = PageCache(tmp_path), PageCache(tmp_path)
    cache.add(7, 3, b"a" * 4096)
    assert content(cache, 7, 3, 4096) == b"a" * 4096
    assert content(other, 7, 3, 4096) == b"a" * 4096
    other.add(8, 0, b"b" * 512)
    assert content(cache, 8, 0, 512) == b"b" * 512
    assert cache.find(9, 0) is None
    assert cache.present() == {(7, 3), (8, 0)}
    cache.close()
    other.close()


def test_images_lost_in_a_power_cut_are_fetched_again(tmp_path: Path) -> None:
    cache = PageCache(tmp_path)
    cache.add(1, 0, b"a" * 4096)
    cache.add(1, 1, b"b" * 4096)
    cache.close()
    with (tmp_path / "0001.pages").open("r+b") as file:
        file.write(bytes(4096))
    again = PageCache(tmp_path)
    assert again.find(1, 0) is None
    assert content(again, 1, 1, 4096) == b"b" * 4096
    again.close()


def test_a_torn_or_damaged_record_is_no_record(tmp_path: Path) -> None:
    cache = PageCache(tmp_path)
    for frame in range(3):
        cache.add(1, frame, bytes([frame]) * 512)
    cache.close()
    with (tmp_path / "0001.frames").open("r+b") as file:
        file.seek(RECORD_BYTES)
        file.write(b"\xff")
        file.truncate(3 * RECORD_BYTES - 5)
    again = PageCache(tmp_path)
    assert again.present() == {(1, 0)}
    again.add(1, 9, b"z" * 512)
    assert content(again, 1, 9, 512) == b"z" * 512
    assert content(again, 1, 0, 512) == bytes(512)
    again.close()


def test_a_shorter_pages_file_is_not_read_beyond_its_end(tmp_path: Path) -> None:
    cache = PageCache(tmp_path)
    cache.add(1, 0, b"a" * 4096)
    cache.close()
    with (tmp_path / "0001.pages").open("r+b") as file:
        file.truncate(100)
    again = PageCache(tmp_path)
    assert again.find(1, 0) is None
    again.close()


def test_the_least_recently_used_arena_goes_first(tmp_path: Path) -> None:
    cache = PageCache(tmp_path, bytes_max=8 * 4096)
    for frame in range(40):
        cache.add(1, frame, bytes([frame]) * 4096)
        assert content(cache, 1, 0, 4096) in (bytes(4096), None)
    kept = {frame for _, frame in cache.present()}
    assert 39 in kept
    assert 0 in kept, "it was used after each addition"
    assert len(kept) <= 9
    for frame in kept:
        assert content(cache, 1, frame, 4096) == bytes([frame]) * 4096
    cache.close()


def test_a_reader_keeps_what_another_process_evicts(tmp_path: Path) -> None:
    reader, writer = PageCache(tmp_path), PageCache(tmp_path, bytes_max=4096)
    writer.add(1, 0, b"a" * 4096)
    place = reader.find(1, 0)
    assert place is not None
    for frame in range(1, 10):
        writer.add(1, frame, bytes(4096))
    assert writer.find(1, 0) is None
    assert bytes(place[0][place[1] : place[1] + 4096]) == b"a" * 4096
    assert reader.find(1, 77) is None
    assert reader.find(1, 0) is None, "the files are gone, so the frame is fetched again"
    reader.close()
    writer.close()


def test_threads_and_handles_append_without_harm(tmp_path: Path) -> None:
    caches = [PageCache(tmp_path) for _ in range(3)]

    def fill(number: int) -> None:
        for frame in range(60):
            caches[number % 3].add(number, frame, bytes([number, frame]) * 256)

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fresh = PageCache(tmp_path)
    for number in range(6):
        for frame in range(60):
            assert content(fresh, number, frame, 512) == bytes([number, frame]) * 256
    for cache in (*caches, fresh):
        cache.close()


def test_a_cache_that_cannot_be_written_is_used_in_memory(tmp_path: Path) -> None:
    cache = PageCache(tmp_path / "none", writable=False)
    cache.add(1, 0, b"a" * 512)
    assert content(cache, 1, 0, 512) == b"a" * 512
    assert not (tmp_path / "none").exists()
    cache.close()


def test_a_record_of_images_beyond_all_files_is_not_believed_and_in_nobodys_way(
    tmp_path: Path,
) -> None:
    cache = PageCache(tmp_path)
    cache.add(1, 0, b"a" * 512)
    cache.close()
    record = struct.pack("<QIIQQ", 1, 1, 512, 1 << 63, 0)
    record += xxh3_64_intdigest(record).to_bytes(8, "little")
    with (tmp_path / "0001.frames").open("ab") as file:
        file.write(record)
    again = PageCache(tmp_path)
    assert again.find(1, 1) is None
    again.add(1, 2, b"c" * 512)
    assert content(again, 1, 0, 512) == b"a" * 512
    assert content(again, 1, 2, 512) == b"c" * 512
    again.close()


def test_files_of_other_names_are_none_of_its_business(tmp_path: Path) -> None:
    for name in ("1x.frames", "9" * 5000, "-001.frames", "x.frames"):
        (tmp_path / name[:200]).write_bytes(b"foreign")
    cache = PageCache(tmp_path)
    assert cache.present() == set()
    cache.close()
