"""Types of file systems: which ones support locks and mappings as a data directory needs.

Processes share a data directory through flock and mapped files. Both work between the processes of
one kernel, on file systems that only this kernel writes to. A network file system has other
writers, whose locks may not reach this machine and whose writes a mapping does not show. A FUSE
file system may be anything from an encrypted folder to a bucket. So both are refused as data
directories, unless the configuration allows the type by name, which is safe if only one machine
uses the directory.

A remote in a directory needs less: link(2) must create a name only once, for all clients. A network
file system's server ensures this. A FUSE file system may not. Nor may NFS served by the same
machine: it is the proxy of a mount helper, such as the one for S3 Files, which answers immediately
but writes to the bucket a minute later, when another machine may have created the same key.

Two cases are less clear. 9p and virtiofs give a guest a directory of its host. The guest has
separate locks, so a guest and its host, or two guests, do not exclude each other. They are refused,
and may be allowed if only one guest uses the directory. Overlayfs is local.

Types are the names in /proc/self/mountinfo. A type in no table is allowed, but not treated as
local. Without that file, nothing is known, and nothing is refused.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from graft_vfs.errors import ConfigError, UnsafeStoreError
from graft_vfs.local.files import storage_errors

WRITES_IN_PLACE = frozenset({"ext2", "ext3", "ext4", "tmpfs"})
"""File systems where overwriting a page allocates nothing."""

_LOCAL = WRITES_IN_PLACE | {
    *("apfs", "aufs", "bcachefs", "btrfs", "ecryptfs", "exfat", "f2fs", "hfs", "hfsplus", "jfs"),
    *("nilfs2", "ntfs", "ntfs3", "overlay", "ramfs", "reiserfs", "rootfs", "ufs", "vfat", "xfs"),
    "zfs",
    # Drivers of block devices, and the root of rootless containers: no other machine writes to
    # them.
    *("fuseblk", "fuse.fuse-overlayfs"),
}
_NETWORK = frozenset(
    {
        *("acfs", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "gpfs", "lustre"),
        *("ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "prl_fs", "pvfs2", "smb3", "smbfs"),
        *("vboxsf", "vmhgfs", "wekafs"),
    }
)
_HOST = frozenset({"9p", "virtiofs"})
_NFS = frozenset({"nfs", "nfs4"})
_THIS_MACHINE = ("127.", "localhost", "[::1]", "::1")


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount: the type of the file system, and its source."""

    type: str
    source: str

    @property
    def is_fuse(self) -> bool:
        """True for FUSE file systems, except those known to be local."""
        return (self.type == "fuse" or self.type.startswith("fuse.")) and self.type not in _LOCAL

    @property
    def is_local(self) -> bool:
        """True if only this kernel writes to it."""
        return self.type in _LOCAL

    def __str__(self) -> str:
        return f"{self.type} ({self.source})"


def mount_of(path: Path) -> Mount | None:
    """Return the mount of `path`, or of its nearest existing parent.

    None if the system does not provide it. Raises OSError.
    """
    existing = path.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    descriptor = os.open(existing, os.O_RDONLY | os.O_CLOEXEC)
    try:
        number = _mount_number(descriptor)
    finally:
        os.close(descriptor)
    if number is None:
        return None
    return next((mount for each, mount in _mounts() if each == number), None)


def _mount_number(descriptor: int) -> str | None:
    # Not by device number: subvolumes of btrfs and others have numbers that no mount has.
    try:
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, PermissionError):
        # Not Linux, or an unprivileged process that may not read its own /proc entry.
        return None
    return next((line.split()[1] for line in lines if line.startswith("mnt_id:")), None)


def _mounts() -> Iterator[tuple[str, Mount]]:
    return parse_mounts(Path("/proc/self/mountinfo").read_text("utf-8", errors="replace"))


def parse_mounts(text: str) -> Iterator[tuple[str, Mount]]:
    """Yield (mount number, mount) of each line of a mountinfo file."""
    for line in text.splitlines():
        fields = line.split(" ")
        if "-" in fields:
            at = fields.index("-")
            if len(fields) > at + 2:
                yield fields[0], Mount(fields[at + 1], fields[at + 2].replace("\\040", " "))


# What they are suitable for -----------------------------------------------------------------------


def against_data(mount: Mount) -> str | None:
    """Return why the mount is unsuitable for a data directory, or None."""
    if mount.type in _NETWORK:
        return (
            "other machines can write to it, and this machine's locks and mappings do not see that"
        )
    if mount.type in _HOST:
        return "it belongs to the host, whose locks are separate from this machine's"
    if mount.is_fuse:
        return "a program serves it, which may not support locks and mapped files as a disk does"
    return None


def against_creating(mount: Mount) -> str | None:
    """Return why two writers could create the same key on the mount, or None."""
    if mount.is_fuse:
        return "a program serves it, so a created file may not be on its store yet"
    if mount.type in _NFS and mount.source.startswith(_THIS_MACHINE):
        return "it is NFS served by this machine, as by mount helpers of buckets, which write later"
    return None


def check_data_directory(path: Path, allowed: Collection[str]) -> bool:
    """Return True if files there may be mapped, because only this kernel writes to them.

    Raises ConfigError if the file system is refused and not allowed, LocalStorageError.
    """
    with storage_errors(path):
        mount = mount_of(path)
    reason = None if mount is None or mount.type in allowed else against_data(mount)
    if mount is not None and reason is not None:
        raise ConfigError(
            f"the data directory {path} is on {mount}: {reason}",
            next_step="set data_dir to a directory on a local disk; if only this machine ever "
            f'uses it, set allow_file_systems = "{mount.type}"',
        )
    return mount is None or mount.is_local


def check_create_only(path: Path, allowed: Collection[str]) -> None:
    """Raise UnsafeStoreError if a directory's file system may create a name twice."""
    mount = mount_of(path)
    reason = None if mount is None or mount.type in allowed else against_creating(mount)
    if mount is not None and reason is not None:
        raise UnsafeStoreError(
            f"the remote {path} is on {mount}: {reason}",
            next_step='use a remote of type "s3_compatible", or a directory on a disk; if only '
            f'this machine ever pushes there, set allow_file_systems = "{mount.type}"',
        )
