"""The peak of memory of this process, which a program that it was started by does not blur."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def peak_bytes() -> int:
    """Return the most memory that the process had since it began, or since `forget_peak`."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    # Elsewhere the peak is that since the start, and of whatever was run before by this process.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> int:
    """Begin to look for the peak anew, where the system can; returns the memory of now."""
    if _CLEAR.exists():
        _CLEAR.write_text("5")
    return peak_bytes()
