"""`graft doctor`: checks the set-up and says in plain words what to do.

Each check answers with one line. A check that a failed one stands in the way of is left out, so
that one cause is one problem.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from graft_vfs.cli.group import command
from graft_vfs.cli.output import emit, json_option, without_credentials
from graft_vfs.config import Config, RemoteConfig, find_file
from graft_vfs.engine import Graft
from graft_vfs.errors import GraftError
from graft_vfs.ids import VolumeId
from graft_vfs.reports import size_text
from graft_vfs.store.base import ObjectStore
from graft_vfs.store.probe import check_conditional_writes

_FREE_BYTES_LOW = 1 << 30
_FREE_BYTES_MIN = 64 << 20


class Level(enum.Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at, what was found, and what to do."""

    name: str
    level: Level
    text: str
    next_step: str | None = None

    def __str__(self) -> str:
        step = f"; next: {self.next_step}" if self.next_step else ""
        return f"{self.level.value:<8} {self.name}: {self.text}{step}"


def run_checks(environment: Mapping[str, str] | None = None) -> Iterator[Check]:
    """Yield the results of all checks."""
    environment = os.environ if environment is None else environment
    yield _versions()
    try:
        config = Config.load(environment)
    except GraftError as error:
        yield _problem("configuration", error)
        return
    yield from _configuration(config, environment)
    directory = _data_directory(config.data_dir)
    yield directory
    if directory.level is not Level.PROBLEM:
        yield _disk_space(config.data_dir)
        if config.data_dir.exists():
            yield from _local(config)
    yield from _remote(config.remote)


def _problem(name: str, error: GraftError) -> Check:
    return Check(name, Level.PROBLEM, without_credentials(error.message), error.next_step)


def _versions() -> Check:
    return Check("versions", Level.OK, f"Python {platform.python_version()}, {Graft.versions()}")


def _configuration(config: Config, environment: Mapping[str, str]) -> Iterator[Check]:
    path = find_file(environment)
    source = str(path.absolute()) if path else "no graft.toml, only variables and defaults"
    yield Check("configuration", Level.OK, f"{source}; the data is in {config.data_dir.absolute()}")


def _data_directory(directory: Path) -> Check:
    """Check that the directory, or the nearest one above it that exists, takes files."""
    name = "data directory"
    existing = directory.absolute()
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Check(
            name,
            Level.PROBLEM,
            f"{existing} cannot be written: {error.strerror}",
            "correct its permissions, or set data_dir",
        )
    if existing != directory.absolute():
        return Check(name, Level.OK, f"{directory} is made when it is needed")
    return Check(name, Level.OK, f"{directory} can be written")


def _disk_space(directory: Path) -> Check:
    existing = directory.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    level, step = Level.OK, None
    if free < _FREE_BYTES_LOW:
        level, step = Level.WARNING, "make room, or set cache_max_bytes"
    if free < _FREE_BYTES_MIN:
        level = Level.PROBLEM
    return Check("disk space", level, f"{size_text(free)} free", step)


def _local(config: Config) -> Iterator[Check]:
    """Check catalog and volumes, without the remote and without hydrating."""
    local = dataclasses.replace(config, remote=RemoteConfig(), hydrate="lazy")
    try:
        with contextlib.closing(Graft(local)) as engine:
            volumes = [row.id for row in engine.catalog.volumes()]
            tags = engine.catalog.tags()
            yield Check("catalog", Level.OK, f"readable; {len(tags)} tags, {len(volumes)} volumes")
            yield from _volumes(engine, volumes)
    except GraftError as error:
        yield _problem("catalog", error)


def _volumes(engine: Graft, volumes: list[VolumeId]) -> Iterator[Check]:
    """Open every volume; a line for each that fails, or one for all."""
    failed = 0
    for volume in volumes:
        try:
            engine.volume(volume).begin()
        except GraftError as error:
            failed += 1
            yield _problem(f"volume {volume}", error)
    if volumes and not failed:
        yield Check("volumes", Level.OK, f"all {len(volumes)} open")


def _remote(remote: RemoteConfig) -> Iterator[Check]:
    if remote.type is None:
        yield Check(
            "remote",
            Level.OK,
            "none is configured, so that volumes stay on this machine",
            "to synchronise them, add a [remote] table to graft.toml",
        )
        return
    try:
        with remote.open() as store:
            yield from _store(store, remote)
    except GraftError as error:
        yield _problem("remote", error)


def _store(store: ObjectStore, remote: RemoteConfig) -> Iterator[Check]:
    list(store.list("refs/", limit=1))
    where = without_credentials(store.describe())
    if remote.type == "memory":
        yield Check(
            "remote",
            Level.WARNING,
            f"{where} lives in one process and ends with it",
            'use type = "fs" or "s3_compatible" to keep it',
        )
    else:
        yield Check("remote", Level.OK, f"{where} answers")
    try:
        check_conditional_writes(store)
    except GraftError as error:
        yield _problem("conditional writes", error)
    else:
        yield Check("conditional writes", Level.OK, "the remote honours them")


@command("doctor", "graft doctor", "graft doctor --json")
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check configuration, disk, volumes and remote, and say what to do.

    Writes and deletes one small object on the remote. Exits with 1 if there is a problem.
    """
    found = []
    for check in run_checks():
        found.append(check)
        if not as_json:
            emit(check, as_json=False)
    if as_json:
        emit(found, as_json=True)
    if any(check.level is Level.PROBLEM for check in found):
        context.exit(1)


COMMANDS: tuple[click.Command, ...] = (doctor,)
