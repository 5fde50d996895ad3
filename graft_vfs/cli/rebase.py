"""The command that merges local commits onto those of the remote, and its conflicts as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import click

from graft_vfs.cli.exit_codes import EXIT_CODES
from graft_vfs.cli.group import command
from graft_vfs.cli.output import echo, emit, json_option
from graft_vfs.cli.progress import progress
from graft_vfs.cli.rows import json_value, value_text
from graft_vfs.cli.session import opened, tag_argument
from graft_vfs.errors import ConflictError
from graft_vfs.merge.conflicts import Conflict, Conflicting, Merged, RowConflict

_SHOWN_MAX = 20


@command(
    "rebase",
    "graft rebase main --dry-run",
    "graft rebase main",
    "graft rebase main --policy renumber",
)
@tag_argument
@click.option(
    "--policy",
    type=click.Choice(["abort", "ours", "theirs", "renumber"]),
    default="abort",
    help="Which side wins a conflict; renumber gives new rows of ours a fresh key.",
)
@click.option(
    "--granularity",
    type=click.Choice(["cell", "row", "table"]),
    default="cell",
    help="What only one side may change without a conflict.",
)
@click.option(
    "--coincident",
    type=click.Choice(["merge", "conflict"]),
    default="merge",
    help="What equal changes of both sides are.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Fetch, and show what it would do.")
@json_option
@click.pass_context
def rebase(
    context: click.Context,
    *,
    tag: str,
    policy: str,
    granularity: str,
    coincident: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Pull, and merge local commits row by row if the volume and the remote have diverged.

    Ours is what TAG has committed, theirs what the remote has: what ours changed since both were
    the same is applied to theirs, as one local commit. The former commits stay as a kept branch;
    `graft branches` lists it. `graft push` then publishes the new commit.

    If both sides changed the same cell, row or object, nothing is moved, all conflicts are listed,
    and the exit code is 5. A broken CHECK or foreign key, or statements of the schema that do not
    fit, stop every policy. `graft help two-writers` says what a merge cannot know.
    """
    with opened() as engine:
        with progress("Reading commits", engine) as show:
            done = engine.rebase(
                tag,
                policy=policy,
                granularity=granularity,
                coincident=coincident,
                dry_run=dry_run,
                progress=show,
            )
        if isinstance(done, Conflicting):
            _emit_conflicts(done, as_json=as_json)
            context.exit(EXIT_CODES[ConflictError])
        if dry_run and isinstance(done, Merged) and not as_json:
            echo(f"A rebase of {tag} would have no conflicts.")
        emit(_json(done) if as_json else done, as_json=as_json)


def _emit_conflicts(found: Conflicting, *, as_json: bool) -> None:
    if as_json:
        emit(_json(found), as_json=True)
        return
    count = found.conflict_count
    echo(f"Nothing was moved: {count} conflict{'' if count == 1 else 's'}.")
    shown = found.conflicts[:_SHOWN_MAX]
    for conflict in shown:
        for line in _lines(conflict):
            echo(line)
    if count > len(shown):
        echo(f"and {count - len(shown)} more, see --json")


def _lines(conflict: Conflict) -> Iterator[str]:
    """Yield a conflict, and what base, ours and theirs have."""
    sides = (("base", conflict.base), ("ours", conflict.ours), ("theirs", conflict.theirs))
    if not isinstance(conflict, RowConflict):
        yield str(conflict)
        for side, statement in sides:
            if statement is not None:
                yield f"  {side:<6}  {' '.join(str(statement).split())}"
        return
    key = ", ".join(f"{name}={value_text(value)}" for name, value in conflict.key.items())
    detail = f": {conflict.detail}" if conflict.detail else ""
    yield f"{conflict.kind.value} of {conflict.table}({key}){detail}"
    for side, row in sides:
        if isinstance(row, dict):
            names = [name for name in conflict.columns or row if name in row]
            cells = ", ".join(f"{name}={value_text(row[name])}" for name in names)
            yield f"  {side:<6}  {cells}"


def _json(value: Any) -> Any:
    """Return a report with the values of rows as JSON has them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _json(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {name: json_value(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return [_json(each) for each in value]
    return value


COMMANDS: tuple[click.Command, ...] = (rebase,)
