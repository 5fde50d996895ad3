"""A real database for the demo, without a download.

The first choice is pyproj's database of coordinate systems, about 9 MB. Otherwise one is built from
Python's Unicode data: every named character and its properties.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sqlite3
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROJ_DATABASE = Path("proj_dir/share/proj/proj.db")


@dataclass(frozen=True, slots=True)
class Sample:
    """A plain SQLite file, its description, and a point query."""

    path: Path
    description: str
    question: str
    query: str


def find_sample(directory: Path) -> Sample:
    """Return an existing sample, or build one in `directory`."""
    return _proj_sample() or build_unicode_sample(directory / "unicode.db")


def _proj_sample() -> Sample | None:
    """Return the database of pyproj if that is installed, without importing it."""
    found = importlib.util.find_spec("pyproj")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / _PROJ_DATABASE
    if not path.is_file():
        return None
    return Sample(
        path,
        "the coordinate reference systems of the EPSG registry, from the package pyproj",
        "what is EPSG:4326?",
        "SELECT name FROM geodetic_crs WHERE auth_name = 'EPSG' AND code = '4326'",
    )


def build_unicode_sample(path: Path) -> Sample:
    """Write every named character with its properties as an SQLite file."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE characters(code INTEGER PRIMARY KEY, character TEXT, name TEXT, "
            "category TEXT, bidirectional TEXT, combining INTEGER, width TEXT, mirrored INTEGER, "
            "decomposition TEXT, uppercase TEXT, lowercase TEXT)"
        )
        connection.executemany(
            "INSERT INTO characters VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", _characters()
        )
        connection.execute("CREATE UNIQUE INDEX characters_by_name ON characters(name)")
        connection.execute("CREATE INDEX characters_by_category ON characters(category, code)")
    return Sample(
        path,
        f"the named characters of Unicode {unicodedata.unidata_version}, from Python",
        "which code has GREEK SMALL LETTER ALPHA?",
        "SELECT printf('U+%04X', code) FROM characters WHERE name = 'GREEK SMALL LETTER ALPHA'",
    )


def _characters() -> Iterator[tuple[object, ...]]:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        name = unicodedata.name(character, None)
        if name is None or name.startswith(("CJK UNIFIED IDEOGRAPH-", "HANGUL SYLLABLE ")):
            # These names only repeat the code or are computed from it.
            continue
        yield (
            code,
            character,
            name,
            unicodedata.category(character),
            unicodedata.bidirectional(character),
            unicodedata.combining(character),
            unicodedata.east_asian_width(character),
            unicodedata.mirrored(character),
            unicodedata.decomposition(character),
            character.upper(),
            character.lower(),
        )
