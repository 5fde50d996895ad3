"""Commands about which commits of a remote log are kept."""

from __future__ import annotations

import click

from graft_vfs.cli.group import command
from graft_vfs.cli.output import emit, json_option
from graft_vfs.cli.session import opened, tag_argument
from graft_vfs.errors import UsageError
from graft_vfs.times import parse_duration

_COUNT = click.IntRange(min=1)


@command(
    "retention",
    "graft retention main",
    "graft retention main --keep-last 10 --keep-within 30d",
    "graft retention main --keep-daily 14 --keep-monthly 12 --grace 24h",
)
@tag_argument
@click.option("--keep-last", type=_COUNT, help="Keep so many of the newest commits.")
@click.option("--keep-within", type=parse_duration, help="Keep what is younger, such as 30d.")
@click.option("--keep-hourly", type=_COUNT, help="Keep the last commit of so many hours.")
@click.option("--keep-daily", type=_COUNT, help="Keep the last commit of so many days.")
@click.option("--keep-weekly", type=_COUNT, help="Keep the last commit of so many weeks.")
@click.option("--keep-monthly", type=_COUNT, help="Keep the last commit of so many months.")
@click.option("--keep-yearly", type=_COUNT, help="Keep the last commit of so many years.")
@click.option(
    "--grace", type=parse_duration, help="How long others wait, by default 24h; 1h at least."
)
@json_option
def retention(tag: str, *, grace: int | None, as_json: bool, **keep: int | None) -> None:
    """Show or set which commits of the remote log are kept.

    Without an option, it is shown. Otherwise the options given are all that counts: a commit is
    kept if one of them keeps it. The newest commit, and those with a name, a pin or a fork, are
    always kept. `graft expire` shows what follows from it; only `graft gc TAG` deletes.

    The first time, a commit is pushed that switches retention on for good. Versions of graft that
    do not know it refuse the log then. What the log has by then stays in it. A machine that stays
    away for longer than the grace period may have to clone again, and local commits that it has not
    pushed by then have diverged.
    """
    given = {name.removeprefix("keep_"): number or 0 for name, number in keep.items()}
    with opened() as engine:
        if not any(given.values()):
            if grace is not None:
                raise UsageError("--grace needs a policy", next_step="say what to keep, too")
            emit(engine.retention(tag), as_json=as_json)
            return
        given["within_seconds"] = given.pop("within")
        emit(engine.set_retention(tag, **given, grace_seconds=grace), as_json=as_json)


@command("expire", "graft expire main", "graft expire main --json")
@tag_argument
@json_option
def expire(tag: str, as_json: bool) -> None:
    """Show what the retention of the remote log does to each commit, and why.

    A commit is kept, open until it is old enough, closing with the next `graft gc TAG`, closed
    until the grace period is over, or due. Nothing is changed.
    """
    with opened() as engine:
        emit(engine.expire(tag), as_json=as_json)


COMMANDS: tuple[click.Command, ...] = (retention, expire)
