"""A mount namespace of a child's own: a small disk or a read-only one that nobody else sees.

`unshare -rm` gives it to an ordinary user too, where the system allows user namespaces. The mounts
vanish with the child.
"""

from __future__ import annotations

import functools
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
