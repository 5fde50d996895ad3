"""The connection of Django to a volume."""

from __future__ import annotations

import sqlite3
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.sqlite3 import base

from graft_vfs.django.client import DatabaseClient
from graft_vfs.django.creation import DatabaseCreation
from graft_vfs.errors import UsageError
from graft_vfs.integrations.opening import PARAMETERS, opening, set_up, sqlite3_uri


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection to the volume of the tag `NAME`.

    `OPTIONS` are those of Django's SQLite backend (`timeout`, `transaction_mode`, `init_command`)
    and the URI parameters of a tag (`remote`, `lsn`, `as_of`, `mode`).
    """

    client_class = DatabaseClient
    creation_class = DatabaseCreation

    def get_connection_params(self) -> dict[str, Any]:
        """Return the arguments of sqlite3.connect; raises ImproperlyConfigured."""
        params: dict[str, Any] = super().get_connection_params()
        parameters = {name: str(params.pop(name)) for name in PARAMETERS if name in params}
        try:
            params["database"] = sqlite3_uri(str(params["database"]), parameters)
        except UsageError as error:
            raise ImproperlyConfigured(f"settings.DATABASES[{self.alias!r}]: {error}") from error
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> sqlite3.Connection:
        """Open a connection; raises sqlite3.OperationalError with the cause in its text."""
        with opening():
            connection: sqlite3.Connection = super().get_new_connection(conn_params)
        set_up(connection)
        return connection
