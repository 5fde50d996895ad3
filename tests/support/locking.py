"""flock(2) that refuses to unlock, as a file system without free locks would."""

from __future__ import annotations

import errno
import fcntl
import os


def cannot_unlock(number: int, operation: int) -> None:
    """Call fcntl.flock, but refuse to unlock."""
    if operation == fcntl.LOCK_UN:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    fcntl.flock(number, operation)
