"""File systems by type: parsed mounts, what is refused and allowed, and a real FUSE mount."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import graft_vfs
from graft_vfs import Config, RemoteConfig
from graft_vfs.errors import ConfigError, UnsafeStoreError
from graft_vfs.local import file_systems
from graft_vfs.local.file_systems import Mount, against_creating, against_data, parse_mounts
from graft_vfs.store.base import PutOutcome
from graft_vfs.store.directory import DirectoryStore
from tests.support.engines import registered

# As Linux wrote them on machines with such mounts; the third has an optional field more.
RECORDED = """\
28 1 259:1 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw,discard,errors=remount-ro
97 28 0:52 / /home rw,noatime - btrfs /dev/sdb1 rw,space_cache=v2,subvolid=257,subvol=/@home
310 28 0:61 / /mnt/share rw,relatime shared:160 master:2 - cifs //server/my\\040share rw,vers=3.1.1
311 28 0:62 / /mnt/nfs rw,relatime - nfs4 files.example:/export rw,vers=4.2,addr=10.0.0.5
312 28 0:63 / /mnt/bucket rw,relatime - nfs4 127.0.0.1:/ rw,vers=4.1,port=20449,addr=127.0.0.1
313 28 0:64 / /mnt/s3 rw,nosuid,nodev,relatime - fuse mountpoint-s3 rw,user_id=1000,allow_other
314 28 0:65 / /mnt/s3fs rw,nosuid,nodev,relatime - fuse.s3fs s3fs rw,user_id=0,group_id=0
315 28 0:66 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
316 28 0:67 / /mnt/c rw,noatime - 9p C:\\134 rw,dirsync,aname=drvfs,trans=fd
317 28 0:68 / /src rw,relatime - virtiofs share rw
318 28 0:69 / / rw,nodev - fuse.fuse-overlayfs fuse-overlayfs rw,user_id=0
319 28 8:17 / /mnt/usb rw,relatime - fuseblk /dev/sdb1 rw,user_id=0
320 28 0:70 / /mnt/new rw - futurefs thing rw
a line that is none
"""

VERDICTS = {  # mount number: (refused for data, refused for creating, known as local)
    "28": (False, False, True),
    "97": (False, False, True),
    "310": (True, False, False),
    "311": (True, False, False),
    "312": (True, True, False),
    "313": (True, True, False),
    "314": (True, True, False),
    "315": (False, False, True),
    "316": (True, False, False),
    "317": (True, False, False),
    "318": (False, False, True),
    "319": (False, False, True),
    "320": (False, False, False),
}


def test_each_recorded_mount_gets_its_verdict() -> None:
    mounts = dict(parse_mounts(RECORDED))
    assert mounts["310"] == Mount("cifs", "//server/my share")
    assert {
        number: (
            against_data(mount) is not None,
            against_creating(mount) is not None,
            mount.is_local,
        )
        for number, mount in mounts.items()
    } == VERDICTS


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="needs Linux")
def test_the_mount_of_a_path_that_is_not_made_yet_is_that_of_its_nearest_directory(tmp_path):
    mount = file_systems.mount_of(tmp_path)
    assert mount is not None
    assert file_systems.mount_of(tmp_path / "not" / "yet") == mount
    proc = file_systems.mount_of(Path("/proc/self"))
    assert proc is not None
    assert proc.type == "proc"


def test_an_unknown_file_system_is_used_without_mappings(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(file_systems, "mount_of", lambda _: Mount("futurefs", "thing"))
    with registered(Config(data_dir=tmp_path / "data")) as engine:
        connection = graft_vfs.connect("main")
        connection.execute("CREATE TABLE t(x)")
        assert not isinstance(engine.open("main").branch_log.view, memoryview)


@pytest.mark.parametrize("setting", ["nfs4", "ceph, nfs4", "ceph nfs4", ["ceph", "nfs4"]])
def test_a_refused_type_is_allowed_by_name(tmp_path, monkeypatch, setting) -> None:
    monkeypatch.setattr(file_systems, "mount_of", lambda _: Mount("nfs4", "server:/export"))
    file = tmp_path / "graft.toml"
    file.write_text(f"allow_file_systems = {setting!r}\n")
    environment = {"GRAFT_CONFIG": str(file), "GRAFT_DATA_DIR": str(tmp_path / "data")}
    allowing = Config.load(environment)
    with registered(allowing):
        graft_vfs.connect("main").execute("CREATE TABLE t(x)")
    refused = r'is on nfs4 \(server:/export\): .*set data_dir .*allow_file_systems = "nfs4"'
    with pytest.raises(ConfigError, match=refused):
        graft_vfs.register(Config(data_dir=tmp_path / "data"))
    assert Config.load({**environment, "GRAFT_ALLOW_FILE_SYSTEMS": ""}) is not None


# A real mount ------------------------------------------------------------------------------------


@pytest.fixture
def fuse(tmp_path):
    """A directory that a FUSE program serves."""
    if os.geteuid() != 0 or not Path("/dev/fuse").exists() or not shutil.which("bindfs"):
        pytest.skip("needs root, /dev/fuse and bindfs")
    below, mounted = tmp_path / "below", tmp_path / "mounted"
    below.mkdir()
    mounted.mkdir()
    subprocess.run(["bindfs", "--no-allow-other", below, mounted], check=True, timeout=60)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=True, timeout=60)


def test_a_data_directory_on_fuse_is_refused_and_not_created(fuse) -> None:
    with pytest.raises(ConfigError, match=r"data directory .* is on fuse.*local disk"):
        graft_vfs.register(Config(data_dir=fuse / "data"))
    assert not (fuse / "data").exists()
    mount = file_systems.mount_of(fuse)
    assert mount is not None
    allowing = Config(data_dir=fuse / "data", allow_file_systems=(mount.type,))
    with registered(allowing):
        connection = graft_vfs.connect("main")
        connection.execute("CREATE TABLE t(x)")
        connection.execute("INSERT INTO t VALUES(1)")
        assert connection.execute("SELECT x FROM t").fetchall() == [(1,)]


def test_a_remote_on_fuse_is_read_and_not_pushed_to(fuse, tmp_path) -> None:
    below = RemoteConfig(type="fs", root=str(tmp_path / "below"))
    with registered(Config(data_dir=tmp_path / "one", remote=below)) as engine:
        graft_vfs.connect("main").execute("CREATE TABLE t(x)")
        engine.push("main")
    remote = RemoteConfig(type="fs", root=str(fuse))
    with registered(Config(data_dir=tmp_path / "two", remote=remote)) as engine:
        engine.clone("main", "main")
        connection = graft_vfs.connect("main")
        connection.execute("INSERT INTO t VALUES(1)")
        with pytest.raises(UnsafeStoreError, match=r"is on fuse.*allow_file_systems"):
            engine.push("main")
    mount = file_systems.mount_of(fuse)
    assert mount is not None
    store = DirectoryStore(fuse, allow_file_systems=(mount.type,))
    assert store.put_if_absent("refs/other", b"x") is PutOutcome.CREATED
