"""Commands that lead out of a loss: of the catalog, of a remote's commits."""

from __future__ import annotations

import click

from graft_vfs.cli.group import command
from graft_vfs.cli.output import echo, emit, json_option
from graft_vfs.cli.session import TAG, opened, refuse_existing
from graft_vfs.ids import VolumeId


@command("adopt", "graft adopt", "graft adopt 5rMJkf2zHE-2xMqqKcN8RLZh main")
@click.argument("volume", required=False)
@click.argument("tag", type=TAG, required=False)
@click.option("--base", metavar="LOG:LSN", help="What it stands on, if its files do not say.")
@json_option
def adopt(volume: str | None, tag: str | None, base: str | None, as_json: bool) -> None:
    """Take up a volume that the catalog has lost, with its commits.

    Without VOLUME, list those that are there. Without TAG, the volume gets the tags that it
    remembers, as far as they are free.
    """
    with opened(recovering=True) as engine:
        if volume is None:
            lost = engine.lost_volumes()
            emit(lost, as_json=as_json)
            if not lost and not as_json:
                echo("The catalog knows every volume as it is.")
            return
        volume_id = VolumeId.parse(volume)
        if tag is not None and engine.catalog.tag_volume(tag) != volume_id:
            refuse_existing(engine, tag, force=False)
        emit(engine.adopt(volume_id, tag, base=base), as_json=as_json)


COMMANDS: tuple[click.Command, ...] = (adopt,)
