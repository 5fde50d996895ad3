"""The command that gives names to commits; `graft tags` lists the tags of this machine instead."""

from __future__ import annotations

import shlex

import click

from graft_vfs.cli.completion import complete_commits
from graft_vfs.cli.group import command
from graft_vfs.cli.output import emit, emit_list, json_option
from graft_vfs.cli.session import opened, tag_argument
from graft_vfs.errors import UsageError
from graft_vfs.history.commit_names import NameReport


@command(
    "tag",
    "graft tag main",
    'graft tag main v1.0 -m "before the migration"',
    "graft tag main before HEAD~2",
    "graft tag main v1.0 --delete",
)
@tag_argument
@click.argument("name", required=False)
@click.argument("commit", required=False, shell_complete=complete_commits)
@click.option("-m", "--message", default="", metavar="TEXT", help="Say what the commit is.")
@click.option("-d", "--delete", is_flag=True, help="Remove NAME from the remote.")
@json_option
def tag(
    tag: str, *, name: str | None, commit: str | None, message: str, delete: bool, as_json: bool
) -> None:
    """Give a commit of TAG a name, or list the names without NAME.

    A name is kept on the remote: every machine finds the commit by it, and it is never moved.
    COMMIT is given as for `graft show`, by default HEAD; the remote must have it, so push first.
    With --delete the name is removed, and the commit stays; machines that saw the name know it
    until they list the names.
    """
    if delete and (name is None or commit is not None or message):
        raise UsageError("--delete takes TAG and NAME only", next_step="leave the rest out")
    if name is None and message:
        raise UsageError("a message needs a NAME", next_step="write it before -m")
    with opened() as engine:
        if name is None:
            quoted = shlex.quote(tag)
            step = f"no commit of {tag!r} has a name; `graft tag {quoted} NAME` names the newest"
            emit_list(engine.names(tag), as_json=as_json, if_empty=step)
        elif delete:
            _emit(engine.remove_name(tag, name), "Removed the name {0.name} of", as_json=as_json)
        else:
            given = engine.name(tag, name, commit or "HEAD", message=message)
            _emit(given, "Gave the name {0.name} to", as_json=as_json)


def _emit(report: NameReport, verb: str, *, as_json: bool) -> None:
    done = verb.format(report)
    emit(report if as_json else f"{done} LSN {report.lsn} of log {report.log}.", as_json=as_json)


COMMANDS: tuple[click.Command, ...] = (tag,)
