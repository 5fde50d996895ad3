"""`graft shell`: APSW's SQL shell on a volume; `graft completion`: the words for a shell's Tab."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import apsw
import apsw.shell
import click
from click.shell_completion import get_completion_class

import graft_vfs
from graft_vfs.cli.group import command, interruptible
from graft_vfs.cli.output import echo
from graft_vfs.cli.session import declared, logged, tag_argument
from graft_vfs.engine.config import Config
from graft_vfs.errors import UsageError
from graft_vfs.pager.interrupts import end_on_interrupt
from graft_vfs.reports import Versions
from graft_vfs.suggestions import did_you_mean

_SHELLS = ("bash", "zsh", "fish")
_NO_TABLE = re.compile(r"no such table: (.+)")
_NO_COLUMN = re.compile(r"no such column")
_INTRO = 'Enter ".help" for instructions; PRAGMA graft_status, graft_push and others work here.\n'


@command(
    "shell",
    "graft shell main",
    'graft shell main -c "SELECT count(*) FROM notes"',
    "graft shell main < script.sql",
    'graft shell main --as-of "2 hours ago"',
)
@tag_argument
@click.option("-c", "--command", "commands", multiple=True, metavar="SQL", help="Run SQL and end.")
@click.option("--lsn", metavar="COMMIT", help="Show an LSN, or another commit, read-only.")
@click.option("--as-of", metavar="TIME", help="Show the remote log at a time, read-only.")
@click.option("--read-only", is_flag=True, help="Refuse writes.")
def shell(
    tag: str, commands: tuple[str, ...], lsn: str | None, as_of: str | None, read_only: bool
) -> None:
    """Open a SQL shell on TAG, which must exist.

    With -c, or when standard input is no terminal, statements run without questions and the first
    that fails ends it with exit code 1. `.help` lists the shell's own commands, such as `.mode` and
    `.dump`. COMMIT is given as for `graft show`.
    """
    if lsn is not None and as_of is not None:
        raise UsageError("--lsn and --as-of exclude each other", next_step="give one of them")
    config = dataclasses.replace(Config.load(), hydrate="lazy")
    past = {"lsn": lsn} if lsn is not None else {"as_of": as_of} if as_of is not None else {}
    flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
    with logged(config.log_file), _registered(config) as engine:
        engine.open(tag)
        try:
            connection = graft_vfs.connect(graft_vfs.uri(tag, **past), flags=flags)
        except apsw.Error as error:
            raise declared(error, tag) from error
        with contextlib.closing(connection):
            _run(_Session(db=connection), commands)


@contextlib.contextmanager
def _registered(config: Config) -> Iterator[graft_vfs.Graft]:
    """Register the VFS for the block, in which a connection is open."""
    try:
        with interruptible():
            yield graft_vfs.register(config)
    finally:
        graft_vfs.unregister()


class _Session(apsw.shell.Shell):
    """APSW's shell, made for volumes and for scripts.

    Owner: the command. A person is told what failed and goes on; a script ends with its failure,
    which is told as the other commands tell theirs.
    """

    def _apply_fts(self) -> None:
        """Register APSW's tokenizers, once the schema could be read.

        APSW takes whatever ends its look for FTS5, Ctrl-C included, for the absence of FTS5. So
        what that look would wait for is read first. If it cannot be, the statement that needs it
        fails in the same way, and says so.
        """
        if self._db is not None:
            try:
                self._db.execute("SELECT 1 FROM sqlite_schema LIMIT 0")
            except apsw.Error:
                return
        super()._apply_fts()  # type: ignore[no-untyped-call]

    def _query_details(self, sql: str, bindings: object) -> Any:
        """Prepare SQL; a script's failure is printed by its caller, and not here as well."""
        details = super()._query_details(sql, bindings)
        if details.exception is not None and not self.interactive:
            raise details.exception
        return details

    def handle_exception(self) -> None:
        """Leave the failure of a script to its caller."""
        if not self.interactive:
            raise  # noqa: PLE0704 - it is called where an exception is handled
        super().handle_exception()  # type: ignore[no-untyped-call]

    def process_sql(self, sql: str, *arguments: Any, **named: Any) -> None:
        """Run statements; those of a text with pragmas of graft one by one.

        APSW's shell prepares a text once to see where its first statement ends, and then that
        statement, so that a pragma that is not alone would run twice: pragmas run when prepared.
        Alone it is prepared once, because APSW keeps prepared statements by their text.
        """
        end_on_interrupt(self.db)
        for statement in _statements(sql) if "graft_" in sql.lower() else (sql,):
            super().process_sql(statement, *arguments, **named)


def _statements(sql: str) -> Iterator[str]:
    """Yield the statements of a text, each up to its semicolon."""
    start = 0
    for end, character in enumerate(sql, 1):
        if character == ";" and apsw.complete(sql[start:end]):
            yield sql[start:end].strip()
            start = end
    if rest := sql[start:].strip():
        yield rest


def _run(session: Any, commands: tuple[str, ...]) -> None:
    """Run commands, or else what comes from standard input; the shell's database is closed then."""
    session.interactive = session.interactive and not commands
    where = ""
    try:
        for where in commands:
            session.process_complete_line(where)
        if not commands:
            session.cmdloop(f"{Versions.current()}\n{_INTRO}")
    except (apsw.Error, apsw.shell.Shell.Error) as error:
        failure = declared(error, where or f"line {session.input_line_number}")
        if failure.hint is None:
            failure.hint = _next_step(str(error), session.db)
        raise failure from error
    finally:
        session.db = None, None


def _next_step(message: str, connection: apsw.Connection) -> str:
    """Return what to do about an error of SQL or of one of the shell's commands."""
    if found := _NO_TABLE.search(message):
        name = found[1].removeprefix("main.")
        with contextlib.suppress(apsw.Error):
            tables = connection.execute("SELECT name FROM sqlite_schema WHERE type <> 'index'")
            meant = did_you_mean(name, (str(table) for (table,) in tables))
            return f"{meant}`.tables` lists the tables and views"
    if _NO_COLUMN.search(message):
        return "`.schema` shows the columns; text is quoted with ', names with \""
    if "command" in message.lower():
        return "`.help` lists the shell's own commands"
    return "correct the statement; those before it took effect, unless they were in a transaction"


@command("completion", "graft completion bash >> ~/.bashrc", "graft completion fish | source")
@click.argument("shell_name", metavar="SHELL", type=click.Choice(_SHELLS))
def completion(shell_name: str) -> None:
    """Print a script that completes commands and tags with Tab.

    SHELL is bash, zsh or fish. Read the script from your shell's start-up file.
    """
    kind = get_completion_class(shell_name)
    assert kind is not None
    root = click.get_current_context().find_root().command
    echo(kind(root, {}, "graft", "_GRAFT_COMPLETE").source().rstrip("\n"))


COMMANDS: tuple[click.Command, ...] = (shell, completion)
