"""The command `maintain`."""

from __future__ import annotations

import click

import graft_vfs
from graft_vfs.cli.group import command
from graft_vfs.cli.output import emit, emit_list, json_option
from graft_vfs.cli.progress import progress
from graft_vfs.cli.session import TAG, opened
from graft_vfs.errors import UsageError
from graft_vfs.ids import LogId


@command("maintain", "graft maintain main", "graft maintain --all", "graft maintain main --dry-run")
@click.argument("tag", type=TAG, required=False)
@click.option("--all", "every", is_flag=True, help="Maintain the logs of all tags.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and write nothing.")
@json_option
def maintain(tag: str | None, every: bool, dry_run: bool, as_json: bool) -> None:
    """Compact TAG's remote log, so that reading it stays cheap.

    After many pushes, the pages of a database are in as many objects. This writes those of small
    objects, and of those that are mostly superseded, together into new ones. Readers need not stop,
    and nothing is deleted. It is good to run after some hundred pushes, for example from cron;
    autosync does it by itself, with up to 64 MiB at once.
    """
    if (tag is not None) == every:
        raise UsageError("give a tag or --all", next_step="see `graft maintain --help`")
    with opened() as engine:
        tags = [tag] if tag is not None else _one_for_each_log(engine)
        done = []
        for each in tags:
            with progress("Compacting pages", engine) as show:
                done.append(engine.maintain(each, dry_run=dry_run, progress=show))
        if tag is not None:
            emit(done[0], as_json=as_json)
        else:
            emit_list(done, as_json=as_json, if_empty="No tag has a remote log with commits.")


def _one_for_each_log(engine: graft_vfs.Graft) -> list[str]:
    """Return the tags whose logs have commits, one of each log."""
    found: dict[LogId, str] = {}
    for each in engine.tags():
        log_id = engine.catalog.volume(each.volume).remote
        if engine.catalog.newest_commit(log_id)[0]:
            found.setdefault(log_id, each.tag)
    return list(found.values())


COMMANDS: tuple[click.Command, ...] = (maintain,)
