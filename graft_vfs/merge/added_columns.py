"""Recognises declarations that differ only by ADD COLUMN, by running the statements.

ALTER TABLE writes no row: a column that was added has its default in every row that was not written
since. So two sides that each added columns can be merged, and unchanged rows need not be read.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import apsw

from graft_vfs.history.rows import Value, decoded, read_sql
from graft_vfs.history.tables import quoted


@dataclass(frozen=True, slots=True)
class AddedColumn:
    """A column that was added: its definition, and the value of rows that were not written."""

    name: str
    definition: str
    default: Value


def added_columns(name: str, before: str, after: str) -> list[AddedColumn] | None:
    """Return the columns by which a CREATE TABLE statement grew; None if it changed otherwise."""
    for definitions in _candidates(before, after):
        with contextlib.closing(apsw.Connection(":memory:")) as connection:
            try:
                connection.execute(before)
                former = len(_columns(connection, name))
                for definition in definitions:
                    connection.execute(f"ALTER TABLE {quoted(name)} ADD COLUMN {definition}")
                now = connection.execute("SELECT sql FROM sqlite_schema WHERE type = 'table'").get
                if now != after:
                    continue
                added = _columns(connection, name)[former:]
                if len(added) != len(definitions):
                    continue
                return [
                    AddedColumn(column, definition, _default(connection, kind, default))
                    for (column, kind, default), definition in zip(added, definitions, strict=True)
                ]
            except apsw.Error:
                continue
    return None


def _columns(connection: apsw.Connection, name: str) -> list[tuple[str, str, str | None]]:
    sql = "SELECT name, type, dflt_value FROM pragma_table_xinfo(?)"
    rows = connection.execute(sql, (name,)).fetchall()
    return [
        (str(column), str(kind), None if default is None else str(default))
        for column, kind, default in rows
    ]


def _default(connection: apsw.Connection, kind: str, default: str | None) -> Value:
    """Return the value that a row without the column shows."""
    if default is None:
        return None
    column = f"c {kind} DEFAULT ({default})"
    connection.execute(f"CREATE TEMP TABLE added_default({column})")
    connection.execute("INSERT INTO temp.added_default DEFAULT VALUES")
    found = connection.execute(f"SELECT {read_sql('c')} FROM temp.added_default").get  # noqa: S608
    connection.execute("DROP TABLE temp.added_default")
    return decoded(found, "utf-8")


def _candidates(before: str, after: str) -> list[list[str]]:
    """Return lists of definitions whose addition may explain a longer statement."""
    length = len(after) - len(before)
    if length <= 0:
        return []
    start = next(
        (at for at, (old, new) in enumerate(zip(before, after, strict=False)) if old != new),
        len(before),
    )
    found = []
    # The text may be cut out in several places if it repeats what is around it.
    for at in range(start, -1, -1):
        if after[at + length :] != before[at:] or after[:at] != before[:at]:
            break
        text = after[at : at + length]
        if text.lstrip().startswith(","):
            found.append(_split(text.lstrip()[1:]))
    return found


_CLOSING = {"'": "'", '"': '"', "`": "`", "[": "]"}


def _split(text: str) -> list[str]:
    """Split column definitions at the commas outside quotes, comments and parentheses."""
    parts, depth, at, start = [], 0, 0, 0
    while at < len(text):
        char = text[at]
        if char in _CLOSING:
            end = text.find(_CLOSING[char], at + 1)
            at = len(text) if end < 0 else end
        elif text.startswith("--", at):
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
        elif text.startswith("/*", at):
            end = text.find("*/", at)
            at = len(text) if end < 0 else end + 1
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
        elif char == "," and not depth:
            parts.append(text[start:at].strip())
            start = at + 1
        at += 1
    return [*parts, text[start:].strip()]
