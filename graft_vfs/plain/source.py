"""A plain SQLite file as a source of pages, read by a child process; see `plain.reader`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib import resources
from multiprocessing import spawn
from pathlib import Path
from typing import IO, BinaryIO, cast

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import BusyError, DamageError, GraftError, LocalStorageError, UsageError
from graft_vfs.local import layout
from graft_vfs.local.files import storage_errors
from graft_vfs.local.locks import using

BUSY_TIMEOUT_MS = 2000
"""How long to wait for a file that another program is writing to."""
_END_SECONDS = 2.0
_START = "import sys; sys.path[:] = sys.argv[5:]; exec(compile(sys.argv[4], 'reader.py', 'exec'))"
_HEADER_BYTES_MAX = 4096
_MESSAGE_BYTES_MAX = 4096
_COPIED_BYTES = 1 << 20


class PlainSource:
    """The pages of a plain database at one point in time: `pages` of `page_size` bytes.

    Owner: the import. Thread rule: one thread. Memory: one page and a pipe.
    """

    def __init__(self, path: Path, output: IO[bytes], messages: IO[bytes]) -> None:
        """Wait for the child's first line; raises the error that the child reports."""
        self._path = path
        self._output = output
        self._messages = messages
        line = output.readline(_HEADER_BYTES_MAX)
        if not line.endswith(b"\n"):
            raise self._failure()
        header = json.loads(line)
        self.page_size: int = header["page_size"]
        self.pages: int = header["pages"]

    def images(self) -> Iterator[bytes]:
        """Yield the image of each page, ascending; raises DamageError, LocalStorageError."""
        for _ in range(self.pages):
            image = self._output.read(self.page_size)
            if len(image) != self.page_size:
                raise self._failure()
            yield image

    def _failure(self) -> GraftError:
        """Return the error that the child reported before it ended, or its other output."""
        self._output.read()  # Until the child has closed it, so that the report is complete.
        self._messages.seek(0)
        text = self._messages.read(_MESSAGE_BYTES_MAX).decode(errors="replace").strip()
        last = text.rpartition("\n")[2]
        try:
            report = json.loads(last)
        except ValueError:
            report = None
        if isinstance(report, Mapping):
            return _declared(self._path, str(report.get("kind")), str(report.get("text")))
        return LocalStorageError(
            f"{self._path}: the process that reads it ended early: {last or 'it was killed'}",
            next_step=Hint(
                "try again; if that fails, run ", Advice.IMPORT_ELSEWHERE(FILE=self._path)
            ),
        )


def _declared(path: Path, kind: str, text: str) -> GraftError:
    """Return the declared error for what the child reported."""
    if kind == "usage":
        return UsageError(f"{path} cannot be imported: {text}", next_step="check the path")
    if kind == "busy":
        return BusyError(
            f"{path} is being written to", next_step="end that transaction and try again"
        )
    if kind == "not a database":
        return DamageError(
            f"{path} is not a valid SQLite database: {text}",
            next_step="check the path; an encrypted database has to be decrypted first",
        )
    if kind == "damage":
        return DamageError(
            f"{path} is not a valid SQLite database: {text}",
            next_step="check it with PRAGMA integrity_check, or recover it first",
        )
    if kind == "short beside a WAL":
        return DamageError(
            f"{path} is not a valid SQLite database: {text}",
            next_step="run PRAGMA wal_checkpoint(TRUNCATE) on it with SQLite and try again",
        )
    return LocalStorageError(
        f"{path}: {text}",
        next_step="check its permissions; a file in WAL mode also needs a directory that can be "
        "written, so copy it there, with its -wal file",
    )


def require_file(path: Path) -> None:
    """Raise UsageError unless this is a regular file, LocalStorageError if that is unknown."""
    with storage_errors(path):
        try:
            # Not `is_file`: since Python 3.14 it treats every error as an absent file.
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UsageError(f"there is no file {path}", next_step="check the path") from error
    if stat.S_ISDIR(mode):
        raise UsageError(
            f"{path} is a directory", next_step=f"name a database file, such as {path / 'app.db'}"
        )
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is not a regular file", next_step="copy it to one")


@contextlib.contextmanager
def spooled(stream: BinaryIO, directory: Path) -> Iterator[Path]:
    """Yield a file with a stream's content; it is deleted when the block ends.

    SQLite needs random access and cannot read a pipe. Raises LocalStorageError, UsageError for an
    empty stream.
    """
    with storage_errors(directory):
        folder = tempfile.TemporaryDirectory(
            prefix=layout.SPOOL_PREFIX, dir=directory, ignore_cleanup_errors=True
        )
    with folder as name, using(Path(name)):
        path = Path(name) / "standard input"  # Its name in errors.
        with storage_errors(directory), path.open("xb") as file:
            shutil.copyfileobj(stream, file, _COPIED_BYTES)
            size = file.tell()
        if not size:
            raise UsageError("there is nothing on standard input", next_step="check the pipe")
        yield path


@contextlib.contextmanager
def reading(path: Path, scratch: Path) -> Iterator[PlainSource]:
    """Yield the database in a file, including its WAL, while a child has it locked.

    `scratch` is a directory for a copy, which is made only if the WAL is not empty. Writers wait
    until the block ends. Raises UsageError if the file is no database, DamageError if it is not
    valid, BusyError if another program writes to it, LocalStorageError.
    """
    copy = layout.new_import(scratch)
    require_file(path)
    with storage_errors(scratch):
        opened = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - the next line closes it
    with opened as messages:
        child = _start(path, copy, messages)
        try:
            yield PlainSource(path, cast("IO[bytes]", child.stdout), messages)
        finally:
            _end(child)
            copy.unlink(missing_ok=True)


def _start(path: Path, copy: Path, messages: IO[bytes]) -> subprocess.Popen[bytes]:
    python = _python()
    with storage_errors(Path(python)):
        program = resources.files("graft_vfs.plain").joinpath("reader.py").read_text("utf-8")
        arguments = [str(path), str(copy), str(BUSY_TIMEOUT_MS), program, *map(str, sys.path)]
        # -S: the child gets the parent's sys.path, and need not search for packages.
        return subprocess.Popen(  # noqa: S603 - no shell, and arguments of our own
            [python, "-S", "-c", _START, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=messages,
        )


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child: it closes the file when its pipe is closed; kill it if it is stuck."""
    for pipe in (child.stdin, child.stdout):
        cast("IO[bytes]", pipe).close()
    try:
        child.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _python() -> str:
    """Return the Python interpreter for the child; raises UsageError if there is none.

    In a frozen program, or inside another server, `sys.executable` is not an interpreter: running
    it would start that program again. Such a program sets one as for `multiprocessing`.
    """
    named = spawn.get_executable()
    chosen = os.fsdecode(named) if named else ""
    if chosen and chosen != sys.executable:
        return chosen
    if not getattr(sys, "frozen", False):
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        for candidate in (chosen, str(Path(sys.base_exec_prefix) / "bin" / version)):
            is_python = Path(candidate).name.lower().startswith(("python", "pypy"))
            if is_python and os.access(candidate, os.X_OK):
                return candidate
    raise UsageError(
        f"this program ({chosen or 'unnamed'}) has no Python interpreter to read the file",
        next_step=Hint(
            "run ",
            Advice.IMPORT_ELSEWHERE,
            ", or name an interpreter with multiprocessing.set_executable",
        ),
    )
