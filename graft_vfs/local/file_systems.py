"""File systems by type: which keep locks and mappings as one machine sees them.

A data directory is shared through flock and mapped files. Both hold among the processes of one
kernel, for file systems that this kernel alone writes to. A network file system has other writers,
whose locks may not reach this machine and whose writes a mapping does not show; a FUSE file system
may be anything, from an encrypted folder to a bucket. So both are refused as data directories,
unless the configuration allows the type by name, which is right where one machine uses the place.

A remote in a directory needs less: that link(2) makes a name only once, for everybody who uses the
store. A network file system does that on its server. A FUSE file system need not, and NFS from this
very machine is the proxy of a mount helper, such as the one for S3 Files: that answers at once and
writes the bucket a minute later, where another machine may have created the same key.

Two file systems are hard to place. 9p and virtiofs give a guest a directory of its host: the guest
has locks of its own, so a guest and its host, or two guests, do not exclude each other. They are
refused, and may be allowed where one guest has the directory to itself. Overlayfs is local.

Types are the names in /proc/self/mountinfo. A type that is in no table is allowed and not known as
local. Where there is no such file nothing is known and nothing refused.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from graft_vfs.errors import ConfigError, UnsafeStoreError
from graft_vfs.local.files import storage_errors

WRITES_IN_PLACE = frozenset({"ext2", "ext3", "ext4", "tmpfs"})
"""Writing to a page that was written before allocates nothing."""

_LOCAL = WRITES_IN_PLACE | {
    *("apfs", "aufs", "bcachefs", "btrfs", "ecryptfs", "exfat", "f2fs", "hfs", "hfsplus", "jfs"),
    *("nilfs2", "ntfs", "ntfs3", "overlay", "ramfs", "reiserfs", "rootfs", "ufs", "vfat", "xfs"),
    "zfs",
    # Drivers of block devices, and the root of rootless containers: no other machine writes there.
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
    """What is mounted: the type of the file system, and its source."""

    type: str
    source: str

    @property
    def is_fuse(self) -> bool:
        """True for a file system that a program serves, but for those known as local."""
        return (self.type == "fuse" or self.type.startswith("fuse.")) and self.type not in _LOCAL

    @property
    def is_local(self) -> bool:
        """True if only this kernel writes to it."""
        return self.type in _LOCAL

    def __str__(self) -> str:
        return f"{self.type} ({self.source})"


def mount_of(path: Path) -> Mount | None:
    """Return what `path`, or the nearest directory above it that exists, is mounted from.

    None where the system does not tell. Raises OSError.
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
    # Not the device number: subvolumes of btrfs and others have numbers that no mount shows.
    try:
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, PermissionError):
        # Not Linux, or a process that gave up rights and may not look at itself.
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


# What they are good for ---------------------------------------------------------------------------


def against_data(mount: Mount) -> str | None:
    """Return why a data directory must not be there, or None."""
    if mount.type in _NETWORK:
        return "other machines can write to it, unseen by the locks and mappings of this one"
    if mount.type in _HOST:
        return "it belongs to the host, whose locks and those of this machine do not meet"
    if mount.is_fuse:
        return "a program serves it, which need not keep locks and mapped files as a disk does"
    return None


def against_creating(mount: Mount) -> str | None:
    """Return why a remote there could let two writers create one key, or None."""
    if mount.is_fuse:
        return "a program serves it, so that a file that was created here may not be on its store"
    if mount.type in _NFS and mount.source.startswith(_THIS_MACHINE):
        return "it is NFS from this machine, as mount helpers of buckets make, which write later"
    return None


def check_data_directory(path: Path, allowed: Collection[str]) -> bool:
    """Return True if files there may be mapped and believed: this kernel alone writes to them.

    Raises ConfigError if the file system is refused and not allowed, LocalStorageError.
    """
    with storage_errors(path):
        mount = mount_of(path)
    reason = None if mount is None or mount.type in allowed else against_data(mount)
    if mount is not None and reason is not None:
        raise ConfigError(
            f"the data directory {path} is on {mount}: {reason}",
            next_step="set data_dir to a directory on a local disk; if this machine alone ever "
            f'uses it, set allow_file_systems = "{mount.type}"',
        )
    return mount is None or mount.is_local


def check_create_only(path: Path, allowed: Collection[str]) -> None:
    """Raise UnsafeStoreError if a directory's file system need not create a name only once."""
    mount = mount_of(path)
    reason = None if mount is None or mount.type in allowed else against_creating(mount)
    if mount is not None and reason is not None:
        raise UnsafeStoreError(
            f"the remote {path} is on {mount}: {reason}",
            next_step='use a remote of type "s3_compatible", or a directory on a disk; if this '
            f'machine alone ever pushes there, set allow_file_systems = "{mount.type}"',
        )
