"""Commands that move whole databases between volumes and plain SQLite files."""

from __future__ import annotations

from pathlib import Path

import click

from graft_vfs.cli.group import command
from graft_vfs.cli.output import emit, json_option
from graft_vfs.cli.progress import progress
from graft_vfs.cli.session import opened, tag_argument

_FILE = click.Path(path_type=Path)


@command("import", "graft import shop.db main")
@click.argument("file", type=_FILE)
@tag_argument
@json_option
def import_(file: Path, tag: str, as_json: bool) -> None:
    """Copy a plain SQLite FILE into a new volume named TAG; the file stays as it is.

    What its WAL holds is copied, too. An import that fails leaves no volume.
    """
    with opened() as engine:
        with progress("Importing pages") as show:
            done = engine.import_(file, tag, progress=show)
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
