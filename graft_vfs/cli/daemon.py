"""`graft sync`: every database of this machine, once or every few seconds."""

from __future__ import annotations

import re
from collections.abc import Callable

import click

from graft_vfs.cli.completion import complete_tags
from graft_vfs.cli.group import command
from graft_vfs.cli.session import TAG
from graft_vfs.engine.config import AUTOSYNC_SECONDS_MAX
from graft_vfs.errors import UsageError

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(s|m|h|)", re.ASCII)
_UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


def _seconds(least: float) -> Callable[[str], float]:
    """Return a reader of a duration, such as 5s, 2m or 1h; a number alone is seconds."""

    def convert(text: str) -> float:
        found = _DURATION.fullmatch(text)
        seconds = float(found[1]) * _UNIT_SECONDS[found[2]] if found else -1.0
        if not least <= seconds <= AUTOSYNC_SECONDS_MAX:
            raise UsageError(
                f"{text!r} is not a duration from {least:g} to {AUTOSYNC_SECONDS_MAX} seconds",
                next_step="write a number with s, m or h, such as 5s",
            )
        return seconds

    return convert


@command(
    "sync",
    "graft sync",
    "graft sync --every 5s --metrics :9090",
    "graft sync shop users --push-only --json",
)
@click.argument("tags", metavar="[TAG]...", nargs=-1, type=TAG, shell_complete=complete_tags)
@click.option(
    "--all",
    "is_all",
    is_flag=True,
    help="Sync the volumes of all tags; this is the default without TAG.",
)
@click.option(
    "--every",
    metavar="DURATION",
    type=_seconds(1),
    help="Run until a signal ends it, syncing each volume at this interval, such as 5s.",
)
@click.option(
    "--push-only",
    is_flag=True,
    help="Never pull: a volume without new commits costs no request.",
)
@click.option(
    "--metrics",
    metavar="[HOST]:PORT",
    help="Serve Prometheus metrics at /metrics; without HOST, only on this machine.",
)
@click.option(
    "--heartbeat",
    metavar="URL",
    help="Send a GET request each time all volumes have been found in sync.",
)
@click.option(
    "--grace",
    metavar="DURATION",
    type=_seconds(0),
    default="10s",
    show_default=True,
    help="How long to push what remains after SIGTERM or Ctrl-C; a second signal ends it.",
)
@click.option("--json", "as_json", is_flag=True, help="Write events as JSON, one object per line.")
def sync(
    *,
    tags: tuple[str, ...],
    is_all: bool,
    every: float | None,
    push_only: bool,
    metrics: str | None,
    heartbeat: str | None,
    grace: float,
    as_json: bool,
) -> int:
    """Push local commits and pull new ones, for all volumes with a tag.

    Without --every, this happens once. Each event is one line; nothing is written if nothing
    happens. The exit code is 0 if all volumes are in sync.
    """
    if is_all and tags:
        raise UsageError("--all and tags exclude each other", next_step="leave out one of them")
    if every is None and metrics is not None:
        raise UsageError("--metrics needs a daemon", next_step="add --every, such as --every 5s")
    from graft_vfs.cli.daemon_run import Run, run  # noqa: PLC0415 - for start-up

    return run(Run(tags, every, push_only, metrics, heartbeat, grace, as_json))


COMMANDS: tuple[click.Command, ...] = (sync,)
