"""Commands about the branches of a volume: the current one, and those that are kept."""

from __future__ import annotations

import click

from graft_vfs.cli.completion import complete_branches
from graft_vfs.cli.group import CONTEXT_SETTINGS, command
from graft_vfs.cli.output import echo, emit, emit_list, json_option
from graft_vfs.cli.session import opened, tag_argument


@command("branches", "graft branches main")
@tag_argument
@json_option
def branches(tag: str, as_json: bool) -> None:
    """List the branches of TAG: the current one, then those that are kept.

    A branch is kept when TAG leaves unpushed commits: by `graft pull --strategy reset`, `graft
    restore` or `graft switch`. Read one with `branch:ID` as a commit, as in `graft diff TAG
    branch:ID..HEAD`.
    """
    with opened() as engine:
        emit_list(engine.branches(tag), as_json=as_json, if_empty="")


@click.group(
    "branch",
    invoke_without_command=True,
    context_settings=CONTEXT_SETTINGS,
    epilog="\b\nExample:\n  graft branch rm main 74ggc1B6R4-2kkvcy9fi4CHJ",
)
@click.pass_context
def branch(context: click.Context) -> None:
    """Remove kept branches; `graft branches TAG` lists them."""
    if context.invoked_subcommand is None:
        echo(context.get_help())


@command("rm", "graft branch rm main 74ggc1B6R4-2kkvcy9fi4CHJ")
@tag_argument
@click.argument("branch", shell_complete=complete_branches)
@json_option
def remove(tag: str, branch: str, as_json: bool) -> None:
    """Remove a kept branch of TAG, with its commits, for good.

    Nothing else removes one. The disk space of its file is released when no branch is in it.
    """
    with opened() as engine:
        emit(engine.remove_branch(tag, branch), as_json=as_json)


branch.add_command(remove)

COMMANDS: tuple[click.Command, ...] = (branches, branch)
