"""Reads and runs scripts of sqllogictest, SQLite's suite of queries with expected answers.

A script is a run of records, each behind a blank line:

    skipif|onlyif ENGINE                 in front of a record: not for, or only for this engine
    statement ok|error                   SQL follows, which succeeds or fails
    query TYPES [SORT [LABEL]]           SQL follows, then ---- and the values, one a line
    hash-threshold N                     more than N values are given as a count and an MD5
    halt                                 the rest is left out

TYPES has a letter for each column: T text, I integer, R real with three digits. SORT is nosort,
rowsort or valuesort. Queries with one LABEL have equal answers. Lines with # are comments.
Answers in the scripts come from several database engines that agree.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import apsw

_ENGINE = "sqlite"


class _Type(NamedTuple):
    sql: str
    python: type


_TYPES = {"T": _Type("TEXT", str), "I": _Type("INTEGER", int), "R": _Type("REAL", float)}


@dataclass
class Record:
    """One record: where it stands, its first line in words, SQL, and the expected values."""

    line: int
    words: list[str]
    sql: str = ""
    expected: list[str] = field(default_factory=list)


@dataclass
class Tally:
    """How much of a script was run, and each answer that was not the expected one."""

    statements: int = 0
    queries: int = 0
    wrong: list[str] = field(default_factory=list)


def records(script: str) -> Iterator[Record]:
    """Return the records that are meant for SQLite, up to a halt."""
    lines = (
        (number, line.rstrip())
        for number, line in enumerate(script.splitlines(), 1)
        if not line.startswith("#")
    )
    for blank, group in itertools.groupby(lines, key=lambda each: not each[1]):
        if blank:
            continue
        block = list(group)
        is_ours = True
        while block and block[0][1].split()[0] in ("skipif", "onlyif"):
            condition, engine = block.pop(0)[1].split()[:2]
            is_ours &= (engine == _ENGINE) == (condition == "onlyif")
        if not (block and is_ours):
            continue
        (number, first), *rest = block
        words = first.split()
        if words[0] == "halt":
            return
        if words[0] == "hash-threshold":
            continue
        text = [line for _, line in rest]
        end = text.index("----") if "----" in text else len(text)
        yield Record(number, words, "\n".join(text[:end]), text[end + 1 :])


def run(script: str, connection: apsw.Connection) -> Tally:
    """Run a script and compare every answer."""
    tally = Tally()
    labels: dict[str, str] = {}
    for record in records(script):
        match record.words:
            case ["statement", "ok" | "error" as outcome]:
                tally.statements += 1
                found = _outcome(connection, record.sql)
                if found.partition(":")[0] != outcome:
                    tally.wrong.append(f"line {record.line}: {found}, not {outcome}")
            case ["query", types, *options]:
                tally.queries += 1
                sort, label = itertools.islice(itertools.chain(options, ["", ""]), 2)
                values = answer(connection, record.sql, types, sort)
                digest = hashed(values)
                if record.expected not in (values, [digest]):
                    tally.wrong.append(f"line {record.line}: {values} not {record.expected}")
                if label and labels.setdefault(label, digest) != digest:
                    tally.wrong.append(f"line {record.line}: another answer under {label}")
            case words:
                message = f"line {record.line}: unknown record {words}"
                raise ValueError(message)
    return tally


def _outcome(connection: apsw.Connection, sql: str) -> str:
    try:
        connection.execute(sql).fetchall()
    except apsw.Error as error:
        return f"error: {error}"
    return "ok"


def answer(connection: apsw.Connection, sql: str, types: str, sort: str) -> list[str]:
    """Return a query's values as the scripts write them; an error as one that none expects."""
    try:
        rows = [
            [_written(connection, value, kind) for value, kind in zip(row, types, strict=True)]
            for row in connection.execute(sql)
        ]
    except apsw.Error as error:
        return [f"error: {error}"]
    if sort == "rowsort":
        rows.sort()
    values = [value for row in rows for value in row]
    return sorted(values) if sort == "valuesort" else values


def hashed(values: list[str]) -> str:
    """Return the line that stands for many values."""
    digest = hashlib.md5("".join(f"{value}\n" for value in values).encode()).hexdigest()
    return f"{len(values)} values hashing to {digest}"


def _written(connection: apsw.Connection, value: apsw.SQLiteValue, kind: str) -> str:
    if value is None:
        return "NULL"
    asked = _TYPES[kind]
    if type(value) is not asked.python:
        # SQLite is to say what it makes of a value when another type is asked for.
        value = connection.execute(f"SELECT CAST(? AS {asked.sql})", (value,)).get
    if kind == "R":
        return f"{value:.3f}"
    text = str(value)
    return "".join(c if " " <= c <= "~" else "@" for c in text) or "(empty)"
