"""Adopts volumes: adds an existing volume's directory to a catalog that lacks its current state.

If a catalog is lost, restored from a backup, or opened without its WAL, the volumes' files have
newer information. A branch's base is read from `volume.json`. A volume of an earlier version has no
such file until this version opens it; it is adopted if its log alone has every page, or with a base
that the caller names.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import (
    AlreadyExistsError,
    CorruptCatalogError,
    CorruptLogError,
    DamageError,
    GraftError,
    HistoryMismatchError,
    LocalStorageError,
    NotFoundError,
    UsageError,
)
from graft_vfs.format.commit import CommitHeader
from graft_vfs.ids import LogId, VolumeId
from graft_vfs.local import head, layout
from graft_vfs.local.branch_file import held
from graft_vfs.local.branch_log import BranchLog
from graft_vfs.local.catalog import descriptor
from graft_vfs.local.catalog.catalog import Announce, Catalog
from graft_vfs.local.catalog.descriptor import Descriptor
from graft_vfs.local.catalog.rows import BranchRow, KeptBranch, VolumeRow
from graft_vfs.local.chunk import Chunk, Position
from graft_vfs.local.tag_moves import move_tag
from graft_vfs.maintenance.collect import put_back
from graft_vfs.pages import NO_LSN, LocalLsn, RemoteLsn, lock_page
from graft_vfs.reports import Adopted, LostVolume
from graft_vfs.sqlite_format.header import COUNTER_MAX
from graft_vfs.sync.fetch import require_commits, require_view
from graft_vfs.sync.headers import know_descent, require_header
from graft_vfs.sync.proof import forget_history
from graft_vfs.sync.sources import place
from graft_vfs.view.logs import Logs
from graft_vfs.volume.context import Context

_logger = logging.getLogger(__name__)

_RESTORE_STEP = Hint(
    f"{descriptor.PUT_BACK}, or see ",
    Advice.LIST_LOST,
    " for adoptable volumes; move volumes that you do not want to another directory",
)
_LOCK_SECONDS = 10.0


def open_catalog(
    directory: Path, writable: bool, *, recovering: bool, maps: bool = True
) -> tuple[Catalog, list[LostVolume]]:
    """Open the catalog of a data directory; returns it and the volumes that it lacks.

    Raises CorruptCatalogError if it has none of the existing volumes: its content is lost.
    """
    path, volumes = directory / layout.CATALOG, directory / layout.VOLUMES
    if not recovering and not (path.exists() and path.stat().st_size):
        # Ordering: before a new catalog, whose WAL might be mistaken for a restored catalog's.
        _refuse_empty(path, descriptor.unknown_volumes(volumes, list))
    catalog = Catalog(path, writable=writable, maps=maps)
    try:
        if writable:
            put_back(catalog, volumes)
        unknown = descriptor.unknown_volumes(volumes, lambda: [row.id for row in catalog.volumes()])
        if not recovering and unknown and not catalog.volumes():
            _refuse_empty(path, unknown)
    except BaseException:
        catalog.close()
        raise
    lost = _newest_first(_lost(volumes, volume, is_known=False) for volume in unknown)
    for each in lost if not recovering else ():
        _logger.warning("the catalog lacks volume %s, which can be adopted", each.volume)
    return catalog, lost


def _refuse_empty(catalog: Path, volumes: Sequence[VolumeId]) -> None:
    if volumes:
        raise empty_error(catalog, volumes)


def empty_error(catalog: Path, volumes: Sequence[VolumeId]) -> CorruptCatalogError:
    """Return the error for a catalog that has none of the volumes beside it."""
    count = "a volume" if len(volumes) == 1 else f"{len(volumes)} volumes"
    return CorruptCatalogError(
        f"{catalog} is missing or empty, but {catalog.parent / layout.VOLUMES} has {count}, "
        f"such as {volumes[0]}",
        next_step=_RESTORE_STEP,
    )


def refuse_lost(
    catalog: Catalog, lost_volumes: Sequence[LostVolume], tag: str, *, is_new: bool
) -> None:
    """Raise CorruptCatalogError if a tag may have named a volume that the catalog lost.

    Any new tag may; an existing one may if such a volume's files record it.
    """
    for lost in lost_volumes:
        if tag in lost.tags or (is_new and not lost.is_known):
            was = f", which was {tag!r}" if tag in lost.tags else ""
            raise CorruptCatalogError(
                f"{catalog.path} has lost volume {lost.volume}{was}, so {tag!r} may not "
                "name its former volume",
                next_step=Hint(Advice.ADOPT(VOLUME=lost.volume), " adopts it; or ", _RESTORE_STEP),
            )


def lost_volumes(catalog: Catalog, volumes_directory: Path) -> list[LostVolume]:
    """Return volumes that the catalog lacks, or has only in an older state. No request.

    The most recently written come first. Cost: one small file per volume.
    """
    unknown = descriptor.unknown_volumes(
        volumes_directory, lambda: [row.id for row in catalog.volumes()]
    )
    found = [_lost(volumes_directory, volume, is_known=False) for volume in unknown]
    found += [
        _lost(volumes_directory, row.id, is_known=True)
        for row in catalog.volumes()
        if _newer(catalog, volumes_directory / str(row.id), row.id) is not None
    ]
    return _newest_first(found)


def _lost(volumes_directory: Path, volume: VolumeId, *, is_known: bool) -> LostVolume:
    """Return what the files of a lost volume record; unreadable facts are omitted."""
    directory = volumes_directory / str(volume)
    try:
        found = descriptor.read(directory)
    except GraftError:
        found = None
    if found is None:
        return LostVolume(volume, is_known, (), None, None)
    written_ms = None
    with contextlib.suppress(OSError):
        written_ms = (directory / found.branch.file).stat().st_mtime_ns // 1_000_000
    return LostVolume(volume, is_known, found.tags, found.branch.base, written_ms)


def _newest_first(lost: Iterable[LostVolume]) -> list[LostVolume]:
    return sorted(lost, key=lambda each: each.written_ms or 0, reverse=True)


def _newer(catalog: Catalog, directory: Path, volume: VolumeId) -> Descriptor | None:
    """Return the descriptor of a known volume if it is newer than the catalog's row.

    None if it cannot be read; opening the volume reports the error.
    """
    try:
        found = descriptor.read(directory)
    except (DamageError, LocalStorageError):
        return None
    # Ordering: the catalog after the file, because the file is never newer than its catalog.
    branch = catalog.current(volume)[1]
    is_newer = found is not None and found.branch.id != branch.id and found.is_newer(branch)
    return found if is_newer else None


def adopt(
    context: Context,
    volume: VolumeId,
    *,
    tag: str | None,
    base: tuple[LogId, RemoteLsn] | None,
) -> Adopted:
    """Adopt a volume as its files describe it; durable on return.

    Without `tag`, it gets the tags in its descriptor that are free. Requests: those of a fetch, if
    its base commit is not known. Raises AlreadyExistsError if the catalog already has its current
    state, NotFoundError, CorruptLogError, HistoryMismatchError if the remote has another commit at
    the base, UsageError if its files do not record the base.
    """
    catalog, logs, directory = context.catalog, context.logs, context.directory_of(volume)
    catalog.require_writable()
    if not directory.is_dir():
        raise NotFoundError(
            f"there is no directory {directory}",
            next_step=Hint("see ", Advice.LIST_LOST, " for the volumes that exist"),
        )
    _require_lost(catalog, directory, volume)
    with held(directory, timeout_seconds=_LOCK_SECONDS):
        # Again, because another process may have adopted it and written to it in the meantime.
        _require_lost(catalog, directory, volume)
        found = descriptor.read(directory)
        if found is not None and base is not None:
            raise UsageError(f"volume {volume} records its own base", next_step="omit the base")
        kept = () if found is None else found.kept
        if found is not None:
            # A fork whose remote is the configured one may stand on a log that was moved since.
            place(logs, found.remote, found.url)
            if found.url is not None:
                place(logs, found.branch.log_id, found.url)
            remote, branch, commits = _described(logs, directory, found)
        else:
            remote, branch, commits = _from_log(logs, directory, volume, base)
        tags = _tags(catalog, volume, tag, found)
        _insert(catalog, directory, remote, branch, kept, tags)
    lsn = branch.base if branch.log_id == remote else NO_LSN
    return Adopted(volume, tuple(tags), remote, lsn, commits)


def _require_lost(catalog: Catalog, directory: Path, volume: VolumeId) -> None:
    known = {row.id for row in catalog.volumes()}
    if volume in known and _newer(catalog, directory, volume) is None:
        raise AlreadyExistsError(
            f"the catalog already has the current state of volume {volume}",
            next_step=Hint("to name it, run ", Advice.SWITCH(VOLUME=str(volume))),
        )


def _tags(
    catalog: Catalog, volume: VolumeId, tag: str | None, found: Descriptor | None
) -> list[str]:
    """Return the tags for the volume."""
    if tag is not None:
        return [tag]
    remembered = () if found is None else found.tags
    return [each for each in remembered if catalog.tag_volume(each) in {None, volume}]


def _insert(  # noqa: PLR0917 - what a volume consists of
    catalog: Catalog,
    directory: Path,
    remote: LogId,
    branch: BranchRow,
    kept: Sequence[KeptBranch],
    tags: Sequence[str],
) -> None:
    epoch = head.new_epoch()
    row = VolumeRow(
        id=branch.volume,
        created_ms=branch.volume.time_ms,
        remote=remote,
        attached=branch.base > 0,
        branch=branch.id,
        epoch=epoch,
        # The time of the last sync was lost with the catalog.
        synced_local=None,
        synced_remote=None,
        synced_ms=None,
        last_error=None,
    )
    # Ordering: the head file first, as at each change of branch.
    words = head.HeadFile(directory / layout.HEAD).words
    words[head.EPOCH] = epoch
    words[head.CHECKED] = 0
    first = tags[0] if tags else None

    def insert(replacing: Announce) -> None:
        catalog.adopt_volume(row, branch, kept, tag=first, replacing=replacing)

    if first is None:
        insert(lambda *_: None)
    else:
        move_tag(catalog, directory.parent, first, insert, to=branch.volume)
    for each in tags[1:]:
        add = functools.partial(catalog.set_tag, each, branch.volume)
        move_tag(catalog, directory.parent, each, add, to=branch.volume)
    catalog.describe(branch.volume, lambda wanted: descriptor.write(directory, wanted))


# With a descriptor ------------------------------------------------------------------------------


def _described(logs: Logs, directory: Path, found: Descriptor) -> tuple[LogId, BranchRow, int]:
    """Return (remote, branch, local commits) from the descriptor, after verifying all of it."""
    branch = found.branch
    branch_log = BranchLog(directory / branch.file, volume=branch.volume)
    try:
        if not _is_boundary(branch_log, branch.start):
            raise CorruptLogError(
                f"{branch_log.path}: no commit ends at byte {branch.start.offset}, where the "
                f"branch of {layout.DESCRIPTOR} begins",
                next_step="restore the whole directory of the volume from a backup, or clone the "
                "volume from its remote",
            )
        # A folded run replaces several commits.
        lsns = [
            chunks[-1].lsn for chunks in branch_log.transactions(branch.start, branch.first_lsn)
        ]
        commits = max(lsns, default=branch.first_lsn - 1) - branch.first_lsn + 1
    finally:
        branch_log.close()
    if branch.base:
        _require_base(logs, found)
    return found.remote, branch, commits


def _require_base(logs: Logs, found: Descriptor) -> None:
    """Fetch a branch's base commit if unknown; raises HistoryMismatchError if it differs.

    Commits of another history, left by an attempt with a wrong remote, are dropped first.
    """
    branch = found.branch
    require_commits(logs, branch.log_id, branch.base)
    header = require_header(logs, branch.log_id, branch.base)
    if found.base_hash is not None and header.hash != found.base_hash:
        know_descent(logs, branch.log_id)
        forget_history(logs, branch.log_id)
        require_commits(logs, branch.log_id, branch.base)
        header = require_header(logs, branch.log_id, branch.base)
    if found.base_hash is not None and header.hash != found.base_hash:
        where = logs.log(branch.log_id).store.describe()
        raise HistoryMismatchError(
            f"volume {branch.volume} is based on commit {found.base_hash.hex()[:16]} as LSN "
            f"{branch.base} of log {branch.log_id}, but the remote ({where}) has "
            f"{header.hash.hex()[:16]} there",
            next_step="check the [remote] table of graft.toml; if the remote's history was "
            "replaced, the base of the volume's local commits no longer exists",
        )
    require_view(logs, branch.log_id, branch.base)


def _is_boundary(branch_log: BranchLog, place: Position) -> bool:
    """Return True if a chunk of this log ends at `place`, or the log begins there."""
    position = branch_log.start
    while position.offset < place.offset:
        chunk = branch_log.read_chunk(position)
        if chunk is None:
            return False
        position = chunk.after
    return position == place


# Without one ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Content:
    """The content of a branch log: all transactions from its first chunk."""

    file: str
    start: Position
    transactions: list[list[Chunk]]

    @property
    def last(self) -> Chunk:
        """The last chunk."""
        return self.transactions[-1][-1]


def _read_log(path: Path, volume: VolumeId) -> _Content | None:
    """Return the content of a log, None if it has no commits."""
    branch_log = BranchLog(path, volume=volume)
    try:
        first = branch_log.read_chunk(branch_log.start)
        if first is None:
            return None
        found = list(branch_log.transactions(branch_log.start, first.lsn))
        return _Content(path.name, branch_log.start, found) if found else None
    finally:
        branch_log.close()


def _from_log(
    logs: Logs, directory: Path, volume: VolumeId, base: tuple[LogId, RemoteLsn] | None
) -> tuple[LogId, BranchRow, int]:
    """Return (remote, branch, local commits) of a volume without a descriptor."""
    paths = layout.branch_files(directory)
    contents = [found for path in paths if (found := _read_log(path, volume)) is not None]
    if not contents:
        raise UsageError(
            f"volume {volume} has no commits, so there is nothing to adopt",
            next_step=f"delete {directory}",
        )
    # An interrupted rotation leaves two logs; the last written one is in use.
    content = max(contents, key=lambda found: found.last.lsn)
    header = None
    if base is not None:
        require_commits(logs, *base)
        header = require_header(logs, *base)
        require_view(logs, *base)
    first = _first_after(content, header)
    kept = content.transactions[first:]
    start = content.transactions[first - 1][-1].after if first else content.start
    counter = (
        content.transactions[first - 1][-1].change_counter
        if first
        else (content.transactions[0][-1].change_counter - 1) & COUNTER_MAX
    )
    _check_alone(volume, kept, counter, header)
    log_id, lsn = base or (LogId.new(), NO_LSN)
    branch = BranchRow(
        id=LogId.new(),
        volume=volume,
        log_id=log_id,
        base=lsn,
        counter=counter,
        first_lsn=LocalLsn(kept[0][0].lsn if kept else content.last.lsn + 1),
        file=content.file,
        start=start,
        created_ms=time.time_ns() // 1_000_000,
    )
    return log_id, branch, len(kept)


def _first_after(content: _Content, header: CommitHeader | None) -> int:
    """Return the first transaction that no remote commit contains."""
    if header is not None:
        for number, chunks in reversed(list(enumerate(content.transactions))):
            last = chunks[-1]
            if (last.change_counter, last.page_count) == (header.change_counter, header.page_count):
                return number + 1
    return 0


def _check_alone(
    volume: VolumeId,
    transactions: Sequence[Sequence[Chunk]],
    counter: int,
    header: CommitHeader | None,
) -> None:
    """Raise UsageError unless these transactions give a complete database over `header`, if any.

    Every commit and every pull takes the next change counter. So if no counter is skipped, nothing
    was pulled between the first transaction and the last.
    """
    present: set[int] = set()
    page_count = 0 if header is None else header.page_count
    page_size = 0 if header is None else header.page_size
    for chunks in transactions:
        last = chunks[-1]
        if last.change_counter != (counter + 1) & COUNTER_MAX:
            raise _unnamed_base(volume, f"something was pulled before its LSN {last.lsn}")
        counter, page_count, page_size = last.change_counter, last.page_count, last.page_size
        present.update(page for chunk in chunks for page in chunk.pages)
    missing = set(range(1, page_count + 1)) - present - {lock_page(page_size or 4096)}
    if header is not None:
        missing -= set(range(1, header.page_count + 1))
    if missing:
        text = f"{len(missing)} of its {page_count} pages are not in its own log"
        raise _unnamed_base(volume, text)


def _unnamed_base(volume: VolumeId, why: str) -> UsageError:
    return UsageError(
        f"volume {volume} is based on a remote commit that its files do not record: {why}",
        next_step=Hint(
            "find its log with ",
            Advice.LIST_LOGS,
            ", then run ",
            Advice.ADOPT_ON(VOLUME=volume),
            " with LOG:LSN as its commit, and check the integrity of the database afterwards",
        ),
    )
