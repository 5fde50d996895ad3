"""A volume as one of Datasette's databases."""

from __future__ import annotations

from typing import Any

from datasette.app import Datasette
from datasette.database import Database, QueryInterrupted, Results
from datasette.utils.sqlite import sqlite3

import graft_vfs
from graft_vfs.integrations.opening import opening, set_up, sqlite3_uri
from graft_vfs.view.log_view import LogView
from graft_vfs.volume.snapshot import Snapshot

_COUNT = "select count(*) from "
_COUNT_OF_QUERY = f"{_COUNT}("


class VolumeDatabase(Database):
    """A volume, or a view of its past.

    Owner: Datasette. Thread rule: Datasette's; each of its threads has a connection of its own.
    """

    def __init__(self, ds: Datasette, tag: str, **parameters: str) -> None:
        """Open the tag once, so that what is wrong with it is said at the start.

        `parameters` are `remote`, `lsn` and `as_of`. Requests: those of a clone if there is no such
        tag yet. Raises what connecting to it raises.
        """
        super().__init__(ds, path=tag, is_mutable=True)
        self._tag = tag
        self._parameters = parameters
        self._suggestion_ms = ds.setting("facet_suggest_time_limit_ms")
        self.connect().close()

    def connect(self, write: bool = False) -> Any:
        """Open a connection for reading, or Datasette's one for writing.

        Raises the OperationalError of Datasette's `sqlite3`, with the cause in its text.
        """
        mode = "rw" if write else "ro"
        if "remote" in self._parameters:
            mode = "rwc"  # The first connection makes the clone; query_only below still holds.
        uri = sqlite3_uri(self._tag, {**self._parameters, "mode": mode})
        with opening(sqlite3):
            connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
        if write:
            set_up(connection)
        else:
            connection.execute("PRAGMA query_only=1").close()
        self._all_file_connections.append(connection)
        return connection

    async def execute(
        self,
        sql: str,
        params: Any = None,
        truncate: bool = False,
        custom_time_limit: int | None = None,
        **others: Any,
    ) -> Results:
        """Run a query; one that Datasette makes in passing must not fetch whole tables.

        What users ask for is truncated to a number of rows; counts and suggestions are not.
        """
        if not truncate and not self._is_here():
            if sql.startswith(_COUNT_OF_QUERY):
                # How many rows could a facet be suggested from? As many as are on the screen.
                query = sql.removeprefix("select count(*)")
                sql = f"select count(*) from (select 1 {query} limit {self.ds.page_size})"  # noqa: S608 - Datasette's SQL
            elif sql.startswith(_COUNT) or custom_time_limit == self._suggestion_ms:
                raise QueryInterrupted("not all pages are cached", sql, params)
        return await super().execute(sql, params, truncate, custom_time_limit, **others)

    def _snapshot(self) -> Snapshot:
        engine = graft_vfs.register()
        lsn, as_of = (self._parameters.get(name) for name in ("lsn", "as_of"))
        if lsn is None and as_of is None:
            return engine.open(self._tag).begin()
        return engine.snapshot_at(self._tag, lsn=lsn, as_of=as_of)

    def _is_here(self) -> bool:
        """Return True if every page of the snapshot is cached; no request."""
        remote = self._snapshot().remote
        if not isinstance(remote, LogView):
            return True
        present, total = remote.pages_present()
        return present == total

    @property
    def size(self) -> int:
        """Bytes of the database."""
        snapshot = self._snapshot()
        return snapshot.page_count * snapshot.page_size

    @property
    def mtime_ns(self) -> None:
        """None: a volume has no file whose time would tell of its changes."""
        return
