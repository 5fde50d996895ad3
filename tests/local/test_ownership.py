"""What root makes in a data directory and on a remote belongs to the account that owns them."""

from __future__ import annotations

import codecs
import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

import graft_vfs
from graft_vfs import Config, RemoteConfig
from graft_vfs.local import ownership
from graft_vfs.volume import rotation
from tests.support.engines import registered

APPLICATION = 12_345

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@contextlib.contextmanager
def application() -> Iterator[None]:
    """Have the rights of an account that is not root inside the block."""
    # What Python loads at its first use has to be here: that account may not reach this Python.
    codecs.lookup("ascii")
    os.setegid(APPLICATION)
    os.seteuid(APPLICATION)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def config(monkeypatch) -> Iterator[Config]:
    """A data directory and a remote of the application, where it can reach them."""
    monkeypatch.setattr(rotation, "ROTATE_BYTES", 0)
    # Not tmp_path, whose parents pytest closes to all but root, again and again.
    with tempfile.TemporaryDirectory(prefix="graft-owners-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        closed = [each for each in directory.parents if not each.stat().st_mode & stat.S_IXOTH]
        if closed:
            pytest.skip(f"other accounts cannot get through {closed[0]}; set TMPDIR")
        for each in (directory / "data", directory / "remote"):
            each.mkdir()
            os.chown(each, APPLICATION, APPLICATION)
        remote = RemoteConfig(type="fs", root=str(directory / "remote"))
        yield Config(data_dir=directory / "data", remote=remote)


def owners(config: Config) -> set[tuple[int, int]]:
    roots = [config.data_dir, Path(str(config.remote.root))]
    paths = [path for root in roots for path in (root, *root.rglob("*"))]
    return {(path.stat().st_uid, path.stat().st_gid) for path in paths}


@pytest.mark.parametrize("first", ["application", "root"])
def test_a_push_by_root_does_not_lock_out_the_application(config, first) -> None:
    with application() if first == "application" else contextlib.nullcontext(), registered(config):
        graft_vfs.connect("main").execute("CREATE TABLE t(x)")
    with registered(config) as engine:
        connection = graft_vfs.connect("main")
        log = engine.open("main").branch_log.path
        log.chmod(0o640)
        connection.execute("INSERT INTO t VALUES(1)")
        engine.push("main")
        rotated = engine.open("main").branch_log.path
        assert rotated != log
        assert stat.S_IMODE(rotated.stat().st_mode) == 0o640
        connection.execute("INSERT INTO t VALUES(2)")
        assert owners(config) == {(APPLICATION, APPLICATION)}
    with application(), registered(config) as engine:
        connection = graft_vfs.connect("main")
        connection.execute("INSERT INTO t VALUES(3)")
        engine.push("main")
        assert connection.execute("SELECT x FROM t").fetchall() == [(1,), (2,), (3,)]


def test_a_read_only_file_is_not_reported_as_a_full_disk(config) -> None:
    with application(), registered(config) as engine:
        graft_vfs.connect("main").execute("CREATE TABLE t(x)")
        log = engine.open("main").branch_log.path
    os.chown(log, 0, 0)
    log.chmod(0o600)
    with application(), registered(config):
        with pytest.raises(apsw.Error, match="Permission denied; check the owner") as caught:
            graft_vfs.connect("main")
        assert caught.value.extendedresult == apsw.SQLITE_IOERR_ACCESS


def test_a_non_root_account_copies_the_mode_and_if_possible_the_group(config) -> None:
    former = config.data_dir / "former"
    former.touch()
    former.chmod(0o664)
    os.chown(former, 0, APPLICATION)
    with application():
        os.close(ownership.create(former.with_name("new"), os.O_RDWR, replaces=former))
    made = former.with_name("new").stat()
    assert (made.st_gid, stat.S_IMODE(made.st_mode)) == (APPLICATION, 0o664)
