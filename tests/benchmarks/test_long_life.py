"""The budgets of a long life: the simulated and the synthetic parts, on small cases."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from benchmarks import synthetic
from benchmarks.lifetime import Life, replayed
from benchmarks.long_life import absent
from graft_vfs import Config, Graft, RemoteConfig
from graft_vfs.store.memory import MemoryObjects, MemoryStore

ROOT = Path(__file__).parents[2]


def test_a_clone_of_a_million_commits_reads_tables(tmp_path) -> None:
    objects, last = MemoryObjects(), 1_000_007
    synthetic.million(tmp_path / "writer", MemoryStore(objects), last=last, newest=100, pages=1_000)
    remote = RemoteConfig(type="memory", root=str(tmp_path))
    config = Config(data_dir=tmp_path / "clone", remote=remote)
    with closing(Graft(config, store=MemoryStore(objects))) as made:
        before = made.store.counters.snapshot()
        assert made.clone(synthetic.LOG_NAME, "copy").lsn == last
        assert (made.store.counters.snapshot() - before).requests <= 36


def test_sqlite_queries_a_database_of_which_little_exists(tmp_path) -> None:
    synthetic.terabyte(tmp_path, 1 << 20)
    command = [sys.executable, "-m", "benchmarks.synthetic", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    # The ref, two listings, the table, a commit; the first frame, then a leaf and a frame each.
    assert (found["clone requests"], found["query requests"]) == (5, 9)


def test_a_simulated_life_counts_frames_as_compaction_does() -> None:
    life = Life(64, 100.0)
    life.push([1])
    assert (life.objects, life.pages_pushed) == (2, 65)
    # The first object is much larger than the second, and hardly dead.
    assert life.compact(only_if_due=False) == 0
    life.push(range(2, 60))
    # Five of 64 pages of the first are live, in one frame.
    assert life.compact(only_if_due=False) == 64
    assert life.objects == 1


def test_autosync_keeps_a_simulated_database_in_few_objects() -> None:
    chance, life, most = random.Random(3), Life(4_096, 60_000.0), 0
    for _ in range(600):
        life.push(sorted(chance.sample(range(1, 4_097), 8)))
        life.compact(only_if_due=True)
        most = max(most, life.objects)
    assert most <= 80
    assert life.compactions


def test_pushes_are_replayed_in_their_order() -> None:
    assert replayed([[1, 2], [2], [3], [1]], 2, 100.0) == [2, 3]


def test_what_cannot_be_measured_says_why() -> None:
    assert all(row.note.startswith("skipped: ") for row in absent())
