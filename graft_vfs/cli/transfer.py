"""Commands that move whole databases between volumes and plain SQLite files."""

from __future__ import annotations

from pathlib import Path

import click

from graft_vfs.cli.group import command
from graft_vfs.cli.output import emit, json_option
from graft_vfs.cli.progress import progress
from graft_vfs.cli.session import opened, tag_argument

_FILE = click.Path(path_type=Path)


@command("import", "graft import shop.db main", "graft import --update shop.db main")
@click.argument("file", type=_FILE)
@tag_argument
@click.option(
    "--update", is_flag=True, help="Commit to TAG, which exists, the pages in which FILE differs."
)
@json_option
def import_(file: Path, tag: str, update: bool, as_json: bool) -> None:
    """Copy a plain SQLite FILE into a new volume named TAG; the file stays as it is.

    What its WAL holds is copied, too. An import that fails leaves no volume, or with --update the
    one that is there as it was.

    With --update, FILE is the next version of what TAG has: one commit, of the pages that differ,
    so that a push sends only these and readers keep what they have cached. Page size, reserved
    space and text encoding must be the same.
    """
    with opened() as engine:
        with progress("Importing pages") as show:
            done = engine.import_(file, tag, update=update, progress=show)
        emit(done, as_json=as_json)


@command("export", "graft export main backup.db")
@tag_argument
@click.argument("file", type=_FILE)
@json_option
def export(tag: str, file: Path, as_json: bool) -> None:
    """Write TAG as a plain SQLite FILE, which must not exist yet.

    Pages that are not on this machine are fetched.
    """
    with opened() as engine:
        with progress("Exporting pages") as show:
            done = engine.export(tag, file, progress=show)
        emit(done, as_json=as_json)


COMMANDS: tuple[click.Command, ...] = (import_, export)
