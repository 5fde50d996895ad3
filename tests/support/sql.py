"""Looking at databases: everything in one, and stock SQLite to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw

BUILTIN_VFS = "unix"


def stock(path: Path | str) -> apsw.Connection:
    """Open a plain SQLite file through the built-in VFS, with URIs in ATTACH."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
    return apsw.Connection(str(path), flags=flags, vfs=BUILTIN_VFS)


def content(connection: apsw.Connection, schema: str = "main") -> dict[str, list[Any]]:
    """Return the schema and the rows of every table, in an order that does not depend on pages."""
    found = {"schema": rows(connection, f"SELECT type, name, sql FROM {schema}.sqlite_schema")}
    found["schema"].sort(key=repr)
    for kind, name, sql in list(found["schema"]):
        if kind == "table" and "VIRTUAL" not in (sql or ""):
            found[name] = sorted(rows(connection, f'SELECT * FROM {schema}."{name}"'), key=repr)
    return found


def rows(connection: apsw.Connection, statement: str, *bindings: Any) -> list[tuple[Any, ...]]:
    """Return all rows of a statement."""
    return connection.execute(statement, bindings).fetchall()


def value(connection: apsw.Connection, statement: str, *bindings: Any) -> Any:
    """Return the one value of a statement."""
    ((found,),) = rows(connection, statement, *bindings)
    return found


def is_sound(connection: apsw.Connection, schema: str = "main") -> bool:
    """Tell whether SQLite's own check of the whole database finds nothing."""
    return rows(connection, f"PRAGMA {schema}.integrity_check") == [("ok",)]
