from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from graft_vfs.errors import (
    BucketMissingError,
    CommitOutcomeUnknownError,
    ConfigError,
    ObjectMissingError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
    UnsafeStoreError,
    UsageError,
)
from graft_vfs.store import DirectoryStore, PutOutcome
from graft_vfs.testing.store_contract import StoreContract, ThreadRaces

from .races import check_process_race


class TestDirectoryStore(StoreContract, ThreadRaces):
    @pytest.fixture
    def store(self, tmp_path):
        return DirectoryStore(tmp_path / "remote" / "store")

    @pytest.fixture
    def again(self, tmp_path):
        return DirectoryStore(tmp_path / "remote" / "store")

    def fill(self, store, keys):
        root = Path(store.describe().removeprefix("file://"))
        for key in keys:
            path = root / key
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x")

    def test_one_process_creates_a_key(self, tmp_path):
        check_process_race(partial(DirectoryStore, tmp_path / "races"))


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def store(root) -> DirectoryStore:
    return DirectoryStore(root)


def test_an_object_is_a_file_of_its_name(store, root):
    store.put("a/b/c", [b"x"])
    assert (root / "a" / "b" / "c").read_bytes() == b"x"
    assert store.describe() == f"file://{root}"


def test_files_get_the_usual_permissions(store, root):
    store.put("k", [b"x"])
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((root / "k").stat().st_mode) == 0o666 & ~umask


def test_no_temporary_files_remain(store, root):
    store.put_if_absent("a/b", b"x")
    store.put_if_absent("a/b", b"y")
    store.put("a/b", [b"z"])
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*")) == [
        "@graft-remote", "a", "a/b"
    ]  # fmt: skip


def test_foreign_names_are_not_listed(store, root):
    store.put("a/k", [b"x"])
    (root / "a" / "#123-temporary").write_bytes(b"half")
    (root / "a" / "with space").write_bytes(b"x")
    (root / "b c").mkdir()
    (root / "b c" / "k").write_bytes(b"x")
    os.mkfifo(root / "a" / "pipe")
    assert list(store.keys("")) == ["a/k"]


def test_a_pipe_is_not_an_object_and_does_not_block(store, root):
    os.mkfifo(root / "pipe")
    with pytest.raises(ObjectMissingError):
        store.get("pipe")
    with pytest.raises(StoreError, match="pipe"):
        store.put_if_absent("pipe", b"x")


def test_symbolic_links_are_not_followed(store, root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "folder").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    assert list(store.keys("")) == []
    assert list(store.keys("folder/")) == []
    with pytest.raises(ObjectMissingError):
        store.get("folder/secret")
    with pytest.raises(StoreError, match="symbolic link"):
        store.get("file")
    with pytest.raises(StoreError, match="symbolic link"):
        store.put("folder/new", [b"x"])
    with pytest.raises(StoreError):
        store.put_if_absent("folder/new", b"x")
    store.delete("file")
    store.delete("folder/secret")
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_the_root_itself_may_be_a_link(root, tmp_path):
    (tmp_path / "real").mkdir()
    root.symlink_to(tmp_path / "real")
    store = DirectoryStore(root)
    store.put("a/b", [b"x"])
    assert store.get("a/b") == b"x"
    assert list(store.keys("")) == ["a/b"]


def test_a_root_that_is_a_file_is_a_configuration_error(root):
    root.write_bytes(b"")
    with pytest.raises(ConfigError, match="is not a directory"):
        DirectoryStore(root)
    with pytest.raises(ConfigError, match="is not a directory"):
        DirectoryStore(root / "below")


def test_a_root_that_disappeared_is_not_an_empty_store(store, root):
    shutil.rmtree(root)
    for call in (
        lambda: store.get("k"),
        lambda: store.put("k", []),
        lambda: store.put_if_absent("k", b""),
        lambda: store.delete("k"),
        lambda: list(store.keys("")),
    ):
        with pytest.raises(BucketMissingError, match="is absent"):
            call()
    assert not root.exists()


def test_a_file_in_the_place_of_a_folder_is_an_error(store):
    store.put("a", [b"x"])
    with pytest.raises(StoreError, match="in the place of a folder"):
        store.put("a/b", [b"x"])
    store.put("c/d", [b"x"])
    with pytest.raises(StoreError):
        store.put_if_absent("c", b"x")
    with pytest.raises(StoreError):
        store.put("c", [b"x"])
    assert list(store.keys("")) == ["a", "c/d"]


def test_names_too_long_for_the_file_system(store):
    with pytest.raises(UsageError, match="shorter"):
        store.put("k" * 300, [b"x"])


def failing(number: int):
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


FAILING_CLAIMS = [
    ("pwrite", errno.ENOSPC, StoreUnavailableError),
    ("pwrite", errno.EDQUOT, StoreUnavailableError),
    ("pwrite", errno.EIO, StoreUnavailableError),
    ("fsync", errno.EIO, StoreUnavailableError),
    ("open", errno.EACCES, StoreDeniedError),
    ("open", errno.EROFS, StoreDeniedError),
    ("open", errno.EMFILE, StoreUnavailableError),
    ("link", errno.EPERM, UnsafeStoreError),
    ("link", errno.ENOTSUP, UnsafeStoreError),
    ("link", errno.ENOSPC, StoreUnavailableError),
    ("link", errno.EIO, CommitOutcomeUnknownError),
]


@pytest.mark.parametrize("case", FAILING_CLAIMS)
def test_failing_claims_report_what_is_known(store, root, monkeypatch, case):
    call, number, declared = case
    store.put("k/other", [b"x"])
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(number))
        with pytest.raises(declared) as caught:
            store.put_if_absent("k/claim", b"data")
    assert type(caught.value) is declared
    assert caught.value.next_step
    assert [path.name for path in (root / "k").iterdir()] == ["other"]
    assert store.put_if_absent("k/claim", b"data") is PutOutcome.CREATED


def test_a_claim_that_the_disk_did_not_confirm_is_unknown(store, monkeypatch):
    store.put("k/other", [b"x"])
    synced, real_fsync = [], os.fsync

    def fail_second(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_second)
    with pytest.raises(CommitOutcomeUnknownError):
        store.put_if_absent("k/claim", b"data")
    assert store.put_if_absent("k/claim", b"data") is PutOutcome.EXISTS


def test_bytes_are_synced_before_their_name_appears(store, monkeypatch):
    store.put("k/other", [b"x"])
    steps = []
    for name in ("fsync", "link", "rename", "mkdir"):
        real = getattr(os, name)

        def record(*arguments, _name=name, _real=real, **options):
            steps.append(_name)
            return _real(*arguments, **options)

        monkeypatch.setattr(os, name, record)
    store.put_if_absent("k/claim", b"data")
    assert steps == ["fsync", "link", "fsync"]
    steps.clear()
    store.put("k/claim", [b"data"])
    assert steps == ["fsync", "rename", "fsync"]
    steps.clear()
    store.put_if_absent("new/claim", b"data")
    assert steps == ["mkdir", "fsync", "fsync", "link", "fsync"]


def test_a_writer_killed_before_the_link_leaves_no_object(store, root):
    program = (
        "import os, signal, sys\n"
        "from graft_vfs.store import DirectoryStore\n"
        "os.link = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        "DirectoryStore(sys.argv[1]).put_if_absent('k/claim', b'killed')\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(root)], check=False)
    assert killed.returncode == -9
    assert [path.name[0] for path in (root / "k").iterdir()] == ["#"]
    assert list(store.keys("")) == []
    assert store.put_if_absent("k/claim", b"next") is PutOutcome.CREATED
    assert store.get("k/claim") == b"next"
    assert list(store.keys("")) == ["k/claim"]


def test_folders_nested_deeper_than_the_call_stack_are_listed(store, root):
    store.put("a/deep", [b"x"])
    descriptor = os.open(root / "a", os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("a", dir_fd=descriptor)
        below = os.open("a", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    try:
        assert list(store.keys("")) == ["a/deep"]
    finally:
        # What removes temporary directories goes only as deep as calls do.
        subprocess.run(["rm", "-rf", str(root / "a")], check=True)


# A disk that is not mounted ---------------------------------------------------------------------


def test_an_empty_directory_is_not_a_remote_until_initialised(root):
    store = DirectoryStore(root, create=False)
    assert not root.exists()
    root.mkdir()
    for call in (
        lambda: store.get("k"),
        lambda: store.get_range("k", 0, 1),
        lambda: store.put_if_absent("logs/k", b"x"),
        lambda: store.put("k", [b"x"]),
        lambda: list(store.keys("")),
        lambda: store.delete("k"),
    ):
        with pytest.raises(BucketMissingError, match=r"not mounted.*graft remote init"):
            call()
    assert list(root.iterdir()) == []
    DirectoryStore(root)
    assert store.put_if_absent("logs/k", b"x") is PutOutcome.CREATED


def test_a_remote_of_an_earlier_version_is_recognised(root):
    (root / "logs").mkdir(parents=True)
    store = DirectoryStore(root, create=False)
    assert list(store.keys("")) == []
    store.put("logs/k", [b"x"])
    DirectoryStore(root)
    shutil.rmtree(root / "logs")
    assert list(store.keys("")) == []


def test_an_unmounted_directory_is_not_an_empty_store(store, root, tmp_path):
    store.put("logs/k", [b"x"])
    root.rename(tmp_path / "away")
    root.mkdir()
    with pytest.raises(BucketMissingError, match="not mounted"):
        store.get("logs/k")
    with pytest.raises(BucketMissingError, match="not mounted"):
        store.put_if_absent("logs/k", b"y")
    assert list(root.iterdir()) == []
