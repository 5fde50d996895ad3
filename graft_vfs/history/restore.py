"""Restore: an earlier state of a database, on top of what a volume has now, or as a plain file."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import apsw

from graft_vfs.advice import Advice, Audience, Hint, Worded
from graft_vfs.errors import CorruptObjectError, UsageError
from graft_vfs.format.commit import check_message
from graft_vfs.history import names
from graft_vfs.history.key_ranges import changed_pages
from graft_vfs.ids import LogId
from graft_vfs.pager.interrupts import end_on_interrupt
from graft_vfs.pager.scratch import BUILTIN_VFS
from graft_vfs.pages import LocalLsn
from graft_vfs.plain.transfer import (
    export_pages,
    require_same_format,
    require_written,
)
from graft_vfs.plain.writing import CommitPages, Pages
from graft_vfs.reports import Progress, Report, commits_text, pages_text, size_text
from graft_vfs.store.none import NoStore
from graft_vfs.sync.clone import clone_base
from graft_vfs.sync.fetch import require_view
from graft_vfs.sync.sources import find_source
from graft_vfs.view.log_view import LogView
from graft_vfs.view.logs import Logs
from graft_vfs.volume.context import Context, Opened
from graft_vfs.volume.kept import keep_copy, remove_kept
from graft_vfs.volume.replacement import Replaced, keep_message, replace_content
from graft_vfs.volume.snapshot import Snapshot
from graft_vfs.volume.volume import Volume

_logger = logging.getLogger(__name__)

_BATCH_PAGES = 2048
_PROBLEMS_SHOWN = 3


@dataclass(frozen=True, slots=True, repr=False)
class Restored(Report, Worded):
    """A restore of `tag` to `commit`, in place: `differ` of `pages` became the commit local `lsn`.

    Pages have `page_size` bytes. `before` is the commit to go back to. With `lsn` None the volume
    has the content of `commit` already, and nothing was committed. `kept` is the kept branch with
    the commits that were not pushed, as the next push rolls them into one with the restore; None if
    there were none, or if that cannot happen.
    """

    tag: str
    commit: str
    before: str
    pages: int
    page_size: int
    differ: int
    lsn: LocalLsn | None
    kept: LogId | None = None

    def words(self, audience: Audience) -> str:
        """Return the report for one audience."""
        if self.lsn is None:
            return f"Nothing to restore: {self.tag} has the content of {self.commit} already."
        back = Advice.RESTORE(TAG=self.tag, COMMIT=self.before).words(audience)
        kept = f"\nWhat was not pushed is kept as branch {self.kept}." if self.kept else ""
        return (
            f"Restored {self.tag} to {self.commit} as local:{self.lsn}: {self.differ} of "
            f"{pages_text(self.pages)} differ, {size_text(self.differ * self.page_size)}."
            f"{kept}\n  (use {back} to go back to what it had)"
        )


@dataclass(frozen=True, slots=True, repr=False)
class RestoredFile(Report):
    """A restore of `commit` to a plain file of `pages` pages of `page_size` bytes at `path`.

    It was read back, and `checked` says whether SQLite's own check found it sound too; it cannot
    check a database that needs an extension.
    """

    path: str
    commit: str
    pages: int
    page_size: int
    checked: bool

    @property
    def bytes(self) -> int:
        """Size of the plain database in bytes."""
        return self.pages * self.page_size

    def __str__(self) -> str:
        check = "checked by SQLite" if self.checked else "SQLite alone cannot check its schema"
        return (
            f"Restored {self.commit} to {self.path}: {pages_text(self.pages)}, "
            f"{size_text(self.bytes)}; read back, {check}."
        )


def restore_in_place(
    opened: Opened,
    logs: Logs,
    ref: str,
    *,
    force: bool,
    message: str,
    progress: Progress | None,
) -> Restored:
    """Commit the pages in which a commit differs from a volume, as its newest state.

    Without a message, the commit gets one that names what was restored. Commits that are not pushed
    are kept as a branch, unless `force`: a push rolls local commits into one, so that none of them
    could be named any more.
    """
    tag, volume = opened
    message = check_message(message)
    volume.catalog.require_writable()
    commit = names.resolve(logs, ref, volume)
    with volume.writing() as snapshot:
        head = names.resolve(logs, "HEAD", volume)
        before = names.short(head, volume)
        then = names.snapshot_of(volume, logs, commit)
        as_file = Hint("write it to a file: ", Advice.RESTORE_FILE(TAG=tag, COMMIT=ref))
        require_same_format(str(commit), then.read(1), snapshot, as_file)
        # Ordering: before the commit, since a push may roll it up at once.
        kept = None if force or commit == head else _keep_unpushed(volume, snapshot, logs)
        is_commit = False
        try:
            done = put_on_top(volume, snapshot, then, progress)
            is_commit = done.is_commit
        finally:
            if kept is not None and not is_commit:
                remove_kept(volume, kept)
                kept = None
        keep_message(volume, done, message or f"restore {names.short(commit, volume)}")
    lsn = done.after.lsn if done.is_commit else None
    report = Restored(
        tag,
        names.short(commit, volume),
        before,
        then.page_count,
        then.page_size,
        done.pages,
        lsn,
        kept,
    )
    _logger.info("volume %s: %s", volume.id, report)
    return report


def put_on_top(
    volume: Volume, snapshot: Snapshot, then: Snapshot, progress: Progress | None = None
) -> Replaced:
    """Commit the pages in which an earlier state differs, of the same format; see the caller."""
    pages = [page for page in changed_pages(then, snapshot) if 1 < page <= then.page_count]
    images = itertools.chain([(1, then.read(1))], _images(then, pages, progress))
    return replace_content(volume, snapshot, images, page_count=then.page_count)


def require_way_back(tag: str, before: str, snapshot: Snapshot, logs: Logs, verb: str) -> None:
    """A push rolls local commits into one, so that none of them can be named any more."""
    branch = snapshot.branch.row
    if snapshot.local_commits and not isinstance(logs.log(branch.log_id).store, NoStore):
        raise UsageError(
            f"{tag} has {commits_text(snapshot.local_commits)} not pushed yet, which the next push "
            f"would roll into one with the {verb}: nothing could go back to {before} then",
            next_step=Hint("run ", Advice.PUSH(TAG=tag), f" first, or {verb} with --force"),
        )


def _keep_unpushed(volume: Volume, snapshot: Snapshot, logs: Logs) -> LogId | None:
    """Keep the commits that a push would roll into one with the restore; None if there are none."""
    if isinstance(logs.log(snapshot.branch.row.log_id).store, NoStore):
        return None
    return keep_copy(volume, snapshot, "restore")


def _images(
    then: Snapshot, pages: Iterable[int], progress: Progress | None
) -> Iterator[tuple[int, bytes]]:
    """Yield pages of a snapshot with their images; a batch is fetched at once."""
    pages = list(pages)
    if isinstance(then.remote, LogView):
        # All at once, as far as the cache can hold them: each batch for itself asks every object.
        then.remote.prefetch(pages)
    for first in range(0, len(pages), _BATCH_PAGES):
        batch = pages[first : first + _BATCH_PAGES]
        if isinstance(then.remote, LogView):
            then.remote.fetch_pages(batch)
        for page in batch:
            yield page, then.stored(page)
        then.forget_resident()
        if progress is not None:
            progress(first + len(batch), len(pages))


# As a file --------------------------------------------------------------------------------------


def restore_named(
    context: Context,
    name: str,
    ref: str,
    path: Path,
    *,
    force: bool,
    progress: Progress | None,
) -> RestoredFile:
    """Write a commit of a tag, or else of a log on the remote that `name` names, to a file.

    A tag whose volume has no commit is as good as none: opening it made it.
    """
    logs, found = context.logs, context.catalog.tag_volume(name)
    if found is not None:
        volume = context.volumes.use(found)
        with volume.pinned() as newest:
            if newest.page_count:
                commit = names.resolve(logs, ref, volume)
                pages: Pages = names.snapshot_of(volume, logs, commit)
                return _restore_file(pages, commit, path, force=force, progress=progress)
    log_id, _ = clone_base(logs, find_source(logs, name), progress=progress)
    at = names.resolve_remote(logs, ref, None, log_id=log_id)
    require_view(logs, at.log, at.lsn)
    pages = CommitPages(logs.log_view(at.log, at.lsn))
    return _restore_file(pages, at, path, force=force, progress=progress)


def _restore_file(
    pages: Pages, commit: names.Commit, path: Path, *, force: bool, progress: Progress | None
) -> RestoredFile:
    """Write a file, read it back and have it checked before it gets its name."""
    checked = False

    def check(written: Path, checksum: str) -> None:
        nonlocal checked
        require_written(written, checksum, pages.page_size)
        checked = _is_checked(written, commit)

    done = export_pages(pages, path, force=force, check=check, progress=progress)
    return RestoredFile(done.path, str(commit), done.pages, done.page_size, checked)


def _is_checked(path: Path, commit: names.Commit) -> bool:
    """Have SQLite check a file; False if it lacks what the schema needs.

    Raises CorruptObjectError for what it finds.
    """
    # Immutable: so it makes no file beside it, and takes no lock.
    uri = f"file:{quote(str(path))}?immutable=1"
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    try:
        with contextlib.closing(apsw.Connection(uri, flags=flags, vfs=BUILTIN_VFS)) as connection:
            end_on_interrupt(connection)
            found = connection.execute(f"PRAGMA quick_check({_PROBLEMS_SHOWN})").fetchall()
    except apsw.SQLError:
        return False
    except (apsw.CorruptError, apsw.NotADBError) as error:
        found = [(str(error),)]
    if found != [("ok",)]:
        problems = "; ".join(str(problem) for (problem,) in found)
        raise CorruptObjectError(
            f"the database as of {commit} is damaged: {problems}",
            next_step=Hint(
                "restore another commit, or write this one as it is with ", Advice.EXPORT_AT
            ),
        )
    return True
