"""Datasette's plugin: it serves the volumes that its configuration names.

    {"plugins": {"graft-vfs": {"databases": {"shop": "main", "then": {"tag": "main", "lsn": "7"}}}}}

A name under which Datasette shows a database stands beside a tag, or beside an object with the tag
and URI parameters (`remote`, `lsn`, `as_of`). A tag that is not on this machine and has a `remote`
is cloned at the start.

Browsing fetches the pages that the rows on the screen are on. What Datasette asks beside them, the
number of rows and which columns might be facets, reads whole tables; so it is answered only once
all pages are cached (`graft hydrate`), and until then as if it had taken too long. Facets and
queries that a user asks for are always answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from datasette import hookimpl

from graft_vfs.errors import ConfigError, GraftError
from graft_vfs.integrations.opening import sqlite3_uri

if TYPE_CHECKING:
    from datasette.app import Datasette

PLUGIN = "graft-vfs"
_PARAMETERS = {"remote", "lsn", "as_of"}


@hookimpl
def startup(datasette: Datasette) -> None:
    """Add the databases of the configuration.

    Raises click.ClickException, which the command `datasette` shows as one line.
    """
    # Datasette loads its plugins before it can be imported itself.
    from datasette.utils.sqlite import sqlite3  # noqa: PLC0415

    from graft_vfs.integrations.datasette_database import VolumeDatabase  # noqa: PLC0415

    config = datasette.plugin_config(PLUGIN) or {}
    for name, spec in config.get("databases", {}).items():
        try:
            database = VolumeDatabase(datasette, **_tag_and_parameters(spec))
        except (GraftError, sqlite3.Error) as error:
            message = f"plugins.{PLUGIN}.databases.{name}: {error}"
            raise click.ClickException(message) from error
        datasette.add_database(database, name=name)


def _tag_and_parameters(spec: str | Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of a database of the configuration; raises UsageError, ConfigError."""
    if isinstance(spec, str):
        spec = {"tag": spec}
    if not isinstance(spec, Mapping) or "tag" not in spec or spec.keys() - _PARAMETERS - {"tag"}:
        raise ConfigError(
            f"{spec!r} is no database",
            next_step='write a tag, or {"tag": …} with ' + ", ".join(sorted(_PARAMETERS)),
        )
    fields = {key: str(value) for key, value in spec.items()}
    sqlite3_uri(fields["tag"], {})
    return fields
