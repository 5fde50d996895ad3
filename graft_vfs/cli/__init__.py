"""The command line `graft`: every verb of the engine, for people and for scripts.

    exit_codes   one table from errors to exit codes
    group        how commands are declared, and how a failure becomes two lines and an exit code
    output       text and JSON
    streams      standard streams that are closed, or whose reader has gone
    progress     a line on the terminal while work is long
    session      the engine of one command; the arguments that commands share
    volumes, history, sync, transfer, shell, settings, doctor, recovery, demo, manual    the
                 commands

Results go to standard output; errors, warnings and progress go to standard error.
"""

from __future__ import annotations

import click

from graft_vfs.cli import (
    demo,
    doctor,
    history,
    manual,
    recovery,
    settings,
    shell,
    sync,
    transfer,
    volumes,
)
from graft_vfs.cli.group import GraftGroup
from graft_vfs.cli.output import echo
from graft_vfs.engine.graft import Graft


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        echo(str(Graft.versions()))
        context.exit()


@click.group(
    cls=GraftGroup,
    invoke_without_command=True,
    epilog="\b\nExamples:\n  graft demo\n  graft import shop.db main\n  graft push main",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Print the versions of graft, its format, apsw and SQLite.",
)
@click.pass_context
def main(context: click.Context) -> None:
    """SQLite databases that commit locally and synchronise with object storage.

    A tag names a database on this machine. It is configured by graft.toml or GRAFT_… variables;
    without either, databases are local. `graft doctor` checks the set-up.
    """
    if context.invoked_subcommand is None:
        echo(context.get_help())


for _module in (volumes, history, sync, transfer, shell, settings, doctor, recovery, demo, manual):
    for _command in _module.COMMANDS:
        main.add_command(_command)

__all__ = ["main"]
