"""A crash at every effect: the process is killed there, or the power is cut.

A scenario runs once below a directory that is watched, and what every effect changes is recorded.
From the record follows what the disk holds when the process is killed at an effect, and what it may
hold when the power is cut there. Each such image becomes a machine that is started, looked at,
written to, pushed, pulled and cloned. What it must show stands in `ledger`, what is checked in
`aftermath`.

The normal run draws some crashes of each kind, always the same ones; the deep run makes all kills,
and power cuts at all effects.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from graft_vfs.engine.config import RemoteConfig
from graft_vfs.local import head
from graft_vfs.store.memory import MemoryObjects, MemoryStore
from graft_vfs.sync import build, tables
from graft_vfs.view import table_policy
from graft_vfs.volume import rotation, transaction
from tests.crash.aftermath import Crash, Machines, recover, remote_contents
from tests.crash.ledger import Content, Ledger
from tests.crash.scenarios import (
    REMOTE,
    SCENARIOS,
    Life,
    Scenario,
    one_replacement,
    recovery,
    replacements,
    reverts,
)
from tests.support.power_cut import SECTOR_BYTES, Disk, all_but, cuts, everything, write_image
from tests.support.recording import Recorder, recorded

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the recorder knows holes and syncs of files as Linux has them"
)

DRAWS = int(os.environ.get("GRAFT_TEST_CUT_DRAWS", "2"))
"""How many random images the deep tests draw for each effect and each size of a block."""

IN_MEMORY = [(name, "memory") for name in SCENARIOS]
CASES = [*IN_MEMORY, ("pushes", "fs")]
"""(scenario, remote): one in memory survives the crash; one in a directory is on the same disk, and
looked at after each crash."""

REPEATED = [("commits", "memory"), ("pushes", "memory")]
"""What is crashed a second time, while the machine recovers."""


@dataclass(frozen=True, slots=True)
class Record:
    """A scenario that was run: its effects, and what it was promised."""

    recorder: Recorder
    ledger: Ledger
    remote_in_memory: bool

    def instants(self) -> Iterator[tuple[int, Disk, dict[str, bytes] | None]]:
        """Yield (time, disk, remote) behind each effect; it is one disk, which goes on changing."""
        disk = self.recorder.disk()
        for time, instant in enumerate(self.recorder.instants, 1):
            for change in instant.changes:
                disk.apply(time, change)
            yield time, disk, instant.remote if self.remote_in_memory else None

    def kills(self, at: set[int] | None = None) -> Iterator[Crash]:
        """Yield a kill at each effect, or at those given: the files stay as they are."""
        for time, disk, remote in self.instants():
            if at is None or time in at:
                yield Crash(time, disk.image(everything), False, remote, time % 2 == 0)

    def power_cuts(self, draws: int, at: set[int] | None = None) -> Iterator[list[Crash]]:
        """Yield all power cuts of each effect, or of those given."""
        seeds = itertools.count()
        for time, disk, remote in self.instants():
            if at is None or time in at:
                yield [
                    Crash(time, image, True, remote, next(seeds) % 2 == 0)
                    for image in cuts(disk, draws, seeds)
                ]

    def drawn_times(self, count: int, seed: int) -> set[int]:
        """Draw effects, the same ones each time."""
        last = self.recorder.now
        return set(random.Random(seed).sample(range(1, last + 1), min(count, last)))


def run(scenario: Scenario, root: Path, kind: str, remote: dict[str, bytes]) -> Record:
    """Run a scenario below `root`, where `remote` is what the remote has already."""
    root.mkdir(exist_ok=True)
    objects: MemoryObjects | None = None
    remote_root = str(root / REMOTE)
    if kind == "memory":
        objects = MemoryStore.named(remote_root)._objects
        objects.by_key = dict(remote)
    with pytest.MonkeyPatch.context() as patch:
        # Spills, segments, rotation and compaction come with much less data than elsewhere.
        if scenario not in {replacements, one_replacement}:
            patch.setattr(transaction, "STAGED_BYTES_MAX", 16 << 10)
            patch.setattr(rotation, "COMPACT_BYTES", 64 << 10)
            patch.setattr(rotation, "SPARE_BYTES", 16 << 10)
        patch.setattr(build, "INLINE_BYTES_MAX", 16 << 10)
        patch.setattr(rotation, "ROTATE_BYTES", 32 << 10)
        with recorded(root, objects) as recorder:
            ledger = Ledger(recorder.observe)
            life = Life(root, ledger, RemoteConfig(type=kind, root=remote_root))
            scenario(life)
            life.end()
    return Record(recorder, ledger, kind == "memory")


@pytest.fixture(scope="module", autouse=True)
def tables_after_few_commits() -> Iterator[None]:
    """Make a table every third commit, and read them for as few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_policy, "STEP", 3)
        patch.setattr(tables, "STEP", 3)
        patch.setattr(tables, "_WORTH_COMMITS", 2)
        yield


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """Give a directory in memory if the system has one: there, the many syncs cost nothing."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent) as directory:
        yield Path(directory)


@pytest.fixture(scope="module", params=CASES, ids=map("-".join, CASES))
def record(request, scratch) -> Record:
    name, kind = request.param
    root = Path(tempfile.mkdtemp(dir=scratch))
    return run(SCENARIOS[name], root, kind, {})


@pytest.fixture
def place(scratch) -> Iterator[Path]:
    """Give the path of a directory that does not exist yet."""
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        yield Path(directory) / "image"


# The record ---------------------------------------------------------------------------------------


def test_the_recorded_changes_reproduce_the_directory(record) -> None:
    *_, (_, disk, _) = record.instants()
    image, root = disk.image(everything), record.recorder.root
    assert set(image) == {str(path.relative_to(root)) for path in root.rglob("*")}
    for path, content in image.items():
        if content is not None:
            assert (root / path).stat().st_size == content.size
            with (root / path).open("rb") as file:
                for sector, data in content.sectors.items():
                    file.seek(sector * SECTOR_BYTES)
                    assert file.read(SECTOR_BYTES) == data[: content.size - sector * SECTOR_BYTES]


def test_every_kind_of_effect_is_recorded(record) -> None:
    labels = {instant.label for instant in record.recorder.instants}
    assert {"open", "mkdir", "pwrite", "fsync", "ftruncate", "stores into maps"} <= labels
    assert {"write catalog.db-wal", "sync catalog.db-wal"} <= labels


# Crashes ------------------------------------------------------------------------------------------


def test_a_process_killed_at_an_effect_loses_nothing_acknowledged(record, place) -> None:
    for crash in record.kills(record.drawn_times(40, seed=1)):
        recover(crash, record.ledger, place)


def test_a_power_cut_at_an_effect_keeps_all_guarantees(record, place) -> None:
    draw = random.Random(2)
    for crashes in record.power_cuts(1, record.drawn_times(90, seed=2)):
        recover(draw.choice(crashes), record.ledger, place)


@pytest.mark.parametrize("record", IN_MEMORY, indirect=True, ids=map("-".join, IN_MEMORY))
def test_the_remote_alone_has_everything_pushed_at_each_instant(record, place) -> None:
    seen: dict[frozenset[str], dict[str, Content]] = {}
    for time, _, remote in record.instants():
        keys = frozenset(remote)  # No object ever changes, so the names tell of all.
        if keys not in seen:
            machines = Machines(place / str(time), remote)
            seen[keys] = remote_contents(machines, record.ledger.logs)
        for tag, content in seen[keys].items():
            assert content in record.ledger.allowed_on_remote(tag, time)


def test_a_revert_is_whole_or_not_at_all_after_a_crash_at_each_of_its_effects(place) -> None:
    record = run(reverts, place, "memory", {})
    state = record.ledger.states["main"][-1]
    during = set(range(state.begun + 1, state.acknowledged + 1))
    assert during
    for crash in record.kills(during):
        recover(crash, record.ledger, place.with_name("killed"))
    for crashes in record.power_cuts(1, during):
        for crash in crashes:
            recover(crash, record.ledger, place.with_name("cut"))


def recovered(crash: Crash, root: Path, scenario: Scenario = recovery) -> Record:
    """Start the machine after a crash, in a boot of its own, and run what it does first."""
    write_image(crash.image, root)
    with pytest.MonkeyPatch.context() as patch:
        if crash.power_cut:
            patch.setattr(head, "boot_number", lambda: 0xB002)
        return run(scenario, root, "memory", crash.remote or {})


@pytest.mark.parametrize("record", REPEATED, indirect=True, ids=map("-".join, REPEATED))
def test_a_second_power_cut_keeps_the_guarantees_given_after_the_first(record, place) -> None:
    draw = random.Random(3)
    for crashes in record.power_cuts(1, record.drawn_times(3, seed=3)):
        crash = draw.choice(crashes)
        again = recovered(crash, place / str(crash.time))
        for seconds in again.power_cuts(1, again.drawn_times(15, seed=crash.time)):
            recover(draw.choice(seconds), again.ledger, place / "image")


def test_remains_after_the_newest_commit_never_join_a_later_commit(place) -> None:
    record = run(replacements, place, "memory", {})
    effects = record.recorder.instants
    end = record.ledger.states["main"][-1].acknowledged
    time, disk, remote = next(instant for instant in record.instants() if instant[0] == end)
    lost = [each for each in disk.pending_times() if effects[each - 1].label == "pwritev"]
    assert len(lost) == 5
    for each in lost:
        # This commit is gone, and those that stood behind it are still on the disk.
        crash = Crash(time, disk.image(all_but(each)), True, remote, pulls_first=False)
        again = recovered(crash, place.with_name(f"without {each}"), one_replacement)
        at = again.ledger.states["main"][-1].acknowledged
        (kill,) = again.kills({at})
        recover(kill, again.ledger, place.with_name("killed"))


# Deep ---------------------------------------------------------------------------------------------


@pytest.mark.deep
@pytest.mark.timeout(7200)
def test_every_kill_and_every_power_cut_keeps_all_guarantees(record, place) -> None:
    kills = cuts = 0
    for crash in record.kills():
        recover(crash, record.ledger, place)
        kills += 1
    for crashes in record.power_cuts(DRAWS):
        for crash in crashes:
            recover(crash, record.ledger, place)
            cuts += 1
    print(f"{record.recorder.now} effects: {kills} kills and {cuts} images of power cuts")


@pytest.mark.deep
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("record", REPEATED, indirect=True, ids=map("-".join, REPEATED))
def test_every_second_power_cut_keeps_the_guarantees_given_after_the_first(record, place) -> None:
    draw = random.Random(4)
    lives = images = 0
    for crashes in record.power_cuts(1, record.drawn_times(20 * DRAWS, seed=4)):
        crash = draw.choice(crashes)
        again = recovered(crash, place / str(crash.time))
        lives += 1
        for seconds in again.power_cuts(1):
            recover(draw.choice(seconds), again.ledger, place / "image")
            images += 1
    print(f"{lives} crashes: {images} images of a second power cut")
