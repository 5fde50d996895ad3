"""Commands about tags and volumes on this machine; none of them sends a request."""

from __future__ import annotations

from dataclasses import dataclass

import click

from graft_vfs.cli.completion import complete_branches, complete_tags
from graft_vfs.cli.group import command
from graft_vfs.cli.output import echo, emit, emit_list, json_option, without_credentials
from graft_vfs.cli.session import (
    TAG,
    force_option,
    opened,
    refuse_existing,
    tag_argument,
)
from graft_vfs.cli.table import screen_width, table
from graft_vfs.engine.status import VolumeStatus
from graft_vfs.errors import UsageError
from graft_vfs.ids import VolumeId
from graft_vfs.reports import age_text
from graft_vfs.sqlite_format.header import HEADER_BYTES

_MAKE = "make one with `graft new TAG`, `graft import FILE TAG` or `graft clone REF`"


@dataclass(frozen=True, slots=True)
class _Removed:
    """A removed tag, and its volume."""

    tag: str
    volume: VolumeId

    def __str__(self) -> str:
        return f"Removed tag {self.tag}; volume {self.volume} stays."


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The newest snapshot of a volume, as ranges of logs."""

    tag: str
    snapshot: str

    def __str__(self) -> str:
        return self.snapshot


@command("new", "graft new main")
@tag_argument
@force_option
@json_option
def new(tag: str, force: bool, as_json: bool) -> None:
    """Create an empty volume with the tag TAG."""
    _new(tag, force=force, as_json=as_json)


@command("init", "graft init main")
@tag_argument
@force_option
@json_option
def init(tag: str, force: bool, as_json: bool) -> None:
    """Do the same as `graft new`, under the name that git users expect.

    No set-up is needed; `graft config --template` prints a graft.toml to start from.
    """
    _new(tag, force=force, as_json=as_json)


def _new(tag: str, *, force: bool, as_json: bool) -> None:
    with opened() as engine:
        refuse_existing(engine, tag, force=force)
        emit(engine.new(tag), as_json=as_json)


@command(
    "switch",
    "graft switch main 74ggc1B6R4-2kkvcy9fi4CHJ",
    "graft switch main 5rMJkf2zHE-2xMqqKcN8RLZh",
)
@tag_argument
@click.argument("spec", metavar="BRANCH|VOLUME", shell_complete=complete_branches)
@json_option
def switch(tag: str, spec: str, as_json: bool) -> None:
    """Go back to a kept branch of TAG, or point TAG at a volume by its id.

    BRANCH is an id from `graft branches`, or its beginning. What TAG has is kept as a branch in
    turn, if it has unpushed commits. A VOLUME, which may be VOLUME[:LOCAL[:REMOTE]], is created if
    it does not exist; TAG's previous volume stays.
    """
    with opened() as engine:
        emit(engine.switch(tag, spec), as_json=as_json)


@command("fork", "graft fork main experiment", "graft fork main")
@tag_argument
@click.argument("new_tag", type=TAG, required=False)
@force_option
@json_option
def fork(tag: str, new_tag: str | None, force: bool, as_json: bool) -> None:
    """Create a volume with the same content and a new log.

    Its tag is NEW_TAG; without one, TAG itself moves to the fork.
    """
    with opened() as engine:
        if new_tag is not None and new_tag != tag:
            refuse_existing(engine, new_tag, force=force)
        emit(engine.fork(tag, new_tag=new_tag), as_json=as_json)


@command("rm", "graft rm main")
@tag_argument
@json_option
def rm(tag: str, as_json: bool) -> None:
    """Remove TAG; the volume stays, and `graft switch` tags it again."""
    with opened() as engine:
        volume = engine.catalog.tag_volume(tag)
        if volume is None:
            raise engine.catalog.no_tag(tag)
        engine.remove_tag(tag)
        emit(_Removed(tag, volume), as_json=as_json)


@command("tags", "graft tags", "graft tags --json")
@json_option
def tags(as_json: bool) -> None:
    """List the tags and the volumes that they name."""
    with opened() as engine:
        emit_list(engine.tags(), as_json=as_json, if_empty=f"there is no tag yet; {_MAKE}")


@command("volumes", "graft volumes")
@json_option
def volumes(as_json: bool) -> None:
    """List all volumes, including those without a tag."""
    with opened() as engine:
        emit_list(engine.volumes(), as_json=as_json, if_empty=f"there is no volume yet; {_MAKE}")


@command("status", "graft status", "graft status main", "graft status --json")
@click.argument("tag", type=TAG, shell_complete=complete_tags, required=False)
@json_option
def status(tag: str | None, as_json: bool) -> None:
    """Report how a volume, or all of them, relate to their remote logs.

    Without TAG, the volumes with a tag are a table; others are counted below it.

    CHECKED is when the remote last answered a sync, MOVED when a sync last changed the volume's
    base. No request is sent: the number of commits behind is as of CHECKED.
    """
    with opened() as engine:
        if tag is not None:
            emit(engine.status(tag), as_json=as_json)
            return
        found = engine.statuses()
        if as_json:
            emit(found, as_json=True)
        elif not found:
            echo(f"hint: there is no volume yet; {_MAKE}", err=True)
        else:
            _show_statuses(found)


def _show_statuses(statuses: list[VolumeStatus]) -> None:
    found = [each for each in statuses if each.tags]
    # Nothing syncs these, so whether they have diverged is of no concern.
    untagged = [each for each in statuses if not each.tags]
    rows = [
        (
            _name(each),
            each.state.text(ahead=each.ahead or 0, behind=each.behind or 0),
            _age(each.last_checked_ms),
            _age(each.last_moved_ms),
        )
        for each in found
    ]
    for line in table(("TAG", "STATE", "CHECKED", "MOVED"), rows, screen_width()):
        echo(line)
    if untagged:
        ahead = sum(1 for each in untagged if each.ahead or each.problem is not None)
        echo(
            f"{len(untagged)} without a tag, of which {ahead} may have unpushed commits; "
            "`graft volumes` lists all, `graft gc --local` removes those that were pushed"
        )
    for each in found:
        if each.problem is not None:
            echo(f"{_name(each)}: {each.problem}")
        if each.last_error is not None:
            echo(f"{_name(each)}: the last sync failed: {without_credentials(each.last_error)}")


def _name(status: VolumeStatus) -> str:
    return ", ".join(status.tags) or f"({status.volume})"


def _age(time_ms: int | None) -> str:
    return "-" if time_ms is None else age_text(time_ms)


@command("info", "graft info main")
@tag_argument
@json_option
def info(tag: str, as_json: bool) -> None:
    """Describe a volume: ids, last sync, snapshot, size."""
    with opened() as engine:
        emit(engine.info(tag), as_json=as_json, whole_ids=True)


@command("snapshot", "graft snapshot main")
@tag_argument
@json_option
def snapshot(tag: str, as_json: bool) -> None:
    """Print the logs and LSNs of the newest snapshot."""
    with opened() as engine:
        emit(_Snapshot(tag, engine.info(tag).snapshot), as_json=as_json)


@command("dump-header", "graft dump-header main")
@tag_argument
@json_option
def dump_header(tag: str, as_json: bool) -> None:
    """Print the first 100 bytes of the database in hexadecimal."""
    with opened() as engine:
        volume = engine.open(tag)
        if as_json:
            image = volume.begin().read(1)[:HEADER_BYTES] if volume.begin().page_count else b""
            emit({"tag": tag, "header": image}, as_json=True)
        else:
            echo(engine.dump_header(volume))


@command("gc", "graft gc main --dry-run", "graft gc main", "graft gc --local")
@click.argument("tag", type=TAG, required=False, shell_complete=complete_tags)
@click.option("--local", "is_local", is_flag=True, help="Remove what this machine does not need.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@click.option(
    "--force",
    "forced",
    multiple=True,
    metavar="VOLUME",
    help="Remove this volume even if it has unpushed commits or cannot be read.",
)
@json_option
def gc(
    tag: str | None, *, is_local: bool, dry_run: bool, forced: tuple[str, ...], as_json: bool
) -> None:
    """Delete what is not kept: commits of the log of TAG, or --local what no volume needs.

    With TAG, commits are deleted that the log's retention has closed, and others are closed; see
    `graft retention` and `graft expire`. This may be ended at any time, and run on several machines
    at once; run it from cron.

    With --local, volumes that no tag names are removed. A volume that a process has open, that has
    unpushed commits or kept branches, or that cannot be read, is kept, and the reason is given.
    Then go the remains of interrupted work, cached pages and known commits of logs that no volume
    needs, and dead space in branch files and in the catalog. Nothing on the remote is removed then.
    """
    if is_local == (tag is not None) or (forced and not is_local):
        raise UsageError(
            "`graft gc` takes either a TAG or --local, and --force only with --local",
            next_step="give the TAG whose remote log is meant, or --local for this machine",
        )
    if tag is not None:
        with opened() as engine:
            emit(engine.collect_remote(tag, dry_run=dry_run), as_json=as_json)
        return
    with opened() as engine:
        known = [row.id for row in engine.catalog.volumes()]
        force = [VolumeId.find(text, known) for text in forced]
        volumes = engine.collect_local(dry_run=dry_run, force=force)
        gone = [each.volume for each in volumes if each.kept_because is None]
        found = [*volumes, *engine.reclaim(dry_run=dry_run, besides=gone)]
        emit(found, as_json=as_json)
        if not found and not as_json:
            echo("There is nothing to remove: a tag names each volume, and no space is wasted.")


COMMANDS: tuple[click.Command, ...] = (
    new,
    init,
    switch,
    fork,
    rm,
    tags,
    volumes,
    status,
    info,
    snapshot,
    dump_header,
    gc,
)
