"""SQLAlchemy's dialect of `graft://tag`, which is that of SQLite with `sqlite3` as its driver.

    engine = sqlalchemy.create_engine("graft://main")

The tag stands where a URL has host and path, percent-encoded where it has `%`, `?`, `@` or `:`;
`graft:///srv/app.db` is the tag `srv/app.db`, and `graft:////srv/app.db` is `/srv/app.db`, as with
SQLite's file names. `url` writes it for any tag. The query may hold the URI parameters of a tag
(`remote`, `lsn`, `as_of`, `mode`), what SQLAlchemy passes to `sqlite3` (`timeout`,
`isolation_level`, `detect_types`, `cached_statements`), and `begin`.

It runs what the `sqlite` dialect runs: `sqlite3` begins a transaction at the first INSERT, UPDATE
or DELETE (with `isolation_level=IMMEDIATE` by BEGIN IMMEDIATE). So SELECTs before it may have seen
another snapshot, DDL before it is committed at once, and SAVEPOINT opens a transaction that RELEASE
commits. With `begin=DEFERRED` each transaction of SQLAlchemy is one of SQLite from its first
statement on, and serialisable: one that reads first and writes later fails with
SQLITE_BUSY_SNAPSHOT, without waiting, if another has committed meanwhile. With `begin=IMMEDIATE` it
waits for the writer lock at its beginning instead.
"""

from __future__ import annotations

import importlib
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
_BEGIN_MODES = ("DEFERRED", "IMMEDIATE", "EXCLUSIVE")
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
    _begin: str | None = None
    """The statement that begins each transaction; None leaves it to sqlite3."""
    _isolation_level = ""
    """The `isolation_level` of sqlite3 outside AUTOCOMMIT: what follows the BEGIN before DML."""

    @classmethod
    def load_provisioning(cls) -> None:
        """Load what SQLAlchemy's tests for dialects ask of this one."""
        importlib.import_module("graft_vfs.integrations.sqlalchemy_provision")

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
            self._isolation_level = options.get("isolation_level", "")
            self._begin = _begin(query.pop("begin", None))
            parameters = {name: _single(name, value) for name, value in query.items()}
            name = sqlite3_uri(_tag(url), parameters)
        except (UsageError, ValueError) as error:
            raise exc.ArgumentError(f"{url}: {error}") from error
        return [name], options

    def connect(self, *arguments: Any, **options: Any) -> Any:
        """Open a connection; raises sqlite3.Error with the cause in its text."""
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
        """Begin a transaction if the URL says how, unless the connection is set to AUTOCOMMIT."""
        if self._begin is not None and dbapi_connection.isolation_level is not None:
            dbapi_connection.execute(self._begin)

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        """Change to AUTOCOMMIT, or back to transactions that begin as the URL says."""
        super().set_isolation_level(dbapi_connection, level)
        if dbapi_connection.isolation_level is not None:
            dbapi_connection.isolation_level = self._isolation_level


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


def _begin(mode: str | tuple[str, ...] | None) -> str | None:
    if mode is None:
        return None
    word = _single("begin", mode).upper()
    if word not in _BEGIN_MODES:
        raise UsageError(
            f"begin={mode} is no way to begin a transaction",
            next_step="use one of " + ", ".join(_BEGIN_MODES),
        )
    return f"BEGIN {word}"


def _single(name: str, value: str | tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{name} is given twice", next_step="give it once")
    return value
