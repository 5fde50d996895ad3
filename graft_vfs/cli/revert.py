"""The command that undoes what a commit changed."""

from __future__ import annotations

import click

from graft_vfs.cli.completion import complete_commits
from graft_vfs.cli.exit_codes import EXIT_CODES
from graft_vfs.cli.group import command
from graft_vfs.cli.output import emit, json_option
from graft_vfs.cli.session import opened, tag_argument
from graft_vfs.errors import ConflictError


@command(
    "revert",
    "graft revert main HEAD",
    "graft revert main 7 --dry-run",
    'graft revert main 5..7 -m "the import of May was wrong"',
)
@tag_argument
@click.argument("commit", metavar="COMMIT|A..B", shell_complete=complete_commits)
@click.option("-m", "--message", default="", metavar="TEXT", help="Say why; a push publishes it.")
@click.option("-n", "--dry-run", is_flag=True, help="Show what it would do, and all conflicts.")
@click.option("--force", is_flag=True, help="Undo a commit that is not pushed yet.")
@json_option
@click.pass_context
def revert(
    context: click.Context,
    *,
    tag: str,
    commit: str,
    message: str,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Undo what COMMIT changed in TAG, or all commits after A up to B, as one new commit on top.

    Later commits stay. The newest commit can always be undone; an older one row by row, if no later
    commit changed the same rows or tables again. Otherwise nothing is written, the exit code is 5,
    and --dry-run lists every conflict. `graft push` then publishes the new commit.

    Without -m, the commit says what was reverted. Nothing of the remote is lost, and the report
    names the commit to go back to. A commit that is not pushed yet needs --force, because a push
    would combine it with its revert. `graft help history` says more.
    """
    with opened() as engine:
        done = engine.revert(tag, commit, force=force, dry_run=dry_run, message=message)
        emit(done, as_json=as_json)
    if done.conflict_count:
        context.exit(EXIT_CODES[ConflictError])


COMMANDS: tuple[click.Command, ...] = (revert,)
