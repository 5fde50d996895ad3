"""Export to and import from plain SQLite files."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import apsw
from xxhash import xxh3_128

from graft_vfs.errors import (
    AlreadyExistsError,
    BusyError,
    DamageError,
    LocalStorageError,
    UsageError,
)
from graft_vfs.local.files import fsync_directory, storage_errors
from graft_vfs.pages import PAGE_SIZES, lock_page
from graft_vfs.reports import Progress, pages_text, size_text
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

_MAGIC = b"SQLite format 3\0"
_BUILTIN_VFS = "unix"
_REPORT_PAGES = 256
_PAGES_RESIDENT_MAX = 8192


@dataclass(frozen=True, slots=True)
class Transferred:
    """What an export or import moved: `pages` of `page_size` bytes. `verb` says which it was."""

    path: str
    pages: int
    page_size: int
    verb: str

    @property
    def bytes(self) -> int:
        """Size of the plain database in bytes."""
        return self.pages * self.page_size

    def __str__(self) -> str:
        return f"{self.verb} {self.path}: {pages_text(self.pages)}, {size_text(self.bytes)}."


def export_snapshot(
    snapshot: Snapshot, path: Path, *, progress: Progress | None = None
) -> Transferred:
    """Write a snapshot as a plain SQLite file, which appears whole and durable or not at all.

    Pages that are not here are fetched. Raises AlreadyExistsError if the file exists.
    """
    path = path.absolute()
    if path.exists():
        raise AlreadyExistsError(f"{path} exists already", next_step="choose another name")
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.part")
    with storage_errors(path):
        file = temporary.open("xb")
    try:
        with storage_errors(path), file:
            for page in range(1, snapshot.page_count + 1):
                file.write(snapshot.read(page))
                if page % _PAGES_RESIDENT_MAX == 0:
                    snapshot.forget_resident()
                if progress is not None and page % _REPORT_PAGES == 0:
                    progress(page, snapshot.page_count)
            file.flush()
            os.fsync(file.fileno())
        with storage_errors(path):
            # Linking, unlike renaming, never replaces a file that came in between.
            os.link(temporary, path)
            fsync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return Transferred(str(path), snapshot.page_count, snapshot.page_size, "Exported to")


def import_file(volume: Volume, path: Path, *, progress: Progress | None = None) -> Transferred:
    """Make the first commit of a volume from a plain SQLite file, in one transaction.

    The file is read under SQLite's own read lock, with what its WAL holds. Durable on return;
    memory stays bounded. Raises UsageError if the volume has commits or the file is no database.
    """
    path = path.absolute()
    with volume.writing() as snapshot, _readable(volume.directory, path) as source:
        if snapshot.page_count:
            raise UsageError(
                f"the volume has {snapshot.page_count} pages already",
                next_step="import into a new tag, or run graft_new first",
            )
        with storage_errors(source), source.open("rb") as file:
            size, count = _measure(source, file.read(100))
            file.seek(0)
            pages = _pages(file, size, count, progress)
            volume.write_pages(snapshot, pages, page_count=count)
    return Transferred(str(path), count, size, "Imported")


@contextlib.contextmanager
def _readable(scratch: Path, path: Path) -> Iterator[Path]:
    """Yield a file that holds the whole database, locked or private, as long as the block runs."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}", next_step="check the path")
    wal = path.with_name(path.name + "-wal")
    connection = _open(path)
    try:
        if wal.exists() and wal.stat().st_size:
            # The last connection to a file moves its WAL into it, which is not for an import to do.
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.execute("BEGIN; SELECT count(*) FROM sqlite_schema").fetchall()
        if wal.exists() and wal.stat().st_size:
            with _copied(connection, scratch) as copy:
                yield copy
        else:
            yield path
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise DamageError(
            f"{path} is not a sound SQLite database: {error}",
            next_step="check it with PRAGMA integrity_check, or recover it first",
        ) from error
    except apsw.BusyError as error:
        raise BusyError(
            f"{path} is being written to", next_step="end that transaction and try again"
        ) from error
    except apsw.Error as error:
        raise LocalStorageError(f"{path}: {error}", next_step="check the file") from error
    finally:
        connection.close()


def _open(path: Path) -> apsw.Connection:
    # A WAL-mode file needs its shared memory, which a read-only connection may not make.
    for flags in (apsw.SQLITE_OPEN_READWRITE, apsw.SQLITE_OPEN_READONLY):
        try:
            return apsw.Connection(str(path), flags=flags, vfs=_BUILTIN_VFS)
        except apsw.Error:
            if flags == apsw.SQLITE_OPEN_READONLY:
                raise
    raise AssertionError("the loop returns or raises")


@contextlib.contextmanager
def _copied(connection: apsw.Connection, scratch: Path) -> Iterator[Path]:
    """Copy a database whose newest pages are in its WAL into one private file."""
    copy = scratch / f"import-{secrets.token_hex(4)}.tmp"
    try:
        target = apsw.Connection(str(copy), vfs=_BUILTIN_VFS)
        try:
            with target.backup("main", connection, "main") as backup:
                backup.step(-1)
        finally:
            target.close()
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _measure(path: Path, header: bytes) -> tuple[int, int]:
    """Return (page size in bytes, page count) of a plain database file."""
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise UsageError(f"{path} is not a SQLite database", next_step="check the path")
    size = int.from_bytes(header[16:18], "big")
    size = 65536 if size == 1 else size
    if size not in PAGE_SIZES:
        raise DamageError(f"{path} claims pages of {size} bytes")
    in_file = path.stat().st_size // size
    claimed = int.from_bytes(header[28:32], "big")
    # SQLite believes the size in the header only if the writer that set it was the last.
    believed = claimed and header[24:28] == header[92:96] and claimed <= in_file
    return size, claimed if believed else in_file


def _pages(
    file: BinaryIO, size: int, count: int, progress: Progress | None
) -> Iterator[tuple[int, bytes]]:
    omitted = lock_page(size)
    for page in range(1, count + 1):
        image = file.read(size)
        if len(image) != size:
            raise DamageError(f"the file ends before page {page} of {count}")
        if page == 1:
            image = _as_rollback_mode(image, count)
        if page != omitted:
            yield page, image
        if progress is not None and page % _REPORT_PAGES == 0:
            progress(page, count)


def _as_rollback_mode(first_page: bytes, count: int) -> bytes:
    """Return page 1 with WAL mode switched off and with a size that SQLite believes."""
    image = bytearray(first_page)
    image[18:20] = b"\1\1"
    image[28:32] = count.to_bytes(4, "big")
    image[92:96] = image[24:28]
    return bytes(image)


def checksum(snapshot: Snapshot, progress: Progress | None = None) -> str:
    """Return a checksum over all pages, equal on every machine that sees the same content.

    The two counters of page 1 are left out: they belong to a machine's caches, not to the content.
    """
    digest = xxh3_128()
    for page in range(1, snapshot.page_count + 1):
        image = snapshot.stored(page)
        if page == 1:
            image = b"".join((image[:24], bytes(4), image[28:92], bytes(4), image[96:]))
        digest.update(image)
        if page % _PAGES_RESIDENT_MAX == 0:
            snapshot.forget_resident()
        if progress is not None and page % _REPORT_PAGES == 0:
            progress(page, snapshot.page_count)
    return digest.hexdigest()
