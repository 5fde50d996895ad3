"""The command line `graft`: every verb of the engine, for people and for scripts.

    exit_codes   one table from errors to exit codes
    group        how commands are declared, and how a failure becomes two lines and an exit code
    output       text and JSON
    table        text tables
    branches     the branches of a volume, the current one and kept ones
    rows         changed rows as text and as JSON
    log          commits as paragraphs, lines and graphs
    vocabulary   groups of commands, aliases, and words of other programs
    completion   completion for the shell's Tab key
    streams      closed standard streams, and closed pipes
    progress     a progress line for long work
    session      the engine of one command; the arguments that commands share
    volumes, history, names, sync, daemon, transfer, revert, rebase, bisect, shell, settings,
    doctor, recovery, demo, manual, usage   the commands

Results go to standard output; errors, warnings and progress go to standard error.
"""

from __future__ import annotations

from importlib import import_module

import click

from graft_vfs.cli.group import CONTEXT_SETTINGS, GraftGroup, UnknownCommandError
from graft_vfs.cli.output import echo
from graft_vfs.cli.vocabulary import ALIASES, ELSEWHERE, GROUPS
from graft_vfs.suggestions import did_you_mean

_MODULES = {
    "volumes": "new init switch fork rm tags volumes status info snapshot dump-header gc",
    "history": "log show diff",
    "names": "tag",
    "branches": "branches branch",
    "sync": "clone checkout fetch pull push hydrate audit dump-commit remote",
    "daemon": "sync",
    "transfer": "import export restore",
    "revert": "revert",
    "bisect": "bisect",
    "rebase": "rebase",
    "maintain": "maintain",
    "shell": "shell completion",
    "settings": "config",
    "doctor": "doctor",
    "recovery": "adopt fsck",
    "retention": "retention expire",
    "demo": "demo",
    "manual": "help version",
    "usage": "du",
}
"""The module of each command. Only the requested command's module is imported, and all of them for
the help: for example, only the shell needs APSW's shell."""


_SUMMARY_MAX = 200
"""A longer first sentence is cut in the help; others take two lines if they must."""


class _Commands(GraftGroup):
    """The group of all commands, imported on demand."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; see click.Group."""
        for module, names in _MODULES.items():
            if cmd_name in names.split():
                self._load(module)
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first word names; see click.Group."""
        word = args[0]
        try:
            return super().resolve_command(ctx, [ALIASES.get(word, word), *args[1:]])
        except click.NoSuchCommand as error:
            step = ELSEWHERE.get(word) or (
                f"{did_you_mean(word, [*' '.join(_MODULES.values()).split(), *ALIASES])}"
                "`graft --help` lists the commands"
            )
            raise UnknownCommandError(f"there is no command {word!r}", step, ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in groups; see click.Group."""
        left = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        groups = [(title, names.split()) for title, names in GROUPS.items()]
        grouped = " ".join(GROUPS.values()).split()
        groups.append(("More", [name for name in left if name not in grouped]))
        for title, names in groups:
            found = [(name, left[name]) for name in names if name in left]
            rows = [(name, each.get_short_help_str(_SUMMARY_MAX)) for name, each in found if each]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands; see click.Group."""
        for module in _MODULES:
            self._load(module)
        return super().list_commands(ctx)

    def _load(self, module: str) -> None:
        for found in import_module(f"{__name__}.{module}").COMMANDS:
            self.add_command(found)


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from graft_vfs.reports import Versions  # noqa: PLC0415 - for start-up

        echo(str(Versions.current()))
        context.exit()


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings=CONTEXT_SETTINGS,
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

    A tag names a database on this machine. Configure graft in graft.toml or with GRAFT_… variables;
    without either, databases are local. `graft doctor` checks the set-up, and `graft help` lists
    the pages of the manual.
    """
    if context.invoked_subcommand is None:
        echo(context.get_help())


__all__ = ["main"]
