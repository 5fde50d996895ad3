"""Where the bytes of a data directory are: branch files, cached pages, the catalog. No request.

Each file counts once, by the blocks that it takes. The cached pages of a log are given to the first
volume that needs them, in the order of the report; those that none needs are the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from graft_vfs.errors import GraftError
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local import layout
from graft_vfs.local.catalog.rows import VolumeRow
from graft_vfs.local.files import disk_bytes
from graft_vfs.reports import Report, size_text
from graft_vfs.volume.context import Context


@dataclass(frozen=True, slots=True, repr=False)
class VolumeUsage(Report):
    """What a volume takes on disk.

    `alive_bytes` are the newest images of pages that local commits changed, `dead_bytes` the rest
    of the current branch file: superseded or pushed images, and space for the next commits. Both
    are None if the volume cannot be read, which `problem` explains. `kept_bytes` are the files of
    kept branches. `messages_bytes` are those of local
    commits.
    """

    volume: VolumeId
    tags: tuple[str, ...]
    alive_bytes: int | None
    dead_bytes: int | None
    cache_bytes: int
    messages_bytes: int
    kept_bytes: int
    total_bytes: int
    problem: str | None = None

    @property
    def name(self) -> str:
        """Its tags, or its id if it has none."""
        return ", ".join(self.tags) or f"({self.volume})"

    def __str__(self) -> str:
        return f"{self.name}: {size_text(self.total_bytes)}"


@dataclass(frozen=True, slots=True, repr=False)
class DiskUsage(Report):
    """What a data directory takes on disk, or, in a report on one tag, its volume alone.

    `rest_bytes` are cached pages that no volume needs, and remains of interrupted work:
    `reclaim` removes them.
    """

    volumes: tuple[VolumeUsage, ...]
    catalog_bytes: int | None
    rest_bytes: int | None
    total_bytes: int

    def __str__(self) -> str:
        return f"{size_text(self.total_bytes)} on disk"


def disk_usage(context: Context, volume: VolumeId | None = None) -> DiskUsage:
    """Return what a volume takes on disk, or all volumes, those with tags first.

    Opens each volume. One that cannot be read has a row that says why.
    """
    catalog, root = context.catalog, context.volumes.directory.parent
    tags: dict[VolumeId, list[str]] = {}
    for tag, named in catalog.tags():
        tags.setdefault(named, []).append(tag)
    rows = [row for row in catalog.volumes() if volume in {None, row.id}]
    rows.sort(key=lambda row: (row.id not in tags, tags.get(row.id, []), row.id))
    counted: set[LogId] = set()
    found = tuple(_usage(context, row, tuple(tags.get(row.id, ())), counted) for row in rows)
    together = sum(each.total_bytes for each in found)
    if volume is not None:
        return DiskUsage(found, None, None, together)
    total = disk_bytes(root)
    catalog_bytes = sum(disk_bytes(path) for path in root.glob(f"{layout.CATALOG}*"))
    # Directories of the data directory itself take a few blocks, which belong to no volume.
    return DiskUsage(found, catalog_bytes, max(0, total - together - catalog_bytes), total)


def _usage(
    context: Context, row: VolumeRow, tags: tuple[str, ...], counted: set[LogId]
) -> VolumeUsage:
    directory = context.directory_of(row.id)
    alive: int | None = None
    dead: int | None = None
    problem = None
    branch = sum(disk_bytes(path) for path in _branch_files(directory))
    try:
        with context.volumes.look(row.id).pinned() as snapshot:
            alive = len(snapshot.local_pages()) * snapshot.page_size
            current = _size(directory / snapshot.branch.row.file)
            dead = max(0, current - alive)
    except GraftError as error:
        problem, current = str(error), branch
    cached = sum(disk_bytes(path) for path in _caches(context, row, counted))
    return VolumeUsage(
        row.id,
        tags,
        alive,
        dead,
        cached,
        _size(directory / layout.MESSAGES),
        branch - current,
        disk_bytes(directory) + cached if directory.exists() else cached,
        problem,
    )


def _branch_files(directory: Path) -> list[Path]:
    return layout.branch_files(directory) if directory.exists() else []


def _size(path: Path) -> int:
    return disk_bytes(path) if path.exists() else 0


def _caches(context: Context, row: VolumeRow, counted: set[LogId]) -> Iterator[Path]:
    """Yield the cache directories of the logs that a volume needs and that were not counted."""
    caches = context.volumes.directory.parent / layout.CACHE
    for branch in context.catalog.branches(row.id):
        try:
            logs = context.logs.lineage(row.remote) | context.logs.lineage(branch.log_id)
        except GraftError:
            logs = {row.remote, branch.log_id}
        for log_id in sorted(logs - counted):
            counted.add(log_id)
            path = caches / str(log_id)
            if path.exists():
                yield path
