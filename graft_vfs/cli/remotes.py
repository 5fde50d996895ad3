"""The subcommands of `graft remote` about remotes that have a name on this machine."""

from __future__ import annotations

import click

from graft_vfs.cli.completion import complete_tags
from graft_vfs.cli.group import command
from graft_vfs.cli.output import emit, emit_list, json_option
from graft_vfs.cli.session import TAG, opened

_NONE = "no remote has a name here; `graft clone URL` and `graft remote add NAME URL` give one"


@command("show", "graft remote show")
@json_option
def show(as_json: bool) -> None:
    """List the remotes that have a name here, their URLs, and how many logs live on each.

    Logs of volumes that are on none of them live on the configured remote.
    """
    with opened() as engine:
        emit_list(engine.named_remotes(), as_json=as_json, if_empty=_NONE)


@command(
    "add",
    "graft remote add backup s3://bucket/prefix",
    "graft remote add nas file:///mnt/nas/graft",
)
@click.argument("name")
@click.argument("url")
@json_option
def add(name: str, url: str, as_json: bool) -> None:
    """Give the remote at a URL a name, once it has answered."""
    with opened() as engine:
        emit(engine.add_remote(name, url), as_json=as_json)


@command("set-url", "graft remote set-url backup s3://new-bucket/prefix")
@click.argument("name")
@click.argument("url")
@json_option
def set_url(name: str, url: str, as_json: bool) -> None:
    """Say where a remote is now, after its objects were copied or moved there.

    Each log that lives on it must be there with the newest commit that this machine knows.
    """
    with opened() as engine:
        emit(engine.set_remote_url(name, url), as_json=as_json)


@command("move", "graft remote move main backup", "graft remote move main default")
@click.argument("tag", type=TAG, shell_complete=complete_tags)
@click.argument("remote", metavar="NAME|URL")
@json_option
def move(tag: str, remote: str, as_json: bool) -> None:
    """Have a volume sync with another remote; `default` is the configured one.

    A volume that was never pushed moves as it is. The log of another one must be there with the
    newest commit that this machine knows: copy the objects first.
    """
    with opened() as engine:
        emit(engine.move_remote(tag, remote), as_json=as_json)


SUBCOMMANDS: tuple[click.Command, ...] = (show, add, set_url, move)
