"""What the numbers were taken on: machine, file system, versions."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import apsw

import graft_vfs


def describe(directory: Path) -> dict[str, str]:
    """Return the facts that belong to every result; `directory` is where the data is."""
    cores = f"{os.cpu_count()} cores"
    return {
        "machine": f"{cpu_model()}, {cores}, {file_system(directory)} at {directory}",
        "versions": f"Python {platform.python_version()}, apsw {apsw.apsw_version()}, "
        f"SQLite {apsw.sqlite_lib_version()}, graft_vfs {graft_vfs.__version__}",
        "load": "load average at the start " + " ".join(f"{x:.2f}" for x in os.getloadavg()),
    }


def cpu_model() -> str:
    """Return the processor's name as the kernel knows it."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def file_system(directory: Path) -> str:
    """Return the type of the file system that holds a directory; the longest mount point wins."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return platform.system()
    found = ("", "unknown")
    for line in mounts.read_text(encoding="utf-8").splitlines():
        _, point, kind, *_ = line.split()
        inside = directory.resolve().is_relative_to(point)
        if inside and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1]
