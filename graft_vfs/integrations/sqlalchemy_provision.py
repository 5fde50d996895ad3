"""What SQLAlchemy's own tests for dialects ask of this one; imported by them alone.

`GraftDialect.load_provisioning` imports it. It is what SQLAlchemy does for SQLite, but for files: a
volume is no file that could be removed, and the second schema is a tag.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.dialects.sqlite import provision as of_sqlite
from sqlalchemy.engine import URL, Engine
from sqlalchemy.testing import provision

_BACKEND = "graft"
_SCHEMA = "test_schema"

assert of_sqlite  # Importing it has registered what SQLite needs.
for _each in vars(provision).values():
    if isinstance(_each, provision.register) and "sqlite" in _each.fns:
        _each.fns.setdefault(_BACKEND, _each.fns["sqlite"])


@provision.generate_driver_url.for_db(_BACKEND)
def keep_url(url: URL, driver: str, query: str) -> URL:  # noqa: ARG001 - SQLAlchemy's signature
    """Return the URL as it is: there is one driver."""
    return url


@provision.post_configure_engine.for_db(_BACKEND)
def leave_engine(url: URL, engine: Engine, follower_ident: str | None) -> None:
    """Leave out what SQLAlchemy does to files of SQLite."""


@provision.post_configure_testing_engine.for_db(_BACKEND)
def attach_schema(url: URL, engine: Engine, options: dict[str, Any], scope: str) -> None:  # noqa: ARG001
    """Give each connection the second schema that some tests want."""

    @event.listens_for(engine, "connect")
    def attach(connection: Any, record: Any) -> None:  # noqa: ARG001
        connection.execute(f"ATTACH '{_SCHEMA}' AS {_SCHEMA}")
