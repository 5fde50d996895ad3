"""Names of databases: which of them are surely meant for a volume, and which look like files.

SQLite opens what a statement attaches, and the target of VACUUM INTO, with the file system of the
connection. So `VACUUM INTO '/backups/x.db'` on a volume would make a volume of that name, and no
backup. A volume that exists opens under any name. A new one whose name looks like a file is made
only if the name says that it is for a volume, or if the VFS is SQLite's default: then programs that
know nothing of volumes open all their databases by path.
"""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from urllib.parse import quote

from graft_vfs.errors import UsageError

_BEGINNINGS = ("/", "./", "../", "~/", "file:")
_SUFFIXES = frozenset({".db", ".db3", ".s3db", ".sqlite", ".sqlite3", ".sqlitedb"})


def uri_of(name: str, vfs: str) -> str:
    """Return the URI that opens a tag, or a plain file, with a VFS."""
    # A second slash at the start would begin the name of a host.
    start = "%2F" if name.startswith("//") else quote(name[:1], safe="/")
    return f"file:{start}{quote(name[1:], safe='/')}?vfs={vfs}"


def refuse_path(name: str, vfs: str, builtin_vfs: str) -> None:
    """Raise UsageError for the name of a new volume that looks like the name of a file."""
    if not _looks_like_path(name):
        return
    if name.startswith("file:"):
        raise UsageError(
            f"{name!r} is a URI, which this connection does not read",
            next_step="open the connection with SQLITE_OPEN_URI, as graft_vfs.connect does "
            "(sqlite3: uri=True)",
        )
    raise UsageError(
        f"{name!r} looks like a file, and there is no volume of that name",
        next_step=f"write '{uri_of(name, builtin_vfs)}' for the file, or '{uri_of(name, vfs)}' for "
        "a new volume",
    )


def _looks_like_path(name: str) -> bool:
    has_suffix = PurePosixPath(name).suffix.lower() in _SUFFIXES
    return name.startswith(_BEGINNINGS) or has_suffix or _exists(name)


def _exists(name: str) -> bool:
    try:
        return os.path.lexists(name)
    except (OSError, ValueError):
        return False  # No file can have such a name.
