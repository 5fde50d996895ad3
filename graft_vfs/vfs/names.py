"""Names of databases: which ones explicitly mean a volume, and which look like files.

SQLite opens attached databases, and the target of VACUUM INTO, with the connection's VFS. So
`VACUUM INTO '/backups/x.db'` on a volume would create a volume of that name instead of a backup. An
existing volume opens under any name. If the name of a new volume looks like a file, the volume is
created only if the name explicitly means a volume, or if the VFS is SQLite's default: then programs
that do not know about volumes open all their databases by path.
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
    # A second leading slash would begin a host name.
    start = "%2F" if name.startswith("//") else quote(name[:1], safe="/")
    return f"file:{start}{quote(name[1:], safe='/')}?vfs={vfs}"


def refuse_path(name: str, vfs: str, builtin_vfs: str) -> None:
    """Raise UsageError if the name of a new volume looks like a file."""
    if not _looks_like_path(name):
        return
    if name.startswith("file:"):
        raise UsageError(
            f"{name!r} is a URI, but this connection does not parse URIs",
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
        return False  # No file can have this name.
