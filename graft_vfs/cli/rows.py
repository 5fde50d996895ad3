"""Changed rows as text and JSON; see `graft diff --rows`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from graft_vfs.cli.output import to_json
from graft_vfs.cli.table import cropped
from graft_vfs.history.rows import NotCompared, RawText, Row, RowChange, Value
from graft_vfs.reports import SchemaDiff

_MARKS = {"inserted": "+", "deleted": "-", "updated": "~"}
_VALUE_WIDTH = 60
_KEY_WIDTH = 12


def lines(
    found: Iterable[SchemaDiff | RowChange | NotCompared], width: int | None
) -> Iterator[str]:
    """Yield changes as a table: the row's key, and each changed column before and after."""
    table = None
    for item in found:
        if not isinstance(item, RowChange):
            text = (
                f"rows of {item.table}: not compared: {item.reason}"
                if isinstance(item, NotCompared)
                else str(item)
            )
            yield text
            continue
        if item.table != table:
            table = item.table
            yield f"table {table}"
        for line in _row_lines(item):
            yield line if width is None else cropped(line, width)


def _row_lines(item: RowChange) -> Iterator[str]:
    key = _pairs(item.key)
    start = f"  {_MARKS[item.change]} {key:<{_KEY_WIDTH}}  "
    if item.older is None or item.newer is None:
        yield f"{start}{_pairs(item.newer or item.older or {}, without=item.key)}".rstrip()
        return
    for name in item.changed_columns():
        older, newer = (
            value_text(side[name]) if name in side else "(no such column)"
            for side in (item.older, item.newer)
        )
        yield f"{start}{name}: {older} -> {newer}"
        start = " " * len(start)


def _pairs(row: Row, *, without: Row | None = None) -> str:
    return ", ".join(
        f"{name}={value_text(value)}" for name, value in row.items() if name not in (without or {})
    )


def value_text(value: Value) -> str:
    """Return a value as one readable line, similar to SQL; long values are cropped."""
    if isinstance(value, bytes | RawText):
        data = value if isinstance(value, bytes) else value.data
        kind = "x" if isinstance(value, bytes) else "text x"
        shown = data[: _VALUE_WIDTH // 3].hex()
        rest = "" if len(data) <= _VALUE_WIDTH // 3 else f"... ({len(data)} bytes)"
        return f"{kind}'{shown}'{rest}"
    if isinstance(value, str):
        shown = value[:_VALUE_WIDTH].replace("'", "''").replace("\n", "\\n").replace("\t", "\\t")
        rest = "" if len(value) <= _VALUE_WIDTH else f"... ({len(value)} characters)"
        return f"'{shown}'{rest}"
    return "NULL" if value is None else str(value)


def json_line(item: SchemaDiff | RowChange | NotCompared) -> str:
    """Return a change as one line of JSON; of an updated row, only the columns that changed."""
    if not isinstance(item, RowChange):
        return json.dumps(to_json(item))
    older, newer = item.older, item.newer
    if older is not None and newer is not None:
        names = item.changed_columns()
        older, newer = ({n: side[n] for n in names if n in side} for side in (older, newer))
    found = {
        "table": item.table,
        "change": item.change,
        "key": _json_row(item.key),
        "old": _json_row(older),
        "new": _json_row(newer),
    }
    return json.dumps(found)


def _json_row(row: Row | None) -> dict[str, Any] | None:
    return None if row is None else {name: json_value(value) for name, value in row.items()}


def json_value(value: Value) -> Any:
    """Return a value for JSON, with its class: see `graft help history`."""
    if isinstance(value, bytes):
        return {"blob": value.hex()}
    if isinstance(value, RawText):
        return {"text": value.data.hex()}
    if isinstance(value, float) and math.isinf(value):
        return {"real": "Infinity" if value > 0 else "-Infinity"}
    return value
