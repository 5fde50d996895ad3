"""The plugin of sqlite-utils: `sqlite-utils graft COMMAND TAG …` runs any of its commands on a tag.

    sqlite-utils graft tables main --counts
    sqlite-utils graft insert main people people.csv --csv

A tag stands where COMMAND takes a database; `--attach`, which sqlite-utils makes an absolute path,
is refused. In Python no plugin is needed: `sqlite_utils.Database(connection)` takes a connection.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import click
from sqlite_utils import hookimpl
from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined] # the module that it chose

import graft_vfs
from graft_vfs import Graft
from graft_vfs.advice import Audience, words
from graft_vfs.errors import GraftError
from graft_vfs.tags import check_tag

_DATABASE_ARGUMENTS = {"path", "db_path"}


@hookimpl
def register_commands(cli: click.Group) -> None:
    """Add the command `graft`."""

    # What follows the name of a command is that command's own, --help too.
    @cli.command(
        name="graft",
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    )
    @click.argument("command")
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    @click.pass_context
    def graft(context: click.Context, command: str, arguments: tuple[str, ...]) -> None:
        """Run COMMAND of sqlite-utils with tags of graft_vfs in the place of database files

        Example:

        \b
            sqlite-utils graft tables main --counts
        """  # noqa: D301, D412, D415 - as sqlite-utils writes its own
        found = cli.commands.get(command)
        if found is None or not _DATABASE_ARGUMENTS & {each.name for each in found.params}:
            raise click.UsageError(f"sqlite-utils has no command {command!r} that takes a database")
        try:
            # The default VFS, because the commands open plain names and not URIs.
            engine = graft_vfs.enable_sqlite3(sqlite3, make_default=True)
        except GraftError as error:
            raise click.ClickException(words(error, Audience.CLI)) from error
        try:
            _with_tags(found, engine).main(
                list(arguments), prog_name=f"{context.command_path} {command}"
            )
        finally:
            graft_vfs.enable_sqlite3(sqlite3)


def _with_tags(command: click.Command, engine: Graft) -> click.Command:
    """Return a command whose databases are tags."""
    changed = copy.copy(command)
    changed.params = [copy.copy(parameter) for parameter in command.params]
    for parameter in changed.params:
        if parameter.name in _DATABASE_ARGUMENTS and isinstance(parameter.type, click.Path):
            parameter.callback = functools.partial(_check_tag, engine, parameter.type.exists)
            parameter.type = click.STRING
        elif parameter.name == "attach":
            parameter.callback = _refuse_attached
    return changed


def _check_tag(
    engine: Graft, exists: bool, context: click.Context, parameter: click.Parameter, tag: str
) -> str:
    """Find a wrong name of a tag that has to exist before SQLite makes a volume of it."""
    try:
        check_tag(tag)
        if exists:
            engine.open(tag)
    except GraftError as error:
        raise click.BadParameter(words(error, Audience.CLI), context, parameter) from error
    return tag


def _refuse_attached(context: click.Context, _: click.Parameter, value: Any) -> Any:
    if value:
        raise click.UsageError(
            "sqlite-utils attaches absolute paths, which are no tags; "
            "in Python, connection.execute(\"ATTACH 'tag' AS name\") does it",
            context,
        )
    return value
