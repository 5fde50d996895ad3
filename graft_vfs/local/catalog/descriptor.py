"""`volume.json`: the base of a volume's current branch, stored beside the branch's log.

The catalog holds the same facts and is authoritative. This copy has two uses. If the catalog is
lost, the volume can be adopted: local pages are useless without the commit that they are based on.
And if the catalog is older than its volumes, because its WAL is missing or a backup was restored,
this is detected before anything is read through it.

    {"format": 1, "volume": id, "remote": log id, "branch": id, "log": log id, "base": LSN,
     "base_hash": hex or null, "counter": n, "first_lsn": LSN, "file": "0001.log", "offset": bytes,
     "checksum": n, "created_ms": n, "tags": [text, …], "remote_url": text, "kept": [kept, …],
     "check": hex}

`remote_url` says where the log `remote` lives, and is left out for the configured remote.
`base_hash` is the hash of commit `base` of `log`, null for a base of 0. `tags` are the tags that
named the volume when the file was written; later changes are not recorded. `check` is the XXH3-64
of the other fields as JSON with sorted keys.

`kept` are the kept branches, each with the fields from `branch` to `created_ms`, and `last_lsn`,
`end_offset`, `end_checksum`, `reason` and `kept_ms`. A file that has some has format 2, so that no
earlier version adopts the volume and removes their files.

Invariant: the file is written from the catalog's committed rows while the catalog's write lock is
held, and no transaction commits on a branch that the file does not describe. So the file is never
newer than its catalog, and everything in the log after `offset` is based on `base`.

After a crash, either the old file or the new file is intact. The next process that opens the volume
sees that the catalog is newer, and writes the file again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_hexdigest

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import (
    CorruptCatalogError,
    CorruptLogError,
    FutureVersionError,
    InvalidIdError,
)
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local import layout, ownership
from graft_vfs.local.branch_log import LOG_HEADER_BYTES
from graft_vfs.local.catalog.rows import (
    HASH_BYTES,
    BranchRow,
    KeptBranch,
    branch_row,
    kept_row,
    text_of,
)
from graft_vfs.local.files import fsync_directory, storage_errors, write_fully
from graft_vfs.pages import RemoteLsn

PUT_BACK = f"put back {layout.CATALOG} together with its {layout.CATALOG_WAL}"
MOVE_AWAY = f"move {layout.CATALOG} and {layout.CATALOG_WAL} away"
_FORMAT = 2
_WITHOUT_KEPT = 1
_BYTES_MAX = 16 << 20
_CHUNK_MAGIC = b"GCHK"
_HEX = re.compile(r"(?:[0-9a-f]{2})*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A volume's current branch, the hash of its base commit, the volume's tags, kept branches.

    `remote` is the log that the volume pushes to. `base_hash` is None without a base, or if its
    commit is not known. `url` is where that log lives, None for the configured remote.
    """

    remote: LogId
    branch: BranchRow
    base_hash: bytes | None
    tags: tuple[str, ...]
    url: str | None = None
    kept: tuple[KeptBranch, ...] = ()

    def describes(self, branch: LogId, kept: tuple[KeptBranch, ...]) -> bool:
        """Return True if these are the current branch and the kept ones."""
        # A lineage is not recorded: it matters only while connections are open.
        ids = [(each.id, each.end) for each in self.kept]
        return self.branch.id == branch and ids == [(each.id, each.end) for each in kept]

    def is_newer(self, other: BranchRow) -> bool:
        """Return True if this branch is newer than `other` of the same volume.

        File numbers, then offsets, then bases grow from one branch to the next.
        """
        return self._rank(self.branch) > self._rank(other)

    def _rank(self, branch: BranchRow) -> tuple[int, int, bool, RemoteLsn]:
        number = layout.number_of(branch.file)
        return number, branch.start.offset, branch.log_id == self.remote, branch.base


def read(directory: Path) -> Descriptor | None:
    """Return the descriptor of a volume's directory, None if it has none.

    Raises CorruptLogError if the file is damaged, FutureVersionError, LocalStorageError.
    """
    path = directory / layout.DESCRIPTOR
    with storage_errors(path):
        try:
            with path.open("rb") as file:
                data = file.read(_BYTES_MAX)
        except FileNotFoundError:
            return None
    try:
        values = json.loads(data)
        found = values.get("format") if isinstance(values, dict) else None
        if isinstance(found, int) and found > _FORMAT:
            raise FutureVersionError(
                f"{path} has format {found}; this program reads {_FORMAT}",
                next_step="upgrade graft-vfs",
            )
        if not isinstance(values, dict) or values.pop("check", None) != _check(values):
            raise _damaged(path, "its checksum is wrong")
        return _decoded(values)
    except (
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
        CorruptCatalogError,
        InvalidIdError,
    ) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> CorruptLogError:
    return CorruptLogError(
        f"{path} is damaged: {why}",
        next_step="if the catalog is valid, delete the file: it is written again from the catalog",
    )


def _check(values: dict[str, Any]) -> str:
    return xxh3_64_hexdigest(json.dumps(values, sort_keys=True).encode())


def _decoded(values: dict[str, Any]) -> Descriptor:
    volume = VolumeId.parse(text_of(values["volume"]))
    return Descriptor(
        remote=LogId.parse(text_of(values["remote"])),
        branch=_decoded_branch(volume, values),
        base_hash=_decoded_hash(values),
        tags=tuple(text_of(tag) for tag in values["tags"]),
        url=None if values.get("remote_url") is None else text_of(values["remote_url"]),
        kept=tuple(_decoded_kept(volume, each) for each in values.get("kept", ())),
    )


def _decoded_branch(volume: VolumeId, values: dict[str, Any]) -> BranchRow:
    return branch_row(
        (
            LogId.parse(text_of(values["branch"])).raw,
            volume.raw,
            LogId.parse(text_of(values["log"])).raw,
            values["base"],
            values["counter"],
            values["first_lsn"],
            values["file"],
            values["offset"],
            str(values["checksum"]),
            values["created_ms"],
        )
    )


def _decoded_hash(values: dict[str, Any]) -> bytes | None:
    digest = values["base_hash"]
    if digest is None:
        return None
    if len(text_of(digest)) != 2 * HASH_BYTES or not _HEX.fullmatch(digest):
        raise ValueError("base_hash is not a hash")
    return bytes.fromhex(digest)


def _decoded_kept(volume: VolumeId, values: dict[str, Any]) -> KeptBranch:
    row = (
        values["last_lsn"],
        values["end_offset"],
        str(values["end_checksum"]),
        _decoded_hash(values),
        values["reason"],
        values["kept_ms"],
    )
    return kept_row(_decoded_branch(volume, values), row)


def _encoded(descriptor: Descriptor) -> bytes:
    branch = descriptor.branch
    values: dict[str, Any] = {
        "format": _FORMAT if descriptor.kept else _WITHOUT_KEPT,
        "volume": str(branch.volume),
        "remote": str(descriptor.remote),
        **_encoded_branch(branch, descriptor.base_hash),
        "tags": list(descriptor.tags),
    }
    if descriptor.url is not None:
        values["remote_url"] = descriptor.url
    if descriptor.kept:
        values["kept"] = [_encoded_kept(each) for each in descriptor.kept]
    return json.dumps(values | {"check": _check(values)}, indent=1).encode() + b"\n"


def _encoded_branch(branch: BranchRow, digest: bytes | None) -> dict[str, Any]:
    return {
        "branch": str(branch.id),
        "log": str(branch.log_id),
        "base": branch.base,
        "base_hash": None if digest is None else digest.hex(),
        "counter": branch.counter,
        "first_lsn": branch.first_lsn,
        "file": branch.file,
        "offset": branch.start.offset,
        "checksum": branch.start.checksum,
        "created_ms": branch.created_ms,
    }


def _encoded_kept(kept: KeptBranch) -> dict[str, Any]:
    return {
        **_encoded_branch(kept.branch, kept.base_hash),
        "last_lsn": kept.last_lsn,
        "end_offset": kept.end.offset,
        "end_checksum": kept.end.checksum,
        "reason": kept.reason,
        "kept_ms": kept.kept_ms,
    }


def write(directory: Path, descriptor: Descriptor) -> None:
    """Replace the descriptor of a volume's directory; durable on return.

    The caller holds the catalog's write lock. Raises LocalStorageError.
    """
    path = directory / layout.DESCRIPTOR
    # The catalog's lock allows only one writer, so one name is enough; a crash may leave it.
    temporary = directory / layout.NEW_DESCRIPTOR
    with storage_errors(path):
        temporary.unlink(missing_ok=True)
        replaced = path if path.exists() else None
        file = ownership.create(temporary, os.O_WRONLY | os.O_EXCL, replaces=replaced)
        try:
            try:
                write_fully(file, _encoded(descriptor), 0)
                os.fsync(file)
            finally:
                os.close(file)
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_directory(directory)


def keep(directory: Path, wanted: Descriptor) -> None:
    """Write the catalog's facts to the file; the caller holds the catalog's write lock.

    Raises CorruptCatalogError if the file is newer than the catalog, LocalStorageError.
    """
    try:
        found = read(directory)
    except CorruptLogError:
        found = None  # The catalog is authoritative, and the file is written from it.
    if found is not None and found.branch.id != wanted.branch.id and found.is_newer(wanted.branch):
        raise older_catalog(found, wanted.branch)
    if found is None or not found.describes(wanted.branch.id, wanted.kept):
        write(directory, wanted)


def note_tags(directory: Path, wanted: Descriptor) -> None:
    """Write the tags of a volume, which have changed, to a file that describes its branch.

    The caller holds the catalog's write lock. Raises what `read` and `write` raise.
    """
    found = read(directory)
    if found is not None and found.branch.id == wanted.branch.id and found.tags != wanted.tags:
        write(directory, wanted)


def older_catalog(found: Descriptor, known: BranchRow) -> CorruptCatalogError:
    """Return the error for a catalog that is older than its volume."""
    return CorruptCatalogError(
        f"the catalog is older than volume {known.volume}: it has its branch at byte "
        f"{known.start.offset} of {known.file} on LSN {known.base}, and the volume's own "
        f"{layout.DESCRIPTOR} at byte {found.branch.start.offset} of {found.branch.file} on LSN "
        f"{found.branch.base}; {layout.CATALOG} was restored, or {layout.CATALOG_WAL} is missing",
        next_step=Hint(
            f"{PUT_BACK}, or run ",
            Advice.ADOPT(VOLUME=known.volume),
            ", which adopts the volume as its files describe it",
        ),
    )


# Volumes that a catalog lacks -----------------------------------------------------------------


def holds_volume(directory: Path) -> bool:
    """Return True if a directory is a used volume: one with a descriptor or commits.

    A volume whose creation was interrupted has neither.
    """
    with storage_errors(directory):
        if (directory / layout.DESCRIPTOR).exists():
            return True
        for path in layout.branch_files(directory):
            with path.open("rb") as file:
                file.seek(LOG_HEADER_BYTES)
                if file.read(len(_CHUNK_MAGIC)) == _CHUNK_MAGIC:
                    return True
    return False


def unknown_volumes(
    volumes_directory: Path, known: Callable[[], Iterable[VolumeId]]
) -> list[VolumeId]:
    """Return the used volumes below a data directory's `volumes` that are not known, by id.

    Ordering: `known` is called again after the files were examined, so that a volume that another
    process is creating is either unused or known.
    """
    with storage_errors(volumes_directory):
        if not volumes_directory.is_dir():
            return []
        names = {path.name for path in volumes_directory.iterdir()}
    used = [name for name in sorted(names - set(map(str, known()))) if VolumeId.looks_like(name)]
    found = [VolumeId.parse(name) for name in used if holds_volume(volumes_directory / name)]
    return sorted(set(found) - set(known())) if found else []
