"""flock(2) on a file system that has no locks left."""

from __future__ import annotations

import errno
import fcntl
import os


def cannot_unlock(number: int, operation: int) -> None:
    """Do what fcntl.flock does, but refuse to unlock."""
    if operation == fcntl.LOCK_UN:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    fcntl.flock(number, operation)
