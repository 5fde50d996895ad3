"""What every local file stands on: names that are durable when a function says so."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from graft_vfs.local.files import make_directories, storage_error


def test_names_of_new_directories_become_durable_from_the_top_down(tmp_path, monkeypatch) -> None:
    synced = []
    original = os.fsync

    def fsync(descriptor: int) -> None:
        names = sorted(os.listdir(descriptor))
        synced.append((os.fstat(descriptor).st_ino, names))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    make_directories(tmp_path / "a" / "b")
    assert synced == [
        (tmp_path.stat().st_ino, ["a"]),
        ((tmp_path / "a").stat().st_ino, ["b"]),
    ]
    make_directories(tmp_path / "a" / "b")
    assert len(synced) == 2


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_error_of_the_system_names_the_path_and_a_next_step(number) -> None:
    error = storage_error(Path("/data/x"), OSError(number, os.strerror(number)))
    assert error.message == f"/data/x: {os.strerror(number)}"
    assert error.next_step
