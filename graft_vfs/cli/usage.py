"""The command that says where bytes are, on this machine and on remotes."""

from __future__ import annotations

import click

from graft_vfs.cli.completion import complete_tags
from graft_vfs.cli.group import command
from graft_vfs.cli.output import echo, emit, json_option
from graft_vfs.cli.session import TAG, opened
from graft_vfs.cli.table import screen_width, table
from graft_vfs.errors import UsageError
from graft_vfs.maintenance.disk_usage import DiskUsage
from graft_vfs.maintenance.remote_usage import LogUsage, RemoteUsage
from graft_vfs.reports import age_text, size_text

_SIZES = "ALIVE", "DEAD", "CACHE", "OTHER", "TOTAL"


@command("du", "graft du", "graft du main --remote", "graft du --all --remote --json")
@click.argument("tag", type=TAG, shell_complete=complete_tags, required=False)
@click.option("--remote", "is_remote", is_flag=True, help="Report objects on remotes instead.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="With --remote: all logs there, not only those in use.",
)
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="With --remote: how many commits to list of each log.",
)
@json_option
def du(tag: str | None, *, is_remote: bool, everything: bool, limit: int, as_json: bool) -> None:
    """Report where bytes are; without TAG, for all volumes.

    On disk, ALIVE are the newest images of pages in local commits, DEAD the rest of the branch
    files, which `graft gc --local` takes back, and CACHE are pages of the remote. No request.

    With --remote, objects of each log are counted, and its largest commits are listed. Of a
    commit's pages, LIVE are not superseded by a later commit. One request per 1000 objects.
    """
    if everything and (tag is not None or not is_remote):
        raise UsageError(
            "--all is for all logs on the remotes", next_step="use it with --remote, without TAG"
        )
    with opened() as engine:
        if is_remote:
            found = engine.remote_usage(tag, everything=everything, limit=limit)
            if as_json:
                emit(found, as_json=True)
            for each in () if as_json else found:
                _show_remote(each)
        else:
            usage = engine.disk_usage(tag)
            if as_json:
                emit(usage, as_json=True)
            else:
                _show_disk(usage)


def _show_disk(usage: DiskUsage) -> None:
    rows = []
    for each in usage.volumes:
        branch = (each.alive_bytes or 0) + (each.dead_bytes or 0)
        other = max(0, each.total_bytes - branch - each.cache_bytes)
        sizes = (each.alive_bytes, each.dead_bytes, each.cache_bytes, other, each.total_bytes)
        rows.append((each.name, *("?" if size is None else size_text(size) for size in sizes)))
    if usage.catalog_bytes is not None and usage.rest_bytes is not None:
        rows.append(("(catalog)", "", "", "", "", size_text(usage.catalog_bytes)))
        rows.append(("(rest)", "", "", "", "", size_text(usage.rest_bytes)))
        rows.append(("total", "", "", "", "", size_text(usage.total_bytes)))
    for line in table(("TAG", *_SIZES), rows, screen_width()):
        echo(line)
    for each in usage.volumes:
        if each.kept_bytes:
            echo(f"{each.name}: OTHER has {size_text(each.kept_bytes)} of kept branches")
        if each.problem is not None:
            echo(f"{each.name}: {each.problem}")


def _show_remote(usage: RemoteUsage) -> None:
    for log in usage.logs:
        _show_log(log, usage.remote)
        echo("")
    if usage.unnamed.objects:
        echo(
            f"{usage.unnamed} on {usage.remote}, which no commit or table has that is known here: "
            "of what was not fetched or was compacted, or of pushes that run or have failed."
        )


def _show_log(log: LogUsage, remote: str) -> None:
    echo(f"{', '.join(log.tags) or 'no tag'}: log {log.log} on {remote}")
    rows = [(each.kind, str(each.objects), size_text(each.total_bytes)) for each in log.kinds]
    rows = [row for row in rows if row[1] != "0"]
    if not rows:
        echo("  nothing is there yet")
        return
    rows.append(("total", "", size_text(log.total_bytes)))
    for line in table(("KIND", "OBJECTS", "BYTES"), rows, screen_width()):
        echo(f"  {line}")
    if log.known_lsn:
        echo(
            f"  About {size_text(log.live_bytes)} are live at LSN {log.known_lsn}, and "
            f"{size_text(log.superseded_bytes)} superseded."
        )
    echo("")
    commits = [
        (
            str(each.lsn),
            size_text(each.total_bytes),
            "?" if each.pages is None else str(each.pages),
            "?" if each.live_pages is None else str(each.live_pages),
            "?" if each.time_ms is None else age_text(each.time_ms),
        )
        for each in log.commits
    ]
    for line in table(("LSN", "BYTES", "PAGES", "LIVE", "PUSHED"), commits, screen_width()):
        echo(f"  {line}")
    if log.commit_count > len(log.commits):
        echo(f"  … and {log.commit_count - len(log.commits)} smaller commits")


COMMANDS: tuple[click.Command, ...] = (du,)
