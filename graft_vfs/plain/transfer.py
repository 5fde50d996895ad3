"""Export to and import from plain SQLite files."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from xxhash import xxh3_128

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import (
    AlreadyExistsError,
    LocalStorageError,
    UsageError,
)
from graft_vfs.format.commit import check_message
from graft_vfs.local.files import fsync_directory, storage_errors
from graft_vfs.local.ownership import create
from graft_vfs.pages import LocalLsn, lock_page
from graft_vfs.plain.publish import publish
from graft_vfs.plain.source import PlainSource, reading
from graft_vfs.plain.writing import Pages, file_sum, write_file, write_stream
from graft_vfs.reports import Progress, Report, pages_text, size_text
from graft_vfs.sqlite_format.header import (
    CHANGE_COUNTER,
    JOURNAL_MODES,
    PAGE_COUNT,
    RESERVED_BYTES,
    ROLLBACK_JOURNAL,
    TEXT_ENCODING,
    VERSION_VALID_FOR,
    with_counter,
)
from graft_vfs.volume.replacement import Replaced, keep_message, replace_content
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

_REPORT_PAGES = 256
_PAGES_RESIDENT_MAX = 8192
_JOURNAL_HEAD_BYTES = 32
_ENCODINGS = {1: "UTF-8", 2: "UTF-16le", 3: "UTF-16be"}


@dataclass(frozen=True, slots=True, repr=False)
class Transferred(Report):
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


@dataclass(frozen=True, slots=True, repr=False)
class Imported(Transferred):
    """What an import committed as local `lsn`: the pages that `differ`, of `pages`.

    Pages have `page_size` bytes. With `lsn` None the volume has the file's content already, and
    nothing was committed.
    """

    differ: int
    lsn: LocalLsn | None

    def __str__(self) -> str:
        if self.lsn is None:
            return f"Nothing to import: the volume has the content of {self.path} already."
        if self.differ == self.pages:
            return Transferred.__str__(self)
        return (
            f"{self.verb} {self.path} as local:{self.lsn}: {self.differ} of "
            f"{pages_text(self.pages)} differ, {size_text(self.differ * self.page_size)}."
        )


Check = Callable[[Path, str], None]
"""What looks at a written file before it gets its name; receives its path and its checksum."""


def export_pages(
    pages: Pages,
    path: Path,
    *,
    force: bool = False,
    check: Check | None = None,
    progress: Progress | None = None,
) -> Transferred:
    """Write a database as a plain SQLite file, which appears whole and durable or not at all.

    Pages that are not cached are fetched, each once; see `writing`. With `force` a file that exists
    is replaced in one step, and keeps its owner and mode. Raises AlreadyExistsError if the file
    exists, or a WAL or a journal of one of that name, which SQLite would take for changes of the
    new file; and what `check` raises, with no file left.
    """
    path = path.absolute()
    with storage_errors(path):
        if force:
            path = path.resolve()
        replaced = path if force and path.exists() else None
        _require_free(path, force=force)
        # Of a length that does not depend on the name, which may be as long as a name can be.
        temporary = path.with_name(f".graft-{secrets.token_hex(8)}.part")
        if replaced is None:
            file = temporary.open("xb")
        else:
            file = os.fdopen(create(temporary, os.O_RDWR | os.O_EXCL, replaces=replaced), "wb")
    try:
        with storage_errors(path), file:
            checksum = write_file(pages, path, file, progress)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(temporary, checksum)
        with storage_errors(path):
            _require_free(path, force=force)
            if force:
                temporary.replace(path)
                fsync_directory(path.parent)
            else:
                try:
                    publish(temporary, path)
                except FileExistsError as error:
                    raise _exists(path) from error
    finally:
        temporary.unlink(missing_ok=True)
    return Transferred(str(path), pages.page_count, pages.page_size, "Exported to")


def export_stream(
    pages: Pages, stream: BinaryIO, *, progress: Progress | None = None
) -> Transferred:
    """Write a database to a stream, page by page; a failure leaves it incomplete."""
    write_stream(pages, stream, progress)
    return Transferred("-", pages.page_count, pages.page_size, "Exported to")


def require_written(path: Path, checksum: str, page_size: int) -> None:
    """Read a file back; raises LocalStorageError if it has another checksum than was written."""
    with storage_errors(path):
        if hasattr(os, "posix_fadvise"):
            # Else the system answers from memory.
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        found = file_sum(path, page_size)
    if found != checksum:
        raise LocalStorageError(
            f"{path.parent} does not return the bytes that were written",
            next_step="check the disk, or write to another one",
        )


def _require_free(path: Path, *, force: bool) -> None:
    """Raise AlreadyExistsError unless a file may be made, or replaced with `force`."""
    if path.exists() and not (force and path.is_file()):
        raise _exists(path)
    for suffix in ("-wal", "-journal"):
        beside = path.with_name(path.name + suffix)
        # A journal that was kept after its transaction begins with zeros.
        # Not Path.is_file, which raises an error for a name that is too long to exist.
        if os.path.isfile(beside) and any(_beginning(beside)):  # noqa: PTH113
            raise AlreadyExistsError(
                f"{beside} exists, and SQLite would take it for changes of {path.name}",
                next_step="end the programs that have the database open; if none has, open it once "
                "with SQLite, or remove that file",
            )


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_JOURNAL_HEAD_BYTES)


def _exists(path: Path) -> AlreadyExistsError:
    if path.is_dir():
        step = f"name a file in it, such as {path / 'export.db'}"
        return AlreadyExistsError(f"{path} is a directory", next_step=step)
    if path.exists() and not path.is_file():
        return AlreadyExistsError(f"{path} is not a regular file", next_step="name another one")
    return AlreadyExistsError(
        f"{path} exists already",
        next_step="choose another name, or replace it by force (--force, or force=True in Python)",
    )


def import_file(
    volume: Volume,
    path: Path,
    *,
    update: bool = False,
    message: str = "",
    progress: Progress | None = None,
) -> Imported:
    """Commit a plain SQLite file to a volume without commits, in one transaction.

    With `update` the volume may have some: the pages are committed in which the file differs. What
    was not pushed stays below, and readers keep their snapshot.

    A child process reads the file through SQLite, under a read lock and with what its WAL holds, so
    that no lock of this process is lost if it has the file open. Durable on return; memory stays
    bounded. Requests: none, or with `update` those of `comparison.differing`. Raises UsageError if
    the volume has commits, or with `update` another page size, reserved space or text encoding, and
    if the file is no database; DamageError if it is not valid, BusyError if another program writes
    to it. The volume is as before then.
    """
    message = check_message(message)
    volume.catalog.require_writable()
    path = path.absolute()
    with reading(path, volume.directory) as source, volume.writing() as snapshot:
        if snapshot.page_count and not update:
            raise UsageError(
                f"the volume has {snapshot.page_count} pages already",
                next_step=Hint(
                    "import the next version of what it has with ",
                    Advice.UPDATE(FILE=path),
                    ", import into a new tag, or first run ",
                    Advice.NEW,
                ),
            )
        done = _put(volume, snapshot, source, path, progress)
        keep_message(volume, done, message)
    lsn = done.after.lsn if done.is_commit else None
    return Imported(str(path), source.pages, source.page_size, "Imported", done.pages, lsn)


def _put(
    volume: Volume, snapshot: Snapshot, source: PlainSource, path: Path, progress: Progress | None
) -> Replaced:
    """Commit what differs in a file; the caller holds the writer lock since `snapshot`."""
    images = _pages(source, progress)
    if not snapshot.page_count:
        after = volume.write_pages(snapshot, images, page_count=source.pages)
        return Replaced(snapshot, after, source.pages)
    first = next(images)
    elsewhere = Hint("import it into a new tag: ", Advice.IMPORT_ELSEWHERE(FILE=path))
    require_same_format(str(path), first[1], snapshot, elsewhere)
    images = itertools.chain([first], images)
    return replace_content(volume, snapshot, images, page_count=source.pages)


def require_same_format(source: str, first_page: bytes, snapshot: Snapshot, step: Hint) -> None:
    """Raise UsageError with `step` if pages of another database cannot stand beside a volume's.

    Connections that are open know the encoding since they were opened.
    """
    former = snapshot.first_page().image
    facts = (
        ("pages of {} bytes", len(first_page), snapshot.page_size),
        ("{} reserved bytes a page", first_page[RESERVED_BYTES], former[RESERVED_BYTES]),
        ("text as {}", _encoding(first_page), _encoding(former)),
    )
    for what, theirs, ours in facts:
        # A database without tables has no encoding yet.
        if theirs != ours and theirs is not None and ours is not None:
            raise UsageError(
                f"{source} has {what.format(theirs)}, and the volume {what.format(ours)}, which it "
                "keeps; nothing was changed",
                next_step=step,
            )


def _encoding(first_page: bytes) -> str | None:
    return _ENCODINGS.get(int.from_bytes(first_page[TEXT_ENCODING], "big"))


def _pages(source: PlainSource, progress: Progress | None) -> Iterator[tuple[int, bytes]]:
    omitted = lock_page(source.page_size)
    for page, image in enumerate(source.images(), 1):
        if page == 1:
            yield page, _as_rollback_mode(image, source.pages)
        elif page != omitted:
            yield page, image
        if progress is not None and page % _REPORT_PAGES == 0:
            progress(page, source.pages)


def _as_rollback_mode(first_page: bytes, count: int) -> bytes:
    """Return page 1 with WAL mode switched off and with a size that SQLite believes."""
    image = bytearray(first_page)
    image[JOURNAL_MODES] = ROLLBACK_JOURNAL
    image[PAGE_COUNT] = count.to_bytes(4, "big")
    image[VERSION_VALID_FOR] = image[CHANGE_COUNTER]
    return bytes(image)


def checksum(snapshot: Snapshot, progress: Progress | None = None) -> str:
    """Return a checksum over all pages, equal on every machine that sees the same content.

    The two counters of page 1 are left out: they belong to a machine's caches, not to the content.
    """
    digest = xxh3_128()
    for page in range(1, snapshot.page_count + 1):
        image = snapshot.stored(page)
        if page == 1:
            image = with_counter(image, 0)
        digest.update(image)
        if page % _PAGES_RESIDENT_MAX == 0:
            snapshot.forget_resident()
        if progress is not None and page % _REPORT_PAGES == 0:
            progress(page, snapshot.page_count)
    return digest.hexdigest()
