"""A disk that is full at any moment: a named error, nothing lost, and it goes on with free space.

Each act of a program is tried with so many free pages that it fails at its first write, at its
second, and so on until it succeeds. The disk is a small one in memory that a child mounts for
itself; where the system does not allow that, a limit on the size of files stands for it.

Small commits are copied into mapped space. The kernel kills a process that does this where the disk
has no page for it, so the child's survival is the proof that such space is always there.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import graft_vfs
from graft_vfs import Config, RemoteConfig
from graft_vfs.errors import CommitOutcomeUnknownError, StoreUnavailableError
from tests.support import acts, isolated, namespaces, trying
from tests.support.engines import close_connections
from tests.support.shortage import PAGE_BYTES, FileSizeLimit, FullDisk, Shortage
from tests.sync.checks import sound_log

DISK_BYTES = 96 << 20
FEW = [0, 3, 6, 60, 16_000]
SOME = [
    "commit",
    "commit at the file's end",
    "commit much",
    "push much",
    "hydrate",
    "new",
    "export",
]
EVERY = [*range(64), *range(64, 800, 16), 1200, 16_000]

FINDS_ROOM = {"connect", "open a volume", "open an engine", "read", "sort"}
"""Acts that need no space, or no longer file, than there is; each other one is seen to fail."""


@pytest.fixture
def disk(tmp_path: Path) -> list[str]:
    """The beginning of a command that has a small disk at tmp_path/disk."""
    reason = namespaces.refusal(tmp_path)
    if reason:
        pytest.skip(f"this system gives no mount namespace, so only file sizes end: {reason}")
    (tmp_path / "disk").mkdir()
    return namespaces.small_disk(tmp_path / "disk", DISK_BYTES)


def try_all(shortage: Shortage, root: str, depth: str, names: str) -> None:
    """Try acts with less than they need; print how often each failed."""
    directory = Path(root) / "disk"
    for name in names.split(","):
        amounts = EVERY if depth == "deep" else FEW
        reads = name not in acts.COLD
        tried = trying.until_done(name, shortage, amounts, directory, Path(root), reads=reads)
        print(f"{name}: {tried.failures} failures, {sorted(tried.errors)}")
        assert tried.failures or name in FINDS_ROOM


def on_a_full_disk(root: str, depth: str, names: str) -> None:
    try_all(FullDisk(Path(root) / "disk"), root, depth, names)


def under_a_limit(root: str, depth: str, names: str) -> None:
    try_all(FileSizeLimit(), root, depth, names)


def test_acts_on_a_full_disk_fail_by_name_and_succeed_later(tmp_path, disk) -> None:
    isolated.run(on_a_full_disk, tmp_path, "few", ",".join(SOME), prefix=disk)


def test_acts_beyond_the_file_size_limit_fail_by_name_and_succeed_later(tmp_path) -> None:
    (tmp_path / "disk").mkdir()
    isolated.run(under_a_limit, tmp_path, "few", "commit at the file's end,commit much,hydrate")


@pytest.mark.deep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", acts.ACTS)
def test_an_act_fails_by_name_at_each_page_that_a_disk_lacks(tmp_path, disk, name) -> None:
    print(isolated.run(on_a_full_disk, tmp_path, "deep", name, prefix=disk))


@pytest.mark.deep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", acts.ACTS)
def test_an_act_fails_by_name_at_each_file_size(tmp_path, name) -> None:
    (tmp_path / "disk").mkdir()
    print(isolated.run(under_a_limit, tmp_path, "deep", name))


# The remote's disk ------------------------------------------------------------------------------


def push_to_a_full_remote(root: str, *amounts: str) -> None:
    directory = Path(root) / "disk"
    remote = RemoteConfig(type="fs", root=str(directory / "remote"))
    engine = graft_vfs.register(Config(data_dir=Path(root) / "data", remote=remote))
    connection = graft_vfs.connect("main")
    connection.execute("CREATE TABLE t(n, v)")
    shortage, failures, commits = FullDisk(directory), 0, 1
    for amount in map(int, amounts):
        size = 3_000_000 if amount % 3 == 0 else 3_000  # In a segment of its own, or not.
        connection.execute("INSERT INTO t VALUES(?, randomblob(?))", (amount, size))
        commits += 1
        with shortage.left(amount):
            try:
                engine.push("main")
            except (StoreUnavailableError, CommitOutcomeUnknownError):
                failures += 1
        engine.push("main")
        status = engine.status("main")
        assert (status.ahead, status.pending_push, status.last_error) == (0, False, None)
        assert sum(sound_log(engine.store, status.remote)) == commits
    assert failures > len(amounts) // 3
    assert failures < len(amounts)
    close_connections()
    graft_vfs.unregister()


def test_a_push_to_a_full_remote_succeeds_later(tmp_path, disk) -> None:
    amounts = [0, 1, 2, 3, 5, 8, 30, 300, 600, 900, 2000]
    assert 900 * PAGE_BYTES > 3_000_000
    isolated.run(push_to_a_full_remote, tmp_path, *amounts, prefix=disk)
