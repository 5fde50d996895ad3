"""The page cache: shared, bounded, never in the way, and never a wrong page."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from xxhash import xxh3_64_intdigest

from graft_vfs import reentry
from graft_vfs.local.cache import arena as arena_module
from graft_vfs.local.cache import space as cache_space_module
from graft_vfs.local.cache.arena import HEADER_BYTES, RECORD_BYTES, FrameKey, commit_source
from graft_vfs.local.cache.page_cache import PageCache
from graft_vfs.local.cache.space import CacheSpace
from tests.support.disasters import (
    cut,
    emptied,
    of_folders,
    removed,
    replaced_by_a_file,
    without_images,
    without_index,
)

FRAME = 4096


def key(frame: int, *, lsn: int = 1, history: int = 7) -> FrameKey:
    return FrameKey(commit_source(lsn, history.to_bytes(8, "little")), frame)


def content(cache: PageCache, frame: FrameKey, length: int = FRAME) -> bytes | None:
    place = cache.find(frame, length)
    return None if place is None else bytes(place.view[place.offset : place.offset + length])


def image(number: int, length: int = FRAME) -> bytes:
    return bytes([number]) * length


def files(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


@pytest.fixture
def caches(tmp_path: Path) -> Iterator[Callable[..., PageCache]]:
    """Make caches of one folder, each with a space of its own as separate processes have."""
    made: list[PageCache] = []

    def make(log: str = "log", **settings: object) -> PageCache:
        space = CacheSpace(tmp_path / "cache", **settings)
        made.append(PageCache(tmp_path / "cache" / log, space))
        return made[-1]

    yield make
    for cache in made:
        cache.close()


# Reentry ----------------------------------------------------------------------------------------


class JudgedLock:
    """A reentrant lock that notes the callers that take it while their thread is not occupied."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.taken = 0
        self.unoccupied: list[str] = []

    def __enter__(self) -> None:
        self.taken += 1
        if not reentry.thread.depth:
            self.unoccupied.append(sys._getframe(1).f_code.co_qualname)
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_threads_with_the_cache_lock_refuse_fetching_handlers(tmp_path) -> None:
    """Other threads need the lock to fetch a page that a signal handler waits for."""
    space = CacheSpace(tmp_path / "cache", bytes_max=4 * FRAME)
    space.lock = judged = JudgedLock()

    class Reader:
        def forget_located(self) -> None:
            pass

    reader, cache = Reader(), PageCache(tmp_path / "cache" / "log", space)
    space.add_reader(reader)
    for frame in range(8):
        cache.add(key(frame), image(frame))
        cache.find(key(frame), FRAME)
        cache.has(key(frame))
    space.remember(cache.directory, key(9), image(9))
    space.remembered(cache.directory, key(9))
    with mmap.mmap(-1, FRAME) as mapping:
        view = memoryview(mapping)
        space.note_superseded(view)
        view.release()
    space.forget_located()
    space.forget_resident()
    cache.present()
    cache.size_bytes()
    cache.close()
    space.close()
    assert judged.taken > 40
    assert judged.unoccupied == []


# Sharing ----------------------------------------------------------------------------------------


def test_added_frames_are_found_by_another_process(caches) -> None:
    cache, other = caches(), caches()
    cache.add(key(3), image(1))
    assert content(cache, key(3)) == image(1)
    assert content(other, key(3)) == image(1)
    other.add(key(0, lsn=8), image(2, 512))
    assert content(cache, key(0, lsn=8), 512) == image(2, 512)
    assert cache.find(key(0, lsn=9), FRAME) is None
    assert cache.present() == {key(3), key(0, lsn=8)}


def test_a_record_begins_with_the_lsn_and_hash_of_the_commit(caches) -> None:
    cache = caches()
    cache.add(key(3, lsn=5, history=0x0102030405060708), image(1))
    record = (cache.directory / "0001.index").read_bytes()[HEADER_BYTES:]
    assert record[:24] == struct.pack("<QQII", 5, 0x0102030405060708, 3, FRAME)


def test_frames_of_another_history_are_not_found(caches) -> None:
    cache = caches()
    cache.add(key(0, history=1), image(1))
    assert cache.find(key(0, history=2), FRAME) is None
    cache.add(key(0, history=2), image(2))
    for again in (cache, caches()):
        assert content(again, key(0, history=1)) == image(1)
        assert content(again, key(0, history=2)) == image(2)


def test_a_record_with_another_length_is_ignored(caches) -> None:
    cache = caches()
    cache.add(key(0), image(1))
    assert cache.find(key(0), 2 * FRAME) is None
    assert content(caches(), key(0)) == image(1)


def test_threads_and_handles_append_concurrently(caches) -> None:
    shared = [caches() for _ in range(3)]

    def fill(number: int) -> None:
        for frame in range(60):
            shared[number % 3].add(key(frame, lsn=number), bytes([number, frame]) * 256)

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fresh = caches()
    for number in range(6):
        for frame in range(60):
            assert content(fresh, key(frame, lsn=number), 512) == bytes([number, frame]) * 256


def test_an_arena_that_another_process_holds_is_not_waited_for(caches) -> None:
    cache, other = caches(), caches()
    cache.add(key(0), image(0))
    assert content(other, key(0)) == image(0)
    with other._arenas[1].appending() as appender:
        assert appender is not None
        cache.add(key(1), image(1))
    assert content(other, key(1)) == image(1)
    assert {path.name for path in cache.directory.glob("*.index")} == {"0001.index", "0002.index"}


# Damage -----------------------------------------------------------------------------------------


def test_images_lost_in_a_power_cut_are_fetched_again(caches) -> None:
    cache = caches()
    cache.add(key(0), image(1))
    cache.add(key(1), image(2))
    cache.close()
    with (cache.directory / "0001.images").open("r+b") as file:
        file.write(bytes(FRAME))
    again = caches()
    assert again.find(key(0), FRAME) is None
    assert content(again, key(1)) == image(2)


def test_a_torn_or_damaged_record_is_ignored(caches) -> None:
    cache = caches()
    for frame in range(3):
        cache.add(key(frame), image(frame))
    cache.close()
    with (cache.directory / "0001.index").open("r+b") as file:
        file.seek(HEADER_BYTES + RECORD_BYTES)
        file.write(b"\xff")
        file.truncate(HEADER_BYTES + 3 * RECORD_BYTES - 5)
    again = caches()
    assert again.present() == {key(0)}
    again.add(key(9), image(9))
    assert content(again, key(9)) == image(9)
    assert content(again, key(0)) == image(0)


def test_a_truncated_arena_is_neither_read_nor_appended_to(caches) -> None:
    cache, other = caches(), caches()
    cache.add(key(0), image(1))
    assert content(other, key(0)) == image(1)
    os.truncate(cache.directory / "0001.images", 100)
    for each in (cache, other, caches()):
        assert each.find(key(0), FRAME) is None
    cache.add(key(1), image(2))
    assert content(other, key(1)) == image(2)
    assert (cache.directory / "0001.images").stat().st_size == 100


def test_a_record_past_the_end_of_the_images_is_ignored(caches) -> None:
    cache = caches()
    cache.add(key(0), image(1))
    cache.close()
    record = struct.pack("<16sIIQQ", *key(1), FRAME, 1 << 63, 0)
    record += xxh3_64_intdigest(record).to_bytes(8, "little")
    with (cache.directory / "0001.index").open("ab") as file:
        file.write(record)
    again = caches()
    assert again.find(key(1), FRAME) is None
    again.add(key(2), image(2))
    assert content(again, key(0)) == image(1)
    assert content(again, key(2)) == image(2)


def test_files_of_other_names_are_left_alone(caches) -> None:
    cache = caches()
    cache.directory.mkdir(parents=True)
    for name in ("1x.index", "9" * 200, "-001.index", "x.index"):
        (cache.directory / name).write_bytes(b"foreign")
    assert cache.present() == set()
    cache.add(key(0), image(0))
    assert len([*cache.directory.iterdir()]) == 6


def test_files_of_the_former_format_are_removed_unread(caches) -> None:
    cache = caches()
    cache.directory.mkdir(parents=True)
    record = struct.pack("<QIIQQ", 1, 0, FRAME, 0, xxh3_64_intdigest(image(0)))
    record += xxh3_64_intdigest(record).to_bytes(8, "little")
    (cache.directory / "0001.frames").write_bytes(record)
    (cache.directory / "0001.pages").write_bytes(image(0))
    assert cache.present() == set()
    cache.add(key(1), image(1))
    assert [path.suffix for path in sorted(cache.directory.iterdir())] == [".images", ".index"]


def test_an_index_of_a_later_version_is_neither_read_nor_changed(caches) -> None:
    cache = caches()
    cache.add(key(0), image(0))
    cache.close()
    path = cache.directory / "0001.index"
    later = path.read_bytes().replace(b"GRAFTCCH\2", b"GRAFTCCH\3")
    path.write_bytes(later)
    again = caches()
    assert again.present() == set()
    again.add(key(1), image(1))
    assert content(again, key(1)) == image(1)
    assert path.read_bytes() == later


# The bound --------------------------------------------------------------------------------------


def test_small_caches_are_small_files(caches) -> None:
    cache = caches()
    cache.add(key(0), image(0))
    assert files(cache.directory) <= 128 << 10


def test_the_least_recently_used_arena_is_evicted_first(caches) -> None:
    cache = caches(bytes_max=8 * (FRAME + 200))
    for frame in range(40):
        cache.add(key(frame), image(frame))
        assert content(cache, key(0)) in (image(0), None)
    kept = {each.frame for each in cache.present()}
    assert 39 in kept
    assert 0 in kept, "it was used after each addition"
    assert len(kept) <= 9
    for frame in kept:
        assert content(cache, key(frame)) == image(frame)


def test_the_limit_covers_all_logs_and_processes_together(caches, tmp_path) -> None:
    bound = 400_000
    first, second = caches("a", bytes_max=bound), caches("b", bytes_max=bound)
    same_process = PageCache(tmp_path / "cache" / "c", first.space)
    for frame in range(100):
        for cache in (first, second, same_process):
            cache.add(key(frame), image(frame))
            assert files(tmp_path / "cache") <= bound
    for cache in (first, second, same_process):
        assert content(cache, key(99)) == image(99)
        assert cache.present()


def test_the_files_are_checked_a_bounded_number_of_times(caches, monkeypatch) -> None:
    cache = caches(bytes_max=64 << 20)
    looks: list[int] = []
    pairs = CacheSpace._pairs

    def counted(space: CacheSpace):
        looks.append(1)
        return pairs(space)

    monkeypatch.setattr(CacheSpace, "_pairs", counted)
    for frame in range(200):
        cache.add(key(frame), image(frame, 64 << 10))
    assert 1 <= len(looks) <= 30


def test_caches_of_unused_logs_are_evicted_first(caches, tmp_path) -> None:
    old = caches("old")
    for frame in range(50):
        old.add(key(frame), image(frame))
    old.close()
    os.utime(tmp_path / "cache" / "old" / "0001.index", (1, 1))
    os.utime(tmp_path / "cache" / "old" / "0001.images", (1, 1))
    cache = caches("new", bytes_max=300_000)
    cache.add(key(0), image(0))
    assert not (tmp_path / "cache" / "old" / "0001.index").exists()
    assert content(cache, key(0)) == image(0)


def descriptors_open() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


class Remembering:
    """A reader that remembers places, as views do."""

    def __init__(self, space: CacheSpace) -> None:
        self.places: list[object] = []
        space.add_reader(self)

    def forget_located(self) -> None:
        self.places.clear()


def deleted_files() -> list[str]:
    """Return what this process holds of deleted files, mapped or open."""
    held = Path("/proc/self/maps").read_text().splitlines()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            held.append(str(descriptor.readlink()))
        except OSError:
            continue
    return [line for line in held if "(deleted)" in line and ".images" in line]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc to look into")
def test_a_process_releases_evicted_arenas(caches) -> None:
    cache = caches(bytes_max=100_000)
    reader = Remembering(cache.space)
    before = descriptors_open()
    for frame in range(300):
        cache.add(key(frame % 256, lsn=frame), image(frame % 256))
        reader.places.append(cache.find(key(frame % 256, lsn=frame), FRAME))
    assert deleted_files() == []
    assert descriptors_open() - before <= 2 * 9


def test_mappings_of_a_growing_arena_do_not_accumulate(caches, monkeypatch) -> None:
    monkeypatch.setattr(cache_space_module, "_SUPERSEDED_MAX", 4)
    cache = caches()
    reader = Remembering(cache.space)
    before = descriptors_open()
    for frame in range(200):
        cache.add(key(frame), image(frame, 64 << 10))
        reader.places.append(cache.find(key(frame), 64 << 10))
        assert descriptors_open() - before <= 2 + 4
    assert len(reader.places) < 200


def test_a_reader_keeps_what_another_process_evicts(caches) -> None:
    reader, writer = caches(), caches(bytes_max=8 * FRAME)
    writer.add(key(0), image(1))
    place = reader.find(key(0), FRAME)
    assert place is not None
    for frame in range(1, 10):
        writer.add(key(frame), image(frame))
    assert writer.find(key(0), FRAME) is None
    assert bytes(place.view[place.offset : place.offset + FRAME]) == image(1)
    assert reader.find(key(77), FRAME) is None
    assert reader.find(key(0), FRAME) is None, "the files are gone, so the frame is fetched again"


def test_a_reader_without_misses_releases_arenas_evicted_by_another_process(caches) -> None:
    reader, writer = caches(), caches(bytes_max=8 * FRAME)
    writer.add(key(0), image(1))
    places = Remembering(reader.space)
    places.places.append(reader.find(key(0), FRAME))
    for frame in range(1, 10):
        writer.add(key(frame), image(frame))
    reader.space.forget_resident()
    assert places.places == []
    assert reader.size_bytes() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_caches_belongs_to_the_owner_of_the_data(caches, tmp_path) -> None:
    os.chown(tmp_path, 4321, 4321)
    cache = caches()
    cache.add(key(0), image(0))
    made = [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]
    assert len(made) == 4
    assert {path.stat().st_uid for path in made} == {4321}


# In memory --------------------------------------------------------------------------------------


def test_a_cache_that_cannot_be_written_is_used_in_memory_within_a_bound(caches) -> None:
    cache = caches(writable=False, bytes_max=5 << 20)
    reader = Remembering(cache.space)
    for frame in range(200):
        place = cache.add(key(frame), image(frame, 64 << 10))
        assert bytes(place.view[:10]) == image(frame, 10)
        reader.places.append(place)
        assert cache.space.memory_bytes <= 5 << 20
        assert sum(len(each.view) for each in reader.places) <= (5 << 20) + (64 << 10)
    assert content(cache, key(199), 64 << 10) == image(199, 64 << 10)
    assert cache.find(key(0), 64 << 10) is None
    assert not cache.directory.exists()


def test_without_mappings_frames_are_read_by_calls(caches) -> None:
    caches(maps=False).add(key(0), image(1))
    cache = caches(maps=False)
    for _ in range(2):
        assert content(cache, key(0)) == image(1)
    cache.add(key(1), image(2))
    cache.space.close()
    assert content(cache, key(1)) == image(2)
    assert str(cache.directory) not in Path("/proc/self/maps").read_text()
    os.truncate(cache.directory / "0001.images", 100)
    cache.space.close()
    assert cache.find(key(1), FRAME) is None


# Deleted, replaced, full ------------------------------------------------------------------------


DISASTERS = [
    removed, replaced_by_a_file, emptied, without_index, without_images, cut, of_folders
]  # fmt: skip


@pytest.mark.parametrize("place", ["cache", "cache/log"])
@pytest.mark.parametrize("disaster", DISASTERS, ids=lambda each: each.__name__)
def test_a_cache_survives_any_change_of_its_files(caches, tmp_path, disaster, place) -> None:
    cache, other = caches(), caches()
    for each in (cache, other):
        for frame in range(3):
            each.add(key(frame), image(frame))
    disaster(tmp_path / place)
    for each in (cache, other, caches()):
        for frame in range(3):
            assert content(each, key(frame)) in (image(frame), None)
        place_of_new = each.add(key(5), image(5))
        assert bytes(place_of_new.view[place_of_new.offset :][:FRAME]) == image(5)
        assert content(each, key(5)) == image(5)


def test_recreated_files_are_not_confused_with_the_previous_ones(caches, tmp_path) -> None:
    cache, other = caches(), caches()
    for each in (cache, other):
        each.add(key(0), image(1))
        assert content(each, key(0)) == image(1)
    for attempt in range(2, 12):
        shutil.rmtree(tmp_path / "cache")
        other.add(key(attempt), image(attempt))
        cache.add(key(attempt, lsn=2), image(100 + attempt))
        assert content(cache, key(attempt)) == image(attempt)
        assert content(other, key(attempt, lsn=2)) == image(100 + attempt)


def test_a_full_disk_costs_memory_and_is_logged_once(caches, monkeypatch, caplog) -> None:
    cache = caches()
    cache.add(key(0), image(0))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arena_module, "write_fully", full)
    for frame in range(1, 20):
        place = cache.add(key(frame), image(frame))
        assert bytes(place.view[place.offset : place.offset + FRAME]) == image(frame)
    assert content(cache, key(7)) == image(7)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No space left" in caplog.text
    failure = cache.add_all(key(30), [image(30)])
    assert failure is not None
    assert "disk space" in str(failure)
    monkeypatch.undo()
    assert cache.add_all(key(31), [image(31)]) is None
    assert content(caches(), key(31)) == image(31)


def test_a_frame_larger_than_the_limit_is_kept_in_memory(caches) -> None:
    cache = caches(bytes_max=1000)
    failure = cache.add_all(key(0), [image(0)])
    assert "raise cache_max_bytes" in str(failure)
    assert content(cache, key(0)) == image(0)
    assert files(cache.directory) <= 1000


def test_files_that_are_deleted_while_they_are_looked_at_give_no_wrong_frame(
    caches, monkeypatch
) -> None:
    """The new files get the numbers of the deleted ones, of which some places are still known."""
    cache = caches()
    for frame in range(3):
        cache.add(key(frame), image(frame))
    is_deleted = arena_module.Arena.is_deleted

    def deleted_just_after(arena: arena_module.Arena) -> bool:
        monkeypatch.undo()
        assert not is_deleted(arena)
        shutil.rmtree(cache.directory)
        return False

    monkeypatch.setattr(arena_module.Arena, "is_deleted", deleted_just_after)
    cache.add(key(7), image(7))
    for frame in (0, 1, 2, 7):
        assert content(cache, key(frame)) in (None, image(frame))
    assert content(cache, key(7)) == image(7)
