"""Registers the VFS, and sets up connections for it."""

from __future__ import annotations

import os
import sqlite3
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import apsw

from graft_vfs.engine.config import Config
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import ForkedProcessError, GraftError
from graft_vfs.local.files import importing
from graft_vfs.local.fork import Step, at_fork
from graft_vfs.pager import unread
from graft_vfs.pager.snapshot_file import SnapshotFile
from graft_vfs.pager.sqlite_errors import Interrupted, to_python
from graft_vfs.pager.tagged_file import TaggedFile
from graft_vfs.pager.volume_file import VolumeFile
from graft_vfs.tags import check_tag
from graft_vfs.vfs.file_system import FileSystem
from graft_vfs.vfs.names import uri_of

if TYPE_CHECKING:
    from graft_vfs.vfs.sqlite3_bridge import Bridge

VFS_NAME = "graft"
_NAMES_OF_OURS = {
    f"{kind.__module__}.{kind.__qualname__}" for kind in (SnapshotFile, TaggedFile, VolumeFile)
} | {VFS_NAME}
"""The names of our files' classes in APSW, and the VFS name in a shared library."""
_lock = threading.Lock()
_registered: FileSystem | None = None
_bridges: dict[str, Bridge] = {}


def register(config: Config | None = None) -> Graft:
    """Register the VFS `graft` with APSW's SQLite and return its engine.

    With no `config`, it is loaded from graft.toml and the environment. A second call without
    `config` returns the registered engine; with `config`, it replaces the engine for later
    connections. In a forked child, where the parent's engine is unusable, a call without `config`
    opens an engine with the parent's settings. Raises ConfigError, StoreError, LocalStorageError.
    """
    global _registered  # noqa: PLW0603 - SQLite's list of VFSs is global, too
    with _lock:
        if _registered is not None and config is None:
            try:
                _registered.engine.check_process()
            except ForkedProcessError:
                config = _registered.engine.config
            else:
                return _registered.engine
        config = config or Config.load()
        engine = Graft(config)
        if _registered is None and _set_up not in apsw.connection_hooks:
            apsw.connection_hooks.append(_set_up)
        _registered = FileSystem(engine, name=VFS_NAME, make_default=config.make_default)
        return engine


def enable_sqlite3(module: ModuleType = sqlite3, *, make_default: bool | None = None) -> Graft:
    """Register the VFS `graft` with the SQLite library that `sqlite3` uses; return the engine.

    Then `sqlite3.connect("file:main?vfs=graft", uri=True)` opens a tag, as does everything that is
    built on `sqlite3`. With `make_default` (default: the configuration's), every file name is a
    tag. `module` may be another module with sqlite3's interface. Idempotent. Raises UsageError if
    the library cannot be accessed, and the errors of `register`.
    """
    engine = register()
    with _lock:
        # Imported here because cffi parses C declarations, which users of APSW alone do not need.
        with importing():
            from graft_vfs.vfs.sqlite3_bridge import Bridge  # noqa: PLC0415

        bridge = _bridges.get(module.__name__)
        if bridge is None:
            bridge = _bridges[module.__name__] = Bridge(module, VFS_NAME, _current)
        bridge.register(
            make_default=engine.config.make_default if make_default is None else make_default
        )
    return engine


def sqlite3_failure(module: ModuleType = sqlite3) -> str | None:
    """Return the cause of this thread's last failed call into `sqlite3`, and clear it.

    None if nothing in the VFS failed. `sqlite3` itself reports only SQLite's result code.
    """
    return _bridges[module.__name__].take_failure()


def _current() -> FileSystem:
    """Return the registered file system, for libraries other than APSW's."""
    file_system = _registered
    if file_system is None:
        raise apsw.CantOpenError("graft_vfs was unregistered")
    return file_system


def unregister() -> None:
    """Unregister the VFS and close its engine; close all connections first."""
    global _registered  # noqa: PLW0603
    with _lock:
        for bridge in _bridges.values():
            bridge.unregister()
        if _registered is not None:
            _registered.unregister()
            _registered.engine.close()
            _registered = None


def connect(
    name: str | os.PathLike[str],
    *,
    remote: str | None = None,
    lsn: str | int | None = None,
    as_of: str | None = None,
    mode: str | None = None,
    **arguments: Any,
) -> apsw.Connection:
    """Open a tag, or a URI such as `file:main?vfs=graft&lsn=7`, with the VFS registered.

    `remote`, `lsn`, `as_of` and `mode` are the URI parameters of the same names, see `uri`;
    `arguments` are apsw.Connection's. Raises the errors of `register`. An error of SQLite is both a
    GraftError and an apsw.Error, with at most one cause.
    """
    register()
    name = os.fspath(name)
    asked = {"remote": remote, "lsn": lsn, "as_of": as_of, "mode": mode}
    parameters = {key: str(value) for key, value in asked.items() if value is not None}
    flags = arguments.pop(
        "flags",
        apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE,
    )
    # Otherwise ATTACH and VACUUM INTO would treat 'file:/x.db?vfs=unix' as a tag.
    flags |= apsw.SQLITE_OPEN_URI
    if name.startswith("file:"):
        if "vfs=" not in name:
            arguments.setdefault("vfs", VFS_NAME)
        if parameters:
            name = f"{name}{'&' if '?' in name else '?'}{_query(parameters)}"
    else:
        check_tag(name)
        if arguments.setdefault("vfs", VFS_NAME) == VFS_NAME:
            # The URI means a volume, even if the name looks like a file.
            name = uri(name, **parameters)
    try:
        return apsw.Connection(name, flags=flags, **arguments)
    except Interrupted:
        raise
    except apsw.Error as error:
        opening, cause = to_python(error), error.__cause__
    raise opening from (cause.__cause__ if isinstance(cause, GraftError) else None)


def _query(parameters: dict[str, str]) -> str:
    return "&".join(f"{key}={quote(value, safe='')}" for key, value in parameters.items())


def uri(tag: str, **parameters: str) -> str:
    """Return the URI that opens a tag with URI parameters.

    vfs: The VFS to use. Example: `file:main?vfs=graft`.
    remote: If there is no such tag, make it as a clone of a ref, a log id, or a percent-encoded
        URL of either, which may be on another remote than the configured one (see
        `graft help datasets`); a volume without commits becomes that clone, and one with commits
        on another log is an error, as is a ref that does not exist, unless the volume's first
        push creates it. A ref that this machine has seen costs no request. Example:
        `file:main?vfs=graft&remote=main`.
    lsn: The database as of a commit, read-only: an LSN of the remote log, LOG:LSN, `HEAD~2`,
        `local:3` for an unpushed commit, or a time. Example: `file:main?vfs=graft&lsn=7`.
    as_of: The newest remote commit at or before a time, read-only. The time is in ISO 8601, in UTC
        if it names no zone, or a number of seconds, minutes, hours, days or weeks ago. A time
        without a fraction includes its whole second, so the times that `graft log` prints select
        those commits. Any other text is read as `lsn`. Example:
        `file:main?vfs=graft&as_of=2 hours ago`.
    mode: SQLite's parameter: `ro` is read-only, and with `remote` clones a tag that does not exist;
        `rw` creates no new tag, `rwc` (default) does create one. Example:
        `file:main?vfs=graft&mode=ro`.
    """
    check_tag(tag)
    query = _query(parameters)
    return f"{uri_of(tag, VFS_NAME)}{'&' if query else ''}{query}"


def _set_up(connection: apsw.Connection) -> None:
    """Choose the cheapest journal mode; a connection to another VFS is not changed."""
    # `open_vfs` is the caller's argument, which a URI's `vfs=` overrides.
    if connection.vfsname("main") in _NAMES_OF_OURS:
        for statement in unread.SET_UP:
            connection.execute(statement).fetchall()


def _renew_lock() -> None:
    """Replace the lock in a forked child: no thread there can release the parent's lock."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


at_fork(Step.REGISTRY, in_child=_renew_lock)
