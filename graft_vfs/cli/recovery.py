"""Commands that recover from a loss of the catalog or of a remote's commits."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import click

from graft_vfs.cli.exit_codes import EXIT_CODES
from graft_vfs.cli.group import command
from graft_vfs.cli.output import echo, emit, json_option
from graft_vfs.cli.progress import progress
from graft_vfs.cli.session import TAG, opened
from graft_vfs.errors import AlreadyExistsError, DamageError, UsageError
from graft_vfs.ids import VolumeId
from graft_vfs.reports import LostVolume


@command("adopt", "graft adopt", "graft adopt 5rMJkf2zHE-2xMqqKcN8RLZh main")
@click.argument("volume", required=False)
@click.argument("tag", type=TAG, required=False)
@click.option(
    "--base",
    metavar="LOG:LSN",
    help="The remote commit it is based on, if its files do not record it.",
)
@json_option
def adopt(volume: str | None, tag: str | None, base: str | None, as_json: bool) -> None:
    """Adopt a volume that the catalog has lost, with its commits.

    Without VOLUME, list the lost volumes. Without TAG, the volume gets the free tags that its files
    record.
    """
    if base is not None and volume is None:
        raise UsageError("--base needs VOLUME", next_step="see `graft adopt`")
    with opened(recovering=True) as engine:
        if volume is None:
            lost = engine.lost_volumes()
            emit(lost, as_json=as_json)
            if not as_json:
                echo(_adopt_step(lost))
            return
        known = {row.id for row in engine.catalog.volumes()}
        known |= {each.volume for each in engine.lost_volumes()}
        volume_id = VolumeId.find(volume, known)
        if tag is not None and engine.catalog.tag_volume(tag) not in {None, volume_id}:
            raise AlreadyExistsError(
                f"tag {tag!r} names volume {engine.catalog.tag_volume(tag)}",
                next_step="adopt the volume under another tag; "
                f"`graft switch {shlex.quote(tag)} {volume_id}` then also points this tag at it",
            )
        emit(engine.adopt(volume_id, tag, base=base), as_json=as_json)


def _adopt_step(lost: Sequence[LostVolume]) -> str:
    """Return the next command after a list of lost volumes."""
    if not lost:
        return "The catalog knows every volume as it is."
    tag = "" if lost[0].is_known or lost[0].tags else " TAG"
    return f"  (use `graft adopt {lost[0].volume}{tag}` to adopt the first)"


@command("fsck", "graft fsck", "graft fsck main --deep --history", "graft fsck main --repair")
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--deep", is_flag=True, help="Read and verify every frame of the remote.")
@click.option("--history", is_flag=True, help="Compare tables with the commits they are made of.")
@click.option(
    "--repair",
    is_flag=True,
    help="Rewrite missing or damaged objects from local data.",
)
@json_option
@click.pass_context
def fsck(
    context: click.Context,
    name: str | None,
    *,
    deep: bool,
    history: bool,
    repair: bool,
    as_json: bool,
) -> None:
    """Verify remote logs and local volumes, and list possible repairs.

    NAME is a tag, a ref or a log id. Without it, all logs that local volumes are based on and all
    refs are verified: the chain of commits, gaps, segments, forks, tables, refs, and with --deep
    every frame. With --history, tables are compared with the commits, which reads all of these.
    Lists the missing and damaged commits, segments and tables that this machine can rewrite; with
    --repair, rewrites them. A valid commit or ref is never changed. Exits with 8 if a problem
    remains.
    """
    with opened(recovering=True) as engine:
        with progress("Verifying commits") as show:
            found = engine.fsck(name, deep=deep, history=history, repair=repair, progress=show)
        emit(found, as_json=as_json)
    if not found.is_sound:
        context.exit(EXIT_CODES[DamageError])


COMMANDS: tuple[click.Command, ...] = (adopt, fsck)
