"""Gives a finished file an unused name, on every kind of file system.

A hard link never replaces a concurrently created file, but exFAT, SMB and many FUSE mounts have no
hard links. There, the file is renamed on the condition that the name is free. If that is not
supported either, an empty file reserves the name, and the finished file is renamed over it.

A crash leaves the temporary file and, with the last method, possibly the empty file.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

from graft_vfs.local.files import fsync_directory

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCL = 4
_UNSUPPORTED = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK}
)


def publish(temporary: Path, path: Path) -> None:
    """Move a file to a name in the same directory; raises FileExistsError if the name is taken.

    The name is durable on return if the file system supports that. Raises OSError.
    """
    for way in (_link, _rename_if_absent, _rename_over_own):
        try:
            way(temporary, path)
            break
        except OSError as error:
            if error.errno not in _UNSUPPORTED or way is _rename_over_own:
                raise
    try:
        fsync_directory(path.parent)
    except OSError as error:
        # Some file systems do not support this call for directories.
        if error.errno not in _UNSUPPORTED:
            raise


def _link(temporary: Path, path: Path) -> None:
    os.link(temporary, path)
    temporary.unlink()


def _rename_if_absent(temporary: Path, path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(temporary), os.fsencode(path)
    try:
        if sys.platform == "darwin":
            failed = libc.renamex_np(*names, _RENAME_EXCL)
        else:
            failed = libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE)
    except AttributeError as error:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from error
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


def _rename_over_own(temporary: Path, path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        own = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    found = path.lstat()
    if (found.st_dev, found.st_ino, found.st_size) != (own.st_dev, own.st_ino, 0):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    try:
        temporary.rename(path)
    except OSError:
        path.unlink()
        raise
