"""A real database: importing it, and real queries on it, on a volume against the plain file."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import apsw

import graft_vfs
from benchmarks.local import alternate, rows_of
from benchmarks.rows import Budget, Row, skipped
from benchmarks.workload import Sample, timed
from benchmarks.workspace import Options, engine

CAPTION = "stock = the plain file (for the import: a copy of it, synced)"

# What PROJ itself asks, and what people ask who look something up.
PROJ_QUERIES = {
    "look-ups by code": "SELECT name, type FROM crs_view WHERE auth_name = 'EPSG' AND code = ?",
    "look-ups by name": "SELECT auth_name, code FROM crs_view WHERE name LIKE ? LIMIT 20",
    "operations of a pair": "SELECT c.code, c.accuracy, e.description "
    "FROM coordinate_operation_view c JOIN usage u ON u.object_auth_name = c.auth_name "
    "AND u.object_code = c.code AND u.object_table_name = c.table_name "
    "JOIN extent e ON e.auth_name = u.extent_auth_name AND e.code = u.extent_code "
    "WHERE c.source_crs_code = ? ORDER BY c.accuracy",
    "areas that hold a point": "SELECT count(*) FROM extent "
    "WHERE south_lat <= ?1 AND north_lat >= ?1 AND west_lon <= ?1 AND east_lon >= ?1",
}
PROJ_VALUES: dict[str, tuple[object, ...]] = {
    "look-ups by code": ("4326", "3857", "27700", "2056", "25832", "4258", "31370", "2154"),
    "look-ups by name": ("WGS 84%", "%UTM zone 3%", "British%", "%Lambert%"),
    "operations of a pair": ("4326", "4277", "4312", "4258"),
    "areas that hold a point": (48.2, 10.5, -20.0, 60.1),
}

Query = Callable[[apsw.Connection], object]


def find_database(options: Options) -> Path | None:
    """Return the database that was named, or pyproj's."""
    if options.database is not None:
        return options.database
    if importlib.util.find_spec("pyproj") is None:
        return None
    from pyproj import datadir  # noqa: PLC0415 - importing it costs everybody else a second

    return Path(datadir.get_data_dir()) / "proj.db"


def proj_queries() -> dict[str, Query]:
    """Return the queries of PROJ as functions of a connection."""

    def each(text: str, values: tuple[object, ...]) -> Query:
        return lambda connection: [
            connection.execute(text, (value,)).fetchall() for value in values
        ]

    return {name: each(text, PROJ_VALUES[name]) for name, text in PROJ_QUERIES.items()}


def any_queries(path: Path) -> dict[str, Query]:
    """Return queries that every database can answer: on its largest tables, by rowid and whole."""
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE '%VIRTUAL%'"
        tables = [
            str(name).replace('"', '""')
            for (name,) in connection.execute(query).fetchall()
            if not str(name).startswith("sqlite_")
        ]

    def count(connection: apsw.Connection) -> object:
        return [connection.execute(f'SELECT count(*) FROM "{name}"').fetchall() for name in tables]

    def scan(connection: apsw.Connection) -> object:
        return [sum(1 for _ in connection.execute(f'SELECT * FROM "{name}"')) for name in tables]

    return {"count of each table": count, "scan of each table": scan}


def asked(connection: apsw.Connection, queries: dict[str, Query], repeat: int) -> Sample:
    """Time each query on a new connection, small cache, after one run that is not counted."""
    connection.pragma("cache_size", 200)
    taken = {}
    for name, query in queries.items():
        query(connection)
        taken[name] = timed(lambda query=query: [query(connection) for _ in range(repeat)], repeat)
    return taken


def copied(source: Path, target: Path) -> float:
    """Return the seconds that a durable copy of the file takes."""

    def copy() -> None:
        shutil.copyfile(source, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())

    return timed(copy)


def run(options: Options) -> list[Row]:
    """Measure import and queries."""
    source = find_database(options)
    if source is None:
        return [skipped("real", "queries", "pyproj is not installed and no --database was named")]
    queries = any_queries(source) | (proj_queries() if source.name == "proj.db" else {})
    repeat = options.choose(5, 1)
    with options.scratch("real") as directory, engine(directory / "data") as made:

        def stock(number: int) -> Sample:
            path = directory / f"plain{number}.db"
            taken = {"import": copied(source, path)}
            with closing(apsw.Connection(str(path))) as connection:
                return taken | asked(connection, queries, repeat)

        def graft(number: int) -> Sample:
            tag = f"real{number}"
            taken = {"import": timed(lambda: made.import_(source, tag))}
            with closing(graft_vfs.connect(tag)) as connection:
                return taken | asked(connection, queries, repeat)

        theirs, ours = alternate(options.pairs, stock, graft)
    suffix = f", {source.name}"
    rows = rows_of("real", suffix, theirs, ours)
    # A copy is what an import could cost at best: it parses and checks nothing.
    return [replace(row, budget=Budget()) if "import" in row.work else row for row in rows]
