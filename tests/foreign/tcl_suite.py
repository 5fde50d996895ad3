"""Runs one of SQLite's own TCL scripts on a volume or on a stock file; a program for a process.

    python tcl_suite.py volume|file SCRIPT DIRECTORY

Python's Tcl interpreter runs the script, and `sqlite3 db test.db` there makes a connection of APSW.
It prints JSON: how the script ended, and of each check the name, what came of it, and its result.
SQLite's scripts are written for `testfixture`, an interpreter with hundreds of commands of its own;
`tcl_prelude.tcl` has those that are Tcl, here are those that need a database. A check that wants
another one is unsupported on either side.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tkinter as tk
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw

import graft_vfs
from graft_vfs import Config

_PRELUDE = Path(__file__).with_name("tcl_prelude.tcl")
_PARAMETER = re.compile(r"[$:@]([A-Za-z_]\w*)(?:\(\w+\))?")
_UNSUPPORTED = re.compile(r"invalid command name|UNSUPPORTED|no such function: |no such module: ")
_FINISHED = "FINISHED"


class Tcl:
    """The interpreter, and commands in it whose errors keep their text."""

    def __init__(self) -> None:
        self.interpreter = tk.Tcl().tk
        self.interpreter.wantobjects(True)

    def command(self, name: str, function: Callable[..., Any]) -> None:
        """Define a command; an exception of the function becomes an error with its text."""

        def called(*arguments: Any) -> tuple[int, Any]:
            try:
                found = function(*arguments)
            except (apsw.Error, tk.TclError, ValueError, KeyError, OSError) as error:
                return 1, re.sub(r"^\w+Error: ", "", str(error))
            return 0, "" if found is None else found

        self.interpreter.createcommand(f"python_{name}", called)
        # The function sees the variables of the caller, as a command in C would.
        self.interpreter.eval(
            f"proc {name} {{args}} {{"
            f"lassign [uplevel 1 [list python_{name} {{*}}$args]] failed found;"
            "if {$failed} {return -code error $found}; return $found}"
        )

    def remove(self, name: str) -> None:
        self.interpreter.eval(f"rename {name} {{}}")

    def variable(self, name: str) -> Any:
        """Return a variable of the caller with the type that it has in Tcl; None without it."""
        try:
            self.interpreter.eval(f"set ::given [set {{{name}}}]")
        except tk.TclError:
            return None
        value = self.interpreter.call("set", "::given")
        if isinstance(value, (int, float, str, bytes)):
            return value
        if isinstance(value, tuple):
            return str(self.interpreter.call("format", "%s", value))
        kind, text = getattr(value, "typename", ""), str(value)
        if kind in {"int", "wideInt", "bignum"}:
            return int(text)
        return float(text) if kind == "double" else text

    def set(self, name: str, value: Any) -> None:
        """Set a variable of the caller."""
        self.interpreter.call("set", "::given", value)
        self.interpreter.call("set", "::name", name)
        self.interpreter.eval("set $::name $::given")

    def prefix(self, words: Any) -> list[Any]:
        return list(self.interpreter.splitlist(words))


def _of_sql(value: Any, null: str = "") -> Any:
    """Return a value of SQL as Tcl has it."""
    if value is None:
        return null
    if isinstance(value, bytes):
        return value.decode("latin1")
    if value in (float("inf"), float("-inf")):
        return "Inf" if value > 0 else "-Inf"
    return value


class Database:
    """The command that `sqlite3 NAME FILE` defines."""

    def __init__(self, tcl: Tcl, name: str, connection: apsw.Connection) -> None:
        self._tcl, self.name, self.connection = tcl, name, connection
        self._null = ""
        self._code = 0
        connection.create_scalar_function("md5", lambda x: hashlib.md5(f"{x}".encode()).hexdigest())
        connection.create_aggregate_function("md5sum", _Md5)

    def __call__(self, verb: str, *arguments: Any) -> Any:
        handler = getattr(self, f"do_{verb}", None)
        if handler is None:
            raise ValueError(f"UNSUPPORTED {self.name} {verb}")
        return handler(*arguments)

    def _rows(self, sql: str) -> Iterator[tuple[apsw.Cursor, tuple[Any, ...]]]:
        bindings = {name: self._tcl.variable(name) for name in set(_PARAMETER.findall(sql))}
        cursor = self.connection.cursor()
        self._code = 0
        try:
            for row in cursor.execute(sql, bindings or None):
                yield cursor, row
        except apsw.Error as error:
            self._code = getattr(error, "extendedresult", 1) & 0xFF
            raise

    def do_eval(self, sql: str, *rest: Any) -> Any:
        if not rest:
            return tuple(
                _of_sql(cell, self._null) for _, row in self._rows(f"{sql}") for cell in row
            )
        array, script = rest if len(rest) == 2 else ("", rest[0])
        for cursor, row in self._rows(f"{sql}"):
            columns = [column[0] for column in cursor.description]
            for column, cell in zip(columns, row, strict=True):
                self._tcl.set(f"{array}({column})" if array else column, _of_sql(cell, self._null))
            if array:
                self._tcl.set(f"{array}(*)", tuple(columns))
            try:
                self._tcl.interpreter.eval(f"{script}")
            except tk.TclError as error:
                if 'invoked "break"' in str(error):
                    break
                if 'invoked "continue"' not in str(error):
                    raise
        return ""

    def do_onecolumn(self, sql: str) -> Any:
        return next((_of_sql(row[0], self._null) for _, row in self._rows(f"{sql}")), "")

    do_one = do_onecolumn

    def do_exists(self, sql: str) -> int:
        return int(any(True for _ in self._rows(f"{sql}")))

    def do_close(self) -> None:
        self.connection.close()
        self._tcl.remove(self.name)

    def do_changes(self) -> int:
        return self.connection.changes()

    def do_total_changes(self) -> int:
        return self.connection.total_changes()

    def do_last_insert_rowid(self) -> int:
        return self.connection.last_insert_rowid()

    def do_errorcode(self) -> int:
        return self._code

    def do_nullvalue(self, text: str | None = None) -> str:
        self._null = self._null if text is None else f"{text}"
        return self._null

    do_null = do_nullvalue

    def do_timeout(self, milliseconds: Any) -> None:
        self.connection.set_busy_timeout(int(milliseconds))

    def do_function(self, name: str, *rest: Any) -> None:
        words = self._tcl.prefix(rest[-1])
        call = self._tcl.interpreter.call

        def function(*values: Any) -> Any:
            found = call(*words, *map(_of_sql, values))
            return found if isinstance(found, (int, float, str)) else str(found)

        self.connection.create_scalar_function(name, function)

    do_func = do_function

    def do_collate(self, name: str, script: Any) -> None:
        words = self._tcl.prefix(script)
        call = self._tcl.interpreter.call
        self.connection.create_collation(name, lambda one, other: int(call(*words, one, other)))

    def do_transaction(self, *arguments: Any) -> None:
        self.connection.execute("SAVEPOINT of_tcl")
        status = self._tcl.interpreter.call("catch", arguments[-1], "::told")
        end = "RELEASE of_tcl" if not status else "ROLLBACK TO of_tcl; RELEASE of_tcl"
        self.connection.execute(end)
        if status == 1:
            raise ValueError(str(self._tcl.interpreter.call("set", "::told")))

    def do_autocommit(self) -> int:
        return int(self.connection.get_autocommit())

    def do_cache(self, *_: Any) -> None:
        """Nothing that a result depends on."""

    do_config = do_cache


class _Md5:
    def __init__(self) -> None:
        self._hash = hashlib.md5()

    def step(self, *values: Any) -> None:
        for value in values:
            if value is not None:
                self._hash.update(f"{_of_sql(value)}".encode())

    def final(self) -> str:
        return self._hash.hexdigest()


class Run:
    """One script, on volumes if there is an engine."""

    def __init__(self, engine: graft_vfs.Graft | None) -> None:
        self.checks: list[tuple[str, str, str]] = []
        self._engine = engine
        self._tcl = Tcl()
        self._databases: dict[str, Database] = {}
        self._tcl.interpreter.eval(_PRELUDE.read_text())
        for name, function in {
            "check": self._check,
            "sqlite3": self._open,
            "forcedelete": self._delete,
            "delete_file": self._delete,
        }.items():
            self._tcl.command(name, function)

    def script(self, path: Path) -> str:
        """Run a script and return how it ended."""
        call = self._tcl.interpreter.call
        call("set", "::testdir", str(path.parent))
        call("set", "::argv0", str(path))
        call("set", "::argv", "")
        self._open("db", "test.db")
        try:
            self._tcl.interpreter.eval(f"source_file {{{path}}}")
        except tk.TclError as error:
            return "ended" if _FINISHED in str(error) else f"stopped: {error}"
        return "ended"

    def _open(self, name: str, file: Any = "", *options: Any) -> Any:
        if name.startswith("-"):
            return apsw.sqlite_lib_version()
        former = self._databases.pop(name, None)
        if former is not None:
            former.connection.close()
        words = dict(zip(options[::2], options[1::2], strict=False))
        read_only = f"{words.get('-readonly', 0)}" in {"1", "true"}
        flags = apsw.SQLITE_OPEN_URI | (
            apsw.SQLITE_OPEN_READONLY
            if read_only
            else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        )
        connection = apsw.Connection(f"{file}", flags=flags)
        self._databases[name] = Database(self._tcl, name, connection)
        self._tcl.command(name, self._databases[name])
        return ""

    def _delete(self, *names: Any) -> None:
        for name in map(str, names):
            if self._engine is not None and self._engine.catalog.tag_volume(name) is not None:
                self._engine.remove_tag(name)
            for suffix in ("", "-journal", "-wal", "-shm"):
                Path(name + suffix).unlink(missing_ok=True)

    def _check(self, name: Any, found: Any, expected: Any) -> None:
        told, wanted = (
            re.sub(r"\s+", " ", f"{self._text(each)}").strip() for each in (found, expected)
        )
        if _matches(told, wanted):
            outcome = "ok"
        elif told.startswith("ERROR") and _UNSUPPORTED.search(told):
            outcome = "unsupported"
        else:
            outcome = "failed"
        self.checks.append((f"{name}", outcome, told[:500]))

    def _text(self, value: Any) -> str:
        return self._tcl.interpreter.call("format", "%s", value)


def _matches(found: str, wanted: str) -> bool:
    """Compare as tester.tcl does: /…/ is a pattern, ~/…/ one that must not be found."""
    if found == wanted:
        return True
    negated = re.fullmatch(r"~/(.*)/", wanted)
    pattern = re.fullmatch(r"/(.*)/", wanted)
    try:
        if negated:
            return not re.search(negated[1].replace("#", r"\d+"), found)
        return bool(pattern and re.search(pattern[1].replace("#", r"\d+"), found))
    except re.error:
        return False


def main(kind: str, script: str, directory: str) -> None:
    """Run one script in a directory of its own and print what came of it."""
    path = Path(script).resolve()
    os.chdir(directory)
    apsw.allow_missing_dict_bindings(True)
    engine = None
    if kind == "volume":  # Also what is attached to a database in memory is a volume then.
        engine = graft_vfs.register(Config(data_dir=Path("data"), make_default=True))
    run = Run(engine)
    end = run.script(path)
    print(json.dumps({"end": end, "checks": run.checks}), flush=True)
    os._exit(0)  # Some scripts leave threads of Tcl or connections behind.


if __name__ == "__main__":
    main(*sys.argv[1:])
