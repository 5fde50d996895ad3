"""Owner and mode of new files.

A program that runs as root, such as a backup job that pushes, must not lock out the account that
owns the data. So a file that root creates belongs to its directory's owner, and a file that
replaces another gets that file's owner and mode, whichever user creates it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path


def create(path: Path, flags: int, *, replaces: Path | None = None) -> int:
    """Open a file, creating it if absent, and return its descriptor; raises OSError.

    `flags` are those of os.open. A new file gets its directory's owner, or the owner and mode of
    the file that it `replaces`.
    """
    flags |= os.O_CLOEXEC
    while True:
        if not flags & os.O_EXCL:
            with contextlib.suppress(FileNotFoundError):
                return os.open(path, flags)
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            continue  # Another process was first.
        try:
            if replaces is None:
                give_to_owner(descriptor, path.parent)
            else:
                _give_as(descriptor, replaces)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def make_directory(path: Path) -> None:
    """Create a directory if absent; if root creates it, it belongs to its parent's owner."""
    try:
        path.mkdir()
    except FileExistsError:
        if not path.is_dir():
            raise
        return
    give_to_owner(path, path.parent)


def give_to_owner(made: Path | int, directory: Path | int) -> None:
    """Give a file created by root to its directory's owner; both are paths or descriptors.

    Does nothing if not root. Raises OSError.
    """
    if os.geteuid() == 0:
        model = os.stat(directory)  # noqa: PTH116 - it may be a descriptor
        os.chown(made, model.st_uid, model.st_gid)


def _give_as(descriptor: int, replaced: Path) -> None:
    """Give a new file the owner and mode of another file.

    Only root can change a file's owner; other accounts set the group if they may.
    """
    model = replaced.stat()
    if os.geteuid() == 0:
        os.fchown(descriptor, model.st_uid, model.st_gid)
    elif os.fstat(descriptor).st_gid != model.st_gid:
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, -1, model.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(model.st_mode))
