"""A crash at every effect of a strategy: the volume is diverged or resolved, and nothing is lost.

The machine is killed, or its power is cut, at an effect of the pull. When it is started again, it
shows what it had or what the remote has, and its local commits are in one place. The next pull
resolves what is left.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.local import head
from graft_vfs.store.memory import MemoryObjects, MemoryStore
from graft_vfs.sync.strategies import STRATEGIES
from tests.crash.scenarios import open_machine
from tests.support.power_cut import Image, cuts, everything, write_image
from tests.support.recording import Recorder, recorded
from tests.support.replicas import Replica
from tests.support.sql import is_sound

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the recorder knows holes and syncs of files as Linux has them"
)

DRAWS = int(os.environ.get("GRAFT_TEST_CUT_DRAWS", "2"))
DATA = "data"


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Give a directory in memory if the system has one."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent) as directory:
        yield Path(directory)


class Diverged:
    """A machine with local 10 and 11 on a remote in memory, which has 1 in the place of these."""

    def __init__(self, scratch: Path) -> None:
        self.root = scratch / "machine"
        self.objects = MemoryObjects("crash")
        self.root.mkdir()
        with self.open(scratch / "theirs") as theirs:
            connection = theirs.connect()
            connection.execute("CREATE TABLE t(x); INSERT INTO t VALUES(0)")
            theirs.engine.push("main")
            with self.open(self.root / DATA) as ours:
                mine = ours.connect(remote="main")
                mine.pragma("synchronous", "off")
                mine.execute("INSERT INTO t VALUES(10)")
                mine.execute("INSERT INTO t VALUES(11)")
            connection.execute("INSERT INTO t VALUES(1)")
            theirs.engine.push("main")

    def open(self, data_dir: Path) -> Replica:
        remote = RemoteConfig(type="memory", root="crash")
        return open_machine(data_dir, remote, MemoryStore(self.objects))

    def record(self, strategy: str) -> Recorder:
        """Resolve it, and record every effect."""
        with recorded(self.root, self.objects) as recorder, self.open(self.root / DATA) as ours:
            ours.engine.pull("main", strategy=strategy)
        return recorder

    def check(self, image: Image, strategy: str, directory: Path, *, power_cut: bool) -> None:
        """Start a machine with this disk, check it, and pull again."""
        write_image(image, directory)
        with pytest.MonkeyPatch.context() as patch:
            if power_cut:
                patch.setattr(head, "boot_number", lambda: 0xB007)
            with self.open(directory / DATA) as ours:
                if shown(ours) == [0, 10, 11]:
                    assert places(ours) == []
                else:
                    assert shown(ours) == [0, 1]
                    assert places(ours) == [[0, 10, 11]]
                ours.engine.pull("main", strategy=strategy)
                assert (shown(ours), places(ours)) == ([0, 1], [[0, 10, 11]])
                assert len(ours.engine.volumes()) == (2 if strategy == "fork" else 1)
                ours.connect().execute("INSERT INTO t VALUES(2)")
                assert ours.engine.fsck().is_sound
            with self.open(directory / DATA) as ours:
                assert (shown(ours), places(ours)) == ([0, 1, 2], [[0, 10, 11]])


def shown(ours: Replica, tag: str = "main", **at: str) -> list[int]:
    with ours.connect(tag, **at) as connection:
        assert is_sound(connection)
        return [value for (value,) in connection.execute("SELECT x FROM t ORDER BY x")]


def places(ours: Replica) -> list[list[int]]:
    """Return what kept branches and forks have."""
    kept = [f"branch:{each.branch}" for each in ours.engine.branches("main")[1:]]
    forks = [each.tag for each in ours.engine.tags() if each.tag != "main"]
    return [*(shown(ours, lsn=each) for each in kept), *(shown(ours, each) for each in forks)]


def crashes(recorder: Recorder, draws: int) -> Iterator[tuple[Image, bool]]:
    """Yield the disk after a kill at each effect, and after power cuts."""
    disk = recorder.disk()
    for time, instant in enumerate(recorder.instants, 1):
        for change in instant.changes:
            disk.apply(time, change)
        yield disk.image(everything), False
        yield from ((image, True) for image in cuts(disk, draws, iter(range(10**6))))


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_a_crash_leaves_it_diverged_or_resolved(scratch, strategy) -> None:
    volume = Diverged(scratch)
    found = list(crashes(volume.record(strategy), 1))
    for number, (image, power_cut) in enumerate(random.Random(5).sample(found, 40)):
        volume.check(image, strategy, scratch / f"image {number}", power_cut=power_cut)


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_every_crash_leaves_it_diverged_or_resolved(scratch, strategy) -> None:
    volume = Diverged(scratch)
    count = 0
    for image, power_cut in crashes(volume.record(strategy), DRAWS):
        volume.check(image, strategy, scratch / "image", power_cut=power_cut)
        for path in sorted((scratch / "image").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (scratch / "image").rmdir()
        count += 1
    print(f"{strategy}: {count} images")
