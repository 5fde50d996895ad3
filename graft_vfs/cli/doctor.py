"""`graft doctor`: checks the set-up and explains what to do.

Each check gives one line. Checks that depend on a failed one are skipped, so that one cause is one
problem.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator

import click

from graft_vfs.cli.check import Check, Level, problem
from graft_vfs.cli.group import command
from graft_vfs.cli.output import emit, json_option
from graft_vfs.engine.config import Config, find_file, unknown_variables
from graft_vfs.errors import GraftError
from graft_vfs.reports import Versions


def run_checks() -> Iterator[Check]:
    """Yield the results of all checks."""
    from graft_vfs.cli import check_local, check_remote  # noqa: PLC0415 - for start-up

    yield Check("versions", Level.OK, f"Python {platform.python_version()}, {Versions.current()}")
    yield from check_local.sqlite_libraries()
    try:
        config = Config.load()
    except GraftError as error:
        yield problem("configuration", error)
        return
    path = find_file(os.environ)
    source = str(path.absolute()) if path else "no graft.toml, only variables and defaults"
    yield Check("configuration", Level.OK, f"{source}; `graft config` shows it")
    if unknown := unknown_variables(os.environ):
        text = f"variables that set nothing: {', '.join(unknown)}"
        step = (
            f"{''.join(unknown.values())}correct their names, or unset them; `graft config "
            "--template` lists the settings"
        )
        yield Check("configuration", Level.WARNING, text, step)
    directory = check_local.data_directory(config.data_dir, config.allow_file_systems)
    yield directory
    if directory.level is not Level.PROBLEM:
        yield check_local.disk_space(config.data_dir)
        if config.data_dir.exists():
            yield from check_local.catalog_and_volumes(config)
    create = not check_local.may_have_bases(config.data_dir)
    answers = True
    for check in check_remote.remote(config.remote, create=create):
        answers &= check.level is not Level.PROBLEM
        yield check
    if answers and config.data_dir.exists():
        yield from check_local.histories(config)


@command("doctor", "graft doctor", "graft doctor --json")
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check set-up, disk, volumes and remote, and explain what to do.

    Checks the configuration, both SQLite libraries, the disk, the catalog, volumes and leftovers of
    crashes. On the remote it checks credentials, create-only writes, the clock, and whether the
    remote has the locally known history. If it does not exist yet, writes one small, permanent
    object there. Exits with 1 if there is a problem; a warning does not count.
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
