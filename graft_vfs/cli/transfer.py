"""Commands that move whole databases between volumes and plain SQLite files."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from graft_vfs.cli.completion import complete_tags
from graft_vfs.cli.group import command
from graft_vfs.cli.output import emit, json_option
from graft_vfs.cli.progress import progress
from graft_vfs.cli.session import opened, tag_argument
from graft_vfs.errors import UsageError
from graft_vfs.tags import check_tag

if TYPE_CHECKING:
    import graft_vfs
    from graft_vfs.history.restore import Restored, RestoredFile

_FILE = click.Path(path_type=Path)
_STREAM = Path("-")


_message_option = click.option(
    "-m", "--message", default="", metavar="TEXT", help="Say what it is; the push publishes it."
)


@command(
    "import",
    "graft import shop.db main",
    "graft import --update shop.db main",
    "gunzip -c shop.db.gz | graft import - main",
)
@click.argument("file", type=_FILE)
@tag_argument
@click.option(
    "--update", is_flag=True, help="Commit the pages of FILE that differ to the existing TAG."
)
@_message_option
@json_option
def import_(file: Path, tag: str, update: bool, message: str, as_json: bool) -> None:
    """Copy a plain SQLite FILE into a new volume named TAG.

    The file does not change. The content of its WAL is included. A failed import leaves no volume
    or, with --update, the volume unchanged. With - as FILE, the file is read from standard input.

    With --update, FILE is a new version of TAG's database: the pages that differ become one commit,
    so that a push sends only these and readers keep their caches. Page size, reserved space and
    text encoding must be the same.
    """
    with opened() as engine:
        _refuse_second_file(engine, file, tag)
        with progress("Importing pages") as show:
            done = engine.import_(_source(file), tag, update=update, message=message, progress=show)
        emit(done, as_json=as_json)


def _refuse_second_file(engine: graft_vfs.Graft, file: Path, tag: str) -> None:
    """Raise UsageError if a new tag is the name of another file: `graft import a.db b.db`."""
    with contextlib.suppress(OSError):  # A tag may be longer than the name of a file.
        is_other = Path(tag).is_file() and not (file.is_file() and file.samefile(tag))
        if not is_other or engine.catalog.tag_volume(tag) is not None:
            return
        raise UsageError(
            f"{tag} is a file, and an import takes one file and a tag",
            next_step=f"import each by itself, as in `graft import {shlex.quote(tag)} "
            f"{shlex.quote(Path(tag).stem)}`",
        )


def _source(file: Path) -> Path | BinaryIO:
    """Return a file, or standard input for `-`."""
    if file != _STREAM:
        return file
    if sys.stdin.isatty():
        raise UsageError("standard input is a terminal", next_step="name a file, or use a pipe")
    return sys.stdin.buffer


_force_option = click.option("--force", is_flag=True, help="Atomically replace FILE if it exists.")


@command(
    "export",
    "graft export main backup.db",
    'graft export main --at "2 hours ago" old.db',
    "graft export main - | gzip > main.db.gz",
)
@tag_argument
@click.argument("file", type=_FILE)
@click.option("--at", metavar="COMMIT", help="Write an earlier commit, given as for `graft show`.")
@_force_option
@json_option
def export(tag: str, file: Path, at: str | None, force: bool, as_json: bool) -> None:
    """Write TAG as a plain SQLite FILE, which must not exist yet.

    With - as FILE, the database goes to standard output, and the report to standard error. Pages
    that are not cached locally are fetched.
    """
    target = _target(file, force=force)
    with opened() as engine:
        with _telling_what_is_cached(engine), progress("Exporting pages", engine) as show:
            done = engine.export(tag, target, at=at, force=force, progress=show)
        emit(done, as_json=as_json, err=target is not file)


@contextlib.contextmanager
def _telling_what_is_cached(engine: graft_vfs.Graft) -> Iterator[None]:
    """Make Ctrl-C say that pages which have arrived are not fetched again, if there are some."""
    try:
        yield
    except KeyboardInterrupt:
        if not engine.logs.counters.snapshot().frames_fetched:
            raise
        what = "the same command fetches only pages that have not arrived"
        raise KeyboardInterrupt(what) from None


def _target(file: Path, *, force: bool) -> Path | BinaryIO:
    """Return a file, or standard output for `-`."""
    if file != _STREAM:
        return file
    if force:
        raise UsageError("--force replaces a file", next_step="leave it out with -")
    if sys.stdout.isatty():
        raise UsageError(
            "standard output is a terminal, which a database would garble",
            next_step="redirect it to a file, or name one in place of -",
        )
    return sys.stdout.buffer


@command(
    "restore",
    "graft restore main --at HEAD~1",
    'graft restore main --at "2 hours ago" -o main.db',
    "graft restore main -o main.db",
)
@click.argument("tag", shell_complete=complete_tags)
@click.option("--at", metavar="COMMIT", help="The commit to restore, given as for `graft show`.")
@click.option("-o", "--output", "file", type=_FILE, metavar="FILE", help="Write a plain file.")
@click.option(
    "--force",
    is_flag=True,
    help="Replace FILE if it exists; without -o, keep no branch of unpushed commits.",
)
@_message_option
@json_option
def restore(
    tag: str, *, at: str | None, file: Path | None, force: bool, message: str, as_json: bool
) -> None:
    """Restore TAG to an earlier commit, or write it to a file with -o.

    In place, the pages that differ become one new commit; nothing is lost, and the report names the
    commit to go back to. `graft push` then publishes it. As a push combines unpushed commits with
    the restore, these are kept as a branch, which `graft branches` lists.

    With -o, TAG may also be a ref or log of the remote that is unknown locally. FILE is read back,
    and checked by SQLite, before it gets its name. Without --at, the newest commit is written.
    """
    if file is not None and message:
        raise UsageError("a file has no message", next_step="leave out -m, or -o")
    if file is None and at is None:
        raise UsageError(
            "there is nothing to restore without --at and -o",
            next_step=f"name a commit, as in `graft restore {tag} --at HEAD~1`, or a file with -o",
        )
    with opened() as engine:
        result: Restored | RestoredFile
        with _telling_what_is_cached(engine), progress("Restoring pages", engine) as show:
            if file is not None:
                result = engine.restore_file(tag, file, at or "HEAD", force=force, progress=show)
            else:
                result = engine.restore(
                    check_tag(tag), at or "", force=force, message=message, progress=show
                )
        emit(result, as_json=as_json)


COMMANDS: tuple[click.Command, ...] = (import_, export, restore)
