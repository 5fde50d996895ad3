"""A child's own mount namespace: a small or read-only disk that only the child sees.

`unshare -rm` also works for ordinary users if the system allows user namespaces. The mounts vanish
with the child.
"""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

_UNSHARE = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]


def small_disk(directory: Path, size_bytes: int) -> list[str]:
    """Return the beginning of a command whose child finds an empty disk at a directory."""
    script = 'mount -t tmpfs -o "size=$1" none "$0"; shift; exec "$@"'
    return [*_UNSHARE, script, str(directory), str(size_bytes)]


def read_only(directory: Path) -> list[str]:
    """Return the beginning of a command whose child finds a directory mounted read-only."""
    script = 'mount --bind "$0" "$0"; mount -o remount,bind,ro "$0"; exec "$@"'
    return [*_UNSHARE, script, str(directory)]


@functools.cache
def refusal(directory: Path) -> str:
    """Say why this system gives no mount namespace; empty if it does."""
    try:
        done = subprocess.run(
            [*small_disk(directory, 1 << 20), "true"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or f"code {done.returncode}"


_FORMATS = {
    "ext4": ("64M", ["mkfs.ext4", "-q", "-F"]),
    "xfs": ("300M", ["mkfs.xfs", "-q", "-m", "reflink=1"]),
    "btrfs": ("112M", ["mkfs.btrfs", "-q", "--mixed"]),
}


def loop_disk(directory: Path, kind: str) -> list[str]:
    """Return the beginning of a command whose child finds an empty disk of a kind at a directory.

    The disk is a sparse file beside the directory, but for tmpfs. Only root can do this.
    """
    if kind == "tmpfs":
        return small_disk(directory, 24 << 20)
    size, make = _FORMATS[kind]
    image = directory.with_name(f"{kind}.img")
    subprocess.run(["truncate", "-s", size, image], check=True)
    subprocess.run([*make, image], check=True, capture_output=True)
    script = 'mount -o loop "$1" "$0"; shift; exec "$@"'
    return ["unshare", "--mount", "sh", "-ec", script, str(directory), str(image)]


@functools.cache
def lacks(kind: str, directory: Path) -> str:
    """Say why this system mounts no disk of a kind; empty if it does."""
    probe = directory / f"probe-{kind}"
    probe.mkdir()
    if kind != "tmpfs" and os.geteuid() != 0:
        return "only root may"
    try:
        done = subprocess.run(
            [*loop_disk(probe, kind), "true"], capture_output=True, text=True, check=False
        )
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        return str(error)
    finally:
        probe.with_name(f"{kind}.img").unlink(missing_ok=True)
    return "" if done.returncode == 0 else done.stderr.strip() or f"code {done.returncode}"
