"""Running out of disk space or of file descriptors, page by page and descriptor by descriptor.

Each class leaves a chosen amount and gives all back. They change what the whole process may do, so
they are for processes of a test's own (`support.isolated`).
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

PAGE_BYTES = 4096
_DESCRIPTORS = Path("/dev/fd")


class Shortage(Protocol):
    """Something that a process can run out of."""

    def left(self, amount: int) -> contextlib.AbstractContextManager[None]:
        """Leave so much of it inside the block, and all of it behind."""
        ...


class FullDisk:
    """A file system that a ballast file fills up to so many free pages of 4 KiB."""

    def __init__(self, directory: Path) -> None:
        self._ballast = directory / "ballast"

    @contextlib.contextmanager
    def left(self, amount: int) -> Iterator[None]:
        free = os.statvfs(self._ballast.parent)
        size = free.f_bavail * free.f_frsize - amount * PAGE_BYTES
        assert size > 0, f"the disk has no {amount} pages to begin with"
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        try:
            yield
        finally:
            self._ballast.unlink()


class FileSizeLimit:
    """No file grows beyond so many pages of 4 KiB (`ulimit -f`)."""

    @contextlib.contextmanager
    def left(self, amount: int) -> Iterator[None]:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (amount * PAGE_BYTES, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


class FewDescriptors:
    """Only so many more files can be opened (`ulimit -n`)."""

    @contextlib.contextmanager
    def left(self, amount: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # The limit is on the number of a descriptor, and the lowest free one is given out. Once
        # all gaps are filled, the next descriptor tells how many there are.
        highest = max(int(entry.name) for entry in _DESCRIPTORS.iterdir())
        taken = [os.open(os.devnull, os.O_RDONLY)]
        while taken[-1] <= highest:
            taken.append(os.open(os.devnull, os.O_RDONLY))
        first = taken[-1] + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (first + amount, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in taken:
                os.close(descriptor)
