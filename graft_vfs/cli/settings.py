"""`graft config`: every setting, its value and its source; a commented graft.toml."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import click

from graft_vfs.cli.group import command
from graft_vfs.cli.output import echo, emit, json_option, without_credentials
from graft_vfs.engine.config import Config, RemoteConfig

_DEFAULT = "default"
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")

TEMPLATE = """\
# Settings of graft-vfs. All are optional: without any, volumes stay on this machine.
# A variable such as GRAFT_DATA_DIR overrides this file; `graft config` shows the result.

# The directory of volumes, the catalog and the page cache.
# data_dir = "~/.local/share/graft"

# Maximum size of the page cache in bytes; the least recently used pages are evicted.
# cache_max_bytes = 10_000_000_000

# "lazy" fetches pages on demand, "background" also fetches all pages of an open volume.
# hydrate = "lazy"

# "auto" maps local files where that is safe, "off" never does.
# mmap = "auto"

# Seconds between two syncs of open volumes in the background; 0 is off.
# autosync = 0

# What that does with a volume that has diverged: "stop", "reset" or "fork".
# on_divergence = "stop"

# Types of file systems to allow for the data directory although refused by default.
# allow_file_systems = []

# The command line's log file; by default it prints warnings.
# log_file = "~/.local/state/graft.log"

# true: programs that open `path/app.db` through APSW open a volume with that tag.
# make_default = false

# Where volumes are pushed to and cloned from. Credentials do not belong here: they come from
# AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.
# [remote]
# type = "s3"                            # or "fs", a directory
# bucket = "my-bucket"
# prefix = "databases"                   # the key prefix in the bucket
# endpoint = "https://s3.example.com"    # for servers other than Amazon's
# region = "eu-west-1"
# unsigned = false                       # true: read a public bucket without credentials
# connect_timeout = 5                    # seconds; for slow networks raise these three
# read_timeout = 15
# total_timeout = 60
# root = "/srv/graft"                    # the directory of "fs"
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: `source` is a file, a variable, or `default`."""

    key: str
    value: str | int | float | bool | None
    source: str

    def __str__(self) -> str:
        shown = "" if self.value is None else str(self.value)
        shown = shown.lower() if isinstance(self.value, bool) else shown
        return f"{self.key:<22} {shown or '-':<40} {self.source}"


def settings(environment: Mapping[str, str]) -> Iterator[Setting]:
    """Yield all settings; raises ConfigError."""
    config, sources = Config.load_with_sources(environment)
    for field in fields(Config):
        if field.name != "remote":
            value = getattr(config, field.name)
            shown = str(value.absolute()) if isinstance(value, Path) else value
            yield Setting(field.name, shown, sources.get(field.name, _DEFAULT))
    for field in fields(RemoteConfig):
        key = f"remote.{field.name}"
        value, source = getattr(config.remote, field.name), sources.get(key, _DEFAULT)
        if field.name == "endpoint":
            value, source = _endpoint(config.remote, source, environment)
        yield Setting(key, value, source)


def _endpoint(
    remote: RemoteConfig, source: str, environment: Mapping[str, str]
) -> tuple[str | None, str]:
    """Return the endpoint without credentials; boto3 reads variables of its own for it."""
    endpoint = remote.endpoint
    if endpoint is None and remote.type == "s3_compatible":
        for variable in _ENDPOINT_VARIABLES:
            if environment.get(variable):
                endpoint, source = environment[variable], variable
                break
    return (None if endpoint is None else without_credentials(endpoint)), source


@command("config", "graft config", "graft config --template > graft.toml")
@click.option("--template", is_flag=True, help="Print a commented graft.toml to start from.")
@json_option
def config(template: bool, as_json: bool) -> None:
    """Show every setting, its value and where that comes from.

    Credentials are not settings: `graft doctor` says where they are found.
    """
    if template:
        echo(TEMPLATE.rstrip("\n"))
    else:
        emit(list(settings(os.environ)), as_json=as_json)


COMMANDS: tuple[click.Command, ...] = (config,)
