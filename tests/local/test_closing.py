"""Closing a file: a descriptor is closed once, whatever a signal's handler raises meanwhile."""

from __future__ import annotations

import os

import pytest

from graft_vfs.ids import VolumeId
from graft_vfs.local.branch_file import OpenFile
from graft_vfs.local.branch_log import BranchLog
from graft_vfs.local.locks import FileLock


def _branch_log(path):
    log = BranchLog.create(path, volume=VolumeId.new())
    return log, log.file_number, log.close


def _open_file(path):
    path.touch()
    file = OpenFile(path)
    return file, file.number, file.abandon


def _file_lock(path):
    before = os.dup(0)
    os.close(before)
    lock = FileLock(path)
    return lock, before, lock.abandon


@pytest.mark.parametrize("opened", [_branch_log, _open_file, _file_lock])
def test_an_interrupted_close_never_closes_another_file(opened, tmp_path, monkeypatch):
    owner, number, close = opened(tmp_path / "0001.log")
    real_close = os.close

    def interrupted(descriptor):
        real_close(descriptor)
        raise KeyboardInterrupt  # As a handler does, which runs when the call has returned.

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", interrupted)
        with pytest.raises(KeyboardInterrupt):
            close()
    with (tmp_path / "other").open("wb") as other:
        assert other.fileno() == number
        close()
        del owner
        os.fstat(other.fileno())
