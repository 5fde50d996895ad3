"""The doctor's local checks: SQLite libraries, disk, catalog, volumes, leftovers."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import apsw

from graft_vfs.cli.check import Check, Level, problem
from graft_vfs.cli.output import without_credentials
from graft_vfs.engine.config import Config, RemoteConfig
from graft_vfs.engine.graft import Graft
from graft_vfs.errors import GraftError
from graft_vfs.ids import VolumeId
from graft_vfs.local import file_systems, layout
from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.local.catalog.descriptor import MOVE_AWAY, PUT_BACK
from graft_vfs.local.files import disk_bytes
from graft_vfs.maintenance.adopt import empty_error
from graft_vfs.maintenance.fsck import logs_of
from graft_vfs.maintenance.leftovers import is_ours, leftovers
from graft_vfs.reports import LostVolume, size_text
from graft_vfs.store.none import NoStore
from graft_vfs.sync.proof import Standing, examine, mismatch
from graft_vfs.vfs.file_system import FileSystem

_SCRATCH_VFS = "graft-doctor"
_STATEMENTS = (
    "CREATE TABLE t(x)",
    "INSERT INTO t VALUES('sound')",
    "PRAGMA integrity_check",
    "SELECT x FROM t",
)
_ANSWER = "sound"
_LIBRARY_STEP = "install graft-vfs in a separate environment; if that does not help, report it"
_CATALOG_STEP = f"{MOVE_AWAY}, then adopt each volume with `graft adopt`"
_FREE_BYTES_LOW = 1 << 30
_FREE_BYTES_MIN = 64 << 20


# SQLite -----------------------------------------------------------------------------------------


def sqlite_libraries() -> Iterator[Check]:
    """Write and read a volume through APSW's SQLite, and through the one of Python's `sqlite3`."""
    libraries: tuple[tuple[str, str, Callable[[FileSystem], object]], ...] = (
        ("apsw", apsw.sqlite_lib_version(), _ask_apsw),
        ("sqlite3", sqlite3.sqlite_version, _ask_sqlite3),
    )
    for name, version, ask in libraries:
        try:
            with _scratch_volume() as file_system:
                answer = ask(file_system)
        except GraftError as error:
            yield problem(name, error)
        except (apsw.Error, sqlite3.Error, OSError) as error:
            yield Check(name, Level.PROBLEM, f"SQLite {version}: {error}", _LIBRARY_STEP)
        else:
            if answer == _ANSWER:
                yield Check(name, Level.OK, f"SQLite {version} writes and reads volumes")
            else:
                text = f"SQLite {version} reads {answer!r} where {_ANSWER!r} was written"
                yield Check(name, Level.PROBLEM, text, _LIBRARY_STEP)


@contextlib.contextmanager
def _scratch_volume() -> Iterator[FileSystem]:
    """Yield a file system on a temporary data directory."""
    with (
        tempfile.TemporaryDirectory(prefix="graft-doctor-") as directory,
        contextlib.closing(Graft(Config(data_dir=Path(directory)))) as engine,
    ):
        file_system = FileSystem(engine, name=_SCRATCH_VFS)
        try:
            yield file_system
        finally:
            file_system.unregister()


def _ask_apsw(_: FileSystem) -> object:
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    with contextlib.closing(apsw.Connection("doctor", flags=flags, vfs=_SCRATCH_VFS)) as connection:
        return [connection.execute(statement).get for statement in _STATEMENTS][-1]


def _ask_sqlite3(file_system: FileSystem) -> object:
    # Imported here because cffi parses C declarations, which takes time.
    from graft_vfs.vfs.sqlite3_bridge import Bridge  # noqa: PLC0415

    bridge = Bridge(sqlite3, _SCRATCH_VFS, lambda: file_system)
    bridge.register(make_default=False)
    try:
        name = f"file:doctor?vfs={_SCRATCH_VFS}"
        with contextlib.closing(sqlite3.connect(name, uri=True)) as connection:
            answers = [connection.execute(statement).fetchone() for statement in _STATEMENTS]
        return answers[-1][0]
    finally:
        bridge.unregister()


# The disk ---------------------------------------------------------------------------------------


def data_directory(directory: Path, allowed: Collection[str] = ()) -> Check:
    """Check that the directory, or its nearest existing parent, is writable.

    It is refused on an unsuitable file system that is not `allowed`.
    """
    name = "data directory"
    existing = _existing(directory)
    try:
        file_systems.check_data_directory(existing, allowed)
        with tempfile.TemporaryFile(dir=existing):
            pass
        mount = file_systems.mount_of(existing)
    except GraftError as error:
        return problem(name, error)
    except OSError as error:
        return Check(
            name,
            Level.PROBLEM,
            f"{existing} cannot be written: {error.strerror}",
            "correct its permissions, or set data_dir",
        )
    where = "" if mount is None else f", on {mount}"
    if existing != directory.absolute():
        return Check(name, Level.OK, f"{directory} is made when it is needed{where}")
    return Check(name, Level.OK, f"{directory} can be written{where}")


def disk_space(directory: Path) -> Check:
    """Check that there is space for commits."""
    free = shutil.disk_usage(_existing(directory)).free
    level, step = Level.OK, None
    if free < _FREE_BYTES_LOW:
        level, step = Level.WARNING, "make room, or set cache_max_bytes"
    if free < _FREE_BYTES_MIN:
        level = Level.PROBLEM
    return Check("disk space", level, f"{size_text(free)} free", step)


def _existing(directory: Path) -> Path:
    existing = directory.absolute()
    while not existing.exists():
        existing = existing.parent
    return existing


# Catalog and volumes ----------------------------------------------------------------------------


def catalog_and_volumes(config: Config) -> Iterator[Check]:
    """Check the data directory, without the remote."""
    local = dataclasses.replace(config, remote=RemoteConfig(), hydrate="lazy", autosync=0.0)
    try:
        with contextlib.closing(Graft(local, recovering=True)) as engine:
            volumes = [row.id for row in engine.catalog.volumes()]
            lost = engine.lost_volumes()
            yield from _catalog(engine.catalog, volumes, lost)
            yield from _lost(lost)
            yield from _volumes(engine)
            yield from _syncs(engine.catalog, volumes)
            yield from _leftovers(config.data_dir.absolute(), engine.catalog)
    except GraftError as error:
        yield problem("catalog", error)


def may_have_bases(directory: Path) -> bool:
    """Return False if certainly no volume of a data directory is based on a remote commit."""
    path = directory.absolute() / layout.CATALOG
    if not path.exists():
        return False
    try:
        with contextlib.closing(Catalog(path, writable=False)) as catalog:
            return catalog.has_bases()
    except GraftError:
        return True


def histories(config: Config) -> Iterator[Check]:
    """Compare each log that a volume stands on with its remote: is it the one that is known here?

    One request a log. A wrong bucket, a restored backup and a replaced history have their own text.
    """
    quiet = dataclasses.replace(config, hydrate="lazy", autosync=0.0)
    checked, wrong = 0, 0
    try:
        with contextlib.closing(Graft(quiet, recovering=True)) as engine:
            for log_id in logs_of(engine.catalog, engine.logs):
                if isinstance(engine.remotes.of(log_id), NoStore):
                    continue
                checked += 1
                state = examine(engine.logs, log_id)
                if state.standing is not Standing.SAME:
                    wrong += 1
                    yield problem("history", mismatch(state))
    except GraftError as error:
        yield problem("history", error)
        return
    if checked and not wrong:
        yield Check(
            "history", Level.OK, f"the remote has the newest known commit of each log ({checked})"
        )


def _catalog(
    catalog: Catalog, volumes: Sequence[VolumeId], lost: Sequence[LostVolume]
) -> Iterator[Check]:
    if lost and not volumes:
        yield problem("catalog", empty_error(catalog.path, [each.volume for each in lost]))
        return
    problems = catalog.problems()
    for text in problems:
        yield Check("catalog", Level.PROBLEM, text, _CATALOG_STEP)
    if not problems:
        text = f"sound; tags: {len(catalog.tags())}, volumes: {len(volumes)}"
        yield Check("catalog", Level.OK, text)


def _lost(lost_volumes: Sequence[LostVolume]) -> Iterator[Check]:
    """List volumes whose current state the catalog lacks."""
    for lost in lost_volumes:
        was = f" (it was {', '.join(lost.tags)})" if lost.tags else ""
        what = "is older than it" if lost.is_known else "does not know it; it may hold commits"
        yield Check(
            f"volume {lost.volume}",
            Level.PROBLEM,
            f"the catalog {what}{was}",
            f"{PUT_BACK}, or run `graft adopt {lost.volume}"
            + ("`" if lost.is_known or lost.tags else " TAG`"),
        )


def _volumes(engine: Graft) -> Iterator[Check]:
    """Open every volume; a line for each that fails, or one for all."""
    opened, failed = 0, 0
    for row, found in engine.examined():
        if isinstance(found, GraftError):
            failed += 1
            yield problem(engine.catalog.title(row.id), found)
        else:
            opened += 1
    if opened and not failed:
        yield Check("volumes", Level.OK, f"each of them opens ({opened})")


def _syncs(catalog: Catalog, volumes: list[VolumeId]) -> Iterator[Check]:
    """Report pushes of unknown outcome, and failed syncs."""
    step = "push or pull it again when the cause is gone"
    for volume in volumes:
        name = catalog.title(volume)
        if catalog.pending_push(volume) is not None:
            yield Check(name, Level.WARNING, "a push has not been settled", step)
        last_error = catalog.volume(volume).last_error
        if last_error is not None:
            text = f"its last sync failed: {without_credentials(last_error)}"
            yield Check(name, Level.WARNING, text, step)


# Leftovers --------------------------------------------------------------------------------------


def _leftovers(directory: Path, catalog: Catalog) -> Iterator[Check]:
    """List files that the catalog does not have, with their size; crashes leave such files."""
    found = list(leftovers(directory, catalog))
    for path, what in found:
        text = f"{path} ({size_text(disk_bytes(path))}) {what}"
        step = "`graft gc --local` removes it" if is_ours(path) else "move it elsewhere"
        yield Check("leftovers", Level.WARNING, text, step)
    if not found:
        yield Check("leftovers", Level.OK, "none")
