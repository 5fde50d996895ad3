"""Opening a data directory and its remote: all of it or nothing, and the threads that it gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import ConfigError


def open_files(directory: Path) -> list[str]:
    """Return the files below a directory that this process has open."""
    paths = [path.resolve() for path in Path("/proc/self/fd").iterdir() if path.exists()]
    return [str(path) for path in paths if path.is_relative_to(directory)]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_an_engine_whose_remote_cannot_be_opened_leaves_no_file_open(tmp_path) -> None:
    (tmp_path / "file").write_text("no directory")
    remote = RemoteConfig(type="fs", root=str(tmp_path / "file"))
    with pytest.raises(ConfigError) as failure:
        Graft(Config(data_dir=tmp_path / "data", remote=remote))
    # The failure holds the frames that opened the catalog: no garbage collection helps here.
    assert failure.traceback
    assert open_files(tmp_path / "data") == []
