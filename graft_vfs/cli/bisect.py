"""The command that finds the first commit for which a query is false."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from graft_vfs.cli.completion import complete_commits
from graft_vfs.cli.group import command
from graft_vfs.cli.output import emit, json_option
from graft_vfs.cli.session import opened, tag_argument

if TYPE_CHECKING:
    from graft_vfs.history.bisect import BisectStep


@command(
    "bisect",
    'graft bisect main "SELECT count(*) > 0 FROM prices"',
    'graft bisect main "SELECT sum(amount) = 0 FROM ledger" --good v1.0',
    "graft bisect main \"SELECT integrity_check = 'ok' FROM pragma_integrity_check\"",
)
@tag_argument
@click.argument("sql")
@click.option(
    "--good",
    metavar="COMMIT",
    shell_complete=complete_commits,
    help="A commit for which SQL is true; by default one is looked for.",
)
@click.option(
    "--bad",
    metavar="COMMIT",
    shell_complete=complete_commits,
    help="A later commit for which it is false; by default HEAD.",
)
@json_option
def bisect(tag: str, *, sql: str, good: str | None, bad: str | None, as_json: bool) -> None:
    """Find the first commit of TAG for which SQL is no longer true, by binary search.

    SQL is one query that should be true: it is false if the first column of its first row is 0 or
    NULL, if there is no row, and if it fails. It is asked on read-only snapshots, about log2 of the
    number of commits, and each is printed. Pages that are not cached are fetched.

    Commits are given as for `graft show`. Without --good, commits before the bad one are tried in
    distances that double. The commit that is found is the first one if the query was true for all
    commits before it and false for all after it.
    """

    def show(step: BisectStep) -> None:
        if not as_json:
            emit(step, as_json=False)

    with opened() as engine:
        found = engine.bisect(tag, sql, good=good, bad=bad, step=show)
        emit(found, as_json=as_json)


COMMANDS: tuple[click.Command, ...] = (bisect,)
