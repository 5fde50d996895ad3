"""Names of the files and directories of a data directory: no other module spells one.

catalog.db, catalog.db-wal          tags, volumes, branches, known commits
import-RANDOM/                      standard input, while it is imported
cache/LOG-ID/
    NNNN.index, NNNN.images         arenas: pages of remote commits
    NNNN.frames, NNNN.pages         what version 1 had instead
volumes/removed-VOLUME-ID/          a volume that is being removed
volumes/VOLUME-ID/
    NNNN.log                        branch files, of which one is current
    NNNN.place-DEV-INODE-INODE      the mark of a branch file
    head, head.new                  words by which processes detect each other's changes
    volume.json, volume.json.tmp    what the current branch stands on
    push.lock, autosync.lock        the process that pushes, and the one that syncs
    unnamed, no-ref                 the log is to get a ref; why it has none
    messages, messages.tmp          messages of local commits that are not pushed yet
    import-RANDOM.tmp               a copy of a plain file that is being imported
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path

CATALOG = "catalog.db"
CATALOG_WAL = f"{CATALOG}-wal"
CACHE = "cache"
VOLUMES = "volumes"
SPOOL_PREFIX = "import-"
_REMOVED_PREFIX = "removed-"

HEAD = "head"
NEW_HEAD = "head.new"
DESCRIPTOR = "volume.json"
NEW_DESCRIPTOR = f"{DESCRIPTOR}.tmp"
PUSH_LOCK = "push.lock"
AUTOSYNC_LOCK = "autosync.lock"
MESSAGES = "messages"
NEW_MESSAGES = f"{MESSAGES}.tmp"
UNNAMED = "unnamed"
NO_REF = "no-ref"

_NUMBER = "(?:[0-9]{4}|[1-9][0-9]{4,8})"
_BRANCH_FILE = re.compile(rf"{_NUMBER}\.log", re.ASCII)
_ARENA_FILE = re.compile(rf"{_NUMBER}\.(index|images|frames|pages)", re.ASCII)
INDEX, IMAGES = "index", "images"
FORMER_KINDS = "frames", "pages"
"""What version 1 of the page cache had."""


def number_of(name: str) -> int:
    """Return the number that a branch file, or a file of an arena, begins with."""
    return int(name.partition(".")[0])


def removed(directory: Path) -> Path:
    """Return the path of a volume's directory while it is being removed."""
    return directory.with_name(f"{_REMOVED_PREFIX}{directory.name}")


def volume_of(name: str) -> str:
    """Return the id, as text, of the volume of a directory, also of one that is being removed."""
    return name.removeprefix(_REMOVED_PREFIX)


# In the directory of a volume -------------------------------------------------------------------


def branch_file(number: int) -> str:
    """Return the name of a branch file; the first has number 1."""
    return f"{number:04d}.log"


def is_branch_file(name: str) -> bool:
    """Return True if this is the name of a branch file; a copy such as `0001 (2).log` is none."""
    return _BRANCH_FILE.fullmatch(name) is not None


def branch_files(directory: Path) -> list[Path]:
    """Return the branch files of a volume, by name; raises OSError."""
    return sorted(path for path in directory.iterdir() if is_branch_file(path.name))


def mark(branch_path: Path, device: int, inode: int, head_inode: int) -> Path:
    """Return the path of the mark of a branch file that is open; see `branch_file`."""
    return branch_path.with_name(f"{branch_path.stem}.place-{device:x}-{inode:x}-{head_inode:x}")


def marks(directory: Path) -> list[Path]:
    """Return the marks of all branch files of a volume."""
    return list(directory.glob("*.place-*"))


def new_import(directory: Path) -> Path:
    """Return a path for a copy of a file that is imported."""
    return directory / f"import-{secrets.token_hex(4)}.tmp"


def imports(directory: Path) -> list[Path]:
    """Return the copies that interrupted imports have left, by name."""
    return sorted(directory.glob("import-*.tmp"))


def spools(data_dir: Path) -> list[Path]:
    """Return the directories in which imports of standard input have theirs, by name."""
    return sorted(data_dir.glob(f"{SPOOL_PREFIX}*"))


# In the page cache of a log ---------------------------------------------------------------------


def arena_file(directory: Path, number: int, kind: str) -> Path:
    """Return the path of a file of an arena."""
    return directory / f"{number:04d}.{kind}"


def arena_kind(name: str) -> str | None:
    """Return of which kind a file of an arena is, None if this is the name of none."""
    found = _ARENA_FILE.fullmatch(name)
    return None if found is None else found[1]
