"""What a data directory has and no volume needs, and its removal. No request.

    interrupted   volumes whose making or removal was interrupted, copies of files to import
    unneeded      cached pages, commits, names and refs of logs that no volume is based on
    dead          superseded images in branch files, unused pages of the catalog

None of it is the only copy of a commit. Whatever may be in use has a lock that its process holds: a
volume's directory, which is locked while the volume is open or being made, the directory of a copy,
and the writer lock. What cannot be locked is kept. Pages of a cache may be deleted at any time.

Each step is complete in itself, so a crash leaves what the next call removes.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from graft_vfs.errors import GraftError
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local import layout
from graft_vfs.local.catalog.catalog import Catalog
from graft_vfs.local.catalog.descriptor import holds_volume
from graft_vfs.local.files import disk_bytes
from graft_vfs.local.locks import alone_in
from graft_vfs.maintenance.adopt import lost_volumes
from graft_vfs.pages import RemoteLsn
from graft_vfs.reports import Report, size_text
from graft_vfs.view.logs import Logs
from graft_vfs.volume.context import Context

_logger = logging.getLogger(__name__)

_FIRST = RemoteLsn(1)
_CATALOG_SPARE_BYTES = 256 << 10
"""The catalog is rewritten if it has more unused pages than this, and than a quarter of it."""


@dataclass(frozen=True, slots=True, repr=False)
class Reclaimed(Report):
    """Something that no volume needs: whether it was, or would be, `removed`; if not, the reason.

    `disk_bytes` is what it takes on disk.
    """

    what: str
    removed: bool
    dry_run: bool
    disk_bytes: int
    kept_because: str | None = None

    def __str__(self) -> str:
        if self.kept_because is not None:
            return f"Kept {self.what}: {self.kept_because}."
        verb = "Would remove" if self.dry_run else "Removed"
        return f"{verb} {self.what} ({size_text(self.disk_bytes)})."


def leftovers(directory: Path, catalog: Catalog) -> Iterator[tuple[Path, str]]:
    """Yield the files of a data directory that are not in its catalog, with a description."""
    volumes = {str(row.id): row.id for row in catalog.volumes()}
    for path in sorted((directory / layout.VOLUMES).glob("*")):
        if path.name in volumes:
            yield from ((copy, _COPY) for copy in layout.imports(path))
        elif layout.volume_of(path.name) != path.name:
            yield path, "is a volume whose removal was interrupted"
        elif not (path.is_dir() and VolumeId.looks_like(path.name) and holds_volume(path)):
            # A volume with commits is no leftover: it can be adopted.
            yield path, "is a volume whose making was interrupted"
    for path in sorted((directory / layout.CACHE).glob("*")):
        if not (LogId.looks_like(path.name) and catalog.knows_log(LogId.parse(path.name))):
            yield path, "caches pages of a log that the catalog does not know"
    for path in layout.spools(directory):
        yield path, _COPY


_COPY = "is the copy of an import that was interrupted"


def is_ours(path: Path) -> bool:
    """Return True if a leftover has a name that this program gives."""
    if path.parent.name == layout.CACHE:
        return LogId.looks_like(path.name)
    name = layout.volume_of(path.name)
    return path.parent.name != layout.VOLUMES or VolumeId.looks_like(name)


def remove(
    context: Context,
    *,
    dry_run: bool = False,
    besides: Collection[VolumeId] = (),
    compacts: bool = True,
) -> list[Reclaimed]:
    """Remove what no volume needs; with `dry_run`, only report it. `besides` are needed no more.

    Without `compacts`, branch files are left as they are, and no volume is opened. Raises
    ReadOnlyError.
    """
    if not dry_run:
        context.catalog.require_writable()
    directory = context.volumes.directory.parent
    found = [*_interrupted(directory, context.catalog, dry_run=dry_run)]
    # A volume that the catalog lacks, or has in an older state, may need any log.
    if not lost_volumes(context.catalog, context.volumes.directory):
        found += _unneeded(context.logs, directory / layout.CACHE, besides, dry_run=dry_run)
    found += _dead_images(context, dry_run=dry_run) if compacts else ()
    spare = context.catalog.spare_bytes()
    if spare > _CATALOG_SPARE_BYTES:
        if not dry_run:
            context.catalog.shrink()
        found.append(_done(f"unused pages of {layout.CATALOG}", spare, dry_run=dry_run))
    return found


def _done(what: str, size: int, *, dry_run: bool) -> Reclaimed:
    return Reclaimed(what, not dry_run, dry_run, size)


def _interrupted(directory: Path, catalog: Catalog, *, dry_run: bool) -> Iterator[Reclaimed]:
    """Remove what was interrupted, unless a process has it locked and goes on with it."""
    for path, is_what in leftovers(directory, catalog):
        if path.parent.name == layout.CACHE or not is_ours(path):
            continue
        size = disk_bytes(path)
        what = f"{path}, which {is_what}"
        with alone_in(path if path.is_dir() else path.parent) as is_alone:
            if not is_alone:
                yield Reclaimed(what, False, dry_run, size, "a process is using it")
                continue
            # Now that it is locked: a volume may have been made in the meantime.
            if (path, is_what) not in leftovers(directory, catalog):
                continue
            if not dry_run:
                _delete(path)
        yield _done(what, size, dry_run=dry_run)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# Logs that no volume needs ------------------------------------------------------------------------


def needed_logs(logs: Logs, besides: Collection[VolumeId] = ()) -> set[LogId]:
    """Return the logs that volumes push to or are based on, and the ancestors of these.

    Of a log whose descent is not known, these are the logs that its pages are from.
    """
    catalog = logs.catalog
    named: set[LogId] = set()
    for row in catalog.volumes():
        if row.id in besides:
            continue
        pending = catalog.pending_push(row.id)
        branches = catalog.branches(row.id)
        named |= {row.remote, *(branch.log_id for branch in branches)}
        for branch in branches:
            lineage = logs.lineage(branch.log_id)
            if branch.base and any(logs.header(each, _FIRST) is None for each in lineage):
                table = logs.log_view(branch.log_id, branch.base).table
                named |= {source.log_id for _, _, source, _ in table.runs()}
        named |= set() if pending is None else {pending.log_id}
    return {each for log_id in named for each in logs.lineage(log_id)}


def _unneeded(
    logs: Logs, caches: Path, besides: Collection[VolumeId], *, dry_run: bool
) -> Iterator[Reclaimed]:
    cached = {path.name for path in caches.glob("*") if LogId.looks_like(path.name)}

    def unneeded() -> dict[LogId, int]:
        needed = needed_logs(logs, besides)
        found = {LogId.parse(name) for name in cached} | logs.catalog.logs_with_facts()
        return {log_id: logs.catalog.facts_bytes(log_id) for log_id in found - needed}

    found = unneeded() if dry_run else logs.forget_logs(unneeded)
    for log_id, known in sorted(found.items()):
        path = caches / str(log_id)
        size = disk_bytes(path) if str(log_id) in cached else 0
        if not dry_run:
            _delete(path)
        what = f"cached pages and known commits of log {log_id}"
        yield _done(what, known + size, dry_run=dry_run)


# Dead space in files that are needed --------------------------------------------------------------


def _dead_images(context: Context, *, dry_run: bool) -> Iterator[Reclaimed]:
    for row in context.catalog.volumes():
        what = f"dead images in the branch file of {context.catalog.title(row.id)}"
        with contextlib.suppress(GraftError):  # The doctor, and its own next use, say why.
            volume = context.volumes.look(row.id)
            dead = volume.spare_bytes()
            if not dead:
                continue
            if dry_run or volume.compact():
                yield _done(what, dead, dry_run=dry_run)
            else:
                yield Reclaimed(what, False, False, dead, "a process is writing, or a push settles")
