"""Full disks on real file systems, in files mounted as loop devices: errors, and never a signal.

Each file system fails in its own way when a mapped page needs space: tmpfs at the first touch of a
hole, btrfs at every store, xfs at a store to blocks that a reflink copy shares. The same steps run
on each, mapped and with `mmap = "off"`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import apsw
import pytest

import graft_vfs
from graft_vfs import Config, RemoteConfig
from graft_vfs.errors import GraftError
from tests.support import isolated, namespaces
from tests.support.engines import close_connections
from tests.support.sql import is_sound, rows, value

KINDS = ["ext4", "xfs", "btrfs", "tmpfs"]


@pytest.fixture(params=KINDS)
def mounted(request, tmp_path: Path) -> list[str]:
    """Return the beginning of a command that has a small disk of a kind at tmp_path/disk."""
    reason = namespaces.lacks(request.param, tmp_path)
    if reason:
        pytest.skip(f"no {request.param} can be mounted here: {reason}")
    (tmp_path / "disk").mkdir()
    return namespaces.loop_disk(tmp_path / "disk", request.param)


class Ballast:
    """Files that take all free space of a disk, and give it back."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "ballast"

    def fill(self) -> None:
        """Take what is free; some file systems find more only after they have written."""
        self._directory.mkdir()
        for number in range(4):
            for size in (1 << 20, 64 << 10, 4 << 10, 512):
                self._write_while_possible(self._directory / f"{number}-{size}", size)

    def _write_while_possible(self, path: Path, size: int) -> None:
        with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
            while file.write(b"\xff" * size) == size:
                pass
        with contextlib.suppress(OSError), path.open("rb") as file:
            os.fsync(file.fileno())

    def remove(self) -> None:
        shutil.rmtree(self._directory)


class Program:
    """An engine on the small disk, with a table whose rows are counted as they are acknowledged."""

    def __init__(self, root: Path, mmap: str) -> None:
        # A remote elsewhere, so that a push needs room for what it keeps here alone.
        remote = RemoteConfig(type="fs", root=str(root / "remote"))
        self.config = Config(data_dir=root / "disk" / "data", remote=remote, mmap=mmap)
        self.rows = 0
        self.refused: list[str] = []
        self.open()
        self.connection.execute("CREATE TABLE t(n INTEGER PRIMARY KEY, v)")

    def open(self) -> None:
        self.engine = graft_vfs.register(self.config)
        self.connection = graft_vfs.connect("main")

    def reopen(self) -> None:
        close_connections()
        graft_vfs.unregister()
        self.open()

    def insert(self, times: int, synchronous: str, size: int = 500) -> None:
        """Insert rows one by one; those that are refused are not counted."""
        self.connection.pragma("synchronous", synchronous)
        for _ in range(times):
            with self.trying("insert"):
                self.connection.execute("INSERT INTO t VALUES(?, randomblob(?))", (self.rows, size))
                self.rows += 1

    @contextlib.contextmanager
    def trying(self, what: str):
        """Take an error that is declared for an answer."""
        try:
            yield
        except (apsw.IOError, apsw.FullError, apsw.CantOpenError, apsw.BusyError) as error:
            self.refused.append(f"{what}: {error}")
        except GraftError as error:
            self.refused.append(f"{what}: {error}")

    def check(self) -> None:
        found = [n for (n,) in rows(self.connection, "SELECT n FROM t ORDER BY n")]
        assert found == list(range(self.rows)), (len(found), self.rows)
        assert is_sound(self.connection)


def write_until_full_and_on(root: str, mmap: str, *copies: str) -> None:
    directory = Path(root) / "disk"
    program = Program(Path(root), mmap)
    program.insert(40, "normal")
    for copy in copies:
        command = ["cp", "-a", "--reflink=always", directory / "data", directory / copy]
        subprocess.run(command, check=True)
    ballast = Ballast(directory)
    ballast.fill()
    program.insert(300, "normal")
    program.insert(20, "full")
    program.insert(5, "normal", size=2_000_000)
    assert program.refused, "the disk was not full"
    with program.trying("push"):
        program.engine.push("main")
    assert value(program.connection, "SELECT count(*) FROM t") == program.rows
    with program.trying("open"):
        program.reopen()
        program.check()
    ballast.remove()
    program.reopen()
    program.check()
    program.insert(50, "normal")
    program.engine.push("main")
    program.check()
    print(len(program.refused), sorted(set(program.refused)))


@pytest.mark.parametrize("mmap", ["auto", "off"])
def test_a_full_disk_refuses_by_name_and_loses_nothing(tmp_path, mounted, mmap) -> None:
    isolated.run(write_until_full_and_on, tmp_path, mmap, prefix=mounted)


@pytest.mark.parametrize("mounted", ["xfs", "btrfs"], indirect=True)
def test_a_full_disk_refuses_by_name_after_a_reflink_copy(tmp_path, mounted) -> None:
    isolated.run(write_until_full_and_on, tmp_path, "auto", "copy", prefix=mounted)


def read_what_a_full_disk_holds(root: str, mmap: str) -> None:
    program = Program(Path(root), mmap)
    program.insert(40, "normal")
    program.engine.push("main")
    program.insert(40, "normal")
    program.insert(1, "normal", size=1_000_000)  # No space is zeroed past one so large.
    ballast = Ballast(Path(root) / "disk")
    ballast.fill()
    for _ in range(3):
        program.reopen()
        program.check()
    ballast.remove()
    program.insert(1, "full")
    assert not program.refused


@pytest.mark.parametrize("mmap", ["auto", "off"])
def test_a_full_disk_is_opened_and_read(tmp_path, mounted, mmap) -> None:
    isolated.run(read_what_a_full_disk_holds, tmp_path, mmap, prefix=mounted)


def push_from_a_disk_that_is_full(root: str, mmap: str) -> None:
    program = Program(Path(root), mmap)
    while not program.refused:
        program.insert(1, "normal", size=3000)
    assert program.engine.push("main").claimed
    # What was pushed is replaced by an empty file, so that there is room again.
    program.refused.clear()
    program.insert(50, "normal")
    assert not program.refused
    program.check()


@pytest.mark.parametrize("mmap", ["auto", "off"])
@pytest.mark.parametrize("mounted", ["tmpfs"], indirect=True)
def test_a_push_works_on_a_full_disk_and_frees_space(tmp_path, mounted, mmap) -> None:
    isolated.run(push_from_a_disk_that_is_full, tmp_path, mmap, prefix=mounted)
