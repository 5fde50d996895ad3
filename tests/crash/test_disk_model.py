"""The model of a disk is as unkind as POSIX allows, and no unkinder."""

from __future__ import annotations

import itertools

import pytest

from tests.support.power_cut import (
    ROOT,
    SECTOR_BYTES,
    Content,
    Disk,
    Renamed,
    Resized,
    Synced,
    Written,
    all_but,
    at_random,
    cuts,
    everything,
    nothing,
    only,
    write_image,
)

FILE, OTHER, FOLDER = 1, 2, 3


def sector(letter: bytes) -> bytes:
    return letter * SECTOR_BYTES


def disk_with_a_synced_file() -> Disk:
    """Return a disk with the file `f` of two sectors, all of it durable, and its name too."""
    disk = Disk()
    disk.apply(1, Resized(FILE, 2 * SECTOR_BYTES))
    disk.apply(1, Renamed(((ROOT, "f", FILE),)))
    disk.apply(2, Written(FILE, {0: sector(b"a"), 1: sector(b"a")}))
    disk.apply(3, Synced(FILE))
    disk.apply(4, Synced(ROOT))
    return disk


def test_synced_data_always_survives() -> None:
    disk = disk_with_a_synced_file()
    expected = {"f": Content(2 * SECTOR_BYTES, {0: sector(b"a"), 1: sector(b"a")})}
    assert disk.pending_times() == []
    assert list(cuts(disk, 3, itertools.count())) == [expected]


def test_a_synced_file_with_an_unsynced_name_may_be_lost() -> None:
    disk = Disk()
    disk.apply(1, Resized(FILE, 1))
    disk.apply(1, Renamed(((ROOT, "f", FILE),)))
    disk.apply(2, Synced(FILE))
    assert disk.image(nothing) == {}
    assert disk.image(everything) == {"f": Content(1, {})}


def test_a_synced_name_may_lead_to_a_file_without_its_bytes() -> None:
    disk = Disk()
    disk.apply(1, Resized(FILE, 0))
    disk.apply(1, Renamed(((ROOT, "f", FILE),)))
    disk.apply(2, Resized(FILE, SECTOR_BYTES))
    disk.apply(2, Written(FILE, {0: sector(b"a")}))
    disk.apply(3, Synced(ROOT))
    assert disk.image(nothing) == {"f": Content(0, {})}
    longer = disk.image(lambda times: 2 if times == [1, 2] else 0)
    assert longer == {"f": Content(SECTOR_BYTES, {})}


def test_each_sector_survives_as_of_any_of_its_writes() -> None:
    disk = disk_with_a_synced_file()
    disk.apply(5, Written(FILE, {0: sector(b"b")}))
    disk.apply(6, Written(FILE, {0: sector(b"c"), 1: sector(b"c")}))
    seen = set()
    for seed in range(200):
        content = disk.image(at_random(seed))["f"]
        assert content is not None
        seen.add((content.sectors[0][:1], content.sectors[1][:1]))
    assert seen == set(itertools.product((b"a", b"b", b"c"), (b"a", b"c")))


def test_the_sectors_of_a_larger_block_survive_together() -> None:
    disk = disk_with_a_synced_file()
    disk.apply(5, Written(FILE, {0: sector(b"b")}))
    disk.apply(6, Written(FILE, {1: sector(b"c")}))
    seen = set()
    for seed in range(200):
        content = disk.image(at_random(seed), 4096)["f"]
        assert content is not None
        seen.add((content.sectors[0][:1], content.sectors[1][:1]))
    assert seen == {(b"a", b"a"), (b"b", b"a"), (b"b", b"c")}


def test_the_borders_are_the_first_and_the_last_effect() -> None:
    disk = disk_with_a_synced_file()
    disk.apply(5, Written(FILE, {0: sector(b"b")}))
    disk.apply(6, Written(FILE, {1: sector(b"c")}))
    last, rest = disk.image(only(6))["f"], disk.image(all_but(5))["f"]
    assert last == rest == Content(2 * SECTOR_BYTES, {0: sector(b"a"), 1: sector(b"c")})


def test_a_rename_survives_whole_or_not_at_all() -> None:
    disk = disk_with_a_synced_file()
    disk.apply(5, Renamed(((ROOT, "f", None), (ROOT, "g", FILE))))
    images = [set(image) for image in cuts(disk, 20, itertools.count())]
    assert sorted(map(sorted, images)) == [["f"], ["g"]]


def test_a_removed_file_may_come_back() -> None:
    disk = disk_with_a_synced_file()
    disk.apply(5, Renamed(((ROOT, "f", None),)))
    assert set(disk.image(nothing)) == {"f"}
    disk.apply(6, Synced(ROOT))
    assert disk.image(nothing) == {}


def test_the_content_of_a_folder_is_lost_with_its_name() -> None:
    disk = Disk()
    disk.apply(1, Renamed(((ROOT, "d", FOLDER),)))
    disk.apply(2, Resized(OTHER, 1))
    disk.apply(2, Renamed(((FOLDER, "f", OTHER),)))
    disk.apply(3, Synced(OTHER))
    disk.apply(4, Synced(FOLDER))
    assert disk.image(nothing) == {}
    disk.apply(5, Synced(ROOT))
    assert set(disk.image(nothing)) == {"d", "d/f"}


@pytest.mark.parametrize("size", [0, 1, SECTOR_BYTES, 5 * SECTOR_BYTES - 7, 1 << 20])
def test_an_image_is_written_unchanged(tmp_path, size) -> None:
    held = {at: sector(bytes([at + 1])) for at in (0, 1, 3) if at * SECTOR_BYTES < size}
    write_image({"d": None, "d/f": Content(size, held)}, tmp_path / "root")
    expected = bytearray(max(size, 4 * SECTOR_BYTES))
    for at, piece in held.items():
        expected[at * SECTOR_BYTES : (at + 1) * SECTOR_BYTES] = piece
    assert (tmp_path / "root" / "d" / "f").read_bytes() == bytes(expected[:size])
