"""Commands about the commits of a volume: list, show, diff."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable

import click

from graft_vfs.cli import log as log_lines
from graft_vfs.cli import rows as row_lines
from graft_vfs.cli.completion import complete_commits
from graft_vfs.cli.group import command
from graft_vfs.cli.output import echo, echo_as_is, echo_note, emit, json_option
from graft_vfs.cli.progress import progress
from graft_vfs.cli.session import opened, tag_argument
from graft_vfs.cli.table import screen_width
from graft_vfs.errors import UsageError
from graft_vfs.history.rows import NotCompared, RowChange
from graft_vfs.reports import SchemaDiff


@command(
    "log",
    "graft log main",
    "graft log main --oneline --graph",
    "graft log main v1.0..HEAD --stat -n 5",
)
@tag_argument
@click.argument("commits", metavar="[COMMIT|A..B]", required=False, shell_complete=complete_commits)
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Show at most this many commits.")
@click.option("--oneline", is_flag=True, help="Show a commit in one line.")
@click.option("--graph", is_flag=True, help="Draw forks, and what was fetched and not pulled.")
@click.option("--stat", is_flag=True, help="Count the rows that each commit changed, by table.")
@json_option
def log(
    tag: str,
    *,
    commits: str | None,
    limit: int | None,
    oneline: bool,
    graph: bool,
    stat: bool,
    as_json: bool,
) -> None:
    """List commits, newest first: local ones, then those of the remote.

    HEAD is the newest commit of the volume, BASE the remote one that its local commits stand on;
    names that were given to a commit follow them. With COMMIT the list begins there; with A..B it
    has what B has and A has not. Commits are given as for `graft show`.

    --stat compares each commit with the one before it: pages that are not cached are fetched.
    Without it, nothing is.
    """
    if graph and as_json:
        raise UsageError("--graph excludes --json", next_step="give one of them")
    with (
        opened() as engine,
        contextlib.closing(
            engine.log_lines(tag, commits, graph=graph, stat=stat, limit=limit)
        ) as lines,
    ):
        if as_json:
            emit([line.entry for line in lines], as_json=True)
            return
        width = screen_width()
        shown = (
            log_lines.short_lines(lines, width)
            if oneline
            else log_lines.long_lines(lines, width, graph=graph)
        )
        is_empty = True
        for line in shown:
            is_empty = False
            echo(line)
        if is_empty:
            step = f"write to it, such as with `graft shell {shlex.quote(tag)}`"
            echo_note("hint", f"{tag!r} has no commit yet; {step}")


@command("show", "graft show main", "graft show main 7", "graft show main HEAD~2")
@tag_argument
@click.argument("commit", metavar="[COMMIT]", required=False, shell_complete=complete_commits)
@json_option
def show(tag: str, commit: str | None, as_json: bool) -> None:
    """Describe one commit: time, author, parent, pages, bytes, frames.

    COMMIT is HEAD (the default), HEAD~2, an LSN of the remote log, LOG:LSN, local:3 for an unpushed
    commit, or a time such as "2 hours ago". Ids may be shortened. `graft help history` explains all
    of these.
    """
    with opened() as engine:
        emit(engine.show(tag, commit), as_json=as_json, whole_ids=True)


@command(
    "diff",
    "graft diff main",
    "graft diff main 3..7",
    'graft diff main "2 hours ago" --rows',
    "graft diff main 3..7 --sql > patch.sql",
)
@tag_argument
@click.argument("older", metavar="[A]", required=False, shell_complete=complete_commits)
@click.argument("newer", metavar="[B]", required=False, shell_complete=complete_commits)
@click.option("--rows", is_flag=True, help="Show each changed row, before and after.")
@click.option("--sql", is_flag=True, help="Print SQL that turns a file of A into one of B.")
@json_option
def diff(
    tag: str, older: str | None, newer: str | None, *, rows: bool, sql: bool, as_json: bool
) -> None:
    """Show the changes from commit A to B: tables, and rows of each.

    A and B are commits as for `graft show`, and may be given as A..B. B defaults to HEAD, the
    volume with its local commits. Without both, show what a push would publish.

    Only changed pages and the interior pages of tables are read. If these do not show which rows
    changed, for example after long rows were overwritten in place, all rows are compared. Pages
    that are not cached are fetched. `graft help history` says more about the costs, and about
    --rows and --sql. With --rows --json, each change is a line of JSON.
    """
    if sql and (rows or as_json):
        raise UsageError("--sql excludes --rows and --json", next_step="give one of them")
    with opened() as engine:
        if sql:
            with contextlib.closing(engine.diff_sql(tag, older, newer)) as lines:
                for line in lines:
                    echo_as_is(line)
            return
        if rows:
            with contextlib.closing(engine.diff_rows(tag, older, newer)) as changes:
                _show_rows(changes, as_json=as_json)
            return
        with progress("Comparing key ranges", engine) as show_progress:
            found = engine.diff(tag, older, newer, progress=show_progress)
        emit(found, as_json=as_json)


def _show_rows(found: Iterable[SchemaDiff | RowChange | NotCompared], *, as_json: bool) -> None:
    if as_json:
        for item in found:
            echo(row_lines.json_line(item))
        return
    is_empty = True
    for line in row_lines.lines(found, screen_width()):
        is_empty = False
        echo(line)
    if is_empty:
        echo("hint: nothing changed in the schema or in the rows of a table", err=True)


COMMANDS: tuple[click.Command, ...] = (log, show, diff)
