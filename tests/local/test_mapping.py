"""Views of files: mapped or read by calls, the same bytes, and errors instead of signals."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from graft_vfs.errors import LocalStorageError
from graft_vfs.local.files import grown_size
from graft_vfs.local.mapping import view_of


@pytest.fixture
def file(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 64)
    descriptor = os.open(path, os.O_RDWR)
    yield path, descriptor
    os.close(descriptor)


@pytest.mark.parametrize("maps", [True, False])
def test_a_view_reads_the_same_bytes_mapped_or_by_calls(file, maps: bool) -> None:
    path, descriptor = file
    view = view_of(descriptor, path, 16_384, maps=maps)
    assert len(view) == 16_384
    assert bytes(view[250:260]) == bytes([250, 251, 252, 253, 254, 255, 0, 1, 2, 3])


def test_a_view_by_calls_of_a_truncated_file_is_a_named_error(file) -> None:
    path, descriptor = file
    view = view_of(descriptor, path, 16_384, maps=False)
    os.truncate(path, 5000)
    assert len(view[4000:5000]) == 1000
    with pytest.raises(LocalStorageError, match="ends at byte 5000, but byte 8192 is needed"):
        view[4096:8192]


def test_a_view_by_calls_outlives_the_descriptor_it_was_made_from(file) -> None:
    path, descriptor = file
    view = view_of(descriptor, path, 16_384, maps=False)
    os.close(os.dup(descriptor))
    path.unlink()
    assert view[0:2] == b"\0\1"


def test_a_file_grows_by_at_most_a_quarter_or_64_kib() -> None:
    sizes = [grown_size(needed) for needed in range(1, 40 << 20, 4099)]
    assert sizes == sorted(sizes)
    for needed in (1, 65_536, 65_537, 1 << 20, (1 << 20) + 1, 100 << 20, 10 << 30):
        grown = grown_size(needed)
        assert needed <= grown <= needed + max(64 << 10, needed // 4)
    assert len(set(sizes)) < 50
