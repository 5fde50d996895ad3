"""SQLAlchemy's dialect of `graft://tag`, which is that of SQLite with `sqlite3` as its driver.

    engine = sqlalchemy.create_engine("graft://main")

The tag stands where a URL has host and path, percent-encoded where it has `%`, `?`, `@` or `:`;
`graft:///srv/app.db` is the tag `srv/app.db`, and `graft:////srv/app.db` is `/srv/app.db`, as with
SQLite's file names. `url` writes it for any tag. The query may hold the URI parameters of a tag
(`remote`, `lsn`, `as_of`, `mode`) and what SQLAlchemy passes to `sqlite3` (`timeout`,
`isolation_level`, `detect_types`, `cached_statements`).

Invariant: every transaction of SQLAlchemy begins with BEGIN. `sqlite3` on its own begins one at the
first INSERT, UPDATE or DELETE, so that SELECTs before it have another snapshot, DDL is committed at
once and SAVEPOINT opens a transaction which RELEASE commits. With `isolation_level=IMMEDIATE` it is
BEGIN IMMEDIATE, which waits for the writer lock, where a transaction that reads first and then
writes may fail with SQLITE_BUSY_SNAPSHOT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

from sqlalchemy import exc, pool
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import URL, make_url

from graft_vfs.errors import UsageError
from graft_vfs.integrations.opening import opening, set_up, sqlite3_uri

_DRIVER_ARGUMENTS = {
    "timeout": float,
    "isolation_level": str,
    "detect_types": int,
    "cached_statements": int,
}
_PARSING_UNQUOTES = make_url("x:///%25").database == "%"
"""SQLAlchemy 2.1 does in a URL's path what 2.0 leaves to the dialect."""


def url(tag: str, **query: str) -> URL:
    """Return the URL of any tag; `query` are its parameters, such as `lsn="7"`."""
    return URL.create(
        "graft", database=tag if _PARSING_UNQUOTES else quote(tag, safe="/"), query=query
    )


class GraftDialect(SQLiteDialect_pysqlite):
    """SQLite's dialect over a volume; its name stays `sqlite`, as Alembic and others ask for it."""

    driver = "graft"
    supports_statement_cache = True
    _begin_mode = ""
    """What follows BEGIN, as the `isolation_level` of sqlite3 says it."""

    @classmethod
    def get_pool_class(cls, url: URL) -> type[pool.Pool]:  # noqa: ARG003 - SQLAlchemy's signature
        """Return the pool of a database that several connections may open."""
        return pool.QueuePool

    def create_connect_args(self, url: URL) -> tuple[list[str], dict[str, Any]]:
        """Return the arguments of sqlite3.connect; raises ArgumentError for a URL it cannot be."""
        query = dict(url.query)
        options: dict[str, Any] = {"uri": True, "check_same_thread": False}
        try:
            for name in _DRIVER_ARGUMENTS.keys() & query.keys():
                options[name] = _DRIVER_ARGUMENTS[name](query.pop(name))
            parameters = {name: _single(name, value) for name, value in query.items()}
            name = sqlite3_uri(_tag(url), parameters)
        except (UsageError, ValueError) as error:
            raise exc.ArgumentError(f"{url}: {error}") from error
        return [name], options

    def connect(self, *arguments: Any, **options: Any) -> Any:
        """Open a connection; raises sqlite3.Error with the cause in its text."""
        self._begin_mode = options.get("isolation_level") or ""
        with opening():
            return super().connect(*arguments, **options)

    def on_connect(self) -> Callable[[Any], None]:
        """Return what is done with each new connection."""
        inherited = super().on_connect()

        def prepare(connection: Any) -> None:
            inherited(connection)
            set_up(connection)

        return prepare

    def do_begin(self, dbapi_connection: Any) -> None:
        """Begin a transaction, unless the connection is set to AUTOCOMMIT."""
        if dbapi_connection.isolation_level is not None:
            dbapi_connection.execute(f"BEGIN {dbapi_connection.isolation_level}")

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        """Change to AUTOCOMMIT, or back to transactions that begin as the URL says."""
        super().set_isolation_level(dbapi_connection, level)
        if dbapi_connection.isolation_level is not None:
            dbapi_connection.isolation_level = self._begin_mode


dialect = GraftDialect


def _tag(url: URL) -> str:
    if url.username is not None or url.password is not None or url.port is not None:
        raise UsageError(
            "a tag has no user, password or port",
            next_step="write %40 for @ and %3A for : in the tag",
        )
    path = url.database if _PARSING_UNQUOTES or url.database is None else unquote(url.database)
    parts = [unquote(url.host) if url.host else "", path or ""]
    tag = "/".join(part for part in parts if part)
    if not tag:
        raise UsageError("the URL names no tag", next_step="write graft://tag")
    return tag


def _single(name: str, value: str | tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{name} is given twice", next_step="give it once")
    return value
